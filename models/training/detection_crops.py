"""Batches for the detectors: augmented crops, or whole images resized by the rule of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from .augment import Augmentation
from .detection_data import BoxSample

__all__ = ["BoxBatch", "BoxCrops", "WholeImages", "place_boxes", "resize_factor", "warp_boxes"]

BoxBatch = tuple[NDArray[np.uint8], list[dict[str, NDArray[np.generic]]]]
"""Images (n, h, w, 3); for each boxes (k, 4), labels (k,), ignore (m, 4), partial ()."""

STRIDE = 32

VISIBLE = 0.4
"""An object is learned where at least this share of its box is in the crop, else it is ignored."""


@dataclass(frozen=True)
class WholeImages:
    """Rule by which whole images are resized (Xu et al. 2022).

    Attributes
    ----------
    short_px
        lengths of the shorter side, of which each step draws one
    long_px
        largest length of the longer side
    """

    short_px: tuple[int, ...]
    long_px: int


def resize_factor(height: int, width: int, short_px: int, long_px: int) -> float:
    """Return the factor by which an image is resized.

    The shorter side becomes `short_px`, unless the longer one would be over `long_px`.

    Examples
    --------
    >>> resize_factor(1000, 2000, 800, 1333), resize_factor(400, 500, 800, 1333)
    (0.6665, 2.0)
    """
    return min(long_px / max(height, width), short_px / min(height, width))


def place_boxes(boxes: NDArray[np.float32], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return boxes (k, 4) of an image in the pixels of a crop.

    Parameters
    ----------
    matrix
        (2, 3), from pixel centres of the crop to those of the image; it turns by quarters only, so
        that a box stays as tight as it is
    """
    corners = boxes.reshape(-1, 2, 2).astype(float) - 0.5 - matrix[:, 2]
    mapped = corners @ np.linalg.inv(matrix[:, :2]).T + 0.5
    return np.hstack([mapped.min(1), mapped.max(1)])


def warp_boxes(
    sample: BoxSample, matrix: NDArray[np.float64], height: int, width: int
) -> BoxSample:
    """Return a crop (height, width) of a sample; outside its image is background, as bright glass.

    Objects of which less than `VISIBLE` is in the crop become regions to ignore.
    """
    fill = np.quantile(sample.image[::4, ::4].reshape(-1, 3), 0.9, axis=0)
    image = cv2.warpAffine(
        sample.image, matrix, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT, borderValue=fill.tolist(),
    ).astype(np.uint8)  # fmt: skip
    limit = np.array([width, height] * 2)
    boxes, ignore = (place_boxes(b, matrix) for b in (sample.boxes, sample.ignore))
    cut, ignored = np.clip(boxes, 0, limit), np.clip(ignore, 0, limit)
    share = _area(cut) / np.maximum(_area(boxes), 1e-6)
    shown = (share >= VISIBLE) & _has_side(cut)
    ignored = np.vstack([ignored, cut[~shown]])
    return BoxSample(
        image, cut[shown].astype(np.float32), sample.labels[shown],
        ignored[_has_side(ignored)].astype(np.float32), sample.partial,
    )  # fmt: skip


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).prod(1), float)


