"""Laws of faults: the run after any of them has the objects of an undisturbed one.

Locks and signals have files of their own; damaged tiles, full disks beforehand and SIGKILL are in
test_pipeline.py, clusters in test_dask.py.
"""

import errno
import os
import resource
import time
from dataclasses import replace
from pathlib import Path

import pytest
import tifffile
from faults import (
    Stalling,
    at_region,
    command,
    ended_process,
    leave_lock,
)
from PIL import Image
from test_pipeline import objects_of, run, same

from wsi_pipeline.core.errors import OutOfMemoryError, OutputError
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.run_layout import LOCK_JSON as LOCK
from wsi_pipeline.formats.geoparquet import read_parquet
from wsi_pipeline.runs import final_files as results
from wsi_pipeline.runs import work_plan
from wsi_pipeline.runs.lock_owner import LockOwner
from wsi_pipeline.slides.slide import open_slide

pytestmark = pytest.mark.usefixtures("small_regions")


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


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(error, id=name, marks=pytest.mark.slow if number else ())
        for number, (name, error) in enumerate(LACKS.items())
    ],
)
def test_every_lack_of_memory_halves_the_batch(slide_path, darkness, tmp_path, error):
    path = tmp_path / "field.png"
    with open_slide(slide_path) as opened:
        Image.fromarray(opened.read_region(Box(300, 300, 580, 520))).save(path)
    settings = {"mpp": 0.5, "batch": 16, "tile_px": 64, "workers": 1}
    whole = run(path, tmp_path / "a", darkness, **settings)
    model, sizes = small_memory(darkness, 3, error)
    result = run(path, tmp_path / "b", model, **settings)
    assert max(sizes) > 3 and result.summary["batch_reduced_to"] == 2
    assert whole.objects > 5 and same(objects_of(result), objects_of(whole))


def test_a_batch_too_large_for_the_device_is_halved(
    slide_path, darkness, undisturbed, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(work_plan, "REGION_PX", 264)
    model, sizes = small_memory(darkness, 3, LACKS["PyTorch on a GPU"])
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
        run(slide_path, tmp_path, model, batch=4, tile_px=512)
    assert not (tmp_path / "crowded/darkness" / LOCK).exists()


def test_other_errors_of_the_network_are_not_taken_for_it(slide_path, darkness, tmp_path):
    model, sizes = small_memory(darkness, 0, RuntimeError("mat1 and mat2 shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        run(slide_path, tmp_path, model, batch=4, workers=1)
    assert max(sizes.count(n) for n in sizes) <= 2


# --- the slide's drive


@pytest.mark.slow
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


@pytest.mark.slow
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
        os.truncate(path, len(whole) // 4)
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
