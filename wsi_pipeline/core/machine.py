"""What belongs to the machine and the process: memory, processors."""

from __future__ import annotations

import ctypes
import resource
import sys
from contextlib import suppress
from pathlib import Path

__all__ = [
    "M_ARENA_MAX",
    "M_MMAP_MAX",
    "M_TRIM_THRESHOLD",
    "give_back_freed_memory",
    "keep_freed_memory",
    "peak_bytes",
]


M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of malloc.h


def keep_freed_memory() -> None:
    """Let freed memory stay with the process: layers take and free 100 MB at a time.

    Otherwise each comes from the system anew, and is cleared by it page by page, which takes a
    sixth of DSSNet's time on a CPU. All threads share it, so that what one frees another takes.
    glibc only; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**30), (M_ARENA_MAX, 1)):
                libc.mallopt(option, value)


def give_back_freed_memory() -> None:
    """Let the system have what was kept, or holes in it add up from slide to slide.

    It takes some 20 ms, and a process that does many slides then holds no more than with one.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)


def peak_bytes(process: int | None = None) -> int:
    """Most memory that a process held, by default this one; 0 for another that has ended.

    It is the kernel's own mark; `getrusage` also counts what the parent held at the fork.
    """
    with suppress(OSError):
        for line in Path(f"/proc/{process or 'self'}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0 if process else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