def _has_side(boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which boxes are at least 1 px wide and high."""
    return np.asarray(((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1), bool)


class BoxCrops(Dataset[BoxBatch]):
    """Batches of crops, turned by quarters, mirrored and zoomed, or of whole images; one per step.

    Step s draws from its own generator, so a resumed run gets the crops of an uninterrupted one.

    Parameters
    ----------
    scales
        factors, of which each step draws one; its crops and their content are enlarged by it
    whole
        show whole images, mirrored, instead of crops
    """

    def __init__(
        self,
        samples: Sequence[BoxSample],
        chances: NDArray[np.float64],
        *,
        size: int,
        batch: int,
        seed: int,
        augmentation: Augmentation,
        scales: Sequence[float] = (1.0,),
        whole: WholeImages | None = None,
    ) -> None:
        self.samples, self.chances = samples, chances
        self.size, self.batch, self.seed = size, batch, seed
        self.augmentation, self.scales, self.whole = augmentation, scales, whole

    def __getitem__(self, step: int) -> BoxBatch:
        rng = np.random.default_rng((self.seed, step))
        drawn = [self.samples[k] for k in rng.choice(len(self.samples), self.batch, p=self.chances)]
        if self.whole is None:
            scale = float(rng.choice(self.scales))
            size = max(STRIDE, round(self.size * scale / STRIDE) * STRIDE)
            scenes = [warp_boxes(s, self._place(s, size, scale, rng), size, size) for s in drawn]
        else:
            scenes = _whole_scenes(drawn, self.whole, rng)
        images = np.stack([self._coloured(scene.image, rng) for scene in scenes])
        return images, [_target(scene) for scene in scenes]

    def _coloured(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Change stain, light and focus; nothing where the settings ask for no change of these."""
        a = self.augmentation
        return a.colour(image, rng) if a.stain or a.grey or a.blur else image

    def _place(
        self, sample: BoxSample, size: int, scale: float, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Draw where a crop lies: the matrix (2, 3) from pixel centres of crop to image.

        Half of the crops lie near an object; all where only some objects are marked.
        """
        h, w = sample.image.shape[:2]
        zoom = scale * self.augmentation.scale ** rng.uniform(-1, 1)
        turn = _quarter(rng) / zoom
        centre = np.array([rng.uniform(0, w), rng.uniform(0, h)])
        if len(sample) and (sample.partial or rng.random() < 0.5):
            box = sample.boxes[rng.integers(len(sample))]
            centre = (box[:2] + box[2:]) / 2 + rng.uniform(-0.35, 0.35, 2) * size / zoom
        reach, limit = size / zoom / 2, np.array([w, h])
        # Keep the crop on the image along each side that is long enough for it.
        inside = np.clip(centre, reach, np.maximum(limit - reach, reach))
        centre = np.where(limit >= 2 * reach, inside, centre)
        middle = np.full(2, (size - 1) / 2)
        return np.hstack([turn, (centre - 0.5 - turn @ middle)[:, None]])


def _quarter(rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a turn by quarters, mirrored or not: (2, 2)."""
    turn = np.linalg.matrix_power(np.array([[0.0, -1.0], [1.0, 0.0]]), int(rng.integers(4)))
    return turn @ np.diag([1.0 if rng.random() < 0.5 else -1.0, 1.0])


def _whole_scenes(
    drawn: Sequence[BoxSample], whole: WholeImages, rng: np.random.Generator
) -> list[BoxSample]:
    """Resize whole images, mirror half of them, and pad them to one size right and below."""
    short = int(rng.choice(whole.short_px))
    shapes = [s.image.shape[:2] for s in drawn]
    factors = [resize_factor(h, w, short, whole.long_px) for h, w in shapes]
    sides = [
        (int(h * f + 0.5), int(w * f + 0.5)) for (h, w), f in zip(shapes, factors, strict=True)
    ]
    height, width = (-(-max(column) // STRIDE) * STRIDE for column in zip(*sides, strict=True))
    scenes = []
    for sample, (h, w) in zip(drawn, sides, strict=True):
        fy, fx = sample.image.shape[0] / h, sample.image.shape[1] / w
        matrix = np.array([[fx, 0, fx / 2 - 0.5], [0, fy, fy / 2 - 0.5]])
        if rng.random() < 0.5:
            matrix[0] = [-fx, 0, sample.image.shape[1] - fx / 2 - 0.5]
        scenes.append(warp_boxes(sample, matrix, height, width))
    return scenes


def _target(sample: BoxSample) -> dict[str, NDArray[np.generic]]:
    return {
        "boxes": sample.boxes,
        "labels": sample.labels.astype(np.int64),
        "ignore": sample.ignore,
        "partial": np.array(sample.partial),
    }
