"""The cohort: one row per slide, those that failed with their cause, as Parquet, CSV and HTML."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from wsi_pipeline.core.errors import DataError, OutputError, UsageError, one_line
from wsi_pipeline.core.files import open_part
from wsi_pipeline.core.run_layout import RUN_JSON, find_runs, read_run
from wsi_pipeline.reports.object_table import plain_text
from wsi_pipeline.reports.slide_summary import COLUMNS, blank_row, failed_row, summarise
from wsi_pipeline.reports.templates import Link, render

__all__ = ["gather", "read_row", "write_cohort"]

Row = Mapping[str, Any]
_TYPES = {"text": pa.string(), "count": pa.int64(), "number": pa.float64()}
_KINDS = {"text": str, "count": int, "number": int | float}
SCHEMA = pa.schema(
    [pa.field(name, _TYPES[kind], nullable=name != "slide") for name, kind in COLUMNS.items()]
)
_SHOWN: Mapping[str, str] = MappingProxyType(
    {
        "slide": "slide",
        "status": "status",
        "foreground_area_mm2": "foreground, mm²",
        "nuclei": "nuclei",
        "nuclei_per_mm2": "per mm²",
        "nucleus_area_um2_median": "nucleus area, median µm²",
        "nucleus_area_um2_iqr": "its IQR, µm²",
        "large_nuclei_share": "large nuclei, share",
        "cells": "cells",
        "nc_ratio_median": "N/C ratio, median",
        "adequacy": "adequacy",
        "focus_score": "focus",
        "focus_blurred_share": "blurred, share",
        "failed_regions": "failed regions",
        "model": "model",
        "seconds": "seconds",
    }
)
"""Columns of the page and what they are called there; the files have all."""


def write_cohort(out: Path, sources: Sequence[Path] = ()) -> list[dict[str, Any]]:
    """Write cohort.parquet, cohort.csv and cohort.html into `out`; the rows, by slide.

    Parameters
    ----------
    sources
        see `gather`; by default `out` itself

    Raises
    ------
    UsageError, DataError, OutputError
        see `gather`; `out` cannot be written
    """
    rows = gather(sources or [out])
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {out} ({error.strerror}); give another OUT") from error
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    with open_part(out / "cohort.parquet") as file:
        pq.write_table(table, file, compression="zstd")
    with open_part(out / "cohort.csv") as file:
        pyarrow.csv.write_csv(_for_spreadsheets(table), file)
    with open_part(out / "cohort.html") as file:
        file.write(_page(rows, out).encode())
    return rows


def gather(sources: Sequence[Path]) -> list[dict[str, Any]]:
    """Rows of the slides that `sources` name, sorted by slide.

    A source is a run folder, a JSON file with a row of `wsiseg features` or with slide, status
    "failed" and cause, or a folder of such folders and files (``*.summary.json``,
    ``*.failed.json``). A run folder that holds the summary of its own run.json gives that; one
    without a run.json was not finished and counts as failed.

    Raises
    ------
    UsageError
        no slide is named, or one is named twice
    DataError
        a file is not what it should be
    """
    rows: dict[str, tuple[Path, dict[str, Any]]] = {}
    for path in (found for source in sources for found in _found(source)):
        row = _run_row(path) if path.is_dir() else read_row(path)
        other, _ = rows.setdefault(row["slide"], (path, row))
        if other.resolve() != path.resolve():
            raise UsageError(
                f"{other} and {path} are both slide {row['slide']!r}; leave one of them out"
            )
    if not rows:
        named = ", ".join(map(str, sources))
        raise UsageError(
            f"{named} holds no slide: no run folder, *.summary.json or *.failed.json; "
            "run `wsiseg run` or `wsiseg features` first, or name the folders themselves"
        )
    return [rows[slide][1] for slide in sorted(rows)]


def _found(source: Path) -> list[Path]:
    """Run folders and JSON files that a source stands for."""
    if not source.exists():
        raise UsageError(f"{source} does not exist; give run folders or summaries")
    runs = find_runs(source, unfinished=True)
    if source.is_file() or runs == [source]:
        return [source]
    files = [p for p in source.iterdir() if p.name.endswith((".summary.json", ".failed.json"))]
    return runs + sorted(p for p in files if p.is_file())


def _run_row(folder: Path) -> dict[str, Any]:
    run = folder / RUN_JSON
    if not run.is_file():
        return failed_row(folder.resolve().parent.name, "not finished; the same command continues")
    summary = folder / f"{read_run(folder)['slide']['id']}.summary.json"
    if summary.is_file():
        row = read_row(summary)
        if row["run_sha256"] == hashlib.sha256(run.read_bytes()).hexdigest():
            return row
    return summarise(folder)


def read_row(path: Path) -> dict[str, Any]:
    """A row from JSON, whose values have the kinds of `COLUMNS`."""
    try:
        stored = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not JSON ({one_line(error)}); leave it out") from error
    if not isinstance(stored, dict) or not isinstance(stored.get("slide"), str):
        raise DataError(f"{path} names no slide; give what `wsiseg features` writes")
    row = blank_row()
    for name, value in stored.items():
        if name not in COLUMNS:
            raise DataError(
                f"{path}: unknown entry {name!r}; write it with this version's wsiseg features"
            )
        fits = isinstance(value, _KINDS[COLUMNS[name]]) and not isinstance(value, bool)
        if value is not None and not fits:
            raise DataError(f"{path}: {name} {value!r} is no {COLUMNS[name]}; write it again")
        row[name] = value
    if row["status"] not in ("done", "incomplete", "failed"):
        raise DataError(
            f"{path}: status {row['status']!r} is none of done, incomplete, failed; write it again"
        )
    return row


def _for_spreadsheets(table: pa.Table) -> pa.Table:
    """The table with no text that a spreadsheet would take for a formula."""
    for index, field in enumerate(table.schema):
        if field.type == pa.string():
            texts = [None if t is None else plain_text(t) for t in table[index].to_pylist()]
            table = table.set_column(index, field, pa.array(texts, pa.string()))
    return table


def _page(rows: Sequence[Row], out: Path) -> str:
    counts = {s: sum(r["status"] == s for r in rows) for s in ("done", "incomplete", "failed")}
    failed = [r for r in rows if r["status"] != "done"]
    found = [r for r in rows if r["status"] != "failed"]
    return render(
        "cohort.html",
        title="cohort",
        heading=f"Cohort of {len(rows)} slide{'s' * (len(rows) != 1)}",
        counts=", ".join(f"{count} {status}" for status, count in counts.items()),
        failures_head=("slide", "status", "cause"),
        failures=[(r["slide"], r["status"], r["cause"]) for r in failed],
        slides_head=tuple(_SHOWN.values()),
        slides=[[_name(r, out), *(r[name] for name in list(_SHOWN)[1:])] for r in found],
    )


def _name(row: Row, out: Path) -> str | Link:
    """The slide, which leads to its report where the workflow has laid one."""
    slide: str = row["slide"]
    there = Path("reports", f"{slide}.html")
    is_name = there.name == f"{slide}.html" and (out / there).is_file()
    return Link(slide, there.as_posix()) if is_name else slide
