"""The cohort: one row per slide and model, failed ones with their cause; Parquet, CSV, HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from wsi_pipeline.core.errors import UsageError
from wsi_pipeline.core.files import as_output_error, open_part, write_text
from wsi_pipeline.core.named_paths import named_paths
from wsi_pipeline.core.run_layout import RUN_JSON, find_runs
from wsi_pipeline.reports.object_table import plain_text
from wsi_pipeline.reports.slide_summary import (
    COLUMNS,
    SUMMARY_JSON,
    Row,
    failed_row,
    read_row,
    row_of_run,
)
from wsi_pipeline.reports.templates import Link, render

__all__ = ["SCHEMA", "gather", "write_cohort"]

_TYPES = {"text": pa.string(), "count": pa.int64(), "number": pa.float64()}
SCHEMA = pa.schema(
    [pa.field(name, _TYPES[kind], nullable=name != "slide") for name, kind in COLUMNS.items()]
)
_SHOWN: Mapping[str, str] = MappingProxyType(
    {
        "slide": "slide",
        "model": "model",
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
        "seconds": "seconds",
    }
)
"""Columns of the page and their headings there; the files have all columns."""


def write_cohort(out: Path, sources: Sequence[Path | str] = ()) -> list[Row]:
    """Write cohort.parquet, cohort.csv and cohort.html into `out`; return the rows.

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
    with as_output_error(out, "give another OUT"):
        out.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    with open_part(out / "cohort.parquet") as file:
        pq.write_table(table, file, compression="zstd")
    with open_part(out / "cohort.csv") as file:
        pyarrow.csv.write_csv(_for_spreadsheets(table), file)
    write_text(out / "cohort.html", _page(rows, out))
    return rows


def gather(sources: Sequence[Path | str]) -> list[Row]:
    """Return one row per slide and model, sorted by them.

    A source is a run folder, a slide's folder with runs of several models, or an output folder
    with many slides; a JSON file with a row of `wsiseg features`, or with slide, status "failed"
    and cause; a folder of such files (``*.summary.json``, ``*.failed.json``); or a glob of these.
    The row in a run folder is used if it was made from the present run.json. A run without a
    run.json is not finished and counts as failed.

    Raises
    ------
    UsageError
        a source does not exist or holds no run, or two rows are of one slide and model
    DataError
        a file has other content
    """
    rows: dict[str, list[tuple[Path, Row]]] = {}
    found = {p.resolve(): p for source in named_paths(sources) for p in _found(source)}
    for resolved, path in found.items():
        row = _run_row(resolved) if path.is_dir() else read_row(path)
        same_slide = rows.setdefault(row["slide"], [])
        for other, before in same_slide:
            if before["model"] == row["model"] or None in (before["model"], row["model"]):
                model = f" with model {row['model']!r}" if before["model"] and row["model"] else ""
                raise UsageError(
                    f"{other} and {path} are both slide {row['slide']!r}{model}; leave one out"
                )
        same_slide.append((path, row))
    if not rows:
        raise UsageError(
            f"{', '.join(map(str, sources))} has no slide: no run folder, no *.summary.json and no "
            "*.failed.json; run `wsiseg run` first, or name the folders of runs"
        )
    every = (row for same_slide in rows.values() for _, row in same_slide)
    return sorted(every, key=lambda row: (row["slide"], row["model"] or ""))


def _found(source: Path) -> list[Path]:
    """Return the run folders and JSON files of a source."""
    if source.is_file():
        return [source]
    runs = find_runs(source, unfinished=True)
    if runs == [source]:
        return runs
    files = [p for p in source.iterdir() if p.name.endswith((f".{SUMMARY_JSON}", ".failed.json"))]
    return [*runs, *sorted(p for p in files if p.is_file())]


def _run_row(folder: Path) -> Row:
    """Return the row of a run folder; a run that is not finished counts as failed."""
    if (folder / RUN_JSON).is_file():
        return row_of_run(folder)
    cause = "the run is not finished; run the same command again to resume"
    return failed_row(folder.parent.name, cause, folder.name)


def _for_spreadsheets(table: pa.Table) -> pa.Table:
    """Return the table without text that a spreadsheet runs as a formula."""
    for index, field in enumerate(table.schema):
        if field.type == pa.string():
            texts = [None if t is None else plain_text(t) for t in table[index].to_pylist()]
            table = table.set_column(index, field, pa.array(texts, pa.string()))
    return table


def _page(rows: Sequence[Row], out: Path) -> str:
    counts = {s: sum(r["status"] == s for r in rows) for s in ("done", "incomplete", "failed")}
    failed = [r for r in rows if r["status"] != "done"]
    found = [r for r in rows if r["status"] != "failed"]
    slides = len({r["slide"] for r in rows})
    heading = f"Cohort of {slides} slide{'s' * (slides != 1)}"
    return render(
        "cohort.html",
        title="cohort",
        heading=heading if len(rows) == slides else f"{heading}, {len(rows)} runs",
        counts=", ".join(f"{count} {status}" for status, count in counts.items()),
        failures_head=("slide", "model", "status", "cause"),
        failures=[(r["slide"], r["model"], r["status"], r["cause"]) for r in failed],
        slides_head=tuple(_SHOWN.values()),
        slides=[[_slide_cell(r, out), *(r[name] for name in list(_SHOWN)[1:])] for r in found],
    )


def _slide_cell(row: Row, out: Path) -> str | Link:
    """Return the slide's name, with a link to its report if there is one in reports/."""
    slide: str = row["slide"]
    report = Path("reports", f"{slide}.html")
    is_name = report.name == f"{slide}.html" and (out / report).is_file()
    return Link(slide, report.as_posix()) if is_name else slide
