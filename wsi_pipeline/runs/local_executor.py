"""Segment regions in threads of this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

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

    # The threads end before the engine, which would not answer them any more.
    with (
        Engine(
            job.slide, job.model, plan.search_area,
            scale=plan.scale, tile_px=plan.tile_px, batch=config.batch,
        ) as engine,
        ThreadPoolExecutor(config.workers, "region") as threads,
    ):  # fmt: skip
        tasks = [threads.submit(segment, region) for region in _by_row(regions, plan.region_px)]
        try:
            finished, _ = wait(tasks, return_when=FIRST_EXCEPTION)
        finally:
            for task in tasks:
                task.cancel()
        for task in finished:
            task.result()
    job.seconds |= engine.watch.seconds
    job.batch = engine.batch


def _by_row(regions: Sequence[Region], region_px: int) -> list[Region]:
    """Sort regions from top to bottom, and in each row every second one first.

    A region's window overlaps those of its neighbours, so that a region whose neighbours have
    been read finds much of its own window in the cache.
    """
    return sorted(regions, key=lambda r: (r.core.y0, r.core.x0 // region_px % 2, r.core.x0))
