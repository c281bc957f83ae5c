"""Every wrong argument or file of `wsiseg run` is one line: what, value, remedy, exit code."""

from __future__ import annotations

import shutil

import pytest
import torch
from command_line import complaint, wsiseg
from safetensors.torch import save_file

pytestmark = pytest.mark.usefixtures("cheap_models")


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
    return ["run", folder / "a.svs", "--out", folder / "taken"], 2, ["taken", "another folder"]


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
    "missing file": lambda f: (["run", f / "no.svs"], 2, ["no.svs does not exist", "path"]),
    "text file": _text_file,
    "truncated": _truncated,
    "absurd mpp": _given(2, ["mpp", "250", "0.02 to 20"], "--mpp", "250"),
    "out is a file": _file_for_out,
    "unknown model": _given(2, ["'nope'", "dssnet", "--checkpoint"], "--model", "nope"),
    "checkpoint not safetensors": _not_safetensors,
    "checkpoint without card": _no_card,
    "checkpoint missing": _given(2, ["no.pt does not exist", "path"], "--checkpoint", "no.pt"),
    "unknown device": _given(2, ["'tpu'", "auto, cpu, cuda"], "--device", "tpu"),
    "unknown foreground": _given(2, ["'some'", "auto", "all"], "--foreground", "some"),
    "unknown option": _given(2, ["--fast", "wsiseg run --help"], "--fast"),
    "threshold": _given(2, ["threshold", "got 3", "0.02 to 0.98"], "--threshold", "3"),
    "tile": _given(2, ["tile_px 100", "multiples of 8 px", "--tile-px 96"], "--tile-px", "100"),
    "not a number": _given(2, ["'two'", "--batch"], "--batch", "two"),
    "no slide": lambda f: (["run"], 2, ["SLIDES", "wsiseg run --help"]),
    "unknown command": lambda f: (["segment"], 2, ["segment"]),
    "sheet: no slide column": _sheet("mpp\n0.25\n", "no column 'slide'", "slide, mpp"),
    "sheet: mpp no number": _sheet("slide,mpp\na.svs,x40\n", "line 2", "'x40'", "0.25"),
    "sheet: mpp absurd": _sheet("slide,mpp\na.svs,nan\n", "line 2", "'nan'", "0.02 to 20"),
    "sheet: too many cells": _sheet("slide\na.svs,0.25\n", "line 2", "too many cells"),
    "sheet: no name": _sheet("slide,mpp\n,0.25\n", "line 2", "no slide"),
    "sheet: empty": _sheet("slide\n", "names no slide"),
    "sheet: missing": lambda f: (["run", f / "no.csv"], 2, ["no.csv does not exist", "path"]),
    "sheet and --mpp": _two_sizes,
    "same id": _same_id,
    "glob": lambda f: (["run", f / "*.ndpi"], 2, ["*.ndpi", "no file matches"]),
    "empty folder": lambda f: ((f / "e").mkdir(), (["run", f / "e"], 2, ["no slide", "images"]))[1],
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
    assert not list(tmp_path.rglob("plan.json"))


def test_a_slide_without_pixel_size(bare, tmp_path):
    said = complaint(wsiseg("run", bare, "--out", tmp_path / "o"), 1)
    assert said == "wsiseg: bare.png has no pixel size; give --mpp, e.g. --mpp 0.25\n"
