"""Run 200 small slides in one process and check that memory, file handles and threads do not grow.

    python experiments/soak.py [--count 200] [--threshold-model] [--work DIR]

The script prints Markdown and writes it to experiments/results/soak.md. Its exit code is 1 if from
the tenth slide to the last memory grew by more than 5 %, or handles or threads by one. It needs
Linux, whose /proc it reads.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from wsi_pipeline.benchmark.threshold_model import make_threshold_model
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.machine import keep_freed_memory
from wsi_pipeline.pipeline import run_slide
from wsi_pipeline.segmentation.load_model import model_for
from wsi_pipeline.segmentation.model import Model
from wsi_pipeline.synthetic.svs_writer import plan_slide, write_slide

RESULTS = Path(__file__).parent / "results" / "soak.md"
SIZES = ((700, 900), (1203, 640), (512, 512), (1100, 1000), (810, 1190), (900, 700), (640, 1000))
FIRST, GROWTH = 10, 1.05


@dataclass(frozen=True)
class State:
    """What a process uses: bytes of memory, file handles, threads."""

    memory: int
    handles: int
    threads: int

    @classmethod
    def now(cls) -> State:
        """Read the numbers of this process from the kernel."""
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
        listed = [len(os.listdir(f"/proc/self/{kind}")) for kind in ("fd", "task")]
        return cls(pages * os.sysconf("SC_PAGE_SIZE"), *listed)


def slides(folder: Path, count: int) -> list[Path]:
    """Make `count` slide files; there are as many different slides as `SIZES`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    made = []
    for seed, (width, height) in enumerate(SIZES):
        made.append(folder / f"made{seed}.svs")
        write_slide(made[-1], plan_slide(width, height, mpp=0.5, seed=seed, tissue=0.6))
    paths = [folder / f"slide{n:04d}.svs" for n in range(count)]
    for n, path in enumerate(paths):
        path.hardlink_to(made[n % len(made)])
    return paths


def soak(paths: list[Path], out: Path, model: Model) -> list[State]:
    """Run all slides; return the state of the process after each one."""
    shutil.rmtree(out, ignore_errors=True)
    config = RunConfig(out=out, quiet=True)
    states = []
    for path in paths:
        result = run_slide(path, config, model=model)
        assert not result.failed and result.objects
        states.append(State.now())
    return states


def table(states: list[State]) -> str:
    """Return a Markdown table of about ten states, the last one included."""
    rows = ["| slides | memory MB | file handles | threads |", "|---|---|---|---|"]
    step = max(FIRST, len(states) // 10)
    for n in sorted({FIRST, *range(step, len(states) + 1, step), len(states)}):
        state = states[n - 1]
        rows.append(f"| {n} | {state.memory / 1e6:.1f} | {state.handles} | {state.threads} |")
    return "\n".join(rows)


def main() -> None:
    """Run the slides and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--threshold-model", action="store_true", help="use no network")
    parser.add_argument("--work", type=Path, default=Path("build/soak"))
    arguments = parser.parse_args()
    paths = slides(arguments.work / "slides", max(arguments.count, FIRST + 1))
    keep_freed_memory()  # as `wsiseg run` does on a CPU
    model = (
        make_threshold_model("dssnet")
        if arguments.threshold_model
        else model_for(RunConfig(device="cpu"))
    )
    began = time.perf_counter()
    states = soak(paths, arguments.work / "out", model)
    seconds = time.perf_counter() - began
    first, last = states[FIRST - 1], states[-1]
    growth = last.memory / first.memory
    passed = growth <= GROWTH and last.handles <= first.handles and last.threads <= first.threads
    text = (
        f"# {len(paths)} small slides in one process\n\n{model.name}, {seconds:.0f} s. From the "
        f"tenth slide to the last: memory {100 * (growth - 1):+.1f} % (allowed: +5 %), file "
        f"handles {last.handles - first.handles:+d}, threads {last.threads - first.threads:+d}: "
        f"{'passed' if passed else 'FAILED'}.\n\n{table(states)}\n"
    )
    print(text, end="")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text, encoding="utf-8")
    sys.exit(not passed)


if __name__ == "__main__":
    main()
