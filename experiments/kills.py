"""Kill wsiseg at random moments of every phase; repeat each command and compare its files.

    python experiments/kills.py [PHASE …] [--share 1.0] [--seed 0] [--work DIR]

Phases are those of a run (look, segment, stitch, write) with two kinds of models, export and
reports. Each command is a process, forked from this one, that SIGKILL ends when the phase begins or
at a random moment within it. After the kill, no file under its final name may differ from that of
an undisturbed run; after the same command ran again, none may be missing, left over or different.
Networks are the cheap ones of the tests. There are 100 kills. The script prints a table and writes
it to experiments/results/kills.md; the exit code is 1 if anything differed. It needs Linux.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import select
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import MappingProxyType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import cv2
import dask.threaded  # noqa: F401  (once, here, not in each process)
import torch
from cheap_models import cheap_models

from wsi_pipeline import pipeline
from wsi_pipeline.cli import main as cli
from wsi_pipeline.core.run_layout import PARTS, RUN_FILES, RUN_JSON, run_folder_path
from wsi_pipeline.formats import convert
from wsi_pipeline.reports import cohort, gallery, slide_report, slide_summary
from wsi_pipeline.runs import job, work_plan
from wsi_pipeline.synthetic.svs_writer import plan_slide, write_slide

RESULTS = Path(__file__).parent / "results" / "kills.md"
SIZE, REGION_PX, SEED = 1400, 256, 2026
LIMIT_S = 300.0
AT_ONCE = 0.25
"""Share of the kills that hit when the phase begins."""
CHANGING = ("seconds", "stage_seconds", "peak_memory_mb")
"""Members of run.json that differ between two undisturbed runs."""
ASIDE = re.compile(r"\.[0-9a-f]{8}\.part(/|$)")
"""Where in its path a file has the name of one that is being written."""

PHASES: Mapping[str, tuple[Any, str]] = MappingProxyType(
    {
        "look": (pipeline, "plan_work"),
        "segment": (pipeline, "segment_regions"),
        "stitch": (job, "duplicates"),
        "write": (pipeline, "finish"),
        "export": (convert, "export"),
        "features": (slide_summary, "write_features"),
        "report": (slide_report, "write_report"),
        "cohort": (cohort, "write_cohort"),
        "gallery": (gallery, "write_gallery"),
    }
)
"""By name: the module and function of which the phase is a call."""


@dataclass(frozen=True)
class Row:
    """A command, and how often it is killed in one of its phases.

    Attributes
    ----------
    words
        the command
    begins
        what the process tells when the phase begins
    """

    name: str
    phase: str
    kills: int
    words: tuple[str, ...]
    begins: str


def run_rows() -> Iterator[Row]:
    """Return the rows of runs: `donet` finds cells and stitches, `dssnet` writes while it runs."""
    for model, kills in (("donet", (8, 12, 14, 14)), ("dssnet", (6, 12, 0, 10))):
        for phase, number in zip(("look", "segment", "stitch", "write"), kills, strict=True):
            words = ("run", "slide.svs", "--out", "out", "--model", model, "--device", "cpu",
                     "--quiet")  # fmt: skip
            if number:
                stitched = phase == "write" and model == "donet"  # where stitching is a part of it
                begins = "end stitch" if stitched else f"begin {phase}"
                yield Row(f"run, {phase}, {model}", phase, number, words, begins)


def other_rows() -> Iterator[Row]:
    """Return the rows of commands that read the run of `donet`."""
    run = str(run_folder_path(Path("done"), "slide", "donet"))
    for ending in ("geojson.gz", "parquet", "coco.json", "ome.zarr"):
        words = ("export", run, f"out/cells.{ending}")
        yield Row(f"export, {ending}", "export", 3, words, "begin export")
    reports = {
        "features": (run, "--out", "out", "--quiet"),
        "report": (run, "--out", "out/page.html", "--image", "slide.svs", "--quiet"),
        "gallery": (run, "slide.svs", "--out", "out/gallery", "--quiet"),
        "cohort": ("out", "done", "--quiet"),
    }
    for name, words in reports.items():
        yield Row(name, name, 3, (name, *words), f"begin {name}")


# --- one process


def announced(name: str, call: Callable[..., Any], pipe: int) -> Callable[..., Any]:
    """Return a function that writes to a pipe when it begins, and when it has ended."""

    def told(*args: Any, **kwargs: Any) -> Any:
        os.write(pipe, f"begin {name}\n".encode())
        try:
            return call(*args, **kwargs)
        finally:
            os.write(pipe, f"end {name}\n".encode())

    return told


def work(words: tuple[str, ...], pipe: int, log: Path) -> None:
    """Run a command of wsiseg in this process, and tell where it is."""
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(target, descriptor)
    work_plan.REGION_PX = REGION_PX
    for name, (module, function) in PHASES.items():
        setattr(module, function, announced(name, getattr(module, function), pipe))
    sys.argv = ["wsiseg", *words]
    with cheap_models():
        cli.main()


@dataclass
class Running:
    """A command in a process of its own, and what it told."""

    words: tuple[str, ...]
    told: list[tuple[float, str]] = field(default_factory=list)
    process: BaseProcess = field(init=False)

    def __post_init__(self) -> None:
        self._pipe, writing = os.pipe()
        self._rest = b""
        self.process = get_context("fork").Process(
            target=work, args=(self.words, writing, Path("log.txt").absolute())
        )
        self.process.start()
        os.close(writing)

    def read(self, seconds: float) -> bool:
        """Read what the process tells within a time; return whether it may tell more."""
        ready = select.select([self._pipe], [], [], max(seconds, 0))[0]
        if not ready:
            return True
        chunk = os.read(self._pipe, 65536)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        self.told += [(time.perf_counter(), line.decode()) for line in lines]
        return bool(chunk)

    def said(self, line: str) -> bool:
        """Return whether the process has told this."""
        return any(line == told for _, told in self.told)

    def finish(self) -> int:
        """Wait for the end; return the exit code."""
        until = time.perf_counter() + LIMIT_S
        while self.read(until - time.perf_counter()):
            if time.perf_counter() > until:
                self.process.kill()
                raise SystemExit(f"{self.words} hangs")
        self.process.join()
        os.close(self._pipe)
        return int(self.process.exitcode or 0)

    def kill_in(self, row: Row, seconds: float) -> bool:
        """Kill the process some time after a phase began; return whether it was in the phase."""
        more = True
        while more and not self.said(row.begins):
            more = self.read(LIMIT_S)
        if not more:
            raise SystemExit(f"{row.name}: no such phase: {Path('log.txt').read_text('utf-8')}")
        time.sleep(seconds)
        self.process.kill()
        self.finish()
        return not self.said(f"end {row.phase}")

    def length(self, row: Row) -> float:
        """Return how long a phase took."""
        at = {line: seconds for seconds, line in self.told}
        return at[f"end {row.phase}"] - at[row.begins]


def logged() -> str:
    """Return what the last process wrote."""
    return Path("log.txt").read_text("utf-8", "replace").strip()


def complete(words: tuple[str, ...]) -> Running:
    """Run a command to its end, which must be a success."""
    running = Running(words)
    if code := running.finish():
        raise SystemExit(f"{words} ended with {code}: {Path('log.txt').read_text('utf-8')}")
    return running


# --- what is compared


def contents(folder: Path) -> dict[str, str]:
    """Return path → SHA-256 of each file, but for times and memory in run.json."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        if path.name == RUN_JSON:
            record = {k: v for k, v in json.loads(data).items() if k not in CHANGING}
            data = json.dumps(record).encode()
        found[path.relative_to(folder).as_posix()] = hashlib.sha256(data).hexdigest()
    return found


