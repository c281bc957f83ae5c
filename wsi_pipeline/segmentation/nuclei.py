"""One region from pixels to objects: predict, decide who owns what, part, trace, measure."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numba
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.geometry import Box, Region
from wsi_pipeline.core.ids import object_ids
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.polygons import make_valid
from wsi_pipeline.segmentation.components import Components, find_components, from_label_image
from wsi_pipeline.segmentation.contours import simplified, trace
from wsi_pipeline.segmentation.inference import Engine
from wsi_pipeline.segmentation.morphometry import OD_MEAN, mean_od, morphometry
from wsi_pipeline.segmentation.ownership import (
    LARGEST_PX,
    OBJECT_HALO_PX,
    ObjectFilter,
    in_reading_order,
)
from wsi_pipeline.segmentation.score_rule import is_certain
from wsi_pipeline.segmentation.split_touching import split_touching

__all__ = [
    "empty",
    "segment_region",
]

SHARED_PX = 16
"""How far over their common border two regions both keep what a function finds, model pixels."""

Images = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class _View:
    """A window that the model has seen."""

    window: Box
    image: Images
    probability: Images
    components: Components

    @property
    def corner(self) -> NDArray[np.int64]:
        """Top left corner of the window, as x and y."""
        return np.array([self.window.x0, self.window.y0], np.int64)

    def first_pixels(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First pixel of each component on the slide's model grid."""
        x = self.components.first_x.astype(np.int64) + self.window.x0
        return x, self.components.boxes[:, 1].astype(np.int64) + self.window.y0


def _look(engine: Engine, window: Box, config: RunConfig, overlap: int = 0) -> _View:
    if engine.model.label is not None:
        image, labels = engine.label(window)
        certain = np.where(labels > 0, 255, 0).astype(np.uint8)[None]
        return _View(window, image, certain, from_label_image(labels))
    image, probability = engine.predict(window, overlap)
    began = time.perf_counter()
    components = find_components(probability.max(0), config.threshold)
    engine.watch.add("objects", began)
    return _View(window, image, probability, components)


def segment_region(
    engine: Engine, region: Region, config: RunConfig, keep: ObjectFilter
) -> tuple[Objects, int]:
    """All objects that `region` owns, and how many of them were larger than could be seen.

    A region owns the components whose first pixel in reading order lies in its core. One that
    does not reach the edge of the window is complete, so its first pixel is certain; one that does
    is seen again through a window around it. Components are owned before they are parted.
    """
    window = region.core.grow(OBJECT_HALO_PX)
    view = _look(engine, window, config, 2 * OBJECT_HALO_PX)
    x, y = view.first_pixels()
    # A function may see an object a little differently through each window; both neighbours then
    # keep it, and `stitch` finds the copies.
    core = region.core.grow(SHARED_PX if engine.model.label is not None else 0)
    owned = (x >= core.x0) & (x < core.x1) & (y >= core.y0) & (y < core.y1)
    owned[0] = False
    cut = view.components.touches_edge()
    parts = [_objects(engine, view, owned & ~cut, config)]
    oversized = 0
    done: set[tuple[int, int]] = set()
    for k in np.flatnonzero(owned & cut):
        again, which, whole = _look_again(engine, view, int(k), config)
        ax, ay = again.first_pixels()
        first = int(ax[which]), int(ay[which])
        if core.contains(*first) and first not in done:
            done.add(first)
            oversized += not whole
            mine = np.arange(len(ax)) == which
            parts.append(_objects(engine, again, mine, config))
    objects = keep.select(Objects.concatenate(parts))
    return in_reading_order(objects), oversized


def _look_again(engine: Engine, view: _View, k: int, config: RunConfig) -> tuple[_View, int, bool]:
    """See component `k` of a view through ever larger windows until it is whole or too large."""
    stride = engine.model.stride
    x, y = (int(first[k]) for first in view.first_pixels())
    box = _box_of(view, k)
    margin = OBJECT_HALO_PX
    while True:
        window = box.grow(margin).snap(stride)
        again = _look(engine, window, config)
        which = int(again.components.labels[y - window.y0, x - window.x0])
        if which == 0:  # a function that sees something else from here: keep what was seen first
            return view, k, False
        whole = not again.components.touches_edge()[which]
        if whole or max(window.width, window.height) >= LARGEST_PX:
            return again, which, whole
        box = _box_of(again, which)
        margin *= 2


def _box_of(view: _View, k: int) -> Box:
    """Bounding box of component `k` on the slide's model grid."""
    box = Box(*(int(v) for v in view.components.boxes[k]))
    return box.shift(view.window.x0, view.window.y0)


def _objects(engine: Engine, view: _View, wanted: NDArray[np.bool_], config: RunConfig) -> Objects:
    """The objects of some components of a view."""
    began = time.perf_counter()
    model, scale = engine.model, engine.scale
    min_px = config.min_area_um2 / model.mpp**2
    split = config.split and model.label is None
    pieces = split_touching(view.components, wanted, min_px=min_px, split=split)
    if len(pieces) == 0:
        return empty(model.classes)
    strongest = view.probability.max(0)
    vertices, offsets = trace(pieces.labels, strongest, pieces.first, 255 * config.threshold)
    limit = np.array([engine.slide.width, engine.slide.height], float)
    vertices = np.clip((vertices + view.corner) * scale, 0, limit)
    coords, offsets, valid = simplified(vertices, offsets)
    classes, score = _scores(pieces.labels, view.probability, pieces.area_px)
    position = pieces.first + view.corner
    od = mean_od(view.image, pieces.labels, len(pieces), background=engine.slide.background)
    objects = Objects(
        classes=model.classes,
        ids=object_ids(engine.slide.slide_id, model.name, position),
        class_index=classes,
        score=score,
        coords=coords,
        ring_offsets=offsets,
        object_offsets=np.arange(len(pieces) + 1, dtype=np.int64),
        features={OD_MEAN: od},
    )
    certain = is_certain(
        score, pieces.area_px * model.mpp**2,
        min_score=config.min_score, min_small_score=config.min_small_score,
    )  # fmt: skip
    objects = make_valid(objects.take(certain), checked=valid[certain])
    measured = morphometry(objects, model.mpp / scale) | dict(objects.features)
    engine.watch.add("objects", began)
    return replace(objects, features=measured)


def empty(classes: tuple[str, ...]) -> Objects:
    """No objects, with the measurements that every region's objects have."""
    none = Objects.empty(classes)
    return replace(none, features=morphometry(none, 1.0) | {OD_MEAN: np.zeros(0, np.float32)})


def _scores(
    labels: NDArray[np.int32], probability: Images, area_px: NDArray[np.int32]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Class and score of each object: the class most probable over all its pixels, and its mean.

    A nucleus's class is decided per instance (Luo et al. 2022).
    """
    sums = _class_sums(labels, probability, len(area_px))
    best = sums.argmax(1)
    # Sums of bytes are exact, so the score does not depend on the order of the pixels.
    mean = sums[np.arange(len(best)), best] / (255.0 * area_px)
    return best.astype(np.uint8), np.round(mean, 4).astype(np.float32)


@numba.njit(nogil=True, cache=True)
def _class_sums(labels: NDArray[np.int32], probability: Images, n: int) -> NDArray[np.int64]:
    """Sum of each class's bytes over the pixels of each object 1…n, int64 (n, classes)."""
    sums = np.zeros((n, len(probability)), np.int64)
    for k in range(len(probability)):
        for r in range(labels.shape[0]):
            for c in range(labels.shape[1]):
                if labels[r, c] > 0:
                    sums[labels[r, c] - 1, k] += probability[k, r, c]
    return sums
