"""Which region owns an object, which objects stay, and how far a region's windows extend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.slides.foreground import Foreground

__all__ = [
    "LARGEST_PX",
    "OBJECT_HALO_PX",
    "REGION_PX",
    "ObjectFilter",
    "in_reading_order",
    "lies_in_core",
]

REGION_PX = 1920
"""Width of a region's core, model pixels; 2048 with the object halo, a multiple of usual tiles."""

OBJECT_HALO_PX = 64
"""Border around a region's core that shows nearly every nucleus whole, model pixels.

A wider nucleus is segmented again in a window of its own.
"""

LARGEST_PX = 4096
"""Width at which windows stop growing, model pixels; no nucleus or cell is that wide.

The part of a wider object that lies in the window is kept.
"""


@dataclass(frozen=True)
class ObjectFilter:
    """Keep objects that lie in the foreground, and in the region of interest if given.

    The middle of the bounding box decides about the foreground, and the centroid about the region
    of interest, as in QuPath. A nucleus in a cell stays if its cell stays.

    Attributes
    ----------
    foreground
        where there are cells
    roi
        shapely geometry in level-0 pixels, or None
    """

    foreground: Foreground
    roi: shapely.Geometry | None = None

    def select(self, objects: Objects) -> Objects:
        """Return the objects that stay, in their order."""
        box = objects.bounds()
        x, y = (box[:, 0] + box[:, 2]) / 2, (box[:, 1] + box[:, 3]) / 2
        inside = self.foreground.contains(x, y)
        if self.roi is not None:
            middle = shapely.centroid(objects.polygons())
            inside &= shapely.contains_xy(self.roi, shapely.get_x(middle), shapely.get_y(middle))
        if objects.parent is not None:
            inside = np.where(objects.parent >= 0, inside[objects.parent], inside)
        return objects.take(inside)


def lies_in_core(core: Box, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which points (n,) lie in a core: the region or window with this core owns them.

    Cores partition the slide, so each point has one owner. The point of a nucleus is its first
    pixel in reading order, that of a cell the middle of its bounding box.
    """
    return (x >= core.x0) & (x < core.x1) & (y >= core.y0) & (y < core.y1)


def in_reading_order(objects: Objects) -> Objects:
    """Sort objects from top to bottom, then left to right, by bounding box; ties by id."""
    box = objects.bounds()
    return objects.take(np.lexsort((objects.ids[:, 1], box[:, 0], box[:, 1])))
