"""One run's work on a slide: its regions to parts, then its parts to the final files."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.geometry import Region
from wsi_pipeline.core.machine import peak_bytes
from wsi_pipeline.core.progress import progress
from wsi_pipeline.core.records import RegionFailure, RunRecord
from wsi_pipeline.core.run_layout import FOREGROUND, IMPORT_SCRIPT, RUN_JSON, run_folder_path
from wsi_pipeline.runs.final_files import FinalFiles
from wsi_pipeline.runs.plausibility import size_warnings
from wsi_pipeline.runs.provenance import plan_record, provenance_record
from wsi_pipeline.runs.qupath_files import foreground_document, import_script
from wsi_pipeline.runs.run_folder import RunFolder, check_output
from wsi_pipeline.runs.work_plan import WorkPlan, check_settings
from wsi_pipeline.segmentation.cell_features import CELL_OVERLAP
from wsi_pipeline.segmentation.model import Model
from wsi_pipeline.segmentation.stitch import BorderCells, duplicates
from wsi_pipeline.slides.slide import Slide

_log = logging.getLogger(__name__)

__all__ = ["Executor", "Job", "finish", "open_run", "segment_regions"]


@dataclass(eq=False)
class Job:
    """The work on one slide, and what was measured while it was done.

    Attributes
    ----------
    stop
        once it is set, no region is begun
    began
        `time.perf_counter` at the start of the run
    batch
        batch size that fits into memory
    seconds
        time per stage, summed over threads and workers
    workers
        workers of the cluster that answered
    """

    slide: Slide
    model: Model
    config: RunConfig
    plan: WorkPlan
    folder: RunFolder
    stop: threading.Event
    began: float
    batch: int = field(init=False)
    seconds: dict[str, float] = field(default_factory=dict)
    workers: list[str] = field(default_factory=list)
    files: FinalFiles = field(init=False)

    def __post_init__(self) -> None:
        about = provenance_record(self.slide, self.model, self.config, self.plan.foreground)
        self.files = FinalFiles(self.folder, self.slide, about, self.model.empty())
        self.batch = self.config.batch

    def write_failure(self, region: Region, cause: str) -> None:
        """Record that nothing of a region could be read."""
        failure: RegionFailure = {
            "region": region.index,
            "level0_box": [round(v) for v in self.plan.region_box(region)],
            "cause": cause,
        }
        self.folder.write_failure(failure)


Executor = Callable[[Job, Sequence[Region], Callable[[Region], None]], None]
"""Segments regions, writes their parts, and calls the given function for each that is done."""


def open_run(slide: Slide, model: Model, config: RunConfig) -> RunFolder:
    """Check what can be checked beforehand, and open the run folder of a slide and a model.

    Raises
    ------
    ConfigError, MppError, OutputError
        tile size or --adapt do not fit the model; the slide has no pixel size; the folder cannot be
        used, see `RunFolder`
    """
    check_settings(model, config)
    plan = plan_record(slide, model, config)
    # 135 nuclei a megapixel on a third of the slide, 2 kB each in parts and final files.
    check_output(config.out, 20_000_000 + slide.width * slide.height // 11)
    path = run_folder_path(config.out, slide.slide_id, model.name)
    return RunFolder(path, plan, overwrite=config.overwrite)


def segment_regions(job: Job, execute: Executor) -> None:
    """Segment the regions that have no complete part yet.

    Raises
    ------
    KeyboardInterrupt
        `job.stop` was set before all regions were done
    """
    regions, folder, files = job.plan.regions, job.folder, job.files
    todo = [region for region in regions if not folder.done(region.index)]
    left = {region.index for region in todo}
    for region in regions:
        if region.index not in left:
            files.mark_done(region.index)
    bar = progress(
        len(regions), initial=len(regions) - len(todo), unit="region", desc=job.slide.slide_id,
        quiet=job.config.quiet,
    )  # fmt: skip
    lock = threading.Lock()

    def mark_done(region: Region) -> None:
        files.mark_done(region.index)
        with lock:
            left.discard(region.index)
            bar.update()

    with ExitStack() as stack:
        stack.callback(bar.close)
        if job.model.streams:
            stack.enter_context(files.written_in_background([r.index for r in regions]))
        execute(job, todo, mark_done)
        if left and job.stop.is_set():
            raise KeyboardInterrupt


def finish(job: Job) -> RunRecord:
    """Write what is left of the final files, then run.json; return its content."""
    began = time.perf_counter()
    folder, files, plan = job.folder, job.files, job.plan
    earlier = files.seconds
    if not job.model.streams:
        parts = ((n, folder.read_part(n)[0]) for n in folder.regions())
        cores = {region.index: region.core for region in plan.regions}
        copies = duplicates(
            parts, cores, scale=plan.scale, reach_px=job.model.reach_px, by_class=job.model.by_class
        )
        neighbours = None
        if CELL_OVERLAP in job.model.empty().features:
            neighbours = BorderCells(
                files.without_copies(copies), cores, scale=plan.scale, reach_px=job.model.reach_px
            )
        files.write(folder.regions(), copies, neighbours)
    files.write_pictures(plan)
    folder.write_bytes(FOREGROUND, foreground_document(job.slide, plan, folder.failures()))
    path = folder.path
    folder.write_bytes(IMPORT_SCRIPT, import_script(path.parent.parent, path.name))
    job.seconds["write"] = earlier + time.perf_counter() - began
    record = _record(job)
    folder.write_json(RUN_JSON, record)
    if not record["failed_regions"]:
        folder.discard_parts()
    return record


def _record(job: Job) -> RunRecord:
    config, adaptation = job.config, job.plan.adaptation
    areas = job.files.nucleus_areas
    warnings = [
        *job.plan.warnings,
        *job.plan.overview.warnings(),
        *size_warnings(
            np.concatenate(areas) if areas else np.zeros(0), job.slide.require_mpp().value
        ),
    ]
    for text in warnings:
        _log.warning("%s: %s", job.slide.path.name, text)
    record: RunRecord = {
        **job.files.provenance,
        "warnings": warnings,
        "objects": job.files.objects,
        "objects_larger_than_seen": job.files.oversized,
        "regions": len(job.plan.regions),
        "failed_regions": job.folder.failures(),
        "seconds": round(time.perf_counter() - job.began, 2),
        "stage_seconds": {stage: round(s, 2) for stage, s in job.seconds.items()},
        "peak_memory_mb": round(peak_bytes() / 2**20),
        "batch_reduced_to": job.batch if job.batch < config.batch else None,
        "cluster": None,
        "adaptation": adaptation.record() if adaptation else None,
    }
    if config.scheduler:
        record["cluster"] = {"scheduler": config.scheduler, "workers": job.workers}
    return record
