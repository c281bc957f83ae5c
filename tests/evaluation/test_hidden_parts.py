"""The visible and the overlapped parts of cells: laws, and a count by hand on boxes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from drawn_masks import crowds, drawn, masks
from hypothesis import given
from pycocotools import mask as coco

from wsi_pipeline.evaluation.hidden_part_masks import mask_parts
from wsi_pipeline.evaluation.hidden_parts import GROUPS, geometry_parts, score_parts
from wsi_pipeline.evaluation.mask_metrics import Masks, mask_overlaps
from wsi_pipeline.evaluation.matching import geometry_overlaps, match_overlaps

QUALITIES = [f"{p}{m}" for p in ("", "visible ", "overlapped ") for m in ("IoU", "Dice")]
LADDER = [(0, 0, 20, 20), (18, 0, 38, 20), (30, 0, 50, 20), (60, 0, 80, 20), (66, 0, 86, 20)]
LADDER += [(74, 0, 94, 20), (60, 40, 80, 60)]
"""Boxes; others cover 10 %, 50 %, 40 %, 70 %, 100 %, 60 % and 0 % of them."""


def scored(found, truth):
    return score_parts([mask_parts(found, truth)])


def row(*boxes, shape=(64, 100)):
    return masks(*boxes, shape=shape)


def test_a_perfect_drawing_has_1_everywhere():
    scores = scored(row(*LADDER), row(*LADDER))
    assert {name: one["true"] for name, one in scores.items()} == {
        "all": 7, "none": 1, "light": 1, "medium": 2, "heavy": 3,
    }  # fmt: skip
    for group, values in scores.items():
        assert (values["recall 0.5"], values["recall 0.7"]) == (1, 1)
        assert math.isnan(values["error in overlap"]), "there is no error"
        for name in QUALITIES:
            absent = group == "none" and name.startswith("overlapped")
            assert math.isnan(values[name]) if absent else values[name] == 1, (group, name)


def test_cells_that_stop_at_their_neighbours_lack_the_overlapped_part():
    """Where more than half of a cell is overlapped, such a drawing does not find it."""
    truth = row(*LADDER)
    stacked = coco.decode(list(truth.rles)).astype(bool)
    alone = stacked & (stacked.sum(axis=-1, keepdims=True) == 1)
    alone = alone[..., alone.any(axis=(0, 1))]
    rles = coco.encode(np.asfortranarray(alone.astype(np.uint8)))
    scores = scored(Masks(rles, np.ones(len(rles)), truth.shape), truth)
    for group in ("light", "medium"):
        values = scores[group]
        assert (values["recall 0.5"], values["visible IoU"], values["visible Dice"]) == (1, 1, 1)
        assert (values["overlapped IoU"], values["overlapped Dice"]) == (0, 0)
        assert values["error in overlap"] == 1
    assert scores["medium"]["IoU"] == pytest.approx((0.5 + 0.6) / 2)
    assert (scores["medium"]["recall 0.7"], scores["light"]["recall 0.7"]) == (0, 1)
    heavy = scores["heavy"]
    assert heavy["recall 0.5"] == heavy["visible IoU (missed 0)"] == 0
    assert math.isnan(heavy["visible IoU"]), "no cell is found"


def test_cells_that_do_not_overlap_are_in_group_none_only():
    apart = row((0, 0, 10, 10), (10, 0, 20, 10), (30, 30, 40, 40))
    scores = scored(row((0, 0, 10, 10), (10, 0, 22, 10)), apart)
    assert [scores[name]["true"] for name in GROUPS] == [3, 3, 0, 0, 0]
    assert scores["none"] == pytest.approx(scores["all"], nan_ok=True)
    assert scores["all"]["recall 0.5"] == pytest.approx(2 / 3)
    assert scores["all"]["visible IoU"] == scores["all"]["IoU"] == pytest.approx((1 + 10 / 12) / 2)
    assert scores["all"]["IoU (missed 0)"] == pytest.approx((1 + 10 / 12) / 3)
    for name in ("overlapped IoU", "overlapped Dice", "overlapped IoU (missed 0)"):
        assert math.isnan(scores["all"][name])
    for name, value in scores["heavy"].items():
        assert value == 0 if name == "true" else math.isnan(value), name


NO_AREAS = geometry_parts(np.zeros(0, object), np.zeros(0, object), mask_overlaps(masks(), masks()))


@pytest.mark.parametrize("fields", [[], [mask_parts(masks(), masks()), NO_AREAS]])
def test_nothing_is_nan(fields):
    for values in score_parts(fields).values():
        assert values.pop("true") == 0
        assert all(math.isnan(v) for v in values.values())


def test_parts_by_hand():
    """Cell 0 … 20, of which 15 … 20 lies in the other; it is drawn as 2 … 24."""
    truth = row((0, 0, 20, 10), (15, 0, 40, 10))
    scores = scored(row((2, 0, 24, 10)), truth)
    light, medium = scores["light"], scores["medium"]
    assert (light["true"], medium["true"]) == (2, 0)
    assert light["recall 0.5"] == 0.5
    assert light["IoU"] == pytest.approx(18 / 24)
    assert light["visible IoU"] == pytest.approx(13 / 15)
    assert light["overlapped IoU"] == pytest.approx(5 / 9), "4 columns too many in the other cell"
    assert light["overlapped Dice"] == pytest.approx(10 / 14)
    assert light["overlapped IoU (missed 0)"] == pytest.approx(5 / 18)
    assert light["area in overlap"] == pytest.approx(5 / 20)
    assert light["error in overlap"] == pytest.approx(4 / 6)


def reference(found, truth):
    """Visible and overlapped IoU of each pair, and the shares, from whole arrays of pixels."""
    a, b = (coco.decode(list(m.rles)).astype(bool) if len(m) else None for m in (found, truth))
    shares = {
        j: (b[..., j] & np.delete(b, j, axis=-1).any(axis=-1)).sum() / b[..., j].sum()
        for j in range(len(truth))
    }
    values = {}
    for i, j in match_overlaps(mask_overlaps(found, truth), 0.5).pairs:
        others = np.delete(b, j, axis=-1).any(axis=-1)
        mine, true = a[..., i], b[..., j]
        for k, region in enumerate((~others, others)):
            either = ((mine | true) & region).sum()
            if (true & region).any():
                values[j, k] = (mine & true & region).sum() / either
    return shares, values


@given(crowds(), crowds())
def test_parts_are_those_of_whole_arrays_of_pixels(first, second):
    found, truth = drawn(first), drawn(second)
    scores = scored(found, truth)
    shares, values = reference(found, truth)
    assert sum(scores[name]["true"] for name in GROUPS if name != "all") == len(truth)
    for name, (low, high) in GROUPS.items():
        mine = [j for j, share in shares.items() if low < share <= high]
        assert scores[name]["true"] == len(mine)
        for k, part in enumerate(("visible", "overlapped")):
            expected = [values[j, k] for j in mine if (j, k) in values]
            mean = np.mean(expected) if expected else math.nan
            assert scores[name][f"{part} IoU"] == pytest.approx(mean, nan_ok=True), (name, part)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_cells_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    x, y, radius = rng.uniform((0, 0, 8), (60, 60, 14), (25, 3)).T
    truth = shapely.buffer(shapely.points(x, y), radius, quad_segs=8)
    mine = shapely.buffer(shapely.points(x + rng.normal(size=25), y), radius * 0.95, quad_segs=8)
    scores = []
    for order, other in ((range(25), range(25)), (rng.permutation(25), rng.permutation(25))):
        a, b = mine[list(order)], truth[list(other)]
        scores.append(score_parts([geometry_parts(a, b, geometry_overlaps(a, b, 0.3))]))
    assert scores[0]["heavy"]["true"] > 0
    for name in GROUPS:
        assert scores[1][name] == pytest.approx(scores[0][name], nan_ok=True)


def outlines(boxes):
    out = np.empty(len(boxes), object)
    out[:] = [shapely.box(*box) for box in boxes]
    return out


@given(crowds(), crowds())
def test_areas_and_masks_have_the_same_parts(first, second):
    table = mask_overlaps(drawn(first), drawn(second))
    by_mask = mask_parts(drawn(first), drawn(second))
    by_area = geometry_parts(outlines(first[0]), outlines(second[0]), table)
    for name in ("true", "drawn", "shared", "found", "well_found"):
        assert getattr(by_area, name) == pytest.approx(getattr(by_mask, name)), name


def test_areas_that_share_a_line_besides_an_area():
    """GEOS returns such a shared part as a collection."""
    comb = shapely.union_all([shapely.box(0, 0, 10, 4), shapely.box(0, 4, 2, 10)])
    true = shapely.union_all([shapely.box(0, 0, 10, 4), shapely.box(2, 4, 4, 10)])
    truth, found = outlines([(0, 0, 1, 1), (0, 0, 3, 3)]), outlines([(0, 0, 1, 1)])
    truth[0], found[0] = true, comb
    assert shapely.intersection(comb, true).geom_type == "GeometryCollection"
    parts = geometry_parts(found, truth, geometry_overlaps(found, truth, 0.3))
    assert parts.found.tolist() == [True, False]
    assert parts.shared[0] == pytest.approx([31, 9])
    assert parts.drawn[0] == pytest.approx([52 - 9, 9])
