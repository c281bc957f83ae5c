"""run_slide: the whole program in one function, from a slide file to a finished run folder."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.machine import give_back_freed_memory
from wsi_pipeline.core.records import RegionFailure, RunRecord
from wsi_pipeline.core.request import SlideRequest, as_request
from wsi_pipeline.runs.dask_executor import remote_model, run_on_cluster
from wsi_pipeline.runs.job import Job, finish, open_run, segment_regions
from wsi_pipeline.runs.local_executor import run_locally
from wsi_pipeline.runs.work_plan import plan_work, read_roi
from wsi_pipeline.segmentation.model import Model
from wsi_pipeline.slides.slide import open_slide

__all__ = ["RunResult", "model_for_run", "run_slide"]


@dataclass(frozen=True)
class RunResult:
    """Result of one slide.

    Attributes
    ----------
    folder
        the run folder, ``out/<slide_id>/<model>``
    objects
        number of objects
    failed
        regions that could not be read completely, each with its box and the cause
    summary
        content of run.json
    """

    folder: Path
    objects: int
    failed: tuple[RegionFailure, ...]
    summary: RunRecord


def run_slide(
    slide: SlideRequest | Path | str,
    config: RunConfig | None = None,
    *,
    model: Model | Callable[[], Model] | None = None,
    stop: threading.Event | None = None,
) -> RunResult:
    """Segment one slide and write its run folder; call it again to resume a run that was stopped.

    Parameters
    ----------
    slide
        the slide file, or a request, whose own settings override those of `config`
    model
        your own model, from `model_from_module` or `model_from_function`, or a function that
        loads one; by default the one that `config` names
    stop
        once it is set, no region is begun, and the regions in flight are finished

    Raises
    ------
    SlideError, UsageError, CheckpointError, OutputError, DataError, ClusterError
        the slide cannot be processed; the message says why and what to do. Regions that cannot
        be read raise no error: they are in `RunResult.failed`.
    KeyboardInterrupt
        `stop` was set before all regions were done
    """
    request = as_request(slide)
    config = request.settings(config or RunConfig())
    with (
        _freed_memory_returned(),
        open_slide(
            request,
            mpp=config.mpp,
            crop=config.crop,
            read_timeout_s=config.read_timeout_s,
            series=config.series,
            plane=config.plane,
            time=config.time,
        ) as opened,
    ):
        opened.require_mpp()  # a slide without a pixel size fails before PyTorch is imported
        if not isinstance(model, Model):
            model = model() if model is not None else model_for_run(config)
        began = time.perf_counter()
        roi = read_roi(config.roi, opened, read_timeout_s=config.read_timeout_s)
        with open_run(opened, model, config) as folder:
            record = folder.finished
            if record is None:
                plan = plan_work(opened, model, config, roi)
                job = Job(opened, model, config, plan, folder, stop or threading.Event(), began)
                segment_regions(job, run_on_cluster if config.scheduler else run_locally)
                record = finish(job)
            failed = tuple(record["failed_regions"])
            return RunResult(folder.path, record["objects"], failed, record)


def model_for_run(config: RunConfig) -> Model:
    """Open the model that `config` names: here, or on the workers of `config.scheduler`.

    Raises
    ------
    UsageError, CheckpointError, ClusterError
        the model cannot be opened
    """
    if config.scheduler:
        return remote_model(config)
    from wsi_pipeline.segmentation.load_model import model_for  # a user's model needs no PyTorch

    return model_for(config)


@contextmanager
def _freed_memory_returned() -> Iterator[None]:
    try:
        yield
    finally:
        give_back_freed_memory()
