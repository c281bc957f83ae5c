"""Compare wsiseg with other whole-slide pipelines: one slide, one network.

    python experiments/peers/compare.py ENVS [--out DIR] [--size 8192] [--python PYTHON]

See README.md in this folder. The script prints Markdown and writes it to DIR, the numbers as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import shapely
import torch
from seams import (
    FATES,
    MIN_AREA_PX,
    Lines,
    away,
    fates,
    instanseg_lines,
    on_lines,
    read_outlines,
    square,
)
from wsiseg_models import registry

from wsi_pipeline.core.machine import usable_cores
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.run_layout import PARQUET, one_run, read_run
from wsi_pipeline.evaluation.matching import match_objects
from wsi_pipeline.formats.geoparquet import read_parquet
from wsi_pipeline.segmentation.ownership import REGION_PX
from wsi_pipeline.synthetic.svs_writer import plan_slide, truth_objects, write_slide

HERE = Path(__file__).parent
WSISEG = str(Path(sys.executable).with_name("wsiseg"))
THREADS = usable_cores()
SCALE = 2.0
"""Level-0 pixels (0.25 µm) per pixel of the network."""
TILE_PX = 512 * SCALE
DETECTION_PX = (20, 64)
"""InstanSeg's default, and more than the largest nucleus has, pixels of the network."""
WARM_PX = 2048
"""Side of a slide that each pipeline gets first, so that files are cached and code compiled."""


