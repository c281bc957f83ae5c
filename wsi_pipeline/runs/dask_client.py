"""One slide's regions on the workers of a Dask cluster that exists.

This machine plans, writes and stitches as if it did the regions itself; a worker gets all that a
region needs and answers with the bytes of its part. Nothing is shared but the slide's file.
"""

from __future__ import annotations

import logging
import queue
import time
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import CancelledError
from contextlib import closing
from dataclasses import astuple, fields, replace
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import click

from wsi_pipeline.core import errors
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import ClusterError, UsageError
from wsi_pipeline.core.geometry import Region
from wsi_pipeline.runs.dask_worker import Work, describe_model, do_region
from wsi_pipeline.segmentation.cells import InstanceModel
from wsi_pipeline.segmentation.model import Model
from wsi_pipeline.segmentation.nuclei import PixelModel
from wsi_pipeline.segmentation.ownership import ObjectFilter
from wsi_pipeline.slides.foreground import Foreground
from wsi_pipeline.slides.slide import Slide

__all__ = ["Answer", "Cluster", "RemoteNetwork", "model_there"]

PER_SLOT = 2
"""Regions under way for each that a cluster can work on: one is done, one waits beside it."""
LEAST = 4
"""Under way at least, so that a cluster that grows with its work sees some."""
RETRIES = 2
"""How often a region that fails on a worker, by other than the slide's fault, is tried again."""
LOOK_S = 3.0
"""How often is looked which workers there are, seconds."""
PATIENCE_S = 10.0
"""After so long without any worker it is said that one is waited for, seconds."""

Answer = dict[str, Any]
Answers = Generator[tuple[int, Answer], None, None]
Task = tuple[int, tuple[Any, ...]]

_KINDS: Mapping[str, type[Model]] = {c.__name__: c for c in (PixelModel, InstanceModel)}
"""Kinds of networks that workers open."""


class RemoteNetwork:
    """`Model.network` of a model that only the workers of a cluster have opened."""

    def __call__(self, images: Any) -> Any:
        """Raise RuntimeError."""
        raise RuntimeError("the network is on the workers of a cluster, not here")


def model_there(config: RunConfig) -> Model:
    """The model that the workers of `config.scheduler` will use; no network is opened here.

    Raises
    ------
    ClusterError, UsageError, CheckpointError
        no cluster, one with other software, or the model cannot be opened there
    """
    with Cluster(config) as cluster:
        task = 0, (cluster.version, cluster.pickled(cluster.settings(config.precision)))
        with closing(cluster.each(describe_model, [task])) as answers:
            ((_, answer),) = answers
    if "failure" in answer:
        raise ClusterError(f"opening {config.model}: {answer['failure']}")
    told: dict[str, Any] = {f.name: answer[f.name] for f in fields(Model) if f.name in answer}
    return _KINDS[answer["kind"]](**told, network=RemoteNetwork())


