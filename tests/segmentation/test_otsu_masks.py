"""Laws of `wsiseg masks`: masks of drawn and generated fields overlap their truth."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from command_line import complaint, succeed, wsiseg
from wsiseg_models.training.coco import Split
from wsiseg_models.training.semantic_data import load_set

from wsi_pipeline.core.errors import DataError, UsageError
from wsi_pipeline.segmentation.otsu_masks import MaskSettings, otsu_masks

pytest.importorskip("skimage")


def cell(px=120):
    """A grey cell with a dark nucleus on bright glass: image, truth."""
    rows, cols = np.mgrid[:px, :px] - px // 2
    far = np.hypot(rows, cols)
    cytoplasm, nucleus = far < 40, far < 12
    grey = np.where(nucleus, 60, np.where(cytoplasm, 150, 230))
    noise = np.random.default_rng(0).normal(0, 5, (px, px))
    image = np.repeat((grey + noise).clip(0, 255).astype(np.uint8)[..., None], 3, 2)
    return image, {"cytoplasm": cytoplasm, "nucleus": nucleus}


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_the_masks_of_a_drawn_cell_are_the_cell():
    image, truth = cell()
    found = otsu_masks(image)
    assert all(iou(found[name], truth[name]) > 0.95 for name in truth)
    assert (found["cytoplasm"] | ~found["nucleus"]).all()


def test_opening_removes_specks_and_closing_fills_holes():
    image, truth = cell()
    image[4:6, 4:6] = 60
    image[80:82, 60:62] = 230
    plain = otsu_masks(image, MaskSettings(0, 0, 0))["cytoplasm"]
    assert plain[4, 4] and not plain[80, 60]
    clean = otsu_masks(image, MaskSettings(2, 2, 0))["cytoplasm"]
    assert not clean[4, 4] and clean[80, 60]
    large = otsu_masks(image, MaskSettings(0, 0, 10))["cytoplasm"]
    assert not large[4, 4] and iou(large, truth["cytoplasm"]) > 0.95


def test_the_folder_is_a_set_for_training_and_overlaps_the_truth(tmp_path):
    succeed("synth", tmp_path / "f", "--fields", 2, "--size", 256, "--mpp", 0.5, "--quiet")
    out = tmp_path / "masks"
    shown = succeed("masks", tmp_path / "f" / "images", "--out", out, "--mpp", 0.5)
    assert "of 2 images" in shown
    both = {
        where: load_set(str(where), mpp=0.5, split=Split("none"), categories=("cytoplasm",))[0]
        for where in (out, tmp_path / "f")
    }
    for mine, true in zip(*both.values(), strict=True):
        assert np.array_equal(mine.image, true.image)
        png = cv2.imread(str(out / "masks" / f"{Path(mine.name).stem}.cytoplasm.png"), 0)
        assert np.array_equal(png > 0, mine.labels > 0)
        assert iou(mine.labels > 0, true.labels > 0) > 0.5
    document = json.loads((out / "annotations.json").read_text())
    assert {a["category_id"] for a in document["annotations"]} == {1, 2}


def test_faults_are_named_with_the_remedy(tmp_path, monkeypatch):
    blank, text = tmp_path / "blank.png", tmp_path / "text.png"
    cv2.imwrite(str(blank), np.full((20, 20, 3), 7, np.uint8))
    text.write_text("x")
    (tmp_path / "empty").mkdir()
    out = ("--out", tmp_path / "out", "--quiet")
    assert "blank.png: all pixels have the grey value 7" in complaint(
        wsiseg("masks", blank, *out), 2
    )
    assert "text.png: not an image" in complaint(wsiseg("masks", text, *out), 2)
    assert "no such file" in complaint(wsiseg("masks", tmp_path / "no", *out), 2)
    assert "no images in it" in complaint(wsiseg("masks", tmp_path / "empty", *out), 2)
    assert "called blank" in complaint(wsiseg("masks", blank, blank, *out), 2)
    assert "--opening-px -1" in complaint(wsiseg("masks", blank, *out, "--opening-px", -1), 2)
    assert "--mpp 40" in complaint(wsiseg("masks", blank, *out, "--mpp", 40), 2)
    with pytest.raises(DataError, match="leave the image out"):
        otsu_masks(np.zeros((9, 9, 3), np.uint8))
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(UsageError, match=r"scikit-image.*pip install"):
        otsu_masks(cell()[0])