class Plain(torch.nn.Module):
    """DSSNet as published, without its training heads: images 0 to 255 → nucleus probability."""

    def __init__(self) -> None:
        super().__init__()
        self.network, _, self.card = registry.load(registry.weights_path("dssnet"))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images float32 (n, 3, h, w) → (n, 1, h, w)."""
        x = (images - self.card.mean) / self.card.std
        probability: torch.Tensor = self.network(x).softmax(1)[:, 1:]
        return probability


def export_module(path: Path) -> None:
    """Write `Plain` as a TorchScript file, which needs torch alone."""
    jit: Any = torch.jit
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        jit.trace(Plain().eval(), torch.zeros(1, 3, 64, 64)).save(path)


@dataclass(frozen=True)
class Pipeline:
    """One pipeline: its command and the positions of its seams."""

    label: str
    command: tuple[str, ...]
    seams: Lines
    period: float
    widen_px: float = 0.0

    @property
    def folder(self) -> str:
        """Return the label as a file name."""
        return self.label.lower().replace(",", "").replace(" ", "-")


def pipelines(envs: Path, python: str, side: int) -> list[Pipeline]:
    """Return all pipelines; make the environments that are missing."""
    common = ("--mpp", "0.5", "--threads", str(THREADS))

    def script(name: str, interpreter: str = sys.executable, *more: str) -> tuple[str, ...]:
        call = (interpreter, str(HERE / f"run_{name}.py"), "{slide}", "{network}", "{out}")
        return (*call, *common, *more)

    tiles = (square(side, TILE_PX), TILE_PX)
    mine = (square(side, REGION_PX / 2 * SCALE), REGION_PX / 2 * SCALE)
    tiatoolbox = environment(envs, "tiatoolbox", python)
    instanseg = environment(envs, "instanseg", python)
    found = [
        Pipeline("plain loop", script("plain"), *tiles, SCALE / 2),
        Pipeline("TIAToolbox", script("tiatoolbox", tiatoolbox), *tiles, SCALE / 2),
    ]
    for px in DETECTION_PX:
        command = script("instanseg", instanseg, "--detection-px", str(px))
        lines, period = instanseg_lines(side, SCALE, px), (512 - 2 * (80 + px)) * SCALE
        found.append(Pipeline(f"InstanSeg, detection size {px}", command, lines, period))
    found.append(Pipeline("wsiseg, the same module", script("wsiseg"), *mine))
    run = (WSISEG, "run", "{slide}", "--model", "dssnet", "--out", "{out}", "--overwrite")
    for precision in ("float32", "bfloat16"):
        command = (*run, "--quiet", "--precision", precision)
        found.append(Pipeline(f"wsiseg, {precision}", command, *mine))
    return found


def environment(envs: Path, name: str, python: str) -> str:
    """Return the interpreter of a peer's environment; make the environment if it is missing."""
    folder = envs / name
    if not (folder / "installed").is_file():
        print(f"installing {name} into {folder}", flush=True)
        subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
        pip = (str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet")
        subprocess.run([*pip, "-r", str(HERE / f"{name}.txt")], check=True)
        (folder / "installed").touch()
    return str(folder / "bin" / "python")


def memory(process: psutil.Process) -> int:
    """Return the largest memory of a process, bytes, with what only its children use now."""
    total = most = 0
    with suppress(psutil.NoSuchProcess, OSError):
        total = process.memory_info().rss
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        mark = status.partition("VmHWM:")[2].split()
        most = int(mark[0]) * 1024 if mark else 0  # a process that has ended has none
        for child in process.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                total += child.memory_full_info().uss
    return max(total, most)


def run(pipeline: Pipeline, slide: Path, network: Path, out: Path) -> dict[str, Any]:
    """Run a pipeline in a process of its own; return seconds, peak memory and versions.

    Raises
    ------
    SystemExit
        the pipeline failed; the message names its log
    """
    out.mkdir(parents=True, exist_ok=True)
    words = {"slide": str(slide), "network": str(network), "out": str(out)}
    command = [part.format(**words) for part in pipeline.command]
    env = os.environ | {"OMP_NUM_THREADS": str(THREADS), "PYTHONWARNINGS": "ignore"}
    log, samples, began = out / "log.txt", [], time.time()
    with log.open("w", encoding="utf-8") as file:
        process = psutil.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=env)
        while process.poll() is None:
            samples.append((time.time(), memory(process)))
            time.sleep(0.2)
    ended = time.time()
    if process.returncode:
        raise SystemExit(f"{pipeline.label} failed with {process.returncode}; see {log}")
    record = out / "run.json"
    if record.is_file():
        told = json.loads(record.read_text(encoding="utf-8"))
        versions = told["versions"]
    else:  # the command line of wsiseg, whose run begins where its imports end
        summary = read_run(one_run(out / slide.stem))
        told = {"loaded": ended - summary["seconds"], "finished": ended, "network_mpx": None}
        versions = {"wsiseg": summary["wsiseg"], "torch": summary["versions"]["torch"]}
    # What comes later only converts the result into the form that is compared.
    peak = max(held for at, held in samples if at <= told["finished"])
    return {
        "start_s": told["loaded"] - began,
        "run_s": told["finished"] - told["loaded"],
        "peak_gb": peak / 1e9,
        "network_mpx": told["network_mpx"],
        "versions": versions,
    }


def objects(pipeline: Pipeline, slide: Path, out: Path) -> Objects:
    """Return the objects of a pipeline, without those smaller than `MIN_AREA_PX`."""
    outlines = out / "outlines.geojson"
    if outlines.is_file():
        found = read_outlines(outlines, pipeline.widen_px)
    else:
        found = read_parquet(one_run(out / slide.stem) / PARQUET)
    return found.take(shapely.area(found.polygons()) >= MIN_AREA_PX)


def score(pipeline: Pipeline, found: Objects, truth: Objects, side: int) -> dict[str, Any]:
    """Compare objects with the truth; count how nuclei fare on the seams and elsewhere."""
    match = match_objects(found, truth, 0.5)
    fate = fates(found, truth)
    places = {
        "on its seams": on_lines(truth, pipeline.seams),
        "on the same lines moved": away(truth, pipeline.seams, pipeline.period),
        "on a grid of 512 px": on_lines(truth, square(side, TILE_PX)),
        "all": np.ones(len(truth), np.bool_),
    }
    counts = {k: np.bincount(fate[v], minlength=len(FATES)).tolist() for k, v in places.items()}
    return {
        "objects": len(found),
        "precision": match.precision,
        "recall": match.recall,
        "f1": match.f1,
        "mean_iou": match.sq,
        "fates": {k: dict(zip(FATES, v, strict=True)) for k, v in counts.items()},
    }


