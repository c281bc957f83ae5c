"""Regions of interest as QuPath and others export them: areas are read, all else is named."""

import json
import zipfile

import numpy as np
import pytest
import shapely
from strict_geojson import GOOD, SQUARE, mutated, polygon, saved

from wsi_pipeline.core.errors import DataError
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.formats.geojson import read_geojson, read_regions
from wsi_pipeline.segmentation.ownership import ObjectFilter
from wsi_pipeline.slides.foreground import Foreground

FAR = [[x + 50, y + 50] for x, y in SQUARE]
POINT = {"type": "Point", "coordinates": [1, 2]}
LINE = {"type": "LineString", "coordinates": [[1, 2], [3, 4]]}


def feature(geometry, **properties):
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def annotation(geometry, **properties):
    return feature(geometry, objectType="annotation", **properties)


def regions(tmp_path, *features, **options):
    document = {"type": "FeatureCollection", "features": list(features)}
    return read_regions(saved(tmp_path / "a.geojson", document), **options)


def ignore(geometry, name="Ignore*"):
    return annotation(geometry, classification={"name": name, "color": [180, 180, 180]})


def test_only_annotations_are_regions(tmp_path):
    document = mutated("properties.objectType", "annotation")
    found = read_regions(saved(tmp_path / "a.geojson", document))
    assert [r.area for r in found.inside.values()] == [100]
    assert found.left_out == []
    with pytest.raises(DataError, match="no annotation"):
        read_regions(saved(tmp_path / "b.geojson", GOOD))
    crossing = polygon([[0, 0], [4, 4], [4, 0], [0, 4], [0, 0]])
    assert read_regions(saved(tmp_path / "d.geojson", crossing)).area.area == 8


def test_objects_of_old_versions_of_qupath_are_no_regions(tmp_path):
    old = [{**feature(polygon(FAR)), "id": f"Path{kind}Object"} for kind in ("Detection", "Cell")]
    drawn = {**feature(polygon(SQUARE)), "id": "PathAnnotationObject"}
    assert regions(tmp_path, *old, drawn).area.area == 100


NO_AREA = {
    "a point": (POINT, "Point"),
    "points": ({"type": "MultiPoint", "coordinates": [[1, 2]]}, "MultiPoint"),
    "a line": (LINE, "LineString"),
    "lines": ({"type": "MultiLineString", "coordinates": [[[1, 2], [3, 4]]]}, "MultiLineString"),
    "null": (None, "no geometry"),
    "empty": ({}, "no geometry"),
    "an empty polygon": ({"type": "Polygon", "coordinates": []}, "empty Polygon"),
    "an empty collection": ({"type": "GeometryCollection", "geometries": []}, "empty"),
    "an unknown kind": ({"type": "Curve", "coordinates": []}, "Curve"),
    "a flat polygon": (polygon([[0, 0], [9, 0], [0, 0], [0, 0]]), "Polygon without area"),
}


@pytest.mark.parametrize(("geometry", "what"), NO_AREA.values(), ids=NO_AREA)
def test_what_has_no_area_is_left_out_and_named(tmp_path, geometry, what):
    found = regions(tmp_path, annotation(polygon(SQUARE)), annotation(geometry))
    assert found.area.equals(shapely.Polygon(SQUARE))
    assert found.left_out == [f"feature 1 ({what})"]
    assert found.warnings(100, 100) == [f"a.geojson: no regions: feature 1 ({what})"]
    with pytest.raises(DataError, match=rf"no annotation with an area, but feature 0 \({what}\)"):
        regions(tmp_path, annotation(geometry))


def test_areas_in_a_collection_are_regions(tmp_path):
    mixed = {"type": "GeometryCollection", "geometries": [POINT, polygon(SQUARE), LINE]}
    found = regions(tmp_path, annotation(mixed))
    assert found.area.area == 100
    assert found.left_out == ["feature 0 (Point)", "feature 0 (LineString)"]


@pytest.mark.parametrize(
    "geometry",
    [
        polygon(SQUARE[:-1]),
        polygon([[0, 0], [1, float("nan")], [2, 2], [0, 0]]),
        polygon([[0, 0], [1, 1e300], [2, 2], [0, 0]]),
        {"type": "Polygon"},
    ],
)
def test_a_broken_area_is_refused_with_its_feature(tmp_path, geometry):
    with pytest.raises(DataError, match=r"a\.geojson: feature 1: "):
        regions(tmp_path, annotation(polygon(SQUARE)), annotation(geometry))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", '"NaN"', "null"])
@pytest.mark.parametrize("listed", [False, True])
def test_numbers_that_are_none_among_measurements_do_not_matter(tmp_path, value, listed):
    path = tmp_path / "a.geojson"
    kept = [{"name": "Max caliper", "value": 0}] if listed else {"Max caliper": 0}
    text = json.dumps(annotation(polygon(SQUARE), measurements=kept)).replace(
        ": 0}", f": {value}}}"
    )
    path.write_text(text)
    assert read_regions(path).area.area == 100


