"""Laws of faults: the run after any of them has the objects of an undisturbed one.

Damaged tiles, full disks beforehand and SIGKILL are in test_pipeline.py, clusters in
test_cluster.py.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from test_pipeline import objects_of, run, same

from wsi_pipeline.cli.signals import stop_on_signals
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import (
    OutOfMemoryError,
    OutputError,
    SlideReadError,
    SlideTimeoutError,
)
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.run_layout import LOCK_JSON as LOCK
from wsi_pipeline.core.run_layout import RUN_FILES
from wsi_pipeline.formats.geoparquet import read_parquet
from wsi_pipeline.pipeline import run_slide
from wsi_pipeline.runs import final_files as results
from wsi_pipeline.runs import lock, work_plan
from wsi_pipeline.runs import run_folder as store
from wsi_pipeline.runs.lock import RunLock
from wsi_pipeline.runs.lock_owner import LockOwner
from wsi_pipeline.slides import fast_tiff as direct
from wsi_pipeline.slides import read_timeout as deadline
from wsi_pipeline.slides import slide
from wsi_pipeline.slides.read_timeout import ReadTimeout
from wsi_pipeline.slides.slide import open_slide

ELSEWHERE = "another machine"


@pytest.fixture(autouse=True)
def small_regions(monkeypatch):
    """30 regions, so that a fault meets some that are done and some that are not."""
    monkeypatch.setattr(work_plan, "REGION_PX", 264)


@pytest.fixture(scope="module")
def undisturbed(slide_path, darkness, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work_plan, "REGION_PX", 264)
        result = run(slide_path, tmp_path_factory.mktemp("undisturbed"), darkness)
    assert result.summary["regions"] == 30 and result.objects > 300
    return objects_of(result)


@pytest.fixture
def quick_lock(monkeypatch):
    """A lock that does in tenths of a second what it does in minutes."""
    for name, seconds in (("RENEW_S", 0.05), ("POLL_S", 0.02), ("SILENT_S", 1.0),
                          ("CONFIRM_S", 0.4), ("PUT_BACK_S", 0.2)):  # fmt: skip
        monkeypatch.setattr(lock, name, seconds)


def at_region(monkeypatch, number, fault):
    """Call `fault` before the part of the `number`th region to be finished is written."""
    write, seen = store.RunFolder.write_part, []

    def noticed(self, region, *rest):
        seen.append(region)
        if len(seen) == number:
            fault(self)
        write(self, region, *rest)

    monkeypatch.setattr(store.RunFolder, "write_part", noticed)


def leave_lock(folder, **owner):
    """A lock as a run on another machine has left it, or as `owner` says."""
    folder.mkdir(parents=True, exist_ok=True)
    left = replace(LockOwner.this_process(), **{"machine": ELSEWHERE, "host": "other", **owner})
    (folder / LOCK).write_text(json.dumps(asdict(left)))
    return folder / LOCK


def ended_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


# --- two runs at once


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


@pytest.mark.parametrize("hours", [-9999, 0, 9999], ids="clock of the drive {} h off".format)
@pytest.mark.parametrize("text", [None, "", "{"])
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


def test_the_heart_beats_and_stops(quick_lock, tmp_path):
    mine = RunLock(tmp_path)
    os.utime(mine.path, (1, 1))
    until = time.monotonic() + 30
    while mine.path.stat().st_mtime < 2 and time.monotonic() < until:
        time.sleep(0.02)
    assert mine.path.stat().st_mtime > 2
    mine.release()
    assert "lock" not in {thread.name for thread in threading.enumerate()}


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


# --- signals


COMMAND = """
    import signal, sys, time
    sys.path.insert(0, {tests!r})
    from dataclasses import replace
    from cheap_models import make_darkness
    from wsi_pipeline.cli import main as cli
    from wsi_pipeline.slides import fast_tiff as direct
    from wsi_pipeline.segmentation import load_model as registry
    from wsi_pipeline import pipeline
    from wsi_pipeline.runs import work_plan
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where this is in a shell's &
    work_plan.REGION_PX = 264
    darkness = make_darkness()
    {more}
    registry.model_for = lambda config: darkness
    sys.argv = ["wsiseg", "run", *{slides!r}, "--foreground", "all", "--quiet", "--tile-px", "512",
                "--out", {out!r}, *{options!r}]
    cli.main()
