"""Work that runs in a thread of its own once its result is asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

__all__ = ["Later"]

T = TypeVar("T")


class Later(Generic[T]):
    """The result of a function that is called once, in the background.

    Examples
    --------
    >>> later = Later(lambda: 7)
    >>> later.get(), later.ready
    (7, True)
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._future: Future[T] = Future()
        self._lock = threading.Lock()
        self._started = False

    @property
    def ready(self) -> bool:
        """Whether the result, or the error, is there."""
        return self._future.done()

    def start(self) -> None:
        """Begin, unless that has happened before."""
        with self._lock:
            if self._started:
                return
            self._started = True
        threading.Thread(target=self._run, name="later", daemon=True).start()

    def _run(self) -> None:
        try:
            self._future.set_result(self._work())
        except BaseException as error:
            self._future.set_exception(error)

    def get(self) -> T:
        """Return the result, or raise the error of the function; wait for it if need be."""
        self.start()
        return self._future.result()
