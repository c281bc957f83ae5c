"""Measure how well whole, overlapping cells are found on a generated slide with known truth.

    python experiments/cells.py accuracy|seams|tiles --model donet [--checkpoint FILE] [--size 8000]

Each part prints Markdown and appends it to experiments/results/cells.md. Two cells overlap by at
most half of the smaller one. It takes minutes on two cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.records import RunRecord
from wsi_pipeline.core.run_layout import PARQUET, one_run, read_run
from wsi_pipeline.evaluation.cell_metrics import polygon_ap, score_cells
from wsi_pipeline.evaluation.matching import match_objects
from wsi_pipeline.formats.geoparquet import read_parquet
from wsi_pipeline.synthetic.svs_writer import plan_slide, truth_objects, write_slide

RESULTS = Path(__file__).parent / "results" / "cells.md"
WSISEG = str(Path(sys.executable).with_name("wsiseg"))
TILES = (512, 384)


def record(text: str) -> None:
    """Print `text` and append it to the results."""
    print(text, flush=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(text + "\n")


class Bench:
    """A generated slide and the model that runs on it."""

    def __init__(self, work: Path, size: int, seed: int, model: list[str]) -> None:
        self.plan = plan_slide(size, size, seed=seed, max_overlap=0.5)
        self.path, self.work, self.model = work / f"cells{size}-{seed}.svs", work, model
        if not self.path.is_file():
            write_slide(self.path, self.plan)

    def run(self, name: str, *arguments: str) -> tuple[Objects, RunRecord]:
        """Start `wsiseg run` in a process of its own; return its objects and its run.json."""
        out = self.work / name
        command = [WSISEG, "run", str(self.path), "--out", str(out), "--quiet", "--overwrite"]
        subprocess.run([*command, *self.model, *arguments], check=True)
        folder = one_run(out / self.path.stem)
        return read_parquet(folder / PARQUET), read_run(folder)


def of_class(objects: Objects, name: str) -> Objects:
    """Return the objects of one class."""
    return objects.take(objects.class_index == objects.classes.index(name))


def accuracy(bench: Bench) -> None:
    """Compare cells, nuclei and the links between them with the truth."""
    everything, _ = bench.run("all", "--min-score", "0.05", "--min-small-score", "0.05")
    found, summary = bench.run("default")
    nuclei, cells = truth_objects(bench.plan)
    scores = score_cells(found, nuclei, cells, bench.plan.nucleus_cell)
    ap = {t: polygon_ap(of_class(everything, "cell"), cells, t) for t in (0.5, 0.75)}
    record(
        f"\n## Accuracy: {len(cells)} cells, {len(nuclei)} nuclei on {bench.plan.width}²\n\n"
        f"Cell AP50 {ap[0.5]:.4f}, AP75 {ap[0.75]:.4f} (score 0.05 or more). At the default score "
        f"cut: {', '.join(f'{k} {v:.4g}' for k, v in scores.items())}. "
        f"{summary['seconds']} s, {summary['peak_memory_mb']} MB."
    )


def straight(objects: Objects, lines: NDArray[np.float64], reach: float) -> float:
    """Return the length of outline, in level-0 px, that runs along lines of both axes."""
    inner = np.delete(np.arange(len(objects.coords) - 1), objects.ring_offsets[1:-1] - 1)
    a, b = objects.coords[inner], objects.coords[inner + 1]
    total = 0.0
    for axis in (0, 1):
        for x in lines:
            on = (np.abs(a[:, axis] - x) < reach) & (np.abs(b[:, axis] - x) < reach)
            total += float(np.abs(b - a)[on, 1 - axis].sum())
    return total


def seams(bench: Bench) -> None:
    """Check whether outlines are straight along tile borders more often than elsewhere."""
    found, summary = bench.run("default")
    scale = summary["model"]["mpp"] / summary["slide"]["mpp"]["x"]
    step = TILES[0] * scale
    lines = np.arange(step, bench.plan.width, step)
    shifted = [straight(found, lines + step * k / 9, scale) for k in range(1, 9)]
    record(
        f"\n## Seams\n\nOutline along tile borders {straight(found, lines, scale):.0f} px, along "
        f"the same lines moved by 1/9 … 8/9 of a tile {min(shifted):.0f} to {max(shifted):.0f}, "
        f"mean {np.mean(shifted):.0f}; {len(found)} objects."
    )


def tiles(bench: Bench) -> None:
    """Compare the cells of two tile sizes."""
    (a, _), (b, _) = (bench.run(f"tile{t}", "--tile-px", str(t)) for t in TILES)
    record(f"\n## Tiles of {TILES[0]} and {TILES[1]}\n")
    for name in ("cell", "nucleus"):
        mine, other = of_class(a, name), of_class(b, name)
        match = match_objects(mine, other, 0.5)
        iou = np.array(match.iou)
        record(
            f"- {name}: {len(mine)} and {len(other)}, {match.tp} the same (F1 {match.f1:.4f}), "
            f"their IoU {iou.mean():.4f} on average, at least 0.9 for {(iou >= 0.9).mean():.2%}"
        )


def main() -> None:
    """Run the parts that are named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["accuracy", "seams", "tiles"], nargs="+")
    parser.add_argument("--model", default="donet")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--size", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=4041)
    parser.add_argument("--work", type=Path, default=Path("build/cells"))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    model = ["--model", given.model]
    if given.checkpoint:
        model = ["--checkpoint", str(given.checkpoint)]
    bench = Bench(given.work, given.size, given.seed, model)
    record(f"\n# {' '.join(model)}")
    for what in given.what:
        {"accuracy": accuracy, "seams": seams, "tiles": tiles}[what](bench)


if __name__ == "__main__":
    main()
