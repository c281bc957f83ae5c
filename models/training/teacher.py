"""The teacher's class probabilities of training images, computed once and kept on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from .. import registry
from ..checkpoint import Card, read_card
from ..files import written_aside
from .coco import read_image, resize_image
from .distillation import Distillation
from .normalise import Normal
from .semantic_data import Sample
from .unlabelled import raise_at_points

__all__ = ["Teacher", "Views", "add_teacher", "file_hash", "teacher_loss"]

TILE_PX = 1024
"""Larger images are computed in tiles of this many pixels, which suits every network."""
PADDED = 32
"""Images are padded to a multiple of this, which suits every network."""

Floats = NDArray[np.float32]
Predict = Callable[[NDArray[np.uint8]], Floats]


class Views:
    """Average a prediction over the image's turns and mirror images.

    The average of a turned image is the turned average: 8 views are all that a square has, and
    the four turns are closed too.

    Parameters
    ----------
    predict
        image uint8 (h, w, 3) → float32 (k, h, w)
    count
        1, 4 (turns by right angles) or 8 (these and their mirror images)
    """

    def __init__(self, predict: Predict, count: int) -> None:
        self.predict, self.count = predict, count

    def __call__(self, image: NDArray[np.uint8]) -> Floats:
        """Return the average, float32 (k, h, w)."""
        total: Floats | None = None
        for view in range(self.count):
            turned = np.rot90(image[:, ::-1] if view >= 4 else image, view % 4)
            back = np.rot90(self.predict(np.ascontiguousarray(turned)), -(view % 4), (1, 2))
            back = back[:, :, ::-1] if view >= 4 else back
            total = back.copy() if total is None else total + back
        assert total is not None
        return np.asarray(total / self.count, np.float32)


class Teacher:
    """The mean of several checkpoints, views and scales.

    Parameters
    ----------
    settings
        checkpoints, views and scales
    classes
        object classes of the student, which the teacher must have in the same order

    Raises
    ------
    FileNotFoundError, ValueError
        a checkpoint that cannot be used: as `registry.load`, one that finds whole cells, or one
        with other classes
    """

    def __init__(self, settings: Distillation, classes: Sequence[str], device: str) -> None:
        self.settings, self.device = settings, device
        self.paths = [Path(path) for path in settings.teacher]
        self.cards = [read_card(path) for path in self.paths]
        for path, card in zip(self.paths, self.cards, strict=True):
            if card.task != "nuclei":
                raise ValueError(
                    f"{path}: {card.name} gives no class per pixel, so it cannot be a teacher; use "
                    "a checkpoint of dssnet or unet"
                )
            if card.classes != tuple(classes):
                raise ValueError(
                    f"{path} has the classes {', '.join(card.classes)}, and the training has "
                    f"{', '.join(classes)}; a teacher must have the same in the same order"
                )

    def record(self) -> dict[str, Any]:
        """Return what the maps depend on, besides the images; JSON types."""
        return {
            "teacher": [f"{card.name} {card.sha256}" for card in self.cards],
            "views": self.settings.views,
            "scales": list(self.settings.scales),
        }

    def predictors(self) -> Iterator[tuple[float, Predict]]:
        """Load one network after the other; yield its µm per pixel and what it predicts."""
        for path, card in zip(self.paths, self.cards, strict=True):
            network = registry.load(path)[0].to(self.device).to(memory_format=torch.channels_last)
            yield card.mpp, Views(_probabilities(network, card, self.device), self.settings.views)

    def of(
        self, samples: Sequence[Sample], shown: Callable[[], object]
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield the map of each sample: uint8 (k, h, w), 255 = certain, at the sample's size."""
        predictors = list(self.predictors())
        for sample in samples:
            path, mpp = sample.source
            pixels = read_image(path)
            size = sample.labels.shape[::-1]
            maps = [
                _resized(predict(resize_image(pixels, mpp / own * scale)), size)
                for own, predict in predictors
                for scale in self.settings.scales
            ]
            yield (255 * np.mean(maps, axis=0)).round().clip(0, 255).astype(np.uint8)
            shown()


