"""The stages of a run, each timed alone: nothing of another stage runs beside it.

Threads, tiles and regions are those of `run_slide`. What takes the slide as a whole (read, write)
is timed on all of it; network and objects are timed on enough of it and scaled up, which is said.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wsi_pipeline.benchmark.machine import Busy, forget_gpu_memory, gpu_memory_mb, synchronise
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import UsageError
from wsi_pipeline.core.geometry import Box, plan_tiles
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.runs.final_files import FinalFiles
from wsi_pipeline.runs.provenance import plan_record, provenance_record
from wsi_pipeline.runs.run_folder import RunFolder
from wsi_pipeline.runs.work_plan import plan_work
from wsi_pipeline.segmentation.inference import Engine, Infer
from wsi_pipeline.segmentation.model import Images, Model
from wsi_pipeline.segmentation.nuclei import PixelModel
from wsi_pipeline.slides.slide import Slide

__all__ = [
    "Stage",
    "Work",
    "check_model",
    "time_decode",
    "time_network",
    "time_objects",
    "time_read",
    "time_write",
]

STEADY_S = {"cpu": 10.0, "cuda": 5.0}
"""How long the network is timed, unless it has seen all tiles of the slide before."""
TILES_IN_MEMORY = 32
REGIONS_IN_MEMORY = 16
REGIONS_WITHOUT_GPU = 4
"""Regions of which the network's answer is kept for timing objects; 17 MB each."""
WARM_UP = 2


@dataclass(frozen=True)
class Stage:
    """One stage alone.

    Attributes
    ----------
    seconds
        for the whole slide
    measured_on
        what was timed, in words
    scaled
        whether `seconds` was scaled up from a part of the slide
    further
        more figures by name, such as ``gpu_busy``
    """

    seconds: float
    measured_on: str
    scaled: bool = False
    further: Mapping[str, Any] = field(default_factory=dict)


def check_model(model: Model) -> PixelModel:
    """Return the model; raise a `UsageError` if its stages are not those that are timed here."""
    if not isinstance(model, PixelModel):
        raise UsageError(
            f"{model.name} finds instances; the benchmark times networks that say what each pixel "
            "is, e.g. --model dssnet"
        )
    return model


class Work:
    """What a run of one slide has to do, planned as `run_slide` plans it.

    Attributes
    ----------
    regions, tiles
        regions with foreground, and the windows of their tiles, halo included
    foreground_mpx
        megapixels of level 0 that are foreground
    """

    def __init__(self, slide: Slide, model: PixelModel, config: RunConfig) -> None:
        self.slide, self.model, self.config = slide, model, config
        self.plan = plan_work(slide, model, config)
        self.regions = list(self.plan.regions)
        self.tiles = [tile.window for r in self.regions for tile in self.plan.tiles(r)]
        self.foreground_mpx = self.plan.foreground.share * slide.width * slide.height / 1e6

    def reaches(self) -> list[Box]:
        """What each region reads, in model pixels: its window, and its tiles' halo."""
        reaches = []
        for region in self.regions:
            window = region.core.grow(self.plan.margin_px)
            tiles = list(plan_tiles(window, self.plan.tile_px, self.plan.halo_px))
            reaches.append(tiles[0].window.around(tiles[-1].window))
        return reaches

    def engine(self, kind: type[Engine] = Engine) -> Engine:
        """The engine that a run would use."""
        return kind(
            self.slide, self.model, self.plan.search_area,
            scale=self.plan.scale, tile_px=self.plan.tile_px, batch=self.config.batch,
        )  # fmt: skip

    def in_threads(self, task: Callable[[Any], object], items: Iterable[Any]) -> float:
        """Seconds for a task on each item, in as many threads as a run has; answers are let go."""

        def let_go(item: Any) -> None:
            task(item)

        began = time.perf_counter()
        with ThreadPoolExecutor(self.config.workers) as pool:
            for done in [pool.submit(let_go, item) for item in items]:
                done.result()
        return time.perf_counter() - began


def time_read(work: Work) -> Stage:
    """Every region's window from the file to the model's pixels: decoded and resampled."""
    reaches = work.reaches()
    seconds = work.in_threads(lambda box: work.slide.read_scaled(box, work.plan.scale), reaches)
    return Stage(seconds, f"{len(reaches)} of {len(reaches)} regions")


def time_decode(work: Work) -> Stage:
    """The same windows decoded, without resampling, from the level that `read_scaled` takes."""
    levels = work.slide.levels
    fine = [i for i, level in enumerate(levels) if level.downsample <= work.plan.scale * 1.001] or [
        0
    ]
    level = max(fine, key=lambda i: levels[i].downsample)
    step = work.plan.scale / levels[level].downsample

    def decode(box: Box) -> Images:
        source = (round(v * step) for v in (box.x0, box.y0, box.x1, box.y1))
        return work.slide.read_region(Box(*source), level)

    reaches = work.reaches()
    return Stage(work.in_threads(decode, reaches), f"{len(reaches)} of {len(reaches)} regions")


