"""One job of the workflow: a command whose end, good or bad, becomes a record.

Snakemake leaves out what follows a job that failed. A slide that cannot be used must neither stop
the others nor the cohort's table, so that a job which fails for the last time writes its cause
into its record and ends well; the stages after it pass the record on.
`wsi_pipeline.batch.snakemake` reads the records.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from wsi_pipeline.core.errors import DataError
from wsi_pipeline.core.run_layout import RUN_JSON, find_runs, one_run, remove_run

__all__ = ["DONE", "FAILED", "INCOMPLETE", "read_record", "run_stage", "write_record"]

DONE, FAILED, INCOMPLETE = "done", "failed", "incomplete"
"""What a record says of its slide; of an incomplete one, regions are missing."""
_USAGE, _STOPPED = 2, 130
_TAIL = 4000


def read_record(path: Path) -> dict[str, Any] | None:
    """A record, or None where there is none that can be read."""
    try:
        record: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and "status" in record else None


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    aside.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
    aside.replace(path)


@click.command()
@click.option("--record", type=click.Path(path_type=Path), required=True)
@click.option("--slide", required=True, help="Its id.")
@click.option("--key", default="", help="Changes with the slide and with what decides the result.")
@click.option("--log", type=click.Path(path_type=Path), required=True)
@click.option("--tries-left", type=int, default=0)
@click.option("--after", type=click.Path(path_type=Path), multiple=True, help="Earlier record.")
@click.option("--answer", type=click.Path(path_type=Path), help="Gets the standard output.")
@click.option("--product", type=click.Path(path_type=Path), multiple=True)
@click.option("--per-product", is_flag=True, help="Run COMMAND for each, its path behind it.")
@click.option("--folder", type=click.Path(path_type=Path), help="Run folder, kept for its key.")
@click.argument("command", nargs=-1, required=True)
def run_stage(
    record: Path, slide: str, key: str, log: Path, tries_left: int, after: tuple[Path, ...],
    answer: Path | None, product: tuple[Path, ...], per_product: bool, folder: Path | None,
    command: tuple[str, ...],
) -> None:  # fmt: skip
    """Run COMMAND for one stage of a slide and record how it ended."""
    for before in after:
        earlier = read_record(before)
        if earlier is not None and earlier["status"] == FAILED:
            write_record(record, earlier)
            return
    about: dict[str, Any] = {"slide": slide, "stage": record.parent.name, "key": key}
    if folder is not None:
        _forget_other(folder, key)
    for path in (p for p in (answer, *product) if p is not None):
        path.parent.mkdir(parents=True, exist_ok=True)
    commands = [(*command, str(p)) for p in product] if per_product else [command]
    code = next(filter(None, (_run(c, log, answer) for c in commands)), 0)
    if code:
        missing = _missing_regions(folder) if folder is not None else 0
        if code in (_STOPPED, -signal.SIGINT, -signal.SIGTERM):
            sys.exit(_STOPPED)
        if tries_left > 0 and code != _USAGE:
            sys.exit(1)
        status = INCOMPLETE if missing else FAILED
        about |= {"status": status, "cause": _cause(code, log)}
    else:
        about["status"] = DONE
    if about["status"] != FAILED:
        about["products"] = [str(p) for p in (answer, *product) if p is not None]
        about["run"] = _ended(folder)
    write_record(record, about)


def _run(command: Sequence[str], log: Path, answer: Path | None) -> int:
    """Exit status of a command whose words go to the log and whose answer goes to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    aside = answer.with_name(answer.name + ".part") if answer is not None else None
    with contextlib.ExitStack() as stack:
        words = stack.enter_context(log.open("ab"))
        out = stack.enter_context(aside.open("wb")) if aside is not None else words
        process = subprocess.Popen(command, stdout=out, stderr=words, stdin=subprocess.DEVNULL)
        # An interrupt reaches the command itself, which is in the same group of processes.
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
        code = process.wait()
    if aside is not None and answer is not None:
        if code:
            aside.unlink()
        else:
            aside.replace(answer)
    return code


def _cause(code: int, log: Path) -> str:
    """The last complaint in the log, or how the command ended."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL))
        lines = file.read().decode(errors="replace").splitlines()
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}, perhaps for want of memory; see {log}"
        return f"killed by signal {-code}; see {log}"
    said = [line for line in lines if line.startswith("wsiseg: ")]
    return said[-1].removeprefix("wsiseg: ") if said else f"ended with exit code {code}; see {log}"


def _forget_other(folder: Path, key: str) -> None:
    """Keep what lies in a run folder if the same slide, settings and program made it."""
    from wsi_pipeline.runs.run_folder import RESULT_VERSION

    note, key = folder.with_name(f"{folder.name}.key"), f"{key} {RESULT_VERSION}"
    if note.is_file() and note.read_text() == key:
        return
    note.unlink(missing_ok=True)  # before the first removal: a folder half cleared has no key
    for run in find_runs(folder, unfinished=True):
        remove_run(run)
    note.parent.mkdir(parents=True, exist_ok=True)
    aside = note.with_name(note.name + ".part")
    aside.write_text(key)
    aside.replace(note)


def _missing_regions(folder: Path) -> int:
    """How many regions a run that came to its end could not read."""
    try:
        return len(json.loads((one_run(folder) / RUN_JSON).read_text("utf-8"))["failed_regions"])
    except (OSError, ValueError, KeyError):
        return 0


def _ended(folder: Path | None) -> int | None:
    """When the run was closed, ns: what follows is made anew for a run that was done again."""
    with contextlib.suppress(OSError, DataError):
        return None if folder is None else (one_run(folder) / RUN_JSON).stat().st_mtime_ns
    return None


if __name__ == "__main__":
    run_stage()