def _probabilities(network: nn.Module, card: Card, device: str) -> Predict:
    """Return a function that computes class probabilities of an image, large ones in tiles."""
    normal = Normal(card.mean, card.std, device)
    halo = -(-card.halo_px // PADDED) * PADDED

    @torch.no_grad()
    def whole(image: NDArray[np.uint8]) -> Floats:
        logits: Tensor = network(normal(torch.from_numpy(image)[None]))
        return np.asarray(logits.float().softmax(1)[0, 1:].cpu(), np.float32)

    def predict(image: NDArray[np.uint8]) -> Floats:
        h, w = image.shape[:2]
        image = np.pad(image, ((0, -h % PADDED), (0, -w % PADDED), (0, 0)), mode="symmetric")
        if max(image.shape) <= TILE_PX + 2 * halo:
            return whole(image)[:, :h, :w]
        rows = []
        for y in range(0, h, TILE_PX):
            top = max(0, y - halo)
            row = []
            for x in range(0, w, TILE_PX):
                left = max(0, x - halo)
                tile = whole(image[top : y + TILE_PX + halo, left : x + TILE_PX + halo])
                row.append(tile[:, y - top :, x - left :][:, :TILE_PX, :TILE_PX])
            rows.append(np.concatenate(row, 2))
        return np.concatenate(rows, 1)[:, :h, :w]

    return predict


def _resized(maps: Floats, size: tuple[int, int]) -> Floats:
    """Resize maps (k, h, w) to `size` (w, h)."""
    way = cv2.INTER_AREA if size[0] < maps.shape[2] else cv2.INTER_LINEAR
    return np.stack([cv2.resize(m, size, interpolation=way) for m in maps])


def add_teacher(
    samples: Sequence[Sample], teacher: Teacher, folder: Path, *, quiet: bool
) -> list[Sample]:
    """Give the samples the teacher's maps, computed once per image and kept in `folder`.

    Images with annotations get them only where their weight is above 0. A map is a grey PNG, the
    classes one below the other.

    Raises
    ------
    ValueError
        `folder` holds maps of another teacher, other views or scales, or a broken one
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_record(folder / "teacher.json", teacher.record())
    wanted = [s for s in samples if s.unlabelled or teacher.settings.weight > 0]
    files = {id(s): folder / f"{_key(s)}.png" for s in wanted}
    new = [s for s in wanted if not files[id(s)].is_file()]
    bar = tqdm(total=len(new), unit="image", desc="teacher", disable=quiet or not new)
    for sample, made in zip(new, teacher.of(new, bar.update), strict=True):
        with written_aside(files[id(sample)]) as aside:
            aside.write_bytes(cv2.imencode(".png", np.concatenate(made))[1].tobytes())
    bar.close()
    return [_with_map(s, files[id(s)], teacher.settings) if id(s) in files else s for s in samples]


def _check_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write what the maps of a folder depend on, or compare it."""
    if not path.is_file():
        with written_aside(path) as aside:
            aside.write_text(json.dumps(record, indent=1), encoding="utf-8")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [k for k in record if before.get(k) != record[k]]
    except (ValueError, RecursionError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove its folder") from error
    if changed:
        raise ValueError(
            f"{path.parent} holds maps with another {', '.join(changed)}; give another --out, or "
            "remove that folder if the training has not begun"
        )


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _key(sample: Sample) -> str:
    """Return a name for the map of an image: it depends on pixels and pixel sizes."""
    path, mpp = sample.source
    text = f"{file_hash(path)} {mpp:.9g} {sample.mpp:.9g} {sample.labels.shape}"
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _with_map(sample: Sample, file: Path, settings: Distillation) -> Sample:
    """Return a sample with the teacher's map, raised at its points, and its weight."""
    made = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    if made is None:
        raise ValueError(f"{file} cannot be read; remove it, and it is computed again")
    made = made.astype(np.uint8).reshape(-1, *sample.labels.shape)
    learned = np.ones(made.shape[1:], bool)
    if len(sample.points):
        made, learned = raise_at_points(made, sample.points, sample.mpp)
    weight = 1.0 if sample.unlabelled else settings.weight
    planes = np.concatenate([255 * learned.astype(np.uint8)[None], made])
    return dataclasses.replace(sample, teacher=planes, teacher_weight=weight)


def teacher_loss(logits: Tensor, soft: Tensor) -> Tensor:
    """Return how far the network is from the teacher; 0 where they agree everywhere.

    The mean over all pixels that have a teacher's value, each times its weight w, of
    ``Σ_c q_c (log q_c − log p_c)``, with q the teacher's and p the network's probability of class
    c, background included. This is the cross-entropy less the entropy of q, which no weight of the
    network changes; its gradient in the logits is w (p − q) / pixels.

    Parameters
    ----------
    logits
        float (n, 1 + k, h, w), background first
    soft
        float (n, 1 + k, h, w): the weight w, then the teacher's probability of each object class
    """
    weight, objects = soft[:, 0], soft[:, 1:]
    q = torch.cat([(1 - objects.sum(1, keepdim=True)).clamp(min=0), objects], 1)
    apart = (torch.xlogy(q, q) - q * logits.float().log_softmax(1)).sum(1)
    return (weight * apart).sum() / (weight > 0).sum().clamp(min=1)
