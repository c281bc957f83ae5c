"""The machine and the process: cores, memory, and settings that hold for the whole process."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

__all__ = [
    "give_back_freed_memory",
    "keep_freed_memory",
    "peak_bytes",
    "process_settings",
    "usable_cores",
]


def usable_cores() -> int:
    """Cores that this process may use: those of its CPU affinity, where the system has one."""
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    if affinity is not None:
        return len(affinity(0))
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):  # Windows; macOS has none
        return len(process.cpu_affinity())
    return os.cpu_count() or 1


def peak_bytes(process: int | None = None) -> int:
    """Largest memory that a process has held, in bytes.

    Linux and Windows keep this figure for every process. macOS keeps it for the own process only;
    for another one the memory that it holds now is returned.

    Parameters
    ----------
    process
        process id; by default this process

    Returns
    -------
    int
        0 for a process that has ended
    """
    # Linux: `getrusage` also counts what the parent process held at the fork; this does not.
    with suppress(OSError):
        status = Path(f"/proc/{process or 'self'}/status").read_text(encoding="utf-8")
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        memory = psutil.Process(process).memory_info()
    except psutil.NoSuchProcess:
        return 0
    if hasattr(memory, "peak_wset"):  # Windows
        return int(memory.peak_wset)
    if process is None:
        with suppress(ImportError):
            import resource  # noqa: TID251

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return peak if sys.platform == "darwin" else peak * 1024
    return int(memory.rss)


@contextmanager
def process_settings(
    *,
    opencv_threads: int | None = None,
    switch_interval_s: float | None = None,
    torch_threads: int | None = None,
    any_image_size: bool = False,
) -> Iterator[None]:
    """Change settings of the whole process for a block, and restore them after it.

    Blocks may be nested and may overlap in several threads: the block entered last decides, and
    when the last block ends the process is as it was before the first.

    Parameters
    ----------
    opencv_threads
        threads of one OpenCV call; 1 where the caller runs OpenCV in several threads
    switch_interval_s
        seconds that a thread runs before Python may switch to another, see
        `sys.setswitchinterval`
    torch_threads
        threads of one PyTorch call. PyTorch keeps this number per thread: it holds in the thread
        that enters the block and in threads that first use PyTorch inside it.
    any_image_size
        let Pillow open images of any size, see `PIL.Image.MAX_IMAGE_PIXELS`

    Examples
    --------
    >>> before = sys.getswitchinterval()
    >>> with process_settings(switch_interval_s=0.001):
    ...     sys.getswitchinterval()
    0.001
    >>> sys.getswitchinterval() == before
    True
    """
    with ExitStack() as stack:
        if opencv_threads is not None:
            stack.enter_context(_OPENCV.set_to(opencv_threads))
        if switch_interval_s is not None:
            stack.enter_context(_SWITCHING.set_to(switch_interval_s))
        if torch_threads is not None:
            stack.enter_context(_TORCH.set_to(torch_threads))
        if any_image_size:
            stack.enter_context(_PILLOW.set_to(None))
        yield


class _Setting:
    """One setting of the process, which blocks in any thread change and restore together."""

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], object]) -> None:
        self._read, self._write = read, write
        self._lock = threading.Lock()
        self._wanted: dict[object, Any] = {}  # by block, in the order of entry
        self._before: Any = None

    @contextmanager
    def set_to(self, value: Any) -> Iterator[None]:
        """Hold the setting at `value` until the block ends, unless a later block changes it."""
        block = object()
        with self._lock:
            if not self._wanted:
                self._before = self._read()
            self._wanted[block] = value
            self._write(value)
        try:
            yield
        finally:
            with self._lock:
                del self._wanted[block]
                self._write(next(reversed(self._wanted.values()), self._before))


# The libraries are imported where they are used: many blocks need one of them only.
def _opencv_threads() -> int:
    import cv2

    return int(cv2.getNumThreads())


def _set_opencv_threads(count: int) -> None:
    import cv2

    cv2.setNumThreads(count)


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()


def _set_torch_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)


def _pillow_limit() -> int | None:
    from PIL import Image

    return Image.MAX_IMAGE_PIXELS


def _set_pillow_limit(pixels: int | None) -> None:
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = pixels


_OPENCV = _Setting(_opencv_threads, _set_opencv_threads)
_SWITCHING = _Setting(sys.getswitchinterval, sys.setswitchinterval)
_TORCH = _Setting(_torch_threads, _set_torch_threads)
_PILLOW = _Setting(_pillow_limit, _set_pillow_limit)

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Keep freed memory in the process, for the rest of its life; for the command line only.

    A network's layers take and free 100 MB at a time. By default glibc returns such blocks to the
    system, which clears them page by page before it hands them out again; on a CPU that takes a
    sixth of DSSNet's time. All threads use one arena, so that one reuses what another has freed.
    This cannot be undone, so no library function calls it. It does nothing without glibc.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**30), (_M_ARENA_MAX, 1)):
                libc.mallopt(option, value)


def give_back_freed_memory() -> None:
    """Return freed memory to the system, so that holes in it do not add up from slide to slide.

    It takes about 20 ms. It does nothing without glibc.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)
