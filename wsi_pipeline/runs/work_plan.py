"""Plan the work on one slide: scale, foreground, regions and tile size.

`run_slide`, ``wsiseg info`` and the benchmark all use `plan_work`, so that what is shown and what
is measured is what a run does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import ConfigError, DataError
from wsi_pipeline.core.geometry import Box, Region, Tile, plan_regions, plan_tiles
from wsi_pipeline.formats.geojson import Regions, read_regions
from wsi_pipeline.runs.adaptation import Adaptation, adapt_to_slide, trained_range
from wsi_pipeline.runs.plausibility import look_warnings
from wsi_pipeline.segmentation.model import Model
from wsi_pipeline.segmentation.ownership import REGION_PX, ObjectFilter
from wsi_pipeline.segmentation.stain_map import StainMap
from wsi_pipeline.slides.detect_foreground import find_foreground
from wsi_pipeline.slides.foreground import Foreground, intersect, roi_foreground
from wsi_pipeline.slides.read_timeout import ReadTimeout
from wsi_pipeline.slides.slide import Slide

__all__ = [
    "Overview",
    "WorkPlan",
    "check_settings",
    "plan_work",
    "read_overview",
    "read_roi",
    "tile_size",
]


@dataclass(frozen=True, eq=False)
class Overview:
    """The whole slide at low resolution, and its foreground.

    Attributes
    ----------
    thumbnail
        uint8 (h, w, 3)
    downsample
        level-0 pixels per pixel of the thumbnail
    foreground
        where there are cells, in the regions of interest if there are some
    everywhere
        where there are cells on the whole slide
    """

    thumbnail: NDArray[np.uint8]
    downsample: float
    foreground: Foreground
    everywhere: Foreground

    def warnings(self) -> list[str]:
        """Return why the slide does not look like a Pap smear in bright field."""
        h, w = self.thumbnail.shape[:2]
        mask = cv2.resize(self.everywhere.mask.astype(np.uint8), (w, h), interpolation=0)
        return look_warnings(self.thumbnail, mask > 0)


def read_overview(
    slide: Slide, mode: str = "auto", roi: shapely.Geometry | None = None
) -> Overview:
    """Read a slide's thumbnail and find the foreground in it.

    Parts of the thumbnail that cannot be read count as foreground: a run then tries them at full
    resolution and records what fails.

    Parameters
    ----------
    mode
        ``auto`` or ``all``, as `RunConfig.foreground`
    roi
        regions of interest in level-0 pixels; the foreground is limited to them

    Raises
    ------
    SlideError
        the slide cannot be read
    """
    box, downsample = slide.thumbnail_box()
    with slide.limited_time():
        thumbnail, readable = slide.read_what_is_there(box, downsample)
    found = find_foreground(thumbnail, downsample, slide.width, slide.height, mode=mode)
    found = everywhere = replace(found, mask=found.mask | ~readable)
    if roi is not None:
        found = intersect(found, roi_foreground([roi], slide.width, slide.height))
    return Overview(thumbnail, downsample, found, everywhere)


@dataclass(frozen=True, eq=False)
class WorkPlan:
    """The work on one slide.

    Attributes
    ----------
    overview
        thumbnail and foreground
    scale
        level-0 pixels per model pixel
    search_area
        the foreground and the model's reach around it: objects at its edge are seen completely
    object_filter
        keeps the objects that lie in the foreground and in the regions of interest
    regions
        those with something in the search area, row by row
    region_px, tile_px
        side of a region's core and of a tile's core, model pixels
    margin_px, halo_px
        border around a region that its tiles also cover, and context around each tile
    adaptation
        the slide's stain and what the network gets instead; None without `RunConfig.adapt`
    warnings
        what of the regions of interest has no effect
    """

    overview: Overview
    scale: float
    search_area: Foreground
    object_filter: ObjectFilter
    regions: tuple[Region, ...]
    region_px: int
    tile_px: int
    margin_px: int
    halo_px: int
    adaptation: Adaptation | None = None
    warnings: tuple[str, ...] = ()

    @property
    def stain_map(self) -> StainMap | None:
        """What changes the pixels that the network gets."""
        return self.adaptation.stain_map if self.adaptation else None

    @property
    def foreground(self) -> Foreground:
        """The foreground of the slide."""
        return self.overview.foreground

    def region_box(self, region: Region) -> tuple[float, float, float, float]:
        """Return x0, y0, x1, y1 of a region's core in level-0 pixels."""
        return _level0(region.core, self.scale)

    def tiles(self, region: Region) -> Iterator[Tile]:
        """Yield the tiles of a region that the network gets, row by row."""
        window = region.core.grow(self.margin_px)
        for tile in plan_tiles(window, self.tile_px, self.halo_px):
            if self.search_area.covers(*_level0(tile.core.clip(window), self.scale)):
                yield tile


