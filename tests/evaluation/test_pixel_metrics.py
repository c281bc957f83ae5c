"""Laws of the scores of pixels, and `evaluate` with a network that classifies pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from drawn_cells import write_set
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from wsi_pipeline.evaluation.coco_evaluation import evaluate_model
from wsi_pipeline.evaluation.coco_fields import read_set
from wsi_pipeline.evaluation.mask_metrics import Masks
from wsi_pipeline.evaluation.pixel_metrics import (
    PUBLISHED,
    PixelCounts,
    count_pixels,
    pixel_table,
    published_scores,
    true_classes,
)
from wsi_pipeline.segmentation.nuclei import PixelModel, nuclei_only

MASKS = st.lists(st.booleans(), min_size=12, max_size=12)


@given(MASKS, MASKS)
def test_iou_is_never_above_dice_and_names_keep_them_apart(found, truth):
    counts = PixelCounts()
    counts.add(np.array(found), np.array(truth))
    scores = counts.scores()
    if not math.isnan(scores["IoU"]):
        assert scores["IoU"] <= scores["Dice"]
        assert scores["Dice"] == pytest.approx(2 * scores["IoU"] / (1 + scores["IoU"]))
    assert scores["accuracy"] == np.mean(np.array(found) == np.array(truth))
    assert set(scores) >= {"IoU", "IoU with background"}


def test_the_truth_has_full_scores_and_images_are_pooled():
    truth = np.zeros((8, 9), bool)
    truth[2:5, 3:7] = True
    counts = PixelCounts()
    counts.add(truth, truth)
    assert set(counts.scores().values()) == {1.0}
    counts.add(np.zeros_like(truth), truth)
    assert counts.scores()["sensitivity"] == 0.5


def masks(*arrays):
    rles = [coco.encode(np.asfortranarray(a, np.uint8)) for a in arrays]
    return Masks(rles, np.ones(len(rles)), arrays[0].shape)


def test_a_cell_is_whole_unless_its_nucleus_is_a_class_too():
    cell, nucleus = np.zeros((2, 8, 8), bool)
    cell[1:7, 1:7] = nucleus[3:5, 3:5] = True
    truth = {"cell": masks(cell), "nucleus": masks(nucleus)}
    assert np.array_equal(true_classes(("cytoplasm",), truth)["cytoplasm"], cell)
    both = true_classes(("cytoplasm", "nucleus"), truth)
    assert np.array_equal(both["cytoplasm"], cell & ~nucleus)
    assert np.array_equal(both["nucleus"], nucleus)
    assert true_classes(("other",), truth) == {}
    probability = np.zeros((2, 32, 32), np.uint8)
    probability[0, :8, :8] = 200 * both["cytoplasm"]
    probability[1, :8, :8] = 200 * both["nucleus"]
    counts = {}
    count_pixels(counts, ("cytoplasm", "nucleus"), probability, truth)
    assert all(set(c.scores().values()) == {1.0} for c in counts.values())


def test_a_network_that_returns_the_truth_scores_one(tmp_path):
    """Three classes: the nuclei are compared as objects, both classes as pixels."""
    spec = f"{write_set(tmp_path / 'data')}@0.5"
    fields = iter(list(read_set(spec, mpp=0.5)))
    classes = ("cytoplasm", "nucleus")

    def network(images):
        truth = true_classes(classes, next(fields).truth)
        out = np.zeros((1, 2, *images.shape[1:3]), np.uint8)
        for k, name in enumerate(classes):
            h, w = truth[name].shape
            out[0, k, :h, :w] = 255 * truth[name]
        return out

    model = PixelModel(name="t", classes=classes, mpp=0.5, halo_px=0, stride=32, tile_px=64,
                       identity="x", network=network)  # fmt: skip
    assert nuclei_only(model).classes == ("nucleus",)
    counts = {}
    scores, _ = evaluate_model(model, [spec], pixels=counts)
    assert set(scores) == {"nucleus", "all"}
    assert {name: c.scores()["Dice"] for name, c in counts.items()} == dict.fromkeys(classes, 1.0)


def test_published_figures_stand_beside_the_network_that_they_are_of():
    assert len(PUBLISHED) == 12
    row = published_scores("wubineh", ("nucleus",), "vgg19")
    assert row["Dice"] == 0.8425 and "IoU" not in row
    assert published_scores("wubineh", ("cytoplasm", "nucleus"), "vgg19") == {}
    assert published_scores("dssnet", ("nucleus",), "none") == {}
    rows = pixel_table({"nucleus": PixelCounts(1, 1, 1, 1).scores()}, row)
    assert rows[0][-1].startswith("published") and rows[-1][-1] == "0.8425"
