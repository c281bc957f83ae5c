"""One run per run folder: `lock.json` says who works on it, and its mtime that he still does.

The file is made with O_EXCL, which is atomic on network drives too, and touched every `BEAT_S`.
Clocks of machines differ and change, so no file's time is compared with the local clock: the
mtime of one file is compared with that of another on the same drive, or watched for changing.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from wsi_pipeline.core.errors import OutputError

__all__ = ["LOCK", "Owner", "RunLock"]

LOCK = "lock.json"
BEAT_S = 10.0
SILENT_S = 60.0
"""An owner on another machine whose lock has not been touched for so long is gone."""
CONFIRM_S = 25.0
"""The same where the drive's clock already says so; it may just have been put forward."""
LOOK_S = 1.0
PUT_BACK_S = 2.0
"""In this time a lock that was taken away by mistake is back."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Owner:
    """Who works on a run folder.

    Attributes
    ----------
    host, machine
        name for people; what tells machines, and containers on them, apart, empty if unknown
    pid, process_start
        the process; the second as the kernel counts it, since pids are used again
    token
        differs for each lock
    wsiseg, since
        version; when the lock was made, UTC
    """

    host: str
    machine: str
    pid: int
    process_start: int
    token: str
    wsiseg: str
    since: str

    @classmethod
    def here(cls) -> Owner:
        """The process that asks."""
        machine = _machine()
        return cls(
            host=socket.gethostname(),
            machine=machine,
            pid=os.getpid(),
            process_start=_process(os.getpid())[1] if machine else 0,
            token=secrets.token_hex(8),
            wsiseg=version("wsiseg"),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @classmethod
    def read(cls, text: str) -> Owner | None:
        """The owner that a lock names; None for a lock that is only half written."""
        try:
            stored = json.loads(text)
            return cls(**{field.name: stored[field.name] for field in fields(cls)})
        except (ValueError, LookupError, TypeError):
            return None

    def lives(self) -> bool | None:
        """Whether the process is there; None where this machine cannot know."""
        if not self.machine or self.machine != _machine():
            return None
        try:
            state, start = _process(self.pid)
        except (FileNotFoundError, ProcessLookupError):
            with suppress(PermissionError):
                try:
                    os.kill(self.pid, 0)
                except ProcessLookupError:
                    return False
            return None  # another user's, hidden from us
        return start == self.process_start and state not in "ZX"  # ended, and not yet buried

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host} since {self.since}"


def _machine() -> str:
    """Boot and pid namespace: equal where a pid means the same process. Empty if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Keep others of this machine out, between a look at a lock and its removal.

    Drives that have no such locks for folders do without; then the rename decides.
    """
    file = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _process(pid: int) -> tuple[str, int]:
    """State of a process, one letter, and its start in clock ticks from boot."""
    state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return state, int(rest[18])


@dataclass(frozen=True)
class _Sight:
    """A lock of somebody else as it was seen: its text, its mtime in ns, its age if known."""

    text: str
    mtime_ns: int
    age_s: float | None

    def __str__(self) -> str:
        owner = Owner.read(self.text) or "an unknown process"
        return f"{owner}{'' if self.age_s is None else f', last heard of {self.age_s:.0f} s ago'}"


class RunLock:
    """The right to write into a run folder, from the start until `release`.

    A lock whose process has ended on this machine is taken over at once; one of another machine
    when it has been silent for `SILENT_S`, for which it is watched.

    Raises
    ------
    OutputError
        another run works on the folder
    OSError
        the folder cannot be written
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self.owner = Owner.here()
        self._text = json.dumps(asdict(self.owner), indent=1)
        self._acquire()
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._heart.start()

    def _acquire(self) -> None:
        first: _Sight | None = None
        since = 0.0
        while not self._create(self._text):
            seen = self._look()
            if seen is None:
                continue
            owner = Owner.read(seen.text)
            lives = None if owner is None else owner.lives()
            if first is None:
                first, since = seen, time.monotonic()
                if lives is None:
                    _log.warning("%s is held by %s; seeing whether that goes on", self.path, seen)
            moved = (seen.text, seen.mtime_ns) != (first.text, first.mtime_ns)
            if lives or (lives is None and moved):
                raise OutputError(
                    f"{self.path.parent} is being worked on by {seen}; "
                    "wait for it, or give another --out"
                )
            silent = seen.age_s is not None and seen.age_s >= SILENT_S
            if lives is False or time.monotonic() - since >= (CONFIRM_S if silent else SILENT_S):
                self._take(seen)
            else:
                time.sleep(LOOK_S)

    def _create(self, text: str) -> bool:
        """Make the lock, unless there is one."""
        try:
            file = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            with open(file, "w") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError:
            self.path.unlink(missing_ok=True)
            raise
        return True

    def _look(self) -> _Sight | None:
        """The lock that is there. Opening it makes a network drive say what is true now."""
        try:
            with self.path.open() as file:
                text, mtime_ns = file.read(), os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            return None
        return _Sight(text, mtime_ns, (self._drive_now_ns() - mtime_ns) / 1e9)

    def _drive_now_ns(self) -> int:
        """Time by the clock that gives files their times."""
        probe = self.path.with_name(f"{LOCK}.{secrets.token_hex(4)}.probe")
        try:
            with probe.open("xb") as file:
                file.write(b"0")
                file.flush()
                return os.fstat(file.fileno()).st_mtime_ns
        finally:
            probe.unlink(missing_ok=True)

    def _take(self, stale: _Sight) -> None:
        """Remove a lock whose owner has gone. Of several who try, one renames this very file."""
        aside = self.path.with_name(f"{LOCK}.{self.owner.token}.stale")
        with _one_at_a_time(self.path.parent):
            try:
                if self.path.read_text() != stale.text:
                    return
                self.path.rename(aside)
                text = aside.read_text()
            except FileNotFoundError:
                return
            if text == stale.text:
                _log.warning("%s was left by %s; taken over", self.path, stale)
            else:  # somebody was faster, and this is already his
                self._create(text)
            aside.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            # A drive that does not answer now may do so next time; whoever writes says if not.
            with suppress(OSError), self.path.open() as file:
                if file.read() == self._text:
                    os.utime(file.fileno())

    def _held(self) -> bool:
        try:
            return self.path.read_text() == self._text
        except FileNotFoundError:
            return False

    def check(self) -> None:
        """Make sure that nobody has taken over: a machine may have slept for longer than a minute.

        Raises
        ------
        OutputError
            somebody has
        """
        until = time.monotonic() + PUT_BACK_S
        while not self._held():
            if time.monotonic() > until:
                seen = self._look()
                raise OutputError(
                    f"{self.path.parent} was taken over by {seen or 'a run that has ended'}, since "
                    "this run had not been heard of; what was finished is kept"
                )
            time.sleep(PUT_BACK_S / 20)

    def release(self) -> None:
        """Let others work on the folder. What cannot be removed is stale once this process ends."""
        self._ended.set()
        self._heart.join(1)
        with suppress(OSError):
            if self._held():
                self.path.unlink()
                for left in self.path.parent.glob(f"{LOCK}.*"):
                    left.unlink(missing_ok=True)
