"""Inject every fault into `wsiseg run`, several times; measure what is lost and how long it takes.

    python experiments/faults.py [NAME …] [--times 3] [--network] [--work DIR]

Each run is a process of its own on a generated slide in 64 regions. A threshold takes the place of
the network unless --network is given. After each fault the same command runs again, and its objects
are compared with those of an undisturbed run. The script prints a table and writes it to
experiments/results/faults.md. Full and read-only disks are real if the user may mount file systems.
It needs Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import tifffile

from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.run_layout import LOCK_JSON, PARQUET, PARTS, read_run, run_folder_path
from wsi_pipeline.formats.geoparquet import read_parquet
from wsi_pipeline.runs.lock_owner import LockOwner
from wsi_pipeline.synthetic.svs_writer import plan_slide, write_slide

RESULTS = Path(__file__).parent / "results" / "faults.md"
RUN = Path(__file__).with_name("faulty_run.py")
SIZE, SEED = 2000, 2026
AS_ROOT = getattr(os, "geteuid", lambda: 1)() == 0
LIMIT_S = 1800.0
"""Longer than any run takes, also on a machine that is busy with something else."""


# --- faults


@dataclass
class Trial:
    """One run of the slide that is disturbed."""

    slide: Path
    out: Path
    network: bool
    random: random.Random

    @property
    def folder(self) -> Path:
        """The run folder."""
        model = "dssnet" if self.network else "threshold"
        return run_folder_path(self.out, self.slide.stem, model)

    def start(self, fault: str = "", *more: str) -> subprocess.Popen[str]:
        """Start the command in a process of its own."""
        command = [sys.executable, str(RUN), fault, *(["--network"] * self.network)]
        command += ["--", str(self.slide), "--out", str(self.out), "--quiet"]
        return subprocess.Popen([*command, *more], stderr=subprocess.PIPE, encoding="utf-8")

    def finish(self, fault: str = "", *more: str) -> int:
        """Run the command to its end; return the exit code."""
        process = self.start(fault, *more)
        self.message = process.communicate(timeout=LIMIT_S)[1]
        return process.returncode

    def done(self) -> int:
        """Return the number of regions on disk."""
        return len(list((self.folder / PARTS).glob("*.npz")))

    def half_way(self, process: subprocess.Popen[str]) -> None:
        """Wait until a random number of regions is on disk."""
        some = self.random.randint(1, 30)
        while self.done() < some and process.poll() is None:
            time.sleep(0.005)

    def objects(self) -> Objects:
        """Read the objects, sorted by id."""
        found = read_parquet(self.folder / PARQUET)
        return found.take(np.lexsort(found.ids.T))


Fault = Callable[[Trial], tuple[int, ...]]
FAULTS: dict[str, tuple[str, str, Fault]] = {}
"""By name: the fault, how it is injected, and the function that does it and returns exit codes."""


def fault(name: str, what: str, how: str) -> Callable[[Fault], Fault]:
    """Add a fault to the table."""

    def enter(function: Fault) -> Fault:
        FAULTS[name] = what, how, function
        return function

    return enter


def disturbed(trial: Trial, act: Callable[[subprocess.Popen[str]], None]) -> tuple[int, ...]:
    """Run, and call `act` half way."""
    process = trial.start()
    trial.half_way(process)
    act(process)
    trial.message = process.communicate(timeout=LIMIT_S)[1]
    return (process.returncode,)


@fault("kill", "process killed, lock left behind", "SIGKILL at a random region")
def _kill(trial: Trial) -> tuple[int, ...]:
    return disturbed(trial, lambda process: process.kill())


@fault("term", "asked to stop", "SIGTERM at a random region")
def _term(trial: Trial) -> tuple[int, ...]:
    return disturbed(trial, lambda process: process.terminate())


@fault("int", "Ctrl-C", "SIGINT at a random region")
def _int(trial: Trial) -> tuple[int, ...]:
    return disturbed(trial, lambda process: process.send_signal(signal.SIGINT))


@fault("two", "two runs on the same output", "the same command started twice at once")
def _two(trial: Trial) -> tuple[int, ...]:
    both = [trial.start(), trial.start()]
    for process in both:
        process.communicate(timeout=LIMIT_S)
    return tuple(sorted(process.returncode for process in both))


@fault("elsewhere", "machine lost that held the lock", "lock.json of another machine, an hour old")
def _elsewhere(trial: Trial) -> tuple[int, ...]:
    codes = disturbed(trial, lambda process: process.kill())
    left = replace(LockOwner.this_process(), machine="another", host="node17")
    path = trial.folder / LOCK_JSON
    path.write_text(json.dumps(asdict(left)), encoding="utf-8")
    os.utime(path, (time.time() - 3600,) * 2)
    return codes


@fault("full", "disk full", "a small file system filled up at a random region")
def _full(trial: Trial) -> tuple[int, ...]:
    filler = trial.out / "filler"
    with small_disk(trial.out) as real:
        if not real:
            return _kill(trial)

        def fill(process: subprocess.Popen[str]) -> None:
            with open(filler, "wb", buffering=0) as file:
                try:
                    while file.write(bytes(2**16)):
                        pass
                except OSError:
                    pass

        codes = disturbed(trial, fill)
        filler.unlink()
        kept = trial.out.with_name("kept")
        shutil.copytree(trial.out, kept)
    shutil.rmtree(trial.out)
    kept.rename(trial.out)
    return codes


@contextmanager
def small_disk(path: Path) -> Iterator[bool]:
    """Mount a file system of 64 MB at `path`; yield whether the user may do so."""
    path.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(path)]
    real = subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield real
    finally:
        if real:
            subprocess.run(["umount", str(path)], check=True)


@fault("read-only", "folder becomes read-only", "chattr +i, or chmod where not root, at a region")
def _read_only(trial: Trial) -> tuple[int, ...]:
    parts = trial.folder / PARTS

    def protect(process: subprocess.Popen[str]) -> None:
        parts.chmod(0o555)
        if AS_ROOT:
            subprocess.run(["chattr", "+i", str(parts)], check=True)

    codes = disturbed(trial, protect)
    if AS_ROOT:
        subprocess.run(["chattr", "-i", str(parts)], check=True)
    parts.chmod(0o755)
    return codes


@fault("gone", "slide removed while read", "cut to a third and unlinked at a random region")
def _gone(trial: Trial) -> tuple[int, ...]:
    whole = trial.slide.read_bytes()

    def remove(process: subprocess.Popen[str]) -> None:
        os.truncate(trial.slide, len(whole) // 3)
        trial.slide.unlink()

    codes = disturbed(trial, remove)
    trial.slide.write_bytes(whole)
    return codes


@fault("stall", "network drive stalls", "two reads that never answer; --read-timeout-s 5")
def _stall(trial: Trial) -> tuple[int, ...]:
    return (trial.finish("stall", "--read-timeout-s", "5"),)


@fault("tile", "corrupt tile", "zeros in place of a random tile, repaired later")
def _tile(trial: Trial) -> tuple[int, ...]:
    whole = trial.slide.read_bytes()
    with tifffile.TiffFile(trial.slide) as tiff:
        page = tiff.pages[0]
        number = trial.random.randrange(len(page.dataoffsets))
        at, size = page.dataoffsets[number], page.databytecounts[number]
    trial.slide.write_bytes(whole[:at] + bytes(size) + whole[at + size :])
    codes = (trial.finish(),)
    trial.slide.write_bytes(whole)
    return codes


@fault("memory", "GPU out of memory", "no memory for more than two tiles; --batch 16")
def _memory(trial: Trial) -> tuple[int, ...]:
    codes = (trial.finish("memory", "--batch", "16", "--tile-px", "128"),)
    assert read_run(trial.folder)["batch_reduced_to"] == 2
    return codes


@fault("clock", "clock jumps", "time.time() differs by up to 30 years at each call")
def _clock(trial: Trial) -> tuple[int, ...]:
    return (trial.finish("clock"),)


# --- faults of clusters, which need a scheduler and workers of their own

CLUSTER = {
    "worker": (
        "worker killed", "SIGKILL in the middle, tests/runs/test_dask.py",
        "test_a_worker_that_is_killed_costs_nothing",
    ),
    "scheduler": (
        "scheduler gone", "SIGKILL in the middle, tests/runs/test_dask.py",
        "test_a_scheduler_that_is_killed_leaves_what_was_done",
    ),
}  # fmt: skip
"""By name: the fault, how it is injected, and the test that compares the objects afterwards."""


def cluster_row(name: str, times: int) -> str:
    """Run a test that injects a fault, several times; its time includes both runs."""
    what, how, test = CLUSTER[name]
    path = Path(__file__).parents[1] / "tests" / "runs" / "test_dask.py"
    began = time.perf_counter()
    for _ in range(times):
        tests = [f"{path}::{name}" for name in ("test_a_cluster_writes_the_same_files", test)]
        command = [sys.executable, "-m", "pytest", "-m", "not heavy", *tests]
        ended = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=path.parents[1])
        if ended.returncode:
            raise SystemExit(f"{name}: {ended.stdout}")
    seconds = (time.perf_counter() - began) / times
    return f"| {what} | {how} | {times} | – | – | nothing | {seconds:.1f} (whole test) |"


# --- the table


def lost(trial: Trial, reference: Objects) -> str:
    """Describe how the objects differ from those of the undisturbed run."""
    found = trial.objects()
    columns = ("ids", "class_index", "score", "coords", "ring_offsets")
    if all(np.array_equal(getattr(found, k), getattr(reference, k)) for k in columns):
        return "nothing"
    shared = {tuple(r) for r in found.ids.tolist()} & {tuple(r) for r in reference.ids.tolist()}
    return f"{len(reference) - len(shared)} of {len(reference)} objects"


def row(name: str, times: int, trial: Trial, reference: Objects) -> str:
    """Inject a fault `times` times, run the command again, and compare."""
    what, how, inject = FAULTS[name]
    codes, seconds, losses, kept = set(), [], set(), []
    for _ in range(times):
        shutil.rmtree(trial.out, ignore_errors=True)
        codes.add(inject(trial))
        kept.append(trial.done() if (trial.folder / PARTS).exists() else 64)
        began = time.perf_counter()
        if trial.finish():
            raise SystemExit(f"{name}: the run after it failed: {trial.message}")
        seconds.append(time.perf_counter() - began)
        losses.add(lost(trial, reference))
    exits = ", ".join(sorted("+".join(map(str, c)) for c in codes))
    return (
        f"| {what} | {how} | {times} | {exits} | {min(kept)} to {max(kept)} | "
        f"{', '.join(sorted(losses))} | {np.mean(seconds):.1f} |"
    )


def main() -> None:
    """Run the faults that are named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*FAULTS, *CLUSTER]))
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--network", action="store_true", help="use the real network")
    parser.add_argument("--work", type=Path, default=Path("build/faults"))
    arguments = parser.parse_args()
    work = arguments.work.absolute()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    slide = work / "slide.svs"
    write_slide(slide, plan_slide(SIZE, SIZE, mpp=0.5, seed=SEED, tissue=0.7))
    trial = Trial(slide, work / "out", arguments.network, random.Random(SEED))
    assert trial.finish() == 0, trial.message  # from here on the libraries' files are cached
    shutil.rmtree(trial.out)
    began = time.perf_counter()
    assert trial.finish() == 0, trial.message
    seconds, reference = time.perf_counter() - began, trial.objects()
    lines = [
        f"# Faults\n\n{len(reference)} objects in {SIZE}² pixels, 64 regions; undisturbed the "
        f"command takes {seconds:.1f} s, start included. After each fault the command runs again: "
        "objects that are then missing are lost, and its time is the recovery. A process that was "
        "killed has exit code -9.\n",
        "| fault | how injected | times | exit codes | regions kept | lost | s to recover |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for name in arguments.names or [*FAULTS, *CLUSTER]:
        lines.append(
            row(name, arguments.times, trial, reference)
            if name in FAULTS
            else cluster_row(name, arguments.times)
        )
        print(lines[-1], flush=True)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
