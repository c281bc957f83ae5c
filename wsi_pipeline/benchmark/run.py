"""`wsiseg benchmark`: how fast this machine is, on a slide made for it, from a single command.

    machine → slide → whole runs in processes of their own → each stage alone → report

It needs no network access and no data. What is scaled up or extrapolated says so; what was not
measured is not there.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from wsi_pipeline.benchmark.machine import describe_machine, run_process
from wsi_pipeline.benchmark.published import TILES, compare_networks
from wsi_pipeline.benchmark.report import HOW_TO_PLOT, as_markdown, plot
from wsi_pipeline.benchmark.stages import (
    Stage,
    Work,
    check_model,
    time_decode,
    time_network,
    time_objects,
    time_read,
    time_write,
)
from wsi_pipeline.benchmark.threshold_model import make_threshold_model
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import ConfigError
from wsi_pipeline.core.files import write_bytes
from wsi_pipeline.core.machine import keep_freed_memory, process_settings, usable_cores
from wsi_pipeline.core.run_layout import PARQUET, one_run, read_run
from wsi_pipeline.formats.geoparquet import read_parquet
from wsi_pipeline.runs.run_folder import check_output
from wsi_pipeline.segmentation.load_model import device_named, open_model
from wsi_pipeline.slides.slide import open_slide
from wsi_pipeline.synthetic.svs_writer import plan_slide, write_slide

__all__ = ["BenchmarkConfig", "benchmark"]

SIZE_PX = {"cpu": 10_000, "cuda": 40_000}
PAPER_TILES_ON_CPU = 64
SMALLEST_PX, LARGEST_PX = 1024, 200_000
SEED = 2026
STAGES = ("read", "network", "objects", "write")
"""Those that a run goes through; decode is a part of read."""

_RUN = "from wsi_pipeline.cli.main import main; main()"
_STAND_IN = (
    "import sys; from wsi_pipeline.benchmark.threshold_model import run_threshold_model as f; "
    "f(*sys.argv[1:])"
)


@dataclass(frozen=True)
class BenchmarkConfig:
    """Settings of `benchmark`.

    Attributes
    ----------
    size
        pixels a side of the generated slide; by default 10 000, with a GPU 40 000
    model, checkpoint, device
        as in `RunConfig`
    paper, tiles
        whether to run the published comparison, and how many of its tiles; by default all with a
        GPU, 64 without
    sizes
        gigapixels of further slides, for time and memory against size
    threshold_model
        whether a threshold stands in for the network; by default for `sizes` alone
    quiet
        show nothing
    """

    size: int | None = None
    model: str = "dssnet"
    checkpoint: Path | None = None
    device: str = "auto"
    paper: bool = False
    tiles: int | None = None
    sizes: tuple[float, ...] = ()
    threshold_model: bool | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        sides = [*([] if self.size is None else [self.size]), *map(_side, self.sizes)]
        for side in sides:
            if not SMALLEST_PX <= side <= LARGEST_PX:
                raise ConfigError(
                    f"a slide of {side} x {side} px is out of range; a side has {SMALLEST_PX} to "
                    f"{LARGEST_PX} px, that is 0.001 to 40 gigapixels"
                )
        if self.tiles is not None and not self.paper:
            raise ConfigError(f"--tiles {self.tiles} is of --paper; give both or neither")
        if self.tiles is not None and not 1 <= self.tiles <= TILES:
            raise ConfigError(f"--tiles {self.tiles} is out of range; it lies in 1 to {TILES}")
        if self.checkpoint is not None and self.threshold_model:
            raise ConfigError("--threshold-model has no weights; leave out --checkpoint or it")


def benchmark(out: Path, config: BenchmarkConfig) -> str:
    """Measure this machine, write benchmark.md, .json and .png to `out`; the Markdown text.

    Raises
    ------
    ConfigError, UnknownModelError, CheckpointError, DeviceError
        the settings make no sense here
    OutputError
        `out` cannot be written, or a run failed
    """
    device = device_named(config.device)
    kind = device.partition(":")[0]
    if kind == "cpu":
        keep_freed_memory()
    side = config.size or SIZE_PX[kind]
    largest = max([side, *map(_side, config.sizes)])
    # Wrong names end here, before anything is measured.
    model = check_model(
        make_threshold_model(config.model) if config.threshold_model else _network(config)
    )
    check_output(out, 20_000_000 + largest * largest // 3)  # the slide, and what runs leave
    began = time.perf_counter()
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": describe_machine(),
    }
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=out) as name:
        bench = _Bench(Path(name), config, device)
        path, result["slide"] = bench.slide(side)
        cold, warm = (bench.run(path, which) for which in ("cold start", "warm"))
        result |= bench.stages(path, model, {"cold": cold, "warm": warm})
        if config.paper:
            tiles = config.tiles or (TILES if kind == "cuda" else PAPER_TILES_ON_CPU)
            bench.say(f"the published comparison, {tiles} tiles through each network")
            cores = usable_cores()
            result["paper"] = compare_networks(path, device=device, threads=cores, tiles=tiles)
        path.unlink()
        if config.sizes:
            result["sizes"] = [bench.size(g) for g in config.sizes]
    result["seconds"] = time.perf_counter() - began
    return _write(out, _rounded(result), bench)


def _network(config: BenchmarkConfig) -> Any:
    return open_model(config.model, checkpoint=config.checkpoint, device=config.device)


def _side(gigapixels: float) -> int:
    """Pixels a side of a square slide."""
    if not (math.isfinite(gigapixels) and gigapixels > 0):
        raise ConfigError(f"{gigapixels} gigapixels is no size; try 0.1")
    return round(math.sqrt(gigapixels * 1e9))


class _Bench:
    """What all measurements share: a folder that goes at the end, settings, and a voice."""

    def __init__(self, work: Path, config: BenchmarkConfig, device: str) -> None:
        self.work, self.config, self.device = work, config, device

    def say(self, text: str) -> None:
        """Tell what is measured now."""
        if not self.config.quiet:
            click.echo(f"benchmark: {text}", err=True)

    def slide(self, side: int) -> tuple[Path, dict[str, Any]]:
        """A generated slide, and what is to be said of it."""
        self.say(f"writing a slide of {side} x {side} px")
        path = self.work / f"generated{side}.svs"
        began = time.perf_counter()
        plan = plan_slide(side, side, seed=SEED)
        write_slide(path, plan)
        return path, {
            "side_px": side,
            "gigapixels": side * side / 1e9,
            "mpp": plan.mpp,
            "seed": SEED,
            "file_mb": path.stat().st_size / 1e6,
            "write_seconds": time.perf_counter() - began,
        }

    def run(self, path: Path, which: str, *, cheap: bool | None = None) -> dict[str, Any]:
        """One run in a process of its own; `cheap`: with the threshold model."""
        config = self.config
        cheap = bool(config.threshold_model) if cheap is None else cheap
        self.say(f"{which}: {'threshold' if cheap else config.model} on {path.stem}")
        out = self.work / "out"
        if cheap:
            code, arguments = _STAND_IN, [str(path), str(out), config.model]
        else:
            code, arguments = _RUN, ["run", str(path), "--out", str(out), "--overwrite", "--quiet"]
            arguments += ["--model", config.model, "--device", self.device]
            if config.checkpoint is not None:
                arguments += ["--checkpoint", str(config.checkpoint)]
        device = "cpu" if cheap else self.device
        measured = run_process(code, arguments, environment=caches(self.work), device=device)
        summary = read_run(one_run(out / path.stem))
        busy = dict(measured.busy)
        if device != "cpu" and not busy:
            share = summary["stage_seconds"]["network"] / summary["seconds"]
            busy = {"gpu_busy": share, "gpu_busy_by": "time within the network"}
        return {
            "model": summary["model"]["name"],
            "seconds": measured.seconds,
            "run_seconds": float(summary["seconds"]),
            "peak_memory_mb": measured.peak_memory_mb,
            **busy,
            "objects": summary["objects"],
            "foreground_mpx": summary["foreground"]["share"] * _area(summary) / 1e6,
            "stage_seconds": summary["stage_seconds"],
        }

    def stages(self, path: Path, model: Any, whole: Mapping[str, Any]) -> dict[str, Any]:
        """Each stage alone, beside whole runs that have left their objects."""
        run = RunConfig(device=self.device)
        settings = process_settings(opencv_threads=1, torch_threads=model.torch_threads)
        with settings, open_slide(path) as slide:  # regions run side by side, as in a run
            work = Work(slide, model, run)
            timed: dict[str, Stage] = {}
            cheap = bool(self.config.threshold_model) or self.device != "cpu"
            for name, measure in (
                ("read", time_read),
                ("decode", time_decode),
                ("network", time_network),
                ("objects", lambda work: time_objects(work, cheap=cheap)),
                ("write", self._time_write),
            ):
                self.say(f"{name} alone")
                timed[name] = measure(work)
        tiles, area = len(work.tiles), work.foreground_mpx

        def rates(seconds: float) -> dict[str, float]:
            return {"tiles_per_s": tiles / seconds, "mpx_per_s": area / seconds}

        return {
            "model": {
                "name": model.name, "threshold_model": bool(self.config.threshold_model),
                "device": model.device,
                "precision": model.precision,
                "mpp": model.mpp, "tile_px": work.plan.tile_px, "halo_px": model.halo_px,
                "batch": run.batch, "workers": run.workers,
            },
            "work": {"regions": len(work.regions), "tiles": tiles, "foreground_mpx": area},
            "stages": {
                name: {
                    "seconds": stage.seconds, **rates(stage.seconds), **stage.further,
                    "measured_on": stage.measured_on, "scaled": stage.scaled,
                }
                for name, stage in timed.items()
            },
            "whole": {name: row | rates(row["seconds"]) for name, row in whole.items()},
        }  # fmt: skip

    def _time_write(self, work: Work) -> Stage:
        objects = read_parquet(one_run(self.work / "out" / work.slide.slide_id) / PARQUET)
        return time_write(work, objects, self.work / "written")

    def size(self, gigapixels: float) -> dict[str, Any]:
        """Time and memory of a run on a slide of some size."""
        path, about = self.slide(_side(gigapixels))
        row = self.run(
            path, f"{gigapixels:g} gigapixels", cheap=self.config.threshold_model is not False
        )
        path.unlink()
        shutil.rmtree(self.work / "out")
        return about | row | {"seconds_per_mpx": row["seconds"] / row["foreground_mpx"]}


def _area(summary: Mapping[str, Any]) -> int:
    return int(summary["slide"]["width"] * summary["slide"]["height"])


def caches(work: Path) -> dict[str, str]:
    """Where a run keeps compiled code: empty folders, so that the first run starts cold."""
    names = ("NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    return {name: str(work / name.lower()) for name in names}


def _rounded(value: Any) -> Any:
    """Numbers to four digits, which is more than timing gives."""
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _write(out: Path, result: dict[str, Any], bench: _Bench) -> str:
    """The three files, from rounded numbers, so that all tell the same; the Markdown text."""
    stages = result["stages"]
    slowest = max(STAGES, key=lambda name: stages[name]["seconds"])
    warm, longest = result["whole"]["warm"], stages[slowest]["seconds"]
    result |= {
        "slowest_stage": slowest,
        "whole_over_slowest": round(warm["seconds"] / longest, 2),
        "run_over_slowest": round(warm["run_seconds"] / longest, 2),
    }
    text = as_markdown(result)
    picture = plot(result)
    if picture is None:
        bench.say(f"no plot without matplotlib; {HOW_TO_PLOT}")
    files = {
        "benchmark.json": (json.dumps(result, indent=1, ensure_ascii=False) + "\n").encode(),
        "benchmark.md": text.encode(),
        "benchmark.png": picture,
    }
    for name, content in files.items():
        if content is not None:
            write_bytes(out / name, content)
        else:
            (out / name).unlink(missing_ok=True)  # of an earlier run
    return text
