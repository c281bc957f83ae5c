"""A call of the library leaves the process as it was, whether it ends well or fails."""

import ctypes
import sys
import threading

import cv2
import numpy as np
import pytest
import torch
from drawn_cells import write_set
from PIL import Image
from wsiseg_models.training.config import SemanticTrainConfig
from wsiseg_models.training.train_semantic import train_semantic

from wsi_pipeline import RunConfig, open_model, open_slide, run_slide
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.segmentation.nuclei import PixelModel


def settings():
    """Every setting of the process that wsiseg changes while it works."""
    threads = [torch.get_num_threads()]
    other = threading.Thread(target=lambda: threads.append(torch.get_num_threads()))
    other.start()
    other.join()
    return {
        "opencv": cv2.getNumThreads(),
        "interval": sys.getswitchinterval(),
        "torch": threads,
        "pillow": Image.MAX_IMAGE_PIXELS,
    }


@pytest.fixture
def unchanged(monkeypatch):
    """Give the settings unusual values, and compare them after the test; refuse `mallopt`."""

    class Libc:
        def __init__(self, name):
            self._libc = ctypes_dll(name)

        def __getattr__(self, name):
            assert name != "mallopt", "only the command line may change the allocator"
            return getattr(self._libc, name)

    ctypes_dll = ctypes.CDLL
    monkeypatch.setattr("wsi_pipeline.core.machine.ctypes.CDLL", Libc)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12_345_678)
    before = settings()
    cv2.setNumThreads(3)
    torch.set_num_threads(3)
    sys.setswitchinterval(0.004)
    mine = settings()
    yield
    after = settings()
    cv2.setNumThreads(before["opencv"])
    torch.set_num_threads(before["torch"][0])
    sys.setswitchinterval(before["interval"])
    assert after == mine


def test_run_slide(unchanged, slide_path, darkness, tmp_path):
    result = run_slide(slide_path, RunConfig(out=tmp_path, quiet=True), model=darkness)
    assert result.objects


def test_run_slide_that_fails(unchanged, slide_path, tmp_path):
    def broken(images):
        raise ZeroDivisionError

    model = PixelModel(
        name="broken", classes=("nucleus",), mpp=0.5, halo_px=8, stride=8, tile_px=512,
        identity="broken", network=broken, torch_threads=1,
    )  # fmt: skip
    with pytest.raises(ZeroDivisionError):
        run_slide(slide_path, RunConfig(out=tmp_path, quiet=True), model=model)


def test_open_slide(unchanged, slide_path, tmp_path):
    picture = tmp_path / "a.png"
    Image.fromarray(np.zeros((50, 60, 3), np.uint8)).save(picture)
    for path in (slide_path, picture):
        with open_slide(path, mpp=0.5) as slide:
            slide.read_region(Box(0, 0, 50, 50))
            slide.read_scaled(Box(0, 0, 20, 20), 2.5)


@pytest.mark.parametrize("name", ["dssnet", "donet"])
def test_open_model(unchanged, name):
    model = open_model(name, device="cpu")
    side = 128
    assert len(model.infer(np.zeros((1, side, side, 3), np.uint8))) == 1


def test_training(unchanged, tmp_path):
    config = SemanticTrainConfig(
        model="dssnet", data=(str(write_set(tmp_path / "data")),), out=tmp_path / "run",
        options={"width": 9, "depth": 1}, split="fold:0/4", crop_px=32, batch=2, steps=2,
        save_every=2, amp=False, workers=1,
    )  # fmt: skip
    assert train_semantic(config, quiet=True).is_file()
