"""Progress of long work: a bar on a terminal, log lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

__all__ = ["Progress", "announce", "progress"]

ANNOUNCE_AFTER_S = 1.0
"""Seconds after which work is announced."""

_STEP, _SOON_S, _LATE_S = 0.1, 2.0, 30.0
"""A log line is due after this share of the work and 2 s, or after 30 s."""


class Progress(Protocol):
    """A counter of finished units."""

    def update(self, n: int = 1) -> object:
        """Count `n` more units as finished."""

    def close(self) -> None:
        """End the display."""


def progress(
    total: int,
    *,
    desc: str,
    unit: str,
    initial: int = 0,
    quiet: bool = False,
    stream: TextIO | None = None,
) -> Progress:
    """Return a counter that shows how many of `total` units are finished, and the time left.

    Parameters
    ----------
    desc
        name of the work
    unit
        singular of what is counted
    initial
        units that an earlier run has finished
    quiet
        show nothing
    stream
        where to show it; by default standard error
    """
    stream = stream or sys.stderr
    if quiet:
        return _Silent()
    if not stream.isatty():
        return _Lines(total, desc, unit, initial, stream)
    from tqdm import tqdm

    return tqdm(total=total, desc=desc, unit=unit, initial=initial, file=stream, dynamic_ncols=True)


@contextmanager
def announce(text: str, *, quiet: bool = False, stream: TextIO | None = None) -> Iterator[None]:
    """Write one line if the work inside takes longer than `ANNOUNCE_AFTER_S`.

    Parameters
    ----------
    text
        the work, e.g. "loading the network dssnet (PyTorch)"
    quiet
        write nothing
    stream
        where to write it; by default standard error
    """
    if quiet:
        yield
        return

    def write() -> None:
        print(f"{text} …", file=stream or sys.stderr, flush=True)

    timer = threading.Timer(ANNOUNCE_AFTER_S, write)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class _Silent:
    def update(self, n: int = 1) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Show nothing."""


class _Lines:
    """Log lines instead of a bar, which would fill a log file with control characters."""

    def __init__(self, total: int, desc: str, unit: str, initial: int, stream: TextIO) -> None:
        self._total, self._desc, self._unit, self._stream = total, desc, unit, stream
        self._done = self._initial = self._shown = initial
        self._began = self._last = time.monotonic()

    def update(self, n: int = 1) -> None:
        """Count `n` more units, and write a line where one is due."""
        self._done += n
        now = time.monotonic()
        ahead = self._done - self._shown >= _STEP * self._total and now - self._last >= _SOON_S
        if not (ahead or now - self._last >= _LATE_S) or self._done >= self._total:
            return
        self._shown, self._last = self._done, now
        left = (now - self._began) / (self._done - self._initial) * (self._total - self._done)
        share = self._done / self._total
        self._stream.write(
            f"{self._desc}: {share:.0%}, {self._done} of {self._total} {self._unit}s, "
            f"about {_time(left)} left\n"
        )
        self._stream.flush()

    def close(self) -> None:
        """Write nothing; the caller reports the end of the work."""


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
