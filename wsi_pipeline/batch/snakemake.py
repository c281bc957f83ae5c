"""`wsiseg workflow`: many slides through Snakemake.

::

    slides, settings → OUT/workflow/  → Snakemake: qc → segment → features → export → report
                                        → OUT/status/<stage>/<slide_id>.json → cohort table

Snakemake works in OUT, so relative paths start there. The rules use `wsi_pipeline.batch.plan`;
`wsi_pipeline.batch.job` says why a failure becomes a record.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from wsi_pipeline.batch.job import DONE, FAILED, JobRecord, read_record, write_record
from wsi_pipeline.batch.output_lock import hold_output
from wsi_pipeline.batch.plan import STAGES, Verdict, read_plan, read_verdict
from wsi_pipeline.batch.run_many import check_slides
from wsi_pipeline.batch.slide_sheet import find_slides, sheet_row, sheet_text
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import ConfigError, UsageError, one_line
from wsi_pipeline.core.files import write_bytes, write_json
from wsi_pipeline.core.json_files import check_values
from wsi_pipeline.core.records import SCHEMA_VERSION
from wsi_pipeline.core.request import SlideRequest

__all__ = ["PROFILES", "WorkflowResult", "run_workflow"]

PROFILES = ("workstation", "slurm", "dask")
_DRY = re.compile(r"--dry-?run|-[pqkF]*n[pqkF]*")
_LOST = "its job ended without a record (killed, out of time or out of memory)"


@dataclass(frozen=True)
class WorkflowResult:
    """How a call of Snakemake ended.

    Attributes
    ----------
    exit_code
        Snakemake's
    dry_run
        whether Snakemake only printed the jobs that it would run
    """

    exit_code: int
    verdict: Verdict
    dry_run: bool

    def text(self, out: Path) -> str:
        """Return one line for people.

        Examples
        --------
        >>> verdict = Verdict(done=2, failed={}, unknown=["c"])
        >>> WorkflowResult(0, verdict, dry_run=True).text(Path("results"))
        'dry run, nothing was started: 2 slides are done, 0 failed, 1 is not finished'
        >>> WorkflowResult(0, Verdict(1, {}, []), dry_run=False).text(Path("results"))
        '1 slide is done, 0 failed; tables and reports: results'
        """
        one, left = self.verdict.done == 1, len(self.verdict.unknown)
        text = f"{self.verdict.done} slide{' is' if one else 's are'} done"
        text += f", {len(self.verdict.failed)} failed"
        if left:
            text += f", {left} {'is' if left == 1 else 'are'} not finished"
        if self.dry_run:
            return f"dry run, nothing was started: {text}"
        return f"{text}; tables and reports: {out}"


def run_workflow(
    names: Sequence[str],
    out: Path,
    *,
    config: Path | None = None,
    cores: int | None = None,
    profile: str = "workstation",
    recursive: bool = False,
    images: bool = False,
    retry_failed: bool = False,
    further: Sequence[str] = (),
) -> WorkflowResult:
    """Run the packaged workflow.

    Parameters
    ----------
    names
        files, folders, globs and slide sheets. A slide that does not exist fails alone.
    config
        YAML with settings as in workflows/config.yaml; paths in it are relative to it
    images
        take the photographs in folders as slides too
    profile
        one of `PROFILES`, or a folder with a Snakemake profile
    retry_failed
        run failed slides again, although neither file nor settings have changed
    further
        arguments for Snakemake

    Raises
    ------
    UsageError, CheckpointError, DataError
        the arguments are wrong; nothing was started
    OutputError
        another workflow runs in `out`, or `out` cannot be written
    KeyboardInterrupt
        a signal stopped the workflow
    """
    settings = _read_settings(config)
    found = find_slides(names, recursive=recursive, missing_ok=True, images=images)
    slides = [replace(s, path=s.path.absolute(), roi=s.roi and s.roi.absolute()) for s in found]
    check_slides(slides, RunConfig.from_mapping(_without_workflow(settings)))
    options = {**(settings.get("workflow") or {}), "slides": [str(s.path) for s in slides]}
    plan = read_plan(settings | {"workflow": options})
    if profile == "dask" and plan.config.scheduler is None:
        raise UsageError("the profile dask needs the address of the cluster; set scheduler in "
                         "the file of --config")  # fmt: skip
    dry_run = any(map(_DRY.fullmatch, further))
    with hold_output(out) as holder:
        _write_plan(out, slides, settings)
        command = _command(out, profile, cores, further)
        with _stale_records_removed(out, plan.slides, failed=retry_failed, restore=dry_run):
            code = _call(command, holder.started)
        if code and _record_lost(out, plan.slides):
            code = _call(command, holder.started)
    return WorkflowResult(code, read_verdict(out, plan.slides, plan.refused), dry_run)


def _without_workflow(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "workflow"}


def _read_settings(path: Path | None) -> dict[str, Any]:
    """Read the settings of a file, check them, and make their paths absolute."""
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
        check_values(settings)
    except (WorkflowError, OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read ({one_line(error)}); give a YAML file") from None
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise ConfigError(f"{path} has no settings by name; write e.g. threshold: 0.5")
    known = {f.name for f in fields(RunConfig)} - {"out"} | {"workflow"}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ConfigError(f"{path}: unknown settings {unknown}; known: {', '.join(sorted(known))}")
    try:
        validate(json.loads(json.dumps(settings)), str(_packaged("schemas/config.schema.yaml")))
    except WorkflowError as error:
        raise ConfigError(f"{path}: {one_line(error)}") from None
    options = settings.get("workflow") or {}
    for place, name in (
        (settings, "checkpoint"), (settings, "roi"), (settings, "kinds_checkpoint"),
        (options, "cohort"), (options, "dates"),
    ):  # fmt: skip
        if place.get(name):
            place[name] = str((path.parent / place[name]).absolute())
    for name in ("cohort", "dates"):
        if options.get(name) and not Path(options[name]).is_file():
            raise ConfigError(f"{path}: {name} {options[name]} does not exist")
    scheduler = settings.get("scheduler")
    if scheduler and "://" not in scheduler:
        settings["scheduler"] = str((path.parent / scheduler).absolute())
    return settings


def _packaged(name: str) -> Path:
    """Return the path of a file of workflows/, in a checkout or installed."""
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
    """Write slides and settings to OUT/workflow, where every Snakemake job reads them."""
    # A name that is not UTF-8 gets escapes; such a slide is refused, here and in every job.
    text = sheet_text(map(sheet_row, slides)).encode("utf-8", "backslashreplace")
    write_bytes(out / "workflow" / "slides.csv", text)
    options = {**(settings.get("workflow") or {}), "slides": ["workflow/slides.csv"]}
    write_json(out / "workflow" / "config.json", {**settings, "workflow": options})


def _records(out: Path, slide_ids: Iterable[str]) -> Iterator[tuple[Path, JobRecord | None]]:
    for slide_id in slide_ids:
        for stage in STAGES:
            path = out / "status" / stage / f"{slide_id}.json"
            yield path, read_record(path)


@contextmanager
def _stale_records_removed(
    out: Path, slide_ids: Iterable[str], *, failed: bool, restore: bool
) -> Iterator[None]:
    """Remove the records of jobs that must run again, so that Snakemake runs them.

    These are jobs whose products are missing and jobs that were lost.

    Parameters
    ----------
    failed
        remove the records of failed jobs too
    restore
        put the records back at the end, for a dry run
    """
    (out / "status" / "lost").unlink(missing_ok=True)
    removed = []
    for path, record in _records(out, slide_ids):
        again = (
            record is None
            or record.get("lost", False)
            or not all((out / product).exists() for product in record.get("products", ()))
            or (failed and record["status"] != DONE)
        )
        if again:
            with suppress(FileNotFoundError):
                removed.append((path, path.read_bytes(), path.stat().st_mtime_ns))
                path.unlink()
    yield
    for path, content, time_ns in removed if restore else ():
        path.write_bytes(content)
        os.utime(path, ns=(time_ns, time_ns))


def _record_lost(out: Path, slide_ids: Iterable[str]) -> bool:
    """Write failure records for jobs that ended without one; return whether there are any."""
    if not (out / "status" / "lost").is_file():  # Snakemake did not try all jobs
        return False
    lost = read_verdict(out, slide_ids).unknown
    causes: dict[str, str] = {}  # the first stage's cause holds for the stages that wait for it
    for path, record in _records(out, lost):
        if record is None:
            stage, slide_id = path.parent.name, path.name.removesuffix(".json")
            log = out / "logs" / stage / f"{slide_id}.log"
            cause = causes.setdefault(slide_id, f"{stage}: {_LOST}; see {log}")
            lost_record: JobRecord = {
                "schema_version": SCHEMA_VERSION,
                "slide": slide_id,
                "stage": stage,
                "key": "",
                "status": FAILED,
                "cause": cause,
                "lost": True,
            }
            write_record(path, lost_record)
    return bool(lost)


def _call(command: Sequence[str], started: Callable[[int], None]) -> int:
    """Run Snakemake and return its exit code; an interrupt goes to its jobs too.

    Parameters
    ----------
    started
        gets the process id
    """
    stopped = False
    with subprocess.Popen(command, **_NEW_GROUP) as process:
        started(process.pid)

        def stop(*_: object) -> None:
            nonlocal stopped
            stopped = True
            _interrupt_group(process)

        before = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            code = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if stopped:
        raise KeyboardInterrupt
    return code


if sys.platform == "win32":  # no process groups with signals: jobs end at once, and are resumed
    _NEW_GROUP: dict[str, Any] = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}

    def _interrupt_group(process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.CTRL_BREAK_EVENT)
else:
    _NEW_GROUP: dict[str, Any] = {"process_group": 0}

    def _interrupt_group(process: subprocess.Popen[bytes]) -> None:
        os.killpg(process.pid, signal.SIGINT)  # noqa: TID251
