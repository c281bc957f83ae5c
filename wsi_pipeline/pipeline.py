"""run_slide: the whole story, from a slide file to a finished run folder."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import dask

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import ClusterError, SlideError
from wsi_pipeline.core.geometry import Region
from wsi_pipeline.core.machine import give_back_freed_memory, peak_bytes
from wsi_pipeline.core.progress import progress
from wsi_pipeline.core.records import (
    RegionFailure,
    RunRecord,
)
from wsi_pipeline.core.request import SlideRequest, as_request
from wsi_pipeline.core.run_layout import OVERLAY, RUN_JSON, THUMBNAIL, run_folder_path
from wsi_pipeline.runs.dask_client import Answer, Cluster, model_there
from wsi_pipeline.runs.final_files import Results
from wsi_pipeline.runs.overlay import Density, draw_overlay, to_png
from wsi_pipeline.runs.provenance import plan_record, provenance_record
from wsi_pipeline.runs.run_folder import RunFolder, check_output
from wsi_pipeline.runs.work_plan import plan_work, read_roi, tile_size
from wsi_pipeline.segmentation.damaged_regions import segment_readable
from wsi_pipeline.segmentation.inference import Engine
from wsi_pipeline.segmentation.model import Model
from wsi_pipeline.segmentation.stitch import duplicates
from wsi_pipeline.slides.slide import Slide, open_slide

__all__ = [
    "RunResult",
    "run_slide",
]


@dataclass(frozen=True)
class RunResult:
    """What became of one slide.

    Attributes
    ----------
    folder
        the run folder
    objects
        how many there are
    failed
        regions of which something could not be read, each with box and cause; empty if all is well
    summary
        the content of run.json
    """

    folder: Path
    objects: int
    failed: tuple[RegionFailure, ...]
    summary: RunRecord


def run_slide(
    slide: SlideRequest | Path | str,
    config: RunConfig | None = None,
    *,
    model: Model | None = None,
    stop: threading.Event | None = None,
) -> RunResult:
    """Segment one slide and write its run folder; the same call again continues.

    Parameters
    ----------
    slide
        the slide file, or a request, whose own settings come before those of `config`
    model
        a model of one's own, from `model_from_module` or `model_from_function`; by default the
        one that `config` names
    stop
        once it is set no region is begun, and what is in flight is finished

    Raises
    ------
    SlideError, UsageError, CheckpointError, OutputError, DataError
        nothing can be done for this slide; the message says why and what to do. Regions that
        cannot be read are no exception: they are in the result.
    KeyboardInterrupt
        `stop` was set before all was done; the same call continues
    """
    request = as_request(slide)
    config = request.settings(config or RunConfig())
    with (
        _memory_given_back(),
        open_slide(
            request, mpp=config.mpp, crop=config.crop, read_timeout_s=config.read_timeout_s
        ) as opened,
        _Job(opened, model or _open(config), config, stop) as job,
    ):
        if job.folder.finished is not None:
            return _result(job.folder, job.folder.finished)
        job.look()
        job.segment()
        return job.finish()


@contextmanager
def _memory_given_back() -> Iterator[None]:
    try:
        yield
    finally:
        give_back_freed_memory()


def _open(config: RunConfig) -> Model:
    if config.scheduler:
        return model_there(config)
    from wsi_pipeline.segmentation.load_model import (
        model_for,  # a model of one's own needs no PyTorch
    )

    return model_for(config)


class _Job:
    """One slide on its way through the stages; a context manager, since it holds a run folder."""

    def __init__(
        self, slide: Slide, model: Model, config: RunConfig, stop: threading.Event | None = None
    ) -> None:
        self.slide, self.model, self.config = slide, model, config
        self.stop = stop or threading.Event()
        self.began = time.perf_counter()
        self.watch: dict[str, float] = {}
        self.batch = config.batch
        self.workers: list[str] = []
        slide.require_mpp()
        tile_size(model, config)
        # 135 nuclei a megapixel on a third of the slide, 2 kB each in parts and results.
        check_output(config.out, 20_000_000 + slide.width * slide.height // 11)
        self.roi = read_roi(config.roi)
        folder = run_folder_path(config.out, slide.slide_id, model.name)
        self.folder = RunFolder(
            folder, plan_record(slide, model, config), overwrite=config.overwrite
        )

    def __enter__(self) -> _Job:
        return self

    def __exit__(self, *error: object) -> None:
        self.folder.close()

    def look(self) -> None:
        """Find out where there are cells, and which regions that makes."""
        self.plan = plan_work(self.slide, self.model, self.config, self.roi)
        self.regions = self.plan.regions
        self.results = Results(
            self.folder,
            provenance_record(self.slide, self.model, self.config, self.plan.foreground),
            self.model.empty(),
            Density(self.slide.width, self.slide.height),
        )

    def segment(self) -> None:
        """Bring every region that is not finished from pixels to a part on disk."""
        todo = [r for r in self.regions if not self.folder.done(r.index)]
        left = {r.index for r in todo}
        for region in self.regions:
            if region.index not in left:
                self.results.settle(region.index)
        bar = progress(
            len(self.regions), initial=len(self.regions) - len(todo), unit="region",
            desc=self.slide.slide_id, quiet=self.config.quiet,
        )  # fmt: skip
        lock = threading.Lock()

        def settle(region: int) -> None:
            self.results.settle(region)
            with lock:
                left.discard(region)
                bar.update()

        with ExitStack() as stack:
            stack.callback(bar.close)
            if self.model.streams:
                stack.enter_context(self.results.following([r.index for r in self.regions]))
            (self._on_cluster if self.config.scheduler else self._here)(todo, settle)
            if left and self.stop.is_set():
                raise KeyboardInterrupt

    def _here(self, todo: list[Region], settle: Callable[[int], None]) -> None:
        """Do regions in threads of this process."""
        fatal: list[BaseException] = []
        engine = Engine(
            self.slide, self.model, self.plan.search_area, scale=self.plan.scale,
            tile_px=self.plan.tile_px, batch=self.config.batch,
        )  # fmt: skip

        def task(region: Region) -> None:
            if fatal or self.stop.is_set():
                return
            try:
                found = segment_readable(engine, region, self.config, self.plan.object_filter)
                failure = found.failure(region.index)
                self.folder.write_part(region.index, found.objects, found.oversized, failure)
            except SlideError as error:
                self.folder.write_failure(self._failure(region, str(error)))
            except Exception as error:
                # Raised below: an engine that closes under running tasks would never answer them.
                fatal.append(error)
                return
            settle(region.index)

        with engine:
            # Dask takes the last name first. Every other region of a row is read whole, and those
            # between find much of theirs read.
            todo.sort(
                key=lambda r: (r.core.y0, r.core.x0 // self.plan.region_px % 2, r.core.x0),
                reverse=True,
            )
            names = [f"region-{n:09d}" for n in range(len(todo), 0, -1)]
            tasks = [
                dask.delayed(task)(r, dask_key_name=n) for r, n in zip(todo, names, strict=True)
            ]
            dask.compute(*tasks, scheduler="threads", num_workers=self.config.workers)
            if fatal:
                raise fatal[0]
        self.watch, self.batch = engine.watch.seconds, engine.batch

    def _on_cluster(self, todo: list[Region], settle: Callable[[int], None]) -> None:
        """Have regions done by the workers of a Dask cluster, and write what they answer."""
        regions = {r.index: r for r in todo}
        try:
            with Cluster(self.config) as cluster:
                answers = cluster.spread(
                    self.slide, self.model, todo, scale=self.plan.scale,
                    visible=self.plan.search_area, keep=self.plan.object_filter,
                    stop=self.stop.is_set,
                )  # fmt: skip
                with closing(answers):
                    for index, answer in answers:
                        self._write(regions[index], answer)
                        settle(index)
            self.workers = sorted(cluster.workers)
        except ClusterError as error:
            kept = sum(self.folder.has(r.index) for r in self.regions)
            raise ClusterError(
                f"{self.slide.path.name}: {error}; {kept} of {len(self.regions)} regions are kept, "
                "run the same command again to resume, also without --scheduler"
            ) from error

    def _write(self, region: Region, answer: Answer) -> None:
        """Keep what a worker made of a region."""
        if "part" in answer:
            self.folder.write_part_bytes(region.index, answer["part"], answer["incomplete"])
        else:
            self.folder.write_failure(self._failure(region, answer["failure"]))
        self.batch = min(self.batch, answer.get("batch", self.batch))
        for stage, seconds in answer.get("seconds", {}).items():
            self.watch[stage] = self.watch.get(stage, 0.0) + seconds

    def _failure(self, region: Region, cause: str) -> RegionFailure:
        return {
            "region": region.index,
            "level0_box": [round(v) for v in self.plan.region_box(region)],
            "cause": cause,
        }

    def finish(self) -> RunResult:
        """Write what is left of the final files and close the run."""
        began = time.perf_counter()
        results, overview = self.results, self.plan.overview
        during = results.seconds
        if not self.model.streams:
            parts = ((n, self.folder.read_part(n)[0]) for n in self.folder.regions())
            cores = {r.index: r.core for r in self.regions}
            drop = duplicates(parts, cores, scale=self.plan.scale, reach_px=self.model.reach_px)
            results.write(self.folder.regions(), drop)
        self.folder.write_bytes(THUMBNAIL, to_png(overview.thumbnail))
        overlay = draw_overlay(
            self.slide, overview, results.density, results.near, scale=self.plan.scale
        )
        self.folder.write_bytes(OVERLAY, to_png(overlay))
        self.watch["write"] = during + time.perf_counter() - began
        failed = self.folder.failures()
        summary: RunRecord = {
            **results.provenance,
            "objects": results.objects,
            "objects_larger_than_seen": results.oversized,
            "regions": len(self.regions),
            "failed_regions": failed,
            "seconds": round(time.perf_counter() - self.began, 2),
            "stage_seconds": {k: round(v, 2) for k, v in self.watch.items()},
            "peak_memory_mb": round(peak_bytes() / 2**20),
            "batch_reduced_to": self.batch if self.batch < self.config.batch else None,
            "cluster": None,
        }
        if self.config.scheduler:
            summary["cluster"] = {"scheduler": self.config.scheduler, "workers": self.workers}
        self.folder.write_json(RUN_JSON, summary)
        if not failed:
            self.folder.discard_parts()
        return _result(self.folder, summary)


def _result(folder: RunFolder, summary: RunRecord) -> RunResult:
    return RunResult(folder.path, summary["objects"], tuple(summary["failed_regions"]), summary)
