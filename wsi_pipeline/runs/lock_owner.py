"""The process that holds a lock, and whether it still runs."""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import uuid
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from wsi_pipeline.core.records import SCHEMA_VERSION
from wsi_pipeline.core.safe_names import shown

__all__ = ["LockOwner"]


@dataclass(frozen=True)
class LockOwner:
    """Content of lock.json: the process that writes into a run folder.

    Attributes
    ----------
    schema_version
        of this record
    host
        name of the machine, for messages
    machine
        equal for two processes only if their process ids can be compared: same machine, same
        start of the system, same container. Empty if that cannot be found out.
    pid, process_start
        the process, and when it started, since process ids are used again. Clock ticks since the
        system started on Linux, hundredths of a second since 1970 elsewhere.
    lock_id
        random, different for each lock
    wsiseg
        version
    since
        when the lock was made, UTC
    """

    schema_version: int
    host: str
    machine: str
    pid: int
    process_start: int
    lock_id: str
    wsiseg: str
    since: str

    @classmethod
    def this_process(cls) -> LockOwner:
        """Return an owner for a new lock of this process."""
        machine = _machine()
        return cls(
            schema_version=SCHEMA_VERSION,
            host=socket.gethostname(),
            machine=machine,
            pid=os.getpid(),
            process_start=_process_start(os.getpid()) or 0 if machine else 0,
            lock_id=secrets.token_hex(8),
            wsiseg=version("wsiseg"),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @classmethod
    def from_json(cls, text: str) -> LockOwner | None:
        """Return the owner that a lock names; None for rubbish or half of one."""
        try:
            stored = json.loads(text)
            values = {field.name: stored[field.name] for field in fields(cls)}
        except (ValueError, LookupError, TypeError, RecursionError):
            return None
        # The types are written as texts.
        kinds = {"int": int, "str": str}
        if any(type(values[field.name]) is not kinds[str(field.type)] for field in fields(cls)):
            return None
        return cls(**values) if 0 < values["pid"] < 2**31 else None

    def runs(self) -> bool | None:
        """Return whether the process still runs; None where this machine cannot find out."""
        if not self.machine or self.machine != _machine():
            return None
        try:
            start = _process_start(self.pid)
        except PermissionError:
            return None
        return start is not None and start == self.process_start

    def __str__(self) -> str:
        return f"pid {self.pid} on {shown(self.host[:80])} since {shown(self.since[:40])}"


def _machine() -> str:
    """Return the machine's identity, see `LockOwner.machine`.

    Linux: id of the system's start and process id namespace. Elsewhere: name and network address;
    a process of an earlier start of the system is told apart by the time at which it started.
    """
    if sys.platform == "linux":
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
            return f"{boot} {os.readlink('/proc/self/ns/pid')}"
        except OSError:
            return ""
    address = uuid.getnode()
    made_up = address >> 40 & 1  # no network card was found; differs from process to process
    return "" if made_up else f"{socket.gethostname()} {address:012x}"


def _process_start(pid: int) -> int | None:
    """Return when a process started, see `LockOwner.process_start`; None if it does not run.

    Raises
    ------
    PermissionError
        the process belongs to another user, and this cannot be found out
    """
    if sys.platform == "linux":
        return _process_start_linux(pid)
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return round(process.create_time() * 100)
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied as error:
        raise PermissionError(str(error)) from error


def _process_start_linux(pid: int) -> int | None:
    # psutil derives the time from the clock, which can be changed; the kernel's ticks cannot.
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8")
    except (FileNotFoundError, ProcessLookupError):
        with suppress(ProcessLookupError):
            os.kill(pid, 0)  # PermissionError: another user's, which /proc may hide
            raise PermissionError(f"/proc/{pid} is hidden") from None
        return None
    state, *rest = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(rest[18])  # Z, X: ended, but still listed
