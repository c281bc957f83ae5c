"""Progress: a bar on a terminal, few lines in a log, nothing when quiet."""

from __future__ import annotations

import io
import threading

from wsi_pipeline.core import progress


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_in_a_log_is_a_few_lines(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    log = io.StringIO()
    bar = progress.progress(1000, desc="a", unit="region", initial=100, stream=log)
    for _ in range(900):
        now[0] += 1
        bar.update()
    bar.close()
    lines = log.getvalue().splitlines()
    assert 900 / 30 - 2 <= len(lines) <= 900 / 30 + 10
    assert lines[0] == "a: 13%, 130 of 1000 regions, about 14 min left"
    assert "\r" not in log.getvalue()


def test_fast_work_leaves_no_lines():
    log = io.StringIO()
    bar = progress.progress(500, desc="a", unit="region", stream=log)
    for _ in range(500):
        bar.update()
    assert log.getvalue() == ""


def test_a_terminal_gets_a_bar_unless_quiet():
    shown, hidden = _Terminal(), _Terminal()
    for stream, quiet in ((shown, False), (hidden, True)):
        bar = progress.progress(3, desc="slide", unit="region", quiet=quiet, stream=stream)
        bar.update()
        bar.close()
    assert "slide" in shown.getvalue()
    assert "\r" in shown.getvalue()
    assert hidden.getvalue() == ""


def test_only_work_that_takes_long_is_announced(monkeypatch):
    monkeypatch.setattr(progress, "ANNOUNCE_AFTER_S", 0.02)
    for wait_s, quiet, line in ((0, False, ""), (1, True, ""), (1, False, "loading x …\n")):
        log = _Log()
        with progress.announce("loading x", quiet=quiet, stream=log):
            log.written.wait(wait_s and (0.1 if quiet else 10))
        assert log.getvalue() == line


class _Log(io.StringIO):
    """A log that sets an event when something is written."""

    def __init__(self):
        super().__init__()
        self.written = threading.Event()

    def flush(self):
        self.written.set()
