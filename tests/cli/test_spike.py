"""`wsiseg spike`: files, and one line for wrong use."""

import json

import pytest
from command_line import complaint, succeed, wsiseg

pytestmark = pytest.mark.usefixtures("cheap_models")


@pytest.mark.slow
def test_it_writes_its_files_into_the_folder_of_the_run(a, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = succeed("spike", a, "--count", 12, "--model", "cascade")
    folder = tmp_path / "out" / "a" / "cascade" / "spike"
    assert "| all | all |" in shown and "cells found" in shown
    assert {p.name for p in folder.iterdir()} >= {"spike.json", "spike.md", "spike_1.jpg"}
    told = json.loads(succeed("spike", a, "--count", 12, "--out", tmp_path / "s", "--json"))
    assert told == json.loads((tmp_path / "s" / "spike.json").read_text())


def test_wrong_use_is_one_line(a, bare):
    assert "--count" in complaint(wsiseg("spike", a, "--count", 1), 2)
    assert "--mpp" in complaint(wsiseg("spike", bare), 1)
