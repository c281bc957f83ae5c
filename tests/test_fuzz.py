"""A small part of experiments/fuzz: damaged files and command lines give an answer or one line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "experiments" / "fuzz" / "fuzz.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory")
def test_a_few_cases_of_every_kind_end_well(tmp_path):
    """100 cases, most of the time for imports and the seeds; the whole harness has 20 000."""
    table = tmp_path / "fuzz.md"
    command = [sys.executable, str(FUZZ), "--cases", "100", "--seed", "3", "--out", str(table)]
    ended = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, timeout=200)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = re.findall(
        r"^\| (\w+) \| (\d+) \| (\d+) \| (\d+) \| 0 \| 0 \| 0 \|", table.read_text("utf-8"), re.M
    )
    assert {name for name, *_ in rows} == {
        "slides", "zarr", "sheets", "geojson", "coco", "checkpoints", "states", "runs", "parts",
        "commands",
    }  # fmt: skip
    for name, cases, answers, lines in rows:
        assert int(answers) + int(lines) == int(cases), name
    # Cases that are all refused would show that the files were broken before they were changed.
    assert sum(int(answers) for _, _, answers, _ in rows) > 20
