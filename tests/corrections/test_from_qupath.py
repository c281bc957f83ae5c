"""Corrected objects become a training set: what was not changed is as the run found it."""

import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import shapely
from command_line import complaint, succeed, wsiseg
from families import families
from qupath_files import annotation
from run_folders import change_run, put_objects
from wsiseg_models.kinds.labelled import read_labelled
from wsiseg_models.training.coco import Split
from wsiseg_models.training.instance_data import load_instance_set
from wsiseg_models.training.semantic_data import load_set

from wsi_pipeline.core.geometry import Box
from wsi_pipeline.corrections import fields
from wsi_pipeline.corrections.read import id_text
from wsi_pipeline.formats.convert import export, read_objects
from wsi_pipeline.slides.slide import open_slide

FIRST, SECOND = shapely.box(100, 100, 460, 420), shapely.box(500, 300, 900, 700)


def learn(slide_path, corrected, run, out, *options):
    args = ("dataset", "from-qupath", slide_path, corrected, "--run", run, "--out", out, *options)
    return succeed(*args)


def document_of(out):
    return json.loads((out / "annotations.json").read_text("utf-8"))


def changes_of(out):
    (slide,) = json.loads((out / "changes.json").read_text("utf-8"))["slides"]
    return slide["changes"]


def level0(document, unknown=False):
    """Id → outline in level-0 pixels of the objects that are learned, from all images."""
    corner = {i["id"]: (i["slide_x"], i["slide_y"]) for i in document["images"]}
    return {
        a["object_id"]: shapely.Polygon(
            np.reshape(a["segmentation"][0], (-1, 2)) + corner[a["image_id"]]
        )
        for a in document["annotations"]
        if a["iscrowd"] == unknown and isinstance(a["segmentation"], list)
    }


def texts(objects, rows):
    return [id_text(objects.ids[i]) for i in np.flatnonzero(rows)]


def test_an_uncorrected_export_is_what_the_run_found(
    slide_path, run_folder, exported, areas, tmp_path
):
    out = tmp_path / "set"
    shown = learn(slide_path, exported, run_folder, out, "--area", areas(FIRST, SECOND))
    run, document = read_objects(run_folder), document_of(out)
    shapes = run.polygons()
    within = shapely.covers(FIRST, shapes) | shapely.covers(SECOND, shapes)
    learned = level0(document)
    assert sorted(learned) == sorted(texts(run, within)) and within.sum() > 20
    for text, shape in zip(texts(run, within), shapes[within], strict=True):
        assert shapely.area(shapely.symmetric_difference(learned[text], shape)) < 0.02 * shape.area
    touching = (shapely.intersects(FIRST, shapes) | shapely.intersects(SECOND, shapes)) & ~within
    assert set(level0(document, unknown=True)) <= set(texts(run, touching))
    assert f"{touching.sum()} that cross the border" in shown
    changes = changes_of(out)
    assert changes["unchanged"] == changes["objects_of_run"] == changes["objects_corrected"]
    assert not any(changes[k] for k in ("added", "removed", "reshaped", "reclassified"))


def test_images_are_pixels_of_the_slide(slide_path, run_folder, exported, areas, tmp_path):
    learn(slide_path, exported, run_folder, tmp_path / "set", "--area", areas(FIRST, SECOND))
    with open_slide(slide_path) as slide:
        for image in document_of(tmp_path / "set")["images"]:
            pixels = cv2.imread(str(tmp_path / "set" / image["file_name"]))[..., ::-1]
            x, y = int(image["slide_x"]), int(image["slide_y"])
            h, w = pixels.shape[:2]
            box = Box(x, y, x + w, y + h)
            assert np.array_equal(pixels, slide.read_region(box))
            assert image["mpp"] == 0.5


