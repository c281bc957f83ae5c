"""Cells with their nuclei: export and import keep the links, in every format."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import shapely
import zarr
from families import CLASSES, assert_same, families, linked
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.core.errors import DataError
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.objects import Objects, is_cell
from wsi_pipeline.formats.coco import write_coco
from wsi_pipeline.formats.geojson import GeoJsonWriter, format_features, read_geojson
from wsi_pipeline.formats.geoparquet import ParquetWriter, read_parquet
from wsi_pipeline.formats.ome_zarr import rasterize, write_label_image
from wsi_pipeline.synthetic.svs_writer import plan_slide, render, truth_cells

WRITERS = {"geojson": GeoJsonWriter, "geojson.gz": GeoJsonWriter, "parquet": ParquetWriter}
READERS = {"geojson": read_geojson, "geojson.gz": read_geojson, "parquet": read_parquet}


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
@given(seed=st.integers(0, 2**32))
def test_export_then_import_is_identity(tmp_path_factory, kind, seed):
    path = tmp_path_factory.getbasetemp() / f"families.{kind}"
    one, two = families(seed), families(seed + 1)
    two = replace(two, ids=np.arange(2 * len(two), dtype=np.uint64).reshape(-1, 2))
    written(path, one, two)
    assert_same(READERS[kind](path), Objects.concatenate([one, two]))


@pytest.mark.parametrize("kind", WRITERS)
@given(seed=st.integers(0, 2**32))
def test_any_order_keeps_objects_and_links_in_stable_bytes(tmp_path_factory, kind, seed):
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
def test_a_nucleus_of_a_dropped_cell_has_no_parent(tmp_path, kind, caplog):
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
        "Detection probability": 1, "Cell: Area µm^2": 1, "OD": 4, "Nucleus: Area µm^2": 5,
        "Nucleus 1: Detection probability": 0.5, "Nucleus 1: Area µm^2": 2, "Nucleus 1: OD": 5,
        "Nucleus 2: Detection probability": 0.25, "Nucleus 2: Area µm^2": 3,
    }  # fmt: skip
    back = read_geojson(tmp_path / "a.geojson")
    assert np.isnan(back.features["Nucleus: Area µm^2"][0]), "a cell has no area of a nucleus"
    assert np.array_equal(back.features["OD"], values["OD"], equal_nan=True)


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 20), st.floats(2, 9)), min_size=2, max_size=5
    )
)
def test_nuclei_that_overlap_in_a_cell_lose_only_the_shared_area(tmp_path_factory, circles):
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


def test_objects_without_links_are_written_as_without_parents():
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
    assert "Nucleus: Area µm^2" not in cell.features, "QuPath measures both nuclei together"
    assert cell.features["Cell: Area µm^2"][0] == 99
    assert np.float32(0.1) == cell.features["Nucleus/Cell area ratio"][0]
    path.write_text(json.dumps([feature("cell", nucleusGeometry=square(2, 4))]))
    assert read_geojson(path).features["Nucleus: Area µm^2"][1] == 7
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
def test_label_images_separate_cells_from_nuclei_and_state_what_they_hide(tmp_path, chunk):
    objects = families(6)
    path = tmp_path / "a.ome.zarr"
    write_label_image(path, objects, width=260, height=250, mpp=0.5, chunk=chunk)
    root = zarr.open_group(path, mode="r")
    root = root["labels"]
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
