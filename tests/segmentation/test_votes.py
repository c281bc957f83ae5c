"""Laws of the vote by which the pixels of a nucleus decide its class, and of runs with classes."""

import json

import numpy as np
import pytest
import torch
from command_line import succeed
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from wsiseg_models.checkpoint import Card

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.pipeline import run_slide
from wsi_pipeline.segmentation.load_model import model_from_module
from wsi_pipeline.segmentation.votes import CERTAINTY, foreground, vote

PLANES = arrays(np.uint8, (2, 6, 7), elements=st.integers(0, 127))
LABELS = arrays(np.int32, (6, 7), elements=st.integers(0, 2))


@given(PLANES, LABELS)
def test_the_vote_is_the_class_with_the_larger_mean_over_all_pixels(planes, labels):
    labels.flat[:2] = 1, 2  # each object has a pixel
    area = np.bincount(labels.ravel(), minlength=3)[1:]
    votes = vote(labels, planes, area)
    for k in (1, 2):
        inside = planes[:, labels == k].astype(float)
        means = inside.mean(1)
        assert means[votes.classes[k - 1]] == means.max()
        assert votes.score[k - 1] == pytest.approx(means.sum() / 255, abs=1e-4)
        if means.sum():
            assert votes.certainty[k - 1] == pytest.approx(means.max() / means.sum(), abs=1e-4)
    swapped = vote(labels, planes[::-1], area)
    assert np.array_equal(swapped.score, votes.score)
    assert np.array_equal(foreground(planes), planes.sum(0))


@given(LABELS)
def test_with_one_class_it_is_the_mean_probability(labels):
    labels.flat[:2] = 1, 2
    plane = (np.arange(42).reshape(1, 6, 7) * 6 + 1).astype(np.uint8)
    area = np.bincount(labels.ravel(), minlength=3)[1:]
    votes = vote(labels, plane, area)
    for k in (1, 2):
        assert votes.score[k - 1] == pytest.approx(plane[0][labels == k].mean() / 255, abs=1e-4)
    assert votes.classes.tolist() == [0, 0] and votes.certainty.tolist() == [1, 1]
    assert np.array_equal(foreground(plane), plane[0])


def test_a_pixel_that_is_certain_to_be_a_nucleus_but_not_of_which_class_is_foreground():
    planes = np.array([[[126, 200, 0]], [[126, 100, 0]]], np.uint8)
    assert foreground(planes).tolist() == [[252, 255, 0]]


class Sides(torch.nn.Module):
    """Dark pixels are nuclei; those in the left half of the image lean to the first class."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dark = (100 - x.mean(1, keepdim=True)) / 4
        warm = (x[:, :1] - x[:, 2:]) / 20
        return torch.cat([torch.zeros_like(dark), dark + warm, dark - warm], 1)


@pytest.fixture
def model():
    card = Card(
        name="sides", task="nuclei", classes=("negative", "positive"), mpp=0.5, halo_px=0, mean=0,
        std=1,
    )  # fmt: skip
    return model_from_module(Sides(), card, device="cpu")


@pytest.mark.slow
def test_a_run_gives_each_nucleus_one_class_whatever_the_tiles(model, slide_path, tmp_path):
    seen = []
    for tile in (64, 256):
        config = RunConfig(out=tmp_path / str(tile), tile_px=tile, foreground="all", quiet=True)
        result = run_slide(slide_path, config, model=model)
        path = tmp_path / f"{tile}.geojson"
        succeed("export", result.folder, path)
        features = json.loads(path.read_text())["features"]
        names = [f["properties"]["classification"]["name"] for f in features]
        sure = [f["properties"]["measurements"][CERTAINTY] for f in features]
        seen.append((names, sure))
    assert seen[0] == seen[1] and len(seen[0][0]) > 5
    assert set(seen[0][0]) <= {"negative", "positive"}
    assert all(0.5 <= share <= 1 for share in seen[0][1])


def test_an_empty_region_has_the_same_measurements(model):
    assert CERTAINTY in model.empty().features
    assert model.empty().classes == ("negative", "positive")
