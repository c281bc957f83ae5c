"""Laws of `wsiseg run`: what it writes, and what one bad slide, region or disk costs."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
import time
from collections import namedtuple

import numpy as np
import pytest
import torch
from command_line import FAST, complaint, run_record, succeed, wsiseg

from wsi_pipeline import RunConfig, pipeline
from wsi_pipeline.batch import run_many
from wsi_pipeline.cli import run as command
from wsi_pipeline.core import machine, progress
from wsi_pipeline.core.errors import SlideReadError
from wsi_pipeline.core.request import SlideRequest
from wsi_pipeline.formats.geojson import read_geojson
from wsi_pipeline.segmentation.load_model import open_model
from wsi_pipeline.segmentation.nuclei import PixelModel

pytestmark = pytest.mark.usefixtures("cheap_models")


def test_a_run_leaves_what_it_says(made, out, ran):
    summary = json.loads((ran / "run.json").read_text())
    again = wsiseg("run", made / "a.svs", "--out", out, *FAST)
    assert again.exit_code == 0
    name, count, *_ = again.stdout.split()
    assert (name, int(count)) == ("a.svs", summary["objects"])
    assert again.stdout.rstrip().endswith(str(ran))
    assert len(read_geojson(ran / "objects.geojson.gz")) == summary["objects"] > 10
    assert summary["settings"]["tile_px"] == 256


def test_quiet_says_nothing(made, out):
    result = wsiseg("run", made / "a.svs", "--out", out, "--quiet", *FAST)
    assert (result.exit_code, result.output) == (0, "")


def test_a_slide_sheet_gives_the_pixel_size(bare, tmp_path):
    sheet = tmp_path / "slides.csv"
    sheet.write_text("slide,mpp\nbare.png,0.3\n")
    result = wsiseg("run", sheet, "--out", tmp_path / "out", *FAST)
    assert result.exit_code == 0, result.output
    assert run_record(tmp_path / "out")["slide"]["mpp"] == {
        "x": 0.3,
        "y": 0.3,
        "source": "slide sheet",
    }


def test_one_bad_slide_does_not_stop_the_others(a, tmp_path):
    for name in ("b.svs", "c.svs"):
        (tmp_path / name).write_text("not a slide")
    result = wsiseg(
        "run", tmp_path / "b.svs", a, tmp_path / "c.svs", "--out", tmp_path / "o", *FAST
    )
    assert result.exit_code == 1
    assert run_record(tmp_path / "o" / "a")
    told = [line for line in result.stderr.splitlines() if line.startswith("wsiseg: ")]
    assert ["b.svs" in told[0], "c.svs" in told[1]] == [True, True]
    done, *failed = result.stdout.splitlines()
    assert done.startswith("a.svs")
    assert [line.split("  failed: ")[0] for line in failed] == ["b.svs", "c.svs"]


def test_a_bug_in_one_slide_does_not_stop_the_others(a, tmp_path, monkeypatch):
    shutil.copy(a, tmp_path / "b.svs")
    real = pipeline.run_slide

    def broken(path, *args, **more):
        if "a.svs" in str(path):
            raise ZeroDivisionError("of our own")
        return real(path, *args, **more)

    monkeypatch.setattr(pipeline, "run_slide", broken)
    result = wsiseg("run", tmp_path, "--out", tmp_path / "o", *FAST)
    assert result.exit_code == 1
    assert "wsiseg: a.svs: ZeroDivisionError: of our own; please report" in result.stderr
    assert "Traceback" in result.stderr  # a bug of ours is not the user's to guess
    assert run_record(tmp_path / "o" / "b")


def test_failed_regions_set_the_exit_code_and_are_tried_again(a, tmp_path, monkeypatch):
    def unreadable(self, engine, region, config, keep):
        raise SlideReadError("a.svs: x 0–9 cannot be read; copy the slide again")

    run = ("run", a, "--out", tmp_path / "o", "--quiet", *FAST)
    with monkeypatch.context() as patched:
        patched.setattr(PixelModel, "segment_region", unreadable)
        said = complaint(wsiseg(*run), 1)
    assert "a.svs: 1 region failed (a.svs: x 0–9 cannot be read" in said
    assert "run the same command to try again" in said
    assert wsiseg(*run).exit_code == 0
    assert run_record(tmp_path / "o")["objects"] > 10


def test_stopping_says_how_to_go_on(a, tmp_path, monkeypatch):
    def stopped(*args, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(PixelModel, "segment_region", stopped)
    result = wsiseg("run", a, "--out", tmp_path / "o", "--quiet", *FAST)
    assert complaint(result, 130) == "wsiseg: stopped; run the same command again to resume\n"


def test_stopping_does_not_wait_for_threads(tmp_path):
    (tmp_path / "a.svs").touch()
    code = (
        "import sys, threading\n"
        "from wsi_pipeline.batch import run_many\n"
        "from wsi_pipeline.cli.main import main\n"
        "def run_slides(*args, **more):\n"
        "    threading.Thread(target=threading.Event().wait).start()\n"
        "    raise KeyboardInterrupt\n"
        "run_many.run_slides = run_slides\n"
        "sys.argv = ['wsiseg', 'run', 'a.svs']\n"
        "main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 130
    assert ended.stderr == "wsiseg: stopped; run the same command again to resume\n"


def test_other_settings_than_before(made, out):
    result = wsiseg("run", made / "a.svs", "--out", out, "--quiet", "--min-area-um2", 20)
    said = complaint(result, 1)
    assert "another min_area_um2" in said
    assert "--overwrite" in said


def test_a_full_disk_is_seen_before(a, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 5_000_000, 5_000_000)
    )
    said = complaint(wsiseg("run", a, "--out", tmp_path / "o", "--quiet", *FAST), 1)
    assert "5 MB free" in said
    assert "free some space" in said


def test_a_disk_that_fills_up_keeps_what_was_finished(a, tmp_path, monkeypatch):
    def full(file, **columns):
        raise OSError(errno.ENOSPC, "No space left on device")

    run = ("run", a, "--out", tmp_path / "o", "--quiet", *FAST)
    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", full)
        said = complaint(wsiseg(*run), 1)
    assert "000000.npz cannot be written (No space left on device)" in said
    assert "run the same command again" in said
    assert wsiseg(*run).exit_code == 0


def test_no_gpu(a, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = complaint(wsiseg("run", a, "--out", tmp_path / "o", "--device", "cuda"), 2)
    assert "no device 'cuda'" in said
    assert "--device cpu" in said


@pytest.mark.parametrize("network", ["local", "on a cluster"])
def test_freed_memory_is_kept_where_the_command_has_the_network(network, a, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(command, "keep_freed_memory", lambda: kept.append(1))
    real = run_many.run_slides

    def run_slides(slides, config, stop, on_load):
        if network == "local":
            return real(slides, config, stop, on_load=on_load)
        on_load(open_model("dssnet", device="cpu"))
        return []

    monkeypatch.setattr(run_many, "run_slides", run_slides)
    cluster = ("--scheduler", "tcp://nowhere:1") if network != "local" else ()
    succeed("run", a, "--out", tmp_path / "o", *FAST, *cluster)
    assert len(kept) == (network == "local")


def test_the_library_leaves_the_memory_as_it_is(a, tmp_path, monkeypatch):
    def keep():
        raise AssertionError("this cannot be undone")

    monkeypatch.setattr(machine, "keep_freed_memory", keep)
    monkeypatch.setattr(command, "keep_freed_memory", keep)
    (outcome,) = run_many.run_slides(
        [SlideRequest(a)], RunConfig(out=tmp_path / "o", device="cpu", quiet=True)
    )
    assert not outcome.failed


def test_the_loading_of_a_network_is_announced(a, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "ANNOUNCE_AFTER_S", 0.01)
    real = pipeline.model_for_run

    def slow(config):
        time.sleep(0.2)
        return real(config)

    monkeypatch.setattr(pipeline, "model_for_run", slow)
    run = ("run", a, "--out", tmp_path / "o", *FAST)
    line = "loading the network dssnet (PyTorch) …"
    assert wsiseg(*run).stderr.splitlines().count(line) == 1
    assert line not in wsiseg(*run, "--overwrite", "--quiet").stderr
