"""Measure cells with their nuclei and neighbours."""

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
    "renewed",
]

NUCLEUS_RATIO = "Nucleus/Cell area ratio"  # QuPath's name
CELL_NUCLEI = "Cell: Nuclei"
CELL_OVERLAP = "Cell: Overlap share"
NUCLEUS_OFFSET = "Nucleus: Offset in cell"


def cell_features(objects: Objects, mpp: float) -> Objects:
    """Add measurements of shape and arrangement to cells and nuclei.

    All objects get the measurements of `morphometry`, with prefix "Cell" or "Nucleus". Besides:

    - "Cell: Nuclei": number of nuclei in the cell
    - "Nucleus/Cell area ratio": sum of their areas over the cell's area, at most 1; NaN without a
      nucleus
    - "Cell: Overlap share": share of the cell's area that other cells of `objects` cover
    - "Nucleus: Offset in cell": distance from the cell's centroid to the nucleus's, over the
      radius of a circle with the cell's area

    A measurement is NaN where it does not apply or would divide by zero. Other measurements stay.

    Parameters
    ----------
    objects
        n cells and nuclei in level-0 pixels; `parent` links a nucleus to its cell
    mpp
        µm per level-0 pixel

    Raises
    ------
    MppError
        `mpp` is not a positive number
    """
    n = len(objects)
    cells = is_cell(objects)
    table = dict(objects.features)
    for prefix, which in (("Nucleus", np.flatnonzero(~cells)), ("Cell", np.flatnonzero(cells))):
        for name, column in morphometry(objects.take(which), mpp, prefix=prefix).items():
            table[name] = _column(n, which, column)
    return renewed(replace(objects, features=table))


def renewed(objects: Objects, others: NDArray[np.object_] | None = None) -> Objects:
    """Measure again what depends on other objects: number of nuclei, ratio, overlap, offset.

    Stitching needs it, since it removes copies of cells and nuclei that were measured with them.

    Parameters
    ----------
    objects
        cells and nuclei; `parent` links a nucleus to its cell
    others
        polygons (k,) of further cells, which are not among `objects` but may overlap them
    """
    n = len(objects)
    rows = np.flatnonzero(is_cell(objects))
    table = dict(objects.features)
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
        ratio = np.where(count > 0, np.minimum(inside / area[rows], 1), np.nan)  # as QuPath does
        offset = away / np.sqrt(area[parent[held]] / np.pi)
        cells = shapes[rows] if others is None else np.concatenate([shapes[rows], others])
        share = _covered(cells)[: len(rows)] / area[rows]
    measured = (
        (NUCLEUS_RATIO, rows, ratio),
        (CELL_NUCLEI, rows, count),
        (CELL_OVERLAP, rows, share),
        (NUCLEUS_OFFSET, held, offset),
    )
    return replace(objects, features=table | {m: _column(n, w, c) for m, w, c in measured})


def _column(
    n: int, rows: NDArray[np.int64], values: NDArray[np.floating] | NDArray[np.integer]
) -> NDArray[np.float32]:
    """Return a column float32 (n,) with `values` in some rows and NaN elsewhere."""
    column = np.full(n, np.nan, np.float32)
    column[rows] = np.where(np.isfinite(values), values, np.nan)
    return column


def _covered(shapes: NDArray[np.object_]) -> NDArray[np.float64]:
    """Return the area of each polygon (n,) that the union of the others covers, float64 (n,)."""
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
