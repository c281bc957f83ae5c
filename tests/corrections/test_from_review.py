"""Labels of the review page become a set: labelled nuclei alone, and nothing wrong is learned."""

import json

import cv2
import numpy as np
import pytest
import shapely
from command_line import complaint, succeed, wsiseg
from families import families
from run_folders import put_objects
from wsiseg_models.kinds.labelled import read_labelled
from wsiseg_models.kinds.network import KINDS
from wsiseg_models.training.coco import Split, read_coco
from wsiseg_models.training.semantic_data import load_set

from wsi_pipeline.core.objects import is_cell
from wsi_pipeline.corrections.from_review import NEAR_UM
from wsi_pipeline.corrections.read import id_text
from wsi_pipeline.formats.convert import read_objects

NAMES = ("NILM", "HSIL", "not a cell", "LSIL")


def labels_of(objects, rows):
    return {id_text(objects.ids[row]): NAMES[k % 4] for k, row in enumerate(rows)}


def write(path, labels, slide="crowded"):
    content = {"schema_version": 1, "slide": slide, "model": "darkness", "labels": labels}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def reviewed(slide_path, run_folder, tmp_path):
    """A set of every tenth nucleus of the run, the labels, and what was printed."""
    objects = read_objects(run_folder)
    labels = labels_of(objects, range(0, len(objects), 10))
    file = write(tmp_path / "labels.json", labels)
    call = ("dataset", "from-review", slide_path, file, "--run", run_folder)
    return tmp_path / "set", labels, succeed(*call, "--out", tmp_path / "set")


def test_every_label_comes_back_with_its_object(reviewed, run_folder):
    out, labels, shown = reviewed
    document = json.loads((out / "annotations.json").read_text("utf-8"))
    parts = [*document["annotations"], *document["not_cells"]]
    assert {a["object_id"]: a["label"] for a in parts} == labels
    assert all(a["label"] == "not a cell" for a in document["not_cells"])
    assert all(a["label"] != "not a cell" for a in document["annotations"])
    assert f"{len(labels)} labelled" in shown
    corner = {i["id"]: (i["slide_x"], i["slide_y"]) for i in document["images"]}
    objects = read_objects(run_folder)
    shapes = {id_text(i): s for i, s in zip(objects.ids, objects.polygons(), strict=True)}
    for a in parts:
        ring = np.reshape(a["segmentation"][0], (-1, 2)) + corner[a["image_id"]]
        true = shapes[a["object_id"]]
        assert shapely.Polygon(ring).symmetric_difference(true).area < 0.02 * true.area


def test_networks_that_draw_outlines_refuse_it(reviewed, tmp_path):
    """Nothing in it is known but these nuclei, so all would become a nucleus."""
    out, labels, _ = reviewed
    for model in ("dssnet", "donet", "retinanet"):
        call = ("train", model, "--data", out, "--out", tmp_path / "t", "--device", "cpu")
        assert "for `wsiseg train nucleus_kinds` alone" in complaint(wsiseg(*call), 2)
    train, held = load_set(str(out), mpp=0.5, split=Split("fold:0/5"))
    nuclei = sum(label != "not a cell" for label in labels.values())
    assert sum(len(s.classes) - 1 for s in (*train, *held)) == nuclei
    assert all((s.labels != 0).all() for s in (*train, *held))  # nothing is background
    assert any((s.labels > 0).any() for s in train)


def test_no_crop_of_training_shows_a_held_out_nucleus(reviewed, run_folder):
    out, labels, shown = reviewed
    found = read_labelled(str(out), Split("fold:0/5"))
    assert len(found.labels) == len(labels)
    assert 0 < found.held.sum() < 0.5 * len(labels)
    assert f"({found.held.sum()} held out)" in shown
    objects = read_objects(run_folder)
    shape_of = {id_text(i): s for i, s in zip(objects.ids, objects.polygons(), strict=True)}
    sides = {False: [], True: []}
    for image in read_coco(out / "annotations.json").images:
        for a in (*image.annotations, *image.not_cells):
            sides[image.held_out].append(shape_of[a.object_id])
    trained, held = (shapely.union_all(sides[k]) for k in (False, True))
    assert shapely.distance(trained, held) * 0.5 > 0.97 * NEAR_UM > 48 / 2**0.5


def test_crops_are_the_labelled_nuclei(reviewed):
    out, labels, _ = reviewed
    found = read_labelled(str(out), Split("none"))
    assert not found.held[0] or found.held.any()
    kinds = {name: tuple(np.array(KINDS)[row]) for name, row in
             zip(found.labels, found.allowed, strict=True)}  # fmt: skip
    assert kinds == {"NILM": ("normal",), "HSIL": ("abnormal",), "LSIL": ("abnormal",),
                     "not a cell": ("leukocyte", "other")}  # fmt: skip
    assert sorted(found.labels) == sorted(labels.values())
    for crop in found.crops:  # the slide's nuclei are dark, and lie in the middle of their crops
        mask = crop[..., 3] > 127
        assert mask[40:56, 40:56].any()
        grey = cv2.cvtColor(np.ascontiguousarray(crop[..., :3]), cv2.COLOR_RGB2GRAY)
        assert grey[mask].mean() < grey[~mask].mean()


def test_the_label_of_a_cell_is_that_of_its_nuclei(slide_path, folder, tmp_path):
    objects = families(5)
    put_objects(folder, objects)
    cell = int(np.unique(objects.parent[objects.parent >= 0])[0])
    nuclei = np.flatnonzero(objects.parent == cell)
    empty = next(k for k in np.flatnonzero(is_cell(objects)) if k not in set(objects.parent))
    labels = {id_text(objects.ids[cell]): "agc", id_text(objects.ids[empty]): "NILM",
              id_text(objects.ids[nuclei[0]]): "NILM"}  # fmt: skip
    call = ("dataset", "from-review", slide_path, write(tmp_path / "l.json", labels), "--run",
            folder, "--out", tmp_path / "set", "--no-held-out")  # fmt: skip
    shown = succeed(*call)
    marks = json.loads((tmp_path / "set" / "annotations.json").read_text())["annotations"]
    wanted = {id_text(objects.ids[k]): "AGC" for k in nuclei} | {list(labels)[2]: "NILM"}
    assert {a["object_id"]: a["label"] for a in marks} == wanted
    assert "1 labels of no nucleus" in shown and "nothing is held out" in shown


def test_what_cannot_be_used_is_refused(slide_path, run_folder, tmp_path):
    file, out = tmp_path / "labels.json", tmp_path / "set"
    own = id_text(read_objects(run_folder).ids[0])
    call = ("dataset", "from-review", slide_path, file, "--run", run_folder, "--out", out)
    assert "cannot be read" in complaint(wsiseg(*call), 2)
    for labels, words in (
        ({own: "CIN 2"}, "unknown label 'CIN 2'; known: NILM"),
        ({}, "0 labels, and none is of a nucleus"),
        ({"8e1b20e7-df80-819a-8d40-d2f6cbdbcc07": "NILM"}, "whose gallery was reviewed"),
        ({"x": "NILM"}, "is no id of an object"),
    ):
        write(file, labels)
        assert words in complaint(wsiseg(*call), 2)
    write(file, {own: "NILM"}, "other")
    assert "of slide 'other'" in complaint(wsiseg(*call), 2)
    write(file, {own: "NILM"})
    assert "--mpp 90" in complaint(wsiseg(*call, "--mpp", 90), 2)
    assert not out.exists()
    succeed(*call)
    assert "holds a set already" in complaint(wsiseg(*call), 1)
