"""What a run folder amounts to: one row of numbers for the slide, one for each object."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wsi_pipeline.core.errors import DataError, UsageError, one_line
from wsi_pipeline.core.files import open_part
from wsi_pipeline.core.objects import CELL_CLASS
from wsi_pipeline.core.records import RunRecord
from wsi_pipeline.core.run_layout import RUN_JSON, one_run, read_run
from wsi_pipeline.formats.geoparquet import check_claims
from wsi_pipeline.reports.object_table import write_object_table
from wsi_pipeline.segmentation.cell_features import NUCLEUS_RATIO

__all__ = [
    "COLUMNS",
    "LARGE_NUCLEUS_UM2",
    "LEAST_CELLS",
    "SPREAD",
    "blank_row",
    "failed_row",
    "measured",
    "summarise",
    "write_features",
]

LARGE_NUCLEUS_UM2 = 2.5 * 35
"""From this area on a nucleus is large, µm².

The nucleus of a normal intermediate squamous cell has about 35 µm², and 2½ times that is where the
Bethesda System (Nayar and Wilbur 2015, chapter 4) begins to speak of atypia.
"""
LEAST_CELLS: Mapping[str, int] = MappingProxyType({"liquid": 5000, "conventional": 8000})
"""Squamous cells that make a specimen adequate (Bethesda 2014; Nayar and Wilbur 2015, chapter 1).

Conventional smears need 8 000 to 12 000; the lower bound is taken.
"""
CYTOPLASM = "cytoplasm"
NUCLEUS_AREA, CELL_AREA = "Nucleus: Area µm^2", "Cell: Area µm^2"
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
        **{f"cell_area_um2_{part}": _NUMBER for part in SPREAD},
        "cells_with_nucleus": _COUNT,
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
"""Every column of a slide's row, in order, and its kind: text, count or number."""


def blank_row() -> dict[str, Any]:
    """A row that says nothing: every column, all None."""
    return dict.fromkeys(COLUMNS)


def failed_row(slide: str, cause: str) -> dict[str, Any]:
    """The row of a slide that could not be done."""
    return blank_row() | {"slide": slide, "status": "failed", "cause": cause}


def write_features(
    folder: Path,
    out: Path | None = None,
    *,
    qc: Path | None = None,
    preparation: str = "liquid",
) -> tuple[Path, Path]:
    """Write <slide_id>.objects.csv.gz and <slide_id>.summary.json of a run folder; both paths.

    The same run folder gives the same bytes.

    Parameters
    ----------
    out
        folder for the files, by default the run folder
    qc
        what ``wsiseg info --json`` said of the slide; brings the focus score
    preparation
        ``liquid`` or ``conventional``; decides how many cells are adequate

    Raises
    ------
    UsageError, DataError, OutputError
        the preparation is unknown; a file cannot be read; `out` cannot be written
    """
    folder = one_run(folder)
    run = read_run(folder)
    row = summarise(folder, qc=qc, preparation=preparation)
    out = folder if out is None else out
    slide_id = run["slide"]["id"]
    table, summary = out / f"{slide_id}.objects.csv.gz", out / f"{slide_id}.summary.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make {out} ({error.strerror}); give another --out") from error
    with open_part(table) as file:
        write_object_table(file, folder / "objects.parquet", run)
    with open_part(summary) as file:
        text = json.dumps(row, indent=1, ensure_ascii=False, allow_nan=False)
        file.write(text.encode() + b"\n")
    return table, summary


def summarise(
    folder: Path, *, qc: Path | None = None, preparation: str = "liquid"
) -> dict[str, Any]:
    """The row of a run folder, `COLUMNS` → value; errors as `write_features`."""
    if preparation not in LEAST_CELLS:
        known = ", ".join(LEAST_CELLS)
        raise UsageError(f"preparation {preparation!r} is unknown; use {known}")
    folder = one_run(folder)
    run = read_run(folder)
    try:
        row = blank_row() | _about(run)
        row["run_sha256"] = hashlib.sha256((folder / RUN_JSON).read_bytes()).hexdigest()
        row |= _counts(measured(folder), row["foreground_area_mm2"], run["model"]["classes"])
        row |= _adequacy(row, run, preparation)
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{folder / RUN_JSON} lacks {error}, it is of another version; run the slide again"
        ) from error
    if qc is not None:
        row |= _focus(qc, row["slide"])
    assert list(row) == list(COLUMNS)
    return {name: _rounded(value) for name, value in row.items()}


def _about(run: RunRecord) -> dict[str, Any]:
    """What run.json says itself."""
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


def measured(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Areas of nuclei and of cells in µm² and N/C ratios of a run folder, without gaps.

    Keys: ``nucleus_area_um2``, ``cell_area_um2``, ``nc_ratio``. Cytoplasm counts as neither.

    Raises
    ------
    DataError
        objects.parquet cannot be read
    """
    path = folder / "objects.parquet"
    try:
        check_claims(path)
        file = pq.ParquetFile(path)
        there = set(file.schema_arrow.names)
        table = file.read(
            [n for n in ("class", NUCLEUS_AREA, CELL_AREA, NUCLEUS_RATIO) if n in there]
        )
        kinds = table["class"].cast(pa.string()).to_numpy()
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read ({one_line(error)}); run the slide again"
        ) from error

    def column(name: str) -> NDArray[np.float32]:
        if name not in there:
            return np.full(len(table), np.nan, np.float32)
        values: NDArray[np.float32] = table[name].to_numpy()
        return values

    nucleus, cell, ratio = (column(n) for n in (NUCLEUS_AREA, CELL_AREA, NUCLEUS_RATIO))
    # A network that says what each pixel is measures all classes under the name of the nucleus.
    cell = np.where(np.isnan(cell) & (kinds == CELL_CLASS), nucleus, cell)
    nucleus = nucleus[(kinds != CELL_CLASS) & (kinds != CYTOPLASM)]
    found = {"nucleus_area_um2": nucleus, "cell_area_um2": cell, "nc_ratio": ratio}
    return {name: values[np.isfinite(values)] for name, values in found.items()}


def _counts(
    values: Mapping[str, NDArray[np.float32]], area_mm2: float, classes: Sequence[str]
) -> dict[str, Any]:
    """Counts and distributions; what was not looked for stays unknown, it is not none."""
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


def _adequacy(row: Mapping[str, Any], run: RunRecord, preparation: str) -> dict[str, Any]:
    """Whether there are enough cells; nuclei stand in for them where no cells were looked for."""
    cells = CELL_CLASS in run["model"]["classes"]
    count, least = row["cells" if cells else "nuclei"], LEAST_CELLS[preparation]
    partly = bool(run["failed_regions"]) or run["settings"]["roi"] is not None
    short = "undecided" if partly else "too few"  # the rest of the slide may hold them
    return {
        "adequacy": "enough" if count >= least else short,
        "adequacy_by": "cells" if cells else "nuclei, one per cell",
        "adequacy_count": count,
        "adequacy_least": least,
        "preparation": preparation,
    }


def _focus(qc: Path, slide: str) -> dict[str, Any]:
    try:
        about = json.loads(qc.read_text("utf-8"))
        of, focus = about["slide"], about["focus"] or {}
        found = {f"focus_{k}": focus.get(k) for k in ("score", "blurred_share", "fields")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{qc} is not what `wsiseg info SLIDE --json` writes ({one_line(error)}); "
            "write it again"
        ) from error
    if of != slide:
        raise DataError(f"{qc} is about slide {of!r}, not {slide!r}; give that slide's")
    return found


def _compact(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _rounded(value: Any) -> Any:
    """Six significant digits: more than was measured, and the same on all machines."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
