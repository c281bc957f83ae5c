"""What a benchmark must know of its machine: a description, a GPU's load, a process's peak memory.

No host name, no user name and no path is looked at.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import torch

from wsi_pipeline.core.errors import OutputError
from wsi_pipeline.core.machine import peak_bytes, usable_cores

__all__ = [
    "Busy",
    "Process",
    "describe_machine",
    "forget_gpu_memory",
    "gpu_memory_mb",
    "run_process",
    "synchronise",
]

MEMORY_EVERY_S = 0.05
BUSY_EVERY_S = 0.1


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory, GPU where there is one, system and versions."""
    about: dict[str, Any] = {
        "processor": _processor(),
        "cores": _cores(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
    }
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        count = torch.cuda.device_count()
        about["gpu"] = gpu.name if count == 1 else f"{count} x {gpu.name}"
        about["gpu_memory_gb"] = round(gpu.total_memory / 1e9, 1)
        about["cuda"] = torch.version.cuda
    return about | {
        "system": _system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "wsiseg": version("wsiseg"),
    }


def _processor() -> str:
    about = Path("/proc/cpuinfo")
    lines = about.read_text(encoding="utf-8").splitlines() if about.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _cores() -> float:
    """Cores that may be used, by the scheduler and by the limit of a container."""
    count = usable_cores()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
        return count if quota == "max" else min(count, round(int(quota) / int(period), 1))
    except (OSError, ValueError):
        return count


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def synchronise(device: str) -> None:
    """Wait until a GPU has done all that was asked of it; a CPU has."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def forget_gpu_memory(device: str) -> None:
    """Let go of what a GPU keeps ready, so that `gpu_memory_mb` counts from here."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def gpu_memory_mb(device: str) -> dict[str, int]:
    """``gpu_memory_mb``, the most that this process has held on a GPU; nothing on a CPU."""
    if not device.startswith("cuda"):
        return {}
    return {"gpu_memory_mb": round(torch.cuda.max_memory_reserved(device) / 1e6)}


class Busy:
    """How large a share of the time a GPU computes, a context manager; nothing on a CPU.

    Sampled from NVML where nvidia-ml-py is installed, else from CUDA events around the calls of a
    network, which take the gaps between its kernels for work.
    """

    def __init__(self, device: str) -> None:
        self._gpu = torch.device(device) if device.startswith("cuda") else None
        self._samples: list[int] = []
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="busy", daemon=True)
        self._seconds = 0.0

    def __enter__(self) -> Busy:
        if self._gpu is not None:
            self._thread.start()
        self._seconds = -time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._seconds += time.perf_counter()
        if self._gpu is not None:
            self._stop.set()
            self._thread.join()

    def _sample(self) -> None:
        assert self._gpu is not None
        while not self._stop.wait(BUSY_EVERY_S):
            try:
                self._samples.append(torch.cuda.utilization(self._gpu.index or 0))
            except Exception:  # no nvidia-ml-py, or a driver that does not tell: events remain
                return

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around each call of the network."""
        if self._gpu is None:
            yield
            return
        with torch.cuda.device(self._gpu.index or 0):
            start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            start.record()
            yield
            end.record()
        self._events.append((start, end))

    def result(self) -> dict[str, Any]:
        """``gpu_busy``, 0 to 1, and ``gpu_busy_by``, how it is known; empty where it is not."""
        if self._samples:
            share = sum(self._samples) / len(self._samples) / 100
            return {"gpu_busy": round(share, 3), "gpu_busy_by": "NVML"}
        if self._events:
            synchronise(str(self._gpu))
            inside = sum(start.elapsed_time(end) for start, end in self._events) / 1000
            return {"gpu_busy": round(inside / self._seconds, 3), "gpu_busy_by": "CUDA events"}
        return {}


@dataclass(frozen=True)
class Process:
    """What a process took.

    Attributes
    ----------
    seconds
        from its start to its end
    peak_memory_mb
        the most memory that was resident at any time, 10⁶ bytes
    busy
        as `Busy.result` has it, while the process ran
    """

    seconds: float
    peak_memory_mb: int
    busy: Mapping[str, Any]


def run_process(
    code: str, arguments: Sequence[str], *, environment: Mapping[str, str], device: str
) -> Process:
    """Run Python code in a process of its own, and measure it.

    Raises
    ------
    OutputError
        it failed; the message is the last line that it wrote
    """
    command = [sys.executable, "-c", code, *arguments]
    said: list[str] = []
    peak = 0
    with Busy(device) as busy:
        began = time.perf_counter()
        with subprocess.Popen(
            command, env=os.environ | dict(environment), stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, encoding="utf-8", errors="replace",
        ) as process:  # fmt: skip
            listener = threading.Thread(target=said.extend, args=(process.stderr,), daemon=True)
            listener.start()
            try:
                while process.poll() is None:
                    peak = max(peak, peak_bytes(process.pid))
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(MEMORY_EVERY_S)
                seconds = time.perf_counter() - began
            finally:
                process.kill()
            listener.join()
    if process.returncode:
        last = said[-1].strip() if said else f"exit code {process.returncode}"
        raise OutputError(f"a run of the benchmark failed: {last.removeprefix('wsiseg: ')}")
    return Process(seconds, round(peak / 1e6), busy.result())
