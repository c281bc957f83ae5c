"""`wsiseg workflow`: many slides through Snakemake, and what its rules ask about them.

::

    slides, settings → OUT/workflow/  → Snakemake: qc → segment → features → export → report
                                        → OUT/status/<stage>/<slide_id>.json → cohort table

Relative paths are those of OUT, where Snakemake works. `stage` says why a failure is a record.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from wsi_pipeline.config import RunConfig
from wsi_pipeline.errors import ConfigError, OutputError, UsageError
from wsi_pipeline.slide import slide_id_of
from wsi_pipeline.slides import NamedSlide, check_slides, find_slides
from wsi_pipeline.stage import DONE, FAILED, read_record, write_record

__all__ = [
    "PROFILES",
    "STAGES",
    "Plan",
    "Verdict",
    "judge",
    "own_programs_first",
    "read_plan",
    "run_workflow",
]

STAGES = ("qc", "segment", "features", "export", "report")
"""What is done for each slide, in order."""
PROFILES = ("workstation", "slurm", "dask")
DECIDING = (
    "model", "checkpoint", "precision", "mpp", "foreground", "roi", "threshold", "min_area_um2",
    "min_score", "min_small_score", "split", "crop",
)  # fmt: skip
"""Settings that decide what is found; the others say how and where it is computed."""
_ELSEWHERE = ("out", "overwrite")
_LOST = "its job ended without a word (killed, out of time or of memory)"


@dataclass(frozen=True)
class Plan:
    """What the rules ask: slides by id, settings, and the workflow's own options."""

    slides: Mapping[str, NamedSlide]
    config: RunConfig
    options: Mapping[str, Any]

    def slide(self, slide_id: str) -> str:
        """The slide's path."""
        return str(self.slides[slide_id].path)

    def inputs(self, slide_id: str) -> list[str]:
        """Files that decide the slide's result and are there.

        One that is missing is no reason for Snakemake to stop; its job says so.
        """
        return [str(p) for p in self._files(slide_id) if p is not None and p.exists()]

    def key(self, slide_id: str) -> str:
        """Changes when the files or the settings do that decide the slide's result.

        Times of files are compared for being equal, never for being older: clocks differ. A slide
        that was done keeps its key when its file has gone.
        """
        if not self.slides[slide_id].path.exists():
            record = read_record(Path(f"status/segment/{slide_id}.json"))
            if record is not None and record["status"] == DONE:
                return str(record["key"])
        stats = [p.stat() if p and p.exists() else None for p in self._files(slide_id)]
        # A file is known by what is in it, not by where it lies.
        names = [name for name in DECIDING if name not in ("checkpoint", "roi")]
        flags = _flags(self._own(slide_id), names)
        text = repr((flags, [s and (s.st_size, s.st_mtime_ns) for s in stats]))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def deciding(self, slide_id: str) -> list[str]:
        """Flags of `wsiseg run` that decide the slide's result."""
        return _flags(self._own(slide_id), DECIDING)

    def looking(self, slide_id: str) -> list[str]:
        """Those among them that `wsiseg info` has, too."""
        return _flags(self._own(slide_id), ("mpp", "crop"))

    def machine(self) -> list[str]:
        """Flags of `wsiseg run` that say how and where: they decide nothing."""
        names = (f.name for f in fields(RunConfig))
        return _flags(self.config, [n for n in names if n not in (*DECIDING, *_ELSEWHERE)])

    def _files(self, slide_id: str) -> tuple[Path, Path | None, Path | None]:
        config = self._own(slide_id)
        return self.slides[slide_id].path, config.checkpoint, config.roi

    def _own(self, slide_id: str) -> RunConfig:
        slide, config = self.slides[slide_id], self.config
        own = {k: getattr(slide, k) or getattr(config, k) for k in ("mpp", "model", "roi")}
        return replace(config, **own)


@dataclass(frozen=True)
class Verdict:
    """What became of the slides: how many are done, and causes by id where something is missing."""

    done: int
    failed: Mapping[str, str]
    unknown: Sequence[str]


def read_plan(config: Mapping[str, Any]) -> Plan:
    """The plan of a configuration as in workflows/config.yaml.

    Raises
    ------
    UsageError
        a setting is unknown or makes no sense, or the slides cannot be told apart
    DataError
        a file of regions is no good
    """
    settings = {k: v for k, v in config.items() if k != "workflow"}
    options = dict(config.get("workflow") or {})
    run = RunConfig.from_mapping(settings)
    if run.out != RunConfig.out:
        raise ConfigError(
            f"out {str(run.out)!r} has no place here: results go where Snakemake works"
        )
    names = options.get("slides") or []
    slides = find_slides([names] if isinstance(names, str) else names) if names else []
    check_slides(slides, run)
    by_id: dict[str, NamedSlide] = {}
    for slide in slides:
        other = by_id.setdefault(slide_id_of(slide.path), slide)
        if other is not slide:
            raise UsageError(
                f"{other.path} and {slide.path} are both slide {slide_id_of(slide.path)!r}, which "
                "has one run folder; give each its own OUT"
            )
    return Plan(by_id, run, options)