class Cluster:
    """The workers of a Dask cluster, for one slide; a context manager.

    Raises
    ------
    UsageError
        `distributed` is not installed, or there is no such scheduler file
    ClusterError
        no scheduler answers at `config.scheduler`
    """

    def __init__(self, config: RunConfig) -> None:
        try:
            import distributed
        except ImportError:
            raise UsageError(
                "--scheduler needs Dask's distributed; pip install -e '.[workflow]'"
            ) from None
        assert config.scheduler is not None
        self.config, self.address = config, config.scheduler
        self.version = version("wsiseg")
        self.workers: set[str] = set()
        self._gpu = config.device.startswith("cuda")
        self._dask = distributed
        self._news: queue.Queue[Any] = queue.Queue()
        self._slots = self._hosts = 0
        self._looked, self._since, self._said = -LOOK_S, time.monotonic(), False

    def __enter__(self) -> Cluster:
        how = {"address": self.address}
        if ":" not in self.address:
            if not Path(self.address).is_file():
                raise UsageError(
                    f"scheduler {self.address!r} is neither an address nor a scheduler file; "
                    "give e.g. tcp://host:8786"
                )
            how = {"scheduler_file": self.address}
        try:
            self._client = self._dask.Client(**how, set_as_default=False, name="wsiseg")
        except (OSError, ValueError) as error:
            raise ClusterError(
                f"no Dask scheduler answers at {self.address} ({error}); start one with "
                "`dask scheduler`, or leave --scheduler out"
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        log = logging.getLogger("distributed.client")
        level = log.level
        if error is not None:  # said by that; Dask adds how its attempts to connect again ended
            log.setLevel(logging.CRITICAL)
        self._client.close(timeout=5)
        log.setLevel(level)

    def settings(self, precision: str) -> RunConfig:
        """The run's settings for workers, which may work in other folders.

        Precision is one for all, even where only some of them have bfloat16 in hardware.
        """
        checkpoint = self.config.checkpoint and self.config.checkpoint.absolute()
        return replace(self.config, checkpoint=checkpoint, precision=precision, scheduler=None)

    def spread(
        self,
        slide: Slide,
        model: Model,
        regions: Iterable[Region],
        *,
        scale: float,
        visible: Foreground,
        keep: ObjectFilter,
        stop: Callable[[], bool],
    ) -> Answers:
        """Numbers of regions and what became of them, in the order in which they are done.

        Parameters
        ----------
        model
            as the run was given it; one of one's own is sent along
        scale, visible, keep
            as for `Engine` and `Model.segment_region`
        stop
            once true, no further region is begun

        Raises
        ------
        ClusterError
            the scheduler has gone, or a worker has other software
        SlideError, CheckpointError
            a worker cannot open the slide or the model
        """
        path, own = slide.path.absolute(), None
        size, config = path.stat().st_size, self.settings(model.precision)
        packed = Work(path, size, config, model.identity, scale, visible, keep).pack()
        if not isinstance(model.network, RemoteNetwork):
            own = self._sent(model)
        told = self.version, uuid.uuid4().hex, packed, own
        tasks = [(r.index, (*told, (r.index, *astuple(r.core)))) for r in regions]
        return self.each(do_region, tasks, stop)

    def each(
        self,
        function: Callable[..., Answer],
        tasks: Iterable[Task],
        stop: Callable[[], bool] = lambda: False,
    ) -> Answers:
        """Answers of a function to numbered tasks; ``failure`` where workers died of one.

        Whatever waits on a worker that dies is suspected with the task that killed it. So what is
        suspected gets another chance at the end, with one task a worker.
        """
        waiting, suspected = deque(tasks), deque[Task]()
        flying: dict[str, tuple[Any, Task]] = {}
        last_chance = False
        try:
            while True:
                if stop():
                    waiting.clear()
                    suspected.clear()
                if suspected and not waiting and not flying:
                    waiting, suspected, last_chance = suspected, deque(), True
                while waiting and len(flying) < self._wanted(last_chance):
                    future = self._submit(function, waiting[0])
                    flying[future.key] = future, waiting.popleft()
                if not flying or (stop() and not self._hosts):
                    return
                if (key := self._next()) is None:
                    continue
                future, task = flying.pop(key)
                answer = self._result(future)
                if "killed" in answer and not last_chance:
                    suspected.append(task)
                    continue
                yield task[0], answer
        finally:
            for future, _ in flying.values():
                future.cancel()

    def _submit(self, function: Callable[..., Answer], task: Task) -> Any:
        future = self._client.submit(
            function, *task[1], pure=False, retries=RETRIES,
            resources={"GPU": 1} if self._gpu else None,
        )  # fmt: skip
        key, news = future.key, self._news  # the future itself would hold its callback, and that it
        future.add_done_callback(lambda _: news.put(key))
        return future

    def _next(self) -> str | None:
        """The key of a task that is done, None where there is none within a second."""
        try:
            key: str = self._news.get(timeout=1)
            return key
        except queue.Empty:
            if self._client.status != "running":
                raise self._gone() from None
            self._look()
            return None

    def _result(self, future: Any) -> Answer:
        remedy = f"install wsiseg {self.version} with all it needs on scheduler and workers"
        try:
            answer: Answer = future.result()
        except self._dask.KilledWorker as error:
            died = error.allowed_failures + 1
            cause = f"{died} workers died of it, the last was {error.last_worker.address}"
            return {"killed": died, "failure": f"{cause}; see their logs, e.g. for want of memory"}
        except CancelledError as error:
            raise self._gone() from error
        except ImportError as error:
            raise ClusterError(f"{self.address}: a worker has no {error.name}; {remedy}") from error
        except RuntimeError as error:
            if "deserialization" not in str(error):
                raise
            raise ClusterError(f"{self.address} does not know wsiseg's tasks; {remedy}") from error
        if "refusal" in answer:
            name, text = answer["refusal"]
            raise getattr(errors, name, ClusterError)(text)
        self.workers.add(answer["worker"])
        return answer

    def _gone(self) -> ClusterError:
        return ClusterError(f"the scheduler at {self.address} went away")

    def _wanted(self, last_chance: bool) -> int:
        """How many tasks are to be under way."""
        self._look()
        return max(1, self._hosts) if last_chance else max(LEAST, PER_SLOT * self._slots)

    def _look(self) -> None:
        """See now and then which workers there are, and say if there is none for long."""
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        try:
            workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        except (OSError, CancelledError, RuntimeError) as error:
            raise self._gone() from error
        slots = [w["resources"].get("GPU", 0) if self._gpu else w["nthreads"] for w in workers]
        slots = [min(int(s), w["nthreads"]) for s, w in zip(slots, workers, strict=True) if s >= 1]
        self._slots, self._hosts, self._looked = sum(slots), len(slots), now
        if slots:
            self._since, self._said = now, False
        elif now - self._since > PATIENCE_S and not self._said:
            self._said = True
            kind = " with the resource GPU" if self._gpu else ""
            if not self.config.quiet:
                click.echo(f"no worker{kind} at {self.address} yet; waiting for one", err=True)

    def _sent(self, model: Model) -> Any:
        """A model of one's own on its way to the workers; Dask sends it anew where it is lost."""
        import dask

        blob = self.pickled(model)
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}):
            return self._client.submit(bytes, blob, pure=False)

    def pickled(self, thing: Any) -> bytes:
        """For workers; functions from scripts and closures travel whole.

        Raises
        ------
        UsageError
            it cannot be pickled
        """
        try:
            blob: bytes = self._dask.protocol.pickle.dumps(thing)
        except Exception as error:
            raise UsageError(
                f"{getattr(thing, 'name', 'this')} cannot be sent to workers ({error}); make it of "
                "functions and modules that pickle, or leave the scheduler out"
            ) from error
        return blob
