"""The connection to a Dask cluster: tasks go out, answers come back, and workers may end."""

from __future__ import annotations

import asyncio
import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import click

from wsi_pipeline.core import errors
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import ClusterError, UsageError
from wsi_pipeline.runs.messages import Answer

__all__ = ["Cluster", "WorkersDied"]

TASKS_PER_SLOT = 2
"""Tasks under way for each that the workers can do at a time: one runs, one waits."""
LEAST_TASKS = 4
"""Least number of tasks under way, so that a cluster that grows with its load starts workers."""
RETRIES = 2
"""How often a task that raises an error is repeated."""
LOOK_S = 3.0
"""Seconds between two looks at the list of workers."""
NO_WORKER_S = 10.0
"""Seconds without any worker after which a message says so."""

Task = tuple[int, tuple[Any, ...]]
Answers = Generator[tuple[int, "Answer | WorkersDied"], None, None]

_LOST = (OSError, RuntimeError, ValueError, CancelledError, asyncio.CancelledError)
"""What a call of Dask's client raises when the scheduler has gone.

OSError: CommClosedError, RPCClosed, tornado's StreamClosedError, ConnectionError, TimeoutError.
RuntimeError: the client or its event loop is closed. ValueError: no client is running.
CancelledError: the client has given up on its tasks. Also `ClosedClientError`, see `_lost`.
"""


@dataclass(frozen=True)
class WorkersDied:
    """Answer to a task whose workers ended while they did it, time after time."""

    cause: str


class Cluster:
    """The workers of a Dask cluster, for one slide; a context manager.

    Attributes
    ----------
    workers
        those that have answered

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
        self._lost = (*_LOST, distributed.client.ClosedClientError)
        self._finished: queue.Queue[str] = queue.Queue()
        self._slots = self._hosts = 0
        self._looked, self._since, self._told = -LOOK_S, time.monotonic(), False

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
        except self._lost as error:
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
        if error is not None:  # that is reported; Dask would log its attempts to connect as well
            log.setLevel(logging.CRITICAL)
        with suppress(*self._lost):
            self._client.close(timeout=5)
        log.setLevel(level)

    @contextmanager
    def _scheduler_needed(self) -> Iterator[None]:
        """Turn the errors of a scheduler that has gone into a `ClusterError`."""
        try:
            yield
        except self._lost as error:
            raise self._gone() from error

    def _gone(self) -> ClusterError:
        return ClusterError(f"the scheduler at {self.address} cannot be reached any more")

    def map(
        self,
        function: Callable[..., Answer],
        tasks: Iterable[Task],
        stop: Callable[[], bool] = lambda: False,
    ) -> Answers:
        """Yield the numbers of tasks and their answers, as they come.

        When a worker ends, all tasks that waited on it are suspected together with the one that
        ended it. Suspected tasks are repeated at the end, one per worker. Those that end their
        workers again are answered with `WorkersDied`.

        Parameters
        ----------
        function, tasks
            the function, and numbers and arguments for it
        stop
            once it returns True, no further task is started

        Raises
        ------
        ClusterError
            the scheduler has gone, or a worker has other software
        WsisegError
            the error that a worker raised on purpose
        """
        waiting, suspected = deque(tasks), deque[Task]()
        running: dict[str, tuple[Any, Task]] = {}
        last_chance = False
        try:
            while True:
                if stop():
                    waiting.clear()
                    suspected.clear()
                if suspected and not waiting and not running:
                    waiting, suspected, last_chance = suspected, deque(), True
                while waiting and len(running) < self._wanted(last_chance):
                    future = self._submit(function, waiting[0])
                    running[future.key] = future, waiting.popleft()
                if not running or (stop() and not self._hosts):
                    return
                if (key := self._next_finished()) is None:
                    continue
                future, task = running.pop(key)
                answer = self._result(future)
                if isinstance(answer, WorkersDied) and not last_chance:
                    suspected.append(task)
                    continue
                yield task[0], answer
        finally:
            with suppress(*self._lost):
                for future, _ in running.values():
                    future.cancel()

    def _submit(self, function: Callable[..., Answer], task: Task) -> Any:
        with self._scheduler_needed():
            future = self._client.submit(
                function, *task[1], pure=False, retries=RETRIES,
                resources={"GPU": 1} if self._gpu else None,
            )  # fmt: skip
            # Without a reference to the future, which would keep itself alive.
            key, finished = future.key, self._finished
            future.add_done_callback(lambda _: finished.put(key))
        return future

    def _next_finished(self) -> str | None:
        """Return the key of a finished task; None if there is none within a second."""
        try:
            return self._finished.get(timeout=1)
        except queue.Empty:
            if self._client.status != "running":
                raise self._gone() from None
            self._look()
            return None

    def _result(self, future: Any) -> Answer | WorkersDied:
        remedy = f"install wsiseg {self.version} with all it needs on scheduler and workers"
        try:
            answer: Answer = future.result()
        except self._dask.KilledWorker as error:
            died, last = error.allowed_failures + 1, error.last_worker.address
            return WorkersDied(
                f"{died} workers ended while they did it, the last was {last}; "
                "see their logs, e.g. for lack of memory"
            )
        except ImportError as error:
            raise ClusterError(f"{self.address}: a worker has no {error.name}; {remedy}") from error
        except self._lost as error:
            if isinstance(error, RuntimeError) and "deserialization" in str(error):
                raise ClusterError(
                    f"{self.address} cannot read wsiseg's tasks; {remedy}"
                ) from error
            if future.status == "error":  # the task raised it, on a worker
                raise
            raise self._gone() from error
        if (refusal := answer["error"]) is not None:
            raise getattr(errors, refusal["name"], ClusterError)(refusal["message"])
        self.workers.add(answer["worker"])
        return answer

    def _wanted(self, last_chance: bool) -> int:
        """Return how many tasks are to be under way."""
        self._look()
        if last_chance:
            return max(1, self._hosts)
        return max(LEAST_TASKS, TASKS_PER_SLOT * self._slots)

    def _look(self) -> None:
        """Count the workers every `LOOK_S` seconds; tell the user if there is none for long."""
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        with self._scheduler_needed():
            workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        slots = [w["resources"].get("GPU", 0) if self._gpu else w["nthreads"] for w in workers]
        slots = [min(int(s), w["nthreads"]) for s, w in zip(slots, workers, strict=True) if s >= 1]
        self._slots, self._hosts, self._looked = sum(slots), len(slots), now
        if slots:
            self._since, self._told = now, False
        elif now - self._since > NO_WORKER_S and not self._told:
            self._told = True
            kind = " with the resource GPU" if self._gpu else ""
            if not self.config.quiet:
                click.echo(f"no worker{kind} at {self.address} yet; waiting for one", err=True)

    def send(self, thing: Any) -> Any:
        """Send an object to the workers; Dask sends it again where it is lost.

        Raises
        ------
        UsageError, ClusterError
            it cannot be pickled; the scheduler has gone
        """
        import dask

        content = self.pickled(thing)
        quiet = dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"})
        with quiet, self._scheduler_needed():
            return self._client.submit(bytes, content, pure=False)

    def pickled(self, thing: Any) -> bytes:
        """Pickle an object for workers; functions from scripts and closures are included.

        Raises
        ------
        UsageError
            it cannot be pickled
        """
        try:
            content: bytes = self._dask.protocol.pickle.dumps(thing)
        except Exception as error:
            raise UsageError(
                f"{getattr(thing, 'name', 'this')} cannot be sent to workers ({error}); make it of "
                "functions and modules that pickle, or leave the scheduler out"
            ) from error
        return content
