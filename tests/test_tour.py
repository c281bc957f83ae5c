"""The notebook: its cells run in order, and what is stored in it is small and without errors."""

import json
import re
from pathlib import Path

import cheap_models
import matplotlib
import pytest

NOTEBOOK = Path(__file__).parent.parent / "docs" / "tour.ipynb"
TEXT = NOTEBOOK.read_text(encoding="utf-8")
CODE = [c for c in json.loads(TEXT)["cells"] if c["cell_type"] == "code"]


def test_what_is_stored_is_complete_small_and_of_no_machine():
    assert len(TEXT) < 100_000
    assert [c["execution_count"] for c in CODE] == list(range(1, len(CODE) + 1))
    outputs = [out for cell in CODE for out in cell["outputs"]]
    assert all(cell["outputs"] for cell in CODE)
    assert not any(out["output_type"] == "error" for out in outputs)
    assert any("image/png" in out.get("data", {}) for out in outputs)
    assert not re.search(r"/(home|root|tmp|Users)/", TEXT)


@pytest.mark.slow
def test_the_cells_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    names = {"__name__": "tour"}
    with cheap_models.cheap_models():
        for cell in CODE:
            exec(compile("".join(cell["source"]), str(NOTEBOOK), "exec"), names)
    names["plt"].close("all")
    assert names["match"].tp > 0 and len(names["more"]) == len(names["objects"])
    assert len(list(tmp_path.glob("chosen.*"))) in (0, 3)
