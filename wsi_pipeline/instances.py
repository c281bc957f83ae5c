"""From class probabilities to objects: clumps, and clumps parted into nuclei.

All of it is decided per clump, from the clump's own pixels, so that it does not matter through
which window the clump was seen. A clump is a 4-connected set of pixels over the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "NECK",
    "SMALL_UM2",
    "Clumps",
    "Pieces",
    "find_clumps",
    "from_label_image",
    "is_certain",
    "pieces_of",
]

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Clumps:
    """Connected objects of a window (h, w), numbered from 1; row 0 of each table is unused.

    Attributes
    ----------
    labels
        int32 (h, w)
    boxes
        int32 (n + 1, 4): x0, y0, x1, y1, half open
    area_px
        int32 (n + 1,)
    first_x
        int32 (n + 1,): column of the first pixel in reading order, which lies in row y0
    """

    labels: NDArray[np.int32]
    boxes: NDArray[np.int32]
    area_px: NDArray[np.int32]
    first_x: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.area_px) - 1

    def touches_edge(self) -> NDArray[np.bool_]:
        """Which clumps (n + 1,) reach the window's edge and so may be incomplete."""
        h, w = self.labels.shape
        x0, y0, x1, y1 = self.boxes.T
        return (x0 == 0) | (y0 == 0) | (x1 == w) | (y1 == h)


def find_clumps(probability: Bytes, threshold: float) -> Clumps:
    """Clumps of pixels of `probability` uint8 (h, w) at or over `threshold` (0 to 1)."""
    mask = (probability >= _byte(threshold)).view(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        mask, connectivity=4, ltype=cv2.CV_32S
    )
    x, y, w, h, area = stats[:count].T
    boxes = np.stack([x, y, x + w, y + h], 1).astype(np.int32)
    return Clumps(labels, boxes, area.astype(np.int32), _first_columns(labels, boxes))


def from_label_image(labels: NDArray[np.integer]) -> Clumps:
    """The numbered objects of a label image; a number that lies in pieces counts as one each."""
    whole = np.ascontiguousarray(labels, np.int64)
    out = np.zeros(whole.shape, np.int32)
    count = 0
    for number in np.unique(whole[whole > 0]):  # label images are for one's own functions
        rows, cols = np.nonzero(whole == number)
        box = np.s_[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1]
        pieces, mine = cv2.connectedComponents(
            (whole[box] == number).view(np.uint8), connectivity=4, ltype=cv2.CV_32S
        )
        out[box] += np.where(mine > 0, mine + count, 0).astype(np.int32)
        count += pieces - 1
    boxes, area = _extents(out, count)
    return Clumps(out, boxes, area, _first_columns(out, boxes))


def _byte(threshold: float) -> int:
    """The smallest probability byte that counts as at or over `threshold`."""
    return int(np.ceil(threshold * 255))


