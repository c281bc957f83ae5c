"""Cells and their nuclei: regions of a model that gives instances, which may overlap.

Outlines that overlap do not fit into one label image, so each instance is drawn on its own part of
a mask atlas. A cell and its nuclei are kept together, by the tile whose core contains the centre of
the cell's bounding box.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.geometry import Region
from wsi_pipeline.core.ids import object_ids
from wsi_pipeline.core.objects import CELL_CLASS, Objects, is_cell
from wsi_pipeline.core.polygons import make_valid, nuclei_apart
from wsi_pipeline.segmentation.cell_copies import cell_copies
from wsi_pipeline.segmentation.cell_features import cell_features
from wsi_pipeline.segmentation.contours import simplify, trace
from wsi_pipeline.segmentation.ghost_cells import clear_glass, is_ghost
from wsi_pipeline.segmentation.inference import Engine
from wsi_pipeline.segmentation.mask_atlas import MaskAtlas, draw_atlas, largest_parts
from wsi_pipeline.segmentation.model import Images, Instances, Model
from wsi_pipeline.segmentation.morphometry import OD_MEAN, mean_od
from wsi_pipeline.segmentation.ownership import ObjectFilter
from wsi_pipeline.segmentation.pairing import assign_nuclei
from wsi_pipeline.segmentation.score_rule import is_certain
from wsi_pipeline.segmentation.split_touching import LabelImage
from wsi_pipeline.segmentation.windows import SlideWindow, is_cut, segment_tiles

__all__ = ["InstanceModel"]

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
NUCLEUS_COPY = 0.5
"""A nucleus of which other nuclei of its cell cover more than this share is a copy of them."""
_ROW = "row"


@dataclass(frozen=True, kw_only=True)
class InstanceModel(Model):
    """A network that gives instances of cells and nuclei, which may overlap.

    Attributes
    ----------
    network
        images uint8 (n, h, w, 3) → `Instances` of each image
    """

    network: Callable[[Images], list[Instances]]

    @property
    def reach_px(self) -> int:
        """See `Model`."""
        return self.halo_px

    @property
    def margin_px(self) -> int:
        """See `Model`."""
        return 0

    def empty(self) -> Objects:
        """See `Model`."""
        none = replace(
            Objects.empty(self.classes), features={OD_MEAN: np.zeros(0, np.float32)},
            parent=np.zeros(0, np.int64),
        )  # fmt: skip
        return cell_features(none, 1.0)

    def infer(self, images: Images) -> list[Instances]:
        """Find the instances in each image uint8 (n, h, w, 3)."""
        return self.network(images)

    def segment_region(
        self, engine: Engine, region: Region, config: RunConfig, keep: ObjectFilter
    ) -> tuple[Objects, int]:
        """See `Model`.

        A network answers slightly differently through each window. So neighbouring tiles both keep
        what lies on their common border, and `duplicates` removes the copies. Objects of the same
        tile are never compared: two cells that overlap there are two cells.
        """
        return segment_tiles(engine, region, config, keep, _window_objects)


def _window_objects(
    engine: Engine, window: SlideWindow, config: RunConfig
) -> tuple[Objects, Bools]:
    """Return all objects of a window, assigned and measured; and which of them its edge cuts."""
    model, scale = engine.model, engine.scale
    objects, cut = _outlined(engine, window, config)
    if len(objects) == 0:
        return model.empty(), cut[:0]
    objects = assign_nuclei(objects)
    copies = cell_copies(objects)
    if copies.any():
        objects = assign_nuclei(objects.take(~copies))
    # Before they are measured, so that measurements and all formats agree.
    objects = make_valid(nuclei_apart(objects, copy_share=NUCLEUS_COPY))
    row = objects.features[_ROW].astype(np.int64)
    od = np.where(is_cell(objects), np.float32(np.nan), objects.features[OD_MEAN])
    return cell_features(replace(objects, features={OD_MEAN: od}), model.mpp / scale), cut[row]


def _outlined(engine: Engine, window: SlideWindow, config: RunConfig) -> tuple[Objects, Bools]:
    """Return outlines of the instances that are certain and large enough; and which are cut.

    Features are mean optical density and `_ROW`, the position in the second array.
    """
    model, scale = engine.model, engine.scale
    atlas, masks, instances, shift = _certain_masks(engine, window, config)
    if len(masks) == 0:
        return model.empty(), np.zeros(0, np.bool_)
    vertices, offsets = trace(masks.labels, atlas.probability, masks.first_pixel, 127.5)
    vertices += np.repeat(shift, np.diff(offsets), axis=0)
    limit = np.array([engine.slide.width, engine.slide.height]) / scale
    boxes = _boxes(vertices, offsets)
    cut = is_cut(boxes, window, limit)
    coords, offsets, valid = simplify(np.clip(vertices + window.corner, 0, limit) * scale, offsets)
    image, background = atlas.copy_pixels(window.image), engine.slide.background
    od = mean_od(image, masks.labels, len(masks), background=background)
    position = masks.first_pixel + shift + window.corner
    kind = masks.area_px.astype(np.uint64) << np.uint64(8) | instances.class_index.astype(np.uint64)
    objects = Objects(
        classes=model.classes,
        ids=object_ids(engine.slide.slide_id, model.name, position, kind),
        class_index=instances.class_index,
        score=np.round(instances.scores, 4),
        coords=coords,
        ring_offsets=offsets,
        object_offsets=np.arange(len(masks) + 1, dtype=np.int64),
        features={OD_MEAN: od, _ROW: np.arange(len(masks), dtype=np.float32)},
    )
    cell = is_cell(objects)
    cytoplasm = _cytoplasm(atlas, masks, cell, window.on_slide(limit), window.image.shape[:2])
    rows, columns = window.on_slide(limit)
    around = boxes - np.tile([columns.start, rows.start], 2)
    field = window.image[rows, columns]
    ghost = cell & is_ghost(image, cytoplasm, field, around, background)
    return make_valid(objects.take(~ghost), checked=valid[~ghost]), cut


def _cytoplasm(
    atlas: MaskAtlas, masks: LabelImage, cell: Bools, on_slide: tuple[slice, slice],
    shape: tuple[int, int],
) -> NDArray[np.int32]:  # fmt: skip
    """Return the labels of `masks` without pixels of nuclei and pixels beyond the slide.

    `cell` says which masks are cells. Beyond the slide a window is white, lighter than its glass.
    """
    left_out = np.ones(shape, np.bool_)
    left_out[on_slide] = False
    left_out |= atlas.merge(np.append(False, ~cell)[masks.labels], shape)
    return np.where(atlas.copy_pixels(left_out.astype(np.uint8)) > 0, 0, masks.labels)


def _certain_masks(
    engine: Engine, window: SlideWindow, config: RunConfig
) -> tuple[MaskAtlas, LabelImage, Instances, Ints]:
    """Draw the instances of a window and choose those that are certain and large enough.

    Returns
    -------
    the atlas; the n chosen masks in it; their instances; and int64 (n, 2), the x and y to add to a
    pixel of the atlas for the pixel of the window
    """
    height, width = window.image.shape[:2]
    model, slide = engine.model, engine.slide
    rule, instances = config.object_rule(model.rule), window.instances
    names = np.array([name == CELL_CLASS for name in model.classes], bool)
    least = np.where(names[instances.class_index], rule.cell_score, rule.least_score)
    instances = instances.take(instances.scores >= least.astype(instances.scores.dtype))
    atlas = draw_atlas(instances, width, height)
    on_slide = window.on_slide(np.array([slide.width, slide.height]) / engine.scale)
    cells = names[instances.class_index]
    clear_glass(atlas, cells, window.image, on_slide, slide.background)

    def keep(area_px: Ints, index: Ints) -> Bools:
        area_um2 = area_px * model.mpp**2
        certain = names[instances.class_index[index]] | is_certain(
            instances.scores[index], area_um2,
            min_score=rule.min_score, min_small_score=rule.min_small_score,
        )  # fmt: skip
        return (area_um2 >= config.min_area_um2) & certain

    masks, index = largest_parts(atlas, keep)
    return atlas, masks, instances.take(index), (atlas.origin - atlas.corner)[index]


def _boxes(vertices: NDArray[np.float64], offsets: Ints) -> NDArray[np.float64]:
    """Return the bounding box x0, y0, x1, y1 of each ring, float64 (n, 4)."""
    low = np.minimum.reduceat(vertices, offsets[:-1], axis=0)
    return np.hstack([low, np.maximum.reduceat(vertices, offsets[:-1], axis=0)])
