"""Scores of boxes: against cases counted by hand, and through the command."""

import json
import math

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from wsiseg_models.checkpoint import Card, save_checkpoint
from wsiseg_models.predictions import Instances
from wsiseg_models.registry import MODELS
from wsiseg_models.training.detection_data import BoxSample

from wsi_pipeline.cli.main import cli
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import UsageError
from wsi_pipeline.evaluation.box_evaluation import find_boxes
from wsi_pipeline.evaluation.box_metrics import judge_boxes, score_boxes
from wsi_pipeline.evaluation.suite import open_models
from wsi_pipeline.segmentation.boxes import BoxModel

IMAGE = np.zeros((100, 100, 3), np.uint8)


def sample(*rows, partial=False):
    """Boxes (x0, y0, x1, y1, label)."""
    table = np.array(rows, np.float32).reshape(-1, 5)
    none = np.zeros((0, 4), np.float32)
    return BoxSample(IMAGE, table[:, :4], table[:, 4].astype(np.uint8), none, partial)


def instances(*rows):
    """Boxes (x0, y0, x1, y1, class, score), best first."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    masks = np.zeros((len(table), 0, 0), np.uint8)
    return Instances(table[:, :4], table[:, 4].astype(np.uint8), table[:, 5], masks)


def scores(found, truth, **settings):
    judged = judge_boxes(lambda image: found, [truth], 2)
    return score_boxes(judged, ("a", "b"), **settings)


def test_ap_and_ar_of_a_case_counted_by_hand():
    """Of two true boxes one is found exactly, one at IoU 0.6; one more box is wrong.

    At IoU 0.50 to 0.60 both hit, with precision 1 up to recall 1/2 and 2/3 beyond, since the
    wrong box comes second; above only the first does.
    """
    truth = sample((10, 10, 30, 30, 1), (50, 50, 70, 70, 1))
    found = instances(
        (10, 10, 30, 30, 0, 0.9), (80, 10, 95, 30, 0, 0.8), (50, 50, 70, 62, 0, 0.7)
    )  # fmt: skip
    got = scores(found, truth, cut=0.75)["a"]
    both, first = (51 + 50 * 2 / 3) / 101, 51 / 101
    assert got["AP50"] == pytest.approx(both) and got["AP75"] == pytest.approx(first)
    # 0.6 itself is a matter of rounding in float32.
    assert got["AP"] in (
        pytest.approx((2 * both + 8 * first) / 10), pytest.approx((3 * both + 7 * first) / 10)
    )  # fmt: skip
    assert got["AR50"] == 1 and got["AR"] in (pytest.approx(0.6), pytest.approx(0.65))
    assert (got["precision"], got["recall"], got["F1"]) == (0.5, 0.5, 0.5)
    assert (got["true"], got["found"], got["elsewhere"]) == (2, 3, 0)


def test_classes_are_judged_apart_and_all_is_the_mean_of_those_with_truth():
    truth = sample((10, 10, 30, 30, 1))
    got = scores(instances((10, 10, 30, 30, 1, 0.9)), truth)
    assert got["a"]["AP50"] == 0 and got["a"]["AR50"] == 0
    assert math.isnan(got["b"]["AP50"]) and got["all"]["AP50"] == 0
    assert got["all"]["found"] == 1 and got["all"]["true"] == 1
    right = scores(instances((10, 10, 30, 30, 0, 0.9)), truth)
    assert right["all"]["AP"] == pytest.approx(1) and right["all"]["AR"] == 1


def test_where_only_some_objects_are_marked_the_rest_does_not_count():
    """Boxes elsewhere are counted apart; a second box on a mark stays wrong."""
    rows = (10, 10, 30, 30, 1)
    found = instances((60, 60, 80, 80, 0, 0.95), (10, 10, 30, 30, 0, 0.9), (12, 12, 22, 22, 0, 0.8))
    strict, lenient = scores(found, sample(rows)), scores(found, sample(rows, partial=True))
    assert strict["a"]["precision"] == pytest.approx(1 / 3)
    assert strict["a"]["AP50"] == pytest.approx(0.5)
    assert lenient["a"]["AP50"] == pytest.approx(1) and lenient["a"]["precision"] == 0.5
    assert lenient["a"]["elsewhere"] == 1 and strict["a"]["elsewhere"] == 0


def test_the_limit_is_per_image_and_class_and_what_is_beyond_it_is_counted():
    truth = sample(*((10 * k, 0, 10 * k + 8, 8, 1) for k in range(6)))
    found = instances(*((10 * k, 0, 10 * k + 8, 8, 0, 0.9 - k / 10) for k in range(6)))
    assert scores(found, truth)["a"]["AR"] == 1
    limited = scores(found, truth, max_dets=3)["a"]
    assert limited["AR"] == 0.5 and limited["beyond AP's limit"] == 3


def test_a_box_is_cut_at_the_border_of_the_image_and_none_lies_beyond_it():
    def network(images):
        assert images.shape == (1, 128, 128, 3)
        return [instances((90, 90, 104, 104, 0, 0.9), (105, 50, 120, 60, 0, 0.8))]

    model = BoxModel(name="m", classes=("a",), mpp=1.0, halo_px=0, stride=64, tile_px=64,
                     identity="m", network=network)  # fmt: skip
    found = find_boxes(model, IMAGE)
    assert found.boxes.tolist() == [[90, 90, 100, 100]]


@pytest.mark.slow
def test_the_command_measures_a_checkpoint_of_boxes(tmp_path):
    torch.manual_seed(0)
    options = {"classes": 1, "backbone": "resnet18", "trunk_width": 8, "norm": "group",
               "frozen": "none", "fpn_width": 16, "box_width": 16, "score": 0.0}  # fmt: skip
    entry = MODELS["faster_rcnn"]
    network = entry.for_inference(entry.builder(**options))
    card = Card(name="faster_rcnn", task="boxes", classes=("LSIL",), mpp=0.5, halo_px=64,
                stride=64, options=options)  # fmt: skip
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, network.state_dict(), card)
    cv2.imwrite(str(tmp_path / "a.png"), np.full((100, 120, 3), 200, np.uint8))
    document = {
        "info": {"mpp": 0.5}, "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "LSIL"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [20, 20, 30, 30]}],
    }  # fmt: skip
    (tmp_path / "boxes.json").write_text(json.dumps(document))
    args = ["evaluate", "--checkpoint", str(path), "--data", str(tmp_path / "boxes.json")]
    run = CliRunner().invoke(cli, [*args, "--out", str(tmp_path / "out"), "--score", "0", "--json"])
    assert run.exit_code == 0, run.output
    result = json.loads(run.stdout)
    assert result["boxes"] and not result["partial"] and set(result["scores"]) == {"LSIL", "all"}
    assert json.loads((tmp_path / "out" / "results.json").read_text())["scores"] == result["scores"]
    shown = CliRunner().invoke(cli, [*args, "--partial"])
    assert shown.exit_code == 0 and "elsewhere" in shown.stdout
    with pytest.raises(UsageError, match="faster_rcnn gives boxes, and a suite compares outlines"):
        open_models((), [path], RunConfig())
