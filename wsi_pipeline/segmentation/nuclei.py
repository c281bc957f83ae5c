"""Nuclei: regions of models whose objects do not overlap.

A window is segmented into components; the region takes those that it owns, splits touching nuclei,
traces their outlines and measures them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.geometry import Box, Region
from wsi_pipeline.core.ids import object_ids
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.polygons import make_valid
from wsi_pipeline.segmentation.components import Components, find_components, from_label_image
from wsi_pipeline.segmentation.contours import simplify, trace
from wsi_pipeline.segmentation.inference import Engine
from wsi_pipeline.segmentation.kinds import ABNORMAL, KindSorter, has_kinds, reach_of_kinds
from wsi_pipeline.segmentation.model import Images, Model
from wsi_pipeline.segmentation.morphometry import OD_MEAN, mean_od, morphometry
from wsi_pipeline.segmentation.ownership import (
    LARGEST_PX,
    OBJECT_HALO_PX,
    ObjectFilter,
    in_reading_order,
    lies_in_core,
)
from wsi_pipeline.segmentation.score_rule import is_certain
from wsi_pipeline.segmentation.split_touching import split_touching
from wsi_pipeline.segmentation.votes import CERTAINTY, foreground, vote

__all__ = ["CELL_NAMES", "LabelModel", "PixelModel", "model_from_function", "nuclei_only"]

SHARED_PX = 16
"""Width of the strip beyond its core from which a `LabelModel`'s region also keeps objects.

In model pixels.
"""


CELL_NAMES = ("cytoplasm", "cell")
"""Classes of a pixel that mean a whole cell, or what of it is not nucleus."""


class _NucleusModel(Model):
    """What `PixelModel` and `LabelModel` have in common."""

    @property
    def reach_px(self) -> int:
        """See `Model`."""
        return OBJECT_HALO_PX

    @property
    def margin_px(self) -> int:
        """See `Model`."""
        return OBJECT_HALO_PX

    @property
    def votes(self) -> bool:
        """Whether the pixels of a nucleus decide which class of several it has."""
        return False

    def empty(self) -> Objects:
        """See `Model`."""
        none = Objects.empty(self.classes)
        measured = [OD_MEAN, ABNORMAL] if has_kinds(self.classes) else [OD_MEAN]
        measured += [CERTAINTY] if self.votes else []
        empty = {name: np.zeros(0, np.float32) for name in measured}
        return replace(none, features=morphometry(none, 1.0) | empty)


@dataclass(frozen=True, kw_only=True)
class PixelModel(_NucleusModel):
    """A network that gives class probabilities for each pixel.

    A pixel's probabilities do not depend on the window, so the region that owns an object's first
    pixel is the only one that keeps it.

    Attributes
    ----------
    network
        images uint8 (n, h, w, 3) → probabilities uint8 (n, classes, h, w), 255 = certain
    core_network
        computes the same without `halo_px` on each side, where that costs less
    sorter
        decides what kind of nucleus each is; `classes` are then `KIND_CLASSES`
    """

    network: Callable[[Images], Images]
    core_network: Callable[[Images], Images] | None = None
    sorter: KindSorter | None = None
    streams: ClassVar[bool] = True

    @property
    def votes(self) -> bool:
        """Whether the pixels of a nucleus decide which class of several it has."""
        return self.channels > 1

    @property
    def channels(self) -> int:
        """See `Model`; a sorter's classes are not those of the network."""
        return 1 if has_kinds(self.classes) else len(self.classes)

    def infer(self, images: Images) -> list[Images]:
        """Compute class probabilities (classes, h, w) for each image uint8 (n, h, w, 3)."""
        return list(self.network(images))

    def infer_core(self, images: Images) -> list[Images]:
        """Compute the same without `halo_px` on each side: (classes, h − 2 halo, w − 2 halo)."""
        if self.core_network is not None:
            return list(self.core_network(images))
        inside = slice(self.halo_px, -self.halo_px or None)
        return list(self.network(images)[:, :, inside, inside])

    def segment_region(
        self, engine: Engine, region: Region, config: RunConfig, keep: ObjectFilter
    ) -> tuple[Objects, int]:
        """See `Model`; touching nuclei are split where `config.split` is set."""
        threshold = config.object_rule(self.rule).threshold

        def segment(window: Box, overlap: int = 0) -> _SegmentedWindow:
            image, probability = engine.predict(self.infer_core, window, overlap)
            began = time.perf_counter()
            components = find_components(foreground(probability), threshold)
            engine.watch.add("objects", began)
            return _SegmentedWindow(window, image, probability, components)

        return _segment_region(
            engine, region, config, keep, segment, split=config.split, sorter=self.sorter
        )


