"""Measures of a suite: matching, sizes, marks and ghost cells, on areas that are drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.evaluation.suite_fields import ABNORMAL
from wsi_pipeline.evaluation.suite_measures import (
    Marked,
    compare,
    find_marks,
    rank_auc,
    score_marks,
    score_outlines,
)
from wsi_pipeline.evaluation.suite_sets import mask_area
from wsi_pipeline.evaluation.suite_stain import ghost_cells, mean_density, optical_density

SIDE, MPP = 200, 0.5
DISCS = [(40, 40, 10), (120, 50, 14), (60, 130, 9), (150, 150, 20)]
"""x, y and radius of the nuclei of a field; none is below 8 µm²."""


def areas(*geometries):
    out = np.empty(len(geometries), object)
    out[:] = geometries
    return out


def discs(scale=1.0, shapes=DISCS):
    return areas(*(shapely.Point(x, y).buffer(r * scale, 64) for x, y, r in shapes))


def compared(drawn, truth, *, density=None, mpp=MPP, unsure=()):
    scores = np.linspace(0.9, 0.6, len(drawn))
    density = np.linspace(0.1, 0.4, len(truth)) if density is None else np.array(density, float)
    return compare(
        drawn, scores, truth, areas(*unsure), density, mpp=mpp, min_area_um2=RunConfig.min_area_um2
    )


# --- measures


def test_perfect_outlines_have_perfect_scores():
    scores = score_outlines([compared(discs(), discs()), compared(discs()[:2], discs()[:2])])
    for name in ("F1", "precision", "recall", "AP50", "PQ", "foreground IoU"):
        assert scores[name] == pytest.approx(1), name
    for name in ("count bias", "area bias", "area bias, palest quarter"):
        assert scores[name] == pytest.approx(0), name
    assert (scores["images"], scores["true"], scores["drawn"]) == (2, 6, 6)


@pytest.mark.parametrize("scale", [0.6, 0.8, 1.2, 1.6])
def test_scaled_outlines_have_the_known_area_bias(scale):
    """Down to IoU 0.36, where F1 counts nothing any more."""
    scores = score_outlines([compared(discs(scale), discs())])
    for name in ("area bias", "area bias, palest quarter", "area bias, largest quarter"):
        assert scores[name] == pytest.approx(scale**2 - 1), name
    assert scores["pairs for area"] == len(DISCS)
    assert scores["F1"] == (1 if min(scale, 1 / scale) ** 2 >= 0.5 else 0)


def test_palest_and_largest_are_quarters_of_the_true_objects():
    truth, drawn = discs(), discs()
    drawn[0] = drawn[0].centroid.buffer(8, 64)  # the palest: 64 % of its area
    drawn[3] = drawn[3].centroid.buffer(22, 64)  # the largest: 121 %
    scores = score_outlines([compared(drawn, truth, density=[0.1, 0.4, 0.5, 0.6])])
    assert scores["area bias"] == pytest.approx(0)
    assert scores["area bias, palest quarter"] == pytest.approx(-0.36)
    assert scores["area bias, largest quarter"] == pytest.approx(0.21)


def test_missed_and_additional_outlines():
    extra = areas(*discs()[:3], shapely.Point(20, 180).buffer(8))
    scores = score_outlines([compared(extra, discs())])
    assert (scores["F1"], scores["recall"], scores["count bias"]) == (0.75, 0.75, 0)
    assert 0.5 < scores["AP50"] < 0.76
    none = score_outlines([compared(areas(), discs())])
    assert (none["F1"], none["AP50"], none["count bias"]) == (0, 0, -1)
    assert math.isnan(none["area bias"])
    assert math.isnan(score_outlines([compared(discs(), areas())])["AP50"])


def test_small_and_doubtful_objects_are_unknown():
    tiny = shapely.Point(180, 20).buffer(2)  # 3 µm²
    doubtful = shapely.Point(20, 180).buffer(12)
    drawn = areas(*discs(), tiny, doubtful.buffer(-1))
    scores = score_outlines([compared(drawn, areas(*discs(), tiny), unsure=[doubtful])])
    assert (scores["true"], scores["drawn"], scores["F1"]) == (4, 4, 1)
    assert scores["foreground IoU"] == pytest.approx(1)


def test_marks_inside_and_outside():
    drawn = areas(shapely.box(0, 0, 10, 10), shapely.box(20, 0, 30, 10), shapely.box(0, 0, 40, 40))
    points = np.array([(5, 5), (25, 9), (15, 5), (41, 5), (6, 6)], float)
    assert find_marks(drawn, points).tolist() == [0, 1, 2, -1, 0]  # the smallest that contains it
    assert find_marks(areas(), points).tolist() == [-1] * 5
    classes = ("NILM", "LSIL", "LSIL", "HSIL", "NILM")
    marked = Marked(
        classes, find_marks(drawn, points), 3,
        {"area": np.array([5.0, 6.0, 7.0]), ABNORMAL: np.array([0.1, 0.9, 0.05])}, 2,
    )  # fmt: skip
    scores = score_marks([marked], ABNORMAL)
    assert scores["recall"] == 0.8
    assert scores["found in an outline of their own"] == 3
    assert scores["drawn per mark"] == 0.6
    assert (scores["recall HSIL"], scores["median area LSIL"]) == (0, 6.5)
    assert (scores["called nuclei"], scores["called nuclei per mark"]) == (2, 0.4)
    assert (scores["AUC of area"], scores["AUC of class"]) == (1, 0.5)
    assert scores["AUC of class LSIL"] == 0.5 and math.isnan(scores["AUC of class HSIL"])
    plain = score_marks([Marked(classes, marked.nucleus, 3, {"area": np.ones(3)})], ABNORMAL)
    assert math.isnan(plain["AUC of class"]) and math.isnan(plain["called nuclei"])
    assert plain["AUC of area"] == 0.5


def test_auc_is_the_chance_that_a_positive_ranks_higher():
    rng = np.random.default_rng(0)
    values, positive = rng.integers(0, 9, 40).astype(float), rng.random(40) < 0.4
    yes, no = values[positive], values[~positive]
    chance = np.mean(np.sign(yes[:, None] - no) / 2 + 0.5)
    assert rank_auc(values, positive) == pytest.approx(chance)
    assert math.isnan(rank_auc(values, np.ones(40, bool)))


def test_a_mask_becomes_the_area_of_its_pixels():
    rng = np.random.default_rng(1)
    mask = rng.random((9, 12)) < 0.5
    area = mask_area((100, 50, 112, 59), mask)
    assert area.area == mask.sum()
    rows, columns = np.indices(mask.shape) + 0.5
    assert (shapely.contains_xy(area, columns + 100, rows + 50) == mask).all()


def stained_field():
    """Uneven glass with a cell of pale cytoplasm around (50, 50)."""
    rng = np.random.default_rng(2)
    light = 240 - np.linspace(0, 12, SIDE)[None] + rng.normal(0, 1, (SIDE, SIDE))
    y, x = np.mgrid[:SIDE, :SIDE]
    light[np.hypot(x - 50, y - 50) < 30] -= 25
    light[np.hypot(x - 50, y - 50) < 8] = 60
    return np.repeat(np.round(light)[..., None].clip(0, 255).astype(np.uint8), 3, 2)


def test_a_cell_on_glass_is_a_ghost():
    density = optical_density(stained_field(), (239, 239, 239))
    nuclei = areas(shapely.Point(50, 50).buffer(8), shapely.Point(150, 60).buffer(6))
    cells = areas(
        shapely.Point(50, 50).buffer(30), shapely.Point(150, 60).buffer(30),
        shapely.Point(150, 150).buffer(25), shapely.Point(50, 50).buffer(4),
    )  # fmt: skip
    # The last one lies in a nucleus: no cytoplasm, so nothing to tell.
    assert ghost_cells(density, cells, nuclei).tolist() == [False, True, True, False]
    od = mean_density(density, areas(nuclei[0], cells[2], shapely.box(500, 500, 510, 510)))
    assert od[0] > 0.5 > 0.05 > abs(od[1])
    assert math.isnan(od[2])
