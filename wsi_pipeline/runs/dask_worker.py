"""What a worker of a Dask cluster does: open a network, and segment regions with it.

A worker process keeps one network and the slides that it works on open, and closes them after
`IDLE_S` seconds without a region.
"""

from __future__ import annotations

import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import CheckpointError, ClusterError, SlideError, WsisegError
from wsi_pipeline.core.geometry import Box, Region
from wsi_pipeline.core.machine import keep_freed_memory
from wsi_pipeline.runs.messages import (
    Answer,
    ErrorMessage,
    ModelRequest,
    RegionRequest,
    Request,
    SlideTask,
)
from wsi_pipeline.runs.part_file import part_bytes
from wsi_pipeline.segmentation.damaged_regions import segment_readable
from wsi_pipeline.segmentation.inference import Engine
from wsi_pipeline.segmentation.kinds import KINDS_NAME, has_kinds, kinds_identity
from wsi_pipeline.segmentation.model import Model
from wsi_pipeline.slides.read_timeout import ReadTimeout
from wsi_pipeline.slides.slide import Slide, open_slide

__all__ = ["MODEL_FIELDS", "describe_model", "segment_region", "weights_of"]

IDLE_S = 60.0
"""Seconds without a region after which a worker closes its slides and its network."""

MODEL_FIELDS = (
    "name", "classes", "mpp", "halo_px", "stride", "tile_px", "identity", "device", "precision",
    "card", "by_class",
)  # fmt: skip
"""Fields of a model that the run needs, although the network is on the workers."""


def weights_of(model: Model, config: RunConfig) -> tuple[str, ...]:
    """Return the SHA-256 of a model's weights and, where it sorts nuclei, of those that do."""
    sorts = has_kinds(model.classes)
    return (model.identity, *([kinds_identity(config.kinds_checkpoint)] if sorts else []))


def describe_model(request: ModelRequest) -> Answer:
    """Open a network; return a `ModelAnswer`."""

    def describe() -> dict[str, Any]:
        model = _OPEN.network(pickle.loads(request["config"]))  # noqa: TID251
        fields = {name: getattr(model, name) for name in MODEL_FIELDS}
        return {"kind": type(model).__name__, "fields": fields}

    return _answer(request, describe)


def segment_region(request: RegionRequest, model: bytes | None = None) -> Answer:
    """Segment a region; return a `RegionAnswer`.

    Parameters
    ----------
    model
        the user's own model, pickled; by default the network that the slide's settings name
    """

    def segment() -> dict[str, Any]:
        region = Region(request["region"], Box(*request["core"]))
        content: dict[str, Any] = {"part": None, "incomplete": None, "failure": None}
        with _OPEN.slide(request["slide_key"], request["slide_task"], model) as slide:
            try:
                found = segment_readable(
                    slide.engine, region, slide.task.config, slide.task.object_filter
                )
                content["part"] = part_bytes(found.objects, found.oversized)
                content["incomplete"] = found.failure(region.index)
            except SlideError as error:
                content["failure"] = str(error)
            return content | {"seconds": slide.new_seconds(), "batch": slide.engine.batch}

    return _answer(request, segment)


def _answer(request: Request, work: Callable[[], Mapping[str, Any]]) -> Answer:
    """Return what `work` returns, or the error that it raised on purpose."""
    worker = f"worker {_this_worker().address} on {socket.gethostname()}"
    try:
        wanted, installed = request["wsiseg"], version("wsiseg")
        if installed != wanted:
            raise ClusterError(
                f"has wsiseg {installed}, not {wanted}; install the same version everywhere"
            )
        content = work()
    except WsisegError as error:
        refusal: ErrorMessage = {"name": type(error).__name__, "message": f"{worker}: {error}"}
        return {"worker": worker, "error": refusal}
    except Exception as error:
        error.add_note(f"on {worker}")
        raise
    return cast(Answer, {"worker": worker, "error": None, **content})


def _this_worker() -> Any:
    from distributed import get_worker

    return get_worker()


class _OpenSlide:
    """A slide that is open on this worker, with one engine for all threads."""

    def __init__(self, task: SlideTask, model: Model) -> None:
        self.task = task
        self._slide = _open(task)
        self.engine = Engine(
            self._slide, model, task.search_area,
            scale=task.scale, tile_px=task.tile_px, batch=task.config.batch,
            stain_map=task.stain_map,
        ).__enter__()  # fmt: skip
        self.users, self.last_used = 0, time.monotonic()
        self._reported: dict[str, float] = {}
        self._lock = threading.Lock()

    def new_seconds(self) -> dict[str, float]:
        """Return the seconds per stage since the last call."""
        with self._lock:
            now = dict(self.engine.watch.seconds)
            new = {k: v - self._reported.get(k, 0.0) for k, v in now.items()}
            self._reported = now
        return new

    def close(self) -> None:
        """Close the slide, and end the threads that run the network."""
        self.engine.__exit__(None, None, None)
        self._slide.close()


