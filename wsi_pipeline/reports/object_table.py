"""The objects of a run as a CSV table for statistics programs, one row per object."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.errors import DataError, one_line
from wsi_pipeline.segmentation.boxes import BOX_WIDTH

__all__ = ["holds_boxes", "plain_text", "write_object_table"]

_BATCH_ROWS = 20_000


def holds_boxes(path: Path) -> bool:
    """Return whether the objects in objects.parquet are boxes of a detector, not outlines.

    Raises
    ------
    DataError
        the file cannot be read
    """
    try:
        return BOX_WIDTH in pq.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read ({one_line(error)}); run the slide again"
        ) from error


def write_object_table(file: IO[bytes], path: Path, run: Mapping[str, Any]) -> None:
    """Write the objects of a run as CSV, in batches, so that memory stays bounded.

    Columns: id, class, score, centroid in µm from the slide's corner, parent_id if the model has
    cells with nuclei, and the measurements. A missing value is an empty cell.

    Parameters
    ----------
    path
        objects.parquet of the run
    run
        its run.json

    Raises
    ------
    DataError
        the file cannot be read
    """
    mpp = run["slide"]["mpp"]
    try:
        with pq.ParquetFile(path) as stored:
            schema = stored.schema_arrow.remove(stored.schema_arrow.get_field_index("bbox"))
            none = pa.RecordBatch.from_pylist([], schema)  # writes the heading, also for no object
            pyarrow.csv.write_csv(_objects(none, mpp["x"], mpp["y"]), file)
            options = pyarrow.csv.WriteOptions(include_header=False)
            for batch in stored.iter_batches(_BATCH_ROWS, columns=schema.names):
                pyarrow.csv.write_csv(_objects(batch, mpp["x"], mpp["y"]), file, options)
    except (KeyError, pa.ArrowException, shapely.errors.GEOSException) as error:
        raise DataError(
            f"{path} cannot be read ({one_line(error)}); run the slide again"
        ) from error


def _objects(batch: pa.RecordBatch, mpp_x: float, mpp_y: float) -> pa.Table:
    """Return id, class, score, centroid in µm, parent and measurements; NaN becomes null."""
    middle = shapely.centroid(shapely.from_wkb(batch["geometry"].to_numpy(zero_copy_only=False)))
    kinds = [plain_text(text) for text in batch["class"].cast(pa.string()).to_pylist()]
    columns = {
        "id": batch["id"],
        "class": pa.array(kinds, pa.string()),
        "score": batch["score"],
        "centroid_x_um": _nan_to_null(np.round(shapely.get_x(middle) * mpp_x, 3)),
        "centroid_y_um": _nan_to_null(np.round(shapely.get_y(middle) * mpp_y, 3)),
    }
    if "parent_id" in batch.schema.names:
        columns["parent_id"] = batch["parent_id"]
    for name in batch.schema.names:
        if name not in (*columns, "geometry"):
            columns[plain_text(name)] = _nan_to_null(batch[name].to_numpy(zero_copy_only=False))
    return pa.table(columns)


def _nan_to_null(values: NDArray[np.floating]) -> pa.Array:
    return pc.if_else(pc.is_finite(pa.array(values)), pa.array(values), None)


def plain_text(text: str) -> str:
    """Return text that a spreadsheet shows and does not run: an apostrophe before a formula.

    Examples
    --------
    >>> plain_text("=1+1"), plain_text("nucleus")
    ("'=1+1", 'nucleus')
    """
    # Spreadsheets pass over blanks, and some take full-width signs for the others.
    seen = unicodedata.normalize("NFKC", text).lstrip(" \u200b\ufeff")
    return f"'{text}" if seen.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text