def nuclei_only(model: Model) -> Model:
    """Return a model of the nuclei alone where they lie in cells that have a class too.

    Pixels of a cell and of its nucleus touch, so that both would become one object. Other models
    are returned as they are.
    """
    classes = model.classes
    if not isinstance(model, PixelModel) or has_kinds(classes) or "nucleus" not in classes:
        return model
    if not set(classes) & set(CELL_NAMES):
        return model
    k, whole = classes.index("nucleus"), model.network

    def nuclei(images: Images) -> Images:
        return np.ascontiguousarray(whole(images)[:, k : k + 1])

    return replace(model, classes=("nucleus",), network=nuclei, core_network=None)


@dataclass(frozen=True, kw_only=True)
class LabelModel(_NucleusModel):
    """A plain function that gives a label image; it decides itself which pixels make an object.

    It may draw an object slightly differently through each window. Both neighbours then keep it,
    and `stitch.duplicates` removes the copy.

    Attributes
    ----------
    network
        image uint8 (h, w, 3) → label image (h, w), 0 background and one number per object
    """

    network: Callable[[Images], NDArray[np.integer]]

    def infer(self, images: Images) -> list[NDArray[np.integer]]:
        """Compute a label image (h, w) for each image uint8 (n, h, w, 3).

        Raises
        ------
        TypeError
            the function returns something else than an integer label image of the same size
        """
        answers = [np.asarray(self.network(image)) for image in images]
        for labels in answers:
            if labels.shape != images.shape[1:3] or not np.issubdtype(labels.dtype, np.integer):
                raise TypeError(
                    f"{self.name} returned {labels.dtype} {labels.shape} for an image of "
                    f"{images.shape[1:3]}; it must return an integer label image of the same size"
                )
        return answers

    def segment_region(
        self, engine: Engine, region: Region, config: RunConfig, keep: ObjectFilter
    ) -> tuple[Objects, int]:
        """See `Model`; touching objects stay as the function draws them."""

        def segment(window: Box, overlap: int = 0) -> _SegmentedWindow:
            image, labels = engine.label(window)
            certain = np.where(labels > 0, 255, 0).astype(np.uint8)[None]
            return _SegmentedWindow(window, image, certain, from_label_image(labels))

        return _segment_region(engine, region, config, keep, segment, shared_px=SHARED_PX)


