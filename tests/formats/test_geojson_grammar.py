"""What leaves is what QuPath accepts; what QuPath refuses does not come in."""

import copy
import json
import re
import uuid
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.core.errors import DataError, UsageError
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.formats._geojson_render import ObjectArrays, render
from wsi_pipeline.formats.geojson import (
    GeoJsonWriter,
    class_color,
    clean_polygons,
    format_features,
    read_geojson,
    read_regions,
    write_annotations,
)

SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]


# --- a strict reader: what QuPath 0.4 to 0.7 would refuse, drop or warn about, it refuses ---


def check(text: str) -> list[dict]:
    """Features of a FeatureCollection that every QuPath opens without a warning."""

    def no_duplicates(pairs):
        assert len({key for key, _ in pairs}) == len(pairs), "duplicate key"
        assert all(value is not None for _, value in pairs), "null"
        return dict(pairs)

    def no_constant(name):
        raise AssertionError(f"{name} is not a number")

    document = json.loads(
        text,
        object_pairs_hook=no_duplicates,
        parse_constant=no_constant,
        parse_float=Decimal,
        parse_int=Decimal,
    )
    assert document["type"] == "FeatureCollection"
    features = document["features"]
    for feature in features:
        _check_feature(feature)
    assert len({f["id"] for f in features}) == len(features), "ids repeat"
    return features


def _check_feature(feature):
    assert set(feature) == {"type", "id", "geometry", "properties"}, "keys of a Feature"
    assert feature["type"] == "Feature"
    assert isinstance(feature["id"], str) and str(uuid.UUID(feature["id"])) == feature["id"], "id"
    _check_geometry(feature["geometry"])
    properties = feature["properties"]
    allowed = {"objectType", "classification", "name", "isLocked", "measurements"}
    assert set(properties) <= allowed, "QuPath drops other properties"
    assert properties["objectType"] in ("annotation", "detection", "cell", "tile"), "objectType"
    if "classification" in properties:
        classification = properties["classification"]
        assert set(classification) == {"name", "color"}, "class without colour"
        name, color = classification["name"], classification["color"]
        assert name == name.strip() != "" and "\n" not in name
        assert len(color) == 3 and all(c in range(256) for c in color), "colour"
    for name, value in properties.get("measurements", {}).items():
        assert name.strip() and isinstance(value, Decimal), "measurement"
        assert np.isfinite(np.float32(float(value)))


def _check_geometry(geometry):
    assert set(geometry) == {"type", "coordinates"}
    parts = [geometry["coordinates"]]
    if geometry["type"] == "MultiPolygon":
        parts = geometry["coordinates"]
    else:
        assert geometry["type"] == "Polygon"
    for ring in (ring for part in parts for ring in part):
        assert len(ring) >= 4, "too few points"
        assert ring[0] == ring[-1], "not closed"
        for number in (number for point in ring for number in point):
            assert isinstance(number, Decimal) and number * 100 == int(number * 100), "decimals"
    shapes = [shapely.Polygon(p[0], p[1:]) for p in np_floats(parts)]
    shape = shapes[0] if geometry["type"] == "Polygon" else shapely.MultiPolygon(shapes)
    assert shape.is_valid, shapely.is_valid_reason(shape)
    reduced = shapely.set_precision(shape, 0.01)
    assert reduced.is_valid
    # Vertices closer than the grid to another edge are snapped to it.
    assert reduced.area == pytest.approx(shape.area, abs=0.01 * shape.length)
    assert shape.area >= 1, "no area"


def np_floats(parts):
    return [[[[float(v) for v in point] for point in ring] for ring in part] for part in parts]


GOOD = {
    "type": "FeatureCollection",
    "features": [
        {
            "type": "Feature",
            "id": f"00000000-0000-4000-8000-00000000000{k}",
            "geometry": {"type": "Polygon", "coordinates": [SQUARE]},
            "properties": {
                "objectType": "detection",
                "classification": {"name": "nucleus", "color": [1, 2, 3]},
                "measurements": {"Area µm^2": 1.5},
            },
        }
        for k in range(2)
    ],
}


def mutated(where: str, value) -> dict:
    """GOOD with the member `where` of the second feature set, or taken out for `...`."""
    document = copy.deepcopy(GOOD)
    *path, last = where.split(".")
    target = document["features"][1]
    for key in path:
        target = target[key]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return document


def polygon(*rings, **members):
    return {"type": "Polygon", "coordinates": list(rings), **members}


