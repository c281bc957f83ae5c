"""A run folder: one file per finished region, so that a stopped run can be resumed.

`wsi_pipeline.core.run_layout` lists its files. Each file is written under another name and then
renamed: a file that exists is complete.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shutil
import stat
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypedDict, cast
from zipfile import BadZipFile

from wsi_pipeline.core.errors import OutputError, one_line
from wsi_pipeline.core.files import as_output_error, write_bytes
from wsi_pipeline.core.json_files import mismatch, parse_record
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.records import (
    SCHEMA_VERSION,
    FailureRecord,
    PlanRecord,
    RegionFailure,
    RunRecord,
)
from wsi_pipeline.core.run_layout import (
    LOCK_JSON,
    PARTS,
    PLAN_JSON,
    RUN_JSON,
    remove_parts,
    remove_run,
    remove_unfinished,
)
from wsi_pipeline.runs.lock import RunLock, is_left_behind
from wsi_pipeline.runs.part_file import part_bytes, read_part, read_sealed, sealed

__all__ = ["RESULT_VERSION", "RunFolder", "check_output"]

RESULT_VERSION = 10
"""Raised when the same settings give other objects than before."""
MOST_FAILURE_BYTES = 1 << 24
"""Largest record of a failure that is read."""
_REMEDY = "finished regions are kept; free some space and run the same command again to resume"

_log = logging.getLogger(__name__)


def check_output(out: Path, needed_bytes: int) -> None:
    """Check that `out` can be written and has enough free space, before any work is done.

    Raises
    ------
    OutputError
        `out` is not a folder, not writable, or has less than `needed_bytes` free
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"cannot write to {out} ({error.strerror}); give another --out"
        ) from error
    free = shutil.disk_usage(out).free
    if free < needed_bytes:
        raise OutputError(
            f"{out} has {free / 1e6:.0f} MB free, about {needed_bytes / 1e6:.0f} MB are needed; "
            "free some space or give another --out"
        )


class _Finished(TypedDict):
    """What a resumed run needs of a run.json."""

    objects: int
    failed_regions: list[RegionFailure]


