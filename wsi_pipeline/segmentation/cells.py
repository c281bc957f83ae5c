"""Cells: what an instance model finds in windows of a slide, as outlines with their nuclei.

Whole, overlapping outlines never share a label image: each instance is drawn on a sheet of its
own. A cell and its nuclei are one unit, kept by the window whose core holds the cell's middle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numba
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.geometry import Box, Region, plan_tiles
from wsi_pipeline.core.ids import object_ids
from wsi_pipeline.core.objects import CELL_CLASS, Objects
from wsi_pipeline.core.polygons import make_valid, nuclei_apart
from wsi_pipeline.segmentation.cell_features import cell_features
from wsi_pipeline.segmentation.components import find_components
from wsi_pipeline.segmentation.contours import simplified, trace
from wsi_pipeline.segmentation.inference import Engine
from wsi_pipeline.segmentation.model import Images, Instances, Model
from wsi_pipeline.segmentation.morphometry import OD_MEAN, mean_od
from wsi_pipeline.segmentation.ownership import LARGEST_PX, ObjectFilter, in_reading_order
from wsi_pipeline.segmentation.pairing import assign_nuclei
from wsi_pipeline.segmentation.score_rule import is_certain
from wsi_pipeline.segmentation.stitch import duplicates

__all__ = ["SHARED_PX", "InstanceModel"]

SHARED_PX = 24
"""How far over their common border two windows both keep what they find, model pixels."""

Ints = NDArray[np.int64]
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
        """Instances in each image uint8 (n, h, w, 3)."""
        return self.network(images)

    def segment_region(
        self, engine: Engine, region: Region, config: RunConfig, keep: ObjectFilter
    ) -> tuple[Objects, int]:
        """See `Model`.

        A network answers slightly differently through each window. Neighbouring windows therefore
        both keep what lies on their common border, and `duplicates` removes the copies. Objects
        of the same window are never compared, since two cells that overlap there are two cells.
        """
        return _segment_region(engine, region, config, keep)


def _segment_region(
    engine: Engine, region: Region, config: RunConfig, keep: ObjectFilter
) -> tuple[Objects, int]:
    model = engine.model
    tiles = list(plan_tiles(region.core, engine.tile_px, model.halo_px))
    cores = [t.core.clip(region.core) for t in tiles]
    seen = engine.detect([t.window for t in tiles], cores)
    parts: dict[int, Objects] = {}
    oversized = 0
    for number, (tile, core) in enumerate(zip(tiles, cores, strict=True)):
        if number in seen:
            image, found = seen[number]
            view = _View(tile.window, image, found)
            units, cut = _units(engine, view, core.grow(SHARED_PX), config)
            again, large = _look_again(engine, cut, core, config)
            parts[number] = Objects.concatenate([units, *again])
            oversized += large
    if not parts:
        return model.empty(), 0
    began = time.perf_counter()
    drop = duplicates(
        parts.items(), dict(enumerate(cores)), scale=engine.scale, reach_px=model.halo_px
    )
    objects = Objects.concatenate([p.take(~drop[n]) for n, p in parts.items()])
    objects = in_reading_order(keep.select(objects))
    engine.watch.add("objects", began)
    return objects, oversized


@dataclass(frozen=True, eq=False)
class _View:
    """A window, in model pixels of the slide, and what the model found there."""

    window: Box
    image: Images
    found: Instances


@dataclass(frozen=True, eq=False)
class _Sheet:
    """Instances drawn side by side; instance i at `corner` i for its window pixels from `start` i.

    Attributes
    ----------
    probability, owner
        uint8 and int32 (h, w): of each pixel, and the instance it belongs to, −1 for none
    corner, start
        int64 (k, 2): x, y of each instance's upper left pixel here and in the window
    size
        int64 (k, 2): width and height
    """

    probability: NDArray[np.uint8]
    owner: NDArray[np.int32]
    corner: Ints
    start: Ints
    size: Ints


def _draw(found: Instances, width: int, height: int) -> _Sheet:
    """The masks of `found`, in an image of `width` × `height`, brought to pixels."""
    limit = np.array([width, height])
    start = np.clip(np.floor(found.boxes[:, :2]).astype(np.int64) - 1, 0, limit)
    end = np.clip(np.ceil(found.boxes[:, 2:]).astype(np.int64) + 1, start, limit)
    size = end - start
    across = max(2048, int(size[:, 0].max(initial=0)) + 2)
    corner = np.zeros_like(start)
    x, y, tallest = 1, 1, 0
    for k, (w, h) in enumerate(size.tolist()):
        if x + w + 1 > across:
            x, y, tallest = 1, y + tallest + 1, 0
        corner[k] = x, y
        x, tallest = x + w + 1, max(tallest, h)
    shape = (y + tallest + 1, across)
    probability, owner = np.zeros(shape, np.uint8), np.full(shape, -1, np.int32)
    boxes = found.boxes.astype(np.float64)
    _paste(np.ascontiguousarray(found.masks), boxes, start, size, corner, probability, owner)
    return _Sheet(probability, owner, corner, start, size)


@numba.njit(nogil=True, cache=True)
def _paste(
    masks: NDArray[np.uint8],
    boxes: NDArray[np.float64],
    start: Ints,
    size: Ints,
    corner: Ints,
    probability: NDArray[np.uint8],
    owner: NDArray[np.int32],
) -> None:
    """As `wsiseg_models.predictions.paste`, compiled and with the probabilities kept."""
    side = masks.shape[1]
    for k in range(len(masks)):
        x0, y0, x1, y1 = boxes[k]
        for r in range(size[k, 1]):
            v = (start[k, 1] + r + 0.5 - y0) / max(y1 - y0, 1e-6) * side - 0.5
            for c in range(size[k, 0]):
                u = (start[k, 0] + c + 0.5 - x0) / max(x1 - x0, 1e-6) * side - 0.5
                row, column = corner[k, 1] + r, corner[k, 0] + c
                owner[row, column] = k
                if u <= -0.5 or v <= -0.5 or u >= side - 0.5 or v >= side - 0.5:
                    continue
                i, j = int(np.floor(v)), int(np.floor(u))
                fv, fu = v - i, u - j
                total = 0.0
                for di in range(2):
                    for dj in range(2):
                        if 0 <= i + di < side and 0 <= j + dj < side:
                            weight = (fv if di else 1 - fv) * (fu if dj else 1 - fu)
                            total += weight * masks[k, i + di, j + dj]
                probability[row, column] = int(total + 0.5)


def _units(
    engine: Engine, view: _View, core: Box, config: RunConfig
) -> tuple[Objects, list[tuple[Box, int]]]:
    """Objects of the units whose middle lies in `core`; of those that the window cuts, the boxes.

    Boxes are in model pixels of the slide, each with its class.
    """
    began = time.perf_counter()
    objects, cut = _objects(engine, view, config)
    assert objects.parent is not None
    box = objects.bounds() / engine.scale
    middle = (box[:, :2] + box[:, 2:]) / 2
    unit = np.where(objects.parent >= 0, objects.parent, np.arange(len(objects)))
    inside = np.all((middle >= (core.x0, core.y0)) & (middle < (core.x1, core.y1)), axis=1)
    owned, cut = inside[unit], cut[unit]
    again = [
        (Box(*np.round(box[k]).astype(int).tolist()), int(objects.class_index[k]))
        for k in np.flatnonzero(owned & cut & (objects.parent < 0))
    ]
    engine.watch.add("objects", began)
    return objects.take(owned & ~cut), again


def _objects(engine: Engine, view: _View, config: RunConfig) -> tuple[Objects, NDArray[np.bool_]]:
    """Everything found in a window, paired and measured; which of it the window cuts (n,)."""
    model, scale = engine.model, engine.scale
    height, width = view.image.shape[:2]
    least = min(config.min_score, config.min_small_score)
    found = view.found.take(view.found.scores >= least)
    sheet = _draw(found, width, height)

    def wanted(area: Ints, which: Ints) -> NDArray[np.bool_]:
        area_um2 = area * model.mpp**2
        return (area_um2 >= config.min_area_um2) & is_certain(
            found.scores[which], area_um2,
            min_score=config.min_score, min_small_score=config.min_small_score,
        )  # fmt: skip

    labels, first, area, which = _largest(sheet, wanted)
    found = found.take(which)
    if len(found) == 0:
        return model.empty(), np.zeros(0, np.bool_)
    vertices, offsets = trace(labels, sheet.probability, first, 127.5)
    at = np.array([view.window.x0, view.window.y0])
    shift = (sheet.start - sheet.corner)[which]
    vertices += np.repeat(shift, np.diff(offsets), axis=0)
    low = np.minimum.reduceat(vertices, offsets[:-1], axis=0)
    high = np.maximum.reduceat(vertices, offsets[:-1], axis=0)
    # Beyond the slide's own border there is nothing more to see.
    limit = np.array([engine.slide.width, engine.slide.height]) / scale
    cut: NDArray[np.bool_] = ((low <= 1) & (low + at > 1)).any(1)
    cut |= ((high >= (width - 1, height - 1)) & (high + at < limit - 1)).any(1)
    coords, offsets, valid = simplified(np.clip(vertices + at, 0, limit) * scale, offsets)
    od = mean_od(_colours(view, sheet), labels, len(found), background=engine.slide.background)
    od[found.class_index == model.classes.index(CELL_CLASS)] = np.nan
    kind = area.astype(np.uint64) << np.uint64(8) | found.class_index.astype(np.uint64)
    objects = Objects(
        classes=model.classes,
        ids=object_ids(engine.slide.slide_id, model.name, first + shift + at, kind),
        class_index=found.class_index,
        score=np.round(found.scores, 4),
        coords=coords,
        ring_offsets=offsets,
        object_offsets=np.arange(len(found) + 1, dtype=np.int64),
        features={OD_MEAN: od, _ROW: np.arange(len(found), dtype=np.float32)},
    )
    objects = assign_nuclei(make_valid(objects, checked=valid))
    # A nucleus of which nothing is left beside the others of its cell is one of them again.
    apart = nuclei_apart(objects).features[_ROW]
    objects = objects.take(np.isin(objects.features[_ROW], apart))
    row = objects.features[_ROW].astype(np.int64)
    objects = replace(objects, features={OD_MEAN: objects.features[OD_MEAN]})
    return cell_features(objects, model.mpp / scale), cut[row]


def _largest(
    sheet: _Sheet, wanted: Callable[[Ints, Ints], NDArray[np.bool_]]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64], Ints]:
    """The largest piece of every instance, where `wanted`, given its area and instance, says so.

    Returns
    -------
    labels int32 (h, w) of the sheet, first pixel (n, 2) as x, y, area in pixels (n,), and which
    instance each is (n,), in the order of the instances
    """
    components = find_components(sheet.probability, 0.5)
    first = np.stack([components.first_x, components.boxes[:, 1]], 1)
    owner = sheet.owner[first[1:, 1], first[1:, 0]]
    order = np.lexsort((-components.area_px[1:], owner)) + 1
    leads = np.concatenate([[True], np.diff(owner[order - 1]) > 0])[: len(order)]
    chosen = order[leads]
    area = components.area_px.astype(np.int64)
    chosen = chosen[wanted(area[chosen], owner[chosen - 1].astype(np.int64))]
    number = np.zeros(len(components) + 1, np.int32)
    number[chosen] = np.arange(1, len(chosen) + 1)
    return (
        number[components.labels],
        first[chosen],
        area[chosen],
        owner[chosen - 1].astype(np.int64),
    )


def _colours(view: _View, sheet: _Sheet) -> Images:
    """The slide's pixels under the instances of a sheet, uint8 (h, w, 3)."""
    out = np.zeros((*sheet.probability.shape, 3), np.uint8)
    for (x, y), (u, v), (w, h) in zip(sheet.corner, sheet.start, sheet.size, strict=True):
        out[y : y + h, x : x + w] = view.image[v : v + h, u : u + w]
    return out


