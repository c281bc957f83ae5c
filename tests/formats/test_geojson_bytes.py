"""The bytes that the compiled GeoJSON kernels write: numbers that read back, within the budget."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import shapely
from hypothesis import example, given
from hypothesis import strategies as st

from wsi_pipeline.core.objects import Objects
from wsi_pipeline.formats._geojson_kernels import put_features
from wsi_pipeline.formats._geojson_render import (
    Families,
    ObjectArrays,
    byte_budget,
    kernel_arguments,
    render,
)
from wsi_pipeline.formats.geojson import format_features


def arrays(rings, columns, ids=0):
    """Objects that are lists of rings, each a list of points."""
    n = len(rings)
    points = [np.reshape(ring, (-1, 2)) for one in rings for ring in one]
    return ObjectArrays(
        ids=np.full((n, 2), ids, np.uint64),
        class_index=(np.arange(n) % 2).astype(np.uint8),
        coords=np.concatenate([np.zeros((0, 2)), *points]),
        ring_offsets=np.cumsum([0, *map(len, points)], dtype=np.int64),
        object_offsets=np.cumsum([0, *map(len, rings)], dtype=np.int64),
        columns=np.asarray(columns, np.float32),
    )


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_measurements_read_back_as_the_same_float32(values):
    text = render(arrays([[]] * len(values), [values]), [b"]},"] * 2, [b'"x":']).decode()
    numbers = re.findall(r'"x":([^}]*)', text)
    assert np.array_equal(
        np.array([json.loads(x) for x in numbers], np.float32), np.float32(values)
    )
    assert all(sum(c.isdigit() for c in x.split("e")[0].strip("-0.")) <= 18 for x in numbers)


# Widest texts: a sign, all digits of the largest coordinate, two places; a sign and 14 places.
_WIDE = st.sampled_from([-999999999.99, -100000000.01, -9.99, -0.01, 0.0, 999.995, 1e9])
_COORDINATE = _WIDE | st.floats(-1e9, 1e9)
_RING = st.lists(st.tuples(_COORDINATE, _COORDINATE), max_size=6)
_VALUE = st.sampled_from([-1.17549435e-06, -9.99999999e15, -1e16, -3.4028235e38, np.nan])
_NUMBER = _VALUE | st.floats(width=32)


@st.composite
def features(draw):
    """Objects with extreme numbers, alone or as cells with nuclei, and the texts between."""
    n = draw(st.integers(0, 5))
    rings = draw(st.lists(st.lists(_RING, max_size=3), min_size=n, max_size=n))
    count = draw(st.integers(0, 3))
    values = draw(st.lists(_NUMBER, min_size=count * n, max_size=count * n))
    text = st.binary(max_size=9)
    objects = arrays(rings, np.reshape(values, (count, n)), draw(st.sampled_from([0, 2**64 - 1])))
    classes = draw(st.lists(text, min_size=2, max_size=2))
    families = Families.single(objects, draw(st.lists(text, min_size=count, max_size=count)))
    if n and draw(st.booleans()):  # the first object holds all others
        blocks = draw(st.lists(text, min_size=count * (n + 2), max_size=count * (n + 2)))
        families = Families(np.array([0, n]), np.zeros(1, np.int64), classes, blocks)
    return objects, classes, families


WIDE_RING = [[(-12345.67, -12345.67)] * 1000]


@given(features())
@example(
    (arrays([WIDE_RING], [[0.5]]), [b"]},"] * 2, Families.single(arrays([[]], [[0]]), [b'"x":']))
)
def test_no_features_are_longer_than_their_budget(drawn):
    objects, classes, families = drawn
    budget = byte_budget(objects, classes, families)
    out = np.zeros(2 * budget + 10_000, np.uint8)  # far too large: a wrong budget must not crash
    assert put_features(out, *kernel_arguments(objects, classes, families)) <= budget


def objects_of(shapes, features=None) -> Objects:
    n = len(shapes)
    return Objects.from_polygons(
        shapes,
        classes=("nucleus",),
        ids=np.arange(2 * n, dtype=np.uint64).reshape(n, 2),
        class_index=np.zeros(n, np.uint8),
        score=np.linspace(0, 1, n, dtype=np.float32),
        features=features,
    )


@pytest.mark.parametrize(
    "text", ["0.1", "52.1", "-0.93", "100000", "3.14159", "0.00001", "16777216"]
)
def test_short_numbers_stay_short(text):
    shape = [shapely.box(0, 0, 2, 2)]
    found = format_features(objects_of(shape, {"x": np.array([text], np.float32)}))
    assert f'"x":{text}}}'.encode() in found


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_coordinates_that_are_not_finite_are_refused(value):
    objects = objects_of([shapely.box(0, 0, 2, 2)])
    coords = objects.coords.copy()
    coords[1, 0] = value
    with pytest.raises(ValueError, match="not finite"):
        format_features(replace(objects, coords=coords))