def model_from_function(
    function: Callable[[Images], NDArray[np.integer]],
    *,
    name: str,
    mpp: float,
    classes: Sequence[str] = ("nucleus",),
    halo_px: int = 64,
    tile_px: int = 1024,
) -> LabelModel:
    """Make a model from a plain function image uint8 (h, w, 3) → label image (h, w).

    All objects get the first class. `halo_px` is the context that the function needs, in pixels of
    `mpp`.

    >>> import numpy as np
    >>> def find_dark(image):
    ...     return (image.max(axis=2) < 100).astype(np.int32)  # one object: all dark pixels
    >>> model = model_from_function(find_dark, name="dark", mpp=0.5)
    >>> image = np.full((1, 2, 3, 3), 255, np.uint8)
    >>> image[0, 0, 1:] = 20
    >>> model.infer(image)[0]
    array([[0, 1, 1],
           [0, 0, 0]], dtype=int32)
    """
    return LabelModel(
        name=name, classes=tuple(classes), mpp=mpp, halo_px=halo_px, stride=1, tile_px=tile_px,
        identity=name, network=function,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _SegmentedWindow:
    """A window of the slide and its components.

    Attributes
    ----------
    box
        in model pixels of the slide
    image, probability
        uint8 (h, w, 3) and (classes, h, w)
    components
        numbered from 1
    """

    box: Box
    image: Images
    probability: Images
    components: Components

    @property
    def corner(self) -> NDArray[np.int64]:
        """Upper left corner as x, y."""
        return np.array([self.box.x0, self.box.y0], np.int64)

    def first_pixels(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return x and y of each component's first pixel in reading order, in slide coordinates."""
        x = self.components.first_x.astype(np.int64) + self.box.x0
        return x, self.components.boxes[:, 1].astype(np.int64) + self.box.y0

    def bounds(self, k: int) -> Box:
        """Return the bounding box of component `k` in slide coordinates."""
        box = Box(*(int(v) for v in self.components.boxes[k]))
        return box.shift(self.box.x0, self.box.y0)


class _SegmentWindow(Protocol):
    """Segment a window; the next windows of the slide will share `overlap` pixels with it."""

    def __call__(self, window: Box, overlap: int = 0) -> _SegmentedWindow: ...


def _segment_region(
    engine: Engine,
    region: Region,
    config: RunConfig,
    keep: ObjectFilter,
    segment: _SegmentWindow,
    *,
    split: bool = False,
    shared_px: int = 0,
    sorter: KindSorter | None = None,
) -> tuple[Objects, int]:
    """Return the objects that a region owns, and how many are larger than `LARGEST_PX`.

    A region owns the components whose first pixel in reading order lies in its core, grown by
    `shared_px`. A component that does not reach the window's edge is complete, so its first pixel
    is certain; one that does is segmented again in a larger window before its owner is decided.
    Owners are decided before touching nuclei are split. A `sorter` needs more of the image around
    a nucleus, so what is too near to the window's edge for it is segmented again too.
    """
    margin = reach_of_kinds(engine.model.mpp) if sorter else 0
    window = segment(region.core.grow(OBJECT_HALO_PX), 2 * OBJECT_HALO_PX)
    x, y = window.first_pixels()
    core = region.core.grow(shared_px)
    owned = lies_in_core(core, x, y)
    owned[0] = False
    cut = window.components.touches_edge(margin)
    parts = [_objects(engine, window, owned & ~cut, config, split, sorter)]
    oversized = 0
    done: set[tuple[int, int]] = set()
    for k in np.flatnonzero(owned & cut):
        larger, index, complete = _complete(engine.model.stride, window, int(k), segment)
        xs, ys = larger.first_pixels()
        first = int(xs[index]), int(ys[index])
        if core.contains(*first) and first not in done:
            done.add(first)
            oversized += not complete
            selected = np.arange(len(xs)) == index
            parts.append(_objects(engine, larger, selected, config, split, sorter))
    objects = keep.select(Objects.concatenate(parts))
    return in_reading_order(objects), oversized


def _complete(
    stride: int, window: _SegmentedWindow, k: int, segment: _SegmentWindow
) -> tuple[_SegmentedWindow, int, bool]:
    """Segment component `k` of a window in ever larger windows until it does not reach the edge.

    Returns
    -------
    the last window, the component's number in it, and whether the component is complete
    """
    x, y = (int(first[k]) for first in window.first_pixels())
    box = window.bounds(k)
    margin = OBJECT_HALO_PX
    while True:
        larger = segment(box.grow(margin).snap(stride))
        index = int(larger.components.labels[y - larger.box.y0, x - larger.box.x0])
        if index == 0:  # a `LabelModel` need not find the object again
            return window, k, False
        complete = not larger.components.touches_edge()[index]
        if complete or max(larger.box.width, larger.box.height) >= LARGEST_PX:
            return larger, index, complete
        box = larger.bounds(index)
        margin *= 2


def _objects(
    engine: Engine,
    window: _SegmentedWindow,
    selected: NDArray[np.bool_],
    config: RunConfig,
    split: bool,
    sorter: KindSorter | None,
) -> Objects:
    """Make objects of the selected components of a window: split, outline, score and measure."""
    began = time.perf_counter()
    model, scale, rule = engine.model, engine.scale, config.object_rule(engine.model.rule)
    min_px = config.min_area_um2 / model.mpp**2
    nuclei = split_touching(window.components, selected, min_px=min_px, split=split)
    if len(nuclei) == 0:
        return model.empty()
    strongest = foreground(window.probability)
    vertices, offsets = trace(nuclei.labels, strongest, nuclei.first_pixel, 255 * rule.threshold)
    limit = np.array([engine.slide.width, engine.slide.height], float)
    vertices = np.clip((vertices + window.corner) * scale, 0, limit)
    coords, offsets, valid = simplify(vertices, offsets)
    classes, score, certainty = vote(nuclei.labels, window.probability, nuclei.area_px)
    background = engine.slide.background
    measures = {OD_MEAN: mean_od(window.image, nuclei.labels, len(nuclei), background=background)}
    if len(window.probability) > 1:
        measures[CERTAINTY] = certainty
    certain = is_certain(
        score, nuclei.area_px * model.mpp**2,
        min_score=rule.min_score, min_small_score=rule.min_small_score,
    )  # fmt: skip
    if sorter is not None:
        classes, measures[ABNORMAL] = sorter.sort(window.image, nuclei.labels, certain)
    position = nuclei.first_pixel + window.corner
    objects = Objects(
        classes=model.classes,
        ids=object_ids(engine.slide.slide_id, model.name, position),
        class_index=classes,
        score=score,
        coords=coords,
        ring_offsets=offsets,
        object_offsets=np.arange(len(nuclei) + 1, dtype=np.int64),
        features=measures,
    )
    objects = make_valid(objects.take(certain), checked=valid[certain])
    measured = morphometry(objects, model.mpp / scale) | dict(objects.features)
    engine.watch.add("objects", began)
    return replace(objects, features=measured)
