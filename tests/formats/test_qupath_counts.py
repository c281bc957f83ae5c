"""QuPath's own way of counting, and every format with the same objects.

QuPath (ObjectMeasurements.java) measures the outline of a detection without a prefix, those of a
cell as "Cell: " and "Nucleus: ", and several nuclei of a cell as one shape of several parts.
"""

import gzip
import json
from dataclasses import replace

import cheap_models
import numpy as np
import pytest
import shapely
import zarr
from families import families, linked
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.objects import Objects, is_cell
from wsi_pipeline.core.polygons import arranged
from wsi_pipeline.formats.convert import SlideInfo, export, read_objects
from wsi_pipeline.formats.ome_zarr import rasterize
from wsi_pipeline.pipeline import run_slide
from wsi_pipeline.segmentation.cell_features import cell_features

SLIDE = SlideInfo(width=300, height=280, mpp=0.5, file_name="a.svs")
MPP = 0.5


def as_qupath(shape: shapely.Geometry, prefix: str, mpp: float) -> dict[str, float]:
    """Measure a shape as QuPath does."""
    shape = shapely.transform(shape, lambda points: points * mpp)
    hull = shape.convex_hull
    corners = shapely.get_coordinates(hull)
    angles = np.arctan2(*np.diff(corners, axis=0).T[::-1])
    heights = np.outer(np.cos(angles), corners[:, 1]) - np.outer(np.sin(angles), corners[:, 0])
    found = {
        "Area µm^2": shape.area,
        "Length µm": shape.length,
        "Solidity": shape.area / hull.area,
        "Max diameter µm": 2 * shapely.minimum_bounding_radius(shape),
        "Min diameter µm": np.ptp(heights, axis=1).min(),  # lying on each edge of the hull
    }
    if shape.geom_type == "Polygon":
        shell = shapely.Polygon(shape.exterior)
        found["Circularity"] = 4 * np.pi * shell.area / shell.length**2
    return {f"{prefix}{name}": value for name, value in found.items()}


def expected(feature: dict, mpp: float) -> dict[str, float]:
    """All that QuPath measures of a feature."""
    shape = shapely.geometry.shape(feature["geometry"])
    if feature["properties"]["objectType"] != "cell":
        return as_qupath(shape, "", mpp)
    found = as_qupath(shape, "Cell: ", mpp)
    if "nucleusGeometry" in feature:
        nuclei = shapely.geometry.shape(feature["nucleusGeometry"])
        found |= as_qupath(nuclei, "Nucleus: ", mpp)
        found["Nucleus/Cell area ratio"] = min(nuclei.area / shape.area, 1)
    return found


SHAPE = ("Area", "Length", "Solidity", "Circularity", "diameter", "area ratio")


def check_counts(features: list[dict], mpp: float) -> None:
    """Check that each feature has all of QuPath's measurements of its shape, and no others."""
    for feature in features:
        measured = feature["properties"]["measurements"]
        truth = expected(feature, mpp)
        own = {
            name: value
            for name, value in measured.items()
            if any(word in name for word in SHAPE) and not name.startswith("Nucleus ")
        }
        assert own == pytest.approx(truth, rel=2e-5, abs=1e-5)


def crowd(circles) -> Objects:
    """Cells that overlap, with nuclei that overlap each other and the edge, and a lone nucleus."""
    nuclei = [shapely.Point(x, y).buffer(r, quad_segs=4) for x, y, r in circles]
    n = len(nuclei)
    shapes = [shapely.box(20, 20, 160, 160), *nuclei, shapely.box(90, 60, 250, 200)]
    shapes += [shapely.Point(x, y).buffer(9, quad_segs=3) for x, y in ((200, 120), (270, 250))]
    kinds = ["cell", *["nucleus"] * n, "cell", "HSIL", "nucleus"]
    parent = [-1, *[0] * n, -1, n + 1, -1]
    return linked(shapes, kinds, parent)


CIRCLES = st.lists(
    st.tuples(st.integers(30, 110), st.integers(30, 110), st.floats(4, 30)), min_size=1, max_size=4
)


