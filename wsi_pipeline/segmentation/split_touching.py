"""Split touching nuclei where the component is narrow between two wide parts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.segmentation.components import Components, find_root

__all__ = ["SADDLE_RATIO", "LabelImage", "split_touching"]

SADDLE_RATIO = 0.8
"""Two parts are two nuclei if the narrowest place between them is below this share of the width of
the thinner part."""


@dataclass(frozen=True, eq=False)
class LabelImage:
    """Objects 1…n of a window, no two of which share a pixel.

    Attributes
    ----------
    labels
        int32 (h, w), 0 where there is no object
    first_pixel
        int32 (n, 2): x, y of each object's first pixel in reading order
    area_px
        int32 (n,)
    """

    labels: NDArray[np.int32]
    first_pixel: NDArray[np.int32]
    area_px: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.area_px)


def split_touching(
    components: Components,
    selected: NDArray[np.bool_],
    *,
    min_px: float,
    split: bool,
    saddle_ratio: float = SADDLE_RATIO,
) -> LabelImage:
    """Make objects of components: split touching nuclei, leave out debris.

    Parameters
    ----------
    selected
        bool (n + 1,): the components to use; entry 0 is unused
    min_px
        smallest area of an object, in pixels
    split
        whether to split; otherwise each component is one object
    saddle_ratio
        see `SADDLE_RATIO`

    Examples
    --------
    >>> from wsi_pipeline.segmentation.components import find_components
    >>> y, x = np.ogrid[:30, :50]
    >>> two_discs = ((x - 15) ** 2 < 100 - (y - 15) ** 2) | ((x - 33) ** 2 < 100 - (y - 15) ** 2)
    >>> components = find_components(two_discs.astype(np.uint8) * 255, 0.5)
    >>> selected = np.ones(len(components) + 1, bool)
    >>> len(components), len(split_touching(components, selected, min_px=20, split=True))
    (1, 2)
    """
    labels, first_pixel, area = _objects(
        components.labels, components.boxes, components.area_px, selected, float(min_px),
        saddle_ratio if split else 0.0,
    )  # fmt: skip
    return LabelImage(labels, first_pixel, area)


@numba.njit(nogil=True, cache=True)
def _objects(
    labels: NDArray[np.int32],
    boxes: NDArray[np.int32],
    areas: NDArray[np.int32],
    selected: NDArray[np.bool_],
    min_px: float,
    saddle_ratio: float,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Compute the fields of a `LabelImage`; no component is split if `saddle_ratio` is 0."""
    out = np.zeros(labels.shape, np.int32)
    capacity = 0  # a component has no more objects than its area has room for
    for k in range(1, len(boxes)):
        if selected[k] and areas[k] >= min_px:
            capacity += int(areas[k] / max(min_px, 1.0))
    first = np.zeros((capacity, 2), np.int32)
    area = np.zeros(capacity, np.int32)
    count = 0
    for k in range(1, len(boxes)):
        if not selected[k] or areas[k] < min_px:
            continue
        x0, y0, x1, y1 = boxes[k]
        mask = labels[y0:y1, x0:x1] == k
        if saddle_ratio > 0 and areas[k] >= 2 * min_px:
            parts, part_count = _watershed(mask, min_px, saddle_ratio)
        else:
            parts, part_count = mask.astype(np.int32), 1
        count = _append(parts, part_count, min_px, x0, y0, out, first, area, count)
    return out, first[:count], area[:count]


