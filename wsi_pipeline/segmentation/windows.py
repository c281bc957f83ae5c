"""Segment a region of a model that finds objects in windows of the slide, each exactly once.

Each tile owns the objects whose bounding box has its centre in the tile's core. An object that the
edge of its window cuts is found again in a larger window around it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.geometry import Box, Region, plan_tiles
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.segmentation.inference import Engine
from wsi_pipeline.segmentation.model import Images, Instances
from wsi_pipeline.segmentation.ownership import (
    LARGEST_PX,
    ObjectFilter,
    in_reading_order,
    lies_in_core,
)
from wsi_pipeline.segmentation.stitch import duplicates

__all__ = ["SHARED_PX", "Find", "SlideWindow", "is_cut", "segment_tiles"]

SHARED_PX = 24
"""Width of the strip beyond its core from which a tile also keeps objects, model pixels."""

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class SlideWindow:
    """A window of the slide: its box in model pixels, pixels (h, w, 3) and instances."""

    box: Box
    image: Images
    instances: Instances

    @property
    def corner(self) -> Ints:
        """Upper left corner as x, y."""
        return np.array([self.box.x0, self.box.y0])

    def on_slide(self, limit: NDArray[np.float64]) -> tuple[slice, slice]:
        """Return rows and columns of the pixels that lie on a slide of that width and height."""
        x, y = np.maximum(-self.corner, 0)
        right, below = np.floor(limit - self.corner).astype(np.int64)
        return slice(y, max(below, y)), slice(x, max(right, x))


Find = Callable[[Engine, SlideWindow, RunConfig], tuple[Objects, Bools]]
"""Returns all objects of a window, and which of them its edge cuts."""


def segment_tiles(
    engine: Engine, region: Region, config: RunConfig, keep: ObjectFilter, find: Find
) -> tuple[Objects, int]:
    """Return the objects that a region owns, and how many were larger than the windows.

    Parameters
    ----------
    find
        draws the objects of one window
    """
    model = engine.model
    tiles = list(plan_tiles(region.core, engine.tile_px, model.halo_px))
    cores = [tile.core.clip(region.core) for tile in tiles]
    parts: dict[int, Objects] = {}
    oversized = 0
    for number, answer in engine.detect([t.window for t in tiles], cores).items():
        window = SlideWindow(tiles[number].window, *answer)
        core = cores[number].grow(SHARED_PX)
        objects, cut = _owned_objects(engine, window, core, config, find)
        completed, too_large = _complete_objects(engine, cut, core, config, find)
        parts[number] = Objects.concatenate([objects, *completed])
        oversized += too_large
    if not parts:
        return model.empty(), 0
    began = time.perf_counter()
    copies = duplicates(
        parts.items(),
        dict(enumerate(cores)),
        scale=engine.scale,
        reach_px=model.halo_px,
        by_class=model.by_class,
    )
    objects = Objects.concatenate([part.take(~copies[n]) for n, part in parts.items()])
    objects = in_reading_order(keep.select(objects))
    engine.watch.add("objects", began)
    return objects, oversized


def _owned_objects(
    engine: Engine, window: SlideWindow, core: Box, config: RunConfig, find: Find
) -> tuple[Objects, list[tuple[Box, int]]]:
    """Return the complete cells and nuclei that `core` owns, and those the window's edge cuts.

    The latter as bounding boxes, in model pixels of the slide, with the index of their class.
    """
    began = time.perf_counter()
    objects, cut = find(engine, window, config)
    parent = _parents(objects)
    box = objects.bounds() / engine.scale
    centre = (box[:, :2] + box[:, 2:]) / 2
    inside = lies_in_core(core, *centre.T)
    cell = np.where(parent >= 0, parent, np.arange(len(objects)))
    owned, cut = inside[cell], cut[cell]
    incomplete = [
        (Box(*np.round(box[k]).astype(int).tolist()), int(objects.class_index[k]))
        for k in np.flatnonzero(owned & cut & (parent < 0))
    ]
    engine.watch.add("objects", began)
    return objects.take(owned & ~cut), incomplete


def _parents(objects: Objects) -> Ints:
    """Return the index of the cell that holds each object, −1 for none."""
    return np.full(len(objects), -1) if objects.parent is None else objects.parent


def is_cut(boxes: NDArray[np.float64], window: SlideWindow, limit: NDArray[np.float64]) -> Bools:
    """Return which boxes (n, 4) the window's edge cuts, where that is not the edge of the slide.

    Boxes are in pixels of the window; `limit` is the slide's width and height.
    """
    size = np.array([window.box.width, window.box.height])
    low, high = boxes[:, :2], boxes[:, 2:]
    before: Bools = (low <= 1) & (low + window.corner > 1)
    after: Bools = (high >= size - 1) & (high + window.corner < limit - 1)
    return np.asarray((before | after).any(axis=1))


def _complete_objects(
    engine: Engine, cut: Sequence[tuple[Box, int]], core: Box, config: RunConfig, find: Find
) -> tuple[list[Objects], int]:
    """Segment cut objects again in ever larger windows; return them and how many stay cut.

    Left out are objects whose centre now lies outside `core`, which another tile owns, and those
    that the larger window does not show.
    """
    parts: list[Objects] = []
    oversized = 0
    for box, class_index in cut:
        margin = engine.model.halo_px
        while True:
            window = box.grow(margin).snap(engine.model.stride)
            answers = engine.detect([window], [box])
            if not answers:  # outside the foreground
                break
            objects, still_cut = find(engine, SlideWindow(window, *answers[0]), config)
            k = _best_match(objects, box, class_index, engine.scale)
            if k < 0:
                break
            last = max(window.width, window.height) >= LARGEST_PX
            if last or not still_cut[k]:
                oversized += int(still_cut[k])
                parts.append(_with_nuclei(objects, k, core, engine.scale))
                break
            margin *= 2
    return parts, oversized


def _best_match(objects: Objects, box: Box, class_index: int, scale: float) -> int:
    """Return the object of a class whose bounding box covers most of `box`; −1 if below half.

    The object is larger now than what was cut, so the share of the old box counts and not the IoU.
    """
    bounds = objects.bounds() / scale
    low = np.maximum(bounds[:, :2], (box.x0, box.y0))
    high = np.minimum(bounds[:, 2:], (box.x1, box.y1))
    shared = np.maximum(high - low, 0).prod(1) * (objects.class_index == class_index)
    share = shared / (box.width * box.height)
    return int(share.argmax()) if len(share) and share.max() >= 0.5 else -1


def _with_nuclei(objects: Objects, k: int, core: Box, scale: float) -> Objects:
    """Return object `k` and the nuclei in it; nothing if its centre lies outside `core`."""
    x0, y0, x1, y1 = objects.bounds()[k] / scale
    chosen = (_parents(objects) == k) | (np.arange(len(objects)) == k)
    return objects.take(chosen & core.contains((x0 + x1) / 2, (y0 + y1) / 2))
