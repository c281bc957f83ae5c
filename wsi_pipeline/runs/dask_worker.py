"""A region on a worker of a Dask cluster: what it is told, what it keeps open, what it answers.

Answers are made of builtin types alone, so that a worker with another version refuses in words.
"""

from __future__ import annotations

import pickle
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import CheckpointError, ClusterError, SlideError, WsisegError
from wsi_pipeline.core.geometry import Box, Region
from wsi_pipeline.core.machine import keep_freed_memory
from wsi_pipeline.runs.part_file import part_bytes
from wsi_pipeline.segmentation.damaged_regions import RegionObjects, segment_readable
from wsi_pipeline.segmentation.inference import Engine
from wsi_pipeline.segmentation.model import Model
from wsi_pipeline.segmentation.ownership import ObjectFilter
from wsi_pipeline.slides.foreground import Foreground
from wsi_pipeline.slides.read_timeout import ReadTimeout
from wsi_pipeline.slides.slide import Slide, open_slide

__all__ = ["Work", "describe_model", "do_region"]

IDLE_S = 60.0
"""After so long without a region a slide is closed and the network let go of, seconds."""


_TOLD = (
    "name", "classes", "mpp", "halo_px", "stride", "tile_px", "identity", "device", "precision",
    "card",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Work:
    """What a worker has to know of a slide; it goes with each region.

    So no worker depends on what another holds, and any of them may die at any time.

    Attributes
    ----------
    path, size
        the slide, absolute, and its bytes
    identity
        of the model's weights
    scale, visible, keep
        as for `Engine` and `Model.segment_region`
    """

    path: Path
    size: int
    config: RunConfig
    identity: str
    scale: float
    visible: Foreground
    keep: ObjectFilter

    def pack(self) -> bytes:
        """For the network: a mask of 4 MB takes some kB."""
        # Tables that a mask has computed for itself stay here.
        keep = replace(self.keep, foreground=replace(self.keep.foreground))
        return zlib.compress(pickle.dumps(replace(self, visible=replace(self.visible), keep=keep)))

    @staticmethod
    def unpack(packed: bytes) -> Work:
        """What `pack` packed."""
        work: Work = pickle.loads(zlib.decompress(packed))  # noqa: TID251
        return work


def describe_model(wanted: str, config: bytes) -> dict[str, Any]:
    """What the network that `config` (a pickled `RunConfig`) names is on this worker.

    Parameters
    ----------
    wanted
        version of wsiseg that the worker must have
    """

    def describe() -> dict[str, Any]:
        model = _WORKER.network(pickle.loads(config))  # noqa: TID251
        return {k: getattr(model, k) for k in _TOLD} | {"kind": type(model).__name__}

    return _answer(wanted, describe)


def do_region(
    wanted: str,
    token: str,
    packed: bytes,
    own: bytes | None,
    region: tuple[int, int, int, int, int],
) -> dict[str, Any]:
    """The part of one region.

    Parameters
    ----------
    token
        names the slide and its settings on this worker
    packed, own
        the `Work`, and a model of one's own, pickled
    region
        its number, and x0, y0, x1, y1 of its core

    Returns
    -------
    dict
        ``part``, bytes, and ``incomplete``, `RegionObjects.failure`; or ``failure``: why nothing
        can be read there; or ``refusal``: the name of an error and its text. Besides ``worker``,
        ``seconds`` per stage and the ``batch`` that fits
    """

    def find() -> dict[str, Any]:
        with _WORKER.site(token, packed, own) as site:
            try:
                found = site.find(Region(region[0], Box(*region[1:])))
                part = part_bytes(found.objects, found.oversized)
                answer: dict[str, Any] = {"part": part, "incomplete": found.failure(region[0])}
            except SlideError as error:
                answer = {"failure": str(error)}
            return answer | {"seconds": site.news(), "batch": site.batch}

    return _answer(wanted, find)


def _answer(wanted: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` returns or refuses, and who did it."""
    me = f"worker {_this_worker().address} on {socket.gethostname()}"
    try:
        if (here := version("wsiseg")) != wanted:
            raise ClusterError(f"has wsiseg {here}, not {wanted}; install the same everywhere")
        answer = work()
    except WsisegError as error:
        answer = {"refusal": (type(error).__name__, f"{me}: {error}")}
    except Exception as error:
        error.add_note(f"on {me}")
        raise
    return answer | {"worker": me}


def _this_worker() -> Any:
    from distributed import get_worker

    return get_worker()


class _Site:
    """A slide, open on this worker, with an engine that all threads share."""

    def __init__(self, work: Work, model: Model) -> None:
        self.config, self.keep = work.config, work.keep
        self._slide = _open(work)
        self._engine = Engine(
            self._slide, model, work.visible, scale=work.scale,
            tile_px=work.config.tile_px or model.tile_px, batch=work.config.batch,
        ).__enter__()  # fmt: skip
        self.users, self.last = 0, time.monotonic()
        self._told: dict[str, float] = {}
        self._lock = threading.Lock()

    def find(self, region: Region) -> RegionObjects:
        """Objects of a region; errors as `segment_readable`."""
        return segment_readable(self._engine, region, self.config, self.keep)

    @property
    def batch(self) -> int:
        """Tiles per call of the network, as many as the memory holds."""
        return self._engine.batch

    def news(self) -> dict[str, float]:
        """Seconds per stage since the last call."""
        with self._lock:
            now = dict(self._engine.watch.seconds)
            since = {k: v - self._told.get(k, 0.0) for k, v in now.items()}
            self._told = now
        return since

    def close(self) -> None:
        """Let go of the slide and of the thread that runs the network."""
        self._engine.__exit__(None, None, None)
        self._slide.close()


def _open(work: Work) -> Slide:
    remedy = "every worker must see the slide under the same path"
    path, config = work.path, work.config
    try:
        size = ReadTimeout(path.name, config.read_timeout_s).call(path.stat).st_size
        if size != work.size:
            raise SlideError(f"it is another file there, {size} bytes, not {work.size}")
        return open_slide(
            path, mpp=config.mpp, crop=config.crop, read_timeout_s=config.read_timeout_s
        )
    except OSError as error:
        why = error.strerror or str(error)
        raise SlideError(f"{path} cannot be used ({why}); {remedy}") from error


class _WorkerState:
    """What this process keeps open: one network, and the slides whose regions it gets."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._sites: dict[str, _Site] = {}
        self._network: tuple[Any, Model] | None = None
        self._last = time.monotonic()
        self._tidier: threading.Thread | None = None

    @contextmanager
    def site(self, token: str, packed: bytes, own: bytes | None) -> Iterator[_Site]:
        """The slide of that token, opened by the first thread that asks for it."""
        with self._lock:
            if token not in self._sites:
                work = Work.unpack(packed)
                model = pickle.loads(own) if own else self.network(work.config, work.identity)  # noqa: TID251
                self._sites[token] = _Site(work, model)
                self._watch()
            site = self._sites[token]
            site.users += 1
        try:
            yield site
        finally:
            with self._lock:
                site.users -= 1
                site.last = self._last = time.monotonic()

    def network(self, config: RunConfig, identity: str | None = None) -> Model:
        """The network that `config` names, of which a process has one.

        Raises
        ------
        CheckpointError
            its weights are not those of `identity`
        """
        least = min(config.min_score, config.min_small_score)
        key = config.model, config.checkpoint, _changed(config.checkpoint), config.device, least
        with self._lock:
            known, model = self._network or (None, None)
            same = known == key and model and config.precision in ("auto", model.precision)
            if model is None or not same:
                self._network = model = None  # a second one may not fit on the GPU
                model = _load(config)
            self._network, self._last = (key, model), time.monotonic()
            self._watch()
        if identity not in (None, model.identity):
            raise CheckpointError(
                f"{config.checkpoint or config.model} has SHA-256 {model.identity[:12]}…, not "
                f"{str(identity)[:12]}… as elsewhere; put the same checkpoint on every worker"
            )
        return model

    def _watch(self) -> None:
        if self._tidier is None:
            self._tidier = threading.Thread(target=self._tidy, name="tidier", daemon=True)
            self._tidier.start()

    def _tidy(self) -> None:
        while True:
            time.sleep(IDLE_S / 4)
            with self._lock:
                late = time.monotonic() - IDLE_S
                for token, site in list(self._sites.items()):
                    if site.users == 0 and site.last < late:
                        self._sites.pop(token).close()
                if not self._sites and self._last < late:
                    self._network = self._tidier = None
                    return


def _changed(file: Path | None) -> int | None:
    """When a file was last changed; None for none."""
    return file.stat().st_mtime_ns if file and file.is_file() else None


def _load(config: RunConfig) -> Model:
    from wsi_pipeline.segmentation.load_model import (
        model_for,  # a model of one's own needs no PyTorch
    )

    model = model_for(config)
    if model.device != "cpu":
        return model
    keep_freed_memory()  # a worker's process does nothing else
    # Workers share a machine; each uses as many threads as it was started with.
    threads = _this_worker().state.nthreads
    at_once = min(threads, model.at_once)
    return replace(model, at_once=at_once, torch_threads=threads // at_once)


_WORKER = _WorkerState()