def _level0(box: Box, scale: float) -> tuple[float, float, float, float]:
    return box.x0 * scale, box.y0 * scale, box.x1 * scale, box.y1 * scale


def plan_work(
    slide: Slide,
    model: Model,
    config: RunConfig,
    roi: Regions | None = None,
    overview: Overview | None = None,
) -> WorkPlan:
    """Plan the work of `model` on a slide.

    Parameters
    ----------
    roi
        regions of interest, see `read_roi`
    overview
        result of `read_overview`, where it has been read already

    Raises
    ------
    ConfigError
        the tile size does not fit the model, or its card has no range of stains to adapt to
    MppError
        the slide has no pixel size
    SlideError
        the slide cannot be read
    """
    tile_px = tile_size(model, config)
    scale = model.mpp / slide.require_mpp().value
    inside = roi.area if roi is not None else None
    if overview is None:
        overview = read_overview(slide, config.foreground, inside)
    area = overview.foreground.dilate(model.reach_px * scale)
    width, height = (-int(-n // scale) for n in (slide.width, slide.height))
    regions = plan_regions(width, height, REGION_PX)
    adaptation = None
    if config.adapt:
        shown, downsample = overview.thumbnail, overview.downsample
        adaptation = adapt_to_slide(slide, model, shown, downsample, quiet=config.quiet)
    return WorkPlan(
        overview=overview,
        scale=scale,
        search_area=area,
        object_filter=ObjectFilter(overview.everywhere, inside),
        regions=tuple(r for r in regions if area.covers(*_level0(r.core, scale))),
        region_px=REGION_PX,
        tile_px=tile_px,
        margin_px=model.margin_px,
        halo_px=model.halo_px,
        adaptation=adaptation,
        warnings=tuple(roi.warnings(slide.width, slide.height)) if roi is not None else (),
    )


def check_settings(model: Model, config: RunConfig) -> None:
    """Check that a model can run with these settings, before any slide is begun.

    Raises
    ------
    ConfigError
        see `tile_size` and `trained_range`
    """
    tile_size(model, config)
    if config.adapt:
        trained_range(model)


def tile_size(model: Model, config: RunConfig) -> int:
    """Return the side of a tile's core in model pixels: `config.tile_px`, or the model's own.

    A network with downsampling takes images whose sides, and whose positions on the slide, are
    multiples of its stride. Tiles, their halo, and the regions must therefore be such multiples.

    Raises
    ------
    ConfigError
        one of them is not, or the network has to see the whole slide at once
    """
    if model.sees_all:
        raise ConfigError(
            f"{model.name} takes means over the whole image, so that tiles would change the "
            "result; measure it with `wsiseg evaluate`, or train another network or --encoder"
        )
    tile_px, stride = config.tile_px or model.tile_px, model.stride
    if stride < 1 or REGION_PX % stride or model.margin_px % stride:
        raise ConfigError(
            f"{model.name} has stride {stride}, which does not divide the side of a region, "
            f"{REGION_PX} px, and its margin, {model.margin_px} px; "
            "use a network whose stride is a power of two up to 64"
        )
    if model.halo_px % stride or model.halo_px < 0:
        raise ConfigError(
            f"{model.name} has halo_px {model.halo_px}, which is not a multiple of its stride "
            f"{stride}; give it halo_px {-(-abs(model.halo_px) // stride) * stride}"
        )
    if tile_px % stride:
        below = max(-(-64 // stride) * stride, tile_px // stride * stride)
        fits = dict.fromkeys((below, below + stride))
        choice = " or ".join(f"--tile-px {size}" for size in fits)
        raise ConfigError(
            f"tile_px {tile_px} does not fit {model.name}, whose tiles are multiples of {stride} "
            f"px; give {choice}"
        )
    return tile_px


def read_roi(
    path: Path | None,
    slide: Slide | None = None,
    *,
    read_timeout_s: float = RunConfig.read_timeout_s,
) -> Regions | None:
    """Read a file of regions of interest; None for no file.

    They must lie on the focal plane and the time point that are read of `slide`.

    Raises
    ------
    DataError
        the file does not exist or cannot be used
    SlideTimeoutError
        its drive does not answer in `read_timeout_s`
    """
    if path is None:
        return None
    if not path.is_file():
        raise DataError(f"{path}: no such ROI file; export annotations from QuPath as GeoJSON")
    plane, time = (None, 0) if slide is None else (slide.plane, slide.time)
    return ReadTimeout(path.name, read_timeout_s).call(read_regions, path, plane=plane, time=time)
