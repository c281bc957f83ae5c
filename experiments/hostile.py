"""Try the ten kinds of damaged and hostile input that once stopped wsiseg; write what it does now.

    python experiments/hostile.py [--work DIR]

Each is a command line in a forked process with a limit of time, of which the exit code, the lines
that begin with "wsiseg:" and other lines are noted. The script writes a table to
experiments/results/hostile.md. Its exit code is 1 if one hung, was killed, left a traceback or took
a file that is not its own. It needs Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import struct
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).with_name("fuzz")))

import cv2
import numpy as np
import seeds
import tifffile
import torch
from cheap_models import cheap_models
from wsiseg_models.checkpoint import save_checkpoint

from wsi_pipeline.cli import main as cli
from wsi_pipeline.core.run_layout import find_runs, read_run

RESULTS = Path(__file__).parent / "results" / "hostile.md"
LIMIT_S = 120.0
Words = list[str]
RUN = ["--out", "out", "--quiet", "--device", "cpu"]

CASES: list[tuple[str, str, str, Callable[[], Words]]] = []
"""Kind, what, before, and the function that makes the files and returns the command line."""
TESTS = {
    "1": "batch/test_bad_names.py, batch/test_broken_cohort.py",
    "2": "segmentation/test_engine_threads.py, segmentation/test_load_model.py",
    "3": "runs/test_links.py",
    "4": "runs/test_damaged_parts.py",
    "5": "models/test_annotation_faults.py",
    "6": "slides/test_hostile_sizes.py, test_security.py",
    "7": "runs/test_locks.py",
    "8": "models/test_foreign_weights.py",
    "9": "models/test_damaged_state.py, core/test_json_files.py, reports/test_strange_records.py",
    "10": "cli/test_odd_values.py, cli/test_new_paths.py, cli/test_synth.py, "
    "batch/test_bad_names.py, reports/test_cohort.py",
}
"""By kind: the tests of the whole kind, in tests/."""


def case(kind: str, what: str, before: str) -> Callable[[Callable[[], Words]], Callable[[], Words]]:
    """Add a case to the table."""

    def enter(function: Callable[[], Words]) -> Callable[[], Words]:
        CASES.append((kind, what, before, function))
        return function

    return enter


def commands(kind: str, before: str, *lines: str) -> None:
    """Add command lines that need no file of their own."""
    for line in lines:
        CASES.append((kind, f"`wsiseg {line}`", before, lambda line=line: line.split()))


def slide(name: str = "a.svs") -> str:
    """Write a slide; return its name."""
    Path(name).write_bytes(seeds.slides()["a.svs"])
    return name


# --- 1 to 4: slides, threads, links, parts


@case("1", "description key with a byte ≥ 0x80, a name over 255 bytes, a link to itself, NUL in a "
      "cell; a good slide last", "traceback, the good slide not begun")  # fmt: skip
def _cohort() -> Words:
    data = seeds.slides()["a.svs"]
    Path("key.svs").write_bytes(data.replace(b"AppMag", b"App\xe9ag"))
    Path("loop.svs").symlink_to("loop.svs")
    slide("good.svs")
    names = ["key.svs", "x" * 300 + ".svs", "loop.svs", "a\0b.svs", "good.svs"]
    Path("sheet.csv").write_text(
        "slide,mpp\n" + "".join(f"{n},0.5\n" for n in names), encoding="utf-8"
    )
    return ["run", "sheet.csv", *RUN]


@case("2", "`--device cpu:0`", "hangs for ever")
def _device() -> Words:
    return ["run", slide(), "--out", "out", "--quiet", "--device", "cpu:0"]


@case("3", "`parts` is a link, `--overwrite`", "files behind it deleted")
def _parts_link() -> Words:
    Path("mine").mkdir()
    Path("mine/000001.npz").write_text("mine", encoding="utf-8")
    Path("out/a/dssnet").mkdir(parents=True)
    Path("out/a/dssnet/parts").symlink_to(Path("mine").absolute())
    return ["run", slide(), *RUN, "--overwrite"]


@case("4", "every part of a stopped run damaged", "slide blocked: BadZipFile, IndexError, abort")
def _parts() -> Words:
    _, begun, _ = seeds.unfinished_run()
    shutil.copytree(begun, "out")
    for number, path in enumerate(sorted(Path("out").rglob("parts/*.npz"))):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 255
        path.write_bytes(data[: -9 * (number % 2) or None])
    return ["threshold", str(Path("out").absolute())]


# --- 5 and 6: annotations, sizes


def annotated(change: Callable[[dict[str, Any]], None]) -> str:
    """Write a set whose annotations were changed."""
    place = shutil.copytree(seeds.coco(), "set")
    path = (
        place / "annotations.json" if isinstance(place, Path) else Path(place, "annotations.json")
    )
    document = json.loads(path.read_text("utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")
    return "set@0.5"


def _far(document: dict[str, Any]) -> None:
    document["annotations"][0]["segmentation"] = [[1, 1, 9e15, 1, 9e15, 9e15]]


@case("5", "polygon with a coordinate of 9e15, `evaluate`", "SIGSEGV in pycocotools")
def _evaluate() -> Words:
    return ["evaluate", "--model", "dssnet", "--data", annotated(_far), "--device", "cpu"]


@case("5", "the same, `train`", "SIGSEGV in pycocotools")
def _train() -> Words:
    return ["train", "dssnet", "--data", annotated(_far), "--steps", "1", "--out", "t"]


def tiff(tag: int, value: int, **options: Any) -> str:
    """Write a TIFF with one value of its directory replaced."""
    pixels = np.full((64, 64, 3), 200, np.uint8)
    tifffile.imwrite("a.tif", pixels, photometric="rgb", **options)
    with tifffile.TiffFile("a.tif") as file:
        found = file.pages.first.tags[tag]
    data = bytearray(Path("a.tif").read_bytes())
    code = "<I" if found.dtype == 4 else "<H"
    struct.pack_into(code, data, found.offset + 8, value)
    Path("a.tif").write_bytes(data)
    return "a.tif"


for _what, _before, _tag, _value, _options in (
    ("TIFF that says it has a million rows", "hangs in its thumbnail", 257, 10**6, {}),
    ("TIFF with a width of 16 777 216", "12 GiB for a pixel", 256, 2**24, {"tile": (32, 32)}),
    ("TIFF with no height", "accepted", 257, 0, {"compression": "lzma", "rowsperstrip": 8}),
    ("TIFF with tiles of length 0", "accepted", 323, 0, {"tile": (32, 32)}),
):
    CASES.append(
        ("6", _what, _before, lambda t=_tag, v=_value, o=_options:
            ["run", tiff(t, v, **o), "--mpp", "0.5", *RUN])
    )  # fmt: skip


@case("6", "OME-TIFF with SizeC of a billion", "memory")
def _planes() -> Words:
    text = tifffile.OmeXml()
    text.addimage("uint8", (64, 64, 3), (1, 1, 1, 64, 64, 3), axes="YXS")
    stated = text.tostring().replace('SizeC="3"', 'SizeC="1000000000"')
    pixels = np.full((64, 64, 3), 200, np.uint8)
    tifffile.imwrite("a.ome.tif", pixels, photometric="rgb", tile=(32, 32), description=stated,
                     metadata=None)  # fmt: skip
    return ["run", "a.ome.tif", "--mpp", "0.5", *RUN]


# --- 7: locks


def _locked(make: Callable[[Path], object]) -> Words:
    folder = Path("out/a/dssnet")
    folder.mkdir(parents=True)
    make(folder / "lock.json")
    return ["run", slide(), *RUN]


for _what, _before, _make in (
    ("`lock.json` is a dangling link", "loops", lambda p: p.symlink_to("nowhere")),
    ("`lock.json` is a pipe", "hangs", lambda p: os.mkfifo(p)),
    ("`lock.json` is a link to /dev/zero", "7 GB", lambda p: p.symlink_to("/dev/zero")),
    ("`lock.json` is rubbish", "traceback", lambda p: p.write_bytes(b"\xff[{" * 999)),
):
    CASES.append(("7", _what, _before, lambda make=_make: _locked(make)))


# --- 8 and 9: cards, states, JSON


def card(**changes: Any) -> Words:
    """Write a checkpoint whose card was changed in its file."""
    state, own = seeds.checkpoint()
    save_checkpoint(Path("own.safetensors"), state, own)
    data = Path("own.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + size])
    about = json.loads(head["__metadata__"]["card"])
    head["__metadata__"]["card"] = json.dumps({**about, **changes})
    text = json.dumps(head).encode()
    Path("own.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    return ["run", slide(), *RUN, "--checkpoint", "own.safetensors"]


for _what, _before, _change in (
    ("card with `stride: 0`", "traceback", {"stride": 0}),
    ("card with `tile_px: 0`", "traceback", {"tile_px": 0}),
    ("card with `halo_px: 8e9`", "memory", {"halo_px": 8_000_000_000}),
    ("card with `std: NaN`", "0 objects, exit 0", {"std": float("nan")}),
    ("card with `depth: 1e9`", "hangs", {"options": {"depth": 10**9}}),
    ("card with three classes", "traceback", {"classes": ["a", "b", "c"]}),
    ("card with a text for a number", "traceback", {"mpp": "x"}),
):
    CASES.append(("8", _what, _before, lambda change=_change: card(**change)))


@case("9", "`--initial` cut short", "traceback")
def _initial() -> Words:
    Path("state.pt").write_bytes(seeds.states()[0][:-200])
    data = annotated(lambda document: None)
    return ["train", "dssnet", "--data", data, "--steps", "1", "--out", "t",
            "--initial", "state.pt"]  # fmt: skip


def _copied(name: str, change: Callable[[str], str]) -> str:
    run = shutil.copytree(seeds.run_folder(), Path("done/crowded/threshold"))
    path = run / name
    path.write_text(change(path.read_text("utf-8")), encoding="utf-8")
    return "done"


@case("9", "run.json nested 100 000 deep, `report`", "RecursionError")
def _deep() -> Words:
    deep = _copied("run.json", lambda text: '{"slide":' + "[" * 100_000)
    return ["report", deep, "--out", "a.html"]


@case("9", "count of 2⁶⁴ in a summary, `cohort`", "the cohort's table is not written")
def _count() -> Words:
    def change(text: str) -> str:
        return json.dumps({**json.loads(text), "nuclei": 2**64})

    done = _copied("crowded.summary.json", change)
    return ["cohort", "out", f"{done}/crowded/threshold/crowded.summary.json"]


# --- 10: command lines

commands("10", "makes a slide", "synth a.svs --seed -1")
commands("10", "makes 4096 px", "synth a.svs --size 0")
commands("10", "memory", "synth a.svs --size 100000000")
commands("10", "traceback", "synth taken/b/a.svs", "run a.svs --out taken/b")
commands("10", "writes into the name of a folder", "report done --out .")
commands("10", "made silently", "report done --out new/b/a.html")
commands("10", "memory", "export done a.ome.zarr --scale 1e-9")
commands("10", "three lines", "run --nope")
commands("10", "starts", "workflow a.svs out --cores -1")


@case("10", "CSV cell that begins with a full-width equals sign behind a blank, `cohort`",
      "a formula for a spreadsheet")  # fmt: skip
def _formula() -> Words:
    def change(text: str) -> str:
        return json.dumps({**json.loads(text), "slide": " ＝1+1"})

    done = _copied("crowded.summary.json", change)
    return ["cohort", "out", f"{done}/crowded/threshold/crowded.summary.json"]


# --- one process


def work(words: Words, log: Path) -> None:
    """Run a command in this process."""
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(target, descriptor)
    if words[0] == "threshold":  # resumes the run of `_parts`
        slide, _, objects = seeds.unfinished_run()
        found = seeds.resumed(slide, Path(words[1]))
        print(f"wsiseg: {found} objects, as of the undisturbed run: {found == objects}")
        return
    sys.argv = ["wsiseg", *words]
    if "--checkpoint" in words:
        cli.main()
    with cheap_models():
        cli.main()


def attempt(make: Callable[[], Words], folder: Path) -> tuple[str, float, list[str]]:
    """Return exit code, seconds and lines of a case."""
    folder.mkdir(parents=True)
    os.chdir(folder)
    Path("taken").write_text("mine", encoding="utf-8")
    log = folder.with_suffix(".log")
    child = get_context("fork").Process(target=lambda: work(make(), log))
    began = time.perf_counter()
    child.start()
    child.join(LIMIT_S)
    hung = child.is_alive()
    child.kill()
    child.join()
    lines = log.read_text("utf-8", "replace").splitlines() if log.exists() else []
    return "hangs" if hung else str(child.exitcode), time.perf_counter() - began, lines


def verdict(code: str, lines: list[str], folder: Path) -> str:
    """Return what is wrong; empty where nothing is."""
    if code not in ("0", "1", "2"):
        return "hangs" if code == "hangs" else f"ended by {code}"
    if any(line.startswith("Traceback") for line in lines):
        return "traceback"
    if (folder / "taken").read_text("utf-8") != "mine":
        return "another file changed"
    mine = folder / "mine" / "000001.npz"
    return "files behind a link removed" if (folder / "mine").exists() and not mine.exists() else ""


def said(lines: list[str], folder: Path) -> str:
    """Return the errors in short, and which slides were done."""
    errors = [line.removeprefix("wsiseg: ") for line in lines if line.startswith("wsiseg: ")]
    short = [e.replace(f"{folder}/", "").replace("x" * 80, "x…")[:160] for e in errors[:6]]
    done = [r["slide"]["id"] for r in map(read_run, find_runs(folder / "out"))
            if not r["failed_regions"]] if (folder / "out").exists() else []  # fmt: skip
    table = folder / "out" / "cohort.csv"
    if table.exists():
        short.append(
            f"its first cell is {table.read_text('utf-8').splitlines()[1].split(',')[0]!r}"
        )
    text = " / ".join(short) + (f" (done: {', '.join(done)})" if done else "")
    return text.replace("|", "\\|") or "no message"


def main() -> int:
    """Try all cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("build/hostile"))
    place = parser.parse_args().work.absolute()
    shutil.rmtree(place, ignore_errors=True)
    cv2.setNumThreads(0)  # a forked process waits for ever for threads that it does not have
    torch.set_num_threads(1)
    for prepare in (seeds.run_folder, seeds.unfinished_run, seeds.coco, seeds.checkpoint):
        prepare()
    rows, wrong = [], 0
    for number, (kind, what, before, make) in enumerate(CASES):
        folder = place / f"{number:02}"
        code, seconds, lines = attempt(make, folder)
        fault = verdict(code, lines, folder)
        wrong += bool(fault)
        now = f"**{fault}**" if fault else f"exit {code}, {seconds:.0f} s: {said(lines, folder)}"
        rows.append(f"| {kind} | {what} | {before} | {now} |")
        print(rows[-1], flush=True)
    head = [
        "# The ten kinds of damaged and hostile input", "",
        f"`python experiments/hostile.py`: {len(CASES)} cases, {wrong or 'none'} of them wrong. "
        "\"Before\" is how wsiseg was found; seconds are of a machine with other work beside it.",
        "", "| kind | what | before | now |", "|---|---|---|---|",
    ]  # fmt: skip
    tests = ["", "| kind | tests of the whole kind, in tests/ |", "|---|---|"]
    tests += [f"| {kind} | {', '.join(f'`{t}`' for t in named.split(', '))} |"
              for kind, named in TESTS.items()]  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join([*head, *rows, *tests, ""]), encoding="utf-8")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
