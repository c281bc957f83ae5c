"""Laws of a run on a cluster: who did which region, and who died, never shows in the result."""

import contextlib
import dataclasses
import filecmp
import os
import signal
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest
import tifffile

from wsi_pipeline.benchmark.threshold_model import make_threshold_model
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import (
    CheckpointError,
    ClusterError,
    SlideError,
    SlideReadError,
    UsageError,
)
from wsi_pipeline.pipeline import run_slide
from wsi_pipeline.runs import dask_client, dask_executor, dask_worker, work_plan
from wsi_pipeline.runs import run_folder as store
from wsi_pipeline.segmentation.load_model import model_for
from wsi_pipeline.segmentation.nuclei import model_from_function
from wsi_pipeline.synthetic.svs_writer import plan_slide, write_slide

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.slow

REGION_PX = 200
FILES = ("objects.parquet", "objects.geojson.gz", "overlay.png", "thumbnail.png")


@contextlib.contextmanager
def dask_cluster(folder, workers):
    """A scheduler and workers as processes of their own; gives the scheduler file and processes."""
    file = folder / "scheduler.json"
    settings = {"SCHEDULER__ALLOWED_FAILURES": "1", "COMM__TIMEOUTS__CONNECT": "60s"}
    environment = os.environ | {f"DASK_DISTRIBUTED__{k}": v for k, v in settings.items()}
    processes = []

    def start(*arguments):
        command = [sys.executable, "-m", "dask", *arguments, "--no-dashboard"]
        command += ["--scheduler-file", str(file), "--host", "127.0.0.1"]
        with (folder / f"{arguments[0]}.log").open("wb") as log:
            group = {"start_new_session": True}  # a worker's nanny is killed with it
            processes.append(
                subprocess.Popen(
                    command, stdout=log, stderr=log, env=environment, cwd=folder, **group
                )
            )

    try:
        start("scheduler", "--port", "0")
        start(
            "worker", "--nworkers", str(workers), "--nthreads", "1", "--memory-limit", "0",
            "--local-directory", str(folder), "--death-timeout", "60",
        )  # fmt: skip
        while not file.is_file():
            time.sleep(0.05)
            assert all(process.poll() is None for process in processes)
        yield file, processes
    finally:
        for process in reversed(processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """The scheduler file of a cluster of two workers, which start again when they are killed."""
    with dask_cluster(tmp_path_factory.mktemp("dask"), 2) as (file, _):
        yield str(file)


@pytest.fixture(scope="module")
def model():
    return make_threshold_model("dssnet")


def run(path, out, model, *, region_px=REGION_PX, **changes):
    config = RunConfig(**{"out": out, "foreground": "all", "quiet": True, **changes})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work_plan, "REGION_PX", region_px)
        return run_slide(path, config, model=model)


@pytest.fixture(scope="module")
def reference(slide_path, model, tmp_path_factory):
    """The run on this machine that all others must equal."""
    result = run(slide_path, tmp_path_factory.mktemp("here"), model)
    assert result.summary["regions"] == 30 and result.objects > 200
    return result


def same_files(a, b):
    return filecmp.cmpfiles(a.folder, b.folder, FILES, shallow=False) == (list(FILES), [], [])


def pids(scheduler):
    with distributed.Client(scheduler_file=scheduler, set_as_default=False) as client:
        return list(client.run(os.getpid).values())


def test_a_cluster_writes_the_same_files(slide_path, model, reference, scheduler, tmp_path):
    there = run(slide_path, tmp_path, model, scheduler=scheduler)
    assert same_files(there, reference)
    assert len(there.summary["cluster"]["workers"]) > 1
    here = there.summary
    timed = ("seconds", "stage_seconds", "peak_memory_mb", "cluster")
    assert {k: v for k, v in here.items() if k not in timed} == {
        k: v for k, v in reference.summary.items() if k not in timed
    }
    assert set(here["stage_seconds"]) == set(reference.summary["stage_seconds"])


def test_a_worker_that_is_killed_costs_nothing(
    slide_path, model, reference, scheduler, tmp_path, monkeypatch
):
    keep, kept = store.RunFolder.write_part_bytes, []
    victim, *_ = pids(scheduler)

    def keep_and_kill(self, region, *rest):
        keep(self, region, *rest)
        kept.append(region)
        if len(kept) == 5:
            os.kill(victim, signal.SIGKILL)

    monkeypatch.setattr(store.RunFolder, "write_part_bytes", keep_and_kill)
    there = run(slide_path, tmp_path, model, scheduler=scheduler)
    assert sorted(kept) == list(range(30))
    assert same_files(there, reference)


POISON = (255, 0, 255)
MIDDLE = REGION_PX + REGION_PX // 2


def dark(image):
    return cv2.connectedComponents((image[..., 0] < 120).astype(np.uint8))[1]


@pytest.fixture(scope="module")
def poisoned(slide_path, tmp_path_factory):
    """A slide with a mark that only its eighth region sees: the second of the second row."""
    with tifffile.TiffFile(slide_path) as tiff:
        pixels = tiff.pages[0].asarray()
    pixels[MIDDLE : MIDDLE + 9, MIDDLE : MIDDLE + 9] = POISON
    path = tmp_path_factory.mktemp("poisoned") / "poisoned.tif"
    tifffile.imwrite(path, pixels, tile=(256, 256), compression="zlib")
    return path


def own_model(function):
    return model_from_function(function, name="mine", mpp=0.5, halo_px=0)


