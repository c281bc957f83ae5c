"""The report card of models on a folder of sets: rules, tables, pictures, command."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import cheap_models
import cv2
import numpy as np
import pytest
from command_line import complaint, succeed, wsiseg
from pycocotools import mask as coco
from wsiseg_models.checkpoint import shipped_models

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import DataError, UsageError
from wsi_pipeline.evaluation.suite import training_notes
from wsi_pipeline.evaluation.suite_fields import measure_model
from wsi_pipeline.evaluation.suite_pictures import worst_fields, write_worst
from wsi_pipeline.evaluation.suite_report import suite_tables, without_nan
from wsi_pipeline.evaluation.suite_sets import SuiteSet, find_sets
from wsi_pipeline.runs.segment_whole import segment_whole
from wsi_pipeline.segmentation.model import Card
from wsi_pipeline.segmentation.nuclei import model_from_function

SIDE, MPP = 200, 0.5
DISCS = [(40, 40, 10), (120, 50, 14), (60, 130, 9), (150, 150, 20)]
"""x, y and radius of the nuclei of a field; none is below 8 µm²."""


# --- sets


def rle(mask):
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {**code, "counts": code["counts"].decode()}


def draw(shapes):
    """A white field with dark nuclei, and their masks."""
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    masks = [np.hypot(x - a, y - b) < r for a, b, r in shapes]
    image = np.full((SIDE, SIDE, 3), 235, np.uint8)
    for number, mask in enumerate(masks):
        image[mask] = 40 + 20 * number
    return image, masks


def write_set(folder, count, *, file="annotations.json", info=None, name="nucleus", shapes=DISCS):
    """A set of the same field `count` times."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    image, masks = draw(shapes)
    document = {
        "info": {"mpp": MPP} if info is None else info,
        "categories": [{"id": 1, "name": name}], "images": [], "annotations": [],
    }  # fmt: skip
    for k in range(count):
        cv2.imwrite(str(folder / "images" / f"{k}.png"), image)
        document["images"].append({"id": k, "file_name": f"images/{k}.png"})
        for mask in masks:
            document["annotations"].append(
                {"id": 1, "image_id": k, "category_id": 1, "segmentation": rle(mask)}
            )
    (folder / file).write_text(json.dumps(document))
    return document


def write_marks(folder, info=None):
    """One field with marks on two of its nuclei and on glass."""
    document = write_set(folder, 1, file="annotations.json")
    (folder / "annotations.json").unlink()
    document["info"] = {"mpp": MPP} if info is None else info
    document["categories"] = [{"id": 1, "name": "NILM"}, {"id": 2, "name": "LSIL"}]
    document["annotations"] = [
        {"id": 1, "image_id": 0, "category_id": 1, "point": [40, 40]},
        {"id": 2, "image_id": 0, "category_id": 2, "bbox": [140, 140, 20, 20]},
        {"id": 3, "image_id": 0, "category_id": 1, "bbox": [0, 180, 20, 20]},
    ]
    (folder / "boxes.json").write_text(json.dumps(document))


@pytest.fixture
def sets(tmp_path):
    """A folder with a traced set of five fields, a marked set, and three that are left out."""
    folder = tmp_path / "sets"
    write_set(folder / "traced", 5)
    write_marks(folder / "marked")
    write_set(folder / "bare", 1, name="cytoplasm", info={})
    write_set(folder / "other", 1, name="vessel")
    (folder / "slides").mkdir()
    return folder


def test_which_sets_and_images_are_measured(sets):
    found, left_out = find_sets(sets, "fold:1/5")
    assert [(s.name, [f.name for f in s.fields], s.kept_back) for s in found] == [
        ("marked", ["images/0.png"], True),
        ("traced", ["images/1.png"], False),
    ]
    assert {one.name: one.reason for one in left_out} == {
        "bare": "states no mpp and has no nuclei to estimate it from",
        "other": "has neither nuclei nor cells, but vessel",
        "slides": "has no annotations*.json and no boxes.json",
    }
    everything, _ = find_sets(sets, "all")
    assert [len(s.fields) for s in everything] == [1, 5]
    assert everything[0].fields[0].points.tolist() == [[40, 40], [150, 150], [10, 190]]


