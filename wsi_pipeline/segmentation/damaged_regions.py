"""Regions of damaged slides: what cannot be read costs what touches it, and not the region."""

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

__all__ = ["Found", "find_objects"]

MARGIN_PX = 2
"""What ends so near to a gap, model pixels, may go on in it."""


@dataclass(frozen=True, eq=False)
class Found:
    """What was found in a region.

    Attributes
    ----------
    oversized
        how many objects were larger than could be seen
    cause, missing
        why the region is not whole, and the level-0 boxes that could not be read; empty if it is
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


def find_objects(engine: Engine, region: Region, config: RunConfig, keep: ObjectFilter) -> Found:
    """Objects of a region; of what cannot be read only those that touch it lack.

    Raises
    ------
    SlideError
        nothing of the region can be read, or the drive does not answer
    """
    try:
        return Found(*engine.model.segment_region(engine, region, config, keep))
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
        return Found(objects.take(~touching), oversized, cause, missing)


def _share(boxes: Sequence[Box], core: Box) -> float:
    """Share of a core that lies in boxes."""
    inside = np.zeros((core.height, core.width), np.bool_)
    for box in (b.clip(core).shift(-core.x0, -core.y0) for b in boxes):
        inside[box.y0 : box.y1, box.x0 : box.x1] = True
    return float(inside.mean())


def _level0(box: Box, engine: Engine) -> Box:
    """A box of model pixels in level-0 pixels, rounded outwards."""
    low = (math.floor(v * engine.scale) for v in (box.x0, box.y0))
    high = (math.ceil(v * engine.scale) for v in (box.x1, box.y1))
    return Box(*low, *high).clip(Box(0, 0, engine.slide.width, engine.slide.height))


def _touching(objects: Objects, boxes: Sequence[Box]) -> NDArray[np.bool_]:
    """Which objects (n,) have a bounding box that meets one of `boxes`, in level-0 pixels."""
    bounds = objects.bounds()
    touching = np.zeros(len(objects), np.bool_)
    for box in boxes:
        low, high = (box.x0, box.y0), (box.x1, box.y1)
        touching |= ((bounds[:, :2] < high) & (bounds[:, 2:] > low)).all(axis=1)
    return touching