def test_the_checker_accepts_a_good_file():
    assert len(check(json.dumps(GOOD))) == 2


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("id", None),
        ("id", 7),
        ("id", "nucleus-7"),
        ("id", GOOD["features"][0]["id"]),
        ("objectType", "detection"),
        ("properties.objectType", ...),
        ("properties.objectType", "nucleus"),
        ("properties.type", "Neoplastic"),
        ("properties.classification.color", ...),
        ("properties.classification.color", "#00ff00"),
        ("properties.classification.name", " "),
        ("properties.name", None),
        ("properties.measurements.x", float("nan")),
        ("properties.measurements.x", "1"),
        ("geometry", None),
        ("geometry", polygon(SQUARE[:-1])),
        ("geometry", polygon([[0, 0], [2, 2], [2, 0], [0, 2], [0, 0]])),
        ("geometry", polygon([[0, 0], [10, 0.001], [10, 10], [0, 10], [0, 0]])),
        ("geometry", polygon([[0, 0], [1, 1], [0, 0]])),
        ("geometry", polygon([[0, 0], [float("inf"), 1], [2, 2], [0, 0]])),
    ],
)
def test_the_checker_refuses(where, value):
    with pytest.raises((AssertionError, KeyError, ValueError, TypeError)):
        check(json.dumps(mutated(where, value)))


# --- what leaves ---


def objects_of(shapes, features=None, classes=("nucleus", 'a "quoted" µ-class')) -> Objects:
    n = len(shapes)
    return Objects.from_polygons(
        shapes,
        classes=classes,
        ids=np.stack([np.arange(n, dtype=np.uint64), np.full(n, 2**63 + 5, np.uint64)], axis=1),
        class_index=(np.arange(n) % len(classes)).astype(np.uint8),
        score=np.linspace(0, 1, n, dtype=np.float32),
        features=features,
    )


def written(objects: Objects, folder, **options) -> str:
    path = folder / "objects.geojson"
    with GeoJsonWriter(path, **options) as writer:
        writer.write(objects)
    return path.read_text("utf-8")


# Few different coordinates make spikes, repeated points, bow ties and touching holes likely.
_COARSE = st.integers(-4, 4).map(float)
_FINE = st.floats(-20, 20, width=32)
_GRID = st.integers(-500, 500).map(lambda hundredths: hundredths / 100)
_POINT = st.tuples(_COARSE, _COARSE) | st.tuples(_FINE, _FINE) | st.tuples(_GRID, _GRID)
_RING = st.lists(_POINT, min_size=3, max_size=9)
_ANY_POLYGON = st.builds(shapely.Polygon, _RING, st.lists(_RING, max_size=3))


@settings(max_examples=100, deadline=None)
@given(st.lists(_ANY_POLYGON, min_size=1, max_size=6))
def test_whatever_the_polygons_the_file_is_accepted(tmp_path_factory, shapes):
    folder = tmp_path_factory.mktemp("g", numbered=True)
    features = check(written(objects_of(shapes), folder))
    assert len(features) >= sum(shape.is_valid and shape.area > 3 for shape in shapes)


@settings(max_examples=100, deadline=None)
@given(st.lists(_ANY_POLYGON, max_size=6), st.booleans())
def test_clean_polygons_are_valid_on_the_grid_stay_in_place_and_are_clean(shapes, largest):
    cleaned, index = clean_polygons(shapes, largest=largest)
    assert (np.diff(index) > 0).all()
    assert shapely.is_valid(cleaned).all() and (shapely.area(cleaned) >= 1).all()
    for shape, i in zip(cleaned, index, strict=True):
        coords = shapely.get_coordinates(shape)
        assert np.array_equal(coords, np.round(coords, 2))
        shell = shapely.Polygon(shapes[i].exterior)
        made = shapely.make_valid(shell, method="structure", keep_collapsed=False)
        assert shape.within(made.buffer(0.05))
        assert shape.geom_type == "Polygon" or not largest
    again, kept = clean_polygons(cleaned, largest=largest)
    assert np.array_equal(kept, np.arange(len(cleaned)))
    assert all(a.equals_exact(b) for a, b in zip(cleaned, again, strict=True))


