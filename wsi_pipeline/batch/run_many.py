"""Many slides in one go: which ones were named, what can be told beforehand, one after another."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import (
    ClusterError,
    OutputError,
    SlideError,
    UsageError,
    WsisegError,
    one_line,
)
from wsi_pipeline.core.machine import keep_freed_memory
from wsi_pipeline.core.request import SlideRequest

if TYPE_CHECKING:
    from wsi_pipeline.pipeline import RunResult
    from wsi_pipeline.segmentation.model import Model

__all__ = [
    "Outcome",
    "check_slides",
    "run_slides",
]


@dataclass(frozen=True)
class Outcome:
    """What became of one slide: its result, or why there is none."""

    name: str
    seconds: float
    result: RunResult | None = None
    cause: str = ""

    @property
    def failed(self) -> bool:
        """Whether anything of the slide is missing."""
        return self.result is None or bool(self.result.failed)


def run_slides(
    slides: Sequence[SlideRequest], config: RunConfig, stop: threading.Event | None = None
) -> list[Outcome]:
    """Segment slides one after another; one that fails does not stop the others.

    What can be checked beforehand is checked before the first tile is read. Failures are written
    to standard error as they come.

    Parameters
    ----------
    stop
        once it is set no region and no slide is begun, and what is in flight is finished

    Raises
    ------
    UsageError, CheckpointError, DataError
        nothing was started, since an argument must change
    KeyboardInterrupt
        `stop` was set before all was done
    """
    check_slides(slides, config)
    outcomes: dict[Path, Outcome] = {}
    ids: dict[str, Path] = {}
    for slide in slides:
        _go_on(stop)
        try:
            slide_id = _header(slide, config)
        except SlideError as error:
            outcomes[slide.path] = _failed(slide, one_line(error))
            continue
        other = ids.setdefault(slide_id, slide.path)
        if other != slide.path:
            raise UsageError(
                f"{other} and {slide.path} are both slide {slide_id!r}, which has one run folder; "
                "give each its own --out"
            )
    if ids:
        models = _ready([s for s in slides if s.path not in outcomes], config)
        for slide in slides:
            if slide.path not in outcomes:
                _go_on(stop)
                try:
                    outcomes[slide.path] = _run(slide, config, models[slide.model], stop)
                except ClusterError as error:  # the next slide would only wait for it
                    outcomes[slide.path] = _failed(slide, one_line(error))
                    lost = "not begun, since the cluster failed; the same command continues"
                    for rest in (s for s in slides if s.path not in outcomes):
                        outcomes[rest.path] = _failed(rest, f"{rest.path.name}: {lost}")
    return [outcomes[s.path] for s in slides]


def _go_on(stop: threading.Event | None) -> None:
    if stop is not None and stop.is_set():
        raise KeyboardInterrupt


def check_slides(
    slides: Sequence[SlideRequest], config: RunConfig, *, look_into_rois: bool = True
) -> None:
    """Look for faults of the arguments that need no slide and no network to be seen.

    Raises
    ------
    UsageError, DataError
        the slide sheet and the settings contradict each other, or a file of regions is no good
    """
    for what in ("mpp", "roi"):
        if getattr(config, what) is not None and any(getattr(s, what) is not None for s in slides):
            raise UsageError(f"the slide sheet gives {what} and so does --{what}; use one of them")
    if config.checkpoint is not None and any(s.model is not None for s in slides):
        raise UsageError(
            "the slide sheet gives models, and --checkpoint decides the model; use one of them"
        )
    if config.roi is not None and len(slides) > 1:
        raise UsageError(
            f"--roi belongs to one slide, not to {len(slides)}; give them in a slide sheet"
        )
    rois = {config.roi, *(s.roi for s in slides)}
    if look_into_rois and any(rois):
        from wsi_pipeline.formats.geojson import read_regions

        for roi in sorted(filter(None, rois)):
            read_regions(roi)


def _header(slide: SlideRequest, config: RunConfig) -> str:
    """The id of a slide that opens and has a pixel size; `SlideError` for one that does not."""
    from wsi_pipeline.slides.slide import open_slide

    with open_slide(
        slide, mpp=config.mpp, crop=config.crop, read_timeout_s=config.read_timeout_s
    ) as opened:
        opened.require_mpp()
        return opened.slide_id


def _ready(slides: Sequence[SlideRequest], config: RunConfig) -> dict[str | None, Model]:
    """The models, each opened once for all slides, after a look at where results go."""
    from wsi_pipeline.pipeline import model_for_run
    from wsi_pipeline.runs.run_folder import check_output
    from wsi_pipeline.runs.work_plan import tile_size

    try:
        check_output(config.out, 0)
    except OutputError as error:
        raise UsageError(str(error)) from error
    names = {s.model: s.model or config.model for s in slides}
    opened = {n: model_for_run(replace(config, model=n)) for n in dict.fromkeys(names.values())}
    if not config.scheduler and any(model.device == "cpu" for model in opened.values()):
        keep_freed_memory()
    for model in opened.values():
        tile_size(model, config)
    return {given: opened[name] for given, name in names.items()}


def _run(
    slide: SlideRequest, config: RunConfig, model: Model, stop: threading.Event | None
) -> Outcome:
    from wsi_pipeline.pipeline import run_slide

    began = time.perf_counter()
    _log(f"{slide.path.name}: {model.name} on {model.device}", config)
    try:
        result = run_slide(slide, config, model=model, stop=stop)
    except ClusterError:
        raise
    except WsisegError as error:
        return _failed(slide, one_line(error), time.perf_counter() - began)
    except Exception as error:  # a bug or a machine at its limit; the other slides are not harmed
        traceback.print_exc()
        cause = f"{slide.path.name}: {type(error).__name__}: {one_line(error)}{_advice(error)}"
        return _failed(slide, cause, time.perf_counter() - began)
    seconds = time.perf_counter() - began
    _log(f"{slide.path.name}: {result.objects} objects, {seconds:.1f} s", config)
    outcome = Outcome(slide.path.name, seconds, result, _regions(result))
    if outcome.failed:
        _say(f"{outcome.name}: {outcome.cause}")
    return outcome


def _regions(result: RunResult) -> str:
    """How many regions failed or lack something, and the first cause; empty where none did."""
    if not result.failed:
        return ""
    lost = sum("missing" not in failure for failure in result.failed)
    gaps = len(result.failed) - lost
    told = [f"{lost} region{'s' * (lost > 1)} failed"] * (lost > 0)
    told += [f"{gaps} region{'s are' if gaps > 1 else ' is'} not whole"] * (gaps > 0)
    cause = result.failed[0]["cause"]
    return f"{', '.join(told)} ({cause}); the same command tries again"


def _advice(error: Exception) -> str:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "; give a smaller --tile-px, --batch 1 or fewer --workers"
    return "; please report this bug with the lines above"


def _failed(slide: SlideRequest, cause: str, seconds: float = 0.0) -> Outcome:
    _say(cause)
    return Outcome(slide.path.name, seconds, cause=cause)


def _say(text: str) -> None:
    click.echo(f"wsiseg: {text}", err=True)


def _log(text: str, config: RunConfig) -> None:
    if not config.quiet:
        click.echo(text, err=True)
