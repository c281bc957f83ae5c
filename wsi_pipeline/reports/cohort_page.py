"""The page of a cohort: failures, outliers, drift, and a table that can be sorted."""

from __future__ import annotations

import base64
import csv
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from markupsafe import Markup

from wsi_pipeline.core.errors import DataError, one_line
from wsi_pipeline.core.numbers import grouped
from wsi_pipeline.core.run_layout import THUMBNAIL, run_folder_path
from wsi_pipeline.core.safe_names import NameRefused
from wsi_pipeline.reports.drift import LEAST_BEFORE, RUN_LENGTH, WINDOW, Chart, chart
from wsi_pipeline.reports.findings import COMPARED
from wsi_pipeline.reports.robust import OUTLIER_Z, robust_z
from wsi_pipeline.reports.slide_summary import Row
from wsi_pipeline.reports.templates import cell_text, render

__all__ = ["cohort_page", "read_dates"]

SHOWN: Mapping[str, str] = MappingProxyType(
    {
        "model": "model",
        "status": "status",
        "foreground_area_mm2": "foreground, mm²",
        "nuclei": "nuclei",
        "nuclei_per_mm2": "per mm²",
        "nucleus_area_um2_median": "median nucleus, µm²",
        "nucleus_area_um2_iqr": "its IQR, µm²",
        "large_nuclei_share": "large nuclei",
        "cells": "cells",
        "cells_with_nucleus": "with nucleus",
        "nc_ratio_median": "median N/C",
        "adequacy": "adequacy",
        "focus_score": "focus",
        "focus_blurred_share": "blurred",
        "failed_regions": "failed regions",
        "seconds": "seconds",
    }
)
"""Columns of the page and their headings there; the files have all columns."""
DRIFT: Mapping[str, str] = MappingProxyType(
    {
        "nucleus_area_um2_median": "Median nucleus area, µm²",
        "nuclei_per_mm2": "Nuclei per mm² of foreground",
        "focus_score": "Focus score",
    }
)
"""Columns with a control chart."""
LEAST_SLIDES = 8
"""With fewer slides of a model, none is an outlier."""
_THUMBNAIL_PX, _QUALITY = 96, 72


@dataclass(frozen=True)
class Cell:
    """A cell of the table: text, the number to sort by, and the z-score of an outlier."""

    text: str
    number: float | None
    z: float | None


@dataclass(frozen=True)
class Line:
    """A row of the table: thumbnail as JPEG in base64, link to the report, and the cells."""

    slide: str
    status: str
    jpeg: str
    report: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class ModelCharts:
    """Control charts of the slides of one model."""

    model: str
    slides: int
    charts: tuple[Chart, ...]


def cohort_page(
    rows: Sequence[Row],
    out: Path,
    *,
    folders: Mapping[tuple[str, str | None], Path],
    dates: Mapping[str, datetime] | None = None,
) -> str:
    """Return the page of a cohort.

    Parameters
    ----------
    rows
        see `COLUMNS`, sorted
    out
        folder of the page; reports in reports/ are linked
    folders
        run folders by slide and model, for the thumbnails; others are looked for in `out`
    dates
        dates of slides, for the order of the charts; by default by name
    """
    counts = {s: sum(r["status"] == s for r in rows) for s in ("done", "incomplete", "failed")}
    found = [r for r in rows if r["status"] != "failed"]
    shown = list(_columns(found))
    models = sorted({r["model"] for r in found if r["model"]})
    slides = len({r["slide"] for r in rows})
    odd = {(r["slide"], r["model"], name): z for r, name, z in _outliers(found)}
    heading = f"Cohort of {grouped(slides)} slide{'s' * (slides != 1)}"
    script = files("wsi_pipeline.reports").joinpath("html/sort.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return render(
        "cohort.html",
        title="cohort",
        heading=heading if len(rows) == slides else f"{heading}, {grouped(len(rows))} runs",
        counts=", ".join(f"{grouped(count)} {status}" for status, count in counts.items()),
        failures_head=("slide", "model", "status", "cause"),
        failures=[
            (r["slide"], r["model"], r["status"], r["cause"]) for r in rows if r["status"] != "done"
        ],
        outliers=[
            (r["slide"], r["model"], SHOWN.get(name, name), cell_text(name, r[name]), z)
            for r, name, z in _outliers(found)
        ],
        outlier_z=OUTLIER_Z,
        least_slides=LEAST_SLIDES,
        drift=list(_drift(found, dates)),
        dated=dates is not None,
        undated=0 if dates is None else len({r["slide"] for r in found} - set(dates)),
        window=WINDOW,
        least_before=LEAST_BEFORE,
        run_length=RUN_LENGTH,
        models=models,
        head=[SHOWN[name] for name in shown],
        lines=[
            _line(row, shown, odd, jpeg, _report(row["slide"], out))
            for row, jpeg in zip(found, _thumbnails(found, out, folders), strict=True)
        ],
        script=Markup(script),
        script_hash=digest,
    )


