"""Cells as annotations: corrected in QuPath, they come back with their nuclei, classes and ids."""

import json

import numpy as np
import pytest
import shapely
from families import assert_same, families, linked
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.core.objects import Objects, is_cell
from wsi_pipeline.core.run_layout import PARQUET, RUN_JSON
from wsi_pipeline.formats.convert import SlideInfo, export
from wsi_pipeline.formats.geojson import read_geojson

AS_ANNOTATIONS = SlideInfo(object_type="annotation")


def document_of(path, objects: Objects) -> dict:
    export(objects, path, slide=AS_ANNOTATIONS)
    return json.loads(path.read_text("utf-8"))


def as_qupath_writes(path, document, edit=lambda features: features, seed=0):
    """Write what QuPath keeps of a file: no members of ours, in an order of its own."""
    kept = ("type", "id", "geometry", "properties")
    features = [{m: f[m] for m in kept} for f in document["features"]]
    features = edit(features)
    order = np.random.default_rng(seed).permutation(len(features))
    path.write_text(json.dumps([features[i] for i in order]), encoding="utf-8")
    return path


def by_id(objects: Objects) -> dict[bytes, tuple]:
    """Id → outline, class, score and the id of the cell that holds the object."""
    parent = np.full(len(objects), -1) if objects.parent is None else objects.parent
    return {
        bytes(objects.ids[i]): (
            shapely.transform(shape, lambda places: places + 0.0).wkb,  # −0 is 0
            objects.classes[objects.class_index[i]],
            objects.score[i],
            bytes(objects.ids[parent[i]]) if parent[i] >= 0 else b"",
        )
        for i, shape in enumerate(objects.polygons())
    }


@given(seed=st.integers(0, 2**32))
def test_every_object_is_an_annotation_and_comes_back(tmp_path_factory, seed):
    path = tmp_path_factory.getbasetemp() / "annotations.geojson"
    objects = families(seed)
    features = document_of(path, objects)["features"]
    assert len(features) == len(objects)
    names = [f["properties"].get("name") for f in features]
    for i, feature in enumerate(features):
        properties, cell = feature["properties"], objects.parent[i]
        assert properties["objectType"] == "annotation" and "nucleusGeometry" not in feature
        assert set(properties["measurements"]) == {"Detection probability"}
        if is_cell(objects)[i]:
            assert names.count(names[i]) == 1
        elif cell >= 0:
            assert names[i].startswith(f"{names[cell]}: nucleus")
            assert feature["cell"] == features[cell]["id"]
        else:
            assert names[i] is None
    back = read_geojson(path)
    empty = {name: np.full(len(objects), np.nan, np.float32) for name in objects.features}
    assert_same(back, Objects(**{**vars(objects), "features": empty}))


@given(seed=st.integers(0, 2**32))
def test_names_join_what_qupath_wrote_again(tmp_path_factory, seed):
    folder = tmp_path_factory.getbasetemp()
    objects = families(seed)
    document = document_of(folder / "before.geojson", objects)
    path = as_qupath_writes(folder / "after.geojson", document, seed=seed)
    assert by_id(read_geojson(path)) == by_id(objects)


def squares(*boxes) -> list[shapely.Polygon]:
    return [shapely.box(*b) for b in boxes]


FAMILY = linked(
    squares((0, 0, 40, 40), (5, 5, 10, 10), (30, 5, 35, 10), (60, 0, 99, 40)),
    ["cell", "nucleus", "nucleus", "cell"],
    [-1, 0, 0, -1],
)


def test_a_person_may_cut_delete_move_and_add(tmp_path):
    document = document_of(tmp_path / "a.geojson", FAMILY)

    def feature(number, box, name):
        ring = [list(p) for p in shapely.box(*box).exterior.coords]
        return {
            "type": "Feature", "id": f"00000000-0000-4000-8000-{number:012}",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": "annotation", "name": name, "classification": "nucleus"},
        }  # fmt: skip

    def links(edit) -> list[int]:
        back = read_geojson(as_qupath_writes(tmp_path / "b.geojson", document, edit))
        x = back.bounds()[:, 0].tolist()
        parent = [-1] * len(back) if back.parent is None else back.parent
        return sorted((int(a), int(x[p]) if p >= 0 else -1) for a, p in zip(x, parent, strict=True))

    whole = [(0, -1), (5, 0), (30, 0), (60, -1)]
    assert links(lambda f: f) == whole
    halves = [feature(1, (0, 0, 20, 40), "Cell 1"), feature(2, (20, 0, 40, 40), "Cell 1")]
    assert links(lambda f: halves + f[1:]) == [(0, -1), (5, 0), (20, -1), (30, 20), (60, -1)]
    assert links(lambda f: f[1:]) == [(5, -1), (30, -1), (60, -1)]
    new = feature(3, (70, 5, 75, 10), " cell 4: NUCLEUS 7 ".replace("cell", "Cell"))
    assert links(lambda f: [*f, new]) == [*whole, (70, 60)]
    nested = feature(4, (70, 5, 75, 10), "Cell 1: nucleus: nucleus")
    assert (70, -1) in links(lambda f: [*f, nested]), "a nucleus holds no nucleus"
    two = {"type": "MultiPolygon", "coordinates": [h["geometry"]["coordinates"] for h in halves]}
    two["coordinates"][1][0] = [[x + 1, y] for x, y in two["coordinates"][1][0]]
    parts = {**document["features"][0], "geometry": two}
    kept = {m: parts[m] for m in ("type", "id", "geometry", "properties")}
    assert links(lambda f: [kept, *f[1:]]) == [(0, -1), (5, 0), (21, -1), (30, 21), (60, -1)]


def test_corrected_annotations_are_the_same_training_data(tmp_path):
    """Only the run states the slide then, since QuPath drops that."""
    objects = families(8)
    run = tmp_path / "a" / "donet"
    run.mkdir(parents=True)
    mpp = {"x": 0.5, "y": 0.5}
    stated = {"slide": {"width": 300, "height": 300, "mpp": mpp, "file": "a.png"}}
    export(objects, run / PARQUET, slide=SlideInfo(provenance=stated))
    (run / RUN_JSON).write_text("{}", encoding="utf-8")
    export(run, tmp_path / "before.coco.json")
    export(run, tmp_path / "a.geojson", slide=AS_ANNOTATIONS)
    document = json.loads((tmp_path / "a.geojson").read_text("utf-8"))
    path = as_qupath_writes(tmp_path / "b.geojson", document)
    with pytest.raises(ValueError, match="needs the slide's width and height"):
        export(path, tmp_path / "after.coco.json")
    export(path, tmp_path / "after.coco.json", run=run)

    def content(name):
        found = json.loads((tmp_path / name).read_text("utf-8"))
        ids = {a["id"]: a for a in found["annotations"]}
        kinds = {c["id"]: c["name"] for c in found["categories"]}
        keep = ("segmentation", "bbox", "area", "score")
        rows = [
            [kinds[a["category_id"]], ids[a["cell_id"]]["segmentation"], *(a[m] for m in keep)]
            for a in ids.values()
        ]
        return found["images"], sorted(map(json.dumps, rows))

    assert content("after.coco.json") == content("before.coco.json")
