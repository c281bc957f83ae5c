"""Run the workflow on twelve slides, two of them broken, twice; print times and last words.

    python benchmarks/workflow_12.py FOLDER REAL.svs REAL_WITHOUT_MPP.svs [--cores N]

Eight slides of 1000 to 4000 px are generated in FOLDER; a truncated one and a text file join them.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
import time
from pathlib import Path

from wsi_pipeline.synth import plan_slide, write_slide

SIDES = (1000, 1400, 1800, 2200, 2600, 3000, 3500, 4000)


def make(folder: Path, real: Path, bare: Path) -> Path:
    """The folder of slides; its sheet, which gives `bare` its pixel size."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, side in enumerate(SIDES):
        path = folder / f"made-{side}.svs"
        if not path.exists():
            write_slide(path, plan_slide(side, side, mpp=0.5, seed=seed, tissue=0.5))
    for path in (real, bare):
        shutil.copy(path, folder)
    whole = (folder / "made-1000.svs").read_bytes()
    (folder / "truncated.svs").write_bytes(whole[: len(whole) // 3])
    (folder / "text.svs").write_text("these are words\n")
    sheet = folder / "slides.csv"
    with sheet.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("slide", "mpp"))
        for path in sorted(folder.glob("*.svs")):
            rows.writerow((path.name, 0.25 if path.name == bare.name else ""))
    return sheet


def main() -> None:
    """Make the slides, run twice, say how long each took and how it ended."""
    given = argparse.ArgumentParser()
    given.add_argument("folder", type=Path)
    given.add_argument("real", type=Path)
    given.add_argument("bare", type=Path)
    given.add_argument("--cores", default="1")
    args = given.parse_args()
    sheet, out = make(args.folder, args.real, args.bare), args.folder / "out"
    wsiseg = Path(sys.executable).with_name("wsiseg")
    for _ in range(2):
        began = time.perf_counter()
        run = subprocess.run(
            [wsiseg, "workflow", sheet, out, "--cores", args.cores],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        print(f"{time.perf_counter() - began:.0f} s, exit code {run.returncode}")
        print("\n".join(run.stdout.splitlines()[-8:]), flush=True)


if __name__ == "__main__":
    main()
