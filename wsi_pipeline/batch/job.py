"""One job of the workflow: run a command and write a record of how it ended.

Snakemake does not start the jobs after a failed one. One slide that cannot be read must not stop
the other slides or the cohort's table. A job that fails for the last time therefore writes the
cause into its record and ends with exit code 0; the later jobs of the slide copy that record.
`wsi_pipeline.batch.snakemake` reads the records at the end.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NotRequired, TypedDict

import click

from wsi_pipeline.batch.slide_sheet import sheet_text
from wsi_pipeline.core.errors import DataError
from wsi_pipeline.core.files import write_bytes, write_text
from wsi_pipeline.core.json_files import parse_json, read_json
from wsi_pipeline.core.records import SCHEMA_VERSION
from wsi_pipeline.core.run_layout import PARTS, RUN_FILES, RUN_JSON, read_run

__all__ = ["DONE", "FAILED", "INCOMPLETE", "JobRecord", "read_record", "run_job", "write_record"]

DONE, FAILED, INCOMPLETE = "done", "failed", "incomplete"
"""Status of a record; incomplete: some regions of the slide could not be read."""
_USAGE, _STOPPED = 2, 130
_TAIL_BYTES = 4000


class JobRecord(TypedDict):
    """Content of status/<stage>/<slide_id>.json.

    `key` identifies the inputs and settings of the result. `products` are files that the job made,
    and `run_folder` is the slide's, relative to OUT. `run_closed_ns` is the time of run.json:
    Snakemake compares the content of small files, so later jobs run again only if the record
    differs. `lost` marks a job that ended without a record of its own.
    """

    schema_version: int
    slide: str
    stage: str
    key: str
    status: str
    cause: NotRequired[str]
    products: NotRequired[list[str]]
    run_folder: NotRequired[str]
    run_closed_ns: NotRequired[int]
    lost: NotRequired[bool]


def read_record(path: Path) -> JobRecord | None:
    """Return a record; None if there is none, or if this version cannot read it."""
    try:
        record: JobRecord = read_json(path)
        return record if record["schema_version"] == SCHEMA_VERSION else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_record(path: Path, record: JobRecord) -> None:
    """Write a record, and its folder if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


_PATH = click.Path(path_type=Path)


@click.command()
@click.option("--record", type=_PATH, required=True, help="File for the record.")
@click.option("--slide", required=True, help="Id of the slide.")
@click.option("--key", default="", help="Identifies the inputs and settings of the result.")
@click.option("--log", type=_PATH, required=True, help="File for the output of COMMAND.")
@click.option("--tries-left", type=int, default=0, help="Tries of this job after this one.")
@click.option("--after", type=_PATH, multiple=True, help="Record of an earlier stage. Repeatable.")
@click.option("--stdout", type=_PATH, help="File for the standard output of COMMAND.")
@click.option("--product", "products", type=_PATH, multiple=True, help="File that COMMAND makes.")
@click.option("--per-product", is_flag=True, help="Run COMMAND once per product, its path last.")
@click.option("--run-folder", type=_PATH, help="Run folder; results of another key are removed.")
@click.option("--sheet", type=_PATH, help="Slide sheet to write for COMMAND.")
@click.option("--row", default="{}", help="Row of that sheet, as JSON.")
@click.argument("command", nargs=-1, required=True)
def run_job(
    record: Path, slide: str, key: str, log: Path, tries_left: int, after: tuple[Path, ...],
    stdout: Path | None, products: tuple[Path, ...], per_product: bool, run_folder: Path | None,
    sheet: Path | None, row: str, command: tuple[str, ...],
) -> None:  # fmt: skip
    """Run COMMAND for one stage of a slide and write a record of how it ended."""
    for earlier in map(read_record, after):
        if earlier is not None and earlier["status"] == FAILED:
            write_record(record, earlier)
            return
    if run_folder is not None:
        _remove_other_result(run_folder, key)
    if sheet is not None:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        write_text(sheet, sheet_text([parse_json(row)]))
    made = [path for path in (stdout, *products) if path is not None]
    for path in made:
        path.parent.mkdir(parents=True, exist_ok=True)
    commands = [(*command, str(p)) for p in products] if per_product else [command]
    code = next(filter(None, (_call(c, log, stdout) for c in commands)), 0)
    if code in (_STOPPED, -signal.SIGINT, -signal.SIGTERM):
        sys.exit(_STOPPED)
    if code and tries_left > 0 and code != _USAGE:
        sys.exit(1)
    status = DONE if code == 0 else INCOMPLETE if _failed_regions(run_folder) else FAILED
    ended: JobRecord = {
        "schema_version": SCHEMA_VERSION,
        "slide": slide,
        "stage": record.parent.name,
        "key": key,
        "status": status,
    }
    if code:
        ended["cause"] = _cause(code, log)
    if status != FAILED:
        ended["products"] = [path.as_posix() for path in made]
        if run_folder is not None:
            ended["run_folder"] = run_folder.as_posix()
            with suppress(FileNotFoundError):
                ended["run_closed_ns"] = (run_folder / RUN_JSON).stat().st_mtime_ns
    write_record(record, ended)


def _call(command: Sequence[str], log: Path, stdout: Path | None) -> int:
    """Run a command; append its output to the log, or write its standard output to a file.

    Returns
    -------
    int
        its exit code, below zero if a signal ended it
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdout=output if stdout is None else subprocess.PIPE,
            stderr=output,
            stdin=subprocess.DEVNULL,
        )
        # An interrupt reaches the command by itself, because it is in the same process group.
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
        printed, _ = process.communicate()
    if stdout is not None and process.returncode == 0:
        write_bytes(stdout, printed)
    return process.returncode


def _cause(code: int, log: Path) -> str:
    """Return the last error message in the log, or else how the command ended."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    if code < 0:
        with suppress(ValueError):
            name = signal.Signals(-code).name
            return f"killed by {name}, perhaps because memory ran out; see {log}"
        return f"killed by signal {-code}; see {log}"
    errors = [line for line in lines if line.startswith("wsiseg: ")]
    return errors[-1].removeprefix("wsiseg: ") if errors else f"exit code {code}; see {log}"


def _remove_other_result(folder: Path, key: str) -> None:
    """Remove the files of a run that has another key, or that another version of wsiseg made.

    The key is kept beside the folder, as <folder>.key, because a run leaves its own files only.
    """
    from wsi_pipeline.runs.run_folder import RESULT_VERSION

    key_file, key = folder.with_name(f"{folder.name}.key"), f"{key} {RESULT_VERSION}"
    if key_file.is_file() and key_file.read_text("utf-8") == key:
        return
    key_file.unlink(missing_ok=True)  # first, so that a folder that is half removed has no key
    for path in (*(folder / name for name in RUN_FILES), *folder.glob(f"{PARTS}/*")):
        path.unlink(missing_ok=True)
    key_file.parent.mkdir(parents=True, exist_ok=True)
    write_text(key_file, key)


def _failed_regions(folder: Path | None) -> int:
    """Return how many regions of a finished run could not be read completely."""
    if folder is not None:
        with suppress(DataError):
            return len(read_run(folder)["failed_regions"])
    return 0


if __name__ == "__main__":
    run_job()