def time_network(work: Work) -> Stage:
    """The network on tiles that lie in memory, until its speed is steady or all tiles are done."""
    model, total = work.model, len(work.tiles)
    predict = model.infer_core
    batches = _batches(work)
    forget_gpu_memory(model.device)
    enough = STEADY_S[model.device.partition(":")[0]]
    done = calls = 0
    together = 1 if model.at_once == 1 else 4 * model.at_once  # threads rarely wait for the last
    with ThreadPoolExecutor(model.at_once, initializer=model.share) as pool:
        began = time.perf_counter()
        list(pool.map(predict, (WARM_UP * model.at_once * batches)[: WARM_UP * model.at_once]))
        synchronise(model.device)
        further: dict[str, Any] = {"warm_up_s": time.perf_counter() - began}
        with Busy(model.device) as busy:

            def call(images: Images) -> int:
                with busy.call():
                    predict(images)
                return len(images)

            began = time.perf_counter()
            while done < total and (calls < 3 or time.perf_counter() - began < enough):
                left = -(-(total - done) // len(batches[0]))
                some = [batches[(calls + k) % len(batches)] for k in range(min(left, together))]
                done, calls = done + sum(pool.map(call, some)), calls + len(some)
            synchronise(model.device)
            seconds = time.perf_counter() - began
    further |= busy.result() | gpu_memory_mb(model.device)
    measured = f"{done} tiles for {total}" if done != total else f"{total} of {total} tiles"
    return Stage(seconds * total / done, measured, scaled=done != total, further=further)


def _batches(work: Work) -> list[Images]:
    """Tiles from all over the slide, in batches of the shape that a run sends."""
    size = min(work.config.batch, len(work.tiles))
    count = max(1, min(TILES_IN_MEMORY, len(work.tiles)) // size)
    picked = _spread(work.tiles, count * size)
    tiles = [work.slide.read_scaled(window, work.plan.scale) for window in picked]
    return [np.stack(tiles[k * size : (k + 1) * size]) for k in range(count)]


def _spread(items: list[Any], count: int) -> list[Any]:
    """`count` of the items, evenly from first to last; all where there are no more."""
    if count >= len(items):
        return items
    return [items[(2 * k + 1) * len(items) // (2 * count)] for k in range(count)]


class _Remembering(Engine):
    """Answers a window that it has seen from memory: neither read nor computed again."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._known: dict[Box, tuple[Images, Images]] = {}

    def predict(self, infer_core: Infer, window: Box, overlap: int = 0) -> tuple[Images, Images]:
        if window not in self._known:
            self._known[window] = super().predict(infer_core, window, overlap)
        return self._known[window]


def time_objects(work: Work, *, cheap: bool) -> Stage:
    """From probabilities in memory to objects, for some regions, scaled by visible area.

    Parameters
    ----------
    cheap
        whether the network costs little, so that more regions can be computed beforehand
    """
    regions = _spread(work.regions, REGIONS_IN_MEMORY if cheap else REGIONS_WITHOUT_GPU)
    area = {
        r: int(work.plan.search_area.window(r.core, work.plan.scale).sum()) for r in work.regions
    }
    with work.engine(_Remembering) as engine:

        def segment(region: Any) -> int:
            return len(
                work.model.segment_region(engine, region, work.config, work.plan.object_filter)[0]
            )

        found = sum(map(segment, regions))
        passes, seconds = 0, 0.0
        while seconds < 0.5:
            seconds += work.in_threads(segment, regions)
            passes += 1
    share = sum(area[r] for r in regions) / sum(area.values())
    measured = f"{len(regions)} of {len(work.regions)} regions, {found} objects"
    return Stage(seconds / passes / share, measured, scaled=len(regions) < len(work.regions))


def time_write(work: Work, objects: Objects, out: Path) -> Stage:
    """The files of a finished run from parts on disk.

    Parameters
    ----------
    objects
        those of the slide
    out
        empty folder, which gets the parts and the files
    """
    slide = work.slide
    folder = RunFolder(out, plan_record(slide, work.model, work.config))
    for n, part in enumerate(np.array_split(np.arange(len(objects)), len(work.regions))):
        folder.write_part(n, objects.take(part), 0)

    began = time.perf_counter()
    about = provenance_record(slide, work.model, work.config, work.plan.foreground)
    files = FinalFiles(folder, slide, about, work.model.empty())
    files.write(folder.regions())
    files.write_pictures(work.plan)
    return Stage(time.perf_counter() - began, f"{len(objects)} objects")
