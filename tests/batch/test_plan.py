"""Laws of a workflow's plan: settings are those of a run, keys follow files and settings."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, fields, replace
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner
from wsiseg_models.checkpoint import weights_path

from wsi_pipeline.batch import snakemake
from wsi_pipeline.batch.job import DONE, FAILED, write_record
from wsi_pipeline.batch.plan import Plan, read_plan
from wsi_pipeline.cli.main import cli
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import ConfigError, UsageError
from wsi_pipeline.core.request import SlideRequest

FILES = Path(__file__).parents[2] / "workflows"


def plan_of(*names, **settings):
    return read_plan({"workflow": {"slides": [str(name) for name in names]}, **settings})


# --- settings


def test_the_settings_are_those_of_a_run():
    schema = yaml.safe_load((FILES / "schemas" / "config.schema.yaml").read_text())
    shipped = yaml.safe_load((FILES / "config.yaml").read_text())
    own = schema["properties"].pop("workflow")
    defaults = {k: v["default"] for k, v in own["properties"].items()}
    assert shipped.pop("workflow") == defaults
    assert schema["properties"].keys() == {field.name for field in fields(RunConfig)}
    assert RunConfig.from_mapping(shipped) == RunConfig()
    assert not schema["additionalProperties"] and not own["additionalProperties"]


def test_every_setting_reaches_the_command_line():
    other = RunConfig(
        model="donet", checkpoint=Path("c"), device="cpu", precision="float32", mpp=0.3,
        series=1, plane=2, time=3,
        foreground="all", roi=Path("r"), tile_px=256, batch=3, workers=4, scheduler="tcp://x:1",
        read_timeout_s=9.0, threshold=0.4, min_area_um2=7.0, min_score=0.1, min_small_score=0.2,
        min_cell_score=0.3, split=False, kinds=True, kinds_checkpoint=Path("k"), adapt=True,
        crop=False, overwrite=True, quiet=True,
    )  # fmt: skip
    default = asdict(RunConfig())
    assert [k for k, v in asdict(other).items() if v == default[k]] == ["out"]
    plan = Plan({"a": SlideRequest(Path("a.svs"))}, {}, other, {})
    flags = [*plan.result_flags(), *plan.machine_flags()]
    group = click.Context(cli, info_name="wsiseg", **cli.context_settings)
    command = cli.get_command(group, "run").make_context("run", ["a.svs", *flags], parent=group)
    given = {k: v for k, v in command.params.items() if k in default}
    assert RunConfig(**given) == replace(other, overwrite=False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("treshold: 0.4", ["treshold", "known:", "threshold"]),
        ("out: results", ["out", "known:"]),
        ("batch: many", ["many", "integer"]),
        ("threshold: 3", ["threshold", "3", "0.98"]),
        ("workflow: {cores: 4}", ["cores", "unexpected"]),
        ("[1, 2", ["cannot be read", "YAML"]),
        ("model: nope", ["'nope'", "known:", "dssnet"]),
        ("checkpoint: no.safetensors", ["no.safetensors does not exist"]),
        ("workflow: {cohort: no.parquet}", ["cohort", "no.parquet does not exist"]),
        ("workflow: {dates: no.csv}", ["dates", "no.csv does not exist"]),
    ],
)
def test_a_wrong_setting_is_named_before_anything_starts(made, tmp_path, text, words):
    (tmp_path / "c.yaml").write_text(text)
    args = ["workflow", made / "a.svs", tmp_path / "out", "--config", tmp_path / "c.yaml"]
    result = CliRunner().invoke(cli, [str(a) for a in args])
    assert result.exit_code == 2, result.output
    assert [word for word in words if word not in result.stderr] == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("gallery", [False, True])
def test_reports_get_the_slide_while_it_is_there_and_the_cohort(tmp_path, gallery):
    (tmp_path / "a.svs").touch()
    options = {"gallery": gallery, "cohort": "lab.parquet", "extended": not gallery}
    names = [str(tmp_path / name) for name in ("a.svs", "gone.svs")]
    plan = read_plan({"workflow": {"slides": names, **options}})
    assert plan.report_slide("a") == (["--image", names[0]] if gallery else [])
    assert plan.report_slide("gone") == []
    assert plan.report_flags() == ["--cohort", "lab.parquet"]
    assert plan.extended_slide("gone") == ([] if gallery else ["--extended", names[1]])
    assert len(plan.extended_product("a")) == len(plan.extended_slide("a"))


# --- slides


def test_two_slides_of_one_name_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"x/a\.svs and .*y/a\.ndpi are both slide 'a'"):
        plan_of(tmp_path / "x" / "a.svs", tmp_path / "y" / "a.ndpi")
    (tmp_path / "s.csv").write_text("slide,model\na.svs,dssnet\na.svs,donet\n")
    with pytest.raises(UsageError, match="with one model"):
        plan_of(tmp_path / "s.csv")
    with pytest.raises(ConfigError, match="cannot be set here"):
        read_plan({"out": "elsewhere"})


@pytest.mark.parametrize("name", ["{x}", "new\nline", "bad\udcff", "x" * 201, "turn\u202eed"])
def test_a_name_that_can_name_no_files_fails_alone(name, tmp_path):
    other = tmp_path / "{in}" / "a b.svs"
    other.parent.mkdir()
    other.touch()
    plan = plan_of(f"{name}.svs", other)
    assert list(plan.slides) == ["a b"]
    assert plan.inputs("a b") == []  # Snakemake would take its folder for a wildcard
    ((shown, cause),) = plan.refused.items()
    assert shown.isprintable()
    assert "; rename " in cause
    (tmp_path / "workflow").mkdir()
    snakemake._write_plan(tmp_path, [SlideRequest(Path(f"/{name}.svs"))], {})
    again = plan_of(tmp_path / "workflow" / "slides.csv")
    assert again.refused.keys() == {shown}


def test_each_model_has_its_own_files(tmp_path):
    (tmp_path / "s.csv").write_text("slide,model\na.svs,donet\nb.svs,\n")
    plan = plan_of(tmp_path / "s.csv", model="cascade")
    assert [plan.run_folder(name) for name in "ab"] == ["runs/a/donet", "runs/b/cascade"]
    assert [plan.table_name(name) for name in "ab"] == ["a.donet", "b.cascade"]


# --- keys


def test_a_key_follows_files_and_settings_and_nothing_else(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(made / "a.svs", "a.svs")
    (tmp_path / "r.geojson").write_bytes((made / "half.geojson").read_bytes())

    def key(**settings):
        return plan_of("a.svs", **settings).key("a")

    first = key()
    assert key(batch=4, device="cpu", workers=1, quiet=True, scheduler="tcp://x:1") == first
    others = [
        key(threshold=0.4),
        key(model="donet"),
        key(split=False),
        key(kinds=True),
        key(kinds=True, kinds_checkpoint=weights_path("nucleus_kinds")),
        key(adapt=True),
        key(roi="r.geojson"),
    ]
    assert len({first, *others}) == 8
    os.utime("a.svs", ns=(1, 1))  # a clock that was late counts, too
    assert key() not in (first, *others)


def test_a_slide_that_is_done_keeps_its_key_when_it_goes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = plan_of("gone.svs")
    without = plan.key("gone")
    assert plan.inputs("gone") == []
    for status, key in ((DONE, "its key"), (FAILED, without)):
        record = {"schema_version": 1, "status": status, "key": "its key", "run_folder": "runs/x/y"}
        write_record(tmp_path / "status" / "segment" / "gone.json", record)
        assert plan.key("gone") == key
        kept = ("runs/x/y", "gone.y") if status == DONE else ("runs/gone/dssnet", "gone.dssnet")
        assert (plan.run_folder("gone"), plan.table_name("gone")) == kept
    assert json.loads(plan.row("gone"))["slide"] == str(tmp_path / "gone.svs")
