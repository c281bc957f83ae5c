"""The tables of a run: one row for the run, and one row for each object."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.errors import DataError, UsageError, one_line
from wsi_pipeline.core.files import as_output_error, open_part, write_text
from wsi_pipeline.core.json_files import read_json
from wsi_pipeline.core.objects import CELL_CLASS, CYTOPLASM
from wsi_pipeline.core.records import RunRecord
from wsi_pipeline.core.run_layout import PARQUET, RUN_JSON, read_run, runs_of_slide
from wsi_pipeline.core.safe_names import folder_name
from wsi_pipeline.reports.cell_check import FAULT_COLUMNS, CellCheck, check_cells
from wsi_pipeline.reports.kind_counts import KIND_COLUMNS, kind_counts
from wsi_pipeline.reports.measured import measured
from wsi_pipeline.reports.object_table import holds_boxes, write_object_table
from wsi_pipeline.reports.row_check import check_row
from wsi_pipeline.segmentation.kinds import has_kinds
from wsi_pipeline.slides.slide import Slide

__all__ = [
    "COLUMNS",
    "LARGE_NUCLEUS_UM2",
    "LEAST_CELLS",
    "SPREAD",
    "SUMMARY_JSON",
    "Row",
    "blank_row",
    "failed_row",
    "measured",
    "read_row",
    "row_of_run",
    "summarise",
    "write_features",
]

Row = dict[str, Any]
"""Values of one run, one per name in `COLUMNS`; None where a value is unknown."""
SUMMARY_JSON = "summary.json"
"""End of the name of a file with a row."""

LARGE_NUCLEUS_UM2 = 2.5 * 35
"""A nucleus of this area or more is large, µm².

The nucleus of a normal intermediate squamous cell has about 35 µm². The Bethesda System (Nayar and
Wilbur 2015, chapter 4) describes nuclei of 2½ times that area and more as atypical.
"""
LEAST_CELLS: Mapping[str, int] = MappingProxyType({"liquid": 5000, "conventional": 8000})
"""Squamous cells of an adequate specimen (Bethesda 2014; Nayar and Wilbur 2015, chapter 1).

