"""One line that explains the wait while numba compiles functions for the first time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

__all__ = ["announce_compilation"]

AFTER_S = 1.0
"""Seconds of compilation before the line is written."""
_LINE = "compiling on first use, which can take a minute; later runs skip it …"


@contextmanager
def announce_compilation(*, quiet: bool = False) -> Iterator[None]:
    """Write one line to standard error once numba has compiled for more than `AFTER_S`.

    Compiled functions are kept on disk, so that later runs load them in milliseconds. numba
    reports a compilation only where no compiled function is found on disk.
    """
    if quiet:
        yield
        return
    from numba.core import event

    class Listener(event.Listener):  # type: ignore[misc]
        """Adds up the seconds of compilation; numba compiles in one thread at a time."""

        def __init__(self) -> None:
            self.depth = 0  # a function that calls another compiles it inside
            self.began = self.seconds = 0.0
            self.written = False

        def on_start(self, _: Any) -> None:
            self.depth += 1
            if self.depth == 1:
                self.began = time.monotonic()
            if self.seconds > AFTER_S and not self.written:
                self.written = True
                click.echo(_LINE, err=True)

        def on_end(self, _: Any) -> None:
            self.depth -= 1
            if self.depth == 0:
                self.seconds += time.monotonic() - self.began

    listener = Listener()
    event.register("numba:compile", listener)
    try:
        yield
    finally:
        event.unregister("numba:compile", listener)
