"""Segment regions in threads of this process, with Dask's threaded scheduler."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import dask
from dask import threaded  # to give its name as text imports dask.distributed: a second

from wsi_pipeline.core.errors import SlideError
from wsi_pipeline.core.geometry import Region
from wsi_pipeline.runs.job import Job
from wsi_pipeline.segmentation.damaged_regions import segment_readable
from wsi_pipeline.segmentation.inference import Engine

__all__ = ["run_locally"]


def run_locally(job: Job, regions: Sequence[Region], mark_done: Callable[[Region], None]) -> None:
    """Segment regions in `job.config.workers` threads; see `wsi_pipeline.runs.job.Executor`."""
    plan, config = job.plan, job.config

    def segment(region: Region) -> None:
        if job.stop.is_set():
            return
        try:
            found = segment_readable(engine, region, config, plan.object_filter)
            failure = found.failure(region.index)
            job.folder.write_part(region.index, found.objects, found.oversized, failure)
        except SlideError as error:
            job.write_failure(region, str(error))
        mark_done(region)

    waiting = iter(_by_row(regions, plan.region_px))
    lock = threading.Lock()
    errors: list[BaseException] = []

    def segment_waiting() -> None:
        """Segment regions until none waits; a task per region would leave their order to Dask."""
        try:
            while not errors:
                with lock:
                    region = next(waiting, None)
                if region is None:
                    return
                segment(region)
        except BaseException as error:  # raised below, when no thread uses the engine any more
            errors.append(error)

    with Engine(
        job.slide, job.model, plan.search_area,
        scale=plan.scale, tile_px=plan.tile_px, batch=config.batch,
        stain_map=plan.stain_map,
    ) as engine:  # fmt: skip
        tasks = [dask.delayed(segment_waiting, pure=False)() for _ in range(config.workers)]
        dask.compute(*tasks, scheduler=threaded.get, num_workers=config.workers)
    if errors:
        raise errors[0]
    job.seconds |= engine.watch.seconds
    job.batch = engine.batch


def _by_row(regions: Sequence[Region], region_px: int) -> list[Region]:
    """Sort regions from top to bottom, and in each row every second one first.

    A region's window overlaps those of its neighbours, so that a region whose neighbours have
    been read finds much of its own window in the cache.
    """
    return sorted(regions, key=lambda r: (r.core.y0, r.core.x0 // region_px % 2, r.core.x0))
