"""Laws of the ranking: what it may depend on, and in which direction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import shapely

from wsi_pipeline.core.objects import Objects
from wsi_pipeline.reports.atypia import MEASURES, PLAUSIBLE_UM2, RANKING, rank_atypical
from wsi_pipeline.segmentation.cell_features import NUCLEUS_RATIO
from wsi_pipeline.segmentation.kinds import ABNORMAL, KIND_CLASSES
from wsi_pipeline.segmentation.morphometry import NUCLEUS_AREA, OD_MEAN


def slide(n=60, seed=0, classes=("nucleus",), step=400.0):
    """Nuclei far apart, with measurements that vary a little."""
    rng = np.random.default_rng(seed)
    x, y = np.arange(n) % 10 * step, np.arange(n) // 10 * step
    return Objects.from_polygons(
        shapely.box(x, y, x + 30, y + 30),
        classes=classes,
        ids=np.stack([rng.permutation(n), np.arange(n)], 1).astype(np.uint64),
        class_index=np.zeros(n, np.uint8),
        score=np.ones(n, np.float32),
        features={
            NUCLEUS_AREA: rng.normal(45, 5, n).astype(np.float32),
            OD_MEAN: rng.normal(0.4, 0.05, n).astype(np.float32),
            "Nucleus: Circularity": rng.uniform(0.9, 0.98, n).astype(np.float32),
            "Nucleus: Solidity": rng.uniform(0.95, 1, n).astype(np.float32),
        },
    )


def changed(objects, name, **values):
    column = objects.features[name].copy()
    for i, value in values.items():
        column[int(i[1:])] = value
    return replace(objects, features={**objects.features, name: column})


def ids(objects, ranking):
    return objects.ids[ranking.order].tolist()


@pytest.mark.parametrize("seed", range(5))
def test_the_ranking_does_not_depend_on_order_place_or_size_of_pixels(seed):
    objects = slide(seed=seed, step=60.0)
    expected = rank_atypical(objects, 20)
    mixed = objects.take(np.random.default_rng(seed).permutation(len(objects)))
    assert ids(mixed, rank_atypical(mixed, 20)) == ids(objects, expected)
    moved = replace(objects, coords=objects.coords * 4 + [70_000, 3])
    assert ids(moved, rank_atypical(moved, 20)) == ids(objects, expected)
    assert (np.diff(expected.score[expected.order]) <= 0).all()


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [(NUCLEUS_AREA, 38, 60), (OD_MEAN, 0.38, 0.6), ("Nucleus: Circularity", 0.97, 0.8)],
)
def test_more_atypical_is_never_ranked_later(name, low, high):
    objects = slide()
    i = int(rank_atypical(objects, 60, spread=False).order[30])  # in the middle
    place = []
    for value in np.linspace(low, high, 4):
        one = changed(objects, name, **{f"_{i}": value})
        order = rank_atypical(one, len(one), spread=False).order.tolist()
        place.append(order.index(i))
    assert place == sorted(place, reverse=True)
    assert place[-1] < place[0]


def test_the_reasons_name_what_differs():
    ranking = rank_atypical(changed(slide(), NUCLEUS_AREA, _17=120), 3)
    assert ranking.order[0] == 17
    name, z = next(iter(ranking.reasons[0].items()))
    assert name == "nuclear area"
    assert z > 6
    assert set(ranking.reasons[0]) <= set(MEASURES)
    assert all(name in RANKING for name in MEASURES)


def test_the_scale_of_a_stain_cancels():
    objects = slide()
    darker = replace(
        objects, features={**objects.features, OD_MEAN: objects.features[OD_MEAN] * 2 + 0.1}
    )
    assert ids(objects, rank_atypical(objects, 30)) == ids(darker, rank_atypical(darker, 30))


def test_what_is_no_nucleus_is_not_ranked():
    objects = slide(classes=KIND_CLASSES)
    kinds = objects.class_index.copy()
    kinds[[1, 2]] = [2, 3]  # leukocyte, other
    objects = changed(replace(objects, class_index=kinds), NUCLEUS_AREA, _1=200, _2=200)
    objects = changed(objects, NUCLEUS_AREA, _3=PLAUSIBLE_UM2[1] + 1, _4=PLAUSIBLE_UM2[0] - 1)
    objects = changed(objects, "Nucleus: Solidity", _5=0.5)
    objects = changed(objects, NUCLEUS_AREA, _6=np.nan)
    ranking = rank_atypical(objects, len(objects))
    assert np.flatnonzero(np.isnan(ranking.score)).tolist() == [1, 2, 3, 4, 5, 6]
    assert not set(range(1, 7)) & set(ranking.order.tolist())


def test_a_class_score_counts():
    objects = slide(classes=KIND_CLASSES)
    p = np.full(len(objects), 0.05, np.float32)
    p[20] = 0.98
    with_score = replace(objects, features={**objects.features, ABNORMAL: p})
    assert rank_atypical(with_score, 1).order.tolist() == [20]


def test_a_cell_is_shown_once_and_its_ratio_counts():
    nuclei = slide(40)
    x = np.array([0.0, 400.0])
    cells = Objects.from_polygons(
        shapely.box(x - 20, -20, x + 60, 60), classes=("cell", "nucleus"),
        ids=np.array([[90, 0], [91, 0]], np.uint64), class_index=np.zeros(2, np.uint8),
        score=np.ones(2, np.float32),
        features=dict.fromkeys(nuclei.features, np.full(2, np.nan, np.float32)),
    )  # fmt: skip
    nuclei = replace(nuclei, classes=("cell", "nucleus"), class_index=np.ones(40, np.uint8))
    both = Objects.concatenate([cells, nuclei])
    parent = np.full(42, -1)
    parent[[2, 3, 12]] = [0, 1, 0]  # two nuclei in the first cell
    ratio = np.full(42, np.nan, np.float32)
    ratio[:2] = [0.1, 0.9]
    both = replace(both, parent=parent, features={**both.features, NUCLEUS_RATIO: ratio})
    ranking = rank_atypical(both, 42)
    order = ranking.order.tolist()
    assert not {0, 1} & set(order)  # cells are shown through their nuclei
    assert len({2, 12} & set(order)) == 1
    assert ranking.score[3] > rank_atypical(replace(both, parent=None), 1).score[3]


def test_one_clump_does_not_fill_the_list():
    objects = slide(100, step=600.0)
    coords = objects.coords.reshape(100, 5, 2).copy()
    for i in range(20):  # a clump of twenty, whose nuclei lie side by side
        coords[i] += [i % 5 * 40, i // 5 * 40] - coords[i, 0]
    objects = replace(objects, coords=coords.reshape(-1, 2))
    area = objects.features[NUCLEUS_AREA].copy()
    area[:20] = 90
    objects = replace(objects, features={**objects.features, NUCLEUS_AREA: area})
    spread, plain = (rank_atypical(objects, 20, spread=s).order for s in (True, False))
    assert (plain < 20).all()
    assert 3 <= (spread < 20).sum() <= 5
    assert len(spread) == 20


def test_doubts_only_lower_the_score():
    objects = slide()
    certain = rank_atypical(objects, 60, looked={"even stain": np.full(60, 5, np.float32)})
    plain = rank_atypical(objects, 60)
    doubtful = rank_atypical(objects, 60, looked={"even stain": np.full(60, -5, np.float32)})
    np.testing.assert_array_equal(certain.score, plain.score)
    assert (doubtful.score < plain.score).all()
    among = np.arange(60) < 10
    assert set(rank_atypical(objects, 60, among=among).order.tolist()) == set(range(10))


def test_copies_are_left_out():
    objects = slide()
    coords = objects.coords.reshape(len(objects), 5, 2).copy()
    coords[8] = coords[7] + 4  # drawn twice
    objects = replace(objects, coords=coords.reshape(-1, 2))
    objects = changed(objects, NUCLEUS_AREA, _7=120, _8=119)
    assert set(rank_atypical(objects, 60).order.tolist()) == set(range(60)) - {8}


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_few_objects(n):
    ranking = rank_atypical(slide(n), 40)
    assert len(ranking.order) == len(ranking.reasons) == n
    assert len(ranking.score) == n


def test_objects_without_area_are_not_ranked():
    bare = replace(slide(), features={})
    assert len(rank_atypical(bare, 40).order) == 0