@dataclass
class Outcome:
    """What the kills of one row left and what the same command made of it."""

    kills: int = 0
    codes: set[int] = field(default_factory=set)
    kept: list[int] = field(default_factory=list)
    final: int = 0
    asides: int = 0
    faults: list[str] = field(default_factory=list)

    def line(self, row: Row) -> str:
        """Return the row of the table."""
        kept = f"{min(self.kept)} to {max(self.kept)}" if row.words[0] == "run" else "–"
        codes = ", ".join(map(str, sorted(self.codes)))
        wrong = "; ".join(sorted(set(self.faults))) or "none"
        cells = (row.name, self.kills, codes, kept, self.final, self.asides, wrong)
        return f"| {' | '.join(map(str, cells))} |"


def is_aside(name: str) -> bool:
    """Return whether a file was being written."""
    return bool(ASIDE.search(name))


def left(found: Mapping[str, str], expected: Mapping[str, str], row: Row) -> Iterator[str]:
    """Yield what is wrong with the files that a killed process left."""
    working = rf"/({PARTS}/.*|lock\.json.*)$" if row.words[0] == "run" else "$^"
    for name, digest in found.items():
        if is_aside(name) or re.search(working, f"/{name}"):
            continue
        if expected.get(name) != digest:
            yield f"{name} is not whole after the kill"


