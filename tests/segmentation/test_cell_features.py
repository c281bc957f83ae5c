"""Measurements of cells and their nuclei, by hand and against shapely."""

import numpy as np
import pytest
import shapely
from families import CLASSES, families, linked
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.core.errors import MppError
from wsi_pipeline.core.objects import Objects, is_cell
from wsi_pipeline.segmentation.cell_features import cell_features
from wsi_pipeline.segmentation.morphometry import MORPHOMETRY


def test_cell_features_by_hand():
    shapes = [
        shapely.box(0, 0, 20, 10),
        shapely.box(8, 3, 10, 7),
        shapely.box(15, 4, 17, 6),
        shapely.box(15, 0, 35, 10),
        shapely.box(18, 0, 38, 5),
        shapely.box(50, 50, 52, 54),
    ]
    kinds = ["cell", "nucleus", "nucleus", "cell", "cell", "nucleus"]
    other = {"OD": np.arange(6, dtype=np.float32)}
    objects = linked(shapes, kinds, [-1, 0, 0, -1, -1, -1], features=other)
    nan = np.nan
    measured = cell_features(objects, 0.5).features
    assert next(iter(measured)) == "OD" and len(measured) == 1 + 2 * len(MORPHOMETRY) + 4
    offset = np.array([1, 6]) / np.sqrt(200 / np.pi)
    expected = {
        "Cell: Area µm^2": [50, nan, nan, 50, 25, nan],
        "Nucleus: Area µm^2": [nan, 2, 1, nan, nan, 2],
        "Cell: Length µm": [30, nan, nan, 30, 25, nan],
        "Nucleus/Cell area ratio": [0.06, nan, nan, nan, nan, nan],
        "Cell: Nuclei": [2, nan, nan, 0, 0, nan],
        "Cell: Overlap share": [50 / 200, nan, nan, 125 / 200, 85 / 100, nan],
        "Nucleus: Offset in cell": [nan, *offset, nan, nan, nan],
    }
    for name, column in expected.items():
        assert measured[name] == pytest.approx(column, nan_ok=True, rel=1e-5), name
        assert measured[name].dtype == np.float32
    with pytest.raises(MppError):
        cell_features(objects, 0)


@given(seed=st.integers(0, 2**32))
def test_overlap_share_is_the_part_under_the_union_of_all_others(seed):
    objects = families(seed, n=8)
    share = cell_features(objects, 0.25).features["Cell: Overlap share"]
    shapes = objects.polygons()
    cells = np.flatnonzero(is_cell(objects))
    for i in cells:
        others = shapely.union_all(shapes[cells[cells != i]])
        part = shapes[i].intersection(others).area / shapes[i].area
        assert share[i] == pytest.approx(part, abs=1e-6)
    mixed = np.random.default_rng(seed).permutation(len(objects))
    again = cell_features(objects.take(mixed), 0.25).features["Cell: Overlap share"]
    assert again == pytest.approx(share[mixed], nan_ok=True, abs=1e-6)


def test_no_objects_have_all_measurements():
    some, none = cell_features(families(1), 1), cell_features(Objects.empty(CLASSES), 1)
    assert set(none.features) == set(some.features) - {"contrast"}, "which `families` has itself"
    assert all(len(column) == 0 for column in none.features.values())
