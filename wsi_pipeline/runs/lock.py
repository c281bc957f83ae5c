"""The lock of a run folder: one run writes into it at a time.

`lock.json` names the process that writes. It is made with O_EXCL, which is atomic on network
drives too, and its modification time is renewed every `RENEW_S` seconds. The clocks of machines
differ and are changed, so a file's time is never compared with the local clock: the time of one
file is compared with that of another file on the same drive, or is watched for a change.

A lock is taken over

- at once, if its process has ended on this machine;
- from another machine, or where this machine cannot find out, after it was not renewed for
  `SILENT_S` seconds.

A text that is no lock counts as that of an unknown process, on another machine. A lock that is no
file (a link, a pipe, a device, a folder) is refused, and nothing is read from it.

A run reads its lock before each file that it writes, and ends if another run has taken it over.

This is own code and not filelock's `SoftFileLease` because of that check: a lease reports a loss
only when its own thread notices it, up to a third of the lease later. A lease also makes others
wait, where this lock refuses at once with the process that holds the folder.

Windows and macOS have less to go by:

- A machine is known by its host name and network address. If one of them changed, the lock of a
  killed run counts as that of another machine, and is taken over after a minute, not at once.
- Windows cannot lock a folder. If several processes take over the same lock in the same
  instant, the rename decides, as on network drives without locks.
- Windows cannot renew the time of an open file. A run that was taken over at that very moment
  may renew its successor's lock once.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from wsi_pipeline.core.errors import OutputError
from wsi_pipeline.core.run_layout import LOCK_JSON
from wsi_pipeline.runs.lock_owner import LockOwner

__all__ = ["RunLock", "is_left_behind"]

RENEW_S = 10.0
"""Seconds between renewals of the lock's modification time."""
SILENT_S = 60.0
"""Seconds without renewal after which the owner on another machine counts as ended."""
CONFIRM_S = 25.0
"""The same where the lock's own time already says so; the drive's clock may have been changed."""
POLL_S = 1.0
"""Seconds between two looks at the lock of another run."""
MOST_BYTES = 1 << 16
"""Bytes that are read of a lock; one has about 400."""
PUT_BACK_S = 2.0
"""Seconds within which a lock that was removed by mistake is put back."""

