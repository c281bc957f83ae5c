"""Corrections come back as a run folder: the same objects, measured anew, for every report."""

import json

import numpy as np
import pytest
import shapely
from command_line import complaint, succeed, wsiseg
from families import families
from qupath_files import annotation
from run_folders import change_run, put_objects

from wsi_pipeline.core.run_layout import RUN_FILES
from wsi_pipeline.corrections.read import id_text
from wsi_pipeline.formats.convert import SlideInfo, export, read_objects
from wsi_pipeline.reports.gallery import REVIEW_CLASS
from wsi_pipeline.segmentation.measure_again import measure_again


def by_id(objects):
    """Id → outline, class, score and id of the cell that holds the object."""
    parent = np.full(len(objects), -1) if objects.parent is None else objects.parent
    return {
        id_text(objects.ids[i]): (
            shape.wkb,
            objects.classes[objects.class_index[i]],
            objects.score[i],
            id_text(objects.ids[parent[i]]) if parent[i] >= 0 else "",
        )
        for i, shape in enumerate(objects.polygons())
    }


@pytest.fixture
def with_cells(folder):
    """The run folder with cells and their nuclei."""
    objects = families(3)
    put_objects(folder, measure_again(objects, 0.5))
    model = json.loads((folder / "run.json").read_text())["model"]
    change_run(folder, model=model | {"name": "cheap", "classes": list(objects.classes)})
    return folder


@pytest.mark.parametrize("cells", [pytest.param(False, marks=pytest.mark.slow), True])
def test_what_was_not_corrected_comes_back(slide_path, folder, tmp_path, request, cells):
    if cells:
        request.getfixturevalue("with_cells")
    for kind in ("annotation", "detection"):
        file = tmp_path / f"{kind}.geojson"
        export(folder, file, slide=SlideInfo(object_type=kind))
        shown = succeed("import", slide_path, file, "--run", folder, "--out", tmp_path / kind)
        (again,) = (tmp_path / kind / "crowded").iterdir()
        before, after = read_objects(folder), read_objects(again)
        assert by_id(after) == by_id(before) and len(before) > 10
        assert again.name.endswith("-corrected") and str(again) in shown
        assert {path.name for path in again.iterdir()} == {*RUN_FILES}
        area = "Nucleus: Area µm^2"
        order = {id_text(own): i for i, own in enumerate(before.ids)}
        rows = [order[id_text(own)] for own in after.ids]
        expected = before.features[area][rows]
        got = after.features[area]
        assert np.allclose(got[np.isfinite(expected)], expected[np.isfinite(expected)], rtol=0.02)
        told = json.loads((again / "run.json").read_text())
        assert told["corrected"]["file"] == file.name and told["objects"] == len(before)
        assert told["corrected"]["unchanged"] == len(before) and not told["corrected"]["removed"]


@pytest.mark.slow
def test_reports_show_what_was_corrected(slide_path, folder, edit, tmp_path):
    shapes = read_objects(folder).polygons()
    big = int(np.argmax(shapely.area(shapes)))

    def change(features):
        features[big]["geometry"] = json.loads(shapely.to_geojson(shapes[big].buffer(2)))
        del features[big]["properties"]["classification"]
        new = annotation(shapely.Point(500, 400).buffer(9), "HSIL")
        return [*features[1:], new, annotation(shapely.box(0, 0, 900, 700), "Checked")]

    file, out = edit(change), tmp_path / "out"
    call = ("import", slide_path, file, "--run", folder, "--out", out, "--area-class", "Checked")
    succeed(*call)
    assert "holds a run already" in complaint(wsiseg(*call), 1)
    succeed(*call, "--overwrite")
    (again,) = (out / "crowded").iterdir()
    corrected, run = read_objects(again), read_objects(folder)
    assert len(corrected) == len(run)  # one less, one more
    assert corrected.classes == (*run.classes, "HSIL")
    told = json.loads((again / "run.json").read_text())
    assert told["corrected"]["added"] == told["corrected"]["removed"] == 1
    assert told["corrected"]["reshaped"] == 1 and told["model"]["classes"][-1] == "HSIL"
    place = {id_text(own): i for i, own in enumerate(corrected.ids)}
    grown = place[id_text(run.ids[big])] if big else None
    if grown is not None:
        areas = corrected.features["Nucleus: Area µm^2"]
        assert areas[grown] == pytest.approx(shapes[big].buffer(2).area / 4, rel=0.01)
    succeed("features", again)
    succeed("report", again, "--out", tmp_path / "page.html")
    succeed("cohort", tmp_path / "cohort", out)
    succeed("export", again, tmp_path / "again.parquet")
    assert "darkness-corrected" in (tmp_path / "page.html").read_text("utf-8")


def test_what_the_gallery_adds_in_qupath_is_no_object(slide_path, folder, edit, tmp_path):
    def reviewed(features):
        return [*features, annotation(shapely.Point(500, 400).buffer(9), REVIEW_CLASS)]

    succeed("import", slide_path, edit(reviewed), "--run", folder, "--out", tmp_path / "out")
    (again,) = (tmp_path / "out" / "crowded").iterdir()
    assert by_id(read_objects(again)) == by_id(read_objects(folder))


def test_an_import_can_be_corrected_in_its_own_place(slide_path, folder, exported, tmp_path):
    call = ("import", slide_path, exported, "--out", tmp_path / "runs", "--overwrite", "--run")
    succeed(*call, folder)
    again = folder.with_name(f"{folder.name}-corrected")
    before = by_id(read_objects(again))
    succeed(*call, again)
    assert by_id(read_objects(again)) == before
    assert {path.name for path in again.iterdir()} == {*RUN_FILES}


@pytest.mark.parametrize("lost", ["foreground.geojson", "plan.json"])
def test_a_run_that_is_not_whole_stays_as_it_is(slide_path, folder, exported, tmp_path, lost):
    (folder / lost).unlink()
    call = ("import", slide_path, exported, "--run", folder, "--out", tmp_path / "out")
    assert lost in complaint(wsiseg(*call), 2)
    assert not (tmp_path / "out").exists()