def markdown(rows: list[dict[str, Any]], about: str) -> str:
    """Return both tables."""
    lines = [f"# Peers side by side\n\n{about}\n"]
    lines.append("| pipeline | versions | start s | run s | peak GB | network Mpx | objects | "
                 "precision | recall | F1 | mean IoU |\n" + "|---" * 11 + "|")  # fmt: skip
    for row in rows:
        versions = ", ".join(f"{k} {v}" for k, v in row["versions"].items())
        seen = "as above" if row["network_mpx"] is None else f"{row['network_mpx']:.1f}"
        quality = " | ".join(f"{row[k]:.3f}" for k in ("precision", "recall", "f1", "mean_iou"))
        lines.append(
            f"| {row['pipeline']} | {versions} | {row['start_s']:.1f} | {row['run_s']:.1f} | "
            f"{row['peak_gb']:.2f} | {seen} | {row['objects']} | {quality} |"
        )
    lines.append("\n| pipeline | nuclei | " + " | ".join(FATES) + " | not whole % |")
    lines.append("|---" * (len(FATES) + 3) + "|")
    for row in rows:
        for place, counts in row["fates"].items():
            n = sum(counts.values())
            cells = " | ".join(str(counts[f]) for f in FATES)
            share = 100 * (1 - counts["whole"] / n) if n else float("nan")
            lines.append(f"| {row['pipeline']}: {place} | {n} | {cells} | {share:.1f} |")
    return "\n".join(lines) + "\n"


def prepare(work: Path, side: int, seed: int) -> tuple[Path, Objects]:
    """Return the generated slide, written if it is not there yet, and its nuclei."""
    path, plan = work / f"slide{side}-{seed}.svs", plan_slide(side, side, seed=seed)
    if not path.is_file():
        write_slide(path, plan)
    return path, truth_objects(plan)[0]


def main() -> None:
    """Run every pipeline; write the tables after each one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("envs", type=Path, help="folder of the environments; missing ones are made")
    parser.add_argument("--python", default=sys.executable, help="makes the environments")
    parser.add_argument("--work", type=Path, default=Path("build/peers"))
    parser.add_argument("--out", type=Path, help="folder for peers.md, peers.json; default --work")
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--seed", type=int, default=4711)
    parser.add_argument("--only", default="", help="run only pipelines whose name begins with this")
    given = parser.parse_args()
    if given.size < 2 * TILE_PX or given.size % TILE_PX:
        parser.error(f"--size {given.size}: give a multiple of {TILE_PX:.0f}, at least 2048")
    given.work.mkdir(parents=True, exist_ok=True)
    out = given.out or given.work
    out.mkdir(parents=True, exist_ok=True)
    network = given.work / "dssnet.pt"
    export_module(network)
    small, _ = prepare(given.work, WARM_PX, given.seed)
    slide, truth = prepare(given.work, given.size, given.seed)
    chosen = [
        p for p in pipelines(given.envs, given.python, given.size) if p.label.startswith(given.only)
    ]
    for pipeline in chosen:
        run(pipeline, small, network, given.work / "warm" / pipeline.folder)
    about = (
        f"{platform.processor() or platform.machine()}, {THREADS} threads, no GPU. Generated "
        f"slide, {given.size}² at 0.25 µm, seed {given.seed}, {len(truth)} nuclei. Tiles of "
        "512² at 0.5 µm. `experiments/peers/README.md` explains the columns."
    )
    rows = []
    for pipeline in chosen:
        folder = given.work / pipeline.folder
        row = {"pipeline": pipeline.label} | run(pipeline, slide, network, folder)
        row |= score(pipeline, objects(pipeline, slide, folder), truth, given.size)
        rows.append(row)
        print(json.dumps(row), flush=True)
        (out / "peers.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
        (out / "peers.md").write_text(markdown(rows, about), encoding="utf-8")
    print(markdown(rows, about))


if __name__ == "__main__":
    main()
