"""Stitching: one object list out of many regions.

A network's probabilities are the same through every window, so ownership alone gives each object
exactly once (`segment`). A function of one's own may answer differently through each window; for
those, copies of one object from different regions are found here. Objects of the same region are
never compared: two that overlap there are two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.objects import Objects
from wsi_pipeline.tiling import Box

__all__ = ["SAME_IOU", "duplicates"]

SAME_IOU = 0.5
"""Two outlines from different regions that agree this well are one object."""


@dataclass(frozen=True, eq=False)
class _Borders:
    """Objects near the border of one region; depth is how far inside its core each lies."""

    part: NDArray[np.int64]
    index: NDArray[np.int64]
    polygon: NDArray[np.object_]
    depth: NDArray[np.float64]


def duplicates(
    parts: Iterable[tuple[int, Objects]], cores: Mapping[int, Box], *, scale: float, reach_px: int
) -> dict[int, NDArray[np.bool_]]:
    """For each region, which of its objects are copies of another region's.

    Of two copies the one farther from the border of its region stays; of equals the one with the
    smaller region number.

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
    for number, objects in parts:
        sizes[number] = len(objects)
        core = cores[number]
        box = objects.bounds() / scale - (core.x0, core.y0, core.x0, core.y0)
        depth = np.minimum.reduce(
            [box[:, 0], box[:, 1], core.width - box[:, 2], core.height - box[:, 3]]
        )
        index = np.flatnonzero(depth < reach_px)
        polygons = objects.take(index).polygons()
        near.append(_Borders(np.full(len(index), number), index, polygons, depth[index]))
    drop = {number: np.zeros(size, np.bool_) for number, size in sizes.items()}
    if not near:
        return drop
    part = np.concatenate([n.part for n in near])
    index = np.concatenate([n.index for n in near])
    polygon = np.concatenate([n.polygon for n in near])
    depth = np.concatenate([n.depth for n in near])
    a, b = shapely.STRtree(polygon).query(polygon, predicate="intersects")
    apart = (a < b) & (part[a] != part[b])
    a, b = a[apart], b[apart]
    shared = shapely.area(shapely.intersection(polygon[a], polygon[b]))
    union = shapely.area(polygon[a]) + shapely.area(polygon[b]) - shared
    same = shared >= SAME_IOU * union
    for i, j in zip(a[same], b[same], strict=True):
        worse = j if depth[i] >= depth[j] else i
        drop[int(part[worse])][index[worse]] = True
    return drop
