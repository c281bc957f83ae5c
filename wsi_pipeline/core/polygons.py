"""Polygons that QuPath accepts: on its grid of 0.01 px, valid on that grid, and with an area."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.errors import DataError
from wsi_pipeline.core.objects import Objects

__all__ = [
    "GRID_PX",
    "MAX_COORDINATE",
    "arranged",
    "as_written",
    "chunks",
    "clean_polygons",
    "make_valid",
    "nuclei_apart",
    "polygon_parts",
    "solid",
]

GRID_PX = 0.01
"""Distance of the grid's points, px of level 0."""
MIN_AREA_PX2 = 1.0
"""Polygons with less area are dropped, px² of level 0."""
MAX_COORDINATE = 1e9
"""Largest coordinate, px of level 0; polygons beyond it are dropped."""
_MAX_REPAIRS = 4


def clean_polygons(
    geometries: Sequence[shapely.Geometry] | NDArray[np.object_],
    *,
    min_area_px2: float = MIN_AREA_PX2,
    largest: bool = True,
) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """Round geometries to 0.01 px, repair the invalid ones, and drop the small ones.

    Rounding comes first, because it can make a valid polygon invalid. QuPath refuses a whole file
    for one invalid polygon.

    Parameters
    ----------
    geometries
        shapely geometries (n,); of a collection only the polygons are kept
    min_area_px2
        smaller areas are dropped, px² of level 0
    largest
        keep the largest part of each geometry; otherwise all parts, as a MultiPolygon

    Returns
    -------
    polygons
        object (m,), valid, m <= n
    index
        int64 (m,): index in `geometries` of each polygon, ascending
    """
    shapes = np.empty(len(geometries), object)
    shapes[:] = shapely.force_2d(np.asarray(geometries, object))
    coords, owner = shapely.get_coordinates(shapes, return_index=True)
    shapes[owner[~(np.abs(coords) < MAX_COORDINATE).all(axis=1)]] = None
    shapes = shapely.transform(shapes, _round)
    kinds = [shapely.GeometryType.POLYGON] + [shapely.GeometryType.MULTIPOLYGON] * (not largest)
    broken = ~(shapely.is_valid(shapes) & np.isin(shapely.get_type_id(shapes), kinds))
    for i in np.flatnonzero(broken & ~shapely.is_missing(shapes)):
        shapes[i] = _repair(shapes[i], largest)
    # The area of a missing geometry is NaN, which is not >= anything.
    index = np.flatnonzero(shapely.area(shapes) >= max(min_area_px2, GRID_PX**2))
    return shapes[index], index


def make_valid(objects: Objects, *, checked: NDArray[np.bool_] | None = None) -> Objects:
    """Round polygons to 0.01 px, repair the invalid ones, and drop those below 1 px².

    Objects that are `valid` already are returned unchanged. See `clean_polygons` for the repair.

    Parameters
    ----------
    checked
        bool (n,): which polygons, once rounded, were found valid before; they are not tested again

    Returns
    -------
    Objects that are `valid`, m <= n of them, in the same order
    """
    if objects.valid:
        return objects
    if len(objects) == 0:
        return replace(objects, valid=True)
    rounded = replace(objects, coords=np.round(objects.coords, 2))
    polygons = rounded.polygons()
    good = shapely.is_valid(polygons) if checked is None else checked
    good = good & (shapely.area(polygons) >= MIN_AREA_PX2)
    good &= (np.abs(_reach(rounded)) < MAX_COORDINATE) & _closed(rounded)
    if good.all():
        return replace(rounded, valid=True)
    kept, index = clean_polygons(polygons)
    return replace(_with_polygons(objects.take(index), kept), valid=True)


def nuclei_apart(objects: Objects, *, copy_share: float = 1.0) -> Objects:
    """Return objects whose cells hold nuclei that do not overlap, as a MultiPolygon requires.

    Where nuclei of one cell overlap, the earlier one is cut out of the later one, with a gap of
    two grid widths. A nucleus with nothing left is dropped, and before that one of which larger
    ones cover more than `copy_share`.
    """
    if objects.parent is None:
        return objects
    held = np.flatnonzero(objects.parent >= 0)
    _, cell, count = np.unique(objects.parent[held], return_inverse=True, return_counts=True)
    several = count[cell] > 1
    rows = held[several][np.argsort(cell[several], kind="stable")]
    if len(rows) == 0:
        return objects
    families = np.split(rows, np.cumsum(count[count > 1])[:-1])
    number = np.repeat(np.arange(len(families)), count[count > 1])
    together = shapely.multipolygons(objects.take(rows).polygons(), indices=number)
    bad = np.flatnonzero(~shapely.is_valid(together))
    if len(bad) == 0:
        return objects
    shapes = objects.polygons()
    for mine in (families[i] for i in bad):
        by_size = mine[np.argsort(-shapely.area(shapes[mine]), kind="stable")]
        for k in range(1, len(mine) if copy_share < 1 else 0):
            own, larger = shapes[by_size[k]], shapely.union_all(shapes[by_size[:k]])
            if shapely.area(shapely.intersection(own, larger)) > copy_share * own.area:
                shapes[by_size[k]] = None
        mine = mine[~shapely.is_missing(shapes[mine])]
        for k in range(1, len(mine)):
            taken = shapely.union_all(shapes[mine[:k]]).buffer(2 * GRID_PX)
            left, _ = clean_polygons([shapely.difference(shapes[mine[k]], taken)])
            shapes[mine[k]] = left[0] if len(left) else None
    keep = np.flatnonzero(~shapely.is_missing(shapes))
    return _with_polygons(objects.take(keep), shapes[keep])


