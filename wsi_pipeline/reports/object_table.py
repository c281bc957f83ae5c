"""The objects of a run as a table for statistics programs: CSV, one row for each."""

from __future__ import annotations

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

__all__ = ["plain_text", "write_object_table"]

_BATCH_ROWS = 20_000


def write_object_table(file: IO[bytes], path: Path, run: Mapping[str, Any]) -> None:
    """Write the objects of a run as CSV, some thousand rows at a time.

    Columns: id, class, score, centroid in µm from the slide's corner, parent_id where cells hold
    nuclei, and the measurements; a cell without a value is empty.

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
            none = pa.RecordBatch.from_pylist([], schema)  # gives the head, also where it is all
            pyarrow.csv.write_csv(_objects(none, mpp["x"], mpp["y"]), file)
            options = pyarrow.csv.WriteOptions(include_header=False)
            for batch in stored.iter_batches(_BATCH_ROWS, columns=schema.names):
                pyarrow.csv.write_csv(_objects(batch, mpp["x"], mpp["y"]), file, options)
    except (KeyError, pa.ArrowException, shapely.errors.GEOSException) as error:
        raise DataError(
            f"{path} cannot be read ({one_line(error)}); run the slide again"
        ) from error


def _objects(batch: pa.RecordBatch, mpp_x: float, mpp_y: float) -> pa.Table:
    """Id, class, score, parent, centroid in µm and measurements; gaps are empty cells."""
    middle = shapely.centroid(shapely.from_wkb(batch["geometry"].to_numpy(zero_copy_only=False)))
    kinds = [plain_text(text) for text in batch["class"].cast(pa.string()).to_pylist()]
    columns = {
        "id": batch["id"],
        "class": pa.array(kinds, pa.string()),
        "score": batch["score"],
        "centroid_x_um": _gapless(np.round(shapely.get_x(middle) * mpp_x, 3)),
        "centroid_y_um": _gapless(np.round(shapely.get_y(middle) * mpp_y, 3)),
    }
    if "parent_id" in batch.schema.names:
        columns["parent_id"] = batch["parent_id"]
    for name in batch.schema.names:
        if name not in (*columns, "geometry"):
            columns[plain_text(name)] = _gapless(batch[name].to_numpy(zero_copy_only=False))
    return pa.table(columns)


def _gapless(values: NDArray[np.floating]) -> pa.Array:
    return pc.if_else(pc.is_finite(pa.array(values)), pa.array(values), None)


def plain_text(text: str) -> str:
    """Text that no spreadsheet takes for a formula: where it would, an apostrophe stands first."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
