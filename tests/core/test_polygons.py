"""Polygons: `valid` is set once and holds for whatever is taken and joined afterwards."""

from dataclasses import replace

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.polygons import GRID_PX, MIN_AREA_PX2, make_valid

number = st.floats(-50, 50, allow_nan=False)
rings = st.lists(st.tuples(number, number), min_size=3, max_size=9)


def objects_of(shapes):
    n = len(shapes)
    return Objects.from_polygons(
        shapes, classes=("nucleus",), ids=np.stack([np.arange(n)] * 2, 1).astype(np.uint64),
        class_index=np.zeros(n, np.uint8), score=np.ones(n, np.float32),
    )  # fmt: skip


def is_valid(objects):
    polygons = objects.polygons()
    on_grid = np.array_equal(objects.coords, np.round(objects.coords, 2))
    return on_grid and all(p.is_valid and p.area >= MIN_AREA_PX2 for p in polygons)


@given(st.lists(rings, max_size=5), st.data())
def test_made_valid_once_objects_stay_valid(shapes, data):
    made = make_valid(objects_of([shapely.Polygon(ring) for ring in shapes]))
    assert made.valid and is_valid(made)
    assert make_valid(made) is made
    order = data.draw(st.permutations(range(len(made))))
    some = made.take(np.array(order[: data.draw(st.integers(0, len(made)))], np.int64))
    assert some.valid and is_valid(some)
    both = Objects.concatenate([some, Objects.empty(("nucleus",)), made])
    assert both.valid and is_valid(both)


def test_valid_is_lost_where_one_part_lacks_it():
    square = [shapely.box(0, 0, 3, 3)]
    assert not objects_of(square).valid
    assert not Objects.concatenate([make_valid(objects_of(square)), objects_of(square)]).valid


@pytest.mark.parametrize("shift", [0.0, 0.3 * GRID_PX])
def test_valid_objects_are_the_same_but_for_the_grid(shift):
    square = shapely.box(1 + shift, 2 + shift, 9, 8)
    objects = objects_of([square])
    made = make_valid(replace(objects, coords=shapely.get_coordinates(square)))
    assert np.array_equal(made.coords, objects.coords) and made.ids.tolist() == [[0, 0]]
