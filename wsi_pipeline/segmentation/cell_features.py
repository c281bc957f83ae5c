"""Measurements of cells, which depend on their nuclei and neighbours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.objects import Objects, is_cell
from wsi_pipeline.segmentation.morphometry import morphometry

__all__ = [
    "CELL_NUCLEI",
    "CELL_OVERLAP",
    "NUCLEUS_OFFSET",
    "NUCLEUS_RATIO",
    "cell_features",
]


NUCLEUS_RATIO = "Nucleus/Cell area ratio"  # QuPath's name

CELL_NUCLEI = "Cell: Nuclei"

CELL_OVERLAP = "Cell: Overlap share"

NUCLEUS_OFFSET = "Nucleus: Offset in cell"
"""Names of what `cell_features` measures besides `MORPHOMETRY`."""


def cell_features(objects: Objects, mpp: float) -> Objects:
    """The objects with shape and arrangement of cells and nuclei among their measurements.

    Cells have `MORPHOMETRY` as "Cell: …", all others as "Nucleus: …". Besides, each cell has
    "Cell: Nuclei", their number; "Nucleus/Cell area ratio", the sum of their areas over the
    cell's; and "Cell: Overlap share", the part of its area that other cells of the list cover.
    Each nucleus has "Nucleus: Offset in cell": from the cell's centroid to its own, in radii of
    the circle of the cell's area. NaN where a measurement does not apply or would divide by zero,
    and where a cell without a nucleus would have a ratio. Other measurements stay.

    Parameters
    ----------
    objects
        n cells and nuclei in level-0 pixels; `parent` says what lies where
    mpp
        µm per level-0 pixel

    Raises
    ------
    MppError
        if `mpp` is not a positive number
    """
    n = len(objects)
    cells = is_cell(objects)
    rows = np.flatnonzero(cells)
    table = dict(objects.features)
    for prefix, which in (("Nucleus", np.flatnonzero(~cells)), ("Cell", rows)):
        for name, column in morphometry(objects.take(which), mpp, prefix=prefix).items():
            table[name] = _spread(n, which, column)
    parent = np.full(n, -1) if objects.parent is None else objects.parent
    held = np.flatnonzero(parent >= 0)
    shapes = objects.polygons()
    area = shapely.area(shapes)
    inside = np.bincount(parent[held], area[held], minlength=n)[rows]
    count = np.bincount(parent[held], minlength=n)[rows]
    middle = shapely.centroid(shapes)
    x, y = shapely.get_x(middle), shapely.get_y(middle)
    away = np.hypot(x[held] - x[parent[held]], y[held] - y[parent[held]])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(count > 0, inside / area[rows], np.nan)
        offset = away / np.sqrt(area[parent[held]] / np.pi)
        share = _covered(shapes[rows]) / area[rows]
    measured = (
        (NUCLEUS_RATIO, rows, ratio),
        (CELL_NUCLEI, rows, count),
        (CELL_OVERLAP, rows, share),
        (NUCLEUS_OFFSET, held, offset),
    )
    return replace(objects, features=table | {m: _spread(n, w, c) for m, w, c in measured})


def _spread(
    n: int, where: NDArray[np.int64], values: NDArray[np.floating] | NDArray[np.integer]
) -> NDArray[np.float32]:
    """A column (n,) that is NaN but at `where`."""
    column = np.full(n, np.nan, np.float32)
    column[where] = np.where(np.isfinite(values), values, np.nan)
    return column


def _covered(shapes: NDArray[np.object_]) -> NDArray[np.float64]:
    """Area of each polygon (n,) that others of the list cover, once where several do."""
    covered = np.zeros(len(shapes))
    broken = ~shapely.is_valid(shapes)
    if broken.any():
        shapes = shapes.copy()
        shapes[broken] = shapely.make_valid(
            shapes[broken], method="structure", keep_collapsed=False
        )
    one, other = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    apart = one != other
    order = np.argsort(one[apart], kind="stable")
    one, other = one[apart][order], other[apart][order]
    which, start, count = np.unique(one, return_index=True, return_counts=True)
    for k in np.unique(count):  # all with as many neighbours in one call
        mine, first = which[count == k], start[count == k]
        around = shapely.union_all(shapes[other[first[:, None] + np.arange(k)]], axis=1)
        covered[mine] = shapely.area(shapely.intersection(shapes[mine], around))
    return covered