@numba.njit(nogil=True, cache=True)
def _extents(labels: NDArray[np.int32], count: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    h, w = labels.shape
    boxes = np.zeros((count + 1, 4), np.int32)
    boxes[:, 0], boxes[:, 1] = w, h
    area = np.zeros(count + 1, np.int32)
    for r in range(h):
        for c in range(w):
            k = labels[r, c]
            area[k] += 1
            boxes[k, 0] = min(boxes[k, 0], c)
            boxes[k, 1] = min(boxes[k, 1], r)
            boxes[k, 2] = max(boxes[k, 2], c + 1)
            boxes[k, 3] = max(boxes[k, 3], r + 1)
    return boxes, area


@numba.njit(nogil=True, cache=True)
def _first_columns(labels: NDArray[np.int32], boxes: NDArray[np.int32]) -> NDArray[np.int32]:
    first = np.zeros(len(boxes), np.int32)
    for k in range(1, len(boxes)):
        for c in range(boxes[k, 0], boxes[k, 2]):
            if labels[boxes[k, 1], c] == k:
                first[k] = c
                break
    return first


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


SMALL_UM2 = 30.0
"""Intermediate nuclei begin here; smaller ones are pyknotic, or the lobes of leukocytes."""


def is_certain(
    score: NDArray[np.floating],
    area_um2: NDArray[np.floating],
    *,
    min_score: float,
    min_small_score: float,
) -> NDArray[np.bool_]:
    """Which objects (n,) are probable enough, small ones under a bound of their own."""
    bound = np.where(area_um2 < SMALL_UM2, min_small_score, min_score)
    return np.asarray(score >= bound.astype(score.dtype))


NECK = 0.8
"""A neck narrower than this share of the thinner part's own width parts two nuclei."""


def pieces_of(
    clumps: Clumps, wanted: NDArray[np.bool_], *, min_px: float, split: bool, neck: float = NECK
) -> Pieces:
    """The objects of the `wanted` clumps (n + 1,), touching ones parted, debris left out.

    Parameters
    ----------
    min_px
        smallest area of an object, in pixels
    split
        part clumps at their necks
    neck
        how narrow a neck is, as a share of the thinner part's width
    """
    labels, first, area = _pieces(
        clumps.labels, clumps.boxes, clumps.area_px, wanted, float(min_px), neck if split else 0.0
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
    capacity = 64
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
        for p in range(1, found + 1):
            size, fr, fc = 0, -1, -1
            for r in range(parts.shape[0]):
                for c in range(parts.shape[1]):
                    if parts[r, c] == p:
                        size += 1
                        if fr < 0:
                            fr, fc = r, c
            if size < min_px:
                continue
            if count == capacity:
                capacity *= 2
                wider = np.zeros((capacity, 2), np.int32)
                wider[:count] = first
                first = wider
                longer = np.zeros(capacity, np.int32)
                longer[:count] = area
                area = longer
            first[count, 0], first[count, 1] = x0 + fc, y0 + fr
            area[count] = size
            count += 1
            for r in range(parts.shape[0]):
                for c in range(parts.shape[1]):
                    if parts[r, c] == p:
                        out[y0 + r, x0 + c] = count
    return out, first[:count], area[:count]


@numba.njit(nogil=True, cache=True)
def _distance(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Exact Euclidean distance of each pixel to the nearest one outside `mask` (h, w)."""
    h, w = mask.shape
    column = np.zeros((h, w), np.int64)  # distance within the column, beyond the frame is outside
    for c in range(w):
        run = 0
        for r in range(h):
            run = run + 1 if mask[r, c] else 0
            column[r, c] = run
        run = 0
        for r in range(h - 1, -1, -1):
            run = run + 1 if mask[r, c] else 0
            column[r, c] = min(column[r, c], run)
    out = np.zeros((h, w), np.float32)
    for r in range(h):
        for c in range(w):
            best = column[r, c] ** 2
            gap = 1
            while gap * gap < best:
                left = column[r, c - gap] if c >= gap else 0
                right = column[r, c + gap] if c + gap < w else 0
                best = min(best, gap * gap + min(left, right) ** 2)
                gap += 1
            out[r, c] = np.sqrt(best)
    return out


@numba.njit(nogil=True, cache=True)
def _root(parent: NDArray[np.int32], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@numba.njit(nogil=True, cache=True)
def _part(mask: NDArray[np.bool_], min_px: float, neck: float) -> tuple[NDArray[np.int32], int]:
    """Part a clump at its necks: a watershed of the distance to the outside.

    Pixels are flooded from the widest place down. Where two basins meet, they stay apart if the
    neck is narrow against both and each is large enough to be an object; otherwise they join.
    """
    h, w = mask.shape
    distance = _distance(mask)
    flat = distance.ravel()
    inside = np.flatnonzero(flat > 0)
    order = inside[np.argsort(-flat[inside], kind="mergesort")]
    basin = np.zeros(h * w, np.int32)  # 0: not flooded yet
    parent = np.zeros(len(inside) + 1, np.int32)
    peak = np.zeros(len(inside) + 1, np.float32)
    size = np.zeros(len(inside) + 1, np.int32)
    made = 0
    steps = ((-1, 0), (0, -1), (0, 1), (1, 0))
    for i in order:
        r, c = i // w, i % w
        mine = 0
        for dr, dc in steps:
            rr, cc = r + dr, c + dc
            if rr < 0 or cc < 0 or rr >= h or cc >= w:
                continue
            other = basin[rr * w + cc]
            if other == 0:
                continue
            other = _root(parent, other)
            if mine == 0:
                mine = other
            elif other != mine:
                thin = min(peak[mine], peak[other])
                if flat[i] < neck * thin and min(size[mine], size[other]) >= min_px:
                    continue
                if peak[other] > peak[mine]:
                    mine, other = other, mine
                parent[other] = mine
                size[mine] += size[other]
        if mine == 0:
            made += 1
            parent[made], peak[made] = made, flat[i]
            mine = made
        basin[i] = mine
        size[mine] += 1
    number = np.zeros(made + 1, np.int32)
    out = np.zeros((h, w), np.int32)
    found = 0
    for i in inside:  # numbered in reading order
        root = _root(parent, basin[i])
        if number[root] == 0:
            found += 1
            number[root] = found
        out[i // w, i % w] = number[root]
    return out, found