Conventional smears need 8000 to 12 000; this is the lower bound.
"""
SPREAD = ("p10", "p25", "median", "p75", "p90", "iqr")
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)

_TEXT, _COUNT, _NUMBER = "text", "count", "number"
COLUMNS: Mapping[str, str] = MappingProxyType(
    {
        "slide": _TEXT,
        "file": _TEXT,
        "status": _TEXT,
        "cause": _TEXT,
        "width_px": _COUNT,
        "height_px": _COUNT,
        "mpp_um": _NUMBER,
        "mpp_source": _TEXT,
        "slide_area_mm2": _NUMBER,
        "foreground_share": _NUMBER,
        "foreground_area_mm2": _NUMBER,
        "objects": _COUNT,
        "nuclei": _COUNT,
        "cells": _COUNT,
        "nuclei_per_mm2": _NUMBER,
        "cells_per_mm2": _NUMBER,
        **{f"nucleus_area_um2_{part}": _NUMBER for part in SPREAD},
        "large_nucleus_um2": _NUMBER,
        "large_nuclei": _COUNT,
        "large_nuclei_share": _NUMBER,
        **dict.fromkeys(KIND_COLUMNS, _COUNT),
        **{f"cell_area_um2_{part}": _NUMBER for part in SPREAD},
        "cells_with_nucleus": _COUNT,
        **dict.fromkeys(FAULT_COLUMNS, _COUNT),
        **{f"nc_ratio_{part}": _NUMBER for part in SPREAD},
        "objects_larger_than_seen": _COUNT,
        "regions": _COUNT,
        "failed_regions": _COUNT,
        "failed_causes": _TEXT,
        "adequacy": _TEXT,
        "adequacy_by": _TEXT,
        "adequacy_count": _COUNT,
        "adequacy_least": _COUNT,
        "preparation": _TEXT,
        "focus_score": _NUMBER,
        "focus_blurred_share": _NUMBER,
        "focus_fields": _COUNT,
        "model": _TEXT,
        "model_sha256": _TEXT,
        "precision": _TEXT,
        "device": _TEXT,
        "wsiseg": _TEXT,
        "versions": _TEXT,
        "settings": _TEXT,
        "run_sha256": _TEXT,
        "seconds": _NUMBER,
    }
)
"""Every column of a row, in order, and its type: text, count or number."""


_TOGETHER = (
    ("doubled_cells", "cells_without_nucleus", "cut_cells"),
    ("adequacy", "adequacy_by", "adequacy_count", "adequacy_least"),
)
"""Columns of which a row has all or none."""


def blank_row() -> Row:
    """Return a row with every column, all None."""
    return dict.fromkeys(COLUMNS)


def failed_row(slide: str, cause: str, model: str | None = None) -> Row:
    """Return the row of a slide that failed."""
    return blank_row() | {"slide": slide, "status": "failed", "cause": cause, "model": model}


def write_features(
    source: Path,
    out: Path | None = None,
    *,
    qc: Path | None = None,
    preparation: str = "liquid",
    slide_of: Callable[[Path], AbstractContextManager[Slide]] | None = None,
) -> list[Path]:
    """Write the object table and the summary row of each run of a slide.

    A run folder gets <slide_id>.objects.csv.gz and <slide_id>.summary.json. In `out` the names
    hold the model too: <slide_id>.<model>.objects.csv.gz. The same run gives the same bytes.

    Parameters
    ----------
    source
        a run folder, or the folder of a slide with runs of one or more models
    out
        folder for the files; by default each run folder gets its own
    qc
        output of ``wsiseg info --json`` for the slide; adds the focus score
    preparation
        ``liquid`` or ``conventional``; decides how many cells are adequate
    slide_of
        opens the slide of a run folder, to find cells on empty glass; by default nobody looks

    Returns
    -------
    list of Path
        table and summary of the first run, then those of the next

    Raises
    ------
    UsageError, DataError, OutputError
        the preparation is unknown; a file cannot be read; `out` cannot be written
    """
    files = []
    for folder in runs_of_slide(source):
        run = read_run(folder)
        with nullcontext() if slide_of is None else slide_of(folder) as slide:
            row = summarise(folder, qc=qc, preparation=preparation, slide=slide)
        name = run["slide"]["id"]
        if out is not None:
            name += f".{folder_name(run['model']['name'])}"
            with as_output_error(out):
                out.mkdir(parents=True, exist_ok=True)
        table, summary = ((out or folder) / f"{name}.{e}" for e in ("objects.csv.gz", SUMMARY_JSON))
        with open_part(table) as file:
            write_object_table(file, folder / PARQUET, run)
        text = json.dumps(row, indent=1, ensure_ascii=False, allow_nan=False)
        write_text(summary, text + "\n")
        files += [table, summary]
    return files


def row_of_run(folder: Path) -> Row:
    """Return the row of a run: the one that `write_features` left in its folder, or a new one.

    A row counts only if it was made from the present run.json, and lacks nothing of it. It may
    have the focus score.
    """
    run = read_run(folder)
    stored = folder / f"{run['slide']['id']}.{SUMMARY_JSON}"
    if stored.is_file():
        row = read_row(stored)
        if row["run_sha256"] == _sha256(folder / RUN_JSON) and not lacking(row, run):
            return row
    return summarise(folder)


def lacking(row: Row, run: RunRecord) -> str:
    """Return a column that a row of a run must have and has not; empty where it has all."""
    stated = [name for name, value in _from_run(run).items() if value is not None]
    for group in _TOGETHER:
        stated += group if any(row[name] is not None for name in group) else ()
    return next((name for name in stated if row[name] is None), "")


def read_row(path: Path) -> Row:
    """Read a row from JSON.

    Raises
    ------
    DataError
        the file is not JSON, an entry is not in `COLUMNS` or has another type, or the status is
        not ``done``, ``incomplete`` or ``failed``
    """
    try:
        stored = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not JSON ({one_line(error)}); leave it out") from error
    if not isinstance(stored, dict) or not isinstance(stored.get("slide"), str):
        raise DataError(f"{path} names no slide; give a file that `wsiseg features` wrote")
    row = blank_row()
    for name, value in stored.items():
        if name not in COLUMNS:
            raise DataError(
                f"{path}: unknown entry {name!r}; write the file again with `wsiseg features`"
            )
        row[name] = value
    check_row(row, COLUMNS, path)
    if row["status"] not in ("done", "incomplete", "failed"):
        raise DataError(
            f"{path}: status {row['status']!r} is none of done, incomplete, failed; write it again"
        )
    return row


def summarise(
    folder: Path, *, qc: Path | None = None, preparation: str = "liquid", slide: Slide | None = None
) -> Row:
    """Compute the row of a run folder; parameters and errors as in `write_features`."""
    if preparation not in LEAST_CELLS:
        known = ", ".join(LEAST_CELLS)
        raise UsageError(f"preparation {preparation!r} is unknown; use {known}")
    run = read_run(folder)
    try:
        row = blank_row() | _from_run(run)
        row["run_sha256"] = _sha256(folder / RUN_JSON)
        # Boxes are of any classes and have no area; they are counted as objects alone.
        if not holds_boxes(folder / PARQUET):
            faults = check_cells(folder, slide)
            found, area = measured(folder, faults), row["foreground_area_mm2"]
            counts = _counts(found, area, run["model"]["classes"])
            row |= counts | _honest(faults, counts, area)
            row |= _adequacy(row, run, preparation)
        if has_kinds(tuple(run["model"]["classes"])):
            row |= kind_counts(folder)
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{folder / RUN_JSON} has no {error}, another version wrote it; run the slide again"
        ) from error
    if qc is not None:
        row |= _focus(qc, row["slide"])
    assert list(row) == list(COLUMNS)
    check_row(row, COLUMNS, folder / RUN_JSON if qc is None else qc)
    return {name: _rounded(value) for name, value in row.items()}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _from_run(run: RunRecord) -> Row:
    """Return the columns that come from run.json alone."""
    slide, model, failed = run["slide"], run["model"], run["failed_regions"]
    mpp, share = slide["mpp"], run["foreground"]["share"]
    area = slide["width"] * mpp["x"] * slide["height"] * mpp["y"] / 1e6
    causes = sorted({region["cause"] for region in failed})
    identity = model["identity"]
    return {
        "slide": slide["id"],
        "file": slide["file"],
        "status": "incomplete" if failed else "done",
        "cause": failed[0]["cause"] if failed else None,
        "width_px": slide["width"],
        "height_px": slide["height"],
        "mpp_um": (mpp["x"] + mpp["y"]) / 2,
        "mpp_source": mpp["source"],
        "slide_area_mm2": area,
        "foreground_share": share,
        "foreground_area_mm2": share * area,
        "objects": run["objects"],
        "objects_larger_than_seen": run["objects_larger_than_seen"],
        "regions": run["regions"],
        "failed_regions": len(failed),
        "failed_causes": " | ".join(causes) or None,
        "model": model["name"],
        "model_sha256": identity if len(identity) == 64 else None,
        "precision": model["precision"],
        "device": run["device"],
        "wsiseg": run["wsiseg"],
        "versions": _compact({"python": run["python"], **run["versions"]}),
        "settings": _compact(run["settings"]),
        "seconds": run["seconds"],
    }


def _counts(
    values: Mapping[str, NDArray[np.float32]], area_mm2: float, classes: Sequence[str]
) -> Row:
    """Return counts and distributions; a class that the model does not have stays None, not 0."""
    nucleus, cell, ratio = (values[n] for n in ("nucleus_area_um2", "cell_area_um2", "nc_ratio"))
    row: dict[str, Any] = {}
    if set(classes) - {CELL_CLASS, CYTOPLASM}:
        large = int(np.count_nonzero(nucleus >= LARGE_NUCLEUS_UM2))
        row |= {
            "nuclei": len(nucleus),
            "nuclei_per_mm2": len(nucleus) / area_mm2 if area_mm2 else None,
            "large_nucleus_um2": LARGE_NUCLEUS_UM2,
            "large_nuclei": large,
            "large_nuclei_share": large / len(nucleus) if len(nucleus) else None,
        }
    if CELL_CLASS in classes:
        row |= {
            "cells": len(cell),
            "cells_per_mm2": len(cell) / area_mm2 if area_mm2 else None,
            "cells_with_nucleus": len(ratio),
        }
    for name, column in values.items():
        if len(column):
            five = np.quantile(column.astype(np.float64), _QUANTILES)
            spread = (*five.tolist(), float(five[3] - five[1]))
            row |= {f"{name}_{k}": v for k, v in zip(SPREAD, spread, strict=True)}
    return row


def _honest(faults: CellCheck | None, counts: Row, area_mm2: float) -> Row:
    """Return how many cells do not count, and the density of the others."""
    if counts.get("cells") is None or faults is None:
        return {}
    count = counts["cells"] - int(faults.faulty.sum())
    return {**faults.counts(), "cells_per_mm2": count / area_mm2 if area_mm2 else None}


def _adequacy(row: Row, run: RunRecord, preparation: str) -> Row:
    """Decide whether there are enough cells; a model without cells counts nuclei instead."""
    cells = CELL_CLASS in run["model"]["classes"]
    least = LEAST_CELLS[preparation]
    count = row["nuclei"]
    if cells:
        count = row["cells"] - sum(row[name] or 0 for name in FAULT_COLUMNS)
    partly = bool(run["failed_regions"]) or run["settings"]["roi"] is not None
    short = "undecided" if partly else "too few"  # the rest of the slide may hold them
    return {
        "adequacy": "enough" if count >= least else short,
        "adequacy_by": "cells" if cells else "nuclei, one per cell",
        "adequacy_count": count,
        "adequacy_least": least,
        "preparation": preparation,
    }


def _focus(qc: Path, slide: str) -> Row:
    try:
        about = read_json(qc)
        of, focus = about["slide"], about["focus"] or {}
        found = {f"focus_{k}": focus.get(k) for k in ("score", "blurred_share", "fields")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{qc} is not the output of `wsiseg info SLIDE --json` ({one_line(error)}); "
            "write it again"
        ) from error
    if of != slide:
        raise DataError(f"{qc} is about slide {of!r}; give the file of slide {slide!r}")
    return found


def _compact(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _rounded(value: Any) -> Any:
    """Round to six significant digits: beyond the accuracy, and the same on all machines."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
