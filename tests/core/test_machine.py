"""Settings of the process are restored; the package needs no module that one system alone has."""

import os
import subprocess
import sys
import threading

import cv2
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wsi_pipeline.core.machine import peak_bytes, process_settings, usable_cores

BLOCKS = {
    "opencv": ({"opencv_threads": 1}, cv2.getNumThreads, 1),
    "interval": ({"switch_interval_s": 0.0005}, sys.getswitchinterval, pytest.approx(0.0005)),
    "torch": ({"torch_threads": 1}, torch.get_num_threads, 1),
    "pillow": ({"any_image_size": True}, lambda: Image.MAX_IMAGE_PIXELS, None),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_setting_holds_in_its_block_alone_also_where_the_block_fails(name):
    wanted, read, inside = BLOCKS[name]
    before = read()
    with pytest.raises(ZeroDivisionError), process_settings(**wanted):
        assert read() == inside
        raise ZeroDivisionError
    assert read() == before


@given(st.lists(st.integers(0, 3), max_size=20))
def test_blocks_may_overlap_in_any_order(steps):
    """Step k enters the block k, or leaves it where it is entered; the last entered decides."""
    before = sys.getswitchinterval()
    entered = {}
    for k in steps:
        if k in entered:
            entered.pop(k).__exit__(None, None, None)
        else:
            entered[k] = process_settings(switch_interval_s=0.001 * (k + 1))
            entered[k].__enter__()
        last = 0.001 * (next(reversed(entered)) + 1) if entered else before
        assert sys.getswitchinterval() == pytest.approx(last)
    for block in entered.values():
        block.__exit__(None, None, None)
    assert sys.getswitchinterval() == pytest.approx(before)


def test_torch_threads_hold_in_threads_that_begin_inside():
    seen = []

    def note():
        seen.append(torch.get_num_threads())

    with process_settings(torch_threads=3):
        inside = threading.Thread(target=note)
        inside.start()
        inside.join()
    after = threading.Thread(target=note)
    after.start()
    after.join()
    assert seen == [3, torch.get_num_threads()]


def test_peak_memory_grows_and_cores_are_those_of_the_affinity():
    before = peak_bytes()
    held = bytearray(before + 2**26)
    assert peak_bytes() >= len(held)
    assert peak_bytes(os.getppid()) > 0
    assert 1 <= usable_cores() <= os.cpu_count()


ELSEWHERE = """
import builtins, io, os, sys
load, open_ = builtins.__import__, io.open
def only_here(name, *rest, **more):
    asked_by = sys._getframe(1).f_globals.get("__name__", "")
    if name in ("fcntl", "resource") and asked_by.startswith(("wsi_pipeline", "wsiseg_models")):
        raise ModuleNotFoundError(name)
    return load(name, *rest, **more)
def no_status(path, *rest, **more):
    if str(path).startswith("/proc") and str(path).endswith("status"):
        raise FileNotFoundError(2, "no /proc", path)
    return open_(path, *rest, **more)
builtins.__import__, io.open = only_here, no_status
import numpy, psutil, openslide
for name in ("sched_getaffinity", "pread", "register_at_fork"):
    delattr(os, name)
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.machine import peak_bytes, process_settings, usable_cores
from wsi_pipeline.slides.slide import open_slide
assert usable_cores() >= 1 and peak_bytes() > 2**20 and peak_bytes(os.getpid()) > 2**20
with open_slide(sys.argv[1]) as slide, process_settings(opencv_threads=1):
    assert slide.decoder == "direct"
    print(int(slide.read_region(Box(0, 0, 700, 600)).astype(int).sum()))
"""


def test_slides_are_read_where_unix_calls_are_missing(slide_path):
    from wsi_pipeline.core.geometry import Box
    from wsi_pipeline.slides.slide import open_slide

    command = [sys.executable, "-c", ELSEWHERE, slide_path]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    with open_slide(slide_path) as slide:
        assert int(ended.stdout) == slide.read_region(Box(0, 0, 700, 600)).astype(int).sum()
