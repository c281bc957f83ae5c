"""Stitching: one object list out of many regions.

A network's probabilities are the same through every window, so ownership alone gives each object
exactly once (`segment`). A function of one's own and a network that finds whole instances may
answer differently through each window; for those, copies of one object from different regions, or
windows, are found here. Objects of the same one are never compared: two that overlap there are two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.objects import CELL_CLASS, Objects

__all__ = ["SAME_IOU", "duplicates"]

SAME_IOU = 0.5
"""Two outlines from different regions that agree this well are one object."""


@dataclass(frozen=True, eq=False)
class _Borders:
    """Objects near the borders of their regions, `n` in all; the columns of a table.

    Attributes
    ----------
    part, index
        int64 (n,): the region and the position among its objects
    parent
        int64 (n,): row of this table that holds the object, −1 for none
    nucleus
        bool (n,): whether it may lie in a cell
    polygon
        (n,)
    depth
        float64 (n,): how far inside its region's core it lies
    """

    part: NDArray[np.int64]
    index: NDArray[np.int64]
    parent: NDArray[np.int64]
    nucleus: NDArray[np.bool_]
    polygon: NDArray[np.object_]
    depth: NDArray[np.float64]


def duplicates(
    parts: Iterable[tuple[int, Objects]], cores: Mapping[int, Box], *, scale: float, reach_px: int
) -> dict[int, NDArray[np.bool_]]:
    """For each region, which of its objects are copies of another region's.

    Of two copies the one farther from the border of its region stays; of equals the one with the
    smaller region number. A nucleus goes with its cell, and one without a cell gives way to its
    copy in a cell.

    Parameters
    ----------
    cores
        region number → core, in model pixels
    scale
        level-0 pixels per model pixel
    reach_px
        how far beyond its core a region looks
    """
    sizes: dict[int, int] = {}
    near: list[_Borders] = []
    rows = 0
    for number, objects in parts:
        sizes[number] = len(objects)
        near.append(_near(number, objects, cores[number], scale, reach_px, rows))
        rows += len(near[-1].index)
    drop = {number: np.zeros(size, np.bool_) for number, size in sizes.items()}
    if rows == 0:
        return drop
    table = _Borders(
        *(np.concatenate([getattr(n, f.name) for n in near]) for f in fields(_Borders))
    )
    gone = _copies(table, *_alike(table))
    for part in sizes:
        mine = gone & (table.part == part)
        drop[part][table.index[mine]] = True
    return drop


def _near(
    number: int, objects: Objects, core: Box, scale: float, reach_px: int, rows: int
) -> _Borders:
    """The objects of one region near its border, cells and their nuclei together."""
    box = objects.bounds() / scale - (core.x0, core.y0, core.x0, core.y0)
    depth = np.minimum.reduce(
        [box[:, 0], box[:, 1], core.width - box[:, 2], core.height - box[:, 3]]
    )
    parent = np.full(len(objects), -1) if objects.parent is None else objects.parent
    unit = np.where(parent >= 0, parent, np.arange(len(objects)))
    depth = depth[unit]
    index = np.flatnonzero(depth < reach_px)
    some = objects.take(index)
    held = np.full(len(index), -1) if some.parent is None else some.parent
    kinds = np.array([name != CELL_CLASS for name in objects.classes])
    return _Borders(
        np.full(len(index), number),
        index,
        np.where(held >= 0, held + rows, -1),
        kinds[some.class_index],
        some.polygons(),
        depth[index],
    )


def _alike(table: _Borders) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of rows from different regions whose outlines agree."""
    a, b = shapely.STRtree(table.polygon).query(table.polygon, predicate="intersects")
    apart = (a < b) & (table.part[a] != table.part[b]) & (table.nucleus[a] == table.nucleus[b])
    a, b = a[apart], b[apart]
    shared = shapely.area(shapely.intersection(table.polygon[a], table.polygon[b]))
    union = shapely.area(table.polygon[a]) + shapely.area(table.polygon[b]) - shared
    same = shared >= SAME_IOU * union
    return a[same], b[same]


def _copies(table: _Borders, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which rows go: cells first, then what they hold, then nuclei that are left twice."""
    gone = np.zeros(len(table.part), np.bool_)
    cells = ~table.nucleus[a]
    for i, j in zip(a[cells], b[cells], strict=True):
        gone[j if table.depth[i] >= table.depth[j] else i] = True
    gone |= (table.parent >= 0) & gone[table.parent]
    for i, j in zip(a[~cells], b[~cells], strict=True):
        if gone[i] or gone[j]:
            continue
        alone = table.parent[i] < 0, table.parent[j] < 0
        second = alone[1] if alone[0] != alone[1] else table.depth[i] >= table.depth[j]
        gone[j if second else i] = True
    return gone
