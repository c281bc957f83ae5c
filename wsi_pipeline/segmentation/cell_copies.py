"""Cells that a network draws twice: a better cell covers nearly all of them."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.objects import Objects, is_cell

__all__ = ["COVERED", "SAME_CELL_IOU", "cell_copies"]

SAME_CELL_IOU = 0.7
"""Two outlines of at least this IoU are one cell."""

COVERED = 0.8
"""A cell without a nucleus of its own is a part of a better one that covers this share of it."""


def cell_copies(objects: Objects) -> NDArray[np.bool_]:
    """Return which cells are copies of another one or parts of it, bool (n,).

    Of two cells of IoU `SAME_CELL_IOU` or more, that of the lower score is a copy. A cell without
    a nucleus, of which a cell of a higher score covers the share `COVERED`, is a part of it. Cells
    that lie on each other have a nucleus each, and seldom cover each other so far.

    Parameters
    ----------
    objects
        cells and nuclei of one window, valid polygons, each nucleus with its cell

    Examples
    --------
    >>> objects = Objects.from_polygons(
    ...     shapely.box([0, 1, 30, 4], [0, 0, 0, 4], [20, 21, 50, 12], [20, 20, 20, 12]),
    ...     classes=("cell", "nucleus"), class_index=np.zeros(4, np.uint8),
    ...     ids=np.zeros((4, 2), np.uint64), score=np.array([0.9, 0.8, 0.7, 0.6], np.float32),
    ... )
    >>> cell_copies(objects).tolist()
    [False, True, False, True]
    """
    copies = np.zeros(len(objects), np.bool_)
    cells = np.flatnonzero(is_cell(objects))
    if len(cells) < 2:
        return copies
    shapes, score = objects.polygons()[cells], objects.score[cells]
    parents = np.zeros(0, np.int64) if objects.parent is None else objects.parent
    alone = ~np.isin(cells, parents)
    a, b = shapely.STRtree(shapes).query(shapes)  # pairs whose bounding boxes meet
    better = (score[a] > score[b]) | ((score[a] == score[b]) & (a < b))
    area, box = shapely.area(shapes), shapely.bounds(shapes)
    sides = np.minimum(box[a, 2:], box[b, 2:]) - np.maximum(box[a, :2], box[b, :2])
    # An overlap of less than this cannot be enough, since it lies within both boxes.
    better &= sides.prod(1) >= 0.99 * min(SAME_CELL_IOU, COVERED) * area[b]
    a, b = a[better], b[better]
    shared = shapely.area(shapely.intersection(shapes[a], shapes[b]))
    same = shared >= SAME_CELL_IOU * (area[a] + area[b] - shared)
    part = alone[b] & (shared >= COVERED * area[b])
    pairs = np.stack([a, b])[:, same | part]
    best_first = np.lexsort((pairs[0], -score[pairs[0]]))
    for i, k in pairs[:, best_first].T:
        if not copies[cells[i]]:
            copies[cells[k]] = True
    return copies
