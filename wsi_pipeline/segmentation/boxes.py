"""Boxes: regions of a detector, whose objects are rectangles and not outlines.

A box has its class, its score and its sides, and nothing else: the area of a rectangle is not that
of the nucleus in it, so no area, shape or stain is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.geometry import Region
from wsi_pipeline.core.ids import object_ids
from wsi_pipeline.core.objects import CELL_CLASS, Objects
from wsi_pipeline.core.polygons import make_valid
from wsi_pipeline.segmentation.inference import Engine
from wsi_pipeline.segmentation.model import Images, Instances, Model
from wsi_pipeline.segmentation.ownership import ObjectFilter
from wsi_pipeline.segmentation.windows import SlideWindow, is_cut, segment_tiles

__all__ = ["BOX_HEIGHT", "BOX_WIDTH", "BoxModel"]

BOX_WIDTH, BOX_HEIGHT = "Box: Width µm", "Box: Height µm"

Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class BoxModel(Model):
    """A network that gives boxes of any classes, which may overlap.

    Attributes
    ----------
    network
        images uint8 (n, h, w, 3) → `Instances` of each image, without masks
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
        return Objects.empty(self.classes, (BOX_WIDTH, BOX_HEIGHT))

    def infer(self, images: Images) -> list[Instances]:
        """Find the boxes in each image uint8 (n, h, w, 3)."""
        return self.network(images)

    def segment_region(
        self, engine: Engine, region: Region, config: RunConfig, keep: ObjectFilter
    ) -> tuple[Objects, int]:
        """See `Model`; `duplicates` removes what two tiles find on their common border."""
        return segment_tiles(engine, region, config, keep, _window_boxes)


def _window_boxes(engine: Engine, window: SlideWindow, config: RunConfig) -> tuple[Objects, Bools]:
    """Return the boxes of a window that are certain and large enough, and which its edge cuts."""
    model, scale = engine.model, engine.scale
    found = _certain(window.instances, config, model)
    limit = np.array([engine.slide.width, engine.slide.height]) / scale
    placed = np.clip(found.boxes + np.tile(window.corner, 2), 0, np.tile(limit, 2))
    sides = placed[:, 2:] - placed[:, :2]
    kept = (sides * scale >= 1).all(1) & (sides.prod(1) * model.mpp**2 >= config.min_area_um2)
    found, placed, sides = found.take(kept), placed[kept], sides[kept]
    if not len(found):
        return model.empty(), np.zeros(0, np.bool_)
    cut = is_cut(found.boxes.astype(np.float64), window, limit)
    corners = np.round(placed).astype(np.int64)
    size = (corners[:, 2:] - corners[:, :2]).astype(np.uint64)
    kind = (size[:, 0] << np.uint64(24) | size[:, 1]) << np.uint64(8)
    kind |= found.class_index.astype(np.uint64)
    objects = Objects.from_polygons(
        shapely.box(*(placed * scale).T),
        classes=model.classes,
        ids=object_ids(engine.slide.slide_id, model.name, corners[:, :2], kind),
        class_index=found.class_index,
        score=np.round(found.scores, 4),
        features={
            BOX_WIDTH: (sides[:, 0] * model.mpp).astype(np.float32),
            BOX_HEIGHT: (sides[:, 1] * model.mpp).astype(np.float32),
        },
    )
    return make_valid(objects), cut


def _certain(found: Instances, config: RunConfig, model: Model) -> Instances:
    """Return the boxes whose score reaches the limit of their class.

    The limit for small objects is not used: the area in a box is not known.
    """
    rule = config.object_rule(model.rule)
    cell = np.array([name == CELL_CLASS for name in model.classes], bool)
    least = np.where(cell[found.class_index], rule.cell_score, rule.min_score)
    return found.take(found.scores >= least.astype(found.scores.dtype))