def test_crops_and_missing_images_are_left_out(sets):
    small, _ = draw([(20, 20, 9)])
    for path in (sets / "traced/images").iterdir():
        cv2.imwrite(str(path), small[:40, :40])
    for path in (sets / "marked/images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"crops of single cells \(40 px\).*see docs"):
        find_sets(sets, "all")
    with pytest.raises(DataError, match="marked has no images"):
        find_sets(sets, "all")


def test_folders_that_cannot_be_used(sets, tmp_path):
    with pytest.raises(DataError, match="nowhere is no folder"):
        find_sets(tmp_path / "nowhere", "all")
    with pytest.raises(DataError, match="it has no folders"):
        find_sets(sets / "slides", "all")
    for split in ("none", "odd:1"):
        with pytest.raises(UsageError, match=f"unknown split '{split}'"):
            find_sets(sets, split)
    (sets / "traced/images/0.png").write_text("x")
    with pytest.raises(DataError, match=r"0\.png: not an image"):
        find_sets(sets, "all")
    write_marks(sets / "marked")
    boxes = json.loads((sets / "marked/boxes.json").read_text())
    del boxes["annotations"][0]["point"]
    (sets / "marked/boxes.json").write_text(json.dumps(boxes))
    with pytest.raises(DataError, match="annotation 1 cannot be read"):
        find_sets(sets, "all")


def test_the_sets_at_hand(shared):
    found, left_out = find_sets(shared, "fold:0/5")
    counts = {s.name: (len(s.fields), s.images, s.kept_back) for s in found}
    assert counts["bttfa_lbc"] == (10, 47, False)
    assert counts["cric_fields"] == (5, 5, True)
    assert counts["isbi2014/train45"] == (9, 45, False)
    assert counts["isbi2014/edf_tiles_nuclei"] == (4, 4, True)
    assert counts["isbi2014/edf"] == (15, 15, True)
    assert {one.name for one in left_out} >= {"herlev40", "dic_hela", "cx22_labels", "slides"}
    by_name = {s.name: s for s in found}
    assert sum(len(f.nuclei) for f in by_name["isbi2014/edf_tiles_nuclei"].fields) == 23
    assert {f.mpp for f in by_name["cric_fields"].fields} == {0.228}


# --- whole suites


def perfect(image):
    """Each grey level below white is a nucleus."""
    return np.where(image[..., 0] < 200, image[..., 0], 0).astype(np.int32)


def test_a_perfect_model_on_a_folder(sets, tmp_path):
    model = model_from_function(perfect, name="perfect", mpp=MPP)
    found, _ = find_sets(sets, "all")
    config = RunConfig(foreground="all", quiet=True)
    scores, drawn = measure_model(model, found, config, segment_whole, quiet=True)
    nuclei = scores["traced"]["nuclei"]
    assert (nuclei["true"], nuclei["drawn"], nuclei["F1"], nuclei["AP50"]) == (20, 20, 1, 1)
    assert nuclei["PQ"] > 0.94
    assert abs(nuclei["area bias"]) < 0.03
    assert "cells" not in scores["traced"]
    marks = scores["marked"]["marks"]
    assert (marks["found"], marks["marks"], marks["recall"]) == (2, 3, pytest.approx(2 / 3))
    assert marks["median area LSIL"] == pytest.approx(math.pi * 20**2 * MPP**2, rel=0.03)
    worst = worst_fields(drawn, 3)
    assert worst[0][0] == "marked"
    names = write_worst(tmp_path / "worst", "perfect", worst)
    assert names[0] == "perfect-01-marked-0.jpg"
    picture = cv2.imread(str(tmp_path / "worst" / names[0]))
    assert picture.shape[1] >= 1024


def test_objects_are_those_of_a_run(slide_path, darkness, tmp_path):
    """`segment_whole` is the same work without files."""
    from wsi_pipeline.formats.convert import read_objects
    from wsi_pipeline.pipeline import run_slide
    from wsi_pipeline.slides.slide import open_slide

    config = RunConfig(out=tmp_path, quiet=True)
    run = read_objects(run_slide(slide_path, config, model=darkness).folder)
    with open_slide(slide_path) as slide:
        mine = segment_whole(slide, darkness, config)
    assert len(mine) > 50
    assert sorted(map(tuple, mine.ids.tolist())) == sorted(map(tuple, run.ids.tolist()))


def suite_of(value, version="0.1.0"):
    return {
        "version": version, "sets": [{"name": "a"}], "left_out": [],
        "settings": {"split": "all", "threshold": 0.5, "min_score": 0.5, "min_small_score": 0.5},
        "models": [{"name": "m", "sets": {"a": {"nuclei": {"images": 3, "F1": value}}}}],
    }  # fmt: skip


def test_an_earlier_suite_stands_beside_the_new_one():
    ((title, rows),) = suite_tables(suite_of(0.9), suite_of(0.8))
    assert title.startswith("Nuclei")
    assert rows == [["set", "model", "images", "F1"], ["a", "m", "3", "0.800 → 0.900"]]
    assert suite_tables(suite_of(0.9))[0][1][1][3] == "0.900"
    assert without_nan({"a": [math.nan, 1.0], "b": "x"}) == {"a": [None, 1.0], "b": "x"}


@pytest.fixture
def cheap():
    with cheap_models.cheap_models():
        yield


def test_the_command(sets, tmp_path, cheap):
    out, later = tmp_path / "out", tmp_path / "later"
    args = ("evaluate", "--suite", sets, "--device", "cpu", "--split", "fold:0/5")
    shown = succeed(*args, "--model", "all", "--out", out)
    assert "Nuclei, against traced outlines" in shown
    assert "Whole cells" in shown
    suite = json.loads((out / "suite.json").read_text())
    assert suite["schema_version"] == 1
    assert [m["name"] for m in suite["models"]] == shipped_models()
    assert str(tmp_path) not in (out / "suite.json").read_text()
    (one,) = (m for m in suite["models"] if m["name"] == "dssnet")
    assert one["sets"]["traced"]["nuclei"]["true"] == 4
    assert one["sets"]["marked"]["marks"]["recall"] == pytest.approx(2 / 3)
    assert {path.name for path in (out / "worst").iterdir()} >= set(one["worst"]) > set()
    assert "slides: has no annotations*.json" in (out / "suite.md").read_text(encoding="utf-8")
    told = wsiseg(*args, "--before", out / "suite.json", "--out", later, "--min-score", 0.9)
    assert "→" in told.stdout
    assert "Values are earlier → now" in (later / "suite.md").read_text(encoding="utf-8")
    silent = wsiseg(*args, "--json", "--quiet")
    assert silent.stderr == ""
    assert json.loads(silent.stdout)["models"][0]["name"] == "dssnet"


def test_parts_of_cells_have_a_table(tmp_path, cheap):
    """The first two cells overlap; the third is alone."""
    overlapping = [(60, 60, 30), (90, 60, 30), (150, 150, 25)]
    write_set(tmp_path / "sets/cells", 2, name="cytoplasm", shapes=overlapping)
    args = ("evaluate", "--suite", tmp_path / "sets", "--device", "cpu", "--split", "all")
    shown = succeed(*args, "--model", "cascade", "--out", tmp_path / "out")
    suite = json.loads((tmp_path / "out/suite.json").read_text())
    groups = suite["models"][0]["sets"]["cells"]["overlap"]
    assert {name: one["true"] for name, one in groups.items()} == {
        "all": 6, "none": 2, "light": 0, "medium": 4, "heavy": 0,
    }  # fmt: skip
    title = "Visible and overlapped parts of whole cells"
    document = (tmp_path / "out/suite.md").read_text(encoding="utf-8")
    assert f"## {title}" in document
    assert title in shown
    (_, rows) = next(one for one in suite_tables(suite) if one[0] == title)
    assert [line[:4] for line in rows] == [
        ["set", "model", "group", "true"],
        *(["cells", "cascade", name, count] for name, count in
          (("all", "6"), ("none", "2"), ("medium", "4"))),
    ]  # fmt: skip
    (_, rows) = next(one for one in suite_tables(suite, suite) if one[0] == title)
    assert all("→" in line[4] for line in rows[1:])


def test_what_the_command_refuses(sets, tmp_path, cheap):
    suite = ("evaluate", "--suite", sets, "--device", "cpu")
    for args, said in (
        (("evaluate",), "--data DIR"),
        ((*suite, "--data", sets), "either --data"),
        ((*suite, "--cut", 0.5), "--cut is for --data"),
        (("evaluate", "--data", sets, "--threshold", 0.4), "--threshold is for --suite"),
        (("evaluate", "--data", sets, "--model", "dssnet", "--model", "donet"), "one model"),
        ((*suite, "--model", "none"), "unknown model 'none'"),
        ((*suite, "--min-score", 2), "min_score must be 0 to 1"),
        (("evaluate", "--suite", tmp_path / "nowhere"), "is no folder"),
        ((*suite, "--before", sets / "marked/boxes.json"), "is no suite of schema 1"),
        ((*suite, "--before", tmp_path / "x.json"), "cannot be read"),
        ((*suite, "--quiet"), "add --out"),
    ):
        assert said in complaint(wsiseg(*args), 2), args


def test_checkpoints_beside_models_have_names_of_their_own(sets, cheap):
    from wsiseg_models.checkpoint import weights_path

    args = ("evaluate", "--suite", sets, "--device", "cpu", "--json")
    weights = weights_path("dssnet")
    alone = json.loads(succeed(*args, "--checkpoint", weights))
    assert [m["name"] for m in alone["models"]] == ["dssnet"]
    both = json.loads(succeed(*args, "--model", "dssnet", "--checkpoint", weights))
    assert [m["name"] for m in both["models"]] == ["dssnet", "weights/dssnet"]
    assert both["models"][0]["sets"] == both["models"][1]["sets"]


def test_a_card_tells_what_makes_scores_too_good(sets, cheap):
    shown = succeed("evaluate", "--suite", sets, "--device", "cpu", "--json", "--split", "all")
    (model,) = json.loads(shown)["models"]
    assert "was trained with split fold:0/5" in model["notes"][0]


@pytest.mark.parametrize(
    ("specs", "seen"),
    [
        (["annotations_train45.json", "bttfa_lbc=2.5"], []),
        (["sets/isbi2014@0.3=2"], ["isbi2014/edf_tiles_nuclei"]),
        (["isbi2014/annotations_train45.json", "cric_fields=0.5"], ["cric_fields"]),
    ],
)
def test_a_kept_back_set_that_was_trained_on_is_named(specs, seen):
    sets = [
        SuiteSet(name, (), 1, kept_back, False, "")
        for name, kept_back in (
            ("bttfa_lbc", False), ("cric_fields", True), ("isbi2014/edf_tiles_nuclei", True),
        )
    ]  # fmt: skip
    card = Card(
        name="m", task="nuclei", classes=("nucleus",), mpp=0.5, halo_px=0,
        training={"data": specs, "split": "fold:0/5"},
    )  # fmt: skip
    notes = training_notes("m", card, sets, "fold:0/5")
    without = {"data": ["x"], "split": "fold:0/5", "distillation": {"unlabelled": specs}}
    student = replace(card, training=without)
    assert training_notes("m", student, sets, "fold:0/5") == notes
    assert [n for name in seen for n in notes if name in n] == notes
    assert len(notes) == len(seen)


def test_no_objects_are_no_error(sets):
    model = model_from_function(lambda image: np.zeros(image.shape[:2], int), name="none", mpp=MPP)
    found, _ = find_sets(sets, "all")
    scores, _ = measure_model(model, found, RunConfig(quiet=True), segment_whole, quiet=True)
    assert scores["traced"]["nuclei"]["drawn"] == 0
    assert scores["marked"]["marks"]["recall"] == 0
