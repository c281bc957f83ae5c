"""`--quiet` never leaves a command without a result."""

from __future__ import annotations

import click
import pytest
from command_line import complaint, succeed, wsiseg

from wsi_pipeline.cli.main import cli
from wsi_pipeline.segmentation import load_model

pytestmark = pytest.mark.usefixtures("cheap_models")

WRITES = {
    "run", "features", "report", "cohort", "synth", "benchmark", "masks", "reproduce", "gallery",
    "import", "spike",
}  # fmt: skip
"""Commands that write files, so that nothing is lost if they print nothing."""


def test_every_quiet_command_writes_its_result():
    quiet = {
        name
        for name in cli.list_commands(None)
        for param in cli.get_command(None, name).params
        if isinstance(param, click.Option) and param.name == "quiet"
    }
    assert quiet == WRITES | {"evaluate", "population", "view"}  # view has a page


def test_evaluate_is_refused_if_it_would_show_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(load_model, "open_model", None)  # refused before any work
    told = complaint(wsiseg("evaluate", "--data", tmp_path, "--quiet"), 2)
    assert "--out" in told
    assert "--json" in told


def test_population_is_refused_if_it_would_show_nothing(tmp_path):
    assert "--out" in complaint(wsiseg("population", tmp_path, "--quiet"), 2)


@pytest.mark.parametrize("result", ["--out", "--json"])
def test_evaluate_is_quiet_where_its_result_goes_elsewhere(result, tmp_path):
    succeed("synth", tmp_path / "data", "--fields", 2, "--size", 64, "--mpp", "0.5", "--quiet")
    goes = (result, tmp_path / "scores") if result == "--out" else (result,)
    shown = wsiseg("evaluate", "--data", tmp_path / "data", "--device", "cpu", "--quiet", *goes)
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert (tmp_path / "scores" / "results.json").is_file() == (result == "--out")
    assert bool(shown.stdout) == (result == "--json")
