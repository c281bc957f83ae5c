"""Split touching nuclei at their necks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.segmentation.components import Components, _root

__all__ = [
    "NECK",
    "Pieces",
    "split_touching",
]


@dataclass(frozen=True, eq=False)
class Pieces:
    """Objects of a window: a label image and, per object 1…n, what pixels say about it.

    Attributes
    ----------
    labels
        int32 (h, w), 0 where no object of this list is
    first
        int32 (n, 2): x, y of each object's first pixel in reading order
    area_px
        int32 (n,)
    """

    labels: NDArray[np.int32]
    first: NDArray[np.int32]
    area_px: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.area_px)


NECK = 0.8
"""A neck narrower than this share of the thinner part's own width parts two nuclei."""


def split_touching(
    components: Components,
    wanted: NDArray[np.bool_],
    *,
    min_px: float,
    split: bool,
    neck: float = NECK,
) -> Pieces:
    """The objects of the `wanted` components (n + 1,), touching ones parted, debris left out.

    Parameters
    ----------
    min_px
        smallest area of an object, in pixels
    split
        part components at their necks
    neck
        how narrow a neck is, as a share of the thinner part's width
    """
    labels, first, area = _pieces(
        components.labels,
        components.boxes,
        components.area_px,
        wanted,
        float(min_px),
        neck if split else 0.0,
    )
    return Pieces(labels, first, area)


@numba.njit(nogil=True, cache=True)
def _pieces(
    labels: NDArray[np.int32],
    boxes: NDArray[np.int32],
    areas: NDArray[np.int32],
    wanted: NDArray[np.bool_],
    min_px: float,
    neck: float,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    out = np.zeros(labels.shape, np.int32)
    capacity = 0  # a component has no more objects than its area has room for
    for k in range(1, len(boxes)):
        if wanted[k] and areas[k] >= min_px:
            capacity += int(areas[k] / max(min_px, 1.0))
    first = np.zeros((capacity, 2), np.int32)
    area = np.zeros(capacity, np.int32)
    count = 0
    for k in range(1, len(boxes)):
        if not wanted[k] or areas[k] < min_px:
            continue
        x0, y0, x1, y1 = boxes[k]
        mask = labels[y0:y1, x0:x1] == k
        if neck > 0 and areas[k] >= 2 * min_px:
            parts, found = _part(mask, min_px, neck)
        else:
            parts, found = mask.astype(np.int32), 1
        count = _number(parts, found, min_px, x0, y0, out, first, area, count)
    return out, first[:count], area[:count]


@numba.njit(nogil=True, cache=True)
def _number(
    parts: NDArray[np.int32],
    found: int,
    min_px: float,
    x0: int,
    y0: int,
    out: NDArray[np.int32],
    first: NDArray[np.int32],
    area: NDArray[np.int32],
    count: int,
) -> int:
    """Enter the parts 1…found of the component at (x0, y0); how many there are then."""
    size = np.zeros(found + 1, np.int32)
    corner = np.zeros((found + 1, 2), np.int32)
    h, w = parts.shape
    for r in range(h):
        for c in range(w):
            p = parts[r, c]
            if p > 0:
                if size[p] == 0:
                    corner[p, 0], corner[p, 1] = x0 + c, y0 + r
                size[p] += 1
    number = np.zeros(found + 1, np.int32)
    for p in range(1, found + 1):
        if size[p] >= min_px:
            first[count, 0], first[count, 1] = corner[p, 0], corner[p, 1]
            area[count] = size[p]
            count += 1
            number[p] = count
    for r in range(h):
        for c in range(w):
            if number[parts[r, c]] > 0:
                out[y0 + r, x0 + c] = number[parts[r, c]]
    return count


@numba.njit(nogil=True, cache=True)
def _distance(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Exact squared distance of each pixel to the nearest one outside `mask` (h, w)."""
    h, w = mask.shape
    column = np.zeros((h, w), np.int32)  # distance within the column, beyond the frame is outside
    for r in range(h):
        for c in range(w):
            if mask[r, c]:
                column[r, c] = column[r - 1, c] + 1 if r > 0 else 1
    for r in range(h - 1, -1, -1):
        for c in range(w):
            below = column[r + 1, c] + 1 if r + 1 < h else 1
            column[r, c] = min(column[r, c], below)
    out = np.zeros((h, w), np.int32)
    for r in range(h):
        for c in range(w):
            best = column[r, c] ** 2
            gap = 1
            while gap * gap < best:
                left = column[r, c - gap] if c >= gap else 0
                right = column[r, c + gap] if c + gap < w else 0
                best = min(best, gap * gap + min(left, right) ** 2)
                gap += 1
            out[r, c] = best
    return out


@numba.njit(nogil=True, cache=True)
def _descending(values: NDArray[np.int32]) -> NDArray[np.int64]:
    """Positions of the values over 0, largest first and equal ones in their order."""
    starts = np.zeros(values.max() + 2, np.int64)
    for value in values:
        starts[value] += 1
    total = 0
    for value in range(len(starts) - 1, 0, -1):
        starts[value], total = total, total + starts[value]
    order = np.empty(total, np.int64)
    for i in range(len(values)):
        if values[i] > 0:
            order[starts[values[i]]] = i
            starts[values[i]] += 1
    return order


@numba.njit(nogil=True, cache=True)
def _part(mask: NDArray[np.bool_], min_px: float, neck: float) -> tuple[NDArray[np.int32], int]:
    """Part a component at its necks: a watershed of the distance to the outside.

    Pixels are flooded from the widest place down. Where two basins meet, they stay apart if the
    neck is narrow against both and each is large enough to be an object; otherwise they join.
    """
    h, w = mask.shape
    squared = _distance(mask).ravel()
    order = _descending(squared)
    across = w + 2  # a frame around the basins saves asking for the border
    basin = np.zeros((h + 2) * across, np.int32)  # 0: not flooded yet
    parent = np.zeros(len(order) + 1, np.int32)
    peak = np.zeros(len(order) + 1, np.float32)
    size = np.zeros(len(order) + 1, np.int32)
    made = 0
    for i in order:
        at = i + 2 * (i // w) + across + 1
        width = np.float32(math.sqrt(squared[i]))
        mine = 0
        for step in (-across, -1, 1, across):
            other = basin[at + step]
            if other == 0 or other == mine:
                continue
            other = _root(parent, other)
            if mine == 0:
                mine = other
            elif other != mine:
                thin = min(peak[mine], peak[other])
                if width < neck * thin and min(size[mine], size[other]) >= min_px:
                    continue
                if peak[other] > peak[mine]:
                    mine, other = other, mine
                parent[other] = mine
                size[mine] += size[other]
        if mine == 0:
            made += 1
            parent[made], peak[made] = made, width
            mine = made
        basin[at] = mine
        size[mine] += 1
    number = np.zeros(made + 1, np.int32)
    out = np.zeros((h, w), np.int32)
    found = 0
    for r in range(h):  # numbered in reading order
        for c in range(w):
            k = basin[(r + 1) * across + c + 1]
            if k == 0:
                continue
            root = _root(parent, k)
            if number[root] == 0:
                found += 1
                number[root] = found
            out[r, c] = number[root]
    return out, found
