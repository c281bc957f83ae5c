"""From class probabilities to objects: connected components.

A component is a 4-connected set of pixels over the threshold. It depends on its own pixels only, so
the result does not depend on the window.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Components",
    "find_components",
    "from_label_image",
]

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Components:
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
        """Which components (n + 1,) reach the window's edge and so may be incomplete."""
        h, w = self.labels.shape
        x0, y0, x1, y1 = self.boxes.T
        return (x0 == 0) | (y0 == 0) | (x1 == w) | (y1 == h)


def find_components(probability: Bytes, threshold: float) -> Components:
    """Components of pixels of `probability` uint8 (h, w) at or over `threshold` (0 to 1)."""
    labels, boxes, area, first = _connected(probability, _byte(threshold))
    return Components(labels, boxes, area, first)


def from_label_image(labels: NDArray[np.integer]) -> Components:
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
    return Components(out, boxes, area, _first_columns(out, boxes))


def _byte(threshold: float) -> int:
    """The smallest probability byte that counts as at or over `threshold`."""
    return int(np.ceil(threshold * 255))


@numba.njit(nogil=True, cache=True)
def _connected(
    probability: Bytes, least: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Label image, boxes, areas and first columns of the 4-connected sets of bytes >= `least`.

    Numbered by first pixel in reading order. Runs of a row are joined to those above them, so that
    empty pixels are read once and never written.
    """
    h, w = probability.shape
    starts = _count_runs(probability, least)
    runs = np.empty((starts[h], 2), np.int32)  # first column, one past the last
    parent = np.arange(starts[h]).astype(np.int32)
    _join_runs(probability, least, starts, runs, parent)
    number = np.zeros(len(runs), np.int32)
    count = 0
    for i in range(len(runs)):  # a root is its component's first run
        root = _root(parent, i)
        if root == i:
            count += 1
            number[i] = count
        else:
            number[i] = number[root]
    labels = np.zeros((h, w), np.int32)
    boxes = np.zeros((count + 1, 4), np.int32)
    area = np.zeros(count + 1, np.int32)
    first = np.zeros(count + 1, np.int32)
    for r in range(h):
        for i in range(starts[r], starts[r + 1]):
            begin, end, k = runs[i, 0], runs[i, 1], number[i]
            for c in range(begin, end):
                labels[r, c] = k
            if area[k] == 0:
                first[k] = begin
                boxes[k, 0], boxes[k, 1] = begin, r
            boxes[k, 0] = min(boxes[k, 0], begin)
            boxes[k, 2] = max(boxes[k, 2], end)
            boxes[k, 3] = r + 1
            area[k] += end - begin
    return labels, boxes, area, first


@numba.njit(nogil=True, cache=True)
def _count_runs(probability: Bytes, least: int) -> NDArray[np.int64]:
    """How many runs of bytes >= `least` the rows above each row have, int64 (h + 1,)."""
    h, w = probability.shape
    starts = np.zeros(h + 1, np.int64)
    for r in range(h):
        line, count, inside = probability[r], 0, False
        for c in range(w):
            now = line[c] >= least
            count += now and not inside
            inside = now
        starts[r + 1] = starts[r] + count
    return starts


@numba.njit(nogil=True, cache=True)
def _join_runs(
    probability: Bytes,
    least: int,
    starts: NDArray[np.int64],
    runs: NDArray[np.int32],
    parent: NDArray[np.int32],
) -> None:
    """Find the runs, and join each to those above it that share a column."""
    h, w = probability.shape
    n = 0
    for r in range(h):
        line, above, c = probability[r], starts[max(r - 1, 0)], 0
        while c < w:
            if line[c] < least:
                c += 1
                continue
            begin = c
            while c < w and line[c] >= least:
                c += 1
            runs[n, 0], runs[n, 1] = begin, c
            while above < starts[r] and runs[above, 1] <= begin:
                above += 1
            mine, k = n, above
            while k < starts[r] and runs[k, 0] < c:
                other = _root(parent, k)
                low, high = min(mine, other), max(mine, other)
                parent[high] = mine = low
                k += 1
            n += 1


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


@numba.njit(nogil=True, cache=True)
def _root(parent: NDArray[np.int32], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i