def test_clean_polygons_knows_what_to_drop_and_what_to_keep():
    bow_tie = shapely.Polygon([(0, 0), (4, 4), (4, 0), (0, 8)])
    with np.errstate(invalid="ignore"):
        undefined = shapely.Polygon([(0, 0), (np.nan, 3), (3, 3)])
    shapes = [
        undefined,
        shapely.Polygon([(0, 0), (1e300, 3), (3, 3)]),
        shapely.Polygon(),
        shapely.LineString([(0, 0), (5, 5)]),
        shapely.box(0, 0, 0.9, 0.9),
        bow_tie,
        shapely.Polygon(shapely.box(0, 0, 2, 2).exterior, [shapely.box(5, 5, 9, 9).exterior]),
        shapely.MultiPolygon([shapely.box(0, 0, 2, 2), shapely.box(5, 5, 9, 9)]),
    ]
    cleaned, index = clean_polygons(shapes)
    assert index.tolist() == [5, 6, 7]
    assert shapely.area(cleaned[1:]).tolist() == [4, 16]  # a hole elsewhere takes nothing away
    parts, _ = clean_polygons(shapes[-1:], largest=False)
    assert parts[0].area == 20


def test_unclosed_rings_are_closed_on_the_way_out(tmp_path):
    good = objects_of([shapely.box(0, 0, 9, 9)])
    torn = Objects(**{**vars(good), "coords": good.coords[:-1], "ring_offsets": np.array([0, 4])})
    (feature,) = check(written(torn, tmp_path))
    assert len(feature["geometry"]["coordinates"][0]) == 5


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_coordinates_beyond_any_slide_are_dropped(tmp_path, value, caplog):
    objects = objects_of([shapely.box(0, 0, 9, 9), shapely.box(20, 20, 29, 29)])
    objects.coords[2, 0] = value
    assert [f["id"][-1] for f in check(written(objects, tmp_path))] == ["5"]
    assert "dropped 1" in caplog.text


def test_names_are_escaped_and_values_that_are_not_finite_left_out(tmp_path):
    values = {
        'Nucleus: "A"\\\n µm^2': np.array([1.5, np.nan], np.float32),
        "ratio": np.array([np.inf, 0.1], np.float32),
    }
    shapes = [shapely.box(0, 0, 3, 3), shapely.box(5.25, 5, 9.5, 9)]
    first, second = check(written(objects_of(shapes, values), tmp_path))
    assert first["properties"]["measurements"] == {
        "Detection probability": 0,
        'Nucleus: "A"\\\n µm^2': Decimal("1.5"),
    }
    assert second["properties"]["measurements"] == {
        "Detection probability": 1,
        "ratio": Decimal("0.1"),
    }
    assert second["properties"]["classification"]["name"] == 'a "quoted" µ-class'
    assert second["id"] == "00000000-0000-0001-8000-000000000005"


@settings(max_examples=500, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_measurements_read_back_as_the_same_float32(values):
    column = np.array([values], np.float32)
    n = len(values)
    arrays = ObjectArrays(
        np.zeros((n, 2), np.uint64),
        np.zeros(n, np.uint8),
        np.zeros((0, 2)),
        np.zeros(1, np.int64),
        np.zeros(n + 1, np.int64),
        column,
    )
    text = render(arrays, [b"]},"], [b'"x":']).decode()
    numbers = re.findall(r'"x":([^}]*)', text)
    assert np.array_equal(np.array([json.loads(x) for x in numbers], np.float32), column[0])
    assert all(sum(c.isdigit() for c in x.split("e")[0].strip("-0.")) <= 18 for x in numbers)


@pytest.mark.parametrize(
    "text", ["0.1", "52.1", "-0.93", "100000", "3.14159", "0.00001", "16777216"]
)
def test_short_numbers_stay_short(text):
    shape = [shapely.box(0, 0, 2, 2)]
    features = format_features(objects_of(shape, {"x": np.array([text], np.float32)}))
    assert f'"x":{text}}}'.encode() in features


def test_classes_have_stable_visible_colours_and_may_be_given_one(tmp_path):
    assert class_color("HSIL") == class_color("HSIL") != class_color("LSIL")
    shapes = [shapely.box(0, 0, 3, 3)]
    (feature,) = check(written(objects_of(shapes), tmp_path, colors={"nucleus": (1, 2, 3)}))
    assert feature["properties"]["classification"]["color"] == [1, 2, 3]
    (feature,) = check(written(objects_of(shapes, classes=["Unclassified"]), tmp_path))
    assert "classification" not in feature["properties"]


@pytest.mark.parametrize("name", ["", " ", "a\nb", " padded"])
def test_class_names_that_qupath_refuses_are_refused(tmp_path, name):
    with pytest.raises(DataError, match="class name"):
        written(objects_of([shapely.box(0, 0, 3, 3)], classes=[name]), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names_that_qupath_does_not_open_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"name it objects\.geojson"):
        GeoJsonWriter(tmp_path / "objects.txt")
    with pytest.raises(UsageError, match="nucleus"):
        GeoJsonWriter(tmp_path / "objects.geojson", object_type="nucleus")
    score = {"Detection probability": np.zeros(1, np.float32)}
    with pytest.raises(DataError, match="score"):
        format_features(objects_of([shapely.box(0, 0, 3, 3)], score))


def test_annotations_are_locked_and_come_back_as_regions(tmp_path):
    ring = shapely.box(0, 0, 40, 40).difference(shapely.box(10, 10, 20, 20))
    bow_tie = shapely.Polygon([(0, 0), (4, 4), (4, 0), (0, 4)])
    two = shapely.MultiPolygon([shapely.box(0, 0, 2, 2), shapely.box(5, 5, 9, 9)])
    path = tmp_path / "foreground.geojson"
    write_annotations(path, [ring, bow_tie, two, shapely.Polygon()], ["1", "2", "3", "4"])
    features = check(path.read_text("utf-8"))
    assert [f["properties"]["name"] for f in features] == ["1", "2", "3"]
    assert all(f["properties"]["isLocked"] for f in features)
    assert all(f["properties"]["objectType"] == "annotation" for f in features)
    assert [r.area for r in read_regions(path)] == [1500, 8, 20]


# --- what comes in ---


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
    "measurement text": ("properties.measurements.x", "many"),
    "child": ("properties.childObjects", [{"type": "Feature"}]),
}


