"""What this machine can do: one line per finding, with a remedy where something is wrong."""

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

__all__ = ["Finding", "doctor", "examine"]

GB = 1e9
MIN_MEMORY_GB, MIN_DISK_GB = 4, 5


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes
    ----------
    status
        ``broken`` means that wsiseg cannot work
    remedy
        what to do; empty where nothing is wrong
    """

    status: Literal["ok", "warn", "broken"]
    name: str
    value: str
    remedy: str = ""


@click.command()
def doctor() -> None:
    """Check this machine: software, processors, memory, disk, GPUs and weights."""
    broken = False
    for finding in examine():
        remedy = f"; {finding.remedy}" if finding.remedy else ""
        click.echo(f"{finding.status:<6}  {finding.name:<11}  {finding.value}{remedy}")
        broken |= finding.status == "broken"
    if broken:
        click.get_current_context().exit(FAILED)


def examine() -> Iterator[Finding]:
    """Look at everything that wsiseg needs or gains by, from the interpreter to the weights."""
    for check in (
        _python, _openslide, _torch, _gpus, _processors, _memory, _disk, _bfloat16, _pipeline,
        _checkpoints, _optional,
    ):  # fmt: skip
        yield from _guarded(check)


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check; one that breaks down is itself a finding."""
    try:
        yield from check()
    except Exception as error:
        name = check.__name__.strip("_")
        said = " ".join(str(error).split())
        yield Finding(
            "broken",
            name,
            f"{type(error).__name__}: {said}",
            "pip install --force-reinstall wsiseg",
        )


def _python() -> Iterator[Finding]:
    old = sys.version_info < (3, 11)
    about = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding("broken" if old else "ok", "Python", about, "use 3.11 or later" if old else "")
    yield Finding("ok", "wsiseg", version("wsiseg"))


def _openslide() -> Iterator[Finding]:
    try:
        import openslide
    except (ImportError, OSError) as error:
        yield Finding(
            "broken", "OpenSlide", " ".join(str(error).split()), "pip install openslide-bin"
        )
        return
    yield Finding("ok", "OpenSlide", openslide.__library_version__)


def _torch() -> Iterator[Finding]:
    import torch

    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPU only"
    yield Finding("ok", "PyTorch", f"{torch.__version__}, {built}")


def _gpus() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        yield Finding("ok", "GPU", "none that PyTorch can use; networks run on the CPU")
        return
    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        text = f"cuda:{i} {about.name}, {about.total_memory / GB:.0f} GB"
        try:
            torch.ones(8, device=f"cuda:{i}").sum().item()
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            remedy = "install a PyTorch that fits the driver, or use --device cpu"
            yield Finding("warn", "GPU", f"{text}: {reason}", remedy)
        else:
            yield Finding("ok", "GPU", text)


def _processors() -> Iterator[Finding]:
    count, limit = len(os.sched_getaffinity(0)), _cgroup("cpu.max")
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
    """The words of a control file of the container, if there is one."""
    try:
        return Path("/sys/fs/cgroup", name).read_text().split()
    except OSError:
        return []


def _disk() -> Iterator[Finding]:
    free = shutil.disk_usage(".").free
    low = free < MIN_DISK_GB * GB
    remedy = "free some space, or write elsewhere with --out" if low else ""
    yield Finding("warn" if low else "ok", "disk", f"{free / GB:.1f} GB free here", remedy)


def _bfloat16() -> Iterator[Finding]:
    import torch

    from wsi_pipeline.segmentation.load_model import has_bfloat16

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    there = [device for device in devices if has_bfloat16(device)]
    capability = torch.backends.cpu.get_cpu_capability()
    text = f"{' and '.join(there) or 'not in hardware'}; CPU computes with {capability}"
    yield Finding("ok", "bfloat16", text)


def _pipeline() -> Iterator[Finding]:
    # Compiled functions are cached beside the code or in the user's cache; without either,
    # importing them fails.
    try:
        import wsi_pipeline.pipeline
    except RuntimeError as error:
        remedy = "set NUMBA_CACHE_DIR to a folder that can be written"
        yield Finding("broken", "pipeline", " ".join(str(error).split()), remedy)
        return
    yield Finding("ok", "pipeline", f"loads, from {Path(wsi_pipeline.pipeline.__file__).parent}")


def _checkpoints() -> Iterator[Finding]:
    from wsi_pipeline.core.errors import CheckpointError
    from wsi_pipeline.segmentation.load_model import list_models, open_model

    for row in list_models():
        name, path = row["name"], row["path"]
        if not path.is_file():
            yield Finding("ok", "model", f"{name}: no weights ship; train it or give --checkpoint")
            continue
        try:
            model = open_model(name, device="cpu")
            answer = _tried(model)
        except CheckpointError as error:
            yield Finding("broken", "model", f"{name}: {error}", "install wsiseg again")
            continue
        yield Finding("ok", "model", f"{name}: {answer}, {path.stat().st_size / 1e6:.1f} MB")


def _tried(model: Any) -> str:
    """The digest of a model's weights, after it has seen an empty field without complaint."""
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
            remedy = f"for {use}: pip install 'wsiseg[{extra}]'"
            yield Finding("warn", package, "not installed", remedy)
        else:
            yield Finding("ok", package, "installed")
