"""ReadTimeout: calls with a time limit, so that a drive that hangs does not stop a run.

Python cannot end a thread that waits for such a drive. These threads are daemons, so that the
process can end.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from wsi_pipeline.core.errors import SlideTimeoutError

__all__ = ["ReadTimeout", "slowest_s"]

P = ParamSpec("P")
T = TypeVar("T")
SLOWEST_BYTES, SLOWEST_PX = 1e5, 2e7
"""Bytes of a file, and pixels of a slide, that any machine reads in a second."""
OF_MANY_FILES = (".mrxs", ".vms", ".vmu", ".dcm", "")
"""Ends of the names of files that others belong to."""
MOST_HANGING = 3
"""Number of hanging calls from which on further calls fail at once."""


class ReadTimeout:
    """A time limit for each call that reads one slide; for any number of threads.

    Parameters
    ----------
    name
        name of the slide, for messages
    seconds
        limit of each call
    """

    def __init__(self, name: str, seconds: float) -> None:
        self.name, self.seconds = name, seconds
        self._lock = threading.Lock()
        self._hanging = 0
        self._together = threading.local()

    @property
    def hanging(self) -> int:
        """Number of calls that have passed the limit and not returned since."""
        return self._hanging

    def call(self, function: Callable[P, T], /, *args: P.args, **more: P.kwargs) -> T:
        """Run `function` in another thread, and return or raise what it does.

        Raises
        ------
        SlideTimeoutError
            the call has passed the limit, or `MOST_HANGING` earlier calls still hang
        """
        if self._hanging >= MOST_HANGING:
            raise self._error()
        if time.monotonic() > getattr(self._together, "latest", math.inf):
            raise SlideTimeoutError(
                f"an overview of {self.name} takes longer than its size explains; convert it to a "
                "pyramidal TIFF with tiles of 512 x 512, or give a longer --read-timeout-s"
            )
        answer: Future[T] = Future()
        _worker().work.put((answer, function, args, more))
        try:
            return answer.result(self.seconds)
        except TimeoutError:
            if answer.done():  # it ended just now, or the function itself raised the error
                return answer.result()
        with self._lock:
            self._hanging += 1
        answer.add_done_callback(self._back)
        raise self._error()

    @contextmanager
    def together(self, seconds: float) -> Iterator[None]:
        """Limit all calls of this thread within the block to `seconds` more than one call has.

        A call that comes later raises `SlideTimeoutError`.
        """
        self._together.latest = time.monotonic() + self.seconds + seconds
        try:
            yield
        finally:
            self._together.latest = math.inf

    def _back(self, answer: Future[Any]) -> None:
        with self._lock:
            self._hanging -= 1

    def _error(self) -> SlideTimeoutError:
        return SlideTimeoutError(
            f"no answer from {self.name} within {self.seconds:g} s; check that its drive is "
            "connected, or give a longer --read-timeout-s"
        )


def slowest_s(path: Path, area_px: int) -> float:
    """Return the seconds in which a slow machine reads all of a slide.

    By the bytes of its file, whatever that states; by its pixels where it has many files.
    """
    alone = path.is_file() and path.suffix.lower() not in OF_MANY_FILES
    return path.stat().st_size / SLOWEST_BYTES if alone else area_px / SLOWEST_PX


class _Worker(threading.Thread):
    """A thread that runs one call after another, and is in `_idle` between them."""

    def __init__(self) -> None:
        super().__init__(name="read with timeout", daemon=True)
        self.work: SimpleQueue[Any] = SimpleQueue()
        self.start()

    def run(self) -> None:
        while True:
            answer, function, args, more = self.work.get()
            try:
                result = function(*args, **more)
            except BaseException as error:
                _idle.append(self)
                answer.set_exception(error)
            else:
                # In this order: otherwise the caller's next call could start one more thread.
                _idle.append(self)
                answer.set_result(result)
            # Free the memory of the call before waiting for the next one.
            result = answer = function = args = more = None


_idle: deque[_Worker] = deque()
# A forked process inherits the list, but not the threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)


def _worker() -> _Worker:
    try:
        return _idle.pop()
    except IndexError:
        return _Worker()
