"""The report of one slide: picture, numbers, distributions, faults and origin on one page."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.errors import DataError, OutputError
from wsi_pipeline.core.files import open_part
from wsi_pipeline.reports.cohort import read_row
from wsi_pipeline.reports.slide_summary import SPREAD, measured, read_run, summarise
from wsi_pipeline.reports.templates import histogram_svg, page, shown, table_html

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
    run = read_run(folder)
    row = summarise(folder) if summary is None else read_row(summary)
    slide_id = run["slide"]["id"]
    if row["slide"] != slide_id:
        raise DataError(f"{summary} is about slide {row['slide']!r}, not {slide_id!r}")
    body = [
        f"<h1>{escape(slide_id)}</h1>",
        _picture(folder / "overlay.png"),
        "<h2>Summary</h2>",
        table_html(("measure", "value"), _known(_SUMMARY, row)),
        _distributions(folder, row),
        _failures(run),
        "<h2>Origin</h2>",
        table_html(("what", "value"), [(name, _exact(row[name])) for name in _ORIGIN]),
        "<p>Research use; not a medical device.</p>",
    ]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make {out.parent} ({error.strerror}); give another --out"
        ) from error
    with open_part(out) as file:
        file.write(page(f"wsiseg: {slide_id}", "\n".join(body)).encode())
    return out


def _exact(value: Any) -> str:
    return shown(value) if value is None or isinstance(value, str) else str(value)


def _picture(path: Path) -> str:
    """The overlay as a JPEG in the page: a fifth of the PNG."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{path} cannot be read; run the slide again with --overwrite")
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert done
    code = base64.b64encode(data.tobytes()).decode()
    return (
        f'<img alt="the slide and a field with what was found" src="data:image/jpeg;base64,{code}">'
    )


def _known(names: Mapping[str, str], row: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(said, row[name]) for name, said in names.items() if row[name] is not None]


def _distributions(folder: Path, row: Mapping[str, Any]) -> str:
    found = {name: values for name, values in measured(folder).items() if len(values)}
    if not found:
        return ""
    spread = [(_MEASURED[name], *(row[f"{name}_{part}"] for part in SPREAD)) for name in found]
    marks = {"nucleus_area_um2": row["large_nucleus_um2"]}
    tops = {"nc_ratio": 1.0}
    return "\n".join(
        [
            "<h2>Distributions</h2>",
            table_html(("of", *SPREAD), spread),
            *(
                _figure(values, _MEASURED[name], tops.get(name), marks.get(name))
                for name, values in found.items()
            ),
        ]
    )


def _figure(
    values: NDArray[np.floating], caption: str, high: float | None, mark: float | None
) -> str:
    top = high or _round_up(float(np.quantile(values, 0.99)))
    said = f"{caption}; n = {len(values):,}"
    if mark is not None:
        said += f"; dashed: large from {mark:g}"
    svg = histogram_svg(values, low=0, high=top, bins=_BINS, mark=mark)
    return f"<figure>{svg}<figcaption>{escape(said)}</figcaption></figure>"


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, … times ten, for an axis that ends at a plain number."""
    power = 10.0 ** np.floor(np.log10(max(value, 1e-6)))
    return float(next(f * power for f in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if f * power >= value))


def _failures(run: Mapping[str, Any]) -> str:
    failed = run["failed_regions"]
    if not failed:
        return "<h2>Failures</h2>\n<p>None: every region was segmented.</p>"
    rows = [(f["region"], ", ".join(map(str, f["level0_box"])), f["cause"]) for f in failed]
    head = ("region", "x0, y0, x1, y1 (level 0)", "cause")
    return f"<h2>Failures: {len(failed)} of {run['regions']} regions</h2>\n" + table_html(
        head, rows
    )