def test_nothing_outside_the_areas_is_learned(slide_path, run_folder, edit, areas, tmp_path):
    file = areas(FIRST, SECOND)
    inside = shapely.union_all([FIRST, SECOND])

    def keep(features):
        return [f for f in features
                if shapely.intersects(shapely.geometry.shape(f["geometry"]), inside)]  # fmt: skip

    learn(slide_path, edit(lambda f: None), run_folder, tmp_path / "all", "--area", file)
    learn(slide_path, edit(keep), run_folder, tmp_path / "less", "--area", file)
    assert document_of(tmp_path / "all") == document_of(tmp_path / "less")
    train, held = load_set(str(tmp_path / "all"), mpp=0.5, split=Split("fold:0/5"))
    images = sorted(document_of(tmp_path / "all")["images"], key=lambda i: i["file_name"])
    for sample, image in zip(sorted([*train, *held], key=lambda s: s.name), images, strict=True):
        area = shapely.union_all([shapely.Polygon(np.reshape(p, (-1, 2)))
                                  for p in image["annotated_area"]])  # fmt: skip
        y, x = np.mgrid[: image["height"], : image["width"]] + 0.5
        known = shapely.contains_xy(area.buffer(1), x, y)
        assert (sample.labels[~known] == -1).all()
        assert (sample.labels[known] >= 0).sum() > 0.8 * area.area


def test_some_areas_are_held_out(slide_path, run_folder, exported, areas, tmp_path):
    learn(slide_path, exported, run_folder, tmp_path / "two", "--area", areas(FIRST, SECOND))
    for split, counts in (("fold:0/5", (1, 1)), ("time:0.5", (1, 1)), ("none", (2, 0))):
        train, held = load_set(str(tmp_path / "two"), mpp=0.5, split=Split(split))
        assert (len(train), len(held)) == counts
    shown = learn(slide_path, exported, run_folder, tmp_path / "one", "--area", areas(SECOND))
    assert "1 area, 2 fields (1 held out)" in shown
    first, last = document_of(tmp_path / "one")["images"]
    assert (first["held_out"], last["held_out"]) == (False, True)
    assert last["slide_x"] > first["slide_x"]


def test_a_large_area_has_several_fields(
    slide_path, run_folder, exported, areas, tmp_path, monkeypatch
):
    monkeypatch.setattr(fields, "FIELD_PX", 256)
    monkeypatch.setattr(fields, "OVERLAP_PX", 64)
    whole = shapely.box(0, 0, 1003, 811)
    file = areas(whole, FIRST)  # overlapping areas are one
    learn(slide_path, exported, run_folder, tmp_path / "set", "--area", file, "--no-held-out")
    document = document_of(tmp_path / "set")
    assert all(max(i["width"], i["height"]) <= 256 for i in document["images"])
    covered = shapely.union_all([
        shapely.box(i["slide_x"], i["slide_y"], i["slide_x"] + i["width"],
                    i["slide_y"] + i["height"]) for i in document["images"]
    ])  # fmt: skip
    assert covered.equals(whole) and len(document["images"]) > 15
    run = read_objects(run_folder)
    within = shapely.covers(whole, run.polygons())
    assert set(texts(run, within)) <= {a["object_id"] for a in document["annotations"]}


def test_an_area_without_objects_is_background(slide_path, run_folder, edit, areas, tmp_path):
    file = edit(lambda features: features[:1])
    run = read_objects(run_folder)
    far = shapely.box(0, 0, 1003, 811).difference(run.polygons()[0].buffer(60))
    area = shapely.box(*far.centroid.buffer(120).bounds)
    shown = learn(slide_path, file, run_folder, tmp_path / "set", "--area", areas(area))
    assert "no object: all of it is learned as background" in shown and "removed" in shown
    train, held = load_set(str(tmp_path / "set"), mpp=0.5, split=Split("fold:0/5"))
    assert all((s.labels <= 0).all() and (s.labels == 0).any() for s in (*train, *held))


