"""Paste annotated cells over others, as light passes through both.

Stained cells absorb light (Beer–Lambert law). The transmittance of a cell is its image divided by
the background around it; where cells overlap, transmittances multiply. Overlap and density are
drawn from ranges, so that a network learns from more and harder clusters than were annotated.
DoNet is trained on such clusters (Jiang et al. 2023, "DoNet w/ Aug."); the paper does not state
how they are made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import SupportsIndex, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from ..settings import setting
from .instance_data import CELL, NUCLEUS_LABEL, InstanceSample, warp

__all__ = ["Clusters", "CutCell", "add_cell", "cut", "free_cells", "overlap", "shine_through"]

RING_PX = 8
"""Depth of the ring around a cell from which its local background is read."""
MIN_RING_PX = 30
MIN_TRANSMITTANCE = 0.02

Bools = NDArray[np.bool_]
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class Clusters:
    """How cells of other places are added to a crop."""

    chance: float = setting(
        0.0, "Paste cells over others in this share of the crops.", flags=("--cluster-chance",)
    )
    most: int = setting(3, "Paste at most this many cells, one by one.", flags=("--cluster-most",))
    overlap: tuple[float, float] = setting(
        (0.1, 0.6),
        "Draw the overlap of a pasted cell, a share of the smaller cell, from this range.",
        flags=("--cluster-overlap",),
        metavar="LOW HIGH",
    )
    alpha: tuple[float, float] = setting(
        (0.6, 1.2),
        "Draw the density of a pasted cell from this range; 1: as it was.",
        flags=("--cluster-alpha",),
        metavar="LOW HIGH",
    )
    scale: float = setting(
        1.2, "Zoom a pasted cell in or out by up to this factor.", flags=("--cluster-scale",)
    )
    feather_px: float = setting(
        2.5, "Fade the edge of a pasted cell over this depth.", flags=("--cluster-feather-px",)
    )

    def __post_init__(self) -> None:
        low, high = self.overlap
        if not 0 < low < high <= 1:
            raise ValueError(
                f"cluster overlap {low:g} to {high:g} is no range within 0 and 1; try 0.1 to 0.6"
            )
        low, high = self.alpha
        if not 0 < low <= high:
            raise ValueError(
                f"cluster alpha {low:g} to {high:g} is no range above 0; try 0.6 to 1.2"
            )
        if not 0 <= self.chance <= 1:
            raise ValueError(f"cluster chance {self.chance:g} must be within 0 and 1")
        for name, least in (("most", 1), ("scale", 1), ("feather_px", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"cluster {name} {getattr(self, name):g} must be {least} or more")


@dataclass(frozen=True, eq=False)
class CutCell:
    """A cell cut out, with its nuclei, in a frame (h, w) of its own.

    Attributes
    ----------
    transmittance
        float32 (h, w, 3): the share of light that it lets through
    cell
        bool (h, w)
    nuclei
        bool (h, w) each
    """

    transmittance: NDArray[np.float32]
    cell: Bools
    nuclei: tuple[Bools, ...]


def free_cells(sample: InstanceSample, *, most: float = 0.15) -> NDArray[np.intp]:
    """Return cells that can be cut out: inside the image, a share of at most `most` overlapped."""
    h, w = sample.image.shape[:2]
    counts = sample.count(CELL)
    x0, y0, x1, y1 = sample.windows.T
    inside = (sample.labels == CELL) & (x0 > 0) & (y0 > 0) & (x1 < w) & (y1 < h)
    share = [
        (sample.view(counts, i)[sample.masks[i]] > 1).mean() <= most for i in np.flatnonzero(inside)
    ]
    return np.flatnonzero(inside)[np.array(share, bool)]


def cut(
    sample: InstanceSample, i: int, rng: np.random.Generator, settings: Clusters
) -> CutCell | None:
    """Cut cell `i` out, turned, mirrored and zoomed at random; None without background around."""
    x0, y0, x1, y1 = (int(v) for v in sample.windows[i])
    zoom = settings.scale ** rng.uniform(-1, 1)
    angle, flip = rng.uniform(0, 2 * np.pi), 1 if rng.random() < 0.5 else -1
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
    turn[:, 0] *= flip
    size = int(np.hypot(x1 - x0, y1 - y0) * zoom) + 2 * RING_PX + 4
    centre = np.array([x0 + x1 - 1, y0 + y1 - 1]) / 2
    matrix = np.hstack([turn, (centre - turn @ np.full(2, (size - 1) / 2))[:, None]])
    background = _background(sample, i)
    members = [i, *_nuclei(sample, i)]
    part = replace(
        sample,
        windows=sample.windows[members],
        masks=tuple(sample.masks[n] for n in members),
        labels=sample.labels[members],
        cell_id=np.arange(len(members)),
    )
    frame = warp(part, matrix, size, visible=0, min_px=1)
    if background is None or not (frame.cell_id == 0).any():
        return None
    through = np.clip(frame.image / background, MIN_TRANSMITTANCE, 1).astype(np.float32)
    cell, *nuclei = (_whole(frame, n) for n in range(len(frame)))
    return CutCell(through, cell, tuple(nuclei))


def _background(sample: InstanceSample, i: int) -> NDArray[np.float32] | None:
    """Return the median colour of the background around a cell; None where there is too little."""
    x0, y0, x1, y1 = sample.windows[i]
    near = np.s_[max(y0 - RING_PX, 0) : y1 + RING_PX, max(x0 - RING_PX, 0) : x1 + RING_PX]
    kernel = np.ones((2 * RING_PX + 1,) * 2, np.uint8)
    ring = cv2.dilate(_whole(sample, i)[near].astype(np.uint8), kernel) > 0
    ring &= (sample.count(CELL) + sample.count(NUCLEUS_LABEL))[near] == 0
    if ring.sum() < MIN_RING_PX:
        return None
    return np.maximum(np.median(sample.image[near][ring], axis=0), 1).astype(np.float32)


def _whole(sample: InstanceSample, i: SupportsIndex) -> Bools:
    """Return the mask of one instance, bool (h, w)."""
    canvas = np.zeros(sample.image.shape[:2], bool)
    sample.view(canvas, i)[:] = sample.masks[i]
    return canvas


def _nuclei(sample: InstanceSample, cell: int) -> list[int]:
    """Return the nuclei of a cell: those of its number or, where it has none, those inside it."""
    nuclei = np.flatnonzero(sample.labels == NUCLEUS_LABEL)
    if sample.cell_id[cell] >= 0:
        return [int(n) for n in nuclei if sample.cell_id[n] == sample.cell_id[cell]]
    whole = _whole(sample, cell)
    return [int(n) for n in nuclei if sample.view(whole, n)[sample.masks[n]].mean() > 0.9]


def overlap(sample: InstanceSample, cell: Bools) -> float:
    """Return the largest intersection ÷ smaller area of `cell` (h, w) and another cell."""
    area, highest = cell.sum(), 0.0
    for i in np.flatnonzero(sample.labels == CELL):
        shared = (sample.view(cell, i) & sample.masks[i]).sum()
        highest = max(highest, float(shared / max(min(area, sample.masks[i].sum()), 1)))
    return highest


def shine_through(
    image: NDArray[np.uint8],
    transmittance: NDArray[np.float32],
    cell: Bools,
    *,
    alpha: float,
    feather_px: float,
) -> NDArray[np.uint8]:
    """Multiply the image by transmittance^(alpha · weight), Beer–Lambert with density `alpha`.

    The weight falls from 1 to 0 across the edge of `cell`, over `feather_px` pixels.
    """
    inside, outside = (cv2.distanceTransform(m.astype(np.uint8), cv2.DIST_L2, 5)
                       for m in (cell, ~cell))  # fmt: skip
    # The edge lies half a pixel beyond the centre of the last pixel.
    depth = np.where(cell, inside - 0.5, 0.5 - outside)
    weight = np.clip(0.5 + depth / max(feather_px, 1e-3), 0, 1)
    out = image * transmittance ** (alpha * weight[..., None])
    return np.asarray(np.rint(out), np.uint8)


def add_cell(
    scene: InstanceSample, cut_out: CutCell, rng: np.random.Generator, settings: Clusters, *,
    tries: int = 4,
) -> InstanceSample:  # fmt: skip
    """Paste one more cell over a cell of the scene.

    The new cell starts on a drawn cell of the scene and is moved away in a drawn direction until
    their overlap is a drawn share (by bisection). The scene is returned unchanged if none of
    `tries` directions leads to an overlap within the range.
    """
    hosts = np.flatnonzero(scene.labels == CELL)
    low, high = settings.overlap
    rows, columns = np.nonzero(cut_out.cell)
    middle = np.array([columns.mean(), rows.mean()])
    for _ in range(tries if len(hosts) else 0):
        host = int(rng.choice(hosts))
        lone = replace(scene, labels=np.where(np.arange(len(scene)) == host, CELL, 0))
        x0, y0, x1, y1 = scene.windows[host]
        start = np.array([x0 + x1, y0 + y1]) / 2 - middle
        angle, wanted = rng.uniform(0, 2 * np.pi), rng.uniform(low, high)
        way = np.array([np.cos(angle), np.sin(angle)])
        near, far = 0.0, float(np.hypot(x1 - x0, y1 - y0) + np.hypot(*cut_out.cell.shape))
        while far - near > 1:
            half = (near + far) / 2
            cell = _laid(cut_out.cell, start + half * way, scene.image.shape)
            near, far = (half, far) if overlap(lone, cell) > wanted else (near, half)
        corner = start + near * way
        cell = _laid(cut_out.cell, corner, scene.image.shape)
        if low <= overlap(scene, cell) <= high and 2 * cell.sum() >= cut_out.cell.sum():
            alpha = float(rng.uniform(*settings.alpha))
            return _joined(scene, cut_out, corner, alpha, settings.feather_px)
    return scene


def _laid(
    values: NDArray[Scalar], corner: NDArray[np.float64], shape: tuple[int, ...], fill: int = 0
) -> NDArray[Scalar]:
    """Place an array (h, w, …) with its corner (x, y), rounded, on a canvas of `shape`."""
    h, w = shape[:2]
    x, y = (int(v) for v in np.rint(corner))
    canvas = np.full((h, w, *values.shape[2:]), fill, values.dtype)
    top, left = max(y, 0), max(x, 0)
    bottom, right = min(y + values.shape[0], h), min(x + values.shape[1], w)
    if top < bottom and left < right:
        canvas[top:bottom, left:right] = values[top - y : bottom - y, left - x : right - x]
    return canvas


def _joined(
    scene: InstanceSample,
    cut_out: CutCell,
    corner: NDArray[np.float64],
    alpha: float,
    feather: float,
) -> InstanceSample:
    """Multiply `scene` by the light through `cut_out`, and add its cell and nuclei."""
    shape = scene.image.shape
    whole = [_laid(m, corner, shape) for m in (cut_out.cell, *cut_out.nuclei)]
    through = _laid(cut_out.transmittance, corner, shape, fill=1)
    image = shine_through(scene.image, through, whole[0], alpha=alpha, feather_px=feather)
    windows, masks, labels = [], [], []
    for position, mask in enumerate(whole):
        if mask.sum() >= 8:
            rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
            y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
            windows.append((x0, y0, x1, y1))
            masks.append(mask[y0:y1, x0:x1])
            labels.append(NUCLEUS_LABEL if position else CELL)
    number = max(scene.cell_id.max(initial=0), 0) + 1
    return replace(
        scene,
        image=image,
        windows=np.concatenate([scene.windows, np.array(windows, np.int32)]),
        masks=(*scene.masks, *masks),
        labels=np.concatenate([scene.labels, np.array(labels, np.uint8)]),
        cell_id=np.concatenate([scene.cell_id, np.full(len(masks), number)]),
    )
