"""Laws of `wsiseg reproduce`: rows resume, finished rows stay, broken ones are recorded."""

import json

import pytest
from command_line import complaint, succeed, wsiseg
from drawn_discs import write_discs

from wsi_pipeline.cli.reproduce import train_words
from wsi_pipeline.core.errors import UsageError
from wsi_pipeline.reproduce.recipe import PAPERS
from wsi_pipeline.reproduce.run import ReproduceConfig, reproduce

RECIPE = """
title: tiny
measures: {mIoU: pixels / * / IoU with background, lost: pixels / * / nothing}
data: {discs: {path: discs@0.5, text: drawn discs}, absent: {path: none}}
all:
  model: dssnet
  data: discs
  split: fold:0/4
  published: {mIoU: 84.45, lost: null}
  train:
    {mpp: 0.5, width: 4, depth: 1, sr_head: false, steps: 4, batch: 1, crop_px: 32, workers: 0,
     save_every: 1, amp: false}
stages:
  before: {train: {steps: 2}}
rows:
  first: {title: First, after: before}
  second: {train: {depth: 2}}
"""
BROKEN = """
  broken: {train: {crop_px: 33}}
  nowhere: {data: absent}
  unknown: {model: nonet}
  third: {}
"""


@pytest.fixture
def place(tmp_path):
    """A folder with a recipe and its set."""
    write_discs(tmp_path / "sets" / "discs")
    (tmp_path / "dssnet.yaml").write_text(RECIPE)
    return tmp_path


def config(place, out="out", **more):
    return ReproduceConfig(
        paper="dssnet",
        out=place / out,
        data_root=place / "sets",
        recipes=place,
        device="cpu",
        **more,
    )


def measured(table):
    """What must not depend on when and where a table was made."""
    return [
        {k: row[k] for k in ("name", "status", "measures", "data", "splits", "seed", "steps")}
        for row in table["rows"]
    ]


def refuse(model, words):
    raise AssertionError("a finished row was trained again")


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_table(place):
    whole = reproduce(config(place), train_words)
    assert [row["status"] for row in whole["rows"]] == ["done", "done"]
    assert whole["rows"][0]["steps"] == [2, 4]
    calls = []

    def killed(model, words):
        calls.append(words)
        if len(calls) == 3:  # the stage and the first row are done, the second is cut short
            train_words(model, [*words, "--max-minutes", "0"])
            raise KeyboardInterrupt
        train_words(model, words)

    with pytest.raises(KeyboardInterrupt):
        reproduce(config(place, "killed"), killed)
    left = json.loads((place / "killed" / "table.json").read_text())
    assert [row["status"] for row in left["rows"]] == ["done", "not run"]
    resumed = []

    def count(model, words):
        resumed.append(words)
        train_words(model, words)

    again = reproduce(config(place, "killed"), count)
    assert measured(again) == measured(whole)
    assert len(resumed) == 1
    log = (place / "killed/rows/second/fold-0-of-4/training/log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [1, 2, 3, 4]  # resumed, not begun anew
    before = (place / "killed" / "table.json").read_bytes()
    reproduce(config(place, "killed"), refuse)
    assert (place / "killed" / "table.json").read_bytes() == before
    with pytest.raises(UsageError, match="result of other settings"):
        reproduce(config(place, "killed", seed=1), refuse)


@pytest.mark.slow
def test_a_broken_row_is_recorded_and_the_others_go_on(place):
    (place / "dssnet.yaml").write_text(RECIPE + BROKEN)
    args = (
        "reproduce",
        "dssnet",
        "--recipes",
        place,
        "--data-root",
        place / "sets",
        "--device",
        "cpu",
    )
    ended = wsiseg(*args, "--out", place / "out", "--only", "[!fs]*")
    assert ended.exit_code == 1, ended.output
    rows = {r["name"]: r for r in json.loads((place / "out/table.json").read_text())["rows"]}
    assert rows["broken"]["status"] == "failed" and "crop_px 33" in rows["broken"]["reason"]
    assert rows["third"]["status"] == "done" and rows["third"]["measures"][0]["here"] > 0
    assert rows["nowhere"]["status"] == "not run" and "sets/none" in rows["nowhere"]["reason"]
    assert rows["unknown"]["reason"] == "this version has no model nonet"
    text = (place / "out/table.md").read_text()
    assert (
        "failed: UsageError: crop_px 33" in text
        and "84.45" in text
        and "not run: not asked" in text
    )
    assert (place / "out/table.svg").read_text().count("<circle") == 7  # six published, one of ours


@pytest.mark.slow
def test_folds_are_held_out_in_turn_and_averaged(place):
    table = reproduce(config(place, folds=2, only=("second",)), train_words)
    row = table["rows"][1]
    assert row["splits"] == ["fold:0/2", "fold:1/2"]
    measure = row["measures"][0]
    assert measure["here"] == pytest.approx(sum(measure["each"]) / 2)
    assert "mean of folds 0, 1 of 2" in (place / "out" / "table.md").read_text()


SMALLEST = {
    "dssnet": ("isbi", "two-classes", "speed"),
    "unet": ("none-nuclei", "mobilenet-cytoplasm"),
    "imbmdcr": ("imbmdcr",),
    "donet": ("base", "mrp"),
    "detectors": ("r50", "retinanet", "bethesda"),
}


@pytest.mark.slow
@pytest.mark.parametrize("paper", PAPERS)
def test_the_smallest_form_of_each_paper(paper, tmp_path):
    from wsiseg_models.registry import MODELS

    only = [word for row in SMALLEST[paper] for word in ("--only", row)]
    succeed("reproduce", paper, "--fast", *only, "--out", tmp_path, "--device", "cpu", "--quiet")
    rows = {r["name"]: r for r in json.loads((tmp_path / "table.json").read_text())["rows"]}
    there = paper != "detectors" or "faster_rcnn" in MODELS
    assert {rows[name]["status"] for name in SMALLEST[paper]} == {"done" if there else "not run"}
    assert "not a result" in (tmp_path / "table.md").read_text()


def test_usage_faults(tmp_path):
    assert "exclude each other" in complaint(wsiseg("reproduce", "dssnet", "--small", "--fast"), 2)
    missing = wsiseg("reproduce", "dssnet", "--data-root", tmp_path / "no", "--out", tmp_path / "o")
    assert "is no folder" in complaint(missing, 2)
    shown = succeed("reproduce", "donet", "--list")
    assert "isbi2014/annotations_train45.json@0.4" in shown and "+ DRM + CRM" in shown


def test_what_is_not_here_is_listed_with_the_reason(tmp_path):
    (tmp_path / "sets").mkdir()
    where = ("--out", tmp_path / "o", "--only", "tj-sparse", "--device", "cpu")
    succeed("reproduce", "dssnet", *where)
    row = json.loads((tmp_path / "o/table.json").read_text())["rows"][3]
    assert (row["name"], row["status"]) == ("tj-sparse", "not run")
    assert "--data-root" in row["reason"]
    succeed("reproduce", "dssnet", *where, "--data-root", tmp_path / "sets")
    row = json.loads((tmp_path / "o/table.json").read_text())["rows"][3]
    assert "tongji_sparse does not exist" in row["reason"]
