"""Read GeoJSON that QuPath accepts; anything else is an error that names the feature.

QuPath reads a whole file or nothing, and so do these functions. Features are numbered from 0 in
the order of the file; children have the number of their parent.
"""

from __future__ import annotations

import gc
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.errors import DataError
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.polygons import polygon_parts, solid
from wsi_pipeline.formats._geojson_annotations import Mark, mark_of, parents
from wsi_pipeline.formats._geojson_documents import documents, features, header
from wsi_pipeline.formats._geojson_grammar import (
    NAMESPACE,
    NUCLEUS,
    SCORE_NAME,
    Refused,
    check_apart,
    check_display,
    class_name,
    identity,
    measurements,
    nucleus_entries,
    nucleus_of,
    polygons,
)

__all__ = ["ids_from_text", "read_geojson", "read_header"]

_MAX_CLASSES = 256
# QuPath repairs rings that touch themselves and rejects every other invalid polygon.
_REPAIRABLE = ("Ring Self-intersection", "Interior is disconnected")


@dataclass
class _Rows:
    """The objects read so far, in columns."""

    classes: dict[str, int] = field(default_factory=dict)
    columns: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    polygons: list[NDArray[np.float64]] = field(default_factory=list)  # rings, end to end
    ring_counts: list[int] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    class_index: list[int] = field(default_factory=list)
    feature: list[int] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)
    marks: dict[int, Mark] = field(default_factory=dict)
    stated: set[str] = field(default_factory=set)  # measurements that a file of wsiseg lists
    linked: bool = False

    def add(
        self,
        rings: list[NDArray[np.float64]],
        key: str,
        name: str,
        feature: int,
        measured: Mapping[str, float],
        parent: int = -1,
    ) -> None:
        """Append one object."""
        row = len(self.ids)
        self.polygons.extend(rings)
        self.ring_counts.append(len(rings))
        self.ids.append(key)
        self.class_index.append(self.classes.setdefault(name, len(self.classes)))
        self.feature.append(feature)
        self.parent.append(parent)
        for column, value in measured.items():
            where, values = self.columns.setdefault(column, ([], []))
            where.append(row)
            values.append(value)

    def full_name(self, name: str) -> str:
        """Return the name in `Objects` of a detection's measurement, which has no prefix."""
        full = f"{NUCLEUS}{name}"
        return full if full in self.stated and name not in self.stated else name

    def join_annotations(self) -> None:
        """Give nuclei that are annotations the cells that their ids or names state."""
        first = np.cumsum([0, *self.ring_counts])

        def shape(row: int) -> shapely.Polygon:
            shell, *holes = self.polygons[first[row] : first[row + 1]]
            return shapely.Polygon(shell, holes)

        for row, cell in parents(self.marks, shape).items():
            self.parent[row] = cell
            self.linked = True


def read_geojson(path: Path | str) -> Objects:
    """Return the objects of a GeoJSON file, plain, gzipped or zipped, as QuPath reads them.

    Every polygon of a Polygon or MultiPolygon becomes an object; children follow their parent.
    Missing values become: class "Unclassified", score 1 (a person drew the object), measurement
    NaN (also for infinity), id a UUID of position and content. A cell is followed by its nuclei.
    They have the cell as `parent`, and the cell's measurements whose names begin with "Nucleus: ",
    or with "Nucleus 1: ", "Nucleus 2: " … where there are several.
    Annotations of a cell and its nuclei are joined by id or name, see `_geojson_annotations`.
    The plane and other properties are not read.

    Raises
    ------
    DataError
        the file is not GeoJSON, or QuPath would reject a feature, or a feature has no area; the
        message names the feature's index and the reason

    Examples
    --------
    >>> import json
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> square = [[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "drawn.geojson"
    ...     _ = path.write_text(json.dumps({"type": "Polygon", "coordinates": [square]}))
    ...     objects = read_geojson(path)
    >>> objects.classes, objects.bounds().tolist()
    (('Unclassified',), [[0.0, 0.0, 4.0, 4.0]])
    """
    path = Path(path)
    rows = _Rows()
    index = -1
    with _no_collection():
        for document in documents(path):
            _seed(rows, document)
            for feature in features(path, document):
                index += 1
                try:
                    _add_feature(rows, feature, index)
                except Refused as cause:
                    raise DataError(f"{path}: feature {index}: {cause}") from None
        rows.join_annotations()
    return _checked_geometry(path, _objects(path, rows), np.asarray(rows.feature, np.int64))


