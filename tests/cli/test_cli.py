"""Laws of the command line: what it writes; one line and the right exit code for every fault."""

from __future__ import annotations

import errno
import io
import json
import shutil
import subprocess
import sys
from collections import namedtuple

import numpy as np
import openslide
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from wsi_pipeline import pipeline
from wsi_pipeline.batch.slide_sheet import SLIDE_SUFFIXES, SlideRequest, find_slides
from wsi_pipeline.cli import doctor
from wsi_pipeline.cli.main import cli
from wsi_pipeline.core import progress
from wsi_pipeline.core.errors import SlideReadError, UsageError
from wsi_pipeline.formats.geojson import read_geojson, read_header
from wsi_pipeline.formats.geoparquet import read_parquet
from wsi_pipeline.segmentation.load_model import open_model
from wsi_pipeline.segmentation.nuclei import PixelModel
from wsi_pipeline.synthetic.svs_writer import plan_slide, write_slide

FAST = ("--tile-px", "256", "--device", "cpu")


def wsiseg(*args):
    """Exit code, standard output and standard error of a command."""
    result = CliRunner().invoke(cli, [str(a) for a in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def complaint(result, code):
    """The one line that a command that failed with `code` wrote."""
    assert result.exit_code == code, result.output
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("wsiseg: ")
    return result.stderr


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder with a small slide and its truth, by the command line."""
    folder = tmp_path_factory.mktemp("made")
    assert wsiseg("synth", folder / "a.svs", "--size", 768, "--seed", 3, "--tissue", 0.9).output
    return folder


@pytest.fixture(scope="session")
def ran(made):
    """The run folder of that slide."""
    result = wsiseg("run", made / "a.svs", "--out", made / "out", *FAST)
    assert result.exit_code == 0, result.output
    return made / "out" / "a" / "dssnet"


@pytest.fixture
def a(made, tmp_path):
    """The slide, alone in a folder."""
    return shutil.copy(made / "a.svs", tmp_path / "a.svs")


@pytest.fixture
def bare(made, tmp_path):
    """The same pixels in a file without a pixel size."""
    with openslide.OpenSlide(made / "a.svs") as opened:
        opened.read_region((0, 0), 0, (300, 200)).convert("RGB").save(tmp_path / "bare.png")
    return tmp_path / "bare.png"


# --- what works


def test_a_run_leaves_what_it_says(made, ran):
    summary = json.loads((ran / "run.json").read_text())
    again = wsiseg("run", made / "a.svs", "--out", made / "out", *FAST)
    assert again.exit_code == 0
    name, count, *_ = again.stdout.split()
    assert (name, int(count)) == ("a.svs", summary["objects"])
    assert again.stdout.rstrip().endswith(str(ran))
    assert len(read_geojson(ran / "objects.geojson.gz")) == summary["objects"] > 10
    assert summary["settings"]["tile_px"] == 256


def test_quiet_says_nothing(made, ran):
    result = wsiseg("run", made / "a.svs", "--out", made / "out", "--quiet", *FAST)
    assert (result.exit_code, result.output) == (0, "")


def test_a_slide_sheet_gives_the_pixel_size(bare, tmp_path):
    sheet = tmp_path / "slides.csv"
    sheet.write_text("slide,mpp\nbare.png,0.3\n")
    result = wsiseg("run", sheet, "--out", tmp_path / "out", *FAST)
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out" / "bare" / "dssnet" / "run.json").read_text())
    assert summary["slide"]["mpp"] == {"x": 0.3, "y": 0.3, "source": "slide sheet"}


def test_one_bad_slide_does_not_stop_the_others(a, tmp_path):
    (tmp_path / "b.svs").write_text("not a slide")
    result = wsiseg(
        "run", tmp_path / "b.svs", a, tmp_path / "c.svs", "--out", tmp_path / "o", *FAST
    )
    assert result.exit_code == 1
    assert (tmp_path / "o" / "a" / "dssnet" / "run.json").is_file()
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
    assert (tmp_path / "o" / "b" / "dssnet" / "run.json").is_file()


def test_failed_regions_set_the_exit_code_and_are_tried_again(a, tmp_path, monkeypatch):
    def unreadable(self, engine, region, config, keep):
        raise SlideReadError("a.svs: x 0–9 cannot be read; copy the slide again")

    run = ("run", a, "--out", tmp_path / "o", "--quiet", *FAST)
    with monkeypatch.context() as patched:
        patched.setattr(PixelModel, "segment_region", unreadable)
        said = complaint(wsiseg(*run), 1)
    assert "a.svs: 1 region failed (a.svs: x 0–9 cannot be read" in said
    assert "the same command tries again" in said
    assert wsiseg(*run).exit_code == 0
    assert json.loads((tmp_path / "o" / "a" / "dssnet" / "run.json").read_text())["objects"] > 10


def test_stopping_says_how_to_go_on(a, tmp_path, monkeypatch):
    def stopped(*args, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(PixelModel, "segment_region", stopped)
    result = wsiseg("run", a, "--out", tmp_path / "o", "--quiet", *FAST)
    assert complaint(result, 130) == "wsiseg: stopped; run the same command again to resume\n"


def test_stopping_does_not_wait_for_threads():
    code = (
        "import sys, threading\n"
        "from wsi_pipeline.batch import run_many\n"
        "from wsi_pipeline.cli.main import main\n"
        "def run_slides(*args):\n"
        "    threading.Thread(target=threading.Event().wait).start()\n"
        "    raise KeyboardInterrupt\n"
        "run_many.run_slides = run_slides\n"
        "sys.argv = ['wsiseg', 'run', 'a.svs']\n"
        "main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 130
    assert ended.stderr == "wsiseg: stopped; run the same command again to resume\n"


# --- what does not work: (what is given, exit code, what the line must name)


def _text_file(folder):
    (folder / "text.svs").write_text("this is no slide")
    return ["run", folder / "text.svs"], 1, ["text.svs", "export it as a pyramidal RGB TIFF"]


def _truncated(folder):
    path = folder / "a.svs"
    path.write_bytes(path.read_bytes()[:40_000])
    return ["run", path], 1, ["a.svs", "cannot be read", "check that the file is complete"]


def _sheet(text, *words):
    def make(folder):
        (folder / "s.csv").write_text(text)
        return ["run", folder / "s.csv"], 2, ["s.csv", *words]

    return make


def _file_for_out(folder):
    (folder / "taken").touch()
    return ["run", folder / "a.svs", "--out", folder / "taken"], 2, ["taken", "another --out"]


def _no_card(folder):
    save_file({"w": torch.zeros(1)}, folder / "w.safetensors")
    return ["run", folder / "a.svs", "--checkpoint", folder / "w.safetensors"], 2, ["no card"]


def _not_safetensors(folder):
    (folder / "w.pt").write_bytes(b"\x80\x02}q\x00.")
    return (
        ["run", folder / "a.svs", "--checkpoint", folder / "w.pt"],
        2,
        ["w.pt is not a safetensors file"],
    )


def _same_id(folder):
    (folder / "sub").mkdir()
    shutil.copy(folder / "a.svs", folder / "sub" / "a.svs")
    return ["run", folder, "--recursive"], 2, ["a.svs and ", "sub/a.svs", "slide 'a'", "--out"]


def _roi(text):
    def make(folder):
        (folder / "r.geojson").write_text(text)
        return ["run", folder / "a.svs", "--roi", folder / "r.geojson"], 2, ["r.geojson"]

    return make


def _two_sizes(folder):
    (folder / "s.csv").write_text("slide,mpp\na.svs,0.25\n")
    return ["run", folder / "s.csv", "--mpp", "0.5"], 2, ["slide sheet", "--mpp", "use one"]


def _roi_for_two(folder):
    shutil.copy(folder / "a.svs", folder / "b.svs")
    return ["run", folder, "--roi", folder / "r.geojson"], 2, ["--roi", "one slide, not to 2"]


def _given(code, words, *args):
    """A case that needs the slide `a.svs` alone."""
    return lambda folder: (["run", folder / "a.svs", *args], code, words)


FAULTS = {
    "missing file": lambda f: (["run", f / "no.svs"], 1, ["no.svs does not exist", "path"]),
    "text file": _text_file,
    "truncated": _truncated,
    "absurd mpp": _given(2, ["mpp", "250", "between 0.02 and 20"], "--mpp", "250"),
    "out is a file": _file_for_out,
    "unknown model": _given(2, ["'nope'", "dssnet", "--checkpoint"], "--model", "nope"),
    "checkpoint not safetensors": _not_safetensors,
    "checkpoint without card": _no_card,
    "checkpoint missing": _given(2, ["no.pt", "wsiseg models"], "--checkpoint", "no.pt"),
    "unknown device": _given(2, ["'tpu'", "auto, cpu, cuda"], "--device", "tpu"),
    "unknown foreground": _given(2, ["'some'", "auto", "all"], "--foreground", "some"),
    "unknown option": _given(2, ["--fast", "wsiseg run --help"], "--fast"),
    "threshold": _given(2, ["threshold 3.0", "0.02 and 0.98"], "--threshold", "3"),
    "tile": _given(2, ["tile_px 100", "multiple of 8", "512"], "--tile-px", "100"),
    "not a number": _given(2, ["'two'", "--batch"], "--batch", "two"),
    "no slide": lambda f: (["run"], 2, ["SLIDES", "wsiseg run --help"]),
    "unknown command": lambda f: (["segment"], 2, ["segment"]),
    "sheet: unknown column": _sheet("slide,stain\na.svs,pap\n", "['stain']", "slide, mpp"),
    "sheet: no slide column": _sheet("mpp\n0.25\n", "no column 'slide'", "slide, mpp"),
    "sheet: mpp no number": _sheet("slide,mpp\na.svs,x40\n", "line 2", "'x40'", "0.25"),
    "sheet: mpp absurd": _sheet("slide,mpp\na.svs,nan\n", "line 2", "'nan'", "0.02 to 20"),
    "sheet: too many cells": _sheet("slide\na.svs,0.25\n", "line 2", "too many cells"),
    "sheet: no name": _sheet("slide,mpp\n,0.25\n", "line 2", "no slide"),
    "sheet: empty": _sheet("slide\n", "names no slide"),
    "sheet: missing": lambda f: (["run", f / "no.csv"], 2, ["no.csv", "cannot be read", "CSV"]),
    "sheet and --mpp": _two_sizes,
    "same id": _same_id,
    "glob": lambda f: (["run", f / "*.ndpi"], 2, ["*.ndpi", "no file matches"]),
    "empty folder": lambda f: ((f / "e").mkdir(), (["run", f / "e"], 2, ["no slide", "*.png"]))[1],
    "roi: not JSON": _roi("{"),
    "roi: no annotation": _roi('{"type": "FeatureCollection", "features": []}'),
    "roi: missing": _given(2, ["no.geojson"], "--roi", "no.geojson"),
    "roi for two": _roi_for_two,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_with_value_and_remedy(fault, a, tmp_path):
    args, code, words = FAULTS[fault](tmp_path)
    if "--out" not in args and len(args) > 1:
        args = [*args, "--out", tmp_path / "o"]
    said = complaint(wsiseg(*args), code)
    assert [word for word in words if word not in said] == [], said
    assert not list(tmp_path.glob("o/*/plan.json"))


def test_a_slide_without_pixel_size(bare, tmp_path):
    said = complaint(wsiseg("run", bare, "--out", tmp_path / "o"), 1)
    assert said == "wsiseg: bare.png has no pixel size; give --mpp, e.g. --mpp 0.25\n"


def test_no_gpu(a, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = complaint(wsiseg("run", a, "--out", tmp_path / "o", "--device", "cuda"), 2)
    assert "no device 'cuda'" in said
    assert "--device cpu" in said


def test_other_settings_than_before(made, ran):
    result = wsiseg("run", made / "a.svs", "--out", made / "out", "--quiet", "--min-area-um2", 20)
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


# --- which slides are meant


def test_files_folders_globs_and_sheets_name_the_same(tmp_path):
    for name in ("b.SVS", "a.ndpi", "c.txt", "sub/d.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "s.csv").write_text("\ufeffslide,mpp\na.ndpi,\nb.SVS,\n")
    both = [SlideRequest(tmp_path / "a.ndpi"), SlideRequest(tmp_path / "b.SVS")]
    everything = [*both, SlideRequest(tmp_path / "sub" / "d.tif")]
    names = [str(slide.path) for slide in both]
    assert find_slides(names) == find_slides([str(tmp_path / "[ab].*")]) == both
    assert find_slides([str(tmp_path)]) == find_slides([str(tmp_path / "s.csv")]) == both
    assert find_slides([str(tmp_path), *names, str(tmp_path / "*.ndpi")]) == both
    assert find_slides([str(tmp_path)], recursive=True) == everything
    assert find_slides([str(tmp_path / "**" / "*.tif")]) == everything[2:]


def test_brackets_in_a_name_are_no_glob(tmp_path):
    (tmp_path / "a[1].svs").touch()
    assert find_slides([str(tmp_path / "a[1].svs")]) == [SlideRequest(tmp_path / "a[1].svs")]


def test_a_slide_has_one_pixel_size(tmp_path):
    (tmp_path / "s.csv").write_text("slide,mpp\na.svs,0.25\na.svs,0.5\n")
    with pytest.raises(UsageError, match="twice with different mpp"):
        find_slides([str(tmp_path / "s.csv")])


# --- the other commands


def test_info(made, bare):
    about = json.loads(wsiseg("info", made / "a.svs", "--json").stdout)
    assert (about["width"], about["height"], about["mpp"]["x"]) == (768, 768, 0.25)
    plan = about["model"]
    assert plan["scale"] == plan["mpp"] / 0.25
    assert (plan["regions"], plan["tiles"]) == (1, 1)
    shown = wsiseg("info", made / "a.svs").stdout
    assert "0.25 x 0.25 µm (metadata)" in shown
    assert "1 regions, about 1 tiles" in shown
    assert "unknown; give --mpp" in wsiseg("info", bare).stdout
    assert "0.4 x 0.4 µm (--mpp)" in wsiseg("info", bare, "--mpp", 0.4).stdout
    assert "'x'" in complaint(wsiseg("info", made / "a.svs", "--model", "x"), 2)
    assert "no.svs" in complaint(wsiseg("info", "no.svs"), 2)


def test_info_counts_the_regions_that_a_run_works_on(tmp_path):
    write_slide(tmp_path / "wide.svs", plan_slide(5000, 800, mpp=0.5, seed=2, tissue=0.2))
    plan = json.loads(wsiseg("info", tmp_path / "wide.svs", "--json").stdout)["model"]
    model = open_model("dssnet", device="cpu")
    with pipeline.open_slide(tmp_path / "wide.svs") as slide:
        job = pipeline._Job(slide, model, pipeline.RunConfig(out=tmp_path))
        job.look()
    assert plan["regions"] == len(job.regions)


def test_models():
    header, line = wsiseg("models").stdout.splitlines()[:2]
    assert header.split()[:3] == ["name", "task", "classes"]
    assert line.startswith("dssnet")
    rows = json.loads(wsiseg("models", "--json").stdout)
    assert rows[0] == json.loads(wsiseg("models", "dssnet").stdout)
    assert rows[0]["card"]["classes"] == ["nucleus"]
    assert "known: cascade, donet, dssnet, maskrcnn" in complaint(wsiseg("models", "nope"), 2)


@pytest.mark.parametrize(
    "name", ["o.geojson", "o.geojson.gz", "o.parquet", "o.coco.json", "o.ome.zarr"]
)
def test_export_by_name(name, ran, tmp_path):
    result = wsiseg("export", ran, tmp_path / name)
    assert result.exit_code == 0, result.output
    before = read_parquet(ran / "objects.parquet")
    if name.endswith(".parquet"):
        assert np.array_equal(read_parquet(tmp_path / name).coords, before.coords)
    elif "geojson" in name:
        assert np.array_equal(read_geojson(tmp_path / name).ids, before.ids)
        assert read_header(tmp_path / name)["slide"]["id"] == "a"
    elif name.endswith(".coco.json"):
        document = json.loads((tmp_path / name).read_text())
        assert len(document["annotations"]) == len(before)
        assert document["images"][0]["width"] == 768
    else:
        assert (tmp_path / name / "zarr.json").is_file()
        assert "exists" in complaint(wsiseg("export", ran, tmp_path / name), 1)


def test_export_from_a_file_and_its_faults(ran, made, tmp_path):
    source = ran / "objects.geojson.gz"
    assert wsiseg("export", source, tmp_path / "x.parquet").exit_code == 0
    assert len(read_parquet(tmp_path / "x.parquet")) == len(read_geojson(source))
    marked = wsiseg("export", source, tmp_path / "x.json", "--format", "geojson",
                    "--object-type", "annotation")  # fmt: skip
    assert marked.exit_code == 0
    assert '"annotation"' in (tmp_path / "x.json").read_text()
    assert "give --format" in complaint(wsiseg("export", source, tmp_path / "x.json"), 2)
    assert "'shp'" in complaint(wsiseg("export", source, "x", "--format", "shp"), 2)
    assert "holds no run" in complaint(wsiseg("export", tmp_path, tmp_path / "y.parquet"), 2)
    assert "does not exist" in complaint(wsiseg("export", "no", tmp_path / "y.parquet"), 2)
    (tmp_path / "bad.parquet").write_text("x")
    said = complaint(wsiseg("export", tmp_path / "bad.parquet", tmp_path / "y.geojson"), 2)
    assert "bad.parquet is not a GeoParquet file" in said


def test_score(made, ran, tmp_path):
    truth = made / "a.truth.geojson.gz"
    whole = json.loads(wsiseg("score", truth, truth, "--json").stdout)
    assert (whole["F1"], whole["mean IoU"], whole["difference"]) == (1, 1, 0)
    found = json.loads(wsiseg("score", ran, truth, "--json").stdout)
    assert found["truth"] == whole["truth"]
    assert 0 < found["F1"] <= 1 and found["mean IoU"] < 1
    looser = json.loads(wsiseg("score", ran, truth, "--iou", "0.2", "--json").stdout)
    assert looser["F1"] >= found["F1"]
    assert "F1" in wsiseg("score", ran, truth).stdout
    assert "--iou 2" in complaint(wsiseg("score", ran, truth, "--iou", "2"), 2)
    assert "it has nucleus" in complaint(wsiseg("score", ran, truth, "--class", "cell"), 2)
    assert "no.geojson does not exist" in complaint(wsiseg("score", ran, "no.geojson"), 2)


def test_synth_is_the_same_for_the_same_seed(made, tmp_path):
    args = ("--size", 768, "--seed", 3, "--tissue", 0.9, "--quiet")
    assert wsiseg("synth", tmp_path / "a.svs", *args).output == ""
    for name in ("a.svs", "a.truth.geojson.gz", "a.truth-cells.geojson.gz"):
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes()


def test_synth_faults(tmp_path):
    assert ".svs" in complaint(wsiseg("synth", tmp_path / "a.tif"), 2)
    assert "0.2 to 0.5" in complaint(wsiseg("synth", tmp_path / "a.svs", "--mpp", "0.2-0.5"), 2)
    assert "'big'" in complaint(wsiseg("synth", tmp_path / "a.svs", "--mpp", "big"), 2)
    assert "square" in complaint(wsiseg("synth", tmp_path, "--fields", 2, "--width", 9), 2)
    assert "-1 fields" in complaint(wsiseg("synth", tmp_path, "--fields", -1), 2)
    (tmp_path / "taken").touch()
    assert "taken" in complaint(wsiseg("synth", tmp_path / "taken", "--fields", 1), 1)


def test_train_and_use_what_was_trained(a, tmp_path):
    fields = ("--fields", 4, "--size", 64, "--mpp", "0.4-0.5")
    assert wsiseg("synth", tmp_path / "data", *fields).exit_code == 0
    small = ("--width", 9, "--depth", 1, "--crop-px", 32, "--batch", 1, "--no-amp")
    train = ("train", "dssnet", "--data", tmp_path / "data", "--split", "fold:0/4", "--quiet",
             "--out", tmp_path / "t", "--device", "cpu", *small)  # fmt: skip
    assert wsiseg(*train, "--steps", 2).exit_code == 0
    told = wsiseg(*(a for a in train if a != "--quiet"), "--out", tmp_path / "u", "--steps", 2)
    assert "step 2 of 2" in told.stderr
    card = json.loads((tmp_path / "t" / "card.json").read_text())
    assert {"mIoU", "nucleus F1"} <= set(card["metrics"]["data"])
    assert card["options"] == {"classes": 2, "width": 9, "depth": 1}
    checkpoint = tmp_path / "t" / "dssnet.safetensors"
    result = wsiseg("run", a, "--checkpoint", checkpoint, "--out", tmp_path / "o", *FAST)
    assert result.exit_code == 0, result.output
    assert "another steps" in complaint(wsiseg(*train, "--steps", 3), 2)


def test_train_faults(tmp_path, monkeypatch):
    args = ("--out", tmp_path / "t", "--device", "cpu", "--data", tmp_path / "no")
    assert "known: cascade, donet, dssnet, maskrcnn" in complaint(wsiseg("train", "nope", *args), 2)
    assert "'rms'" in complaint(wsiseg("train", "dssnet", *args, "--optimizer", "rms"), 2)
    assert "crop_px 100" in complaint(wsiseg("train", "dssnet", *args, "--crop-px", 100), 2)
    assert str(tmp_path / "no") in complaint(wsiseg("train", "dssnet", *args), 2)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    assert "pip install wsiseg[train]" in complaint(wsiseg("train", "dssnet", *args), 2)


def test_doctor(monkeypatch):
    result = wsiseg("doctor")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "warn"}
    for name in ("Python", "OpenSlide", "PyTorch", "GPU", "memory", "disk", "dssnet: sha256"):
        assert any(name in line for line in lines), name

    def lost():
        raise RuntimeError("libfoo.so is missing")

    monkeypatch.setattr(doctor, "_openslide", lost)
    monkeypatch.setattr(doctor, "MIN_DISK_GB", 10**9)
    result = wsiseg("doctor")
    assert result.exit_code == 1
    assert any(
        line.startswith("broken") and "libfoo.so" in line for line in result.stdout.split("\n")
    )
    assert any(line.startswith("warn") and "--out" in line for line in result.stdout.split("\n"))


# --- progress


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_in_a_log_is_a_few_lines(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    log = io.StringIO()
    bar = progress.progress(1000, desc="a", unit="region", initial=100, stream=log)
    for _ in range(900):
        now[0] += 1
        bar.update()
    bar.close()
    lines = log.getvalue().splitlines()
    assert 900 / 30 - 2 <= len(lines) <= 900 / 30 + 10
    assert lines[0] == "a: 13%, 130 of 1000 regions, about 14 min left"
    assert "\r" not in log.getvalue()


def test_fast_work_leaves_no_lines():
    log = io.StringIO()
    bar = progress.progress(500, desc="a", unit="region", stream=log)
    for _ in range(500):
        bar.update()
    assert log.getvalue() == ""


def test_a_terminal_gets_a_bar_unless_quiet():
    shown, hidden = _Terminal(), _Terminal()
    for stream, quiet in ((shown, False), (hidden, True)):
        bar = progress.progress(3, desc="slide", unit="region", quiet=quiet, stream=stream)
        bar.update()
        bar.close()
    assert "slide" in shown.getvalue()
    assert "\r" in shown.getvalue()
    assert hidden.getvalue() == ""


def test_suffixes_are_what_a_folder_is_searched_for():
    assert list(SLIDE_SUFFIXES) == sorted(SLIDE_SUFFIXES)
    assert {".svs", ".ndpi", ".mrxs", ".tif"} <= set(SLIDE_SUFFIXES)
