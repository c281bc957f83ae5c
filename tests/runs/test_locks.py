"""Laws of the lock of a run folder: one run at a time, and none that ended keeps it."""

import json
import os
import threading
import time
from dataclasses import asdict, replace

import pytest
from faults import at_region, ended_process, leave_lock
from test_pipeline import objects_of, run, same

from wsi_pipeline.core.errors import OutputError
from wsi_pipeline.core.run_layout import LOCK_JSON as LOCK
from wsi_pipeline.core.run_layout import RUN_FILES
from wsi_pipeline.runs import lock
from wsi_pipeline.runs.lock import RunLock
from wsi_pipeline.runs.lock_owner import LockOwner

pytestmark = pytest.mark.usefixtures("small_regions")

FAST_LOCKS = [(-9999, ""), (0, None), (9999, "{")]
"""Each clock and each text once; the other pairs are slow, since a silent lock takes a second."""


def test_of_two_runs_at_once_one_does_it_and_the_other_says_who(
    slide_path, darkness, undisturbed, tmp_path, monkeypatch
):
    reached, go_on = threading.Event(), threading.Event()
    at_region(monkeypatch, 5, lambda _: (reached.set(), go_on.wait(60)))
    done = []
    first = threading.Thread(target=lambda: done.append(run(slide_path, tmp_path, darkness)))
    first.start()
    assert reached.wait(60)
    for more in ({}, {"overwrite": True}):
        with pytest.raises(OutputError) as refused:
            run(slide_path, tmp_path, darkness, **more)
        assert f"pid {os.getpid()} on " in str(refused.value)
        assert "give another --out" in str(refused.value)
    go_on.set()
    first.join()
    assert same(objects_of(done[0]), undisturbed)
    assert {p.name for p in done[0].folder.iterdir()} == set(RUN_FILES)
    leave_lock(done[0].folder)  # a finished folder is read, whoever has locked it
    assert run(slide_path, tmp_path, darkness).objects == len(undisturbed)


@pytest.mark.parametrize("owner", ["ended", "pid used again"])
def test_the_lock_of_an_ended_process_is_taken_over_at_once(
    slide_path, darkness, undisturbed, tmp_path, owner
):
    here = LockOwner.this_process()
    gone = {"pid": ended_process()} if owner == "ended" else {"process_start": 1}
    leave_lock(tmp_path / "crowded/darkness", **{"machine": here.machine, **gone})
    began = time.monotonic()
    assert same(objects_of(run(slide_path, tmp_path, darkness)), undisturbed)
    assert time.monotonic() - began < lock.CONFIRM_S
    assert not list((tmp_path / "crowded/darkness").glob("lock*"))


@pytest.mark.parametrize(
    ("hours", "text"),
    [
        pytest.param(hours, text, marks=() if (hours, text) in FAST_LOCKS else pytest.mark.slow)
        for hours in (-9999, 0, 9999)  # the clock of the drive is so far off
        for text in (None, "", "{")
    ],
)
def test_the_lock_of_another_machine_is_taken_over_when_it_falls_silent(
    quick_lock, tmp_path, hours, text
):
    path = leave_lock(tmp_path)
    if text is not None:  # the machine lost power while it wrote
        path.write_text(text)
    os.utime(path, (time.time() + 3600 * hours,) * 2)
    began = time.monotonic()
    mine = RunLock(tmp_path)
    assert time.monotonic() - began >= (lock.CONFIRM_S if hours < 0 else lock.SILENT_S)
    mine.check()
    mine.release()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("hours", [-9999, 0, 9999])
def test_the_lock_of_a_run_elsewhere_that_goes_on_is_left_to_it(quick_lock, tmp_path, hours):
    path = leave_lock(tmp_path)
    before = path.read_text()
    ended = threading.Event()

    def beat():
        for n in range(10_000):
            os.utime(path, (time.time() + 3600 * hours + n,) * 2)
            if ended.wait(lock.RENEW_S):
                return

    other = threading.Thread(target=beat)
    other.start()
    with pytest.raises(OutputError, match=r"is being written by pid \d+ on other since 20"):
        RunLock(tmp_path)
    ended.set()
    other.join()
    assert path.read_text() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_of_many_who_take_over_one_gets_it(tmp_path):
    pid, machine = ended_process(), LockOwner.this_process().machine
    for turn in range(15):
        folder = tmp_path / str(turn)
        leave_lock(folder, machine=machine, pid=pid)
        start, got, refused = threading.Barrier(8), [], []

        def take(folder=folder, start=start, got=got, refused=refused):
            start.wait()
            try:
                got.append(RunLock(folder))
            except OutputError as error:
                refused.append(str(error))

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 1 and len(refused) == 7
        got[0].check()
        got[0].release()
        assert not list(folder.iterdir())