def _look_again(
    engine: Engine, cut: Sequence[tuple[Box, int]], core: Box, config: RunConfig
) -> tuple[list[Objects], int]:
    """See what a window cut through ever larger windows around it; how many stay too large.

    A unit is left out where its middle turns out to lie outside `core`, since another window owns
    it, and where the better view does not show it.
    """
    parts: list[Objects] = []
    oversized = 0
    for box, kind in cut:
        margin = engine.model.halo_px
        while True:
            window = box.grow(margin).snap(engine.model.stride)
            seen = engine.detect([window], [box])
            if not seen:  # outside the foreground
                break
            objects, broken = _objects(engine, _View(window, *seen[0]), config)
            k = _most_like(objects, box, kind, engine.scale)
            if k < 0:
                break
            last = max(window.width, window.height) >= LARGEST_PX
            if last or not broken[k]:
                oversized += int(broken[k])
                parts.append(_unit(objects, k, core.grow(SHARED_PX), engine.scale))
                break
            margin *= 2
    return parts, oversized


def _most_like(objects: Objects, box: Box, kind: int, scale: float) -> int:
    """The object of class `kind` whose bounding box agrees best with `box`, −1 if none does."""
    found = objects.bounds() / scale
    low = np.maximum(found[:, :2], (box.x0, box.y0))
    high = np.minimum(found[:, 2:], (box.x1, box.y1))
    shared = np.maximum(high - low, 0).prod(1) * (objects.class_index == kind)
    # What was cut then is larger now, so how much of the old box is met counts, not IoU.
    share = shared / (box.width * box.height)
    return int(share.argmax()) if len(share) and share.max() >= 0.5 else -1


def _unit(objects: Objects, k: int, core: Box, scale: float) -> Objects:
    """Object `k` with what it holds, if its middle lies in `core`."""
    x0, y0, x1, y1 = objects.bounds()[k] / scale
    assert objects.parent is not None
    mine = (objects.parent == k) | (np.arange(len(objects)) == k)
    return objects.take(mine & core.contains((x0 + x1) / 2, (y0 + y1) / 2))
