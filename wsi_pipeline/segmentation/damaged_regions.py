"""Segment regions of damaged slides: only objects that touch an unreadable part are lost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import SlideReadError, SlideTimeoutError
from wsi_pipeline.core.geometry import Box, Region
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.records import RegionFailure
from wsi_pipeline.segmentation.inference import Engine
from wsi_pipeline.segmentation.ownership import ObjectFilter

__all__ = ["RegionObjects", "segment_readable"]

MARGIN_PX = 2
"""Objects this near to an unreadable part may extend into it and are left out, model pixels."""


@dataclass(frozen=True, eq=False)
class RegionObjects:
    """Objects of a region, and what is known of its unreadable parts.

    Attributes
    ----------
    objects
        the objects that the region owns
    oversized
        number of objects that are larger than the largest window
    cause
        why part of the region could not be read; empty if all was read
    missing
        the unreadable boxes, in level-0 pixels; they may overlap
    """

    objects: Objects
    oversized: int
    cause: str = ""
    missing: tuple[Box, ...] = ()

    def failure(self, region: int) -> RegionFailure | None:
        """Return the record of what could not be read; None if the region is complete."""
        if not self.missing:
            return None
        around = self.missing[0]
        for box in self.missing:
            around = around.around(box)
        corners = [[b.x0, b.y0, b.x1, b.y1] for b in (around, *self.missing)]
        return {
            "region": region,
            "level0_box": corners[0],
            "missing": corners[1:],
            "cause": self.cause,
        }


def segment_readable(
    engine: Engine, region: Region, config: RunConfig, keep: ObjectFilter
) -> RegionObjects:
    """Segment a region; where parts of it cannot be read, leave out the objects that touch them.

    Raises
    ------
    SlideError
        nothing of the region can be read, or the drive does not answer
    """
    try:
        return RegionObjects(*engine.model.segment_region(engine, region, config, keep))
    except SlideTimeoutError:
        raise
    except SlideReadError as error:
        tolerant = engine.tolerant()
        objects, oversized = engine.model.segment_region(tolerant, region, config, keep)
        share = _share(tolerant.missing, region.core)
        if not tolerant.missing or share == 1:
            raise
        boxes = sorted(set(tolerant.missing))
        touching = _touching(objects, [_level0(box.grow(MARGIN_PX), engine) for box in boxes])
        cause = f"{error}; {share:.1%} of the region is left out, the rest is kept"
        missing = tuple(_level0(box, engine) for box in boxes)
        return RegionObjects(objects.take(~touching), oversized, cause, missing)


def _share(boxes: Sequence[Box], core: Box) -> float:
    """Return the share of a core's area that lies in boxes."""
    inside = np.zeros((core.height, core.width), np.bool_)
    for box in (b.clip(core).shift(-core.x0, -core.y0) for b in boxes):
        inside[box.y0 : box.y1, box.x0 : box.x1] = True
    return float(inside.mean())


def _level0(box: Box, engine: Engine) -> Box:
    """Convert a box from model pixels to level-0 pixels, rounded outwards."""
    low = (math.floor(v * engine.scale) for v in (box.x0, box.y0))
    high = (math.ceil(v * engine.scale) for v in (box.x1, box.y1))
    return Box(*low, *high).clip(Box(0, 0, engine.slide.width, engine.slide.height))


def _touching(objects: Objects, boxes: Sequence[Box]) -> NDArray[np.bool_]:
    """Return which objects' bounding boxes overlap one of `boxes`, bool (n,); level-0 pixels."""
    bounds = objects.bounds()
    touching = np.zeros(len(objects), np.bool_)
    for box in boxes:
        low, high = (box.x0, box.y0), (box.x1, box.y1)
        touching |= ((bounds[:, :2] < high) & (bounds[:, 2:] > low)).all(axis=1)
    return touching