def put_a_pipe(path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(path)


OTHERS = {
    "dangling link": (lambda path: path.symlink_to("nowhere"), "link"),
    "link to itself": (lambda path: path.symlink_to(path.name), "link"),
    "link to a file": (lambda path: path.symlink_to(path.parent / "mine.txt"), "link"),
    "endless device": (lambda path: path.symlink_to("/dev/zero"), "link"),
    "pipe": (put_a_pipe, "pipe"),
    "folder": (lambda path: path.mkdir(), "folder"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_lock_that_is_no_file_is_refused_at_once(tmp_path, kind):
    (tmp_path / "mine.txt").write_text("keep")
    put, word = OTHERS[kind]
    put(tmp_path / LOCK)
    before = os.lstat(tmp_path / LOCK)
    with pytest.raises(OutputError, match=rf"lock\.json is a {word} and no lock of a run; remove"):
        RunLock(tmp_path)
    assert os.path.samestat(before, os.lstat(tmp_path / LOCK))
    assert sorted(os.listdir(tmp_path)) == [LOCK, "mine.txt"]


@pytest.mark.parametrize("kind", OTHERS)
def test_a_lock_that_becomes_no_file_is_lost(quick_lock, tmp_path, kind):
    mine = RunLock(tmp_path)
    (tmp_path / "mine.txt").write_text(mine.path.read_text())
    mine.path.unlink()
    OTHERS[kind][0](mine.path)
    with pytest.raises(OutputError, match="lock of a run"):
        mine.check()
    mine.release()
    assert sorted(os.listdir(tmp_path)) == [LOCK, "mine.txt"]


RUBBISH = [b"\xff\xfe\x80", b"\0" * 300_000, b"[" * 100_000, b"null", b"[1]", b'"pid"', b"1e999"]
HERE = asdict(LockOwner.this_process())
RUBBISH += [
    json.dumps({**HERE, **wrong}).encode()
    for wrong in (
        {"pid": "1"}, {"pid": -1}, {"pid": 0}, {"pid": 2**70}, {"pid": None}, {"pid": 1.5},
        {"pid": True}, {"process_start": "x"}, {"machine": 7}, {"host": None}, {"since": []},
    )
]  # fmt: skip


@pytest.mark.parametrize("content", RUBBISH, ids=range(len(RUBBISH)))
def test_rubbish_names_no_process(content, tmp_path, monkeypatch):
    assert LockOwner.from_json(content.decode("utf-8", "replace")) is None
    (tmp_path / LOCK).write_bytes(content)
    clock = iter(range(0, 10**6, 30))
    mine = RunLock(tmp_path, monotonic=lambda: next(clock), sleep=lambda seconds: None)
    mine.check()
    mine.release()
    assert not os.listdir(tmp_path)


def test_an_owner_is_named_in_one_line(tmp_path):
    other = replace(LockOwner.this_process(), host="a\n\x1b[31mb" * 99, since="\ud800")
    assert LockOwner.from_json(json.dumps(asdict(other))) == other
    assert str(other).isprintable() and len(str(other)) < 400


def test_only_files_of_locks_are_removed_with_the_lock(tmp_path):
    mine = RunLock(tmp_path)
    for name in ("lock.json.bak", "lock.json.0a1b.stale", "lock.json.0a1b2c3d.probe"):
        (tmp_path / name).touch()
    mine.release()
    assert os.listdir(tmp_path) == ["lock.json.bak"]


def test_the_heart_beats_and_stops(quick_lock, tmp_path):
    mine = RunLock(tmp_path)
    os.utime(mine.path, (1, 1))
    until = time.monotonic() + 30
    while mine.path.stat().st_mtime < 2 and time.monotonic() < until:
        time.sleep(0.02)
    assert mine.path.stat().st_mtime > 2
    mine.release()
    assert "lock" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.slow
def test_a_run_that_was_taken_over_writes_no_more(
    slide_path, darkness, undisturbed, tmp_path, monkeypatch, quick_lock
):
    with monkeypatch.context() as patch:
        at_region(patch, 9, lambda folder: leave_lock(folder.path))
        with pytest.raises(OutputError, match=r"was taken over by pid \d+ on other"):
            run(slide_path, tmp_path, darkness, workers=1)
    folder = tmp_path / "crowded/darkness"
    assert len(list(folder.glob("parts/*.npz"))) == 8
    assert json.loads((folder / LOCK).read_text())["host"] == "other"  # not ours to remove
    assert not list(folder.glob("objects.*"))
    assert same(objects_of(run(slide_path, tmp_path, darkness)), undisturbed)