def test_a_region_that_kills_its_workers_is_named_and_the_others_are_done(
    poisoned, scheduler, tmp_path
):
    def deadly(image):
        if (image == (255, 0, 255)).all(2).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return cv2.connectedComponents((image[..., 0] < 120).astype(np.uint8))[1]

    there = run(poisoned, tmp_path / "there", own_model(deadly), scheduler=scheduler, mpp=0.5)
    assert [f["region"] for f in there.failed] == [7]
    assert "2 workers ended while they did it" in there.failed[0]["cause"]
    here = run(poisoned, tmp_path / "here", own_model(dark), mpp=0.5)
    assert 0 < there.objects < here.objects
    again = run(poisoned, tmp_path / "there", own_model(dark), mpp=0.5)
    assert not again.failed and same_files(again, here)


def test_what_cannot_be_read_is_named_as_here(poisoned, scheduler, tmp_path):
    def unreadable(image):
        if (image == (255, 0, 255)).all(2).any():
            raise SlideReadError("a drive that has gone")
        return cv2.connectedComponents((image[..., 0] < 120).astype(np.uint8))[1]

    here, there = (
        run(
            poisoned,
            tmp_path / ("there" if where else "here"),
            own_model(unreadable),
            scheduler=where,
            mpp=0.5,
        )
        for where in (None, scheduler)
    )
    assert [f["region"] for f in here.failed] == [7]
    assert there.failed == here.failed and same_files(there, here)


def test_a_scheduler_that_is_killed_leaves_what_was_done(
    slide_path, model, reference, tmp_path, monkeypatch
):
    keep, kept = store.RunFolder.write_part_bytes, []
    with dask_cluster(tmp_path, 1) as (file, (scheduler, _)), monkeypatch.context() as patch:

        def keep_and_kill(self, region, *rest):
            keep(self, region, *rest)
            kept.append(region)
            if len(kept) == 4:
                scheduler.kill()

        patch.setattr(store.RunFolder, "write_part_bytes", keep_and_kill)
        with pytest.raises(
            ClusterError,
            match=r"reached any more; \d+ of 30 regions are kept, run",
        ):
            run(slide_path, tmp_path / "out", model, scheduler=str(file))
    assert 4 <= len(kept) < 30
    resumed = []

    def keep_rest(self, region, *rest):
        keep(self, region, *rest)
        resumed.append(region)

    monkeypatch.setattr(store.RunFolder, "write_part_bytes", keep_rest)
    assert same_files(run(slide_path, tmp_path / "out", model), reference)
    assert sorted(kept + resumed) == list(range(30))


def test_a_network_that_only_the_workers_open(scheduler, tmp_path):
    path = tmp_path / "small.svs"
    write_slide(path, plan_slide(500, 400, mpp=0.5, seed=5, tissue=0.8))
    here = run(path, tmp_path / "here", None, region_px=1920)
    there = run(path, tmp_path / "there", None, scheduler=scheduler, region_px=1920)
    assert here.objects > 10 and same_files(there, here)
    config = RunConfig(scheduler=scheduler, quiet=True)
    other = dataclasses.replace(dask_executor.remote_model(config), identity="0" * 64)
    with pytest.raises(CheckpointError, match=r"worker tcp://.*put the same checkpoint on every"):
        run(path, tmp_path / "other", other, scheduler=scheduler, region_px=1920)


def test_a_worker_compares_the_weights_that_sort_nuclei_too(monkeypatch):
    monkeypatch.setattr(dask_worker, "_load", model_for)  # `_load` needs to be in a worker
    opened, config = dask_worker._OpenResources(), RunConfig(device="cpu", kinds=True)
    model = opened.network(config)
    right = dask_worker.weights_of(model, config)
    assert opened.network(config, right) is model and len(right) == 2
    with pytest.raises(CheckpointError, match=r"nucleus_kinds has SHA-256 .*on every worker"):
        opened.network(config, (right[0], "0" * 64))


def test_a_worker_that_does_not_fit_refuses_in_words(
    slide_path, model, scheduler, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(dask_client, "version", lambda _: "0.0.1")
        with pytest.raises(ClusterError, match=r"worker tcp://.* has wsiseg .*, not 0\.0\.1"):
            run(slide_path, tmp_path, model, scheduler=scheduler)
    moved = tmp_path / "moved.svs"
    moved.write_bytes(slide_path.read_bytes())
    work = dask_executor.SlideTask

    def elsewhere(path, *rest):
        return work(path.with_name("nowhere.svs"), *rest)

    def longer(path, size, *rest):
        return work(path, size + 1, *rest)

    for other, cause in ((elsewhere, "nowhere.svs cannot be used"), (longer, "is another file")):
        monkeypatch.setattr(dask_executor, "SlideTask", other)
        with pytest.raises(SlideError, match=rf"worker tcp://.*{cause}.*under the same path"):
            run(moved, tmp_path, model, scheduler=scheduler)


def test_what_cannot_be_a_cluster_is_said_at_once(
    slide_path, model, scheduler, tmp_path, monkeypatch
):
    with pytest.raises(UsageError, match="neither an address nor a scheduler file"):
        run(slide_path, tmp_path, model, scheduler="nowhere.json")
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(ClusterError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9 "),
    ):
        run(slide_path, tmp_path, model, scheduler="tcp://127.0.0.1:9")
    lock = threading.Lock()

    def unsendable(image):
        with lock:
            return image[..., 0] > 0

    own = model_from_function(unsendable, name="mine", mpp=0.5)
    with pytest.raises(UsageError, match="mine cannot be sent to workers"):
        run(slide_path, tmp_path / "own", own, scheduler=scheduler)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"pip install -e '\.\[workflow\]'"):
        run(slide_path, tmp_path, model, scheduler="tcp://127.0.0.1:9")
