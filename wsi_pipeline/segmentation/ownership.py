"""Which region owns an object, and which objects stay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

from wsi_pipeline.core.objects import Objects
from wsi_pipeline.slides.foreground import Foreground

__all__ = [
    "LARGEST_PX",
    "OBJECT_HALO_PX",
    "REGION_PX",
    "ObjectFilter",
    "in_reading_order",
]


REGION_PX = 1920
"""Core of a region, model pixels; with its halo it is 2048, a multiple of every usual tile."""

OBJECT_HALO_PX = 64
"""Enough for the rest of every nucleus, model pixels; a wider object is seen again."""

LARGEST_PX = 4096
"""An object wider than this, model pixels, is no nucleus; it is kept as far as it was seen."""


@dataclass(frozen=True)
class ObjectFilter:
    """Which objects stay: those whose centre lies in the foreground, and in `roi` where given.

    A nucleus stays with its cell. `roi` is a shapely geometry in level-0 pixels. The centre is
    that of the bounding box.
    """

    foreground: Foreground
    roi: shapely.Geometry | None = None

    def select(self, objects: Objects) -> Objects:
        """The objects that stay."""
        box = objects.bounds()
        x, y = (box[:, 0] + box[:, 2]) / 2, (box[:, 1] + box[:, 3]) / 2
        inside = self.foreground.contains(x, y)
        if self.roi is not None:
            inside &= shapely.contains_xy(self.roi, x, y)
        if objects.parent is not None:
            inside = np.where(objects.parent >= 0, inside[objects.parent], inside)
        return objects.take(inside)


def in_reading_order(objects: Objects) -> Objects:
    """The same objects from top to bottom and left to right, ties by id."""
    box = objects.bounds()
    return objects.take(np.lexsort((objects.ids[:, 1], box[:, 0], box[:, 1])))