def as_written(objects: Objects) -> Objects:
    """Return objects as every file format has them: valid, and nuclei of a cell apart."""
    return nuclei_apart(make_valid(objects))


def arranged(objects: Objects) -> Objects:
    """Return objects as every file format has them, each nucleus right after its cell."""
    parts = [as_written(part) for part in chunks(objects, 50_000)]
    return Objects.concatenate(parts) if parts else objects


def chunks(objects: Objects, size: int) -> Iterator[Objects]:
    """Yield the objects in chunks of about `size`; a nucleus is in the chunk of its cell.

    Each nucleus follows its cell; otherwise the order is kept.

    Raises
    ------
    DataError
        an object holds a nucleus and is itself inside a cell
    """
    order = np.arange(len(objects))
    head = order
    if objects.parent is not None:
        held = objects.parent >= 0
        if held[objects.parent[held]].any():
            raise DataError("a nucleus holds another object; only cells can, so unlink it")
        order = np.lexsort((held, np.where(held, objects.parent, order)))
        head = np.flatnonzero(~held[order])
    wanted = np.searchsorted(head, np.arange(0, len(objects), size))
    edges = np.unique([*head[np.minimum(wanted, len(head) - 1)], len(objects)])
    for start, stop in pairwise(edges):
        yield objects.take(order[start:stop])


def polygon_parts(geometry: shapely.Geometry) -> list[shapely.Polygon]:
    """Return the polygons of a geometry or of a nested collection, without lines and points."""
    if geometry.geom_type == "Polygon":
        return [] if geometry.is_empty else [geometry]
    return [p for part in getattr(geometry, "geoms", ()) for p in polygon_parts(part)]


def solid(polygon: shapely.Polygon) -> shapely.Geometry:
    """Return the area that the shell of a polygon encloses minus the area of its holes.

    The polygon may be invalid. `shapely.make_valid` alone may turn a hole outside the shell into
    a part of its own.
    """
    rings = [shapely.Polygon(ring) for ring in (polygon.exterior, *polygon.interiors)]
    shell, *holes = shapely.make_valid(rings, method="structure", keep_collapsed=False)
    return shapely.difference(shell, shapely.union_all(holes))


def _with_polygons(objects: Objects, polygons: NDArray[np.object_]) -> Objects:
    """Return the objects with other polygons (n,); `valid` is kept."""
    changed = Objects.from_polygons(
        polygons,
        classes=objects.classes,
        ids=objects.ids,
        class_index=objects.class_index,
        score=objects.score,
        features=objects.features,
        parent=objects.parent,
    )
    return replace(changed, valid=objects.valid)


def _round(coords: NDArray[Any]) -> NDArray[Any]:
    return np.round(coords, 2)


def _repair(geometry: shapely.Geometry, largest: bool) -> shapely.Geometry | None:
    """Return a valid polygon on the grid, or None where nothing with an area is left."""
    for _ in range(_MAX_REPAIRS):
        try:
            whole = shapely.union_all([solid(part) for part in polygon_parts(geometry)])
            parts = polygon_parts(shapely.set_precision(whole, GRID_PX))
        except shapely.errors.GEOSException:  # its overlay fails for some degenerate polygons
            return None
        if not parts:
            return None
        single = largest or len(parts) == 1
        geometry = max(parts, key=shapely.area) if single else shapely.MultiPolygon(parts)
        # GEOS rounds by its own arithmetic, which may differ from `round` in the last bit.
        geometry = shapely.transform(geometry, _round)
        if geometry.is_valid:
            return geometry
    return None


def _closed(objects: Objects) -> NDArray[np.bool_]:
    """Return for each object whether all its rings end where they start, bool (n,)."""
    coords, offsets = objects.coords, objects.ring_offsets
    rings = (coords[offsets[:-1]] == coords[offsets[1:] - 1]).all(axis=1)
    return np.logical_and.reduceat(rings, objects.object_offsets[:-1])


def _reach(objects: Objects) -> NDArray[np.float64]:
    """Return the largest absolute coordinate of each object, float64 (n,)."""
    starts = objects.ring_offsets[objects.object_offsets]
    return np.maximum.reduceat(np.abs(objects.coords).max(axis=1), starts[:-1])
