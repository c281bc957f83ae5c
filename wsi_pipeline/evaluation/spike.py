"""Lay painted cells into a slide and measure which of them a model finds (`wsiseg spike`).

The function that segments a field comes from the caller, since it belongs to a package beside this
one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import DataError, OutputError, UsageError
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.objects import CELL_CLASS, Objects, is_cell
from wsi_pipeline.evaluation.matching import geometry_overlaps, match_overlaps
from wsi_pipeline.evaluation.spike_field import GROUP, MEMBERS, PLACES, Spike, Wanted, lay
from wsi_pipeline.evaluation.spike_stain import SlideStain, measure_slide, style_of
from wsi_pipeline.segmentation.model import Model
from wsi_pipeline.slides.detect_foreground import find_foreground
from wsi_pipeline.slides.slide import Slide, open_slide
from wsi_pipeline.synthetic.real_painter import RealPainter

__all__ = ["GROUP_KINDS", "IOU", "KINDS", "SpikedField", "Spiking", "spike_slide"]

KINDS = ("superficial", "intermediate", "parabasal", "lsil", "hsil")
"""Kinds of single cells, of `REAL_KINDS`."""
GROUP_KINDS = ("parabasal", "hsil")
"""Kinds of the cells of groups."""
IOU = 0.5
"""A laid object is found where an object of the model has at least this IoU with it."""

FIELD_UM, MARGIN_UM = 256.0, 16.0
"""Side of a field, and its border, in which no cell is laid, µm."""
STAIN_FIELDS = 12
"""Fields in which the stain is measured."""
PER_FIELD = 12
"""Most single cells and groups that are laid into one field."""
MOST_FIELDS = 4
"""Fields that are tried, times those that are needed."""

SegmentSlide = Callable[[Slide, Model, RunConfig], Objects]
Areas = NDArray[np.object_]


@dataclass(frozen=True, eq=False)
class SpikedField:
    """One field with laid cells, and what the model found in it. Outlines are in its pixels.

    Attributes
    ----------
    x, y
        corner of the field, level-0 pixels
    image
        the field with the laid cells, uint8 (h, w, 3)
    spikes
        the laid cells
    nuclei, cells
        shapely areas that the model found in it
    nucleus_iou, cell_iou
        IoU of each laid nucleus and cell with what was found of it, 0 where it was missed
    false, lost, before
        nuclei found at laid cells that are neither laid nor were found before; nuclei found before
        and not any more; all that were found before
    """

    x: int
    y: int
    image: NDArray[np.uint8]
    spikes: tuple[Spike, ...]
    nuclei: Areas
    cells: Areas
    nucleus_iou: NDArray[np.float64]
    cell_iou: NDArray[np.float64]
    false: int
    lost: int
    before: int


@dataclass(frozen=True, eq=False)
class Spiking:
    """The stain of a slide, and the fields into which cells of that stain were laid."""

    stain: SlideStain
    fields: tuple[SpikedField, ...]
    finds_cells: bool


def spike_slide(
    slide: Slide, model: Model, config: RunConfig, segment: SegmentSlide, *,
    count: int = 240, seed: int = 0, stain: SlideStain | None = None,
    done: Callable[[int], object] = lambda laid: None,
) -> Spiking:  # fmt: skip
    """Lay about `count` painted cells into fields of a slide and segment these.

    The same slide, model and seed give the same cells at the same places.

    Parameters
    ----------
    config
        settings of the run
    segment
        segments one field
    stain
        the slide's stain, where it is known; measured by default
    done
        called with the number of cells that were laid into a field

    Raises
    ------
    UsageError
        `count` is too small
    DataError
        the stain cannot be measured, or no cell found a place
    MppError, SlideError
        the slide has no pixel size or cannot be read
    """
    if not 12 <= count <= 100_000:
        raise UsageError(f"--count must be 12 to 100000, got {count}")
    mpp = slide.require_mpp().value
    rng = np.random.default_rng([seed, 17])
    boxes = _fields(slide, mpp, rng)
    if stain is None:
        stain = stain_of_fields(slide, mpp, boxes[:STAIN_FIELDS])
    painter = RealPainter(mpp, style_of(stain), rng)
    wanted = _wanted(count)
    most = MOST_FIELDS * -(-len(wanted) // PER_FIELD) + 2
    config = replace(config, foreground="all", roi=None, quiet=True)
    fields: list[SpikedField] = []
    with TemporaryDirectory() as folder:
        for box in boxes[:most]:
            take = wanted[:PER_FIELD]
            work = _Work(Path(folder), mpp, slide.read_region(box), model, config, segment)
            field, left = _spike_field(work, box, stain, painter, take)
            wanted = [*wanted[PER_FIELD:], *left]
            if field is not None:
                fields.append(field)
                done(len(field.spikes))
            if not wanted:
                break
    if not fields:
        raise DataError(f"{slide.path.name}: no cell found a place; give a slide with more area")
    return Spiking(stain, tuple(fields), CELL_CLASS in model.classes)


def _wanted(count: int) -> list[Wanted]:
    """Return what is to be laid, kinds and places in turn: as many cells of each."""
    singles = [Wanted(kind, place) for place in PLACES if place != GROUP for kind in KINDS]
    groups = [Wanted(kind, GROUP) for kind in GROUP_KINDS]
    each = count / (len(singles) + len(groups))
    order = [(k / each, w) for w in singles for k in range(max(1, round(each)))]
    many = max(1, round(each / MEMBERS))
    order += [(k / many, w) for w in groups for k in range(many)]
    return [w for _, w in sorted(order, key=lambda pair: pair[0])]


def _fields(slide: Slide, mpp: float, rng: np.random.Generator) -> list[Box]:
    """Return fields where there are cells, level-0 pixels, in random order; at least one."""
    side = round(FIELD_UM / mpp)
    thumbnail, downsample = slide.thumbnail()
    found = find_foreground(thumbnail, downsample, slide.width, slide.height)
    columns, rows = max(1, slide.width // side), max(1, slide.height // side)
    boxes = []
    for j in range(rows):
        for i in range(columns):
            x, y = i * slide.width // columns, j * slide.height // rows
            box = Box(x, y, min(x + side, slide.width), min(y + side, slide.height))
            if found.covers(box.x0, box.y0, box.x1, box.y1):
                boxes.append(box)
    if not boxes:
        raise DataError(f"{slide.path.name} shows no cells, so none can be laid among them")
    return [boxes[k] for k in rng.permutation(len(boxes))]


def stain_of_fields(slide: Slide, mpp: float, boxes: Sequence[Box]) -> SlideStain:
    """Measure the stain in fields of a slide, read at 0.25 µm per pixel or its own pixel size."""
    step = max(0.25, mpp) / mpp
    grid = [Box(*(int(v // step) for v in (b.x0, b.y0, b.x1, b.y1))) for b in boxes]
    return measure_slide([slide.read_scaled(box, step) for box in grid], mpp * step)


@dataclass(frozen=True, eq=False)
class _Work:
    """A field and what segments it."""

    folder: Path
    mpp: float
    image: NDArray[np.uint8]
    model: Model
    config: RunConfig
    segment: SegmentSlide

    def found_in(self, image: NDArray[np.uint8]) -> tuple[Areas, Areas]:
        """Return nuclei and cells that the model finds in an image, as in a slide of its own."""
        path = self.folder / "field.png"
        if not cv2.imwrite(str(path), np.ascontiguousarray(image[..., ::-1])):
            raise OutputError(f"{path} cannot be written; check the free space")
        with open_slide(path, mpp=self.mpp) as slide:
            objects = self.segment(slide, self.model, self.config)
        whole, outlines = is_cell(objects), objects.polygons()
        return outlines[~whole], outlines[whole]


def _spike_field(
    work: _Work, box: Box, stain: SlideStain, painter: RealPainter, wanted: Sequence[Wanted]
) -> tuple[SpikedField | None, tuple[Wanted, ...]]:
    """Lay cells into one field and segment it; None where nothing found a place."""
    before, _ = work.found_in(work.image)
    margin = round(MARGIN_UM / work.mpp)
    laid = lay(work.image, work.mpp, stain, painter, wanted, list(before), margin)
    if not laid.spikes:
        return None, laid.left
    nuclei, cells = work.found_in(laid.image)
    true = np.array([spike.nucleus for spike in laid.spikes], object)
    whole = np.array([spike.cell for spike in laid.spikes], object)
    nucleus_iou, of_spike = _matched(nuclei, true)
    cell_iou, _ = _matched(cells, whole)
    _, known = _matched(nuclei, before)
    near = shapely.STRtree(whole).query(nuclei, predicate="intersects")[0]
    touching = np.isin(np.arange(len(nuclei)), near)
    field = SpikedField(
        x=box.x0, y=box.y0, image=laid.image, spikes=laid.spikes, nuclei=nuclei, cells=cells,
        nucleus_iou=nucleus_iou, cell_iou=cell_iou,
        false=int((touching & ~of_spike & ~known).sum()),
        lost=len(before) - int(known.sum()), before=len(before),
    )  # fmt: skip
    return field, laid.left


def _matched(found: Areas, true: Areas) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the IoU of each true area, 0 where it was missed, and which found ones are true."""
    match = match_overlaps(geometry_overlaps(found, true, IOU), IOU)
    iou, taken = np.zeros(len(true)), np.zeros(len(found), np.bool_)
    iou[match.pairs[:, 1]] = match.iou
    taken[match.pairs[:, 0]] = True
    return iou, taken


def wilson(found: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % interval of a share.

    Wilson, Probable inference, the law of succession, and statistical inference, Journal of the
    American Statistical Association 22 (1927).

    Examples
    --------
    >>> [round(limit, 3) for limit in wilson(9, 10)]
    [0.596, 0.982]
    """
    if count == 0:
        return math.nan, math.nan
    share, spread = found / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    reach = z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def each_spike(fields: Sequence[SpikedField]) -> Iterator[tuple[int, Spike, float, float]]:
    """Yield number of the field, laid cell, and IoU of its nucleus and of the cell."""
    for number, field in enumerate(fields):
        rows = zip(field.spikes, field.nucleus_iou, field.cell_iou, strict=True)
        for spike, nucleus, cell in rows:
            yield number, spike, float(nucleus), float(cell)