def read_header(path: Path | str) -> dict[str, Any]:
    """Return the member ``wsiseg`` of a file: its provenance, or {} for other software's files."""
    return next(filter(None, map(header, documents(Path(path)))), {})


def ids_from_text(texts: NDArray[np.bytes_]) -> NDArray[np.uint64]:
    """Return the high and low halves, uint64 (n, 2), of UUIDs as text, S36 (n,)."""
    text = np.ascontiguousarray(texts, "S36").view(np.uint8).reshape(len(texts), 36)
    digits = text[:, [i for i in range(36) if i not in (8, 13, 18, 23)]]
    # '0'-'9' are 0x30-0x39; 'a'-'f' and 'A'-'F' end in 1 to 6 and have bit 0x40.
    nibbles = ((digits & 15) + 9 * (digits >> 6)).reshape(len(texts), 16, 2)
    octets = np.ascontiguousarray(nibbles[..., 0] << 4 | nibbles[..., 1])
    return octets.view(">u8").astype(np.uint64)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Switch Python's cyclic garbage collector off, and on again if it was on.

    Reading makes millions of small lists without cycles; searching them would take most of the
    time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _seed(rows: _Rows, document: Any) -> None:
    """Keep the order of classes and measurements that a file of wsiseg states."""
    stated = header(document)
    classes, names = stated.get("classes", []), stated.get("measurements", [])
    if isinstance(classes, list) and isinstance(names, list):
        for name in filter(str.strip, map(str, classes)):
            rows.classes.setdefault(name, len(rows.classes))
        for name in map(str, names):
            rows.columns.setdefault(name, ([], []))
            rows.stated.add(name)
    rows.linked |= stated.get("parents") is True


def _add_feature(rows: _Rows, feature: Mapping[str, Any], index: int) -> None:
    """Append the polygons of a feature and of its children."""
    parts = polygons(feature.get("geometry"))
    if len(parts) > 1:
        check_apart(parts)
    nuclei = polygons(feature["nucleusGeometry"]) if "nucleusGeometry" in feature else []
    if len(nuclei) > 1:
        check_apart(nuclei)
    properties = feature.get("properties", {})
    if not isinstance(properties, dict):
        raise Refused("properties is not an object; leave it out instead")
    check_display(properties)
    name = class_name(properties.get("classification"))
    measured = measurements(properties.get("measurements", {}))
    if properties.get("objectType") != "cell":
        nuclei = []  # QuPath reads nuclei of cells only
    own = {m: v for m, v in measured.items() if not nucleus_of(m)}
    if not nuclei:
        own = {rows.full_name(m): v for m, v in measured.items()}
    cell = len(rows.ids)
    for part, rings in enumerate(parts):
        rows.add(rings, identity(feature, index, part, rings[0]), name, index, own)
    if mark := mark_of(feature, rows.ids[cell]):
        rows.marks.update(dict.fromkeys(range(cell, len(rows.ids)), mark))
    if nuclei:
        rows.linked = True
        named = nucleus_entries(feature, rows.ids[cell], len(nuclei))
        for k, (rings, (key, kind)) in enumerate(zip(nuclei, named, strict=True), 1):
            theirs = _nucleus_measurements(rows, measured, k, len(nuclei))
            rows.add(rings, key, kind, index, theirs, parent=cell)
    for key in ("childObjects", "children"):
        children = properties.get(key, [])
        if not isinstance(children, list):
            raise Refused(f"{key} is not a list")
        for child in children:
            _add_feature(rows, child if isinstance(child, dict) else {}, index)


