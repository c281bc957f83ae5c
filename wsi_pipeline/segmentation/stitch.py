"""Stitching: remove copies of objects that several regions, or several tiles, have found.

Class probabilities are the same through every window, so with them ownership alone gives each
object exactly once. Plain functions and networks that give instances may answer differently through
each window; neighbours then both keep what lies on their common border, and the copies are found
here. Objects of the same region are never compared: two that overlap there are two objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.objects import Objects, is_cell

__all__ = ["SAME_IOU", "BorderCells", "duplicates"]

SAME_IOU = 0.5
"""Least IoU of two outlines from different regions that are one object."""


@dataclass(frozen=True, eq=False)
class _BorderObjects:
    """Table of n objects near the borders of their regions.

    Attributes
    ----------
    part, index
        int64 (n,): number of the region, and position among its objects
    parent
        int64 (n,): row of this table with the cell that contains the object, −1 for none
    nucleus
        bool (n,): whether it is not a cell
    kind
        int64 (n,): objects of different kinds are never copies of each other
    polygon
        (n,)
    depth
        float64 (n,): distance from the border of its region's core, positive inside
    """

    part: NDArray[np.int64]
    index: NDArray[np.int64]
    parent: NDArray[np.int64]
    nucleus: NDArray[np.bool_]
    kind: NDArray[np.int64]
    polygon: NDArray[np.object_]
    depth: NDArray[np.float64]


def duplicates(
    parts: Iterable[tuple[int, Objects]],
    cores: Mapping[int, Box],
    *,
    scale: float,
    reach_px: int,
    by_class: bool = False,
) -> dict[int, NDArray[np.bool_]]:
    """Find, for each region, which of its objects are copies of another region's.

    The copy that lies farther inside its own region stays; if both lie equally far, that of the
    smaller region number. A nucleus is removed with its cell; a nucleus without a cell is removed
    if its copy has one.

    Parameters
    ----------
    parts
        region number and objects of each region
    cores
        region number → core, in model pixels
    scale
        level-0 pixels per model pixel
    reach_px
        distance beyond its core within which a region's objects may extend, model pixels
    by_class
        whether objects of different classes are never copies of each other; otherwise cells are
        compared with cells, and all others with all others

    Returns
    -------
    region number → bool (objects of the region,), True for copies to remove

    Examples
    --------
    >>> def region_of(*boxes):
    ...     return Objects.from_polygons(
    ...         shapely.box(*np.transpose(boxes)), classes=("nucleus",),
    ...         ids=np.zeros((len(boxes), 2), np.uint64), score=np.ones(len(boxes), np.float32),
    ...         class_index=np.zeros(len(boxes), np.uint8),
    ...     )
    >>> left = region_of((10, 10, 30, 30), (85, 10, 105, 30))
    >>> right = region_of((86, 10, 106, 30), (150, 10, 170, 30))
    >>> cores = {0: Box(0, 0, 100, 100), 1: Box(100, 0, 200, 100)}
    >>> copies = duplicates([(0, left), (1, right)], cores, scale=1, reach_px=64)
    >>> copies[0].tolist(), copies[1].tolist()
    ([False, False], [True, False])
    """
    sizes: dict[int, int] = {}
    tables: list[_BorderObjects] = []
    rows = 0
    for number, objects in parts:
        sizes[number] = len(objects)
        tables.append(
            _border_objects(number, objects, cores[number], scale, reach_px, rows, by_class)
        )
        rows += len(tables[-1].index)
    copies = {number: np.zeros(size, np.bool_) for number, size in sizes.items()}
    if rows == 0:
        return copies
    columns = (f.name for f in fields(_BorderObjects))
    table = _BorderObjects(*(np.concatenate([getattr(t, c) for t in tables]) for c in columns))
    removed = _removed(table, *_matches(table))
    for part in sizes:
        chosen = removed & (table.part == part)
        copies[part][table.index[chosen]] = True
    return copies


class BorderCells:
    """The cells that may overlap cells of another region.

    Parameters
    ----------
    parts
        region number and objects of each region, copies removed
    cores, scale, reach_px
        as for `duplicates`
    """

    def __init__(
        self,
        parts: Iterable[tuple[int, Objects]],
        cores: Mapping[int, Box],
        *,
        scale: float,
        reach_px: int,
    ) -> None:
        regions, polygons = [], []
        for number, objects in parts:
            table = _border_objects(number, objects, cores[number], scale, reach_px, 0, False)
            polygons.append(table.polygon[~table.nucleus])
            regions.append(np.full(len(polygons[-1]), number))
        self._region = np.concatenate([*regions, np.zeros(0, np.int64)])
        self._polygon = np.concatenate([*polygons, np.zeros(0, object)])
        self._tree = shapely.STRtree(self._polygon)

    def near(self, region: int, objects: Objects) -> NDArray[np.object_]:
        """Return the polygons of other regions' cells within the bounds of a region's objects."""
        if len(objects) == 0 or len(self._polygon) == 0:
            return self._polygon[:0]
        box = objects.bounds()
        around = shapely.box(*box[:, :2].min(axis=0), *box[:, 2:].max(axis=0))
        found = np.sort(self._tree.query(around))
        return self._polygon[found[self._region[found] != region]]


def _border_objects(
    number: int,
    objects: Objects,
    core: Box,
    scale: float,
    reach_px: int,
    rows: int,
    by_class: bool,
) -> _BorderObjects:
    """Return the objects of a region near its border; a cell and its nuclei count as one there.

    `rows` is the number of rows in the tables of earlier regions.
    """
    box = objects.bounds() / scale - (core.x0, core.y0, core.x0, core.y0)
    depth = np.minimum.reduce(
        [box[:, 0], box[:, 1], core.width - box[:, 2], core.height - box[:, 3]]
    )
    parent = np.full(len(objects), -1) if objects.parent is None else objects.parent
    depth = depth[np.where(parent >= 0, parent, np.arange(len(objects)))]
    index = np.flatnonzero(depth < reach_px)
    near = objects.take(index)
    parent = np.full(len(index), -1) if near.parent is None else near.parent
    nucleus = ~is_cell(near)
    return _BorderObjects(
        part=np.full(len(index), number),
        index=index,
        parent=np.where(parent >= 0, parent + rows, -1),
        nucleus=nucleus,
        kind=(near.class_index if by_class else nucleus).astype(np.int64),
        polygon=near.polygons(),
        depth=depth[index],
    )


def _matches(table: _BorderObjects) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return pairs of rows from different regions whose outlines have an IoU of `SAME_IOU`."""
    a, b = shapely.STRtree(table.polygon).query(table.polygon, predicate="intersects")
    apart = (a < b) & (table.part[a] != table.part[b]) & (table.kind[a] == table.kind[b])
    a, b = a[apart], b[apart]
    shared = shapely.area(shapely.intersection(table.polygon[a], table.polygon[b]))
    union = shapely.area(table.polygon[a]) + shapely.area(table.polygon[b]) - shared
    same = shared >= SAME_IOU * union
    return a[same], b[same]


def _removed(
    table: _BorderObjects, a: NDArray[np.int64], b: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return which rows to remove: copies of cells, nuclei in them, then copies of nuclei."""
    removed = np.zeros(len(table.part), np.bool_)
    cells = ~table.nucleus[a]
    for i, j in zip(a[cells], b[cells], strict=True):
        removed[j if table.depth[i] >= table.depth[j] else i] = True
    removed |= (table.parent >= 0) & removed[table.parent]
    for i, j in zip(a[~cells], b[~cells], strict=True):
        if removed[i] or removed[j]:
            continue
        alone = table.parent[i] < 0, table.parent[j] < 0
        second = alone[1] if alone[0] != alone[1] else table.depth[i] >= table.depth[j]
        removed[j if second else i] = True
    return removed
