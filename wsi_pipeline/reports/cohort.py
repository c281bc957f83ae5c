"""The cohort: one row per slide and model, failed ones with their cause; Parquet, CSV, HTML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from wsi_pipeline.core.errors import UsageError
from wsi_pipeline.core.files import as_output_error, open_part, write_text
from wsi_pipeline.core.named_paths import named_paths
from wsi_pipeline.core.run_layout import RUN_JSON, find_runs
from wsi_pipeline.reports.cohort_page import cohort_page, read_dates
from wsi_pipeline.reports.object_table import plain_text
from wsi_pipeline.reports.slide_summary import (
    COLUMNS,
    SUMMARY_JSON,
    Row,
    failed_row,
    read_row,
    row_of_run,
)

__all__ = ["SCHEMA", "gather", "write_cohort"]

_TYPES = {"text": pa.string(), "count": pa.int64(), "number": pa.float64()}
SCHEMA = pa.schema(
    [pa.field(name, _TYPES[kind], nullable=name != "slide") for name, kind in COLUMNS.items()]
)


def write_cohort(
    out: Path, sources: Sequence[Path | str] = (), *, dates: Path | None = None
) -> list[Row]:
    """Write cohort.parquet, cohort.csv and cohort.html into `out`; return the rows.

    Parameters
    ----------
    sources
        see `gather`; by default `out` itself
    dates
        CSV file with the dates of slides, see `read_dates`

    Raises
    ------
    UsageError, DataError, OutputError
        see `gather` and `read_dates`; `out` cannot be written
    """
    found = _gather(sources or [out])
    rows = [row for row, _ in found]
    folders = {(row["slide"], row["model"]): path for row, path in found if path.is_dir()}
    when = None if dates is None else read_dates(dates)
    with as_output_error(out, "give another OUT"):
        out.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    with open_part(out / "cohort.parquet") as file:
        pq.write_table(table, file, compression="zstd")
    with open_part(out / "cohort.csv") as file:
        pyarrow.csv.write_csv(_for_spreadsheets(table), file)
    write_text(out / "cohort.html", cohort_page(rows, out, folders=folders, dates=when))
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
    return [row for row, _ in _gather(sources)]


def _gather(sources: Sequence[Path | str]) -> list[tuple[Row, Path]]:
    """Return each row with the run folder or file that it comes from."""
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
    every = ((row, path) for same_slide in rows.values() for path, row in same_slide)
    return sorted(every, key=lambda found: (found[0]["slide"], found[0]["model"] or ""))


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