def test_every_change_is_told(slide_path, run_folder, edit, areas, tmp_path):
    shapes = read_objects(run_folder).polygons()
    rows = np.flatnonzero(shapely.covers(FIRST, shapes) & (shapely.area(shapes) > 60))
    assert len(rows) > 4

    def change(features):
        gone, grown, renamed, copied = (features[i] for i in rows[:4])
        grown["geometry"] = json.loads(shapely.to_geojson(shapes[rows[1]].buffer(3)))
        renamed["properties"]["classification"] = {"name": "HSIL", "color": [9, 9, 9]}
        copied["id"] = "00000000-0000-4000-8000-000000000001"
        new = annotation(shapely.Point(120, 110).buffer(4))
        return [*(f for f in features if f is not gone), new]

    learn(slide_path, edit(change), run_folder, tmp_path / "set", "--area", areas(FIRST))
    run, changes = read_objects(run_folder), changes_of(tmp_path / "set")
    ids = texts(run, np.isin(np.arange(len(run)), rows[:3]))
    assert [one["id"] for one in changes["removed"]] == ids[:1]
    assert [one["id"] for one in changes["reshaped"]] == ids[1:2]
    assert [(one["id"], one["to"]) for one in changes["reclassified"]] == [(ids[2], "HSIL")]
    assert [one["class"] for one in changes["added"]] == ["Unclassified"]
    assert changes["paired_by_outline"] == 1
    kept = {a["object_id"]: a for a in document_of(tmp_path / "set")["annotations"]}
    assert kept[ids[2]]["class"] == "HSIL" and kept[ids[2]]["category_id"] == 1
    assert ids[0] not in kept


@pytest.mark.parametrize("everything", [False, True])
def test_areas_may_stand_in_the_corrected_file(
    slide_path, run_folder, edit, areas, tmp_path, everything
):
    file = areas(FIRST, SECOND)
    ignored = shapely.box(200, 200, 300, 300)

    def add(features):
        marked = [annotation(area, "Checked") for area in (FIRST, SECOND)]
        scanned = annotation(shapely.box(0, 0, 1003, 811), "Foreground")
        return [*features, *marked, annotation(ignored, "Ignore*"), scanned]

    given = ("--area", file) if everything else ("--area-class", "checked")
    learn(slide_path, edit(add), run_folder, tmp_path / "set", *given)
    document = document_of(tmp_path / "set")
    assert max(shape.area for shape in level0(document).values()) < 0.2 * FIRST.area
    assert not any(shapely.intersects(ignored.buffer(-1), s) for s in level0(document).values())
    train, _ = load_set(str(tmp_path / "set"), mpp=0.5, split=Split("none"))
    image = document["images"][0]
    x, y = 250 - int(image["slide_x"]), 250 - int(image["slide_y"])
    assert (train[0].labels[y - 40 : y + 40, x - 40 : x + 40] == -1).all()


def test_cells_keep_their_nuclei(slide_path, folder, areas, tmp_path):
    objects = families(5)
    put_objects(folder, objects)
    export(folder, tmp_path / "cells.geojson")
    area = areas(shapely.box(0, 0, 400, 400))
    learn(slide_path, tmp_path / "cells.geojson", folder, tmp_path / "set", "--area", area,
          "--no-held-out")  # fmt: skip
    (sample,) = load_instance_set(str(tmp_path / "set"), mpp=0.5, split=Split("none")).train
    again = {a["object_id"]: a for a in document_of(tmp_path / "set")["annotations"]}
    within = shapely.covers(shapely.box(0, 0, 400, 400), objects.polygons())
    assert 0 < within.sum() < len(objects)
    for i in np.flatnonzero(within):
        (text,) = texts(objects, np.arange(len(objects)) == i)
        cell = objects.parent[i]
        if cell >= 0 and within[cell]:
            (its_cell,) = texts(objects, np.arange(len(objects)) == cell)
            assert again[text]["cell_id"] == again[its_cell]["cell_id"]
            assert (again[text]["category_id"], again[its_cell]["category_id"]) == (1, 2)
    assert sample.unknown is not None and (sample.labels == 1).any() and (sample.labels == 2).any()