def _columns(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the columns of the table: those with a value, and texts only where they differ."""
    for name in SHOWN:
        values = {row[name] for row in rows}
        if values != {None} and (name not in ("model", "status") or len(values) > 1):
            yield name


def _outliers(rows: Sequence[Row]) -> Iterator[tuple[Row, str, float]]:
    """Yield row, column and z-score of each number that is far from those of its model."""
    for model in sorted({r["model"] or "" for r in rows}):
        own = [r for r in rows if (r["model"] or "") == model]
        for name in COMPARED:
            known = np.array([r[name] for r in own if r[name] is not None], np.float64)
            if len(known) < LEAST_SLIDES:
                continue
            for row in own:
                z = None if row[name] is None else robust_z(row[name], known)
                if z is not None and abs(z) > OUTLIER_Z:
                    yield row, name, z


def _drift(rows: Sequence[Row], dates: Mapping[str, datetime] | None) -> Iterator[ModelCharts]:
    """Yield the charts of each model that has slides enough to compare."""
    for model in sorted({r["model"] or "" for r in rows}):
        own = [r for r in rows if (r["model"] or "") == model]
        if dates is not None:
            own = sorted((r for r in own if r["slide"] in dates), key=lambda r: dates[r["slide"]])
        charts = []
        for name, title in DRIFT.items():
            known = [r for r in own if r[name] is not None]
            if len(known) > LEAST_BEFORE:
                values = np.array([r[name] for r in known], np.float64)
                names = [_dated(r["slide"], dates) for r in known]
                texts = [cell_text(name, r[name]) for r in known]
                charts.append(chart(title, names, values, texts))
        if charts:
            yield ModelCharts(model, len(own), tuple(charts))


def _dated(slide: str, dates: Mapping[str, datetime] | None) -> str:
    return slide if dates is None else f"{slide} ({dates[slide]:%Y-%m-%d})"


def _line(
    row: Row,
    shown: Sequence[str],
    odd: Mapping[tuple[str, str | None, str], float],
    jpeg: str,
    report: str,
) -> Line:
    key = row["slide"], row["model"]
    return Line(
        slide=row["slide"],
        status=row["status"],
        jpeg=jpeg,
        report=report,
        cells=tuple(
            Cell(cell_text(name, row[name]), _number(row[name]), odd.get((*key, name)))
            for name in shown
        ),
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _report(slide: str, out: Path) -> str:
    """Return the path of the slide's report, relative to the page; empty if there is none."""
    report = Path("reports", f"{slide}.html")
    is_name = report.name == f"{slide}.html" and (out / report).is_file()
    return report.as_posix() if is_name else ""


def _thumbnails(
    rows: Sequence[Row], out: Path, folders: Mapping[tuple[str, str | None], Path]
) -> list[str]:
    """Return the thumbnails of runs as small JPEGs in base64; empty where there is none."""
    with ThreadPoolExecutor(4) as pool:  # OpenCV decodes without Python's lock
        return list(pool.map(_thumbnail, [_thumbnail_file(row, out, folders) for row in rows]))


def _thumbnail_file(
    row: Row, out: Path, folders: Mapping[tuple[str, str | None], Path]
) -> Path | None:
    given = folders.get((row["slide"], row["model"]))
    places = [] if given is None else [given]
    with suppress(NameRefused):
        places += [run_folder_path(base, row["slide"], row["model"] or "")
                   for base in (out, out / "runs")]  # fmt: skip
    return next((p / THUMBNAIL for p in places if (p / THUMBNAIL).is_file()), None)


def _thumbnail(path: Path | None) -> str:
    image = None if path is None else cv2.imread(str(path), cv2.IMREAD_REDUCED_COLOR_4)
    if image is None:
        return ""
    shrink = min(1.0, _THUMBNAIL_PX / max(image.shape[:2]))
    size = tuple(max(1, round(side * shrink)) for side in image.shape[1::-1])
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert done
    return base64.b64encode(data.tobytes()).decode()


def read_dates(path: Path) -> dict[str, datetime]:
    """Return the dates of slides from a CSV file with the columns slide and date.

    Raises
    ------
    DataError
        the file cannot be read, has no such columns, or a date is not like 2026-03-31
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            missing = {"slide", "date"} - set(table.fieldnames or ())
            if missing:
                raise ValueError(f"no column {' and '.join(sorted(missing))}")
            return {
                row["slide"]: datetime.fromisoformat(row["date"].strip()).replace(tzinfo=None)
                for row in table
                if row["slide"] and row["date"]
            }
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"{path} has no dates ({one_line(error)}); give a CSV file with the columns slide and "
            "date, e.g. slide-7,2026-03-31"
        ) from error