class RunFolder:
    """One run's results: a new folder, or one that is resumed. A context manager.

    While it is open no other run can write into the folder. A finished folder is only read, and
    takes no lock, except for a moment to remove what a kill after run.json left.

    Parameters
    ----------
    path
        the folder, see `wsi_pipeline.core.run_layout.run_folder_path`
    plan
        everything that decides the result; a folder with another plan is refused
    overwrite
        remove the files of an earlier run, and only those, and start again

    Raises
    ------
    OutputError
        the folder holds a run with other settings, another run is writing into it, or it cannot
        be written
    """

    def __init__(self, path: Path, plan: PlanRecord, *, overwrite: bool = False) -> None:
        self.path = path
        self.parts = path / PARTS
        self._lock: RunLock | None = None
        self._release: Callable[[], Any] = lambda: None
        as_stored: PlanRecord = json.loads(json.dumps(plan))
        self._key = json.dumps(plan, sort_keys=True)
        if not overwrite and self._begun(as_stored) and self.finished is not None:
            self._remove_rest()
            return
        with as_output_error(path, _REMEDY):
            path.mkdir(parents=True, exist_ok=True)
            self._lock = RunLock(path)
        self._release = weakref.finalize(self, self._lock.release)
        try:
            self._prepare(as_stored, overwrite)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the lock; a second call does nothing."""
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _begun(self, plan: PlanRecord) -> bool:
        """Return whether the folder holds a run with this plan; `OutputError` if with another."""
        before = self._read(PLAN_JSON)
        if before is not None and before != plan:
            changed = sorted(k for k in {*before, *plan} if before.get(k) != plan.get(k))
            raise OutputError(
                f"{self.path} holds a run with another {', '.join(changed)}; "
                "use --overwrite or give another --out"
            )
        return before is not None

    def _prepare(self, plan: PlanRecord, overwrite: bool) -> None:
        """Remove incomplete files, and write the plan where there is none; needs the lock."""
        for path in (self.parts, *[self.path] * overwrite):  # nothing is removed through a link
            if path.is_symlink():
                raise OutputError(
                    f"{path} is a link, and a run removes files there; remove the link, "
                    "or give another --out"
                )
        if overwrite:
            with as_output_error(self.path, _REMEDY):
                remove_run(self.path)
        begun = self._begun(plan)
        with as_output_error(self.path, _REMEDY):
            self.parts.mkdir(parents=True, exist_ok=True)
            remove_unfinished(self.path)
            if not begun:
                self.write_json(PLAN_JSON, plan)
            self._remove_damaged()

    def _remove_rest(self) -> None:
        """Remove what a run left that was killed after its run.json: parts and lock."""
        if not self.parts.exists() and not (self.path / LOCK_JSON).exists():
            return
        with suppress(OSError):  # a folder that is only to be read, or a run that tidies up itself
            if is_left_behind(self.path):
                lock = RunLock(self.path)
                try:
                    self.discard_parts()
                finally:
                    lock.release()

    def _remove_damaged(self) -> None:
        """Remove parts that are not as this plan's runs wrote them; their regions are repeated."""
        for region in list(self.regions()):
            try:
                self._content(region)
            except (OSError, ValueError) as error:
                _log.warning("%s is made again: %s", self._part(region), one_line(error))
                self._part(region).unlink()
        for path in self._failure_files():
            try:
                _read_failure(path)
            except (OSError, ValueError, RecursionError):
                path.with_name(path.name.replace(".failed.json", ".npz")).unlink(missing_ok=True)
                path.unlink()

    def _content(self, region: int) -> bytes:
        """Return the content of a part; `ValueError` if it is damaged."""
        return read_sealed(self._part(region), self._key_of(region))

    def _key_of(self, region: int) -> bytes:
        return f"{region} {self._key}".encode()

    def check_owner(self) -> None:
        """Check that no other run has taken over the folder; `OutputError` otherwise."""
        if self._lock is not None:
            self._lock.check()

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            stored = parse_record((self.path / name).read_text("utf-8"))
            if not isinstance(stored, dict):
                raise ValueError("it is no mapping of names")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise OutputError(
                f"{self.path / name} cannot be read ({one_line(error)}); use --overwrite"
            ) from error
        return stored

    @property
    def finished(self) -> RunRecord | None:
        """The run.json of a finished run without failures, else None."""
        run = self._read(RUN_JSON)
        if run is None:
            return None
        if fault := mismatch(run, _Finished):
            raise OutputError(f"{self.path / RUN_JSON} cannot be used ({fault}); use --overwrite")
        return None if run["failed_regions"] else cast(RunRecord, run)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file of the folder; see `write_bytes`."""
        self.write_bytes(name, json.dumps(content, indent=1).encode())

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file of the folder to the disk, and then give it its name."""
        with as_output_error(self.path / name, _REMEDY):
            self.check_owner()
            write_bytes(self.path / name, content, durable=True, remedy=_REMEDY)

    def _part(self, region: int) -> Path:
        return self.parts / f"{region:06d}.npz"

    def _failure(self, region: int) -> Path:
        return self.parts / f"{region:06d}.failed.json"

    def has(self, region: int) -> bool:
        """Return whether the region has a part, complete or not."""
        return self._part(region).is_file()

    def done(self, region: int) -> bool:
        """Return whether the region has a part and no recorded failure."""
        return self.has(region) and not self._failure(region).is_file()

    def write_part(
        self, region: int, objects: Objects, oversized: int, failure: RegionFailure | None = None
    ) -> None:
        """Write the objects of a region, and how many are oversized; see `write_part_bytes`."""
        with as_output_error(self._part(region), _REMEDY):
            self.write_part_bytes(region, part_bytes(objects, oversized), failure)

    def write_part_bytes(
        self, region: int, content: bytes, failure: RegionFailure | None = None
    ) -> None:
        """Write a part that `part_bytes` made, on this machine or on a cluster's worker.

        With `failure`, which lists what could not be read, the next run repeats the region.
        """
        path = self._part(region)
        content = sealed(content, self._key_of(region))
        if failure is not None:  # before the part, which alone would count as complete
            self.write_failure(failure)
        self.write_bytes(f"{PARTS}/{path.name}", content)
        if failure is None:
            with as_output_error(path, _REMEDY):
                self._failure(region).unlink(missing_ok=True)

    def read_part(self, region: int) -> tuple[Objects, int]:
        """Read the objects of a region, and how many of them are oversized.

        Raises
        ------
        OutputError
            the part was damaged while this run went on
        """
        try:
            return read_part(io.BytesIO(self._content(region)))
        except (OSError, ValueError, LookupError, TypeError, BadZipFile) as error:
            raise OutputError(
                f"{self._part(region)} is damaged ({one_line(error)}); check the drive, and run "
                "the same command again: the region is made again"
            ) from error

    def write_failure(self, failure: RegionFailure) -> None:
        """Record that a region is incomplete; the next run repeats it."""
        record: FailureRecord = {"schema_version": SCHEMA_VERSION, **failure}
        self.write_json(f"{PARTS}/{self._failure(failure['region']).name}", record)

    def failures(self) -> list[RegionFailure]:
        """Return the recorded failures, by region."""
        return [_read_failure(path) for path in self._failure_files()]

    def _failure_files(self) -> list[Path]:
        files = sorted(self.parts.glob("*.failed.json"))
        return [path for path in files if re.fullmatch(r"[0-9]{6,}\.failed\.json", path.name)]

    def regions(self) -> Iterator[int]:
        """Yield the numbers of the regions that have a part, in order."""
        for path in sorted(self.parts.glob("*.npz")):
            if re.fullmatch("[0-9]{6,}", path.stem):
                yield int(path.stem)

    def discard_parts(self) -> None:
        """Remove the parts; the final files hold their objects."""
        remove_parts(self.path)


def _read_failure(path: Path) -> RegionFailure:
    """Read a record of a failure; `ValueError` or `RecursionError` if it is none."""
    about = path.lstat()
    if not stat.S_ISREG(about.st_mode) or about.st_size > MOST_FAILURE_BYTES:
        raise ValueError("no file, or too large")
    failure = parse_record(path.read_text("utf-8"))
    if not isinstance(failure, dict) or not {"region", "level0_box", "cause"} <= {*failure}:
        raise ValueError("no record of a failure")
    failure.pop("schema_version", None)
    if failure["region"] != int(path.name.partition(".")[0]):
        raise ValueError("the record of another region")
    return cast(RegionFailure, failure)