"""
SLOW = (
    "darkness = replace(darkness, "
    "network=lambda images, inner=darkness.network: (time.sleep(0.1), inner(images))[1])"
)


def command(request, out, slides, more="", *options):
    """`wsiseg run` with the model `darkness`, in a process of its own."""
    script = textwrap.dedent(COMMAND).format(
        tests=str(request.config.rootpath / "tests"), more=more,
        slides=[str(s) for s in slides], out=str(out), options=options,
    )  # fmt: skip
    return subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)


def wait_for(count, folder, process):
    until = time.monotonic() + 120
    while len(list(folder.glob("*.npz"))) < count and time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    assert len(list(folder.glob("*.npz"))) >= count


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_the_first_signal_finishes_what_is_in_flight(
    number, slide_path, darkness, undisturbed, tmp_path, request
):
    second = tmp_path / "second.svs"
    second.symlink_to(slide_path)
    process = command(request, tmp_path / "out", [slide_path, second], SLOW)
    parts = tmp_path / "out/crowded/darkness" / "parts"
    wait_for(3, parts, process)
    process.send_signal(number)
    process.send_signal(number)  # as a terminal and `timeout` do: still the first
    told = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert told.startswith("wsiseg: stopped; ") and told.count("\n") == 1
    done = sorted(p.name for p in parts.iterdir())
    assert 3 <= len(done) < 30 and all(name.endswith(".npz") for name in done)
    assert not (tmp_path / "out" / "second").exists()
    assert sorted(p.name for p in parts.parent.iterdir()) == ["parts", "plan.json"]
    assert same(objects_of(run(slide_path, tmp_path / "out", darkness)), undisturbed)


@pytest.mark.slow
def test_a_second_signal_stops_at_once(slide_path, darkness, undisturbed, tmp_path, request):
    forever = (
        "from wsi_pipeline.runs.run_folder import RunFolder\n"
        "seen, write = [], RunFolder.write_part\n"
        "RunFolder.write_part = lambda self, n, *rest: "
        "write(self, n, *rest) if not seen and not seen.append(n) else time.sleep(3600)"
    )
    process = command(request, tmp_path, [slide_path], forever)
    wait_for(1, tmp_path / "crowded/darkness" / "parts", process)
    process.send_signal(signal.SIGTERM)
    time.sleep(1.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert "stopped; " in process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert (tmp_path / "crowded/darkness" / LOCK).exists()
    assert same(objects_of(run(slide_path, tmp_path, darkness)), undisturbed)


def test_signals_set_a_flag_and_are_given_back():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with stop_on_signals(quiet=True) as stop:
        assert not stop.is_set()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert stop.is_set()
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    caught = []

    def elsewhere():
        with stop_on_signals():
            caught.extend(signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert caught == before


def test_a_run_from_python_stops_by_its_flag(
    slide_path, darkness, undisturbed, tmp_path, monkeypatch
):
    stop = threading.Event()
    at_region(monkeypatch, 4, lambda _: stop.set())
    config = RunConfig(out=tmp_path, foreground="all", quiet=True, tile_px=512)
    with pytest.raises(KeyboardInterrupt):
        run_slide(slide_path, config, model=darkness, stop=stop)
    assert 4 <= len(list((tmp_path / "crowded/darkness" / "parts").iterdir())) <= 3 + config.workers
    result = run_slide(slide_path, config, model=darkness, stop=threading.Event())
    assert same(objects_of(result), undisturbed)


# --- memory of the device


class OutOfMemory(RuntimeError):
    """As PyTorch's, which this test does not need."""


OutOfMemory.__name__ = "OutOfMemoryError"
LACKS = {
    "PyTorch on a GPU": OutOfMemory("CUDA out of memory. Tried to allocate 2 GiB"),
    "cuDNN": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "PyTorch on a CPU": RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    "Python": MemoryError(),
}


def small_memory(model, most, error):
    """The model on a device that holds so many tiles."""
    sizes = []

    def predict(images):
        sizes.append(len(images))
        if len(images) > most:
            raise error
        return model.network(images)

    return replace(model, network=predict), sizes


@pytest.mark.parametrize("error", LACKS.values(), ids=LACKS)
def test_a_batch_too_large_for_the_device_is_halved(
    slide_path, darkness, undisturbed, tmp_path, error, caplog
):
    model, sizes = small_memory(darkness, 3, error)
    result = run(slide_path, tmp_path, model, batch=16, tile_px=128, workers=1)
    assert same(objects_of(result), undisturbed)
    assert result.summary["batch_reduced_to"] == 2
    first = sizes.index(2)
    assert first > 0 and set(sizes[first:]) <= {1, 2}  # found once, then known
    (told,) = [r.getMessage() for r in caplog.records if "enough memory" in r.getMessage()]
    assert told.endswith("continuing with batches of 2")


def test_one_tile_too_large_for_the_device_is_an_error(slide_path, darkness, tmp_path):
    model, _ = small_memory(darkness, 0, LACKS["PyTorch on a GPU"])
    with pytest.raises(OutOfMemoryError, match=r"image of 528 px; .*, e\.g\. --tile-px 256"):
        run(slide_path, tmp_path, model, batch=4)
    assert not (tmp_path / "crowded/darkness" / LOCK).exists()


