"""Laws of `wsiseg train nucleus_kinds`: from labels of the review page to a run with them."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import shapely
import torch
from command_line import FAST, complaint, succeed, wsiseg
from safetensors.torch import load_file
from wsiseg_models.checkpoint import read_card, weights_path

from wsi_pipeline.cli.fine_tune import COMPARED
from wsi_pipeline.corrections.read import id_text
from wsi_pipeline.formats.convert import read_objects
from wsi_pipeline.formats.geojson import read_geojson
from wsi_pipeline.reports.gallery import read_gallery

FILE = "nucleus_kinds.safetensors"


def write_set(folder, labels, *, mpp=0.5, held=()):
    """A set with an image for each label, dark discs on white."""
    (folder / "images").mkdir(parents=True)
    images, marks = [], []
    for k, label in enumerate(labels):
        picture = np.full((64, 64, 3), 230, np.uint8)
        cv2.circle(picture, (32, 32), 6 + k % 6, (120, 60, 90), -1)
        cv2.imwrite(str(folder / "images" / f"{k}.png"), picture)
        images.append({"id": k, "file_name": f"images/{k}.png", "held_out": k in held}
                      | ({"mpp": mpp} if mpp else {}))  # fmt: skip
        ring = np.array(shapely.Point(32, 32).buffer(6 + k % 6).exterior.coords)[:-1]
        marks.append({"id": k, "image_id": k, "category_id": 1, "iscrowd": 0,
                      "segmentation": [ring.ravel().tolist()], "label": label})  # fmt: skip
    document = {"categories": [{"id": 1, "name": "nucleus"}], "images": images,
                "annotations": marks}  # fmt: skip
    (folder / "annotations.json").write_text(json.dumps(document))
    return folder


def test_what_cannot_be_learned_is_refused(tmp_path):
    pytest.importorskip("pycocotools")
    call = ("train", "nucleus_kinds", "--out", tmp_path / "out", "--quiet")
    shipped = (*call, "--from", "shipped")
    data = write_set(tmp_path / "good", ["NILM", "HSIL"])
    assert "experiments/nucleus_kinds.py" in complaint(wsiseg(*call, "--data", data), 2)
    assert "no such checkpoint" in complaint(wsiseg(*call, "--from", "no", "--data", data), 2)
    other = (*call, "--from", weights_path("unet"), "--data", data)
    assert "not for kinds" in complaint(wsiseg(*other), 2)
    for name, words, labels, more in (
        ("none", "has no labelled nucleus", ["", ""], {}),
        ("one", "labels of one kind alone to learn from (1 HSIL, 1 LSIL)", ["HSIL", "LSIL"], {}),
        ("odd", "unknown label 'CIN 1'; known: NILM", ["CIN 1", "NILM"], {}),
        ("coarse", "has 1.6 µm per pixel", ["NILM", "HSIL"], {"mpp": 1.6}),
        ("lost", "states no pixel size; give it: ", ["NILM", "HSIL"], {"mpp": None}),
        ("held", "all labels are held out", ["NILM", "HSIL"], {"held": (0, 1)}),
    ):
        told = complaint(wsiseg(*shipped, "--data", write_set(tmp_path / name, labels, **more)), 2)
        assert words in told
    (tmp_path / "empty").mkdir()
    assert "empty: no annotations" in complaint(wsiseg(*shipped, "--data", tmp_path / "empty"), 2)
    assert "known: " in complaint(wsiseg("train", "nucleus_kind", "--out", tmp_path), 2)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_head_alone_changes_and_the_card_tells_from_what(tmp_path):
    pytest.importorskip("pycocotools")
    data = write_set(tmp_path / "data", ["NILM", "HSIL", "not a cell"] * 3, held=(0, 1))
    call = ("train", "nucleus_kinds", "--from", "shipped", "--data", data, "--steps", 3,
            "--replay", 0)  # fmt: skip
    shown = succeed(*call, "--out", tmp_path / "a")
    assert "data" in shown and "1/1/0" in shown and "→" in shown
    succeed(*call, "--out", tmp_path / "b", "--quiet")
    succeed(*call, "--out", tmp_path / "b", "--quiet")  # again: the same
    a, b = (load_file(tmp_path / name / FILE) for name in "ab")
    first = load_file(weights_path("nucleus_kinds"))
    for name, value in first.items():
        assert torch.equal(a[name], b[name])
        assert torch.equal(a[name], value) == (not name.startswith("head"))
    card, old = (read_card(p) for p in (tmp_path / "a" / FILE, weights_path("nucleus_kinds")))
    assert (card.rule, card.options, card.licence) == (old.rule, old.options, old.licence)
    assert set(old.data) < set(card.data) and card.training["prior"] == old.training["prior"]
    assert card.training["tuned from"] == old.sha256 and card.training["steps"] == 3
    assert card.training["labels"] == {"NILM": 3, "HSIL": 3, "not a cell": 3}
    scores = json.loads((tmp_path / "a" / COMPARED).read_text())["sets"][str(data)]
    assert scores["before"]["labels"] == scores["after"]["labels"] == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_a_slide_to_a_run_with_the_trained_network(tmp_path):
    """Run, gallery, labels by truth, set, training, run: as docs/review.md tells it."""
    slide = tmp_path / "s.svs"
    succeed("synth", slide, "--size", 1000, "--seed", 5, "--tissue", 0.9, "--dysplastic", 0.1)
    model = ("--model", "unet", "--out")
    succeed("run", slide, "--kinds", *model, tmp_path / "first", *FAST)
    run = tmp_path / "first" / "s" / "unet"
    succeed("gallery", run, slide, "--count", 100)
    cells = read_gallery(run)["cells"]
    truth = read_geojson(tmp_path / "s.truth.geojson.gz").polygons()
    tree = shapely.STRtree(truth)
    labels = {}
    for cell in cells:
        near = tree.query(shapely.Point(cell["x"], cell["y"]), predicate="intersects")
        large = len(near) and shapely.area(truth[near]).max() * 0.25**2 > 70
        labels[cell["id"]] = "HSIL" if large else "NILM" if len(near) else "not a cell"
    assert {"HSIL", "NILM"} <= set(labels.values())
    (tmp_path / "l.json").write_text(json.dumps({"slide": "s", "labels": labels}))
    data, tuned = tmp_path / "data", tmp_path / "tuned"
    succeed("dataset", "from-review", slide, tmp_path / "l.json", "--run", run, "--out", data)
    shown = succeed("train", "nucleus_kinds", "--from", "shipped", "--data", data, "--replay", 3,
                    "--steps", 60, "--out", tuned)  # fmt: skip
    assert "data" in shown and "replay" in shown
    before, after = json.loads((tuned / COMPARED).read_text())["sets"]["replay"].values()
    assert abs(before["right"] - after["right"]) < 0.05  # what few labels may change elsewhere
    checkpoint = ("--kinds-checkpoint", tuned / FILE)
    succeed("run", slide, *checkpoint, *model, tmp_path / "second", *FAST)
    again = tmp_path / "second" / "s" / "unet"
    plans = [json.loads((folder / "plan.json").read_text())["kinds"] for folder in (run, again)]
    assert plans == [
        read_card(weights_path("nucleus_kinds")).sha256,
        read_card(tuned / FILE).sha256,
    ]
    one, two = read_objects(run), read_objects(again)
    assert [id_text(i) for i in one.ids] == [id_text(i) for i in two.ids]
    name = "Abnormal: probability"
    assert not np.array_equal(one.features[name], two.features[name], equal_nan=True)
    told = complaint(
        wsiseg("run", slide, "--kinds", *model, tmp_path / "second", "--quiet", *FAST), 1
    )
    assert "another kinds" in told
