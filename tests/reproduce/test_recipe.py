"""Laws of the recipes that ship."""

from pathlib import Path

import pytest
import yaml
from wsiseg_models.registry import MODELS

from wsi_pipeline.cli import train_options
from wsi_pipeline.cli.reproduce import train_words
from wsi_pipeline.core.errors import DataError, UsageError
from wsi_pipeline.evaluation.pixel_metrics import MEASURES, PUBLISHED
from wsi_pipeline.reproduce.measure import picked
from wsi_pipeline.reproduce.recipe import PAPERS, choose_rows, read_recipe

BUDGETS = ("published", "small", "fast")


def trained(row, recipe):
    """Settings with which a row is trained: without and with weights to start from."""
    given = {k: ["x"] for k, v in (("data", row.data), ("partial_data", row.partial)) if v}
    plain = {**row.train, **given, "out": "out", "split": row.split}
    yield plain
    if row.weights:
        yield {**plain, **row.weights.get("train", {}), "pretrained": "file.pth"}


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("paper", PAPERS)
def test_every_row_has_options_that_training_takes(paper, budget, tmp_path, monkeypatch):
    configs = []
    monkeypatch.setattr(
        train_options, "_start", lambda config, quiet: configs.append(config) or Path("x")
    )
    recipe = read_recipe(paper, budget)
    rows = [r for r in (*recipe.stages.values(), *recipe.rows) if r.model in MODELS and not r.skip]
    for row in rows:
        if row.speed:
            continue
        for number, settings in enumerate(trained(row, recipe)):
            path = tmp_path / f"{row.name}{number}.yaml"
            path.write_text(yaml.safe_dump(settings), encoding="utf-8")
            train_words(row.model, ["--config", str(path), "--device", "cpu", "--quiet"])
            assert configs[-1].builder_options() is not None
    assert len(configs) >= len([r for r in rows if not r.speed])


def test_the_published_figures_are_those_of_the_evaluation():
    rows = {row.name: row for row in read_recipe("unet").rows}
    assert len(rows) == len(PUBLISHED)
    for (encoder, task), values in PUBLISHED.items():
        row = rows[f"{encoder}-{'cytoplasm' if task == 'cell' else 'nuclei'}"]
        assert [row.published[name] for name in MEASURES] == list(values)
        assert row.train.get("encoder", "none") == encoder


def test_the_ablations_of_the_papers_are_there():
    rows = {paper: {row.name: row for row in read_recipe(paper).rows} for paper in PAPERS}
    parts = [
        {k: row.train.get(k, True) for k in ("drm", "crm", "mrp")} for row in rows["donet"].values()
    ]
    assert [sum(p.values()) for p in parts[1:4]] == [1, 2, 3] and rows["donet"][
        "base"
    ].model == "maskrcnn"
    losses = {
        row.train["box_loss"] for name, row in rows["detectors"].items() if name.startswith("loss")
    }
    assert losses == {"l1", "smooth_l1", "iou", "giou", "diou", "ciou"}
    assert {"width-9", "depth-4", "block-basic", "no-heads", "sr-head", "speed"} <= set(
        rows["dssnet"]
    )


def test_the_options_of_a_budget_win_over_those_of_a_row(tmp_path):
    (tmp_path / "dssnet.yaml").write_text(
        """
title: t
measures: {}
data: {a: {path: a}}
all:
  {model: dssnet, data: a, train: {steps: 9, lr: 1.0, width: 30}, fast: {train: {steps: 2, lr: }}}
rows:
  x: {train: {steps: 5, width: 9}, fast: {train: {width: 4}}}
"""
    )
    (plain,) = read_recipe("dssnet", "published", tmp_path).rows
    (fast,) = read_recipe("dssnet", "fast", tmp_path).rows
    assert plain.train == {"steps": 5, "lr": 1.0, "width": 9}
    assert fast.train == {"steps": 2, "width": 4}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("x: {model: dssnet, data: b}", "'b' is not in data"),
        ("x: {model: dssnet, data: a, colour: red}", "unknown colour"),
        ("x: {model: dssnet, data: a, after: z}", "'z' is not in stages"),
        ("x: {model: dssnet, data: a, published: {F1: 1}}", "'F1' is not in measures"),
        ("x: {model: dssnet}", "give model and data"),
        ("x: 3", "no recipe"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_refused(change, told, tmp_path):
    text = f"title: t\nmeasures: {{}}\ndata: {{a: {{path: a}}}}\nrows:\n  {change}\n"
    (tmp_path / "dssnet.yaml").write_text(text)
    with pytest.raises(DataError, match=told):
        read_recipe("dssnet", folder=tmp_path)


def test_rows_are_chosen_by_name_or_pattern():
    recipe = read_recipe("dssnet")
    assert [r.name for r in choose_rows(recipe, ["width-*", "isbi"])][:2] == ["isbi", "width-9"]
    with pytest.raises(UsageError, match="no row 'nope' in dssnet; known: isbi"):
        choose_rows(recipe, ["nope"])
    with pytest.raises(UsageError, match="known papers: dssnet"):
        read_recipe("dssnet", folder=Path("no"))


def test_a_place_in_a_result_gives_one_value():
    result = {
        "pixels": {"cell": {"IoU": 0.5}},
        "scores": {"all": {"AP": None}},
        "parameters M": 1.5,
    }
    assert picked(result, "pixels / * / IoU") == 50
    assert picked(result, "parameters M") == 1.5
    assert picked(result, "scores / all / AP") is picked(result, "overlap / all / IoU") is None
