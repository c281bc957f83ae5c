"""The report of one slide: picture, numbers, distributions, failures and origin on one page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.errors import DataError
from wsi_pipeline.core.files import as_output_error, write_text
from wsi_pipeline.core.records import RunRecord
from wsi_pipeline.core.run_layout import OVERLAY, read_run, runs_of_slide
from wsi_pipeline.reports.slide_summary import SPREAD, Row, measured, read_row, row_of_run
from wsi_pipeline.reports.templates import Histogram, histogram, render, shown

__all__ = ["write_report"]

_SUMMARY: Mapping[str, str] = MappingProxyType(
    {
        "status": "status",
        "slide_area_mm2": "slide, mm²",
        "foreground_area_mm2": "foreground, mm²",
        "foreground_share": "foreground, share",
        "objects": "objects",
        "nuclei": "nuclei",
        "nuclei_per_mm2": "nuclei per mm² of foreground",
        "large_nuclei": "large nuclei",
        "large_nuclei_share": "large nuclei, share",
        "abnormal_nuclei": "nuclei that look abnormal (no diagnosis)",
        "leukocytes": "leukocytes, not counted as nuclei",
        "other_objects": "other objects, not counted as nuclei",
        "cells": "cells",
        "cells_per_mm2": "cells per mm² of foreground",
        "cells_with_nucleus": "cells with a nucleus",
        "objects_larger_than_seen": "objects cut by the largest window",
        "adequacy": "adequacy",
        "adequacy_count": "adequacy: count",
        "adequacy_by": "adequacy: counted objects",
        "adequacy_least": "adequacy: enough from",
        "preparation": "preparation",
        "focus_score": "focus: 1 sharp, 0.25 none",
        "focus_blurred_share": "blurred fields, share",
        "focus_fields": "fields measured",
        "regions": "regions",
        "failed_regions": "regions failed or incomplete",
    }
)
"""Rows of the summary table and their labels; other columns are further down on the page."""
_ORIGIN = (
    "file", "mpp_um", "mpp_source", "width_px", "height_px", "model", "model_sha256", "precision",
    "device", "wsiseg", "versions", "settings", "run_sha256", "seconds",
)  # fmt: skip
_MEASURED: Mapping[str, str] = MappingProxyType(
    {
        "nucleus_area_um2": "nucleus area, µm²",
        "cell_area_um2": "cell area, µm²",
        "nc_ratio": "nucleus/cell area ratio",
    }
)
_BINS = 50
_JPEG_QUALITY = 90


@dataclass(frozen=True)
class RunSection:
    """What html/slide_report.html shows of one run."""

    model: str
    jpeg: str
    spread: Sequence[Sequence[Any]]
    figures: Sequence[Histogram]
    warnings: Sequence[str]
    regions: int
    failures: Sequence[Sequence[Any]]
    origin: Sequence[Sequence[Any]]


def write_report(source: Path, out: Path, *, summaries: Sequence[Path] = ()) -> Path:
    """Write one self-contained HTML page about a slide, with all its runs; return `out`.

    With several runs, one per model, the summary table has a column for each, and picture,
    distributions, failures and origin follow model by model.

    Parameters
    ----------
    source
        a run folder, or the folder of a slide with runs of one or more models
    out
        the HTML file
    summaries
        files of `wsiseg features`, which may have the focus score, for some of the runs; by
        default those in the run folders, else the rows are computed

    Raises
    ------
    DataError
        there is no finished run, there are runs of several slides, or a summary belongs to none
        of the runs
    OutputError
        `out` cannot be written
    """
    folders = runs_of_slide(source)
    runs = [read_run(folder) for folder in folders]
    rows = _given_rows(summaries, runs, source)
    models = [run["model"]["name"] for run in runs]
    for folder, model in zip(folders, models, strict=True):
        if model not in rows:
            rows[model] = row_of_run(folder)
    measures = [(_SUMMARY[n], *(rows[m][n] for m in models)) for n in _SUMMARY]
    text = render(
        "slide_report.html",
        title=runs[0]["slide"]["id"],
        head=("measure", *(models if len(models) > 1 else ("value",))),
        summary=[(label, *row) for label, *row in measures if any(v is not None for v in row)],
        spread_head=("of", *SPREAD),
        runs=[_section(f, run, rows[m]) for f, run, m in zip(folders, runs, models, strict=True)],
    )
    with as_output_error(out.parent, "give another --out"):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)
    return out


def _given_rows(
    summaries: Sequence[Path], runs: Sequence[RunRecord], source: Path
) -> dict[str, Row]:
    """Return the rows of `summaries` by model; each must belong to one of the runs."""
    slide_id = runs[0]["slide"]["id"]
    models = [run["model"]["name"] for run in runs]
    rows = {}
    for path in summaries:
        row = read_row(path)
        if row["slide"] != slide_id:
            raise DataError(f"{path} is about slide {row['slide']!r}, not {slide_id!r}")
        if row["model"] not in models:
            raise DataError(
                f"{path} is about model {row['model']!r}, and {source} has runs of "
                f"{', '.join(models)}; give the summary of one of them"
            )
        rows[row["model"]] = row
    return rows


def _section(folder: Path, run: RunRecord, row: Row) -> RunSection:
    found = {name: values for name, values in measured(folder).items() if len(values)}
    return RunSection(
        model=run["model"]["name"],
        jpeg=_jpeg(folder / OVERLAY),
        spread=[(_MEASURED[n], *(row[f"{n}_{part}"] for part in SPREAD)) for n in found],
        figures=[_figure(name, values, row) for name, values in found.items()],
        warnings=[*run.get("warnings", ()), *run["slide"]["notes"]],
        regions=run["regions"],
        failures=[
            (f["region"], ", ".join(map(str, f["level0_box"])), f["cause"])
            for f in run["failed_regions"]
        ],
        origin=[(name, _exact(row[name])) for name in _ORIGIN],
    )


def _exact(value: Any) -> str:
    return shown(value) if value is None or isinstance(value, str) else str(value)


def _jpeg(path: Path) -> str:
    """Return the overlay as JPEG in base64: a fifth of the PNG's size."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{path} cannot be read; run the slide again with --overwrite")
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert done
    return base64.b64encode(data.tobytes()).decode()


def _figure(name: str, values: NDArray[np.floating], row: Row) -> Histogram:
    """Return the histogram of one measurement, from 0 to 1 for a ratio, else to percentile 99."""
    high = 1.0 if name == "nc_ratio" else _round_up(float(np.quantile(values, 0.99)))
    mark = row["large_nucleus_um2"] if name == "nucleus_area_um2" else None
    caption = f"{_MEASURED[name]}; n = {len(values):,}"
    if mark is not None:
        caption += f"; dashed: large from {mark:g}"
    return histogram(values, caption, high=high, bins=_BINS, mark=mark)


def _round_up(value: float) -> float:
    """Return the next of 1, 1.5, 2, 3, 4, 5, 6, 8, 10 times a power of ten, for the axis."""
    power = 10.0 ** np.floor(np.log10(max(value, 1e-6)))
    return float(next(f * power for f in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if f * power >= value))
