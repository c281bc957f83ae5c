"""Scores of cells, nuclei and their links by hand, and `wsiseg score` with them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import shapely
from click.testing import CliRunner
from drawn_masks import crowds, drawn
from hypothesis import given

from wsi_pipeline.cli.main import cli
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.evaluation.cell_metrics import polygon_ap, score_cells
from wsi_pipeline.evaluation.mask_metrics import coco_ap, mask_overlaps
from wsi_pipeline.formats.convert import SlideInfo, export


def objects_of(boxes, classes, scores=None, parent=None):
    names = tuple(dict.fromkeys(classes)) or ("cell",)
    n = len(boxes)
    return Objects.from_polygons(
        [shapely.box(*b) for b in boxes],
        classes=names,
        ids=np.arange(2 * n, dtype=np.uint64).reshape(n, 2),
        class_index=np.array([names.index(c) for c in classes], np.uint8),
        score=np.array(np.ones(n) if scores is None else scores, np.float32),
        parent=parent,
    )


@given(crowds(), crowds())
def test_ap_of_polygons_is_that_of_their_masks(a, b):
    found, truth = (objects_of(c[0], ["cell"] * len(c[0]), c[1]) for c in (a, b))
    expected = coco_ap([drawn(a)], [drawn(b)])["AP50"]
    ious = mask_overlaps(drawn(a), drawn(b)).iou
    if len(np.unique(ious)) == len(ious):  # two that are as good: COCO takes the later one
        assert polygon_ap(found, truth) == pytest.approx(expected, nan_ok=True)


def test_ap_of_polygons_by_hand():
    truth = objects_of([(0, 0, 4, 4), (4, 0, 8, 4)], ["cell"] * 2)
    found = objects_of([(0, 6, 2, 8), (4, 0, 8, 4), (0, 0, 4, 4)], ["cell"] * 3, (0.8, 0.7, 0.9))
    assert polygon_ap(found, truth) == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert polygon_ap(objects_of([], []), truth) == 0


def linked(parent):
    """Two cells with two nuclei each, nuclei last."""
    boxes = [(0, 0, 20, 20), (30, 0, 50, 20)]
    nuclei = [(1, 1, 4, 4), (10, 1, 14, 4), (31, 1, 34, 4), (40, 1, 44, 4)]
    return objects_of(boxes + nuclei, ["cell"] * 2 + ["nucleus"] * 4, parent=np.array(parent))


def parts(objects):
    cells = objects.class_index == 0
    return objects.take(~cells), objects.take(cells), objects.parent[~cells]


def test_links_by_hand():
    truth = linked([-1, -1, 0, 0, 1, -1])  # three links
    perfect = score_cells(truth, *parts(truth))
    assert (perfect["true links"], perfect["links right"], perfect["links found"]) == (3, 1, 1)
    assert perfect["cell AP"] == perfect["cell F1"] == perfect["nucleus F1"] == 1
    # The second nucleus is given to the wrong cell, the third is not found at all.
    found = linked([-1, -1, 0, 1, 1, 0]).take(np.array([5, 3, 2, 1, 0]))
    scores = score_cells(found, *parts(truth))
    assert scores["links right"] == 1 / 2
    assert scores["links found"] == pytest.approx(1 / 3)
    assert scores["nucleus F1"] == pytest.approx(6 / 7)
    # A cell that is missed takes its links with it, but is no wrong link.
    some = score_cells(truth.take(np.array([0, 2, 3, 4, 5])), *parts(truth))
    assert (some["links right"], some["cell F1"]) == (1, pytest.approx(2 / 3))
    assert some["links found"] == pytest.approx(2 / 3)


def test_links_of_results_without_any():
    truth = linked([-1, -1, 0, 0, 1, -1])
    nuclei, cells, links = parts(truth)
    alone = score_cells(nuclei, nuclei, cells, links)
    assert (alone["cells"], alone["cell AP"], alone["nucleus F1"]) == (0, 0, 1)
    assert math.isnan(alone["links right"])
    assert alone["links found"] == 0
    with pytest.raises(ValueError, match="cell 1 do not fit 4 true nuclei and 0 true cells"):
        score_cells(truth, nuclei, cells.take(np.zeros(0, int)), links)


def test_score_of_cells(tmp_path):
    truth = linked([-1, -1, 0, 0, 1, -1])
    nuclei, cells, _ = parts(truth)
    for name, objects in (("run", truth), ("nuclei", nuclei), ("cells", cells)):
        export(objects, tmp_path / f"{name}.geojson.gz", format="geojson.gz", slide=SlideInfo())

    def score(*args):
        paths = [a if a.startswith("-") else str(tmp_path / f"{a}.geojson.gz") for a in args]
        return CliRunner().invoke(cli, ["score", *paths, "--json"])

    scores = json.loads(score("run", "nuclei", "--cells", "cells").stdout)
    assert (scores["cell AP"], scores["nucleus F1"], scores["IoU threshold"]) == (1, 1, 0.5)
    assert (scores["true links"], scores["links right"]) == (0, None)
    whole = json.loads(score("run", "nuclei", "--cells", "run").stdout)
    assert (whole["true links"], whole["links right"], whole["nucleus F1"]) == (3, 1, 1)
    assert "leave --class out" in score("run", "nuclei", "--cells", "run", "--class", "cell").stderr
    wrong = score("run", "nuclei", "--cells", "nuclei")
    assert wrong.exit_code == 2
    assert "has 4 objects and none of class 'cell'" in wrong.stderr