def _nucleus_measurements(
    rows: _Rows, measured: Mapping[str, float], k: int, count: int
) -> dict[str, float]:
    """Return the measurements of nucleus k of a cell, under their names in `Objects`."""
    found = {}
    for name, value in measured.items():
        if nucleus_of(name, count) == k:
            plain = name.split(": ", 1)[1]
            # The writer puts "Nucleus: " in front of a column of wsiseg that has no such prefix.
            full = f"Nucleus: {plain}"
            bare = plain in rows.columns and full not in rows.columns
            found[plain if bare or plain == SCORE_NAME else full] = value
    return found


def _objects(path: Path, rows: _Rows) -> Objects:
    """Return the collected rows as `Objects`."""
    if len(rows.classes) > _MAX_CLASSES:
        raise DataError(
            f"{path} has {len(rows.classes)} classes, at most {_MAX_CLASSES} are possible"
        )
    n = len(rows.ids)
    columns = {}
    for name in [SCORE_NAME, *(c for c in rows.columns if c != SCORE_NAME)]:
        where, values = rows.columns.get(name, ([], []))
        columns[name] = np.full(n, np.nan, np.float32)
        with np.errstate(over="ignore"):
            columns[name][where] = np.asarray(values, np.float64)
        columns[name][~np.isfinite(columns[name])] = np.nan
    score = columns.pop(SCORE_NAME)
    return Objects(
        classes=tuple(rows.classes),
        ids=ids_from_text(np.array(rows.ids, "S36")),
        class_index=np.array(rows.class_index, np.uint8),
        score=np.where(np.isnan(score), np.float32(1), score),
        coords=np.concatenate([np.zeros((0, 2)), *rows.polygons]),
        ring_offsets=np.cumsum([0, *map(len, rows.polygons)], dtype=np.int64),
        object_offsets=np.cumsum([0, *rows.ring_counts], dtype=np.int64),
        features=columns,
        parent=np.array(rows.parent, np.int64) if rows.linked else None,
    )


def _checked_geometry(path: Path, objects: Objects, feature: NDArray[np.int64]) -> Objects:
    """Repair rings that touch themselves; raise `DataError` for other invalid polygons."""
    shapes = objects.polygons()
    flat = shapely.area(shapes) < 1e-6
    bad = np.flatnonzero(flat | ~shapely.is_valid(shapes))
    if len(bad) == 0:
        return objects
    groups = [[shape] for shape in shapes]
    for i in bad:
        reason = shapely.is_valid_reason(shapes[i])
        if flat[i] or not reason.startswith(_REPAIRABLE):
            cause = "the polygon has no area" if flat[i] else f"invalid polygon: {reason}"
            raise DataError(f"{path}: feature {feature[i]}: {cause}")
        groups[i] = polygon_parts(solid(shapes[i]))
    counts = [len(group) for group in groups]
    wide = objects.take(np.repeat(np.arange(len(objects)), counts))
    ids = wide.ids.copy()
    first = np.cumsum(counts) - counts
    parent = None
    if objects.parent is not None:  # the first part of a repaired cell keeps its nuclei
        held = np.where(objects.parent >= 0, first[objects.parent], -1)
        parent = np.repeat(held, counts)
    for i in np.setdiff1d(np.arange(len(ids)), first):
        derived = uuid.uuid5(NAMESPACE, f"{ids[i].tolist()}/{i}").int
        ids[i] = derived >> 64, derived & (2**64 - 1)
    return Objects.from_polygons(
        [part for group in groups for part in group],
        classes=wide.classes,
        ids=ids,
        class_index=wide.class_index,
        score=wide.score,
        features=wide.features,
        parent=parent,
    )
