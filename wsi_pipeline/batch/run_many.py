"""Many slides, one after another: check the arguments, then run each slide."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import (
    CheckpointError,
    ClusterError,
    OutputError,
    UsageError,
    WsisegError,
    one_line,
)
from wsi_pipeline.core.named_paths import refuse_missing
from wsi_pipeline.core.progress import announce
from wsi_pipeline.core.request import SlideRequest
from wsi_pipeline.core.safe_names import NameRefused, shown, slide_id_of
from wsi_pipeline.segmentation.model_name import model_name

if TYPE_CHECKING:
    from wsi_pipeline.pipeline import RunResult
    from wsi_pipeline.segmentation.model import Model

__all__ = ["Outcome", "check_settings", "check_slides", "run_slides"]


@dataclass(frozen=True)
class Outcome:
    """The result of one slide, or the cause why there is none.

    Attributes
    ----------
    name
        file name of the slide, see `shown`
    seconds
        time that the slide took
    result
        the finished run, or None
    cause
        what failed and what to do; empty if nothing failed
    """

    name: str
    seconds: float
    result: RunResult | None = None
    cause: str = ""

    @property
    def failed(self) -> bool:
        """Whether the slide, or a region of it, has no result."""
        return self.result is None or bool(self.result.failed)


def run_slides(
    slides: Sequence[SlideRequest],
    config: RunConfig,
    stop: threading.Event | None = None,
    *,
    on_load: Callable[[Model], object] = lambda model: None,
) -> list[Outcome]:
    """Segment slides one after another; a slide that fails does not stop the others.

    The arguments are checked before the first slide. Each slide is opened once, when it is its
    turn, and its model is loaded after that; a model is loaded once and kept. Failures are written
    to standard error as they happen.

    Parameters
    ----------
    stop
        set it to stop: regions in progress are finished, and no others are started
    on_load
        called with each model after it is loaded

    Raises
    ------
    UsageError, CheckpointError, DataError
        an argument must change; nothing was segmented
    KeyboardInterrupt
        `stop` was set before everything was done
    """
    check_slides(slides, config)
    _check_out(config.out)
    models = _Models(on_load)
    outcomes: list[Outcome] = []
    for number, slide in enumerate(slides, 1):
        if stop is not None and stop.is_set():
            raise KeyboardInterrupt
        try:
            outcomes.append(_run(slide, config, models, stop))
        except ClusterError as error:  # the other slides would wait for the same cluster
            outcomes.append(_failed(slide, one_line(error)))
            cause = "not started, because the cluster failed; run the same command again to resume"
            outcomes += [
                _failed(rest, f"{shown(rest.path.name)}: {cause}") for rest in slides[number:]
            ]
            break
        except (UsageError, CheckpointError) as error:
            if not any(outcome.result for outcome in outcomes):
                raise
            outcomes.append(_failed(slide, one_line(error)))
    return outcomes


def check_settings(slides: Sequence[SlideRequest], config: RunConfig) -> None:
    """Make sure that the slide sheet and the settings do not contradict each other.

    Raises
    ------
    UsageError
        both give a pixel size, a model or regions of interest
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


def check_slides(slides: Sequence[SlideRequest], config: RunConfig) -> None:
    """Check everything that can be checked without opening a slide or loading a model.

    Raises
    ------
    UsageError, CheckpointError, DataError
        the slide sheet and the settings contradict each other, a file that they name cannot be
        used, a model is unknown, or two slides have one run folder
    """
    from wsi_pipeline.runs.work_plan import read_roi

    check_settings(slides, config)
    rois = sorted({roi for roi in (config.roi, *(s.roi for s in slides)) if roi is not None})
    refuse_missing([*rois, *filter(None, [config.checkpoint, config.kinds_checkpoint])])
    _refuse_same_run(slides, config)
    for roi in rois:
        read_roi(roi, read_timeout_s=config.read_timeout_s)


