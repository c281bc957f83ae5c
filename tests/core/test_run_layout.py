"""Where runs lie: one folder per slide and model, found from each of its parents."""

import json
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from run_folders import blank_run

from wsi_pipeline.core.errors import DataError
from wsi_pipeline.core.run_layout import find_runs, one_run, read_run, remove_run, run_folder_path
from wsi_pipeline.core.safe_names import NameRefused, folder_name


def make_run(out: Path, slide: str, model: str, *, finished: bool = True) -> Path:
    folder = run_folder_path(out, slide, model)
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text("{}")
    if finished:
        (folder / "run.json").write_text(json.dumps(blank_run(slide)))
    return folder


@pytest.fixture
def out(tmp_path):
    make_run(tmp_path, "b", "dssnet")
    make_run(tmp_path, "a", "dssnet")
    make_run(tmp_path, "a", "donet")
    make_run(tmp_path, "c", "dssnet", finished=False)
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_runs_are_found_from_every_folder_above_them(out):
    a, b = [out / "a/donet", out / "a/dssnet"], [out / "b/dssnet"]
    assert find_runs(out) == [*a, *b]
    assert find_runs(out / "a") == a
    assert find_runs(out / "a/donet") == [out / "a/donet"]
    assert find_runs(out / "c") == []
    assert find_runs(out, unfinished=True) == [*a, *b, out / "c/dssnet"]


def test_one_run_is_the_only_one_or_an_error_that_lists_what_there_is(out):
    for path in (out / "b", out / "b/dssnet"):
        assert one_run(path) == out / "b/dssnet"
    with pytest.raises(DataError, match=r"holds 2 runs: donet, dssnet; give the folder of one"):
        one_run(out / "a")
    with pytest.raises(DataError, match=r"3 runs: a/donet, a/dssnet, b/dssnet; give"):
        one_run(out)
    with pytest.raises(DataError, match=r"c/dssnet has no run\.json.*run the slide again"):
        one_run(out / "c")
    with pytest.raises(DataError, match="holds no run"):
        one_run(out / "empty")
    with pytest.raises(DataError, match="does not exist"):
        one_run(out / "nothing")


def test_read_run_refuses_other_versions_and_damage(out):
    assert read_run(out / "b/dssnet")["slide"]["id"] == "b"
    path = out / "b/dssnet/run.json"
    for text, cause in (
        ('{"slide": {"id": "b"}}', "schema_version None"),
        ('{"schema_version": 99, "slide": {"id": "b"}}', "schema_version 99"),
        ('{"schema_version": 1}', "cannot be used"),
        ('{"slide": {"id": "../b"}}', "path separator"),
        ('{"schema_version": 1, "slide": {"id": "b"}}', "it has no wsiseg"),
        ("{", "cannot be used"),
        ("[]", "cannot be used"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=cause):
            read_run(out / "b/dssnet")
    with pytest.raises(DataError, match="run the slide again"):
        read_run(out / "c/dssnet")


@given(st.text(max_size=80))
@example("")
@example("..")
@example("CON")
@example("con.txt")
@example("a/b")
@example("x" * 300)
@example("\ud800")
def test_every_model_name_becomes_a_folder_name_that_all_systems_take(name):
    folder = folder_name(name)
    assert Path("out", folder).parent == Path("out")
    assert PureWindowsPath("out", folder).name == folder
    assert folder.isascii() and folder.isprintable() and len(folder) < 70
    assert not set(folder) & set('<>:"/\\|?* ') and folder.strip(".") == folder != ""
    assert folder.split(".")[0].upper() not in ("CON", "NUL", "COM1", "LPT9")
    assert folder_name(folder) == folder


def test_names_that_differ_get_folders_that_differ():
    names = ["a b", "a/b", "a_b", "a\\b", "", ".", "..", "con", "CON"]
    assert len({folder_name(n) for n in names}) == len(names)


def test_a_slide_s_name_is_checked(tmp_path):
    with pytest.raises(NameRefused):
        run_folder_path(tmp_path, "..", "dssnet")


def test_a_removal_that_is_interrupted_leaves_no_parts_without_their_plan(out, monkeypatch):
    folder = out / "a/dssnet"
    (folder / "parts").mkdir()
    files = [folder / name for name in ("parts/000001.npz", "parts/000002.failed.json", "mine.txt")]
    for path in files:
        path.touch()
    unlink, order = Path.unlink, []

    def noticed(path, **how):
        order.append(path.name)
        unlink(path, **how)

    monkeypatch.setattr(Path, "unlink", noticed)
    remove_run(folder)
    assert order[-1] == "plan.json" and order.index("000001.npz") < order.index("run.json")
    assert [p.name for p in folder.iterdir()] == ["mine.txt"]
    remove_run(folder)
