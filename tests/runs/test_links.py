"""Laws of a run folder's files: a run removes what it wrote by its name, never through a link."""

import json
from dataclasses import asdict, replace

import pytest

from wsi_pipeline.core.errors import OutputError
from wsi_pipeline.core.run_layout import RUN_FILES, remove_parts, remove_run
from wsi_pipeline.runs.lock_owner import LockOwner
from wsi_pipeline.runs.run_folder import RunFolder

PLAN = {"result_version": 1}
DONE = {"objects": 0, "failed_regions": []}
OURS = ["000001.npz", "1234567.npz", "000002.failed.json", "000003.npz.0a1b2c3d.part",
        "000004.failed.json.0a1b2c3d.part"]  # fmt: skip
OTHERS = ["a.npz", "1.npz", "x.failed.json", "y.part", "000001.npz.part", "000001.npz.bak",
          "000001.npz.old.part"]  # fmt: skip


def fill(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("x")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_parts_are_removed_by_their_names_alone(tmp_path):
    fill(tmp_path / "parts", OURS + OTHERS)
    remove_parts(tmp_path)
    assert names(tmp_path / "parts") == sorted(OTHERS)
    for name in OTHERS:
        (tmp_path / "parts" / name).unlink()
    remove_parts(tmp_path)
    assert not (tmp_path / "parts").exists()
    remove_parts(tmp_path)


@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_is_removed_behind_a_link_of_parts(tmp_path, overwrite):
    fill(tmp_path / "other", OURS)
    run = tmp_path / "run"
    run.mkdir()
    (run / "parts").symlink_to(tmp_path / "other", target_is_directory=True)
    with pytest.raises(OutputError, match="parts is a link, and a run removes files there"):
        RunFolder(run, PLAN, overwrite=overwrite)
    remove_run(run)
    remove_parts(run)
    assert names(tmp_path / "other") == sorted(OURS) and names(run) == ["parts"]


def test_overwrite_removes_nothing_behind_a_link_of_the_run_folder(tmp_path):
    fill(tmp_path / "other", RUN_FILES)
    (tmp_path / "run").symlink_to(tmp_path / "other", target_is_directory=True)
    with pytest.raises(OutputError, match="run is a link, and a run removes files there"):
        RunFolder(tmp_path / "run", PLAN, overwrite=True)
    assert names(tmp_path / "other") == sorted(RUN_FILES)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_removes_only_its_own_unfinished_files(tmp_path, overwrite):
    left = [f"{name}.0a1b2c3d.part" for name in RUN_FILES]
    mine = ["objects.parquet.my.part", "notes.part", "objects.parquet.0a1b2c3d.part.txt"]
    fill(tmp_path, left + mine)
    fill(tmp_path / "parts", [n for n in OURS if n.endswith(".part")] + OTHERS)
    with RunFolder(tmp_path, PLAN, overwrite=overwrite) as folder:
        assert not list(folder.regions())  # "a.npz" is no region
        assert names(tmp_path / "parts") == sorted(OTHERS)
    assert names(tmp_path) == sorted([*mine, "parts", "plan.json"])


def test_a_link_among_the_files_of_a_run_is_removed_and_not_its_target(tmp_path):
    fill(tmp_path / "other", ["a.txt"])
    fill(tmp_path / "run", [])
    for name in ("objects.parquet", "plan.json"):
        (tmp_path / "run" / name).symlink_to(tmp_path / "other" / "a.txt")
    remove_run(tmp_path / "run")
    assert names(tmp_path / "run") == [] and names(tmp_path / "other") == ["a.txt"]


@pytest.mark.parametrize("left", ["parts", "lock", "both"])
def test_what_a_kill_after_the_last_file_left_is_removed(tmp_path, left):
    """A kill between run.json and the end of the process; the folder counts as finished."""
    with RunFolder(tmp_path, PLAN) as folder:
        folder.write_json("run.json", DONE)
        folder.discard_parts()
    whole = names(tmp_path)
    if left != "lock":
        fill(tmp_path / "parts", OURS)
    if left != "parts":
        owner = replace(LockOwner.this_process(), process_start=1)
        (tmp_path / "lock.json").write_text(json.dumps(asdict(owner)))
    with RunFolder(tmp_path, PLAN) as folder:
        assert folder.finished == DONE
    assert names(tmp_path) == whole


def test_what_another_run_still_removes_is_left_to_it(tmp_path):
    with RunFolder(tmp_path, PLAN) as first:
        first.write_json("run.json", DONE)
        fill(tmp_path / "parts", OURS)
        before = names(tmp_path)
        with RunFolder(tmp_path, PLAN) as second:
            assert second.finished
        assert names(tmp_path) == before
        assert names(tmp_path / "parts") == sorted(OURS)