def features_of(path) -> list[dict]:
    return json.loads(path.read_text("utf-8"))["features"]


@settings(max_examples=10)
@given(CIRCLES)
def test_several_nuclei_are_counted_together_as_one_shape(tmp_path_factory, circles):
    path = tmp_path_factory.getbasetemp() / "counts.geojson"
    objects = cell_features(arranged(crowd(circles)), MPP)
    export(objects, path)
    features = features_of(path)
    check_counts(features, MPP)
    measured = features[0]["properties"]["measurements"]
    count = int((objects.parent == 0).sum())
    numbers = {int(m[8]) for m in measured if m.startswith("Nucleus ")}
    assert numbers == (set(range(1, count + 1)) if count > 1 else set())
    back = read_objects(path)
    for name, column in objects.features.items():
        assert np.array_equal(column, back.features[name], equal_nan=True), name


def test_detections_have_names_without_a_prefix(tmp_path):
    path = tmp_path / "a.geojson"
    nuclei = cell_features(crowd([(60, 60, 9)]), MPP)
    nuclei = nuclei.take(~is_cell(nuclei))
    for objects in (nuclei, replace(nuclei, parent=None)):
        for kind, prefix in (("detection", ""), ("tile", ""), ("cell", "Nucleus: ")):
            export(objects, path, slide=SlideInfo(object_type=kind))
            for feature in features_of(path):
                assert f"{prefix}Area µm^2" in feature["properties"]["measurements"]
            assert set(read_objects(path).features) == set(nuclei.features)
    both = {"Nucleus: x": nuclei.score, "x": nuclei.score}
    export(replace(nuclei, parent=None, features=both), path)
    assert {"x", "Nucleus: x"} < set(features_of(path)[0]["properties"]["measurements"])


# --- every format ---


def contents(objects: Objects, folder) -> None:
    """Write `objects` in every format and check that the files hold the same."""
    names = ("a.geojson", "a.geojson.gz", "a.parquet", "a.coco.json", "a.ome.zarr")
    for name in names:
        export(objects, folder / name, slide=SLIDE)
    want = read_objects(folder / "a.parquet")
    shapes = want.polygons()
    for name in names[:2]:
        found = read_objects(folder / name)
        assert np.array_equal(found.ids, want.ids) and np.array_equal(found.parent, want.parent)
        assert np.array_equal(found.class_index, want.class_index)
        assert np.array_equal(found.coords, want.coords)
        assert np.array_equal(found.object_offsets, want.object_offsets)
    text = gzip.decompress((folder / "a.geojson.gz").read_bytes())
    assert text == (folder / "a.geojson").read_bytes()
    document = json.loads((folder / "a.coco.json").read_text("utf-8"))
    kinds = {c["id"]: c["name"] for c in document["categories"]}
    named = [c.replace("cell", "cytoplasm") for c in want.classes]
    cells = np.where(want.parent < 0, np.arange(len(want)), want.parent) + 1
    assert len(document["annotations"]) == len(want)
    for i, annotation in enumerate(document["annotations"]):
        assert kinds[annotation["category_id"]] == named[want.class_index[i]]
        assert annotation["cell_id"] == cells[i]
        assert annotation["area"] == pytest.approx(shapes[i].area, abs=1e-3)
        if not shapes[i].interiors:
            shell = np.reshape(annotation["segmentation"], (-1, 2))
            assert np.array_equal(shell, shapely.get_coordinates(shapes[i])[:-1])
    labels = zarr.open_group(folder / "a.ome.zarr", mode="r")["labels"]
    entries = {}
    for name, mine in (("cells", is_cell(want)), ("nuclei", ~is_cell(want))):
        order = np.argsort(want.score, kind="stable")
        drawn = np.zeros((SLIDE.height, SLIDE.width), np.uint32)
        rasterize(drawn, want, order[mine[order]])
        assert np.array_equal(labels[name]["0"][:], drawn)
        about = labels[name].attrs["ome"]["image-label"]
        assert [c["label-value"] for c in about["colors"]] == (np.flatnonzero(mine) + 1).tolist()
        entries |= {p["label-value"]: p for p in about["properties"]}
    ids = [f"{int(high):016x}{int(low):016x}" for high, low in want.ids]
    assert {k: p["id"].replace("-", "") for k, p in entries.items()} == dict(enumerate(ids, 1))
    for k, entry in entries.items():
        assert entry["class"] == want.classes[want.class_index[k - 1]]
        assert entry.get("cell", 0) == want.parent[k - 1] + 1


