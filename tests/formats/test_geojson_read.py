"""GeoJSON that QuPath opens is read; all other is a DataError that names the feature."""

import gzip
import json
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import shapely
from hypothesis import example, given
from hypothesis import strategies as st
from strict_geojson import GOOD, SQUARE, mutated, objects_of, polygon, saved

from wsi_pipeline.core.errors import DataError
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.formats._geojson_documents import texts
from wsi_pipeline.formats.geojson import GeoJsonWriter, read_geojson, read_regions

BAD = {
    "id null": ("id", None),
    "geometry null": ("geometry", None),
    "geometry missing": ("geometry", ...),
    "geometry {}": ("geometry", {}),
    "GeometryCollection": ("geometry", {"type": "GeometryCollection", "geometries": []}),
    "Point": ("geometry", {"type": "Point", "coordinates": [1, 2]}),
    "LineString": ("geometry", {"type": "LineString", "coordinates": [[1, 2], [3, 4]]}),
    "not closed": ("geometry", polygon(SQUARE[:-1])),
    "2 points": ("geometry", polygon([[0, 0], [1, 1]])),
    "[A, B, A]": ("geometry", polygon([[0, 0], [1, 1], [0, 0]])),
    "zero area": ("geometry", polygon([[0, 0], [1, 1], [2, 2], [0, 0]])),
    "smaller than the grid": ("geometry", polygon([[0, 0], [0.001, 0], [0, 0.001], [0, 0]])),
    "empty coordinates": ("geometry", polygon()),
    "empty ring": ("geometry", polygon([])),
    "NaN": ("geometry", polygon([[0, 0], [float("nan"), 1], [2, 2], [0, 0]])),
    "text": ("geometry", polygon([["0", "0"], ["1", "0"], ["1", "1"], ["0", "0"]])),
    "bow tie": ("geometry", polygon([[0, 0], [2, 2], [2, 0], [0, 2], [0, 0]])),
    "spike": ("geometry", polygon([[0, 0], [4, 0], [8, 0], [4, 0], [4, 4], [0, 0]])),
    "hole outside": ("geometry", polygon(SQUARE, [[20, 0], [21, 0], [21, 1], [20, 0]])),
    "overlapping parts": (
        "geometry",
        {"type": "MultiPolygon", "coordinates": [[SQUARE], [[[5, 5], [15, 5], [5, 15], [5, 5]]]]},
    ),
    "plane key": ("geometry", polygon(SQUARE, plane={"c": 0, "z": 0, "t": 0, "x": 0})),
    "nucleusGeometry null": ("nucleusGeometry", None),
    "properties null": ("properties", None),
    "name null": ("properties.name", None),
    "hex colour": ("properties.color", "#00ff00"),
    "class without colour": ("properties.classification", {"name": "A"}),
    "class with hex colour": ("properties.classification.color", "#00ff00"),
    "blank class": ("properties.classification.name", " "),
    "class of two lines": ("properties.classification", "a\nb"),
    "half a character in a class": ("properties.classification", "a\ud800"),
    "half a character in a measurement": ("properties.measurements.\udfff", 1.0),
    "measurement text": ("properties.measurements.x", "many"),
    "child": ("properties.childObjects", [{"type": "Feature"}]),
}


@pytest.mark.parametrize("case", BAD)
def test_what_qupath_refuses_is_an_error_with_the_feature_and_one_line(tmp_path, case):
    path = saved(tmp_path / "a.geojson", mutated(*BAD[case]))
    with pytest.raises(DataError, match=r"a\.geojson: feature 1: .") as caught:
        read_geojson(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 5000, '{"type":"Topology"}', "3", '{"a":1}\n{"a":2}', '["x"]']
)
def test_files_that_are_not_geojson_are_errors(tmp_path, text):
    path = saved(tmp_path / "a.geojson", text)
    for read in (read_geojson, read_regions):
        with pytest.raises(DataError, match=r"a\.geojson"):
            read(path)
        with pytest.raises(DataError, match="missing"):
            read(tmp_path / "missing.geojson")


def test_a_truncated_gzip_is_an_error(tmp_path):
    path = tmp_path / "a.geojson.gz"
    with GeoJsonWriter(path) as writer:
        writer.write(objects_of([shapely.box(0, 0, 3, 3)]))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        read_geojson(path)


def test_a_packed_file_takes_the_memory_of_its_content(tmp_path):
    """Not of the largest content that there may be: of a large file, more than a machine has."""
    path = tmp_path / "a.geojson.gz"
    path.write_bytes(gzip.compress(json.dumps(mutated("id", "a" * 2**20)).encode()))
    tracemalloc.start()
    try:
        (text,) = texts(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * len(text)


_TEXT = st.text(st.characters(exclude_categories=()), max_size=3)  # halves of characters, too
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner),
    max_leaves=6,
)
_PLACES = [
    "id", "type", "geometry", "geometry.type", "geometry.coordinates", "geometry.plane",
    "properties", "properties.classification", "properties.classification.name",
    "properties.classification.color", "properties.classification.names", "properties.objectType",
    "properties.measurements", "properties.measurements.x", "properties.childObjects",
    "properties.name", "properties.color", "nucleusGeometry",
]  # fmt: skip