def _refuse_same_run(slides: Sequence[SlideRequest], config: RunConfig) -> None:
    """Check the models' names, and that no two slides have the same run folder."""
    own = {slide.model for slide in slides}
    names = {model: model_name(replace(config, model=model or config.model)) for model in own}
    runs: dict[tuple[str, str], Path] = {}
    for slide in slides:
        try:
            slide_id = slide_id_of(slide.path)
        except NameRefused:  # this slide fails when it is opened; the others do not
            continue
        other = runs.setdefault((slide_id, names[slide.model]), slide.path)
        if other != slide.path:
            raise UsageError(
                f"{other} and {slide.path} are both slide {slide_id!r} and have the same run "
                "folder; give each its own --out"
            )


def _check_out(out: Path) -> None:
    from wsi_pipeline.runs.run_folder import check_output

    try:
        check_output(out, 0)
    except OutputError as error:
        raise UsageError(str(error)) from error


class _Models:
    """Loads each model when it is first needed, and keeps it."""

    def __init__(self, on_load: Callable[[Model], object]) -> None:
        self._on_load = on_load
        self._loaded: dict[str, Model] = {}

    def get(self, config: RunConfig) -> Model:
        """Return the model of a slide's settings; `ConfigError` if they do not fit it."""
        from wsi_pipeline.pipeline import model_for_run
        from wsi_pipeline.runs.work_plan import check_settings

        if config.model not in self._loaded:
            what = config.checkpoint.name if config.checkpoint else config.model
            # A cluster's workers load the network, and the wait for them has a line of its own.
            quiet = config.quiet or config.scheduler is not None
            with announce(f"loading the network {what} (PyTorch)", quiet=quiet):
                model = model_for_run(config)
            check_settings(model, config)
            self._on_load(model)
            self._loaded[config.model] = model
        return self._loaded[config.model]


def _run(
    slide: SlideRequest, config: RunConfig, models: _Models, stop: threading.Event | None
) -> Outcome:
    from wsi_pipeline.pipeline import run_slide

    began = time.perf_counter()
    name = shown(slide.path.name)

    def model() -> Model:
        loaded = models.get(slide.settings(config))
        _log(f"{name}: {loaded.name} on {loaded.device}", config)
        return loaded

    try:
        result = run_slide(slide, config, model=model, stop=stop)
    except (ClusterError, UsageError, CheckpointError):
        raise
    except WsisegError as error:
        return _failed(slide, one_line(error), time.perf_counter() - began)
    except Exception as error:  # a bug, or too little memory; the other slides can still be done
        traceback.print_exc()
        cause = f"{name}: {type(error).__name__}: {one_line(error)}{_advice(error)}"
        return _failed(slide, cause, time.perf_counter() - began)
    seconds = time.perf_counter() - began
    _log(f"{name}: {result.objects} objects, {seconds:.1f} s", config)
    outcome = Outcome(name, seconds, result, _failed_regions(result))
    if outcome.failed:
        _print_error(f"{name}: {outcome.cause}")
    return outcome


def _failed_regions(result: RunResult) -> str:
    """Return how many regions failed or are incomplete, and the first cause; empty if none."""
    if not result.failed:
        return ""
    lost = sum("missing" not in failure for failure in result.failed)
    gaps = len(result.failed) - lost
    counts = [f"{lost} region{'s' * (lost > 1)} failed"] * (lost > 0)
    counts += [f"{gaps} region{'s are' if gaps > 1 else ' is'} incomplete"] * (gaps > 0)
    cause = result.failed[0]["cause"]
    return f"{', '.join(counts)} ({cause}); run the same command to try again"


def _advice(error: Exception) -> str:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "; give a smaller --tile-px, --batch 1 or fewer --workers"
    return "; please report this bug with the lines above"


def _failed(slide: SlideRequest, cause: str, seconds: float = 0.0) -> Outcome:
    _print_error(cause)
    return Outcome(shown(slide.path.name), seconds, cause=cause)


def _print_error(text: str) -> None:
    click.echo(f"wsiseg: {text}", err=True)


def _log(text: str, config: RunConfig) -> None:
    if not config.quiet:
        click.echo(text, err=True)