def own_programs_first() -> None:
    """Let jobs find the `python` and `wsiseg` of this installation, activated or not."""
    own = os.path.dirname(sys.executable)
    os.environ["PATH"] = os.pathsep.join((own, os.environ.get("PATH", os.defpath)))


def _flags(config: RunConfig, names: Iterable[str]) -> list[str]:
    """Command line of what is not at its default."""
    flags = []
    for name in names:
        value, flag = getattr(config, name), name.replace("_", "-")
        if value == getattr(RunConfig, name):
            continue
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags += [f"--{flag}", str(value)]
    return flags


def judge(folder: Path, slide_ids: Iterable[str]) -> Verdict:
    """What the records under `folder` say of slides."""
    done, failed, unknown = 0, {}, []
    for slide_id in slide_ids:
        records = [read_record(folder / "status" / s / f"{slide_id}.json") for s in STAGES]
        causes = [r["cause"] for r in records if r is not None and r["status"] != DONE]
        if causes:
            failed[slide_id] = str(causes[0])
        elif None in records:
            unknown.append(slide_id)
        else:
            done += 1
    return Verdict(done, failed, unknown)


def run_workflow(
    names: Sequence[str],
    out: Path,
    *,
    config: Path | None = None,
    cores: int | None = None,
    profile: str = "workstation",
    recursive: bool = False,
    retry_failed: bool = False,
    further: Sequence[str] = (),
) -> tuple[int, Verdict]:
    """Run the packaged workflow; Snakemake's exit code, and what became of the slides.

    Parameters
    ----------
    names
        files, folders, globs and slide sheets
    config
        YAML with settings as in workflows/config.yaml; paths in it are relative to it
    profile
        one of `PROFILES`, or a folder with a profile of Snakemake's
    retry_failed
        try again what failed, though neither file nor settings have changed
    further
        arguments for Snakemake

    Raises
    ------
    UsageError, DataError
        the arguments are wrong; nothing was started
    OutputError
        another run works on `out`, or it cannot be written
    KeyboardInterrupt
        stopped by a signal
    """
    settings = _read_settings(config)
    slides = find_slides(names, recursive=recursive)
    resolved = [replace(s, path=s.path.absolute(), roi=s.roi and s.roi.absolute()) for s in slides]
    sheet = {
        "workflow": {**(settings.get("workflow") or {}), "slides": [str(s.path) for s in resolved]}
    }
    check_slides(
        resolved, RunConfig.from_mapping({k: v for k, v in settings.items() if k != "workflow"})
    )
    plan = read_plan(settings | sheet)
    if profile == "dask" and plan.config.scheduler is None:
        raise UsageError("the profile dask needs the cluster's address; give scheduler in --config")
    with _alone(out) as lock:
        _write_plan(out, resolved, settings)
        _forget(out, plan.slides, failed=retry_failed)
        command = _command(out, profile, cores, further)
        code = _call(command, lock)
        if code and _close_lost(out, plan.slides):
            code = _call(command, lock)
    return code, judge(out, plan.slides)


def _read_settings(path: Path | None) -> dict[str, Any]:
    """Settings of a file, checked, with absolute paths."""
    try:
        from snakemake.common.configfile import load_configfile
        from snakemake.exceptions import WorkflowError
        from snakemake.utils import validate
    except ImportError:
        raise UsageError("Snakemake is missing; pip install 'wsiseg[workflow]'") from None
    if path is None:
        return {}
    try:
        settings: dict[str, Any] = load_configfile(str(path)) or {}
    except (WorkflowError, OSError) as error:
        raise ConfigError(f"{path} cannot be read ({_one_line(error)}); give a YAML file") from None
    known = {f.name for f in fields(RunConfig)} - {"out"} | {"workflow"}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ConfigError(f"{path}: unknown settings {unknown}; known: {', '.join(sorted(known))}")
    try:
        validate(json.loads(json.dumps(settings)), str(_packaged("schemas/config.schema.yaml")))
    except WorkflowError as error:
        raise ConfigError(f"{path}: {_one_line(error)}") from None
    for name in ("checkpoint", "roi"):
        if settings.get(name):
            settings[name] = str((path.parent / settings[name]).absolute())
    where = settings.get("scheduler")
    if where and "://" not in where:
        settings["scheduler"] = str((path.parent / where).absolute())
    return settings