def _open(task: SlideTask) -> Slide:
    path, config = task.path, task.config
    try:
        size = ReadTimeout(path.name, config.read_timeout_s).call(path.stat).st_size
        if size != task.size_bytes:
            raise SlideError(f"it is another file, {size} bytes, not {task.size_bytes}")
        return open_slide(
            path,
            mpp=config.mpp,
            crop=config.crop,
            read_timeout_s=config.read_timeout_s,
            series=config.series,
            plane=config.plane,
            time=config.time,
        )
    except OSError as error:
        raise SlideError(
            f"{path} cannot be used ({error.strerror or error}); "
            "every worker must see the slide under the same path"
        ) from error


class _OpenResources:
    """What this worker process keeps open: one network, and the slides that it works on."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._slides: dict[str, _OpenSlide] = {}
        self._network: tuple[Any, Model, tuple[str, ...]] | None = None
        self._last_used = time.monotonic()
        self._closer: threading.Thread | None = None

    @contextmanager
    def slide(self, key: str, packed: bytes, model: bytes | None) -> Iterator[_OpenSlide]:
        """Yield the slide of that key; the first thread that needs it opens it."""
        with self._lock:
            if key not in self._slides:
                task = SlideTask.unpack(packed)
                network = (
                    pickle.loads(model)  # noqa: TID251
                    if model is not None
                    else self.network(task.config, task.identity)
                )
                self._slides[key] = _OpenSlide(task, network)
                self._start_closer()
            slide = self._slides[key]
            slide.users += 1
        try:
            yield slide
        finally:
            with self._lock:
                slide.users -= 1
                slide.last_used = self._last_used = time.monotonic()

    def network(self, config: RunConfig, identity: tuple[str, ...] | None = None) -> Model:
        """Return the network that `config` names; a process has one at a time.

        Raises
        ------
        CheckpointError
            its weights, or those that sort nuclei, are not those of `identity`
        """
        cuts = config.min_score, config.min_small_score, config.min_cell_score
        key = (
            config.model, config.checkpoint, _changed(config.checkpoint), config.device, cuts,
            config.kinds, config.kinds_checkpoint, _changed(config.kinds_checkpoint),
        )  # fmt: skip
        with self._lock:
            known, model, weights = self._network or (None, None, ())
            same = known == key and model and config.precision in ("auto", model.precision)
            if model is None or not same:
                self._network = model = None  # a second one may not fit on the GPU
                model = _load(config)
                weights = weights_of(model, config)
            self._network, self._last_used = (key, model, weights), time.monotonic()
            self._start_closer()
        files = config.checkpoint or config.model, config.kinds_checkpoint or KINDS_NAME
        for file, own, other in zip(files, weights, identity or weights, strict=False):
            if own != other:
                raise CheckpointError(
                    f"{file} has SHA-256 {own[:12]}…, not {other[:12]}… as elsewhere; put the same "
                    "checkpoint on every worker"
                )
        return model

    def _start_closer(self) -> None:
        if self._closer is None:
            self._closer = threading.Thread(target=self._close_idle, name="closer", daemon=True)
            self._closer.start()

    def _close_idle(self) -> None:
        while True:
            time.sleep(IDLE_S / 4)
            with self._lock:
                before = time.monotonic() - IDLE_S
                for key, slide in list(self._slides.items()):
                    if slide.users == 0 and slide.last_used < before:
                        self._slides.pop(key).close()
                if not self._slides and self._last_used < before:
                    self._network = self._closer = None
                    return


def _changed(file: Path | None) -> int | None:
    """Return when a file was last changed, in ns; None for no file."""
    return file.stat().st_mtime_ns if file and file.is_file() else None


def _load(config: RunConfig) -> Model:
    from wsi_pipeline.segmentation.load_model import model_for  # a user's model needs no PyTorch

    model = model_for(config)
    if model.device != "cpu":
        return model
    keep_freed_memory()  # a worker's process does nothing else
    # Workers share a machine; each uses as many threads as it was started with.
    threads = _this_worker().state.nthreads
    at_once = min(threads, model.at_once)
    return replace(model, at_once=at_once, torch_threads=threads // at_once)


_OPEN = _OpenResources()