@given(st.sampled_from(_PLACES), _JSON)
@example("id", "\ud800")
def test_no_file_makes_another_error_than_dataerror(tmp_path_factory, where, value):
    path = saved(tmp_path_factory.getbasetemp() / "fuzz.geojson", mutated(where, value))
    for read in (read_geojson, lambda path: read_regions(path).inside):
        try:
            assert len(read(path)) >= 1
        except DataError as error:
            assert "\n" not in str(error)


def only(document, folder) -> Objects:
    return read_geojson(saved(folder / "in.geojson", document))


@pytest.mark.parametrize(
    ("top", "count"),
    [
        (GOOD, 2),
        (GOOD["features"], 2),
        (GOOD["features"][0], 1),
        (polygon(SQUARE), 1),
        ([GOOD, [GOOD["features"][0]], polygon(SQUARE)], 4),
    ],
)
def test_all_top_levels_are_read(tmp_path, top, count):
    assert len(only(top, tmp_path)) == count
    assert len(read_geojson(saved(tmp_path / "b.geojson", top, "utf-8-sig"))) == count


@pytest.mark.parametrize(
    ("classification", "name"),
    [
        (None, "Unclassified"),
        (..., "Unclassified"),
        ("Tumor: Positive", "Tumor: Positive"),
        ({"name": " Tumor ", "color": None}, "Tumor"),
        ({"name": "Tumor", "color": [1, 2, 3, 4]}, "Tumor"),
        ({"names": ["Tumor", "Positive"], "color": [1, 2, 3]}, "Tumor: Positive"),
        ({"name": "Tumor", "colorRGB": -65536}, "Tumor"),
    ],
)
def test_all_forms_of_a_class_are_read(tmp_path, classification, name):
    objects = only(mutated("properties.classification", classification), tmp_path)
    assert objects.classes[objects.class_index[1]] == name


@pytest.mark.parametrize(
    ("measurements", "value"),
    [
        ({"x": 0.9}, 0.9),
        ({"x": 3}, 3),
        ({"x": "NaN"}, np.nan),
        ({"x": float("inf")}, np.nan),
        ({"x": 1e300}, np.nan),
        ({"x": None, "y": True}, None),
        ([{"name": "x", "value": 2}], 2),
        (..., None),
    ],
)
def test_all_forms_of_measurements_are_read(tmp_path, measurements, value):
    objects = only(mutated("properties.measurements", measurements), tmp_path)
    expected = np.nan if value is None else np.float32(value)
    assert ("x" in objects.features) == (value is not None)
    assert np.array_equal(objects.features.get("x", [np.nan] * 2)[1], expected, equal_nan=True)
    assert objects.score.tolist() == [1, 1]


def test_parts_children_planes_holes_and_duplicate_keys_are_read(tmp_path):
    hole = [[2, 2], [4, 2], [4, 4], [2, 4], [2, 2]]
    away = [[x + 20, y, 7] for x, y in SQUARE]
    document = mutated("geometry", polygon(SQUARE, hole, plane={"c": -1, "z": 3, "t": 0}))
    adjoining = {
        "type": "MultiPolygon",
        "coordinates": [[SQUARE], [[[10, 0], *SQUARE[2:3], [15, 5], [10, 0]]]],
    }
    document["features"][1]["properties"]["childObjects"] = [
        {"type": "Feature", "geometry": adjoining},
        {"type": "Feature", "id": 5, "geometry": polygon(away, isEllipse=True), "properties": {}},
    ]
    text = json.dumps(document).replace('"id":', '"metadata": {}, "metadata": {}, "id":')
    objects = only(text, tmp_path)
    assert shapely.area(objects.polygons()).tolist() == [100, 96, 100, 25, 100]
    assert len({tuple(i) for i in objects.ids.tolist()}) == 5
    assert np.array_equal(objects.ids, only(text, tmp_path).ids)


def test_rings_that_touch_themselves_are_repaired(tmp_path):
    eight = [[0, 0], [4, 0], [2, 2], [4, 6], [0, 6], [2, 2], [0, 0]]
    objects = only(mutated("geometry", polygon(eight)), tmp_path)
    assert sorted(shapely.area(objects.polygons()).tolist()) == [4, 8, 100]
    assert len({tuple(i) for i in objects.ids.tolist()}) == 3


def test_rings_end_where_they_start(tmp_path):
    objects = only(GOOD, tmp_path)
    for start, stop in pairwise(objects.ring_offsets):
        assert np.array_equal(objects.coords[start], objects.coords[stop - 1])