def _packaged(name: str) -> Path:
    """A file of workflows/, wherever it was installed."""
    return Path(str(files("wsiseg_workflows").joinpath(name)))


def _command(out: Path, profile: str, cores: int | None, further: Sequence[str]) -> list[str]:
    packaged = _packaged(f"profiles/{profile}")
    return [
        sys.executable, "-m", "snakemake", "everything",
        "--snakefile", str(_packaged("Snakefile")),
        "--configfile", str((out / "workflow" / "config.json").absolute()),
        "--directory", str(out.absolute()),
        "--profile", str(packaged if packaged.is_dir() else profile),
        *(() if cores is None else ("--cores", str(cores))),
        *further,
    ]  # fmt: skip


def _write_plan(out: Path, slides: Sequence[NamedSlide], settings: Mapping[str, Any]) -> None:
    """Leave slides and settings where every job of Snakemake's, on any machine, reads them."""
    text = io.StringIO(newline="")
    sheet = csv.writer(text)
    sheet.writerow(("slide", "mpp", "model", "roi"))
    sheet.writerows((s.path, s.mpp, s.model, s.roi) for s in slides)
    options = {**(settings.get("workflow") or {}), "slides": ["workflow/slides.csv"]}
    content = json.dumps({**settings, "workflow": options}, indent=1)
    for name, text_ in (("slides.csv", text.getvalue()), ("config.json", content)):
        aside = out / "workflow" / f"{name}.part"
        aside.write_text(text_, "utf-8", newline="")
        aside.replace(out / "workflow" / name)


def _records(out: Path, slide_ids: Iterable[str]) -> Iterator[tuple[Path, dict[str, Any] | None]]:
    for slide_id in slide_ids:
        for stage in STAGES:
            path = out / "status" / stage / f"{slide_id}.json"
            yield path, read_record(path)


def _forget(out: Path, slide_ids: Iterable[str], *, failed: bool) -> None:
    """Remove records of what is to be done again: products that are gone, jobs that were lost."""
    (out / "status" / "lost").unlink(missing_ok=True)
    for path, record in _records(out, slide_ids):
        record = record or {"status": None, "lost": True}
        gone = not all((out / p).exists() for p in record.get("products", ()))
        if gone or record.get("lost") or (failed and record["status"] != DONE):
            path.unlink(missing_ok=True)


def _close_lost(out: Path, slide_ids: Iterable[str]) -> bool:
    """Record slides whose jobs could not do so themselves; whether there are any."""
    if not (out / "status" / "lost").is_file():  # Snakemake did not come to the end of the jobs
        return False
    lost = judge(out, slide_ids).unknown
    causes: dict[str, str] = {}  # the first stage's holds for those that could not follow
    for path, record in _records(out, lost):
        if record is None:
            stage, slide_id = path.parent.name, path.name.removesuffix(".json")
            log = out / "logs" / stage / f"{slide_id}.log"
            cause = causes.setdefault(slide_id, f"{stage}: {_LOST}; see {log}")
            about = {"slide": slide_id, "stage": stage, "status": FAILED, "cause": cause}
            write_record(path, {**about, "lost": True})
    return bool(lost)


@contextmanager
def _alone(out: Path) -> Iterator[int]:
    """Make OUT and keep other workflows off it; the lock ends with this process and Snakemake's.

    A lock of Snakemake's own that a killed run left behind is taken away.
    """
    try:
        (out / "workflow").mkdir(parents=True, exist_ok=True)
        lock = os.open(out / "workflow" / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(f"cannot write to {out} ({error.strerror}); give another OUT") from error
    try:
        owner = os.pread(lock, 200, 0).decode(errors="replace")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(
                f"another workflow ({owner or 'unknown'}) works on {out}; wait for it, or give "
                "another OUT"
            ) from None
        if owner:
            for left in (out / ".snakemake" / "locks").glob("*"):
                left.unlink()
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)
        yield lock
        os.ftruncate(lock, 0)
    finally:
        os.close(lock)


def _call(command: Sequence[str], lock: int) -> int:
    """Exit code of Snakemake, which is interrupted together with its jobs."""
    stopped = False
    with subprocess.Popen(command, pass_fds=(lock,), process_group=0) as process:

        def stop(*_: object) -> None:
            nonlocal stopped
            stopped = True
            os.killpg(process.pid, signal.SIGINT)  # its jobs, too

        before = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            code = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if stopped:
        raise KeyboardInterrupt
    return code


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
