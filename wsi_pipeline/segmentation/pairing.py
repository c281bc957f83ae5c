"""Which cell holds which nucleus."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import shapely

from wsi_pipeline.core.objects import CELL_CLASS, Objects

__all__ = [
    "HELD",
    "assign_nuclei",
]


HELD = 0.5
"""Share of a nucleus that lies in its cell at least."""


def assign_nuclei(objects: Objects) -> Objects:
    """The same objects with each nucleus in its cell, where a cell holds `HELD` of it.

    Every cell gets one nucleus as far as there are enough, the one that lies most within it and
    nearest its middle; a nucleus that is left over joins the cell that holds it best, as a second
    one. So a nucleus where two cells overlap goes to the one that has no other.
    """
    parent = np.full(len(objects), -1, np.int64)
    is_cell = objects.class_index == objects.classes.index(CELL_CLASS)
    cells, nuclei = np.flatnonzero(is_cell), np.flatnonzero(~is_cell)
    if len(cells) and len(nuclei):
        shapes = objects.polygons()
        n, c = shapely.STRtree(shapes[cells]).query(shapes[nuclei], predicate="intersects")
        inner, outer = shapes[nuclei[n]], shapes[cells[c]]
        share = shapely.area(shapely.intersection(inner, outer)) / shapely.area(inner)
        away = shapely.distance(shapely.centroid(inner), shapely.centroid(outer))
        worth = share - 0.5 * np.minimum(away / np.sqrt(shapely.area(outer) / np.pi), 1)
        fits = (share >= HELD) & (shapely.area(inner) < shapely.area(outer))
        n, c, worth = n[fits], c[fits], worth[fits]
        table = np.zeros((len(nuclei), len(cells)))
        from scipy.optimize import linear_sum_assignment  # a third of a second, for cells alone

        table[n, c] = 1 + worth  # a pair at all is worth more than any better place
        for i, k in zip(*linear_sum_assignment(table, maximize=True), strict=True):
            if table[i, k] > 0:
                parent[nuclei[i]] = cells[k]
        best = np.lexsort((-worth, n))
        alone = best[np.unique(n[best], return_index=True)[1]]
        alone = alone[parent[nuclei[n[alone]]] < 0]
        parent[nuclei[n[alone]]] = cells[c[alone]]
    return replace(objects, parent=parent)