def test_other_errors_of_the_network_are_not_taken_for_it(slide_path, darkness, tmp_path):
    model, sizes = small_memory(darkness, 0, RuntimeError("mat1 and mat2 shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        run(slide_path, tmp_path, model, batch=4, workers=1)
    assert max(sizes.count(n) for n in sizes) <= 2


# --- the slide's drive


class Stalling:
    """Reads of level 0 in which the drive does not answer, until `answer` is set."""

    def __init__(self, monkeypatch, after, hang=1):
        self.answer = threading.Event()
        self.reads = 0
        read = direct.FastTiffReader.read

        def stalled(reader, *args):
            self.reads += 1
            if after < self.reads <= after + hang:
                self.answer.wait(300)
            return read(reader, *args)

        monkeypatch.setattr(direct.FastTiffReader, "read", stalled)


def test_a_read_that_stalls_costs_its_region(
    slide_path, darkness, undisturbed, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        drive = Stalling(patch, after=6)
        result = run(slide_path, tmp_path, darkness, read_timeout_s=3)
        drive.answer.set()
    assert len(result.failed) == 1
    assert "no answer from crowded.svs within 3 s" in result.failed[0]["cause"]
    again = run(slide_path, tmp_path, darkness)
    assert not again.failed and same(objects_of(again), undisturbed)


@pytest.mark.slow
def test_a_drive_that_is_gone_ends_the_run_soon(slide_path, tmp_path, request):
    # The process ends although threads still wait for the drive.
    gone = (
        "reads, read = [], direct.FastTiffReader.read\n"
        "direct.FastTiffReader.read = lambda *args: (reads.append(1), "
        "time.sleep(3600) if len(reads) > 6 else None, read(*args))[2]"
    )
    process = command(request, tmp_path, [slide_path], gone, "--read-timeout-s", "4")
    told = process.communicate(timeout=120)[1]
    assert process.returncode == 1, told
    assert "regions failed (no answer from crowded.svs" in told
    assert len(list((tmp_path / "crowded/darkness" / "parts").glob("*.failed.json"))) > 20


def test_a_slide_that_does_not_even_open(slide_path, tmp_path, monkeypatch):
    answer = threading.Event()
    monkeypatch.setattr(slide, "open_reader", lambda path: answer.wait(300))
    with pytest.raises(SlideTimeoutError, match=r"no answer from crowded\.svs"):
        open_slide(slide_path, read_timeout_s=0.1)
    answer.set()
    os.mkfifo(tmp_path / "pipe.svs")
    monkeypatch.undo()
    with pytest.raises(slide.SlideFormatError):
        open_slide(tmp_path / "pipe.svs", read_timeout_s=5)


def test_a_late_read_harms_no_other(slide_path, monkeypatch):
    box = Box(0, 0, 300, 300)
    with open_slide(slide_path) as opened:
        expected = opened.read_scaled(box, 1.3)
    drive = Stalling(monkeypatch, after=0)
    with open_slide(slide_path, read_timeout_s=0.2) as opened:
        with pytest.raises(SlideTimeoutError):
            opened.read_scaled(box.shift(400, 400), 1.3)
        kept = opened._borrowed(Box(0, 0, 390, 390))
        kept[:] = 7
        drive.answer.set()  # what comes now goes into memory that is nobody's
        while opened._timeout.hanging:
            time.sleep(0.01)
        assert (kept == 7).all() and np.array_equal(opened.read_scaled(box, 1.3), expected)


def test_a_slide_with_a_hanging_read_is_closed_later(slide_path, monkeypatch):
    drive = Stalling(monkeypatch, after=0)
    with open_slide(slide_path, read_timeout_s=0.1) as opened, pytest.raises(SlideTimeoutError):
        opened.read_region(Box(0, 0, 9, 9))
    assert opened._reader._file.close.alive  # else the late read would meet freed memory
    with pytest.raises(SlideReadError, match="closed"):
        opened.read_region(Box(0, 0, 9, 9))
    drive.answer.set()


def test_deadlines():
    calls, hang = ReadTimeout("a.svs", 0.2), threading.Event()
    assert calls.call(lambda a, *, b: (a, b), 1, b=2) == (1, 2)
    with pytest.raises(ZeroDivisionError):
        calls.call(lambda: 1 / 0)
    with pytest.raises(TimeoutError, match="of its own"):
        calls.call(lambda: (_ for _ in ()).throw(TimeoutError("of its own")))
    assert calls.hanging == 0
    before = threading.active_count()
    for _ in range(200):
        calls.call(bytes, 9)
    assert threading.active_count() == before
    for n in range(deadline.MOST_HANGING):
        with pytest.raises(SlideTimeoutError, match=r"no answer from a\.svs within 0\.2 s"):
            calls.call(hang.wait, 300)
        assert calls.hanging == n + 1
    began = time.monotonic()
    with pytest.raises(SlideTimeoutError):
        calls.call(bytes, 9)
    assert time.monotonic() - began < 0.2
    hang.set()
    while calls.hanging:
        time.sleep(0.01)
    assert calls.call(bytes, 2) == b"\0\0"


@pytest.mark.parametrize("kind", ["svs", "plain TIFF"])
def test_a_slide_that_shrinks_or_goes_while_it_is_read(
    kind, slide_path, darkness, tmp_path, monkeypatch
):
    path = tmp_path / ("crowded.svs" if kind == "svs" else "crowded.ome.tif")
    if kind == "svs":
        path.write_bytes(slide_path.read_bytes())
    else:
        with open_slide(slide_path) as opened:
            pixels = opened.read_region(Box(0, 0, opened.width, opened.height))
        tifffile.imwrite(path, pixels, photometric="rgb", ome=True)
    whole = path.read_bytes()
    expected = objects_of(run(path, tmp_path / "whole", darkness, mpp=0.5))

    def fault(_):
        os.truncate(path, len(whole) // 2)
        path.unlink()

    with monkeypatch.context() as patch:
        at_region(patch, 3, fault)
        broken = run(path, tmp_path / "out", darkness, mpp=0.5)
    assert 0 < len(broken.failed) < 30 and 0 < broken.objects < len(expected)
    assert all("cannot be read" in f["cause"] for f in broken.failed)
    path.write_bytes(whole)
    again = run(path, tmp_path / "out", darkness, mpp=0.5)
    assert not again.failed and same(objects_of(again), expected)


# --- the output's drive


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO], ids=errno.errorcode.get)
def test_a_disk_that_refuses_what_was_written(
    code, slide_path, darkness, undisturbed, tmp_path, monkeypatch
):
    fsync, calls = os.fsync, []

    def full(file):
        calls.append(file)
        if len(calls) > 12:
            raise OSError(code, os.strerror(code))
        fsync(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"the same command again|free space"):
            run(slide_path, tmp_path, darkness)
    assert 5 <= len(list(tmp_path.glob("crowded/darkness/parts/*.npz"))) < 30
    assert same(objects_of(run(slide_path, tmp_path, darkness)), undisturbed)


def test_a_file_that_may_not_grow(slide_path, darkness, undisturbed, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        with pytest.raises(OutputError, match="File too large"):
            run(slide_path, tmp_path, darkness)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "crowded/darkness" / "run.json").exists()
    assert same(objects_of(run(slide_path, tmp_path, darkness)), undisturbed)


def test_a_drive_that_becomes_read_only(slide_path, darkness, undisturbed, tmp_path, monkeypatch):
    def refuse(self, *args, **more):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    with monkeypatch.context() as patch:

        def fault(_):
            for name in ("replace", "unlink", "rename"):
                patch.setattr(Path, name, refuse)

        at_region(patch, 6, fault)
        with pytest.raises(OutputError, match="Read-only file system"):
            run(slide_path, tmp_path, darkness)
        with pytest.raises(OutputError, match=r"cannot write to .* give another --out"):
            run(slide_path, tmp_path, darkness)
    # The lock could not be removed; this process lives, so it is cleared as after its end.
    leave_lock(
        tmp_path / "crowded/darkness", machine=LockOwner.this_process().machine, pid=ended_process()
    )
    assert same(objects_of(run(slide_path, tmp_path, darkness)), undisturbed)


def test_a_writer_that_fails_last(slide_path, darkness, undisturbed, tmp_path, monkeypatch):
    def full(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(results.ParquetWriter, "_end", full)
        with pytest.raises(OutputError, match="No space left"):
            run(slide_path, tmp_path, darkness)
    assert same(objects_of(run(slide_path, tmp_path, darkness)), undisturbed)


# --- clocks


def test_clocks_that_jump_change_nothing(slide_path, darkness, undisturbed, tmp_path, monkeypatch):
    now, calls = time.time(), []

    def jumping():
        calls.append(None)
        return now + (-1) ** len(calls) * 1e8 * len(calls)

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(time, "time_ns", lambda: int(jumping() * 1e9))
    at_region(monkeypatch, 5, lambda folder: os.utime(folder.path / LOCK, (1, 1)))
    result = run(slide_path, tmp_path, darkness)
    assert same(read_parquet(result.folder / "objects.parquet"), undisturbed)
