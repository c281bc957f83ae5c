"""Metrics against hand-made cases, symmetry, and a brute-force search on small random ones."""

import itertools
import math

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.core.objects import Objects
from wsi_pipeline.evaluation.matching import (
    Match,
    aggregated_jaccard,
    kumar_pairs,
    label_overlaps,
    match_labels,
    match_objects,
    object_overlaps,
)


def objects_of(polygons):
    n = len(polygons)
    return Objects.from_polygons(
        polygons,
        classes=("nucleus",),
        ids=np.zeros((n, 2), np.uint64),
        class_index=np.zeros(n, np.uint8),
        score=np.ones(n, np.float32),
    )


def boxes(*corners):
    return objects_of([shapely.box(*corner) for corner in corners])


@st.composite
def crowds(draw, most=5):
    """A few overlapping boxes on a small plane."""
    corner = st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(1, 5)] * 2)
    drawn = draw(st.lists(corner, max_size=most))
    return [(x, y, x + w, y + h) for x, y, w, h in drawn]


@st.composite
def label_pairs(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return tuple(
        np.kron(rng.integers(0, 5, (4, 4)) * rng.integers(0, 2, (4, 4)), np.ones((2, 3), np.int32))
        for _ in range(2)
    )


def box_iou(a, b):
    both = shapely.box(*a).intersection(shapely.box(*b)).area
    return both / (shapely.box(*a).area + shapely.box(*b).area - both)


def best_by_search(a, b, threshold):
    """Most pairs, then the largest sum of IoU, over all one-to-one assignments."""
    best = (0, 0.0)
    slots = [*range(len(b)), *[None] * len(a)]
    for choice in set(itertools.permutations(slots, len(a))):
        ious = [box_iou(p, b[j]) for p, j in zip(a, choice, strict=True) if j is not None]
        if all(iou >= threshold for iou in ious):
            best = max(best, (len(ious), sum(ious)))
    return best


def aji(a, b):
    """Kumar's index of two `Objects` or two label images."""
    table = object_overlaps(a, b, 0.0) if isinstance(a, Objects) else label_overlaps(a, b)
    return aggregated_jaccard(table, kumar_pairs(table))


def ratios(match):
    return [match.precision, match.recall, match.f1, match.sq, match.pq]


def test_match_by_hand():
    """One exact pair, one of IoU 0.6, one miss, one false alarm."""
    a = boxes((0, 0, 4, 4), (10, 0, 14, 4), (30, 0, 34, 4))
    b = boxes((50, 0, 54, 4), (11, 0, 15, 4), (0, 0, 4, 4))
    match = match_objects(a, b)
    assert match.pairs.tolist() == [[0, 2], [1, 1]]
    assert match.iou == pytest.approx([1, 12 / 20])
    assert (match.tp, match.fp, match.fn) == (2, 1, 1)
    assert ratios(match) == pytest.approx([2 / 3, 2 / 3, 2 / 3, 0.8, 1.6 / 3])
    assert match_objects(a, b, 0.61).pairs.tolist() == [[0, 2]]
    assert match_objects(a, b, 0.6).tp == 2, "the threshold itself counts"


def test_more_pairs_win_over_a_better_one():
    """Greedy would take the 5/6 first and leave one on either side alone."""
    a = boxes((0, 0, 10, 1), (2, 0, 12, 1))
    b = boxes((1, 0, 12, 1), (4, 0, 14, 1))
    match = match_objects(a, b, 0.5)
    assert match.pairs.tolist() == [[0, 0], [1, 1]]
    assert match.iou == pytest.approx([9 / 12, 8 / 12])


def test_holes_and_crossings_count():
    """A ring is not its disc, and a polygon that crosses itself still has an area."""
    ring = shapely.box(0, 0, 10, 10).difference(shapely.box(1, 1, 9, 9))
    bow = shapely.Polygon([(20, 0), (24, 4), (24, 0), (20, 4)])
    match = match_objects(
        objects_of([ring, bow]), objects_of([shapely.box(0, 0, 10, 10), bow]), 0.4
    )
    assert match.pairs.tolist() == [[1, 1]]
    assert match.iou == pytest.approx([1])
    assert aji(objects_of([ring]), boxes((0, 0, 10, 10))) == pytest.approx(0.36)


def test_nothing_predicted_or_nothing_there():
    none, one = boxes(), boxes((0, 0, 1, 1))
    assert ratios(match_objects(none, none)) == pytest.approx([math.nan] * 5, nan_ok=True)
    assert ratios(match_objects(none, one)) == pytest.approx(
        [math.nan, 0, 0, math.nan, 0], nan_ok=True
    )
    assert ratios(match_objects(one, none)) == pytest.approx(
        [0, math.nan, 0, math.nan, 0], nan_ok=True
    )
    assert math.isnan(aji(none, none))
    assert aji(none, one) == aji(one, none) == 0


@given(crowds(), crowds(), st.sampled_from([0.1, 0.3, 0.5, 0.75]))
def test_match_is_the_best_that_a_search_finds(a, b, threshold):
    match = match_objects(boxes(*a), boxes(*b), threshold)
    count, total = best_by_search(a, b, threshold)
    assert match.tp == count
    assert match.iou.sum() == pytest.approx(total)
    assert match.iou == pytest.approx([box_iou(a[i], b[j]) for i, j in match.pairs])
    assert len(set(match.pairs[:, 0])) == len(set(match.pairs[:, 1])) == count


@given(crowds(12), crowds(12), st.sampled_from([0.05, 0.5]))
def test_swapping_swaps_precision_and_recall(a, b, threshold):
    forth = match_objects(boxes(*a), boxes(*b), threshold)
    back = match_objects(boxes(*b), boxes(*a), threshold)
    assert [forth.precision, forth.recall, forth.f1, forth.sq, forth.pq] == pytest.approx(
        [back.recall, back.precision, back.f1, back.sq, back.pq], nan_ok=True
    )
    if forth.tp:
        assert forth.pq == pytest.approx(forth.sq * forth.f1)


@given(crowds(12).filter(bool))
def test_a_copy_is_a_perfect_match(a):
    assert ratios(match_objects(boxes(*a), boxes(*a))) == pytest.approx([1] * 5)


@given(label_pairs(), st.sampled_from([0.2, 0.5, 0.8]))
def test_labels_match_as_their_polygons_do(pair, threshold):
    def polygons(labels):
        return [
            shapely.union_all(
                [shapely.box(j, i, j + 1, i + 1) for i, j in np.argwhere(labels == k)]
            )
            for k in np.unique(labels[labels > 0])
        ]

    a, b = pair
    by_label = match_labels(a, b, threshold)
    shapes = polygons(a), polygons(b)
    if all(isinstance(p, shapely.Polygon) for p in (*shapes[0], *shapes[1])):
        by_polygon = match_objects(objects_of(shapes[0]), objects_of(shapes[1]), threshold)
        assert ratios(by_label) == pytest.approx(ratios(by_polygon), nan_ok=True)
    for (i, j), iou in zip(by_label.pairs, by_label.iou, strict=True):
        one, two = a == i, b == j
        assert iou == pytest.approx((one & two).sum() / (one | two).sum())
    assert by_label.predicted == len(shapes[0])
    assert by_label.true == len(shapes[1])


def test_label_numbers_do_not_matter():
    a = np.array([[1, 1, 0, 2], [1, 1, 0, 2]])
    b = np.array([[5, 5, 0, 0], [5, 5, 9, 9]])
    match = match_labels(a.astype(np.int32), b.astype(np.uint16))
    assert match.pairs.tolist() == [[1, 5]]
    huge = np.where(a == 2, 2_000_000_000, a)
    assert match_labels(huge, b).pairs.tolist() == [[1, 5]]
    assert match_labels(huge, huge).pairs.tolist() == [[1, 1], [2_000_000_000, 2_000_000_000]]


def test_labels_without_background():
    ones = np.ones((3, 3), np.int32)
    assert ratios(match_labels(ones, ones)) == [1] * 5
    assert match_labels(ones, 0 * ones).fp == 1


def aji_by_hand(a, b):
    """Kumar's algorithm, pixel by pixel."""
    shared = union = 0
    used = set()
    for k in np.unique(b[b > 0]):
        best = (0.0, None, 0, int((b == k).sum()))
        for i in np.unique(a[(a > 0) & (b == k)]):
            both, either = ((a == i) & (b == k)).sum(), ((a == i) | (b == k)).sum()
            if both / either > best[0]:
                best = (both / either, i, both, either)
        used.add(best[1])
        shared, union = shared + best[2], union + best[3]
    union += sum((a == i).sum() for i in np.unique(a[a > 0]) if i not in used)
    return shared / union if union else math.nan


@given(label_pairs())
def test_aji_is_the_published_algorithm(pair):
    assert aji(*pair) == pytest.approx(aji_by_hand(*pair), nan_ok=True)


def test_aji_of_objects_by_hand():
    """One pair of IoU 12/20, one false alarm of 16, one miss of 16."""
    a, b = boxes((0, 0, 4, 4), (20, 0, 24, 4)), boxes((1, 0, 5, 4), (40, 0, 44, 4))
    assert aji(a, b) == pytest.approx(12 / (20 + 16 + 16))
    assert aji(a, a) == pytest.approx(1)


def test_pooled_matches_count_as_one():
    parts = [
        match_objects(boxes((0, 0, 4, 4)), boxes((0, 0, 4, 4), (9, 9, 10, 10))),
        match_objects(boxes((0, 0, 4, 4), (9, 9, 10, 10)), boxes((1, 0, 5, 4))),
    ]
    pooled = Match.pool(parts)
    assert (pooled.tp, pooled.fp, pooled.fn) == (2, 1, 1)
    assert pooled.sq == pytest.approx(0.8)
    assert math.isnan(Match.pool([]).f1)


@pytest.mark.parametrize("iou", [0, -0.5, 1.5, math.nan])
def test_impossible_thresholds(iou):
    with pytest.raises(ValueError, match="threshold"):
        match_objects(boxes(), boxes(), iou)


def test_refuses_what_cannot_be_compared():
    with pytest.raises(ValueError, match="shape"):
        match_labels(np.zeros((2, 2), int), np.zeros((2, 3), int))
    with pytest.raises(ValueError, match="-1"):
        match_labels(np.full((2, 2), -1), np.zeros((2, 2), int))


def test_dense_chains_at_a_low_threshold_stay_within_memory():
    """3000 boxes that all hang together: a full cost table would be 9 million cells."""
    x = np.arange(3000) * 4.0
    a = objects_of(list(shapely.box(x, 0, x + 10, 1)))
    b = objects_of(list(shapely.box(x + 1, 0, x + 11, 1)))
    match = match_objects(a, b, 0.1)
    assert match.tp == 3000
    assert np.array_equal(match.pairs[:, 0], match.pairs[:, 1])
