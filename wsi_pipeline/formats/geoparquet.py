"""GeoParquet 1.1: objects for geopandas, DuckDB and R. Reading gives the same objects back.

Columns: id (UUID), class, score, one per measurement, geometry (WKB in level-0 pixels, hence no
coordinate reference system) and its bbox. Where objects have parents also parent_id: the UUID of
the cell that holds a nucleus, null elsewhere. The metadata key ``wsiseg`` stores the order of
classes and measurements, and the provenance.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.errors import DataError, one_line
from wsi_pipeline.core.files import part_path
from wsi_pipeline.core.json_files import parse_json
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.formats._geojson_read import ids_from_text
from wsi_pipeline.formats._geojson_render import uuid_text
from wsi_pipeline.formats._unpack_limit import most_plain_bytes
from wsi_pipeline.formats.object_writer import ObjectWriter

__all__ = ["ParquetWriter", "check_claims", "read_metadata", "read_parquet"]

ROW_GROUP = 20_000
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_OWN = ("id", "class", "score", "parent_id", "geometry", "bbox")
_GEO = {
    "version": "1.1.0",
    "primary_column": "geometry",
    "columns": {
        "geometry": {
            "encoding": "WKB",
            "geometry_types": ["Polygon"],
            "crs": None,
            "covering": {"bbox": {corner: ["bbox", corner] for corner in _CORNERS}},
        }
    },
}


class ParquetWriter(ObjectWriter):
    """Write the objects of one slide as GeoParquet; a context manager.

    The file appears at the end of the `with` block; after an exception there is none. Row groups
    have 20 000 objects or more.

    Parameters
    ----------
    path
        the file to write
    provenance
        JSON values for the metadata key ``wsiseg``

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> import shapely
    >>> from wsi_pipeline.core.objects import Objects
    >>> square = shapely.box(10, 10, 30, 30)
    >>> objects = Objects.from_polygons(
    ...     [square],
    ...     classes=["nucleus"],
    ...     ids=np.array([[1, 2]], np.uint64),
    ...     class_index=np.zeros(1, np.uint8),
    ...     score=np.array([0.9], np.float32),
    ... )
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "objects.parquet"
    ...     with ParquetWriter(path, provenance={"model": "dssnet"}) as writer:
    ...         writer.write(objects)
    ...     again, stored = read_parquet(path), read_metadata(path)
    >>> bool(again.polygons()[0] == square), stored["model"], writer.count
    (True, 'dssnet', 1)
    """

    def __init__(self, path: Path | str, *, provenance: Mapping[str, Any] | None = None) -> None:
        super().__init__(path, provenance)
        self._writer: pq.ParquetWriter
        self._waiting: list[Objects] = []

    def _begin(self, header: Mapping[str, Any]) -> None:
        schema = _schema(header["measurements"], linked="parents" in header).with_metadata(
            {"geo": json.dumps(_GEO), "wsiseg": json.dumps(header, ensure_ascii=False)}
        )
        part = self._stack.enter_context(part_path(self.path))
        # A dictionary pays for classes only; other columns have few equal values.
        self._writer = self._stack.enter_context(
            pq.ParquetWriter(part, schema, compression="zstd", use_dictionary=["class"])
        )

    def _append(self, objects: Objects) -> None:
        self._waiting.append(objects)
        if sum(map(len, self._waiting)) >= ROW_GROUP:
            self._flush()

    def _end(self) -> None:
        if self._waiting:
            self._flush()

    def _flush(self) -> None:
        objects = Objects.concatenate(self._waiting)
        self._waiting.clear()
        self._writer.write_table(_table(objects, self._writer.schema))


def read_parquet(path: Path | str) -> Objects:
    """Return the objects that `ParquetWriter` wrote, equal to the last bit.

    Raises
    ------
    DataError
        when the file is not one of wsiseg's GeoParquet files
    """
    try:
        header = read_metadata(path)
        check_claims(path)
        table = pq.read_table(path)
        classes = tuple(header["classes"])
        shapes = shapely.from_wkb(table["geometry"].to_numpy())
        kinds = pc.index_in(table["class"].cast(pa.string()), pa.array(classes, pa.string()))
        return Objects.from_polygons(
            shapes,
            classes=classes,
            ids=ids_from_text(table["id"].to_numpy().astype("S36")),
            class_index=kinds.to_numpy().astype(np.uint8),
            score=table["score"].to_numpy(),
            features={name: table[name].to_numpy() for name in header["measurements"]},
            parent=_parent(table),
        )
    except DataError:
        raise
    except (
        OSError,
        KeyError,
        ValueError,
        pa.ArrowException,
        shapely.errors.GEOSException,
    ) as error:
        raise DataError(
            f"{path} is not a GeoParquet file of wsiseg ({one_line(error)}); export it again"
        ) from error


def check_claims(path: Path | str) -> None:
    """Check from its footer that a file does not state more content than its bytes can hold.

    Raises
    ------
    DataError
        more objects than bytes, or columns that unpack to over a hundred times the file
    OSError, pyarrow.ArrowException
        it is not a Parquet file
    """
    size = Path(path).stat().st_size
    about = pq.read_metadata(path)
    plain = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
    # Each object has an id of 16 random bytes, which cannot be compressed.
    if about.num_rows > size or plain > most_plain_bytes(size):
        raise DataError(
            f"{path} of {size} bytes states {about.num_rows} objects in {plain} bytes; "
            "it is damaged or was made to fill memory, export it again"
        )


def read_metadata(path: Path | str) -> dict[str, Any]:
    """Return the classes, measurements and provenance that `ParquetWriter` stored.

    Raises
    ------
    DataError
        when the file is not one of wsiseg's GeoParquet files
    """
    try:
        return dict(parse_json((pq.read_schema(path).metadata or {})[b"wsiseg"]))
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise DataError(
            f"{path} is not a GeoParquet file of wsiseg ({one_line(error)}); export it again"
        ) from None


def _parent(table: pa.Table) -> NDArray[np.int64] | None:
    """Return the positions of the parents; None where the file has no such column."""
    if "parent_id" not in table.column_names:
        return None
    own = table["id"].combine_chunks()
    found = pc.index_in(table["parent_id"], own)
    parent: NDArray[np.int64] = found.fill_null(-1).to_numpy().astype(np.int64)
    return parent


def _schema(measurements: tuple[str, ...], *, linked: bool) -> pa.Schema:
    taken = [name for name in measurements if name in _OWN]
    if taken:
        raise DataError(
            f"measurement {taken[0]!r} has the name of another column; rename the measurement"
        )
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("class", pa.dictionary(pa.int32(), pa.string()), nullable=False),
            pa.field("score", pa.float32()),
            *([pa.field("parent_id", pa.string())] if linked else []),
            *(pa.field(name, pa.float32()) for name in measurements),
            pa.field("geometry", pa.binary(), nullable=False),
            pa.field("bbox", pa.struct([(corner, pa.float64()) for corner in _CORNERS])),
        ]
    )


def _table(objects: Objects, schema: pa.Schema) -> pa.Table:
    n = len(objects)
    ids = pa.StringArray.from_buffers(
        n,
        pa.py_buffer(np.arange(0, 36 * n + 1, 36, dtype=np.int32)),
        pa.py_buffer(uuid_text(objects.ids)),
    )
    kinds = pa.DictionaryArray.from_arrays(
        objects.class_index.astype(np.int32), pa.array(objects.classes, pa.string())
    )
    links = []
    if objects.parent is not None:
        links = [ids.take(pa.array(objects.parent, mask=objects.parent < 0))]
    bounds = [pa.array(np.ascontiguousarray(side)) for side in objects.bounds().T]
    columns = [
        ids,
        kinds,
        pa.array(objects.score),
        *links,
        *(pa.array(column) for column in objects.features.values()),
        pa.array(shapely.to_wkb(objects.polygons(), byte_order=1), pa.binary()),
        pa.StructArray.from_arrays(bounds, fields=list(schema.field("bbox").type)),
    ]
    return pa.Table.from_arrays(columns, schema=schema)
