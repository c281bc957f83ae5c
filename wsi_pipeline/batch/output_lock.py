"""Keep two workflows out of one output folder."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

import psutil
from filelock import FileLock, Timeout

from wsi_pipeline.core.errors import OutputError
from wsi_pipeline.core.files import as_output_error, write_json
from wsi_pipeline.core.json_files import mismatch, read_json
from wsi_pipeline.core.records import SCHEMA_VERSION

__all__ = ["Holder", "hold_output"]

_SAME_START_S = 2.0
"""Start times of one process differ by less, because the clock is adjusted."""


class ProcessRecord(TypedDict):
    """A process: its id, and its start in seconds since 1970, since ids are used again."""

    pid: int
    started_s: float


class OwnerRecord(TypedDict):
    """Content of workflow/owner.json: the machine and the processes that work in OUT."""

    schema_version: int
    host: str
    processes: list[ProcessRecord]


class Holder:
    """The owner of an output folder."""

    def __init__(self, out: Path) -> None:
        self._path = out / "workflow" / "owner.json"
        self._processes = [_process(os.getpid())]
        self._write()

    def started(self, pid: int) -> None:
        """Record that process `pid` works in the folder too."""
        self._processes.append(_process(pid))
        self._write()

    def _write(self) -> None:
        record: OwnerRecord = {
            "schema_version": SCHEMA_VERSION,
            "host": platform.node(),
            "processes": self._processes,
        }
        write_json(self._path, record)

    def release(self) -> None:
        """Remove the record."""
        self._path.unlink(missing_ok=True)


@contextmanager
def hold_output(out: Path) -> Iterator[Holder]:
    """Make `out` and keep other workflows out of it.

    The operating system ends the lock with this process, however it ends. If Snakemake is still
    running after that, its entry in workflow/owner.json keeps other workflows on this machine out;
    on another machine, Snakemake's own lock does. A lock that a killed Snakemake left is removed if
    it was on this machine.

    Raises
    ------
    OutputError
        another workflow works in `out`, or `out` cannot be written
    """
    with as_output_error(out, "give another OUT"):
        (out / "workflow").mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / "workflow" / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise _in_use(out, _read_owner(out)) from None
    try:
        if (owner := _read_owner(out)) is not None and owner["host"] == platform.node():
            if any(map(_is_running, owner["processes"])):
                raise _in_use(out, owner)
            for left in (out / ".snakemake" / "locks").glob("*"):
                left.unlink()
        holder = Holder(out)
        try:
            yield holder
        finally:
            holder.release()
    finally:
        lock.release()


def _in_use(out: Path, owner: OwnerRecord | None) -> OutputError:
    who = "unknown"
    if owner is not None:
        who = f"process {owner['processes'][-1]['pid']} on {owner['host']}"
    return OutputError(f"another workflow ({who}) works in {out}; wait for it, or give another OUT")


def _read_owner(out: Path) -> OwnerRecord | None:
    try:
        owner: OwnerRecord = read_json(out / "workflow" / "owner.json")
        if owner["schema_version"] != SCHEMA_VERSION or mismatch(owner, OwnerRecord):
            return None
        return owner if owner["processes"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _process(pid: int) -> ProcessRecord:
    return {"pid": pid, "started_s": psutil.Process(pid).create_time()}


def _is_running(process: ProcessRecord) -> bool:
    try:
        started_s = psutil.Process(process["pid"]).create_time()
    except psutil.Error:
        return False
    return abs(started_s - process["started_s"]) < _SAME_START_S
