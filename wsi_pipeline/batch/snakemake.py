"""`wsiseg workflow`: many slides through Snakemake.

::

    slides, settings → OUT/workflow/  → Snakemake: qc → segment → features → export → report
                                        → OUT/status/<stage>/<slide_id>.json → cohort table

Relative paths are those of OUT, where Snakemake works. The rules ask `workflow_plan`; `stage` says
why a failure is a record.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from wsi_pipeline.batch.job import DONE, FAILED, read_record, write_record
from wsi_pipeline.batch.plan import STAGES, Verdict, judge, read_plan
from wsi_pipeline.batch.run_many import check_slides
from wsi_pipeline.batch.slide_sheet import find_slides
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import ConfigError, OutputError, UsageError, one_line
from wsi_pipeline.core.request import SlideRequest

__all__ = ["PROFILES", "run_workflow"]

PROFILES = ("workstation", "slurm", "dask")
_DRY = re.compile(r"--dry-?run|-[pqkF]*n[pqkF]*")
_UNDECODED = "backslashreplace"  # such a name is refused, before and after
_LOST = "its job ended without a word (killed, out of time or of memory)"


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
        command = _command(out, profile, cores, further)
        with _forgotten(
            out, plan.slides, failed=retry_failed, back=any(map(_DRY.fullmatch, further))
        ):
            code = _call(command, lock)
        if code and _close_lost(out, plan.slides):
            code = _call(command, lock)
    return code, judge(out, plan.slides, plan.refused)


def _read_settings(path: Path | None) -> dict[str, Any]:
    """Settings of a file, checked, with absolute paths."""
    try:
        from snakemake.common.configfile import load_configfile
        from snakemake.exceptions import WorkflowError
        from snakemake.utils import validate
    except ImportError:
        raise UsageError("Snakemake is missing; pip install -e '.[workflow]'") from None
    if path is None:
        return {}
    try:
        settings: dict[str, Any] = load_configfile(str(path)) or {}
    except (WorkflowError, OSError) as error:
        raise ConfigError(f"{path} cannot be read ({one_line(error)}); give a YAML file") from None
    known = {f.name for f in fields(RunConfig)} - {"out"} | {"workflow"}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ConfigError(f"{path}: unknown settings {unknown}; known: {', '.join(sorted(known))}")
    try:
        validate(json.loads(json.dumps(settings)), str(_packaged("schemas/config.schema.yaml")))
    except WorkflowError as error:
        raise ConfigError(f"{path}: {one_line(error)}") from None
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


def _write_plan(out: Path, slides: Sequence[SlideRequest], settings: Mapping[str, Any]) -> None:
    """Leave slides and settings where every job of Snakemake's, on any machine, reads them."""
    text = io.StringIO(newline="")
    sheet = csv.writer(text)
    sheet.writerow(("slide", "mpp", "model", "roi"))
    sheet.writerows((s.path, s.mpp, s.model, s.roi) for s in slides)
    options = {**(settings.get("workflow") or {}), "slides": ["workflow/slides.csv"]}
    content = json.dumps({**settings, "workflow": options}, indent=1)
    for name, text_ in (("slides.csv", text.getvalue()), ("config.json", content)):
        aside = out / "workflow" / f"{name}.part"
        aside.write_text(text_, "utf-8", newline="", errors=_UNDECODED)
        aside.replace(out / "workflow" / name)


def _records(out: Path, slide_ids: Iterable[str]) -> Iterator[tuple[Path, dict[str, Any] | None]]:
    for slide_id in slide_ids:
        for stage in STAGES:
            path = out / "status" / stage / f"{slide_id}.json"
            yield path, read_record(path)


@contextmanager
def _forgotten(out: Path, slide_ids: Iterable[str], *, failed: bool, back: bool) -> Iterator[None]:
    """Remove records of what is to be done again: products that are gone, jobs that were lost.

    With `failed` those of what failed, too; they are put `back` after a dry run.
    """
    (out / "status" / "lost").unlink(missing_ok=True)
    removed = []
    for path, record in _records(out, slide_ids):
        record = record or {"status": None, "lost": True}
        gone = not all((out / p).exists() for p in record.get("products", ()))
        if gone or record.get("lost") or (failed and record["status"] != DONE):
            with suppress(FileNotFoundError):
                removed.append((path, path.read_bytes(), path.stat().st_mtime_ns))
                path.unlink()
    yield
    for path, content, time_ns in removed if back else ():
        path.write_bytes(content)
        os.utime(path, ns=(time_ns, time_ns))


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