def repeated(found: Mapping[str, str], expected: Mapping[str, str], row: Row) -> Iterator[str]:
    """Yield how files differ from those of an undisturbed run, after the command ran again."""
    if row.words[0] != "run":  # what a killed process was writing stays beside the file
        found = {name: digest for name, digest in found.items() if not is_aside(name)}
    for name in {*found, *expected}:
        if name not in expected:
            yield f"{name} is left over"
        elif found.get(name) != expected[name]:
            yield f"{name} {'differs' if name in found else 'is missing'}"


def trial(row: Row, seconds: float, expected: Mapping[str, str], outcome: Outcome) -> bool:
    """Kill once, repeat the command, compare; return whether the kill hit the phase."""
    out = empty_out()
    running = Running(row.words)
    if not running.kill_in(row, seconds):
        return False
    outcome.kills += 1
    outcome.codes.add(int(running.process.exitcode or 0))
    outcome.kept.append(len(list(out.rglob(f"{PARTS}/*.npz"))))
    found = contents(out)
    finals = RUN_FILES if row.words[0] == "run" else [Path(n).name for n in expected]
    outcome.final += any(Path(n).name in finals and Path(n).name != "plan.json" for n in found)
    outcome.asides += any(map(is_aside, found))
    outcome.faults += left(found, expected, row)
    again = Running(row.words)
    if code := again.finish():
        outcome.faults.append(
            f"exit code {code}: {Path('log.txt').read_text('utf-8').strip()[-200:]}"
        )
    outcome.faults += repeated(contents(out), expected, row)
    return True


def empty_out() -> Path:
    """Return the folder of results, empty."""
    path = Path("out")
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path


def kill_often(row: Row, kills: int, rng: random.Random) -> Outcome:
    """Kill a command several times in one phase."""
    out, found = empty_out(), []
    for _ in range(2):  # the first one reads files that the others find in the cache
        out = empty_out()
        seconds = complete(row.words).length(row)
        found.append(contents(out))
    outcome = Outcome()
    for name in {*found[0], *found[1]}:
        if found[0].get(name) != found[1].get(name):
            outcome.faults.append(f"{name} differs without a kill")
    for _ in range(kills * 5):
        if outcome.kills == kills:
            return outcome
        at_once = outcome.kills < AT_ONCE * kills
        trial(row, 0 if at_once else rng.random() * seconds, found[1], outcome)
    raise SystemExit(f"{row.name}: the phase is over before the kill")


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work inside a new folder: where commands are run is the same for all."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def prepare() -> None:
    """Make the slide, and the run that other commands read."""
    child = get_context("fork").Process(
        target=write_slide,
        args=(Path("slide.svs"), plan_slide(SIZE, SIZE, mpp=0.5, seed=SEED, tissue=0.7)),
    )
    child.start()
    child.join()
    complete(("run", "slide.svs", "--out", "done", "--model", "donet", "--device", "cpu"))


def main() -> int:
    """Kill the commands that are named on the command line in their phases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("phases", nargs="*", metavar="PHASE", help=f"of {', '.join(PHASES)}; all")
    parser.add_argument("--share", type=float, default=1.0, help="share of the 100 kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("build/kills"))
    given = parser.parse_args()
    cv2.setNumThreads(0)  # a forked process waits for ever for threads that it does not have
    torch.set_num_threads(1)
    rows = [r for r in (*run_rows(), *other_rows()) if r.phase in (given.phases or PHASES)]
    lines = [
        "| command, phase, model | kills | exit codes | regions kept | with final files "
        "| with files half written | after the same command: faults |",
        "|---|---|---|---|---|---|---|",
    ]
    began, outcomes = time.perf_counter(), []
    with inside(given.work.absolute()):
        prepare()
        for row in rows:
            kills = max(1, round(row.kills * given.share))
            outcomes.append(kill_often(row, kills, random.Random(f"{given.seed} {row.name}")))
            lines.append(outcomes[-1].line(row))
            print(lines[-1], flush=True)
    kills, wrong = sum(o.kills for o in outcomes), sum(bool(o.faults) for o in outcomes)
    seconds = time.perf_counter() - began
    head = (
        f"# Kills in every phase\n\n`python experiments/kills.py --seed {given.seed}`: {kills} "
        f"kills (SIGKILL) of `wsiseg` on a generated slide of {SIZE}² pixels, {REGION_PX} px to a "
        f"region, {seconds:.0f} s. After each the same command ran again, and all its files were "
        f"compared with those of an undisturbed run: {wrong or 'no'} rows differ. A quarter of the "
        "kills hit when the phase begins, the others at a random moment within it."
    )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join([head, "", *lines, ""]), encoding="utf-8")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
