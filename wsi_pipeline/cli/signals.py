"""SIGINT and SIGTERM: the first lets the work in flight finish, the second ends the process."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from wsi_pipeline.cli.exit_codes import STOPPED

__all__ = ["stop_on_signals"]

ONE_REQUEST_S = 1.0
"""Signals within this time count as one: a terminal or `timeout` may send a request twice, to the
process and to its group."""

_FIRST = b"wsiseg: finishing the regions in flight; send the signal again to stop at once\n"
_AT_ONCE = b"wsiseg: stopped; run the same command again to resume\n"


@contextmanager
def stop_on_signals(*, quiet: bool = False) -> Iterator[threading.Event]:
    """Yield an event that the first SIGINT or SIGTERM sets; the next signal ends the process.

    Ignored signals stay ignored, as under `nohup`. Outside the main thread no signal is handled.

    Parameters
    ----------
    quiet
        print nothing at the first signal
    """
    stop = threading.Event()
    first: list[float] = []

    def handle(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        # A handler may interrupt `print` or the holder of a lock, so it uses neither.
        if not first:
            first.append(now)
            stop.set()
            if not quiet:
                os.write(2, _FIRST)
        elif now - first[0] >= ONE_REQUEST_S:
            os.write(2, _AT_ONCE)
            # Every file is complete at any time, and the next run takes over the lock.
            os._exit(STOPPED)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
