"""Run the workflow twice on twelve slides, two of them broken, and record what it did.

    python experiments/workflow_12.py FOLDER REAL.svs REAL_WITHOUT_MPP.svs [--cores N]

Eight slides of 1000 to 4000 px are generated in FOLDER; two broken files are added.
The script writes experiments/results/workflow.md.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
import time
from pathlib import Path

from wsi_pipeline.synthetic.svs_writer import plan_slide, write_slide

RESULTS = Path(__file__).parent / "results" / "workflow.md"
SIDES = (1000, 1400, 1800, 2200, 2600, 3000, 3500, 4000)


def make(folder: Path, real: Path, bare: Path) -> Path:
    """Make the folder of slides; return its sheet, which gives the pixel size of `bare`."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, side in enumerate(SIDES):
        path = folder / f"made-{side}.svs"
        if not path.exists():
            write_slide(path, plan_slide(side, side, mpp=0.5, seed=seed, tissue=0.5))
    for path in (real, bare):
        shutil.copy(path, folder)
    whole = (folder / "made-1000.svs").read_bytes()
    (folder / "truncated.svs").write_bytes(whole[: len(whole) // 3])
    (folder / "text.svs").write_text("these are words\n", encoding="utf-8")
    sheet = folder / "slides.csv"
    with sheet.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("slide", "mpp"))
        for path in sorted(folder.glob("*.svs")):
            rows.writerow((path.name, 0.25 if path.name == bare.name else ""))
    return sheet


def results(out: Path) -> dict[Path, int]:
    """Return the files that the workflow has written, with their times."""
    own = (".snakemake", "workflow")
    files = (p for p in out.rglob("*") if p.is_file() and p.relative_to(out).parts[0] not in own)
    return {path: path.stat().st_mtime_ns for path in files}


def main() -> None:
    """Make the slides, run the workflow twice, and write how long it took and how it ended."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("folder", type=Path)
    given.add_argument("real", type=Path)
    given.add_argument("bare", type=Path)
    given.add_argument("--cores", default="1")
    args = given.parse_args()
    sheet, out = make(args.folder, args.real, args.bare), args.folder / "out"
    wsiseg = Path(sys.executable).with_name("wsiseg")
    lines = [
        f"# Twelve slides, {args.cores} cores\n\nEight generated slides of {SIDES[0]} to "
        f"{SIDES[-1]} px, {args.real.name}, {args.bare.name}, one cut to a third, one text file.\n",
        "| | s | exit code | files written | last lines |",
        "|---|---|---|---|---|",
    ]
    for call in ("first", "the same again"):
        before, began = results(out), time.perf_counter()
        run = subprocess.run(
            [wsiseg, "workflow", sheet, out, "--cores", args.cores],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
        )  # fmt: skip
        seconds = time.perf_counter() - began
        written = sum(before.get(path) != when for path, when in results(out).items())
        *named, last = (
            ln for ln in run.stdout.splitlines() if ln.startswith("wsiseg: ") or " done, " in ln
        )
        causes = "".join(f"<br>{line.removeprefix('wsiseg: ')[:70]} …" for line in named)
        said = last.partition(";")[0] + causes
        lines.append(f"| {call} | {seconds:.1f} | {run.returncode} | {written} | {said} |")
        print("\n".join(run.stdout.splitlines()[-8:]), flush=True)
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
