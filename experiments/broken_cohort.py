"""Run a cohort of 40 files of which 25 are broken; compare its memory with that of 15 whole ones.

    python experiments/broken_cohort.py [--times 3] [--work DIR]

The files are those of tests/batch/test_broken_cohort.py. Each run is a process of its own with the
cheap networks of the tests; every 10 ms its memory and that of its children are added up. The
script prints a table and writes it to experiments/results/broken_cohort.md. Its exit code is 1 if
the broken files raised the peak by more than 64 MB, if a slide ended otherwise than it should, or
if a process or a temporary file was left. It needs Linux.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "batch"))

import psutil
from cheap_models import cheap_models
from test_broken_cohort import BROKEN, GOOD, broken

from wsi_pipeline.cli import main as cli
from wsi_pipeline.core.run_layout import RUN_FILES, find_runs, read_run
from wsi_pipeline.synthetic.svs_writer import plan_slide, write_slide

RESULTS = Path(__file__).parent / "results" / "broken_cohort.md"
LIMIT_S, MOST_MB = 900.0, 64
CHILD = "--child"


@dataclass(frozen=True)
class Ended:
    """How a cohort ended.

    Attributes
    ----------
    done, named
        slides with a complete run, and broken files that a line of an error names
    others
        lines that are no error of ours
    peak_mb
        most memory of the process and its children
    left
        processes and files that are no result
    """

    code: int
    done: int
    named: int
    others: int
    seconds: float
    peak_mb: float
    left: int


def make(folder: Path) -> tuple[Path, Path]:
    """Write the slides; return a sheet of the whole ones, and one of all."""
    shutil.rmtree(folder, ignore_errors=True)
    slides = folder / "slides"
    slides.mkdir(parents=True)
    whole = folder / "whole.svs"
    write_slide(whole, plan_slide(768, 768, mpp=0.5, seed=3, tissue=0.9))
    bad = broken(slides, whole)
    good = [f"whole{number:02}.svs" for number in range(GOOD)]
    for name in good:
        shutil.copy(whole, slides / name)
    sheets = []
    for title, names in (("good", good), ("all", sorted([*good, *bad], key=lambda n: n[::-1]))):
        sheets.append(folder / f"{title}.csv")
        lines = [f"slides/{name},0.5\n" for name in names]
        sheets[-1].write_text("slide,mpp\n" + "".join(lines), encoding="utf-8")
    return sheets[0], sheets[1]


def measure(sheet: Path) -> Ended:
    """Run a cohort in a process of its own."""
    out, temporary = sheet.with_suffix(".out"), sheet.with_suffix(".tmp")
    for path in (out, temporary):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
    began, peak = time.perf_counter(), 0
    with open(sheet.with_suffix(".log"), "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, CHILD, str(sheet), str(out)],
            stderr=log, start_new_session=True, env={**os.environ, "TMPDIR": str(temporary)},
        )  # fmt: skip
        while process.poll() is None and time.perf_counter() - began < LIMIT_S:
            peak = max(peak, memory(process.pid))
            time.sleep(0.01)
        process.kill()
        process.wait()
    seconds = time.perf_counter() - began
    lines = sheet.with_suffix(".log").read_text("utf-8").splitlines()
    bad = [path.name for path in (sheet.parent / "slides").iterdir() if "whole" not in path.name]
    runs = [read_run(run) for run in find_runs(out)]
    files = [p for p in out.rglob("*") if p.is_file() and p.name not in RUN_FILES]
    left = [p for p in files if not p.name.endswith(".failed.json")]  # the causes of a slide
    left += list(temporary.rglob("*"))
    return Ended(
        process.returncode, sum(not run["failed_regions"] for run in runs),
        sum(any(name in line for line in lines) for name in bad),
        sum(not line.startswith("wsiseg: ") for line in lines),
        seconds, peak / 1e6, len(left) + session(process.pid),
    )  # fmt: skip


def memory(pid: int) -> int:
    """Return the bytes of memory of a process and its children."""
    try:
        process = psutil.Process(pid)
        return sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))
    except psutil.NoSuchProcess:
        return 0


def session(leader: int) -> int:
    """Return the number of processes that are left of a session."""
    left = 0
    for process in psutil.process_iter():
        try:
            left += os.getsid(process.pid) == leader
        except OSError:
            continue
    return left


def table(found: dict[str, list[Ended]], wrong: list[str]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# A cohort of 40 files of which 25 are broken", "",
        "`python experiments/broken_cohort.py`, cheap networks in place of the real ones, on a "
        f"machine with other work beside it: {'; '.join(wrong) or 'as it should be'}. Memory is "
        "the most that the process and its children had together.", "",
        "| files | exit code | slides done | broken files named | other lines | s | memory MB "
        "| left over |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, runs in found.items():
        for run in runs:
            cells = (name, run.code, run.done, run.named, run.others, f"{run.seconds:.0f}",
                     f"{run.peak_mb:.0f}", run.left or "nothing")  # fmt: skip
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run both cohorts several times."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("build/broken_cohort"))
    given = parser.parse_args()
    good, everything = make(given.work.absolute())
    found: dict[str, list[Ended]] = {f"{GOOD} whole": [], f"{GOOD} whole, 25 broken": []}
    for _ in range(given.times):
        for name, sheet in zip(found, (good, everything), strict=True):
            found[name].append(measure(sheet))
            print(name, found[name][-1], flush=True)
    whole, mixed = found.values()
    more = max(run.peak_mb for run in mixed) - max(run.peak_mb for run in whole)
    wrong = [f"memory {more:+.0f} MB (allowed: {MOST_MB})"] if more > MOST_MB else []
    wrong += ["a file ended otherwise"] * any(
        (run.code, run.done, run.named) != (int(bad), GOOD, BROKEN * bad)
        for bad, runs in ((False, whole), (True, mixed))
        for run in runs
    )
    wrong += ["other lines"] * any(run.others for run in (*whole, *mixed))
    wrong += ["something is left"] * any(run.left for run in (*whole, *mixed))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(table(found, wrong), encoding="utf-8")
    return len(wrong) > 0


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        sys.argv = ["wsiseg", "run", sys.argv[2], "--out", sys.argv[3], "--quiet"]
        with cheap_models():
            cli.main()
    sys.exit(main())
