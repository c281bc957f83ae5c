"""Laws of reads that do not answer: they end in time, and a late answer harms nothing."""

import os
import threading
import time

import numpy as np
import pytest
from faults import Stalling

from wsi_pipeline.core.errors import SlideFormatError, SlideReadError, SlideTimeoutError
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.slides import read_timeout as deadline
from wsi_pipeline.slides import slide
from wsi_pipeline.slides.read_timeout import ReadTimeout
from wsi_pipeline.slides.slide import open_slide


def test_a_slide_that_does_not_even_open(slide_path, tmp_path, monkeypatch):
    answer = threading.Event()
    monkeypatch.setattr(slide, "open_reader", lambda path, choice: answer.wait(300))
    with pytest.raises(SlideTimeoutError, match=r"no answer from crowded\.svs"):
        open_slide(slide_path, read_timeout_s=0.1)
    answer.set()
    os.mkfifo(tmp_path / "pipe.svs")
    monkeypatch.undo()
    with pytest.raises(SlideFormatError):
        open_slide(tmp_path / "pipe.svs", read_timeout_s=5)


def test_a_late_read_harms_no_other(slide_path, monkeypatch):
    box = Box(0, 0, 300, 300)
    with open_slide(slide_path) as opened:
        expected = opened.read_scaled(box, 1.3)
    drive = Stalling(monkeypatch, after=0)
    with open_slide(slide_path, read_timeout_s=0.2) as opened:
        with pytest.raises(SlideTimeoutError):
            opened.read_scaled(box.shift(400, 400), 1.3)
        kept = opened._borrowed(Box(0, 0, 390, 390))
        kept[:] = 7
        drive.answer.set()  # what comes now goes into memory that is nobody's
        while opened._timeout.hanging:
            time.sleep(0.01)
        assert (kept == 7).all() and np.array_equal(opened.read_scaled(box, 1.3), expected)


def test_a_slide_with_a_hanging_read_is_closed_later(slide_path, monkeypatch):
    drive = Stalling(monkeypatch, after=0)
    with open_slide(slide_path, read_timeout_s=0.5) as opened, pytest.raises(SlideTimeoutError):
        opened.read_region(Box(0, 0, 9, 9))
    assert opened._reader._file.close.alive  # else the late read would meet freed memory
    with pytest.raises(SlideReadError, match="closed"):
        opened.read_region(Box(0, 0, 9, 9))
    drive.answer.set()


def test_deadlines():
    calls, hang = ReadTimeout("a.svs", 0.2), threading.Event()
    assert calls.call(lambda a, *, b: (a, b), 1, b=2) == (1, 2)
    with pytest.raises(ZeroDivisionError):
        calls.call(lambda: 1 / 0)
    with pytest.raises(TimeoutError, match="of its own"):
        calls.call(lambda: (_ for _ in ()).throw(TimeoutError("of its own")))
    assert calls.hanging == 0
    before = threading.active_count()
    for _ in range(200):
        calls.call(bytes, 9)
    assert threading.active_count() == before
    for n in range(deadline.MOST_HANGING):
        with pytest.raises(SlideTimeoutError, match=r"no answer from a\.svs within 0\.2 s"):
            calls.call(hang.wait, 300)
        assert calls.hanging == n + 1
    began = time.monotonic()
    with pytest.raises(SlideTimeoutError):
        calls.call(bytes, 9)
    assert time.monotonic() - began < 0.2
    hang.set()
    while calls.hanging:
        time.sleep(0.01)
    assert calls.call(bytes, 2) == b"\0\0"
