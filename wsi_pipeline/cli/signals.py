"""SIGINT and SIGTERM: the first finishes what is in flight, a second one stops at once."""

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
"""A terminal or `timeout` may send one request to stop twice, to the process and to its group."""

_FIRST = b"wsiseg: stopping once what is in flight is done; the next signal stops at once\n"
_AT_ONCE = b"wsiseg: stopped; the same command continues\n"


@contextmanager
def stop_on_signals(*, quiet: bool = False) -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; the next one ends the process.

    Signals that are ignored stay so, as under `nohup`; outside of the main thread none is caught.

    Parameters
    ----------
    quiet
        say nothing at the first signal
    """
    stop = threading.Event()
    first: list[float] = []

    def handle(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        # `print` and locks are not for handlers: they may have interrupted themselves.
        if not first:
            first.append(now)
            stop.set()
            if not quiet:
                os.write(2, _FIRST)
        elif now - first[0] >= ONE_REQUEST_S:
            os.write(2, _AT_ONCE)
            os._exit(STOPPED)  # every file is whole at any time, and the lock is seen to be left

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