def saved(path, document, encoding="utf-8"):
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding)
    return path


@pytest.mark.parametrize("case", BAD)
def test_what_qupath_refuses_is_an_error_with_the_feature_and_one_line(tmp_path, case):
    path = saved(tmp_path / "a.geojson", mutated(*BAD[case]))
    with pytest.raises(DataError, match=r"a\.geojson: feature 1: .") as caught:
        read_geojson(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 5000, '{"type":"Topology"}', "3", '{"a":1}\n{"a":2}', '["x"]']
)
def test_what_is_no_geojson_is_an_error(tmp_path, text):
    path = saved(tmp_path / "a.geojson", text)
    for read in (read_geojson, read_regions):
        with pytest.raises(DataError, match=r"a\.geojson"):
            read(path)
        with pytest.raises(DataError, match="missing"):
            read(tmp_path / "missing.geojson")


def test_a_torn_gzip_is_an_error(tmp_path):
    path = tmp_path / "a.geojson.gz"
    with GeoJsonWriter(path) as writer:
        writer.write(objects_of([shapely.box(0, 0, 3, 3)]))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        read_geojson(path)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
_PLACES = [
    "id", "type", "geometry", "geometry.type", "geometry.coordinates", "geometry.plane",
    "properties", "properties.classification", "properties.classification.name",
    "properties.classification.color", "properties.classification.names", "properties.objectType",
    "properties.measurements", "properties.measurements.x", "properties.childObjects",
    "properties.name", "properties.color", "nucleusGeometry",
]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(_PLACES), _JSON)
def test_no_file_makes_another_error_than_dataerror(tmp_path_factory, where, value):
    path = saved(tmp_path_factory.getbasetemp() / "fuzz.geojson", mutated(where, value))
    for read in (read_geojson, read_regions):
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


def test_regions_are_annotations_only_and_name_the_feature_that_is_none(tmp_path):
    document = mutated("properties.objectType", "annotation")
    assert [r.area for r in read_regions(saved(tmp_path / "a.geojson", document))] == [100]
    with pytest.raises(DataError, match="no annotation"):
        read_regions(saved(tmp_path / "b.geojson", GOOD))
    document["features"][1]["geometry"] = {"type": "Point", "coordinates": [1, 2]}
    with pytest.raises(DataError, match=r"feature 1: .*not Point"):
        read_regions(saved(tmp_path / "c.geojson", document))
    crossing = polygon([[0, 0], [4, 4], [4, 0], [0, 4], [0, 0]])
    assert read_regions(saved(tmp_path / "d.geojson", crossing))[0].area == 8


def test_rings_end_where_they_start(tmp_path):
    objects = only(GOOD, tmp_path)
    for start, stop in pairwise(objects.ring_offsets):
        assert np.array_equal(objects.coords[start], objects.coords[stop - 1])
