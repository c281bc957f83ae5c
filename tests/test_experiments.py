"""The scripts of experiments/ start. What they measure takes minutes to hours: run it by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
SCRIPTS = sorted([*EXPERIMENTS.glob("*.py"), EXPERIMENTS / "peers" / "compare.py"])


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_an_experiment_shows_its_help(script):
    ended = subprocess.run(
        [sys.executable, str(script), "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.startswith("usage: ")
    named = "results" if script.parent == EXPERIMENTS else "README.md"
    assert named in ended.stdout  # the help tells where the result goes
