"""The run folder: parts written atomically, a run that continues where it stopped.

::

    out/<slide_id>/
      plan.json                what decides the result; written first
      parts/000123.npz         objects of one region, as it was finished
      parts/000123.failed.json a region that is not whole, and why
      thumbnail.png  overlay.png  objects.parquet  objects.geojson.gz
      run.json                 written last: a folder with it is finished
      lock.json                who works on it, while somebody does

Everything is written aside and renamed: a file that exists is finished.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from wsi_pipeline.core.errors import OutputError
from wsi_pipeline.core.files import as_output_error, write_bytes
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.safe_names import check_name
from wsi_pipeline.runs.lock import RunLock

__all__ = ["FILES", "RESULT_VERSION", "RunFolder", "check_output", "part_bytes"]

RESULT_VERSION = 4
"""Raised when the same settings give other objects than before."""
FILES = (
    "objects.geojson.gz",
    "objects.parquet",
    "overlay.png",
    "thumbnail.png",
    "plan.json",
    "run.json",
)
"""All that a run leaves; nothing else in the folder is ever touched."""
_REMEDY = "finished regions are kept; free some space and run the same command again to resume"


def check_output(out: Path, needed_bytes: int) -> None:
    """Make sure that results can be written to `out` before work is done for them.

    Raises
    ------
    OutputError
        not a folder, not writable, or not enough space
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


def part_bytes(objects: Objects, extra: Mapping[str, int]) -> bytes:
    """The file that keeps the objects of a finished region, with counts that belong to it."""
    columns: dict[str, Any] = {f"feature {k}": v for k, v in objects.features.items()}
    if objects.parent is not None:
        columns["parent"] = objects.parent
    file = io.BytesIO()
    np.savez(
        file,
        ids=objects.ids,
        class_index=objects.class_index,
        score=objects.score,
        coords=objects.coords,
        ring_offsets=objects.ring_offsets,
        object_offsets=objects.object_offsets,
        classes=np.array(objects.classes),
        valid=np.array(objects.valid),
        extra=np.array(json.dumps(dict(extra))),
        **columns,
    )
    return file.getvalue()


