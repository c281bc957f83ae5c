"""The scripts of experiments/ start. What they measure takes minutes to hours: run it by hand."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
SCRIPTS = sorted([*EXPERIMENTS.glob("*.py"), EXPERIMENTS / "peers" / "compare.py"])


@pytest.fixture
def only_here():
    """Forget the modules beside a script, which other folders may have under the same names."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(EXPERIMENTS):
            del sys.modules[name]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_an_experiment_shows_its_help(script, monkeypatch, capsys, only_here):
    """In this process: one of its own for each script takes minutes together, all for imports."""
    monkeypatch.syspath_prepend(script.parent)
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert shown.startswith("usage: ")
    named = "results" if script.parent == EXPERIMENTS else "README.md"
    assert named in shown  # the help tells where the result goes
