"""`wsiseg doctor`: check this machine; one line per finding, with a remedy for every problem."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import click

from wsi_pipeline.cli.exit_codes import FAILED
from wsi_pipeline.core.errors import one_line
from wsi_pipeline.core.machine import usable_cores

__all__ = ["Finding", "doctor", "examine"]

GB = 1e9
MIN_MEMORY_GB, MIN_DISK_GB = 4, 5
REINSTALL = "pip install --force-reinstall -e ."


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes
    ----------
    status
        ``broken``: wsiseg cannot work; ``warn``: something that it gains from is missing or scarce
    remedy
        what to do; empty if nothing is wrong
    """

    status: Literal["ok", "warn", "broken"]
    name: str
    value: str
    remedy: str = ""


@click.command()
def doctor() -> None:
    """Check this machine: software, hardware and weights."""
    broken = False
    for finding in examine():
        remedy = f"; {finding.remedy}" if finding.remedy else ""
        click.echo(f"{finding.status:<6}  {finding.name:<11}  {finding.value}{remedy}")
        broken |= finding.status == "broken"
    if broken:
        click.get_current_context().exit(FAILED)


def examine() -> Iterator[Finding]:
    """Check everything that wsiseg needs or gains from, from the interpreter to the weights."""
    for check in (
        _python, _openslide, _torch, _gpus, _processors, _memory, _disk, _bfloat16, _pipeline,
        _checkpoints, _optional,
    ):  # fmt: skip
        yield from _guarded(check)


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield the findings of a check; a check that raises is a finding too."""
    try:
        yield from check()
    except Exception as error:
        name = check.__name__.strip("_")
        text = f"{type(error).__name__}: {one_line(error)}"
        yield Finding("broken", name, text, REINSTALL)


def _python() -> Iterator[Finding]:
    old = sys.version_info < (3, 11)
    about = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding("broken" if old else "ok", "Python", about, "use 3.11 or later" if old else "")
    yield Finding("ok", "wsiseg", version("wsiseg"))


def _openslide() -> Iterator[Finding]:
    try:
        import openslide
    except (ImportError, OSError) as error:
        yield Finding("broken", "OpenSlide", one_line(error), "pip install openslide-bin")
        return
    yield Finding("ok", "OpenSlide", openslide.__library_version__)


def _torch() -> Iterator[Finding]:
    import torch

    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPU only"
    yield Finding("ok", "PyTorch", f"{torch.__version__}, {built}")


def _gpus() -> Iterator[Finding]:
    import torch

    if torch.backends.mps.is_available():
        yield Finding("ok", "GPU", "mps (Apple)")
    elif not torch.cuda.is_available():
        yield Finding("ok", "GPU", "none that PyTorch can use; networks run on the CPU")
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(i)
        text = f"cuda:{i} {about.name}, {about.total_memory / GB:.0f} GB"
        try:
            torch.ones(8, device=f"cuda:{i}").sum().item()
        except RuntimeError as error:
            remedy = "install a PyTorch that fits the driver, or use --device cpu"
            yield Finding("warn", "GPU", f"{text}: {one_line(error)}", remedy)
        else:
            yield Finding("ok", "GPU", text)


def _processors() -> Iterator[Finding]:
    count, limit = usable_cores(), _cgroup("cpu.max")
    text = f"{count} usable of {os.cpu_count()}"
    if limit and limit[0] != "max":
        text += f", limited to {int(limit[0]) / int(limit[1]):.1f} by the container"
    yield Finding("ok", "processors", text)


def _memory() -> Iterator[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    if limit and used and limit[0] != "max":
        total = min(total, int(limit[0]))
        free = min(free, int(limit[0]) - int(used[0]))
    text = f"{free / GB:.1f} GB free of {total / GB:.1f} GB"
    low = free < MIN_MEMORY_GB * GB
    remedy = "close other programs, or use --workers 1 and a smaller --tile-px" if low else ""
    yield Finding("warn" if low else "ok", "memory", text, remedy)


def _cgroup(name: str) -> list[str]:
    """Return the words of a file that limits the container; none outside Linux containers."""
    try:
        return Path("/sys/fs/cgroup", name).read_text(encoding="utf-8").split()
    except OSError:
        return []


def _disk() -> Iterator[Finding]:
    free = shutil.disk_usage(".").free
    low = free < MIN_DISK_GB * GB
    remedy = "free some space, or give another drive with --out" if low else ""
    text = f"{free / GB:.1f} GB free in this folder"
    yield Finding("warn" if low else "ok", "disk", text, remedy)


def _bfloat16() -> Iterator[Finding]:
    import torch
    from wsiseg_models.precision import has_bfloat16

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    able = [device for device in devices if has_bfloat16(device)]
    capability = torch.backends.cpu.get_cpu_capability()
    text = f"{' and '.join(able) or 'not in hardware'}; the CPU has {capability}"
    yield Finding("ok", "bfloat16", text)


def _pipeline() -> Iterator[Finding]:
    # numba keeps compiled functions beside the code or in the user's cache folder. If it can write
    # to neither, the import fails.
    try:
        import wsi_pipeline.pipeline
    except RuntimeError as error:
        remedy = "set NUMBA_CACHE_DIR to a folder that can be written"
        yield Finding("broken", "pipeline", one_line(error), remedy)
        return
    yield Finding("ok", "pipeline", f"loaded from {Path(wsi_pipeline.pipeline.__file__).parent}")


def _checkpoints() -> Iterator[Finding]:
    from wsi_pipeline.segmentation.load_model import list_models, open_model

    for row in list_models():
        name, path = row["name"], row["path"]
        if not path.is_file():
            text = f"{name}: no weights included; train it or give --checkpoint"
            yield Finding("ok", "model", text)
            continue
        try:
            model = open_model(name, device="cpu")
            answer = _tried(model)
        except Exception as error:  # the other models are checked all the same
            yield Finding("broken", "model", f"{name}: {one_line(error)}", REINSTALL)
            continue
        yield Finding("ok", "model", f"{name}: {answer}, {path.stat().st_size / 1e6:.1f} MB")


def _tried(model: Any) -> str:
    """Run a model on an empty field, and return the start of its weights' SHA-256."""
    import numpy as np

    side = 2 * model.halo_px + 8 * model.stride
    field = np.full((1, side, side, 3), 240, np.uint8)
    assert len(model.infer(field)) == 1
    return f"sha256 {model.identity[:12]}…"


def _optional() -> Iterator[Finding]:
    for package, extra, use in (
        ("pycocotools", "train", "wsiseg train"),
        ("snakemake", "workflow", "the Snakemake workflow"),
    ):
        if find_spec(package) is None:
            remedy = f"for {use}: pip install -e '.[{extra}]'"
            yield Finding("warn", package, "not installed", remedy)
        else:
            yield Finding("ok", package, "installed")
