"""Measure what a run promises, on a large generated slide with the model that ships.

    python experiments/laws.py accuracy|cutting|killed|memory [--size 20000] [--work DIR]

Each part prints Markdown and appends it to experiments/results/laws.md. It takes minutes to an hour
on two cores.
"""

from __future__ import annotations

import argparse
import platform
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import shapely

from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.records import RunRecord
from wsi_pipeline.core.run_layout import PARQUET, one_run, read_run
from wsi_pipeline.evaluation.matching import match_objects
from wsi_pipeline.formats.geoparquet import read_parquet
from wsi_pipeline.synthetic.svs_writer import plan_slide, truth_objects, write_slide

RESULTS = Path(__file__).parent / "results" / "laws.md"
SEED = 2026
SETTINGS: list[str] = []
"""Options that every run gets."""
WSISEG = str(Path(sys.executable).with_name("wsiseg"))


def record(text: str) -> None:
    """Print `text` and append it to the results."""
    print(text, flush=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(text + "\n")


def slide(work: Path, size: int) -> Path:
    """Return the generated slide of `size` × `size` pixels; write it if it is not there yet."""
    path = work / f"slide{size}.svs"
    if not path.is_file():
        write_slide(path, plan_slide(size, size, seed=SEED))
    return path


def run(path: Path, out: Path, *arguments: str) -> tuple[Objects, RunRecord]:
    """Start `wsiseg run` in a process of its own; return its objects and its run.json."""
    command = [WSISEG, "run", str(path), "--out", str(out), *SETTINGS]
    subprocess.run([*command, "--quiet", *arguments], check=True)
    folder = one_run(out / path.stem)
    return read_parquet(folder / PARQUET), read_run(folder)


def sorted_(objects: Objects) -> Objects:
    """Sort objects by id."""
    return objects.take(np.lexsort(objects.ids.T))


def sameness(a: Objects, b: Objects) -> str:
    """Describe how equal two results are."""
    a, b = sorted_(a), sorted_(b)
    columns = ("ids", "class_index", "score", "coords", "ring_offsets")
    if all(np.array_equal(getattr(a, k), getattr(b, k)) for k in columns):
        return "identical to the last bit"
    match = match_objects(a, b, 0.5)
    rows = {tuple(r) for r in a.ids.tolist()} & {tuple(r) for r in b.ids.tolist()}
    pa, pb = a.polygons(), b.polygons()
    paired = [(pa[i], pb[j]) for i, j in match.pairs]
    equal = sum(shapely.equals_exact(p, q, 0) for p, q in paired)
    apart = max((shapely.hausdorff_distance(p, q) for p, q in paired), default=0.0)
    return (
        f"{len(rows)} of {len(a)} ids shared; {match.tp} matched, {match.fp} + {match.fn} not; "
        f"{equal} outlines identical, the others at most {apart:.2f} px apart, "
        f"IoU at least {min(match.iou, default=1):.4f}"
    )


def accuracy(work: Path, size: int) -> None:
    """Compare F1 and the number of objects with the truth."""
    found, summary = run(slide(work, size), work / "accuracy", "--overwrite")
    truth, _ = truth_objects(plan_slide(size, size, seed=SEED))
    match = match_objects(found, truth, 0.5)
    record(
        f"\n## Accuracy, {size}² generated slide, {len(truth)} nuclei\n\n"
        f"F1 {match.f1:.4f} at IoU 0.5 (precision {match.precision:.4f}, recall "
        f"{match.recall:.4f}, mean IoU of matches {match.sq:.4f}); count {len(found)}, "
        f"{100 * (len(found) / len(truth) - 1):+.2f} %. {summary['seconds']} s, "
        f"peak memory {summary['peak_memory_mb']} MB, stages {summary['stage_seconds']}."
    )


def cutting(work: Path, size: int) -> None:
    """Show that the result does not depend on tile size, batch size or number of workers."""
    path = slide(work, size)
    reference, _ = run(path, work / "accuracy")
    record(f"\n## Tile size, batch size and workers, {size}² slide\n")
    record("| settings | objects | s | against default |")
    record("|---|---|---|---|")
    for settings in (
        ("--tile-px", "512", "--batch", "8"),
        ("--tile-px", "256", "--batch", "8", "--workers", "1"),
    ):
        found, summary = run(path, work / "cutting", "--overwrite", *settings)
        same = sameness(reference, found)
        record(f"| {' '.join(settings)} | {len(found)} | {summary['seconds']} | {same} |")


def killed(work: Path, size: int, times: int = 10) -> None:
    """Kill a run at random moments (SIGKILL) and resume it, several times."""
    path = slide(work, size)
    reference, summary = run(path, work / "accuracy")
    out = work / "killed"
    shutil.rmtree(out, ignore_errors=True)
    command = [WSISEG, "run", str(path), "--out", str(out), *SETTINGS]
    rng = random.Random(SEED)
    survived, parts = 0, []
    for _ in range(times):
        process = subprocess.Popen([*command, "--quiet"])
        time.sleep(rng.uniform(2, 2.2 * summary["seconds"] / times + 8))
        survived += process.poll() is not None
        process.kill()
        process.wait()
        parts.append(len(list(out.glob("*/*/parts/*.npz"))))
    found, _ = run(path, out)
    record(
        f"\n## Killed, {size}² slide\n\nSIGKILL {times} times at random moments ({survived} after "
        f"the end), regions on disk after each: {parts}. Then rerun: {sameness(reference, found)}."
    )


def memory(work: Path, size: int) -> None:
    """Measure peak memory and time on slides of a quarter, the same and four times the area."""
    record("\n## Memory and time\n\n| slide | foreground Mpx | objects | s | s per Mpx | peak MB |")
    record("|---|---|---|---|---|---|")
    for side in (size // 2, size, 2 * size):
        _, summary = run(slide(work, side), work / "accuracy")  # done already where it was
        area = summary["foreground"]["share"] * side * side / 1e6
        record(
            f"| {side}² | {area:.0f} | {summary['objects']} | {summary['seconds']} | "
            f"{summary['seconds'] / area:.3f} | {summary['peak_memory_mb']} |"
        )


def main() -> None:
    """Run the parts that are named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("accuracy", "cutting", "killed", "memory"), nargs="+")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--size", type=int, default=20_000)
    parser.add_argument("--work", type=Path, default=Path("build/laws"))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    RESULTS.parent.mkdir(exist_ok=True)
    if not RESULTS.exists():
        record(
            f"# Laws of a run, measured\n\n{platform.processor() or platform.machine()}, 2 cores."
        )
    if arguments.precision != "auto":
        SETTINGS.extend(["--precision", arguments.precision])
        record(f"\n# Precision {arguments.precision}")
    for what in arguments.what:
        globals()[what](arguments.work, arguments.size)


if __name__ == "__main__":
    main()
