"""Calls that are given up when they take too long: a drive that stalls must not stall a run.

A thread that waits for such a drive cannot be ended. It is a daemon, so that the process can end.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from wsi_pipeline.core.errors import SlideTimeoutError

__all__ = ["ReadTimeout"]

P = ParamSpec("P")
T = TypeVar("T")
MOST_HANGING = 3
"""So many calls are waited for in vain before the next ones are refused without waiting."""


class ReadTimeout:
    """Gives the calls for one slide so many seconds each; for any number of threads.

    Parameters
    ----------
    name
        of the slide, for messages
    """

    def __init__(self, name: str, seconds: float) -> None:
        self.name, self.seconds = name, seconds
        self._lock = threading.Lock()
        self._hanging = 0

    @property
    def hanging(self) -> int:
        """Calls that were given up and have not come back since."""
        return self._hanging

    def call(self, function: Callable[P, T], /, *args: P.args, **more: P.kwargs) -> T:
        """What `function` returns or raises, in a thread of its own.

        Raises
        ------
        SlideTimeoutError
            it has not come back in time, or others have not and are still out
        """
        if self._hanging >= MOST_HANGING:
            raise self._error()
        answer: Future[T] = Future()
        _worker().work.put((answer, function, args, more))
        try:
            return answer.result(self.seconds)
        except TimeoutError:
            if answer.done():  # just now, or the error is the function's own
                return answer.result()
        with self._lock:
            self._hanging += 1
        answer.add_done_callback(self._back)
        raise self._error()

    def _back(self, answer: Future[Any]) -> None:
        with self._lock:
            self._hanging -= 1

    def _error(self) -> SlideTimeoutError:
        return SlideTimeoutError(
            f"no answer from {self.name} within {self.seconds:g} s; see whether its drive is "
            "there, or give a longer --read-timeout-s"
        )


class _Worker(threading.Thread):
    """Calls one function after another, and offers itself again after each."""

    def __init__(self) -> None:
        super().__init__(name="deadline", daemon=True)
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
                # First, or whoever gets the answer would start one more thread for his next call.
                _idle.append(self)
                answer.set_result(result)
            # Nothing of a call may stay in memory until the next one.
            result = answer = function = args = more = None


_idle: deque[_Worker] = deque()
# A fork has the list but not the threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)


def _worker() -> _Worker:
    try:
        return _idle.pop()
    except IndexError:
        return _Worker()
