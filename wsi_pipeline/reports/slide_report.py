"""The report of one slide: picture, numbers, distributions, faults and origin on one page."""

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

from wsi_pipeline.core.errors import DataError, OutputError
from wsi_pipeline.core.files import open_part
from wsi_pipeline.core.run_layout import one_run, read_run
from wsi_pipeline.reports.cohort import read_row
from wsi_pipeline.reports.slide_summary import SPREAD, measured, summarise
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
        "cells": "cells",
        "cells_per_mm2": "cells per mm² of foreground",
        "cells_with_nucleus": "cells with a nucleus",
        "objects_larger_than_seen": "objects larger than could be seen",
        "adequacy": "adequacy",
        "adequacy_count": "counted for it",
        "adequacy_by": "counted by",
        "adequacy_least": "enough from",
        "preparation": "preparation",
        "focus_score": "focus: 1 sharp, 0.25 none",
        "focus_blurred_share": "blurred fields, share",
        "focus_fields": "fields measured",
        "regions": "regions",
        "failed_regions": "regions failed or not whole",
    }
)
"""What the page says first; the rest is among distributions, failures and origin."""
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
    regions: int
    failures: Sequence[Sequence[Any]]
    origin: Sequence[Sequence[Any]]


def write_report(folder: Path, out: Path, *, summary: Path | None = None) -> Path:
    """Write one self-contained HTML page about a run folder.

    Parameters
    ----------
    out
        the file to make
    summary
        row of `wsiseg features`, which may know the focus; by default it is computed

    Raises
    ------
    DataError
        the folder holds no finished run, or the summary is another slide's
    OutputError
        `out` cannot be written
    """
    folder = one_run(folder)
    run = read_run(folder)
    row = summarise(folder) if summary is None else read_row(summary)
    slide_id = run["slide"]["id"]
    if row["slide"] != slide_id:
        raise DataError(f"{summary} is about slide {row['slide']!r}, not {slide_id!r}")
    text = render(
        "slide_report.html",
        title=slide_id,
        head=("measure", "value"),
        summary=[(said, row[name]) for name, said in _SUMMARY.items() if row[name] is not None],
        spread_head=("of", *SPREAD),
        runs=[_section(folder, run, row)],
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make {out.parent} ({error.strerror}); give another --out"
        ) from error
    with open_part(out) as file:
        file.write(text.encode())
    return out


def _section(folder: Path, run: Mapping[str, Any], row: Mapping[str, Any]) -> RunSection:
    found = {name: values for name, values in measured(folder).items() if len(values)}
    return RunSection(
        model=run["model"]["name"],
        jpeg=_jpeg(folder / "overlay.png"),
        spread=[(_MEASURED[n], *(row[f"{n}_{part}"] for part in SPREAD)) for n in found],
        figures=[_figure(name, values, row) for name, values in found.items()],
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


def _figure(name: str, values: NDArray[np.floating], row: Mapping[str, Any]) -> Histogram:
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