_LEFT = re.compile(rf"{re.escape(LOCK_JSON)}\.[0-9a-f]+\.(?:probe|stale)")
"""Other files that taking a lock may leave."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Seen:
    """The lock of another run at one moment: text, modification time in ns, age in seconds."""

    text: str
    mtime_ns: int
    age_s: float

    def __str__(self) -> str:
        owner = LockOwner.from_json(self.text) or "an unknown process"
        return f"{owner}, last renewed {self.age_s:.0f} s ago"


class RunLock:
    """The right to write into a run folder, until `release`.

    Parameters
    ----------
    monotonic, sleep
        the clock by which another run's lock is watched

    Raises
    ------
    OutputError
        another run writes into the folder
    OSError
        the folder cannot be written
    """

    def __init__(
        self,
        folder: Path,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.path = folder / LOCK_JSON
        self.owner = LockOwner.this_process()
        self._text = json.dumps(asdict(self.owner), indent=1)
        self._monotonic, self._sleep = monotonic, sleep
        self._refusals = 0
        self._acquire()
        self._ended = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="lock", daemon=True)
        try:
            self._renewer.start()
        except RuntimeError:  # the system has no further thread
            self.path.unlink(missing_ok=True)
            raise

    def _acquire(self) -> None:
        first: _Seen | None = None
        since = 0.0
        while not self._create(self._text):
            seen = self._read()
            if seen is None:
                continue
            owner = LockOwner.from_json(seen.text)
            runs = None if owner is None else owner.runs()
            if first is None:
                first, since = seen, self._monotonic()
                if runs is None:
                    _log.warning("%s is held by %s; waiting for a renewal", self.path, seen)
            renewed = (seen.text, seen.mtime_ns) != (first.text, first.mtime_ns)
            if runs or (runs is None and renewed):
                raise OutputError(
                    f"{self.path.parent} is being written by {seen}; "
                    "wait for that run, or give another --out"
                )
            patience = CONFIRM_S if seen.age_s >= SILENT_S else SILENT_S
            if runs is False or self._monotonic() - since >= patience:
                self._take_over(seen)
            else:
                self._sleep(POLL_S)

    def _wait_for_windows(self) -> None:
        """Wait a moment on Windows, which refuses a file that another process is just removing.

        Call it while a `PermissionError` is handled; that is raised again elsewhere, and on
        Windows after 5 s.
        """
        self._refusals += 1
        if os.name != "nt" or self._refusals > 100:
            raise
        self._sleep(0.05)

    def _create(self, text: str) -> bool:
        """Create the lock; return False if there is one."""
        try:
            file = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        except PermissionError:
            self._wait_for_windows()
            return False
        try:
            with open(file, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError:
            self.path.unlink(missing_ok=True)
            raise
        return True

    def _read(self) -> _Seen | None:
        """Read the lock; None if there is none. Network drives send the true state at an open."""
        try:
            with _opened(self.path) as file:
                text, mtime_ns = _text(file), os.fstat(file).st_mtime_ns
        except FileNotFoundError:
            return None
        except PermissionError:
            self._wait_for_windows()
            return None
        return _Seen(text, mtime_ns, (self._drive_time_ns() - mtime_ns) / 1e9)

    def _drive_time_ns(self) -> int:
        """Return the time by the clock that gives files on this drive their times."""
        probe = self.path.with_name(f"{LOCK_JSON}.{secrets.token_hex(4)}.probe")
        try:
            with probe.open("xb") as file:
                file.write(b"0")
                file.flush()
                return os.fstat(file.fileno()).st_mtime_ns
        finally:
            probe.unlink(missing_ok=True)

    def _take_over(self, stale: _Seen) -> None:
        """Remove the lock of an ended run. Of several processes that try, one renames this file."""
        aside = self.path.with_name(f"{LOCK_JSON}.{self.owner.lock_id}.stale")
        with _folder_locked(self.path.parent):
            try:
                if _read_text(self.path) != stale.text:
                    return
                self.path.rename(aside)
                text = _read_text(aside)
            except FileNotFoundError:
                return
            except PermissionError:
                self._wait_for_windows()
                return
            if text == stale.text:
                _log.warning("%s was left by %s; taken over", self.path, stale)
            else:  # another process was faster, and this is already its lock
                self._create(text)
            aside.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_S):
            # A drive that does not answer may do so next time; `check` reports a lock that is lost.
            with suppress(OSError), _opened(self.path) as file:
                if _text(file) == self._text:
                    os.utime(file if os.utime in os.supports_fd else self.path)

    def _held(self) -> bool:
        try:
            return _read_text(self.path) == self._text
        except FileNotFoundError:
            return False

    def check(self) -> None:
        """Check that no other run has taken over, as after this machine slept for minutes.

        Raises
        ------
        OutputError
            another run has
        """
        until = time.monotonic() + PUT_BACK_S
        while not self._held():
            if time.monotonic() > until:
                seen = self._read()
                raise OutputError(
                    f"{self.path.parent} was taken over by {seen or 'a run that has ended'}, since "
                    "this run did not renew its lock; finished regions are kept"
                )
            time.sleep(PUT_BACK_S / 20)

    def release(self) -> None:
        """Remove the lock. One that cannot be removed is stale once this process ends."""
        self._ended.set()
        self._renewer.join(1)
        with suppress(OSError):
            if self._held():
                self.path.unlink()
                for left in list(self.path.parent.iterdir()):
                    if _LEFT.fullmatch(left.name):
                        left.unlink(missing_ok=True)


def is_left_behind(folder: Path) -> bool:
    """Return whether a folder has no lock, or one whose process has ended on this machine."""
    try:
        owner = LockOwner.from_json(_read_text(folder / LOCK_JSON))
    except FileNotFoundError:
        return True
    return owner is not None and owner.runs() is False


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a lock to read, without waiting.

    Raises
    ------
    OutputError
        it is no file
    """
    flags = (getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
    try:
        file = os.open(path, os.O_RDONLY | sum(flags))
    except OSError as error:
        with suppress(FileNotFoundError):
            _refuse_others(path, path.lstat().st_mode, error)
        raise
    try:
        _refuse_others(path, os.fstat(file).st_mode)
        yield file
    finally:
        os.close(file)


def _refuse_others(path: Path, mode: int, cause: OSError | None = None) -> None:
    """Raise an `OutputError` for a lock of this mode, unless it is a file."""
    if not stat.S_ISREG(mode):
        kinds = ((stat.S_ISLNK, "link"), (stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "pipe"))
        kind = next((name for is_kind, name in kinds if is_kind(mode)), "device")
        raise OutputError(
            f"{path} is a {kind} and no lock of a run; remove it, or give another --out"
        ) from cause


def _text(file: int) -> str:
    """Return the text of an open lock; rubbish gives a text, too, that names no process."""
    return os.read(file, MOST_BYTES).decode("utf-8", "replace").replace("\r\n", "\n")


def _read_text(path: Path) -> str:
    with _opened(path) as file:
        return _text(file)


@contextmanager
def _folder_locked(folder: Path) -> Iterator[None]:
    """Keep other processes of this machine out while a stale lock is compared and removed.

    Without effect on Windows and on drives that have no locks for folders.
    """
    try:
        import fcntl  # noqa: TID251
    except ImportError:
        yield
        return
    file = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
