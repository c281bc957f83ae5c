"""Laws of the score of a network on images with truth."""

from __future__ import annotations

import numpy as np
import pytest
from wsiseg_models.training.semantic_data import Sample

from wsi_pipeline.evaluation.nucleus_metrics import nucleus_f1, nucleus_match


@pytest.fixture
def labels():
    """Four squares of 100 pixels, one of which is unknown, and a crumb of 4."""
    truth = np.zeros((60, 80), np.int32)
    truth[5:15, 5:15], truth[5:15, 40:50], truth[40:50, 5:15] = 1, 2, 3
    truth[40:50, 40:50] = -1
    truth[0:2, 78:80] = 4
    return truth


def test_the_truth_is_perfect(labels):
    match = nucleus_match(np.maximum(labels, 0), labels, min_px=32)
    assert (match.tp, match.fp, match.fn, match.sq) == (3, 0, 0, 1.0)


def test_unknown_nuclei_are_ignored(labels):
    found = np.where(labels < 0, 9, np.maximum(labels, 0))
    assert (nucleus_match(found, labels, min_px=32).fp) == 0
    found[20:30, 60:70] = 10
    assert (nucleus_match(found, labels, min_px=32).fp) == 1


def test_half_unknown_is_still_known(labels):
    found = np.zeros_like(labels)
    found[40:50, 35:45] = 1  # half of it lies in the unknown square
    assert nucleus_match(found, labels, min_px=32).fp == 1
    found[40:50, 45] = 1
    assert nucleus_match(found, labels, min_px=32).fp == 0


def test_a_missed_and_an_invented_nucleus(labels):
    found = np.where(labels == 1, 0, np.maximum(labels, 0))
    found[20:30, 60:70] = 10
    match = nucleus_match(found, labels, min_px=32)
    assert (match.tp, match.fp, match.fn) == (2, 1, 1)


def test_nothing_found(labels):
    match = nucleus_match(np.zeros_like(labels), labels, min_px=32)
    assert (match.tp, match.fp, match.fn) == (0, 0, 3)


def test_sets_are_scored_apart(labels):
    image = np.zeros((60, 80, 3), np.uint8)
    samples = [
        Sample(image, labels, np.array([0, 1, 1, 1, 1], np.uint8), group, "x", 0.5)
        for group in ("one", "one", "two")
    ]

    def predict(image):
        return np.where(labels > 0, 255, 0).astype(np.uint8)[None]

    scores = nucleus_f1(predict, samples)
    assert list(scores) == ["one", "two"]
    assert [scores[k]["nuclei"] for k in scores] == [6, 3]
    assert all(s["nucleus F1"] == 1 for s in scores.values())
    blind = nucleus_f1(lambda image: np.zeros((1, 60, 80), np.uint8), samples)
    assert blind["two"]["nucleus F1"] == blind["two"]["nucleus recall"] == 0
