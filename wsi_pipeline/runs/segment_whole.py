"""Segment a small slide and return its objects; no file is written."""

from __future__ import annotations

from dataclasses import replace

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import SlideReadError
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.runs.work_plan import plan_work, read_roi
from wsi_pipeline.segmentation.cell_features import CELL_OVERLAP, renewed
from wsi_pipeline.segmentation.damaged_regions import segment_readable
from wsi_pipeline.segmentation.inference import Engine
from wsi_pipeline.segmentation.model import Model
from wsi_pipeline.segmentation.stitch import duplicates
from wsi_pipeline.slides.slide import Slide

__all__ = ["segment_whole"]


def segment_whole(slide: Slide, model: Model, config: RunConfig) -> Objects:
    """Return the objects of a slide, the same as those of `run_slide` with these settings.

    All objects are in memory at once, and regions are processed one after the other, so this is
    for fields and small slides.

    Raises
    ------
    ConfigError, MppError, SlideError
        settings or slide cannot be used, or part of the slide cannot be read
    """
    plan = plan_work(
        slide,
        model,
        replace(config, quiet=True),
        read_roi(config.roi, slide, read_timeout_s=config.read_timeout_s),
    )
    parts: dict[int, Objects] = {}
    with Engine(
        slide, model, plan.search_area,
        scale=plan.scale, tile_px=plan.tile_px, batch=config.batch,
        stain_map=plan.stain_map,
    ) as engine:  # fmt: skip
        for region in plan.regions:
            found = segment_readable(engine, region, config, plan.object_filter)
            if found.missing:
                raise SlideReadError(f"{slide.path.name}: {found.cause}; copy the file again")
            parts[region.index] = found.objects
    if not parts:
        return model.empty()
    if not model.streams:
        cores = {region.index: region.core for region in plan.regions}
        copies = duplicates(
            parts.items(), cores, scale=plan.scale, reach_px=model.reach_px, by_class=model.by_class
        )
        parts = {n: o.take(~copies[n]) if n in copies else o for n, o in parts.items()}
    whole = Objects.concatenate(list(parts.values()))
    return renewed(whole) if CELL_OVERLAP in whole.features else whole