def test_labels_name_objects_and_remove_some(slide_path, run_folder, exported, areas, tmp_path):
    run = read_objects(run_folder)
    first, second = texts(run, shapely.covers(FIRST, run.polygons()))[:2]
    labels = tmp_path / "labels.json"
    content = {"schema_version": 1, "slide": "crowded",
               "labels": {first.upper(): "HSIL", second: "not a cell"}}  # fmt: skip
    labels.write_text(json.dumps(content))
    args = (slide_path, exported, run_folder)
    options = ("--area", areas(FIRST), "--labels", labels)
    learn(*args, tmp_path / "set", *options)
    kept = {a["object_id"]: a for a in document_of(tmp_path / "set")["annotations"]}
    assert kept[first]["label"] == "HSIL" and second not in kept
    (none,) = document_of(tmp_path / "set")["not_cells"]
    assert (none["object_id"], none["label"]) == (second, "not a cell")
    found = read_labelled(str(tmp_path / "set"), Split("none"))
    assert sorted(found.labels) == ["HSIL", "not a cell"]  # the others have no label
    x0, y0, w, h = none["bbox"]
    samples = {s.name: s for half in load_set(str(tmp_path / "set"), mpp=0.5, split=Split("none"))
               for s in half}  # fmt: skip
    image = next(i for i in document_of(tmp_path / "set")["images"] if i["id"] == none["image_id"])
    middle = samples[image["file_name"]].labels[round(y0 + h / 2), round(x0 + w / 2)]
    assert middle == 0  # background for a network that draws outlines
    assert [one["id"] for one in changes_of(tmp_path / "set")["removed"]] == [second]
    labels.write_text(json.dumps({**content, "slide": "other"}))
    call = ("dataset", "from-qupath", slide_path, exported, "--run", run_folder)
    assert "'other'" in complaint(wsiseg(*call, "--out", tmp_path / "no", *options), 2)


def test_a_project_has_a_file_for_each_slide(slide_path, folder, exported, areas, tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    exported.rename(project / "crowded.svs.geojson")
    (tmp_path / "areas").mkdir()
    areas(FIRST, SECOND).rename(tmp_path / "areas" / "crowded.svs.geojson")
    learn(slide_path.parent, project, folder.parent.parent, tmp_path / "set",
          "--area", tmp_path / "areas")  # fmt: skip
    assert len(document_of(tmp_path / "set")["images"]) == 2
    shutil.make_archive(tmp_path / "project", "zip", tmp_path, "project")
    shutil.make_archive(tmp_path / "areas", "zip", tmp_path / "areas")
    learn(slide_path.parent, tmp_path / "project.zip", folder.parent.parent, tmp_path / "zipped",
          "--area", tmp_path / "areas.zip")  # fmt: skip
    assert document_of(tmp_path / "zipped") == document_of(tmp_path / "set")
    (project / "lost.geojson").write_text("{}")
    call = ("dataset", "from-qupath", slide_path.parent, project, "--run", folder.parent.parent)
    told = complaint(wsiseg(*call, "--out", tmp_path / "no", "--area-class", "a"), 2)
    assert "0 slides named 'lost'" in told


def test_what_cannot_be_learned_is_refused(slide_path, folder, exported, areas, tmp_path):
    call = ("dataset", "from-qupath", slide_path, exported, "--run", folder, "--out",
            tmp_path / "set")  # fmt: skip
    assert "--area-class NAME" in complaint(wsiseg(*call), 2)
    assert "no annotation of class 'Area'" in complaint(wsiseg(*call, "--area-class", "Area"), 2)
    beside = areas(shapely.box(5000, 5000, 6000, 6000))
    assert "do they belong to it?" in complaint(wsiseg(*call, "--area", beside), 2)
    area = ("--area", areas(FIRST))
    assert "--mpp 90" in complaint(wsiseg(*call, *area, "--mpp", 90), 2)
    assert not (tmp_path / "set" / "annotations.json").exists()
    wsiseg(*call, *area)
    assert "holds a set already" in complaint(wsiseg(*call, *area), 1)
    objects = read_objects(folder)
    boxes = {"Box: Width µm": np.ones(len(objects), np.float32)}
    put_objects(folder, replace(objects, features=boxes))
    call = (*call[:-1], tmp_path / "boxes")
    assert "boxes of a detector" in complaint(wsiseg(*call, *area), 2)
    change_run(folder, slide=json.loads((folder / "run.json").read_text())["slide"] | {"width": 9})
    put_objects(folder, objects)
    call = (*call[:-1], tmp_path / "more")
    assert "give the slide file of that run" in complaint(wsiseg(*call, *area), 2)