class RunFolder:
    """One slide's results under `out`, new or continued; a context manager.

    It is this run's alone until it is closed; a finished one is only read, and by anybody.

    Parameters
    ----------
    plan
        what decides the result, JSON-able; a folder with another plan is refused
    overwrite
        start again instead: remove what an earlier run made, and only that

    Raises
    ------
    OutputError
        the folder holds a run with other settings, is another run's at present, or cannot be
        written
    """

    def __init__(
        self, out: Path, slide_id: str, plan: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        self.path = out / check_name(slide_id)
        self.parts = self.path / "parts"
        self._lock: RunLock | None = None
        self._release: Callable[[], Any] = lambda: None
        now = json.loads(json.dumps(plan))
        if not overwrite and self._begun(now) and self.finished is not None:
            return
        with as_output_error(self.path, _REMEDY):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = RunLock(self.path)
        self._release = weakref.finalize(self, self._lock.release)
        try:
            self._take_up(now, overwrite)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others write into the folder; a second time nothing happens."""
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _begun(self, plan: Mapping[str, Any]) -> bool:
        """Whether there is a run with this plan; `OutputError` if with another."""
        before = self._read("plan.json")
        if before is not None and before != plan:
            changed = sorted(k for k in {*before, *plan} if before.get(k) != plan.get(k))
            raise OutputError(
                f"{self.path} holds a run with another {', '.join(changed)}; "
                "use --overwrite or give another --out"
            )
        return before is not None

    def _take_up(self, plan: Mapping[str, Any], overwrite: bool) -> None:
        """Continue what is there, now that nobody else writes."""
        if overwrite:
            self._clear()
        begun = self._begun(plan)
        with as_output_error(self.path, _REMEDY):
            self.parts.mkdir(parents=True, exist_ok=True)
            for pattern in ("parts/*.part", *(f"{name}.*part" for name in FILES)):
                for left in self.path.glob(pattern):  # of a run that was killed while writing
                    left.unlink()
            if not begun:
                self.write_json("plan.json", plan)

    def check_owner(self) -> None:
        """Make sure that the folder is still this run's; `OutputError` if somebody took over."""
        if self._lock is not None:
            self._lock.check()

    def _clear(self) -> None:
        with as_output_error(self.path, _REMEDY):
            for name in FILES:
                (self.path / name).unlink(missing_ok=True)
            self.discard_parts()

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            stored: dict[str, Any] = json.loads((self.path / name).read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise OutputError(
                f"{self.path / name} cannot be read ({error}); use --overwrite"
            ) from error
        return stored

    @property
    def finished(self) -> dict[str, Any] | None:
        """The run.json of a finished run without failures, else None."""
        run = self._read("run.json")
        return run if run is not None and not run["failed_regions"] else None

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file of the folder atomically."""
        self.write_bytes(name, json.dumps(content, indent=1).encode())

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file of the folder atomically, and to the disk before it gets its name."""
        with as_output_error(self.path / name, _REMEDY):
            self.check_owner()
            write_bytes(self.path / name, content, durable=True, remedy=_REMEDY)

    def _part(self, region: int) -> Path:
        return self.parts / f"{region:06d}.npz"

    def has(self, region: int) -> bool:
        """Whether there are objects of a region, be it whole or not."""
        return self._part(region).is_file()

    def done(self, region: int) -> bool:
        """Whether a region is finished and whole."""
        return self.has(region) and not self._failure(region).is_file()

    def write_part(
        self,
        region: int,
        objects: Objects,
        extra: Mapping[str, int],
        failure: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep the objects of a region, with counts that belong to it; see `keep_part`."""
        with as_output_error(self._part(region), _REMEDY):
            self.keep_part(region, part_bytes(objects, extra), failure)

    def keep_part(
        self, region: int, content: bytes, failure: Mapping[str, Any] | None = None
    ) -> None:
        """Keep what `part_bytes` made of a region, here or on another machine.

        With `failure`, which says what of it lacks, the next run tries it again.
        """
        path = self._part(region)
        if failure is not None:  # before the part, which alone would count as whole
            self.write_failure(region, failure)
        self.write_bytes(f"{self.parts.name}/{path.name}", content)
        if failure is None:
            with as_output_error(path, _REMEDY):
                self._failure(region).unlink(missing_ok=True)

    def read_part(self, region: int) -> tuple[Objects, dict[str, int]]:
        """Objects and counts of a finished region."""
        with np.load(self._part(region), allow_pickle=False) as stored:  # noqa: TID251
            prefix = "feature "
            features = {k.removeprefix(prefix): stored[k] for k in stored if k.startswith(prefix)}
            objects = Objects(
                classes=tuple(str(c) for c in stored["classes"]),
                ids=stored["ids"],
                class_index=stored["class_index"],
                score=stored["score"],
                coords=stored["coords"],
                ring_offsets=stored["ring_offsets"],
                object_offsets=stored["object_offsets"],
                features=features,
                parent=stored.get("parent"),
                valid=bool(stored.get("valid", False)),
            )
            return objects, json.loads(str(stored["extra"]))

    def _failure(self, region: int) -> Path:
        return self.parts / f"{region:06d}.failed.json"

    def write_failure(self, region: int, cause: Mapping[str, Any]) -> None:
        """Record why a region is not whole; the next run tries it again."""
        self.write_json(f"parts/{region:06d}.failed.json", cause)

    def failures(self) -> list[dict[str, Any]]:
        """Recorded failures, by region."""
        return [json.loads(p.read_text()) for p in sorted(self.parts.glob("*.failed.json"))]

    def regions(self) -> Iterator[int]:
        """Numbers of the regions that have objects, in order."""
        for path in sorted(self.parts.glob("*.npz")):
            yield int(path.stem)

    def discard_parts(self) -> None:
        """Remove the parts, which the finished files have made superfluous."""
        for pattern in ("*.npz", "*.failed.json", "*.part"):
            for path in self.parts.glob(pattern):
                path.unlink()
        if self.parts.is_dir() and not any(self.parts.iterdir()):
            self.parts.rmdir()
