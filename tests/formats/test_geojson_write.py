"""GeoJSON that is written is GeoJSON that QuPath accepts."""

import json
from decimal import Decimal

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from strict_geojson import GOOD, SQUARE, check, mutated, objects_of, polygon

from wsi_pipeline.core.errors import DataError, UsageError
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.polygons import clean_polygons
from wsi_pipeline.formats.geojson import (
    GeoJsonWriter,
    class_color,
    format_features,
    read_regions,
    write_annotations,
)


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


@given(st.lists(_ANY_POLYGON, min_size=1, max_size=6))
def test_whatever_the_polygons_the_file_is_accepted(tmp_path_factory, shapes):
    folder = tmp_path_factory.mktemp("g", numbered=True)
    features = check(written(objects_of(shapes), folder))
    assert len(features) >= sum(shape.is_valid and shape.area > 3 for shape in shapes)


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


def test_clean_polygons_drops_shapes_without_area_and_repairs_others():
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
        '"A"\\\n µm^2': Decimal("1.5"),
    }
    assert second["properties"]["measurements"] == {
        "Detection probability": 1,
        "ratio": Decimal("0.1"),
    }
    assert second["properties"]["classification"]["name"] == 'a "quoted" µ-class'
    assert second["id"] == "00000000-0000-0001-8000-000000000005"


def test_classes_have_stable_visible_colours_and_may_be_given_one(tmp_path):
    assert class_color("HSIL") == class_color("HSIL") != class_color("LSIL")
    shapes = [shapely.box(0, 0, 3, 3)]
    (feature,) = check(written(objects_of(shapes), tmp_path, colors={"nucleus": (1, 2, 3)}))
    assert feature["properties"]["classification"]["color"] == [1, 2, 3]
    (feature,) = check(written(objects_of(shapes, classes=["Unclassified"]), tmp_path))
    assert "classification" not in feature["properties"]


@pytest.mark.parametrize("name", ["", " ", "a\nb", " padded", ":", "a:", "a::b"])
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
    assert [r.area for r in read_regions(path).inside.values()] == [1500, 8, 20]