def test_all_formats_hold_the_same_objects(tmp_path_factory):
    rng = np.random.default_rng(5)
    for seed in range(2):
        circles = [(*rng.integers(30, 110, 2), rng.uniform(4, 30)) for _ in range(4)]
        objects = crowd(circles) if seed else families(seed)
        bow = shapely.Polygon([(5, 5), (15, 25), (15, 5), (5, 25)])
        shapes = [*objects.polygons()[:-1], bow]  # crosses itself: all formats repair it alike
        broken = Objects.from_polygons(
            shapes, classes=objects.classes, ids=objects.ids, class_index=objects.class_index,
            score=objects.score, parent=objects.parent,
        )  # fmt: skip
        order = rng.permutation(len(broken))
        contents(broken.take(order), tmp_path_factory.mktemp("formats", numbered=True))


# --- a run ---


@pytest.mark.slow
def test_a_run_counts_as_qupath_and_scikit_image_do(slide_path, tmp_path):
    config = RunConfig(model="donet", out=tmp_path / "out", quiet=True)
    with cheap_models.cheap_models():
        result = run_slide(slide_path, config)
    text = gzip.decompress((result.folder / "objects.geojson.gz").read_bytes())
    features = json.loads(text)["features"]
    mpp = result.summary["slide"]["mpp"]["x"]
    assert sum("nucleusGeometry" in f for f in features) > 20
    check_counts(features, mpp)
    measure = pytest.importorskip("skimage.measure")
    rng = np.random.default_rng(0)
    for i in rng.choice(len(features), 20, replace=False):
        measured = features[i]["properties"]["measurements"]
        prefix = "Cell: " if features[i]["properties"]["objectType"] == "cell" else ""
        check_pixels(features[i], {m: measured[f"{prefix}{m}"] for m in PIXELS}, mpp, measure)


PIXELS = ("Area µm^2", "Length µm", "Circularity", "Solidity", "Max diameter µm", "Min diameter µm")
FINE = 0.125
"""Level-0 pixels per pixel that scikit-image measures."""


def check_pixels(feature, measured, mpp, measure) -> None:
    """Compare with measurements of the pixels in a shape."""
    shape = shapely.geometry.shape(feature["geometry"])
    x0, y0, x1, y1 = shape.bounds
    columns, rows = (int(np.ceil(d / FINE)) + 2 for d in (x1 - x0, y1 - y0))
    x, y = np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5)
    mask = shapely.contains_xy(shape, x0 + (x - 1) * FINE, y0 + (y - 1) * FINE)
    (found,) = measure.regionprops(mask.astype(np.uint8))
    step = FINE * mpp
    assert found.area * step**2 == pytest.approx(measured["Area µm^2"], rel=0.01)
    assert found.solidity == pytest.approx(measured["Solidity"], abs=0.01)
    length = measure.perimeter_crofton(mask, directions=4) * step
    assert length == pytest.approx(measured["Length µm"], rel=0.05)
    round_ = 4 * np.pi * found.area * step**2 / length**2
    assert round_ == pytest.approx(measured["Circularity"], rel=0.1)
    # The smallest circle around a shape is at most 2 / sqrt(3) times its longest distance.
    longest = found.feret_diameter_max * step
    assert longest * 0.98 <= measured["Max diameter µm"] <= longest * 1.155 * 1.01
    assert measured["Min diameter µm"] <= found.axis_minor_length * step * 1.2
