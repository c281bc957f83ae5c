"""Metrics of overlapping instances: by hand on 8 × 8 images, and against pycocotools."""

from __future__ import annotations

import contextlib
import io
import math

import numpy as np
import pytest
from drawn_masks import FOUND, NONE, TRUTH, crowds, drawn, masks
from hypothesis import given
from pycocotools import mask as coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from wsi_pipeline.evaluation.mask_metrics import (
    challenge_cells,
    challenge_nuclei,
    coco_ap,
    donet_aji,
    donet_f1,
    mask_overlaps,
    score_class,
    score_instances,
)


def test_overlaps_by_hand():
    table = mask_overlaps(FOUND, TRUTH)
    pairs = zip(table.a.tolist(), table.b.tolist(), table.shared, strict=True)
    assert list(pairs) == [(0, 0, 16), (0, 1, 4), (1, 1, 8)]
    assert table.iou == pytest.approx([16 / 20, 4 / 32, 8 / 16])
    assert table.dice == pytest.approx([32 / 36, 8 / 36, 16 / 24])
    assert (table.area_a.tolist(), table.area_b.tolist()) == ([20, 8, 4], [16, 16])


def test_more_instances_in_an_image_than_a_byte_counts():
    """300 instances of 1 to 4 pixels, the last ten of which are missed."""
    sides = np.random.default_rng(0).integers(1, 3, (300, 2))
    corners = 4 * np.array([(k % 20, k // 20) for k in range(300)])
    drawn = np.hstack([corners, corners + sides]).tolist()
    truth, found = masks(*drawn, shape=(60, 80)), masks(*drawn[:290], shape=(60, 80))
    assert truth.area.tolist() == sides.prod(1).tolist()
    scores = score_class([found], [truth], cut=0.5, max_dets=1000)
    assert (scores["recall"], scores["F1"]) == pytest.approx((290 / 300, 2 * 290 / 590))


def test_ap_by_hand():
    """Right, wrong, right: precision 1 up to recall 0.5 (51 of 101 points), then 2/3."""
    found = masks((0, 0, 4, 4), (0, 6, 2, 8), (4, 0, 8, 4), scores=(0.9, 0.8, 0.7))
    scores = coco_ap([found], [TRUTH])
    for name in ("AP", "AP50", "AP75", "APs"):
        assert scores[name] == pytest.approx((51 + 50 * 2 / 3) / 101), name
    assert math.isnan(scores["APl"])


def independent_ap(found, truth):
    """The usual way to call pycocotools, through its result files."""
    images = [{"id": k + 1, "height": t.shape[0], "width": t.shape[1]} for k, t in enumerate(truth)]
    true, results = COCO(), []
    true.dataset = {"images": images, "categories": [{"id": 7, "name": "x"}], "annotations": []}
    for k, (f, t) in enumerate(zip(found, truth, strict=True)):
        for rle in t.rles:
            true.dataset["annotations"].append(
                {"id": len(true.dataset["annotations"]) + 1, "image_id": k + 1, "category_id": 7,
                 "segmentation": rle, "area": float(coco.area(rle)), "iscrowd": 0}
            )  # fmt: skip
        for rle, score in zip(f.rles, f.scores, strict=True):
            results.append(
                {"image_id": k + 1, "category_id": 7, "segmentation": rle, "score": score}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        true.createIndex()
        judge = COCOeval(true, true.loadRes(results), "segm")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return [math.nan if v < 0 else v for v in judge.stats[:6]]


def test_ap_is_that_of_pycocotools():
    rng = np.random.default_rng(5)
    found, truth = [], []
    for _ in range(6):
        low = rng.integers(0, 150, (14, 2))
        boxes = np.hstack([low, low + rng.integers(6, 140, (14, 2))])
        truth.append(masks(*boxes[:11], shape=(300, 300)))
        moved = np.clip(boxes[3:] + rng.integers(-4, 5, (11, 4)), 0, 300)
        found.append(masks(*moved, scores=rng.random(11), shape=(300, 300)))
    expected = independent_ap(found, truth)
    assert 0.1 < expected[0] < 0.9
    assert list(coco_ap(found, truth).values()) == pytest.approx(expected, nan_ok=True)


def test_more_objects_than_coco_counts():
    """Of 120 that are all right, 100 give recall 0.83, which 84 of 101 points do not exceed."""
    boxes = [(x, y, x + 1, y + 1) for x in range(12) for y in range(10)]
    many = masks(*boxes, scores=np.linspace(1, 0.5, 120), shape=(12, 12))
    assert coco_ap([many], [many])["AP"] == pytest.approx(84 / 101)
    assert coco_ap([many], [many], max_dets=None)["AP"] == 1
    assert score_class([many], [many])["beyond AP's limit"] == 20
    assert score_class([many], [many], max_dets=None)["beyond AP's limit"] == 0


def test_donet_f1_by_hand():
    """IoU 0.5 is not over 0.5, so one of the two pairs counts: 2 · 1 / (3 + 2)."""
    table = mask_overlaps(FOUND, TRUTH)
    assert donet_f1([table]) == pytest.approx(0.4)
    assert donet_f1([table, mask_overlaps(TRUTH, TRUTH)]) == pytest.approx(0.7)


def test_a_true_object_takes_its_next_best_free_prediction():
    """Both true ones want the first; the one of IoU 1 gets it, the other the second (6/8)."""
    truth, found = masks((0, 0, 8, 1), (1, 0, 8, 1)), masks((1, 0, 8, 1), (2, 0, 8, 1))
    assert donet_f1([mask_overlaps(found, truth)]) == 1


def test_two_kinds_of_aji():
    """One found over both true ones, IoU 0.5 each: DoNet's lets it be taken once, Kumar's twice."""
    both = mask_overlaps(masks((0, 0, 8, 4)), TRUTH)
    assert donet_aji([both]) == pytest.approx(16 / (32 + 16))
    assert score_class([masks((0, 0, 8, 4))], [TRUTH])["AJI"] == pytest.approx(32 / 64)
    # Pairs 16/20 and 8/16, and 4 px that nobody took.
    assert donet_aji([mask_overlaps(FOUND, TRUTH)]) == pytest.approx(24 / (20 + 16 + 4))
    # Under IoU 0.5 (4/16) DoNet's does not pair, Kumar's does.
    corner = masks((0, 0, 2, 2))
    assert donet_aji([mask_overlaps(corner, TRUTH)]) == 0
    assert score_class([corner], [TRUTH])["AJI"] == pytest.approx(4 / 32)


def test_challenge_scores_by_hand():
    """One good pair (Dice 32/36): all of the true cell, and 4 of the 48 px outside it."""
    table = mask_overlaps(FOUND, TRUTH)
    assert challenge_cells([table], [64]) == pytest.approx(
        {"Dice": 32 / 36, "TPp": 1, "FPp": 4 / 48, "FNp": 0, "FNo": 1 / 2}
    )
    blind = mask_overlaps(NONE, TRUTH)
    pooled = challenge_cells([table, blind], [64, 64])
    assert pooled["FNo"] == 3 / 4, "cells of an image without detections are missed"
    assert pooled["Dice"] == pytest.approx(32 / 36)
    # 16/20 and 16/16 are over 0.6; of the second true one only 8/16 is shared.
    assert challenge_nuclei([table]) == pytest.approx(
        {"detection precision": 1 / 3, "detection recall": 1 / 2, "detection Dice": 32 / 36}
    )


def test_counts_and_cut_by_hand():
    scores = score_class([FOUND], [TRUTH])
    assert (scores["true"], scores["found"]) == (2, 3)
    assert [scores[k] for k in ("F1", "precision", "recall", "mean IoU", "PQ")] == pytest.approx(
        [4 / 5, 2 / 3, 1, 0.65, 2 * 1.3 / 5]
    )
    assert scores["pixel IoU"] == pytest.approx(26 / 36)
    sure = score_class([FOUND], [TRUTH], cut=0.9)
    assert (sure["found"], sure["recall"]) == (1, 0.5)
    assert sure["AP50"] == scores["AP50"], "AP ranks what was found, whatever the cut"


def test_nothing_found_or_nothing_there():
    undefined = score_class([NONE], [NONE])
    names = [k for k, v in undefined.items() if not math.isnan(v)]
    assert names == ["images", "true", "found", "beyond AP's limit"]
    blind = score_class([NONE], [TRUTH])
    assert [blind[k] for k in ("AP", "F1", "AJI", "F1 (DoNet)", "FNo")] == [0, 0, 0, 0, 1]
    assert math.isnan(blind["Dice"])
    invented = score_class([TRUTH], [NONE])
    assert [invented[k] for k in ("F1", "AJI", "AJI (DoNet)", "F1 (DoNet)")] == [0] * 4
    assert math.isnan(invented["AP"])
    both = mask_overlaps(NONE, NONE), mask_overlaps(TRUTH, TRUTH)
    assert donet_f1(both) == donet_aji(both) == 1, "an empty image says nothing"


@given(crowds().filter(lambda c: 0 < len(c[0]) == len(set(c[0]))))
def test_a_copy_is_perfect(crowd):
    truth = drawn(crowd)
    scores = score_class([truth], [truth], cut=0)
    for name in ("AP", "AP75", "F1", "PQ", "AJI", "AJI (DoNet)", "F1 (DoNet)", "Dice", "TPp"):
        assert scores[name] == pytest.approx(1), name
    assert scores["FPp"] == scores["FNp"] == scores["FNo"] == 0


@given(crowds(), crowds())
def test_overlaps_are_those_of_pixels(a, b):
    table = mask_overlaps(drawn(a), drawn(b))
    shared = np.zeros((len(a[0]), len(b[0])))
    shared[table.a, table.b] = table.shared
    one, two = ([coco.decode(r) for r in drawn(c).rles] for c in (a, b))
    assert shared.tolist() == [[float((p & q).sum()) for q in two] for p in one]


def test_classes_and_background():
    """What a set has no truth of is left out; background is where no class is."""
    found = [{"cell": FOUND, "nucleus": NONE}, {"cell": TRUTH, "nucleus": TRUTH}]
    truth = [{"cell": TRUTH, "nucleus": NONE}, {"nucleus": TRUTH}]
    scores = score_instances(found, truth, ("cell", "nucleus"))
    assert (scores["cell"]["images"], scores["nucleus"]["images"]) == (1, 2)
    assert scores["cell"]["F1"] == pytest.approx(0.8)
    assert scores["nucleus"]["F1"] == 1
    assert scores["all"]["F1"] == pytest.approx(0.9)
    assert (scores["all"]["true"], scores["all"]["images"]) == (4, 2)
    # 30 px found, 32 true, 26 shared: background shares 28 of 38.
    assert scores["all"]["pixel IoU"] == pytest.approx((26 / 36 + 1) / 2)
    assert scores["all"]["pixel IoU with background"] == pytest.approx((26 / 36 + 1 + 28 / 38) / 3)
