"""Cells with their nuclei: whatever the format, who lies in whom comes back as it went."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import shapely
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.core.errors import ConfigError, DataError, MppError
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.objects import Objects, is_cell
from wsi_pipeline.formats.coco import write_coco
from wsi_pipeline.formats.geojson import GeoJsonWriter, format_features, read_geojson
from wsi_pipeline.formats.geoparquet import ParquetWriter, read_parquet
from wsi_pipeline.formats.ome_zarr import rasterize, write_label_image
from wsi_pipeline.runs.overlay import CELL_OUTLINE, OUTLINE, draw_objects
from wsi_pipeline.segmentation.cell_features import cell_features
from wsi_pipeline.segmentation.morphometry import MORPHOMETRY
from wsi_pipeline.synthetic.make_slide import make_slide
from wsi_pipeline.synthetic.svs_writer import plan_slide, render, truth_cells, truth_objects

WRITERS = {"geojson": GeoJsonWriter, "geojson.gz": GeoJsonWriter, "parquet": ParquetWriter}
READERS = {"geojson": read_geojson, "geojson.gz": read_geojson, "parquet": read_parquet}
CLASSES = ("cell", "nucleus", "HSIL")
FIELDS = ("ids", "class_index", "score", "coords", "ring_offsets", "object_offsets", "parent")


def linked(shapes, kinds, parent, *, score=None, features=None) -> Objects:
    n = len(shapes)
    return Objects.from_polygons(
        shapes,
        classes=CLASSES,
        ids=np.arange(2 * n, dtype=np.uint64).reshape(n, 2) + np.uint64(2**63 + 11),
        class_index=np.array([CLASSES.index(k) for k in kinds], np.uint8),
        score=np.asarray(np.linspace(0.1, 1, n) if score is None else score, np.float32),
        features=features,
        parent=np.asarray(parent, np.int64),
    )


def families(seed: int, n: int = 12) -> Objects:
    """Overlapping cells with 0 to 3 nuclei right after them, and nuclei without a cell."""
    rng = np.random.default_rng(seed)
    shapes, kinds, parent = [], [], []
    for x, y in rng.uniform(0, 200, (n, 2)):
        count = int(rng.integers(0, 4))
        cell = -1
        if rng.random() < 0.8:
            cell = len(shapes)
            shapes.append(shapely.Point(x, y).buffer(rng.uniform(30, 50), quad_segs=5))
            kinds.append("cell")
            parent.append(-1)
        for k in range(count):
            nucleus = shapely.Point(x - 20 + 20 * k, y).buffer(rng.uniform(4, 8), quad_segs=4)
            hole = shapely.Point(x - 20 + 20 * k, y).buffer(2, quad_segs=2)
            shapes.append(nucleus.difference(hole) if rng.random() < 0.2 else nucleus)
            kinds.append(str(rng.choice(["nucleus", "HSIL"])))
            parent.append(cell)
    size = len(shapes)
    inner = np.array([k != "cell" for k in kinds])
    column = rng.lognormal(0, 2, size).astype(np.float32)
    return linked(
        shapes, kinds, parent, score=rng.random(size),
        features={
            "Nucleus: Area µm^2": np.where(inner, column, np.nan).astype(np.float32),
            "Cell: Area µm^2": np.where(inner, np.nan, column).astype(np.float32),
            "contrast": np.where(rng.random(size) < 0.7, column, np.nan).astype(np.float32),
        },
    )  # fmt: skip


def assert_same(a: Objects, b: Objects) -> None:
    assert a.classes == b.classes and list(a.features) == list(b.features)
    for name in FIELDS:
        assert getattr(a, name).dtype == getattr(b, name).dtype, name
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    for name, column in a.features.items():
        assert np.array_equal(column, b.features[name], equal_nan=True), name


def written(path, *parts: Objects) -> bytes:
    with WRITERS[path.name.split(".", 1)[1]](path) as writer:
        for part in parts:
            writer.write(part)
    assert writer.count == sum(map(len, parts))
    return path.read_bytes()


def features_of(path) -> list[dict]:
    def plain(pairs):
        assert len({k for k, _ in pairs}) == len(pairs), "duplicate key"
        assert all(v is not None for _, v in pairs), "null"
        return dict(pairs)

    return json.loads(path.read_text("utf-8"), object_pairs_hook=plain)["features"]


def by_links(objects: Objects) -> dict[bytes, bytes]:
    """Id of each nucleus in a cell → id of its cell."""
    held = np.flatnonzero(objects.parent >= 0)
    owner = objects.parent[held]
    return {
        a.tobytes(): b.tobytes() for a, b in zip(objects.ids[held], objects.ids[owner], strict=True)
    }


# --- there and back ---


@pytest.mark.parametrize("kind", WRITERS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_export_then_import_is_identity(tmp_path_factory, kind, seed):
    path = tmp_path_factory.getbasetemp() / f"families.{kind}"
    one, two = families(seed), families(seed + 1)
    two = replace(two, ids=np.arange(2 * len(two), dtype=np.uint64).reshape(-1, 2))
    written(path, one, two)
    assert_same(READERS[kind](path), Objects.concatenate([one, two]))


@pytest.mark.parametrize("kind", WRITERS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_order_keeps_every_object_and_link_and_comes_to_rest(tmp_path_factory, kind, seed):
    folder = tmp_path_factory.mktemp("rest", numbered=True)
    objects = families(seed)
    mixed = objects.take(np.random.default_rng(seed).permutation(len(objects)))
    first = written(folder / f"a.{kind}", mixed)
    back = READERS[kind](folder / f"a.{kind}")
    assert by_links(back) == by_links(objects)
    assert {i.tobytes() for i in back.ids} == {i.tobytes() for i in objects.ids}
    assert written(folder / f"b.{kind}", back) == first


@pytest.mark.parametrize("kind", WRITERS)
def test_families_are_never_cut_by_the_pieces_they_are_written_in(tmp_path, monkeypatch, kind):
    objects = families(5, n=40)
    whole = written(tmp_path / f"a.{kind}", objects)
    monkeypatch.setattr("wsi_pipeline.formats.object_writer._CHUNK", 3)
    pieces = written(tmp_path / f"b.{kind}", objects)
    assert_same(READERS[kind](tmp_path / f"b.{kind}"), objects)
    if kind == "geojson":
        assert whole.replace(b",\n", b",") == pieces.replace(b",\n", b",")


@pytest.mark.parametrize("kind", WRITERS)
def test_first_parts_may_be_empty_and_later_ones_without_parents(tmp_path, kind):
    objects = families(2)
    empty = Objects.empty(CLASSES, tuple(objects.features))
    alone = replace(objects.take(objects.parent < 0), parent=None)
    path = tmp_path / f"a.{kind}"
    written(path, empty, objects, alone)
    back = READERS[kind](path)
    assert np.array_equal(back.parent, [*objects.parent, *[-1] * len(alone)])
    with pytest.raises(ValueError, match="give all parents"):
        written(path, alone, objects)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_lost_cell_sets_its_nucleus_free(tmp_path, kind, caplog):
    flat = shapely.Polygon([(0, 0), (9, 9), (18, 18)])
    objects = linked([flat, shapely.box(2, 2, 8, 8)], ["cell", "nucleus"], [-1, 0])
    path = tmp_path / f"a.{kind}"
    with WRITERS[kind](path) as writer:
        writer.write(objects)
    back = READERS[kind](path)
    assert back.parent.tolist() == [-1] and back.polygons()[0].area == 36
    assert "dropped 1" in caplog.text


@pytest.mark.parametrize("kind", WRITERS)
def test_a_nucleus_in_a_nucleus_is_an_error(tmp_path, kind):
    squares = [shapely.box(0, 0, s, s) for s in (30, 20, 10)]
    chain = linked(squares, ["cell", "nucleus", "nucleus"], [-1, 0, 1])
    with pytest.raises(DataError, match="only cells"):
        written(tmp_path / f"a.{kind}", chain)
    assert list(tmp_path.iterdir()) == []


# --- QuPath ---


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_cell_is_qupaths_with_valid_nuclei_inside(tmp_path_factory, seed):
    path = tmp_path_factory.getbasetemp() / "cells.geojson"
    objects = families(seed)
    written(path, objects)
    features = features_of(path)
    count = np.bincount(objects.parent[objects.parent >= 0], minlength=len(objects))
    assert len(features) == int((objects.parent < 0).sum())
    for feature, row in zip(features, np.flatnonzero(objects.parent < 0), strict=True):
        properties = feature["properties"]
        cell = objects.classes[objects.class_index[row]] == "cell"
        assert properties["objectType"] == ("cell" if cell else "detection")
        assert ("nucleusGeometry" in feature) == ("nuclei" in feature) == (count[row] > 0)
        assert set(properties) == {"objectType", "classification", "measurements"}
        if count[row]:
            inner = shapely.geometry.shape(feature["nucleusGeometry"])
            assert inner.is_valid
            assert inner.geom_type == ("Polygon" if count[row] == 1 else "MultiPolygon")
            assert len(shapely.get_parts(inner)) == count[row] == len(feature["nuclei"])
        assert all(isinstance(v, float | int) for v in properties["measurements"].values())


def test_measurements_of_cell_and_nuclei_stand_side_by_side(tmp_path):
    values = {
        "Nucleus: Area µm^2": np.array([99, 2, 3], np.float32),
        "Cell: Area µm^2": np.array([1, np.nan, np.nan], np.float32),
        "OD": np.array([4, 5, np.nan], np.float32),
    }
    shapes = [shapely.box(0, 0, 40, 40), shapely.box(5, 5, 9, 9), shapely.box(20, 5, 30, 9)]
    kinds = ["cell", "nucleus", "nucleus"]
    score = [1, 0.5, 0.25]
    objects = linked(shapes, kinds, [-1, 0, 0], score=score, features=values)
    written(tmp_path / "a.geojson", objects)
    (feature,) = features_of(tmp_path / "a.geojson")
    assert feature["properties"]["measurements"] == {
        "Detection probability": 1, "Cell: Area µm^2": 1, "OD": 4,
        "Nucleus: Detection probability": 0.5, "Nucleus: Area µm^2": 2, "Nucleus: OD": 5,
        "Nucleus 2: Detection probability": 0.25, "Nucleus 2: Area µm^2": 3,
    }  # fmt: skip
    back = read_geojson(tmp_path / "a.geojson")
    assert np.isnan(back.features["Nucleus: Area µm^2"][0]), "a cell has no area of a nucleus"
    assert np.array_equal(back.features["OD"], values["OD"], equal_nan=True)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 20), st.floats(2, 9)), min_size=2, max_size=5
    )
)
def test_nuclei_that_overlap_in_a_cell_lose_only_what_they_share(tmp_path_factory, circles):
    path = tmp_path_factory.getbasetemp() / "several.geojson"
    nuclei = [shapely.Point(x, y).buffer(r, quad_segs=4) for x, y, r in circles]
    shapes = [shapely.box(-30, -30, 60, 60), *nuclei]
    kinds = ["cell"] + ["nucleus"] * len(nuclei)
    objects = linked(shapes, kinds, [-1] + [0] * len(nuclei))
    with GeoJsonWriter(path) as writer:
        writer.write(objects)
    shape = shapely.geometry.shape(features_of(path)[0]["nucleusGeometry"])
    whole = shapely.union_all(objects.polygons()[1:])
    assert shape.is_valid
    assert shape.difference(whole.buffer(0.05)).area == 0
    assert np.isclose(shape.area, whole.area, atol=len(nuclei) * (0.05 * whole.length + 6))
    back = read_geojson(path)
    assert set(map(bytes, back.ids)) <= set(map(bytes, objects.ids))
    assert (back.parent[1:] == 0).all() and back.polygons()[1].equals(objects.polygons()[1])


def test_objects_without_cells_are_written_as_ever():
    objects = families(4)
    nuclei = objects.take(objects.class_index > 0)
    plain = format_features(replace(nuclei, parent=None))
    assert format_features(nuclei) == plain
    cells = format_features(objects.take(objects.class_index == 0))
    assert cells.count(b'"cell","classification"') == int((objects.class_index == 0).sum())
    with pytest.raises(ValueError, match="follow its cell"):
        format_features(objects.take(np.arange(len(objects))[::-1]))


def test_cells_of_qupaths_own_are_read_with_their_nuclei(tmp_path):
    def square(x, size):
        ring = [[x, 0], [x + size, 0], [x + size, size], [x, size], [x, 0]]
        return {"type": "Polygon", "coordinates": [ring]}

    def feature(kind, **more):
        measured = {"Nucleus: Area µm^2": 7, "Cell: Area µm^2": 99, "Nucleus/Cell area ratio": 0.1}
        return {
            "type": "Feature", "geometry": square(0, 30), "id": str(cell_id),
            "properties": {"objectType": kind, "classification": "Tumor", "measurements": measured},
            **more,
        }  # fmt: skip

    cell_id = "00000000-0000-4000-8000-000000000001"
    two = {"type": "MultiPolygon", "coordinates": [square(x, 4)["coordinates"] for x in (2, 9)]}
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps([feature("cell", nucleusGeometry=two)]))
    cell = read_geojson(path)
    assert [cell.classes[k] for k in cell.class_index] == ["Tumor", "nucleus", "nucleus"]
    assert cell.parent.tolist() == [-1, 0, 0] and is_cell(cell).tolist() == [True, False, False]
    assert len({bytes(i) for i in cell.ids}) == 3
    assert np.array_equal(cell.ids, read_geojson(path).ids)
    areas = cell.features["Nucleus: Area µm^2"]
    assert np.isnan(areas[[0, 2]]).all() and areas[1] == 7
    assert cell.features["Cell: Area µm^2"][0] == 99
    assert np.float32(0.1) == cell.features["Nucleus/Cell area ratio"][0]
    path.write_text(json.dumps([feature("detection", nucleusGeometry=two)]))
    assert read_geojson(path).parent is None, "QuPath has nuclei in cells only"
    overlapping = {**two, "coordinates": two["coordinates"][:1] * 2}
    path.write_text(json.dumps([feature("cell", nucleusGeometry=overlapping)]))
    with pytest.raises(DataError, match=r"feature 0: .*overlap"):
        read_geojson(path)


# --- GeoParquet, COCO, label images ---


def test_geopandas_joins_nuclei_to_cells_by_their_ids(tmp_path):
    geopandas = pytest.importorskip("geopandas")
    objects = families(7)
    path = tmp_path / "a.parquet"
    written(path, objects)
    frame = geopandas.read_parquet(path)
    held = objects.parent >= 0
    assert frame["parent_id"].isna().to_numpy().tolist() == (~held).tolist()
    joined = frame[held].merge(frame, left_on="parent_id", right_on="id")
    assert joined["id_y"].tolist() == frame["id"].to_numpy()[objects.parent[held]].tolist()


def test_coco_is_what_networks_learn_cells_from(tmp_path):
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from wsiseg_models.training.coco import Split
    from wsiseg_models.training.semantic_data import load_set

    plan = plan_slide(320, 300, mpp=0.5, seed=4, tissue=1.0)
    objects = truth_cells(plan)
    cv2.imwrite(str(tmp_path / "a.png"), render(plan, Box(0, 0, 320, 300))[..., ::-1])
    path = tmp_path / "annotations.json"
    write_coco(path, objects, width=320, height=300, file_name="a.png", mpp=0.5)
    coco = COCO(path)
    assert {c["name"]: k for k, c in coco.cats.items()} == {"nucleus": 1, "cytoplasm": 2}
    areas = sorted(a["area"] for a in coco.anns.values() if a["category_id"] == 2)
    outlines = objects.polygons()[objects.class_index == 0]
    assert areas == pytest.approx(sorted(shapely.area(outlines)), abs=1e-3), "overlaps count whole"
    for annotation in coco.anns.values():
        cell = coco.anns[annotation["cell_id"]]
        assert cell["category_id"] == 2
        inside = coco.annToMask(annotation) & ~coco.annToMask(cell)
        assert inside.sum() <= 0.02 * annotation["area"]
    split = Split("none")
    train, held = load_set(str(tmp_path), mpp=0.5, split=split, categories=("nucleus",))
    (sample,) = [*train, *held]
    assert len(np.unique(sample.labels)) - 1 >= 0.8 * (objects.class_index == 1).sum()


def test_coco_keeps_other_classes_and_gives_lone_nuclei_a_cell_of_their_own(tmp_path):
    objects = families(9)
    write_coco(tmp_path / "a.json", objects, width=300, height=300, file_name="a.svs")
    document = json.loads((tmp_path / "a.json").read_text())
    assert [c["name"] for c in document["categories"]] == ["nucleus", "cytoplasm", "HSIL"]
    found = document["annotations"]
    head = np.where(objects.parent < 0, np.arange(len(objects)), objects.parent)
    assert [a["cell_id"] for a in found] == (head + 1).tolist()
    kinds = [document["categories"][a["category_id"] - 1]["name"] for a in found]
    renamed = {"cell": "cytoplasm"}
    assert kinds == [renamed.get(c, c) for c in np.array(CLASSES)[objects.class_index]]


@pytest.mark.parametrize("chunk", [64, 512])
def test_label_images_part_cells_from_nuclei_and_say_what_they_hide(tmp_path, chunk):
    objects = families(6)
    path = tmp_path / "a.ome.zarr"
    write_label_image(path, objects, width=260, height=250, mpp=0.5, chunk=chunk)
    root = zarr.open_group(path, mode="r")
    assert root.attrs["ome"]["labels"] == ["cells", "nuclei"]
    cells = is_cell(objects)
    for name, mine in (("cells", np.flatnonzero(cells)), ("nuclei", np.flatnonzero(~cells))):
        group = root[name]
        image, about = group["0"][:], group.attrs["wsiseg"]
        expected = np.zeros(image.shape, np.uint32)
        painted = 0
        for i in mine[np.argsort(objects.score[mine], kind="stable")]:
            own = np.zeros(image.shape, np.uint32)
            painted += rasterize(own, objects, np.array([i]))
            expected[own > 0] = i + 1
        seen = set(np.unique(expected)) - {0}
        assert np.array_equal(image, expected), "the higher score is on top"
        assert about["hidden_pixels"] == painted - np.count_nonzero(expected)
        assert about["hidden_objects"] == len(mine) - len(seen)
        assert about["count"] == len(mine)
        assert group.attrs["ome"]["multiscales"][0]["datasets"]
    assert root["cells"].attrs["wsiseg"]["hidden_share"] > 0, "these cells do overlap"


# --- measurements, pictures, synthetic truth ---


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


@settings(max_examples=10, deadline=None)
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


def test_pictures_show_cells_in_their_own_colour_under_nuclei():
    ring = shapely.box(10, 10, 50, 50)
    objects = linked([ring, shapely.box(20, 10, 30, 20)], ["nucleus", "cell"], [-1, -1])
    image = np.zeros((60, 60, 3), np.uint8)
    draw_objects(image, objects, origin=(0, 0), scale=1)
    assert image[20, 25].tolist() == pytest.approx(CELL_OUTLINE, rel=0.15)
    for row in (10, 50):
        assert image[row, 25].tolist() == pytest.approx(OUTLINE, rel=0.15, abs=25), (
            "the nucleus is on top"
        )


def test_truth_of_a_slide_is_one_list_of_cells_and_their_nuclei(plan):
    nuclei, cells = truth_objects(plan)
    both = truth_cells(plan)
    assert np.array_equal(both.ids, np.concatenate([cells.ids, nuclei.ids]))
    assert is_cell(both).tolist() == [True] * len(cells) + [False] * len(nuclei)
    owner = both.polygons()[both.parent[len(cells) :]]
    outside = shapely.area(shapely.difference(nuclei.polygons(), shapely.make_valid(owner)))
    assert (outside <= 0.05 * shapely.area(nuclei.polygons())).mean() > 0.99
    empty = truth_cells(plan_slide(300, 300, tissue=0, style=plan.style, bank=plan.bank))
    assert len(empty) == 0 and len(empty.parent) == 0


@pytest.mark.parametrize("limit", [0.0, 0.25, 0.5])
def test_no_cell_lies_further_over_another_than_was_asked_for(plan, limit):
    crowded = plan_slide(
        900, 800, mpp=0.5, seed=2, tissue=1, style=plan.style, bank=plan.bank, max_overlap=limit
    )
    objects = truth_cells(crowded)
    shapes = shapely.make_valid(objects.polygons()[objects.class_index == 0])
    one, two = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    one, two = one[one < two], two[one < two]
    area = shapely.area(shapes)
    share = shapely.area(shapely.intersection(shapes[one], shapes[two]))
    share /= np.minimum(area[one], area[two])
    assert share.max(initial=0) <= limit + 1e-3
    assert len(shapes) > 50 and (limit == 0 or share.max() > 0.8 * limit)


def test_synth_writes_cells_with_nuclei_and_nuclei_alone(tmp_path):
    size = {"width": 300, "height": 280, "mpp": 0.5, "seed": 1, "tissue": 1.0}
    files = make_slide(tmp_path / "a.svs", **size, max_overlap=0.3, quiet=True)
    assert [f.name for f in files] == ["a.svs", "a.truth.geojson.gz", "a.truth-cells.geojson.gz"]
    nuclei, both = read_geojson(files[1]), read_geojson(files[2])
    assert nuclei.parent is None and nuclei.classes == ("nucleus",)
    assert both.classes == ("cell", "nucleus") and (both.parent >= 0).sum() == len(nuclei)
    own = both.take(both.class_index == 1)
    assert {bytes(i) for i in own.ids} == {bytes(i) for i in nuclei.ids}
    assert shapely.area(own.polygons()).sum() == pytest.approx(
        shapely.area(nuclei.polygons()).sum(), rel=0.01
    )
    with pytest.raises(ConfigError, match="at most 2"):
        make_slide(tmp_path / "b.svs", **size, max_overlap=2, quiet=True)