def test_an_archive_made_on_a_mac_is_read(tmp_path):
    path, text = tmp_path / "a.zip", json.dumps(annotation(polygon(SQUARE)))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("roi/a.geojson", text)
        archive.writestr("__MACOSX/roi/._a.geojson", b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X")
        archive.writestr("roi/._b.geojson", b"\x00\x05\x16\x07")
        archive.writestr("roi/.DS_Store", b"\x00\x00")
    assert read_regions(path).area.area == 100
    assert len(read_geojson(path)) == 1


def test_cores_are_regions_where_nothing_is_annotated(tmp_path):
    cores = [
        feature(polygon(SQUARE), objectType="tma_core", name="A-1", isMissing=False),
        feature(polygon(FAR), objectType="TMA core", name="A-2"),
        feature(polygon(FAR), objectType="tma_core", name="A-3", isMissing=True),
        {**feature(polygon(SQUARE)), "id": "TMACoreObject"},
    ]
    found = regions(tmp_path, *cores)
    assert (list(found.inside), found.area.area) == ([0, 1, 3], 200)
    assert found.left_out == ["feature 2 (missing TMA core)"]
    found = regions(tmp_path, *cores, annotation(polygon([[2, 2], [4, 2], [4, 4], [2, 2]])))
    assert found.area.area == 2
    assert "feature 0 (TMA core beside annotations)" in found.left_out


@pytest.mark.parametrize(
    "name",
    [
        "Ignore*",
        "Ignore",
        "ignore*",
        "Ignore*: dust",
        "Cell: Ignore*",
        {"names": ["Ignore*", "dust"]},
    ],
)
def test_ignored_areas_are_cut_out(tmp_path, name):
    hole = polygon([[2, 2], [4, 2], [4, 4], [2, 4], [2, 2]])
    cut = ignore(hole, name)
    if isinstance(name, dict):
        cut["properties"]["classification"] = {**name, "color": [1, 2, 3]}
    found = regions(tmp_path, annotation(polygon(SQUARE)), cut)
    assert found.area.area == 96
    child = annotation(polygon(SQUARE), childObjects=[ignore(hole)])
    assert regions(tmp_path, child).area.area == 96
    alone = regions(tmp_path, cut).area
    assert shapely.intersection(alone, shapely.box(0, 0, 20, 20)).area == 396
    assert regions(tmp_path, annotation(polygon(SQUARE), classification="Ignored")).area.area == 100


def test_regions_beside_the_slide_are_named(tmp_path):
    found = regions(tmp_path, annotation(polygon(SQUARE)), annotation(polygon(FAR)))
    assert found.warnings(100, 100) == []
    (said,) = found.warnings(50, 50)  # the edge alone is no area
    assert "1 of 2 regions do not touch the slide of 50 x 50 pixels (feature 1)" in said
    found = regions(tmp_path, annotation(polygon(SQUARE)), ignore(polygon(SQUARE)))
    assert "all of it is ignored" in found.warnings(100, 100)[0]


@pytest.mark.parametrize("plane", [{"c": -1, "z": 3, "t": 0}, {"z": 0, "t": 1}, {"z": "1"}])
def test_a_region_on_another_plane_is_refused(tmp_path, plane):
    drawn = annotation(polygon(SQUARE, plane=plane))
    with pytest.raises(DataError, match=r"feature 0: the region lies on (focal plane|time point)"):
        regions(tmp_path, drawn)
    if plane.get("z") == 3:
        assert regions(tmp_path, drawn, plane=3).area.area == 100
        here = annotation(polygon(SQUARE, plane={"c": -1, "z": 0, "t": 0}))
        assert regions(tmp_path, here, annotation(polygon(SQUARE))).area.area == 100


def test_objects_belong_to_the_region_with_their_centroid():
    """A triangle's centroid lies at a third, the middle of its box at a half."""
    triangles = [shapely.Polygon([(x, 0), (x + 30, 0), (x, 30)]) for x in (0, 40, 80)]
    objects = Objects.from_polygons(
        triangles, classes=("nucleus",), ids=np.arange(6, dtype=np.uint64).reshape(3, 2),
        class_index=np.zeros(3, np.uint8), score=np.ones(3, np.float32),
    )  # fmt: skip
    everywhere = Foreground(np.ones((10, 20), np.bool_), 10.0, 200, 100, "all")
    roi = shapely.union_all([shapely.box(0, 0, 12, 100), shapely.box(92, 0, 200, 100)])
    kept = ObjectFilter(everywhere, roi).select(objects)
    assert np.array_equal(kept.ids, objects.ids[:1])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("read", [lambda p: read_regions(p).area.area == 100,
                                  lambda p: len(read_geojson(p)) == 1])  # fmt: skip
def test_every_encoding_of_json_is_read(tmp_path, encoding, read):
    path = tmp_path / "a.geojson"
    text = json.dumps(annotation(polygon(SQUARE), name="Präparat"), ensure_ascii=False)
    path.write_bytes(text.encode(encoding))
    assert read(path)
    path.write_bytes(text.encode("cp1252"))
    with pytest.raises(DataError, match="save it as UTF-8"):
        read(path)


@pytest.mark.parametrize("read", [read_regions, read_geojson])
def test_an_archive_without_geojson_is_refused(tmp_path, read):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "x")
    with pytest.raises(DataError, match=r"holds no file \.geojson"):
        read(tmp_path / "a.zip")
