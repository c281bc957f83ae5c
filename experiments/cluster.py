"""Run one slide in one process, on a local Dask cluster, and on one whose workers are killed.

    python experiments/cluster.py [--size 20000] [--workers 3] [--every 20] [--threshold-model]

The scheduler and the workers are processes of their own. In the third run a worker is killed with
SIGKILL every --every seconds, and Dask starts another one. The script prints Markdown and appends
it to experiments/results/cluster.md.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from wsi_pipeline.core.machine import usable_cores
from wsi_pipeline.core.run_layout import GEOJSON, OVERLAY, PARQUET, THUMBNAIL, one_run, read_run
from wsi_pipeline.formats.geoparquet import read_parquet
from wsi_pipeline.synthetic.svs_writer import plan_slide, write_slide

RESULTS = Path(__file__).parent / "results" / "cluster.md"
SEED = 2026
FILES = (PARQUET, GEOJSON, OVERLAY, THUMBNAIL)
WITHOUT_NETWORK = """
import sys
from pathlib import Path
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.pipeline import run_slide
from wsi_pipeline.benchmark.threshold_model import make_threshold_model
path, out, scheduler = sys.argv[1:]
config = RunConfig(out=Path(out), scheduler=scheduler or None, quiet=True)
sys.exit(bool(run_slide(path, config, model=make_threshold_model("dssnet")).failed))
"""


@dataclass
class Bench:
    """A generated slide, and whether a threshold takes the place of the network."""

    path: Path
    work: Path
    threshold_model: bool

    def run(self, name: str, scheduler: str = "") -> dict[str, Any]:
        """Run in a process of its own; return run.json and the seconds of the whole process."""
        out = self.work / name
        shutil.rmtree(out, ignore_errors=True)
        began = time.perf_counter()
        if self.threshold_model:
            command = [sys.executable, "-c", WITHOUT_NETWORK, str(self.path), str(out), scheduler]
        else:
            wsiseg = str(Path(sys.executable).with_name("wsiseg"))
            command = [wsiseg, "run", str(self.path), "--out", str(out), "--quiet"]
            command += ["--scheduler", scheduler] if scheduler else []
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - began
        return {**read_run(one_run(out)), "process_seconds": seconds}

    def same(self, name: str) -> str:
        """Describe how equal a run's files are to those of the first run."""
        a, b = (one_run(self.work / n) for n in ("serial", name))
        equal, _, _ = filecmp.cmpfiles(a, b, FILES, shallow=False)
        if len(equal) == len(FILES):
            return "all files identical, byte for byte"
        ids = [{tuple(i) for i in read_parquet(f / PARQUET).ids.tolist()} for f in (a, b)]
        return (
            f"{len(equal)} of {len(FILES)} files identical; {len(ids[0] & ids[1])} ids shared, "
            f"{len(ids[0] - ids[1])} only in the serial run, {len(ids[1] - ids[0])} only here"
        )


@contextlib.contextmanager
def cluster(folder: Path, workers: int) -> Iterator[tuple[str, int]]:
    """Start a cluster; yield the scheduler file and the process id of the workers' parent."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    file = str((folder / "scheduler.json").absolute())
    base = [sys.executable, "-m", "dask"]
    common = ["--scheduler-file", file, "--host", "127.0.0.1", "--no-dashboard"]
    worker = ["worker", "--nworkers", str(workers), "--nthreads", "1", "--memory-limit", "0"]
    processes = []
    with (folder / "log.txt").open("wb") as log:
        for command in (["scheduler", "--port", "0"], [*worker, "--local-directory", str(folder)]):
            process = subprocess.Popen([*base, *command, *common], stdout=log, stderr=log)
            processes.append(process)
    try:
        while not Path(file).is_file():
            time.sleep(0.1)
        yield file, processes[1].pid
    finally:
        for process in reversed(processes):
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            process.wait()


@contextlib.contextmanager
def killing(parent: int, every: float) -> Iterator[list[float]]:
    """Kill one worker every `every` seconds; yield the list of moments."""
    done, moments, began = threading.Event(), list[float](), time.perf_counter()
    rng = random.Random(SEED)

    def kill() -> None:
        while not done.wait(every):
            # A nanny has one more child beside the worker, which tracks its resources.
            children = psutil.Process(parent).children(recursive=True)
            alive = [c for c in children if "spawn_main" in " ".join(c.cmdline())]
            if alive:
                rng.choice(alive).kill()
                moments.append(time.perf_counter() - began)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield moments
    finally:
        done.set()
        thread.join()


def main() -> None:
    """Do the three runs and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=20000)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between kills")
    parser.add_argument("--threshold-model", action="store_true", help="use no network")
    parser.add_argument("--work", type=Path, default=Path("build/cluster"))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    path = given.work / f"slide{given.size}.svs"
    if not path.is_file():
        write_slide(path, plan_slide(given.size, given.size, seed=SEED))
    bench = Bench(path.absolute(), given.work.absolute(), given.threshold_model)
    rows = [("one process", bench.run("serial"), "–", 0)]
    with cluster(bench.work / "dask", given.workers) as (file, _):
        named = f"1 scheduler and {given.workers} workers"
        rows.append((named, bench.run("cluster", file), bench.same("cluster"), 0))
    with cluster(bench.work / "dask", given.workers) as (file, parent):
        with killing(parent, given.every) as moments:
            summary = bench.run("killed", file)
        named = f"the same, a worker killed every {given.every:g} s"
        rows.append((named, summary, bench.same("killed"), len(moments)))
    network = "a threshold in place of the network" if given.threshold_model else "dssnet"
    lines = [
        f"\n# {given.size} × {given.size}, {network}, {usable_cores()} cores\n",
        "| | objects | regions, failed | killed | s | result |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {s['objects']} | {s['regions']}, {len(s['failed_regions'])} | {kills} "
        f"| {s['process_seconds']:.1f} | {same} |"
        for name, s, same, kills in rows
    ]
    print("\n".join(lines), flush=True)
    with RESULTS.open("a", encoding="utf-8") as out:
        out.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
