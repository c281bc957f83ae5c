"""`features`, `report`, `export`, `score` and `cohort`: a run folder, or a folder above it."""

from __future__ import annotations

import shutil

import pytest
from command_line import FAST, complaint, succeed, wsiseg

pytestmark = pytest.mark.usefixtures("cheap_models")


@pytest.fixture(scope="module")
def several(made, tmp_path_factory, cheap_models):
    """Results of two slides, of the first by two models."""
    folder = tmp_path_factory.mktemp("several")
    for name in ("a", "b"):
        shutil.copy(made / "a.svs", folder / f"{name}.svs")
    slides = sorted(folder.glob("*.svs"))
    out = folder / "out"
    succeed("run", *slides, "--out", out, *FAST)
    succeed("run", slides[0], "--model", "donet", "--out", out, "--device", "cpu")
    return out


def command(name, source, folder):
    more = {
        "features": ("--out", folder / "new" / "features"),  # made with the folder above
        "report": ("--out", folder / "page.html"),
        "export": (folder / "objects.geojson",),
        "score": (source,),
    }
    return wsiseg(name, source, *more[name])


@pytest.mark.parametrize("name", ["features", "report", "export", "score"])
def test_the_folder_of_a_slide_with_one_run_is_enough(name, several, tmp_path):
    for source in (several / "b", several / "b" / "dssnet"):
        result = command(name, source, tmp_path)
        assert result.exit_code == 0, result.output


@pytest.mark.parametrize("name", ["export", "score"])
def test_a_folder_with_several_runs_is_refused_with_their_names(name, several, tmp_path):
    told = complaint(command(name, several / "a", tmp_path), 2)
    assert [run for run in ("dssnet", "donet") if run not in told] == []


@pytest.mark.parametrize("name", ["features", "report", "export", "score"])
def test_a_folder_of_many_slides_is_refused_with_its_runs(name, several, tmp_path):
    told = complaint(command(name, several, tmp_path), 2)
    assert [run for run in ("a/dssnet", "a/donet", "b/dssnet") if run not in told] == []


@pytest.mark.parametrize("name", ["features", "report", "export", "score"])
def test_a_folder_without_a_run_is_refused(name, tmp_path):
    assert str(tmp_path) in complaint(command(name, tmp_path, tmp_path), 2)


def test_a_cohort_has_every_run(several, tmp_path):
    assert "2 slides, 3 runs, 0 failed" in succeed("cohort", tmp_path / "new" / "cohort", several)