@numba.njit(nogil=True, cache=True)
def _append(
    parts: NDArray[np.int32],
    part_count: int,
    min_px: float,
    x0: int,
    y0: int,
    out: NDArray[np.int32],
    first: NDArray[np.int32],
    area: NDArray[np.int32],
    count: int,
) -> int:
    """Append the parts of the component at (x0, y0) to the objects; return the new count."""
    size = np.zeros(part_count + 1, np.int32)
    corner = np.zeros((part_count + 1, 2), np.int32)
    h, w = parts.shape
    for r in range(h):
        for c in range(w):
            p = parts[r, c]
            if p > 0:
                if size[p] == 0:
                    corner[p, 0], corner[p, 1] = x0 + c, y0 + r
                size[p] += 1
    number = np.zeros(part_count + 1, np.int32)
    for p in range(1, part_count + 1):
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
    """Squared Euclidean distance of each pixel to the nearest one outside `mask` (h, w), exact.

    In two passes, as in Saito and Toriwaki (Pattern Recognition 27, 1994): distances within each
    column, then for each pixel the least ``gap² + column distance²`` along its row, which ends
    once ``gap²`` exceeds the best value. Pixels beyond the frame count as outside.

    Kept because it is faster than `scipy.ndimage.distance_transform_edt` on nuclei: 27 against
    48 µs each.
    """
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
    """Return the positions of the values above 0, largest value first, equal ones in their order.

    A counting sort: squared distances within a component are small whole numbers.
    """
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
def _watershed(
    mask: NDArray[np.bool_], min_px: float, saddle_ratio: float
) -> tuple[NDArray[np.int32], int]:
    """Split a component by a watershed of its distance map, with a rule for which basins merge.

    Watershed by flooding (Vincent and Soille, IEEE PAMI 13, 1991) with union–find (Tarjan 1975).
    Pixels are flooded in order of falling distance to the outside, equal ones in reading order. A
    pixel without flooded neighbours starts a basin, whose peak is its distance; any other pixel
    joins a basin next to it. After each pixel this holds: every flooded pixel belongs to one
    basin, and all pixels with a greater distance are flooded. So the first pixel that touches two
    basins is the saddle between their peaks: no path from one peak to the other stays wider.

    There the basins stay apart if the saddle's distance is below `saddle_ratio` times the lower of
    both peaks and each basin has `min_px` pixels; otherwise they merge. Basins that stay apart do
    so to the end, since later distances are no larger while peaks and sizes only grow.

    Parameters
    ----------
    mask
        bool (h, w), one component in its bounding box

    Returns
    -------
    labels
        int32 (h, w): 0, or the part 1…n, numbered by first pixel in reading order
    n
        number of parts
    """
    h, w = mask.shape
    squared = _distance(mask).ravel()
    order = _descending(squared)
    across = w + 2  # a frame of one pixel, so that neighbours need no check for the border
    basin = np.zeros((h + 2) * across, np.int32)  # 0: not flooded yet
    parent = np.zeros(len(order) + 1, np.int32)
    peak = np.zeros(len(order) + 1, np.float32)
    size = np.zeros(len(order) + 1, np.int32)
    made = 0
    for i in order:
        at = i + 2 * (i // w) + across + 1
        distance = np.float32(math.sqrt(squared[i]))
        own = 0
        for step in (-across, -1, 1, across):
            other = basin[at + step]
            if other == 0 or other == own:
                continue
            other = find_root(parent, other)
            if own == 0:
                own = other
            elif other != own:
                lower_peak = min(peak[own], peak[other])
                large = min(size[own], size[other]) >= min_px
                if large and distance < saddle_ratio * lower_peak:
                    continue
                if peak[other] > peak[own]:
                    own, other = other, own
                parent[other] = own
                size[own] += size[other]
        if own == 0:
            made += 1
            parent[made], peak[made] = made, distance
            own = made
        basin[at] = own
        size[own] += 1
    return _renumbered(basin.reshape(h + 2, across)[1:-1, 1:-1], parent, made)


@numba.njit(nogil=True, cache=True)
def _renumbered(
    basins: NDArray[np.int32], parent: NDArray[np.int32], made: int
) -> tuple[NDArray[np.int32], int]:
    """Number the roots of basins (h, w) from 1 in reading order; return labels and their count."""
    h, w = basins.shape
    number = np.zeros(made + 1, np.int32)
    out = np.zeros((h, w), np.int32)
    count = 0
    for r in range(h):
        for c in range(w):
            if basins[r, c] == 0:
                continue
            root = find_root(parent, basins[r, c])
            if number[root] == 0:
                count += 1
                number[root] = count
            out[r, c] = number[root]
    return out, count
