"""Progress of long work: a bar on a terminal, a few log lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

__all__ = ["Progress", "announce", "progress"]

ANNOUNCE_AFTER_S = 1.0
"""Work that takes no longer is not announced."""

_STEP, _SOON_S, _LATE_S = 0.1, 2.0, 30.0
"""A log line comes after this share of the work, but not that soon; at the latest after so long."""


class Progress(Protocol):
    """What counts finished units."""

    def update(self, n: int = 1) -> object:
        """Count `n` more units as done."""

    def close(self) -> None:
        """Show no more."""


def progress(
    total: int,
    *,
    desc: str,
    unit: str,
    initial: int = 0,
    quiet: bool = False,
    stream: TextIO | None = None,
) -> Progress:
    """Something that shows on standard error how many of `total` units are done, and the time left.

    Parameters
    ----------
    desc, unit
        what is being done, and the singular of what is counted
    initial
        units that an earlier run has done
    stream
        instead of standard error
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
        what is being done, e.g. "loading the network dssnet (PyTorch)"
    stream
        instead of standard error
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
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class _Lines:
    """Log lines, so that a file or a scheduler's log stays readable."""

    def __init__(self, total: int, desc: str, unit: str, initial: int, stream: TextIO) -> None:
        self._total, self._desc, self._unit, self._stream = total, desc, unit, stream
        self._done = self._initial = self._said = initial
        self._began = self._last = time.monotonic()

    def update(self, n: int = 1) -> None:
        """Count, and write a line where one is due."""
        self._done += n
        now = time.monotonic()
        ahead = self._done - self._said >= _STEP * self._total and now - self._last >= _SOON_S
        if not (ahead or now - self._last >= _LATE_S) or self._done >= self._total:
            return
        self._said, self._last = self._done, now
        left = (now - self._began) / (self._done - self._initial) * (self._total - self._done)
        share = self._done / self._total
        self._stream.write(
            f"{self._desc}: {share:.0%}, {self._done} of {self._total} {self._unit}s, "
            f"about {_time(left)} left\n"
        )
        self._stream.flush()

    def close(self) -> None:
        """Nothing: whoever began the work says how it ended."""


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
