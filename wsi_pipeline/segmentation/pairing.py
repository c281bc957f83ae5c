"""Assign nuclei to the cells that contain them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import shapely

from wsi_pipeline.core.objects import Objects, is_cell

__all__ = ["MIN_SHARE", "assign_nuclei"]

MIN_SHARE = 0.5
"""Least share of a nucleus's area that lies in its cell."""


def assign_nuclei(objects: Objects) -> Objects:
    """Set `Objects.parent`: each nucleus gets a cell that contains at least `MIN_SHARE` of it.

    First every cell gets one nucleus as far as there are enough, so that a nucleus where two cells
    overlap goes to the cell that has no other. Among all such assignments the one is taken that
    maximises the sum over pairs of: share of the nucleus inside, less half the distance of the
    centroids in radii of the cell, at most a half (Hungarian algorithm, Kuhn 1955). Then each
    nucleus that is left goes to the cell that fits it best by the same measure, as a second one.

    Parameters
    ----------
    objects
        cells and nuclei, valid polygons

    Examples
    --------
    >>> x, y = np.array([0, 10, 2, 14]), np.array([0, 0, 2, 1])
    >>> objects = Objects.from_polygons(
    ...     shapely.box(x, y, x + [12, 12, 3, 3], y + [12, 12, 3, 3]),
    ...     classes=("cell", "nucleus"), class_index=np.array([0, 0, 1, 1], np.uint8),
    ...     ids=np.zeros((4, 2), np.uint64), score=np.ones(4, np.float32),
    ... )
    >>> assign_nuclei(objects).parent.tolist()
    [-1, -1, 0, 1]
    """
    parent = np.full(len(objects), -1, np.int64)
    cell = is_cell(objects)
    cells, nuclei = np.flatnonzero(cell), np.flatnonzero(~cell)
    if len(cells) and len(nuclei):
        shapes = objects.polygons()
        n, c = shapely.STRtree(shapes[cells]).query(shapes[nuclei], predicate="intersects")
        inner, outer = shapes[nuclei[n]], shapes[cells[c]]
        share = shapely.area(shapely.intersection(inner, outer)) / shapely.area(inner)
        away = shapely.distance(shapely.centroid(inner), shapely.centroid(outer))
        fit = share - 0.5 * np.minimum(away / np.sqrt(shapely.area(outer) / np.pi), 1)
        fits = (share >= MIN_SHARE) & (shapely.area(inner) < shapely.area(outer))
        n, c, fit = n[fits], c[fits], fit[fits]
        from scipy.optimize import linear_sum_assignment  # takes 0.3 s to import

        table = np.zeros((len(nuclei), len(cells)))
        table[n, c] = 1 + fit  # the 1 makes one more pair count more than any better place
        for i, k in zip(*linear_sum_assignment(table, maximize=True), strict=True):
            if table[i, k] > 0:
                parent[nuclei[i]] = cells[k]
        best = np.lexsort((-fit, n))
        alone = best[np.unique(n[best], return_index=True)[1]]
        alone = alone[parent[nuclei[n[alone]]] < 0]
        parent[nuclei[n[alone]]] = cells[c[alone]]
    return replace(objects, parent=parent)
