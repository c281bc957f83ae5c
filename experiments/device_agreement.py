"""Compare the objects that a GPU finds on a generated slide with those of the processor.

    python experiments/device_agreement.py dssnet unet [--size 6000] [--device cuda] [--work DIR]

Each model runs on the CPU in float32, which is the reference, and on the device in float32 and in
bfloat16. An object is the same if it overlaps one of the reference by IoU 0.5 or more. All runs
start at the same time, so that no time is measured here. The table is printed, and appended to
results/device_agreement.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import shapely

from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.run_layout import PARQUET, one_run, read_run
from wsi_pipeline.evaluation.matching import match_objects
from wsi_pipeline.formats.geoparquet import read_parquet
from wsi_pipeline.synthetic.svs_writer import plan_slide, write_slide

RESULTS = Path(__file__).parent / "results" / "device_agreement.md"
COLUMNS = (
    "model", "on", "objects", "reference", "the same (F1)", "mean IoU", "IoU ≥ 0.9",
    "median change of area",
)  # fmt: skip


def start(slide: Path, out: Path, model: str, device: str, precision: str) -> subprocess.Popen[str]:
    """Start one run."""
    options = ["--model", model, "--device", device, "--precision", precision, "--quiet"]
    return subprocess.Popen(
        [sys.executable, "-m", "wsi_pipeline", "run", str(slide), "--out", str(out), *options],
        stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip


def compared(model: str, name: str, found: Objects, reference: Objects) -> str:
    """Return a row of the table."""
    match = match_objects(found, reference, 0.5)
    iou = np.array(match.iou)
    pairs = np.array(match.pairs)
    mine, other = (
        shapely.area(o.polygons()[i]) for o, i in ((found, pairs[:, 0]), (reference, pairs[:, 1]))
    )
    change = np.median(np.abs(mine / other - 1))
    cells = (
        model, name, len(found), len(reference), f"{match.tp} ({match.f1:.4f})",
        f"{iou.mean():.4f}", f"{(iou >= 0.9).mean():.2%}", f"{change:.2%}",
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Run all models on all devices and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--size", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--work", type=Path, default=Path("build/devices"))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    slide = given.work / f"slide{given.size}.svs"
    write_slide(slide, plan_slide(given.size, given.size, seed=given.seed))
    ways = (("cpu", "float32"), (given.device, "float32"), (given.device, "bfloat16"))
    runs = {
        (model, *way): start(slide, given.work / "_".join((model, *way)), model, *way)
        for model in given.models
        for way in ways
    }
    lines = [
        f"\n## {given.size}², seed {given.seed}\n",
        f"| {' | '.join(COLUMNS)} |",
        "|---" * 8 + "|",
    ]
    for key, process in runs.items():
        error = process.communicate()[1]
        if process.returncode:
            sys.exit(f"{key}: {error}")
    for model in given.models:
        folders = [one_run(given.work / "_".join((model, *way)) / slide.stem) for way in ways]
        reference = read_parquet(folders[0] / PARQUET)
        for way, folder in zip(ways[1:], folders[1:], strict=True):
            name = read_run(folder)["model"]["precision"]
            lines.append(
                compared(model, f"{way[0]}, {name}", read_parquet(folder / PARQUET), reference)
            )
    print("\n".join(lines))
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
