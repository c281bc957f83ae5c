"""Read parts of objects.parquet: a million outlines need not be in memory to show forty of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.errors import DataError, one_line
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.formats._geojson_read import ids_from_text
from wsi_pipeline.formats.geoparquet import check_claims, read_metadata

__all__ = ["read_boxes", "read_rows"]

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_boxes(path: Path, features: Sequence[str] | None = None) -> Objects:
    """Return all objects of a file, with their bounding boxes as outlines.

    Parameters
    ----------
    path
        objects.parquet of a run
    features
        measurements to read, as far as the file has them; all by default

    Raises
    ------
    DataError
        the file cannot be read
    """
    with _as_data_error(path):
        header = read_metadata(path)
        check_claims(path)
        file = pq.ParquetFile(path)
        linked = ["parent_id"] if "parent_id" in file.schema_arrow.names else []
        wanted = [n for n in header["measurements"] if features is None or n in features]
        table = file.read(["id", "class", "score", *linked, *wanted, "bbox"])
        box = table["bbox"].combine_chunks()
        x0, y0, x1, y1 = (pc.struct_field(box, c).to_numpy() for c in _CORNERS)
        n = len(table)
        corners = np.stack([x0, y0, x1, y0, x1, y1, x0, y1, x0, y0], 1).reshape(5 * n, 2)
        own = table["id"].combine_chunks()
        parent = None
        if linked:
            found = pc.index_in(table["parent_id"], own).fill_null(-1)
            parent = found.to_numpy().astype(np.int64)
        return Objects(
            classes=tuple(header["classes"]),
            ids=ids_from_text(own.to_numpy(zero_copy_only=False).astype("S36")),
            class_index=_class_index(table, header["classes"]),
            score=table["score"].to_numpy(),
            coords=corners,
            ring_offsets=np.arange(0, 5 * n + 1, 5, dtype=np.int64),
            object_offsets=np.arange(n + 1, dtype=np.int64),
            features={name: table[name].to_numpy() for name in wanted},
            parent=parent,
        )


def read_rows(path: Path, rows: NDArray[np.int64], parent: NDArray[np.int64] | None) -> Objects:
    """Return some objects of a file with outlines and all measurements.

    Parameters
    ----------
    path
        objects.parquet of a run
    rows
        (k,): different positions in the file
    parent
        parents of all objects of the file, see `read_boxes`

    Raises
    ------
    DataError
        the file cannot be read
    """
    with _as_data_error(path):
        header = read_metadata(path)
        file = pq.ParquetFile(path)
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        start = np.cumsum([0, *sizes])
        order = np.argsort(rows, kind="stable")
        group = np.searchsorted(start, rows[order], "right") - 1
        parts = [
            file.read_row_group(int(g)).take(pa.array(rows[order][group == g] - start[g]))
            for g in np.unique(group)
        ]
        if not parts:
            return Objects.empty(header["classes"], header["measurements"])
        table = pa.concat_tables(parts)
        found = Objects.from_polygons(
            shapely.from_wkb(table["geometry"].to_numpy()),
            classes=header["classes"],
            ids=ids_from_text(table["id"].to_numpy().astype("S36")),
            class_index=_class_index(table, header["classes"]),
            score=table["score"].to_numpy(),
            features={name: table[name].to_numpy() for name in header["measurements"]},
            parent=None if parent is None else _followed(parent, rows[order]),
        )
    return found.take(np.argsort(order, kind="stable"))


def _class_index(table: pa.Table, classes: Sequence[str]) -> NDArray[np.uint8]:
    kinds = pc.index_in(table["class"].cast(pa.string()), pa.array(classes, pa.string()))
    return np.asarray(kinds.to_numpy().astype(np.uint8))


def _followed(parent: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where among `rows` (sorted) the parent of each of them is, −1 where it is not."""
    own = parent[rows]
    place = np.minimum(np.searchsorted(rows, own), len(rows) - 1)
    return np.where(rows[place] == own, place, -1)


@contextmanager
def _as_data_error(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except (OSError, KeyError, ValueError, pa.ArrowException, shapely.errors.GEOSException) as e:
        raise DataError(f"{path} cannot be read ({one_line(e)}); run the slide again") from e
