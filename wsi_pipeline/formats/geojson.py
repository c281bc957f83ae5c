"""GeoJSON that QuPath 0.4 and later open without a warning.

One FeatureCollection, streamed. What QuPath ignores and wsiseg wants back, the order of classes
and measurements and where the file comes from, lies in its foreign key ``wsiseg``.
"""

from __future__ import annotations

import colorsys
import json
import uuid
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import numpy as np
import shapely

from wsi_pipeline.core.errors import DataError, UsageError
from wsi_pipeline.core.files import open_part
from wsi_pipeline.core.objects import Objects, is_cell
from wsi_pipeline.core.polygons import clean_polygons, nuclei_apart
from wsi_pipeline.formats._geojson_grammar import (
    NAMESPACE,
    SCORE_NAME,
    SUFFIXES,
    UNCLASSIFIED,
    nucleus_name,
    nucleus_of,
)
from wsi_pipeline.formats._geojson_read import read_geojson, read_header, read_regions
from wsi_pipeline.formats._geojson_render import Families, ObjectArrays, render
from wsi_pipeline.formats.object_writer import ObjectWriter

__all__ = [
    "GeoJsonWriter",
    "class_color",
    "clean_polygons",
    "format_features",
    "nuclei_apart",
    "read_geojson",
    "read_header",
    "read_regions",
    "write_annotations",
]

Color = tuple[int, int, int]

_COLORS: Mapping[str, Color] = MappingProxyType(
    {
        # They have to stand out against the pink, the blue and the green of a Pap stain.
        "nucleus": (255, 220, 0),
        "cytoplasm": (0, 200, 255),
        "cell": (255, 90, 0),
    }
)
_OBJECT_TYPES = ("annotation", "detection", "cell", "tile")


class GeoJsonWriter(ObjectWriter):
    """Objects of one slide as a FeatureCollection, a context manager written piece by piece.

    Where objects have parents, cells become QuPath's cells with their nuclei inside, whatever
    `object_type` makes of the others; of nuclei that overlap within a cell the later are cut. The
    file gets its name when the `with` block ends well; with an exception nothing is left.

    Parameters
    ----------
    path
        ends in .geojson or .json, or in these and .gz; QuPath silently ignores all else
    object_type
        what QuPath makes of the objects: detection, cell, annotation or tile
    colors
        class name → red, green, blue; others get a stable colour of their own
    provenance
        JSON values for the foreign key ``wsiseg``

    Raises
    ------
    UsageError
        for a name or an object type that QuPath does not know
    """

    def __init__(
        self,
        path: Path | str,
        *,
        object_type: str = "detection",
        colors: Mapping[str, Color] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(_checked_name(Path(path)), provenance)
        self.object_type = _checked_type(object_type)
        self.colors = dict(colors or {})
        self._file: IO[bytes]

    def _begin(self, header: Mapping[str, Any]) -> None:
        self._file = self._stack.enter_context(open_part(self.path))
        self._file.write(_opening(header))

    def _append(self, objects: Objects) -> None:
        if self.count:
            self._file.write(b",\n")
        self._file.write(format_features(objects, object_type=self.object_type, colors=self.colors))

    def _arrange(self, objects: Objects) -> Objects:
        return nuclei_apart(objects)

    def _end(self) -> None:
        self._file.write(b"]}\n")


def format_features(
    objects: Objects, *, object_type: str = "detection", colors: Mapping[str, Color] | None = None
) -> bytes:
    """Features of `objects`, UTF-8, joined by commas; may run in worker threads.

    Polygons are written as they are, on the 0.01 px grid: see `make_valid`. The score becomes
    the measurement "Detection probability"; values that are not finite are left out.

    Objects with parents stand in families, each nucleus right after its cell. QuPath's cell has
    one list of measurements: those of its nucleus are the ones that begin with "Nucleus: ", a
    second nucleus's with "Nucleus 2: " and so on; any other of a nucleus gets that in front. What
    the cell itself has under such a name is left out. Ids and classes of nuclei, which QuPath has
    no place for, lie in the feature's foreign key ``nuclei``.

    Raises
    ------
    DataError
        for a class or measurement name that QuPath rejects or that stands for something else
    """
    if SCORE_NAME in objects.features:
        raise DataError(f"measurement {SCORE_NAME!r} is the score's name; rename the measurement")
    _checked_type(object_type)
    linked = objects.parent is not None
    tails = [
        f']}},"properties":{{"objectType":"{kind}",{part}"measurements":{{'.encode()
        for kind in ((object_type, "cell") if linked else (object_type,))
        for part in (_classification(name, colors or {}) for name in objects.classes)
    ]
    names = [SCORE_NAME, *objects.features]
    return render(
        ObjectArrays(
            objects.ids,
            objects.class_index,
            objects.coords,
            objects.ring_offsets,
            objects.object_offsets,
            np.stack([objects.score, *objects.features.values()]),
        ),
        tails,
        [f"{_json(name)}:".encode() for name in names],
        _families(objects, names) if linked else None,
    )


def _families(objects: Objects, names: Sequence[str]) -> Families:
    """Which rows make a feature, and what their measurements are called in it."""
    assert objects.parent is not None
    alone = objects.parent < 0
    head = np.flatnonzero(alone)
    if (objects.parent[~alone] != head[np.cumsum(alone) - 1][~alone]).any():
        raise ValueError("a nucleus does not follow its cell; order the objects by family")
    start = np.append(head, len(objects))
    kind = objects.class_index + len(objects.classes) * is_cell(objects).astype(np.int64)
    blocks = [list(names), ["" if nucleus_of(name) else name for name in names]]
    for k in range(1, int(np.diff(start).max(initial=1))):
        blocks.append([nucleus_name(name, k, names) for name in names])
    return Families(
        start=start,
        kind=kind[head],
        nucleus_texts=[f'","class":{_json(name)}}}'.encode() for name in objects.classes],
        name_blocks=[f"{_json(m)}:".encode() if m else b"" for block in blocks for m in block],
    )


def write_annotations(
    path: Path | str,
    geometries: Sequence[shapely.Geometry],
    names: Sequence[str],
    *,
    class_name: str = "Foreground",
    color: Color = (150, 150, 150),
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write a few outlines, such as the foreground or a region of interest, as locked annotations.

    Parameters
    ----------
    geometries
        polygons (n,), holes and several parts allowed, in level-0 pixels; QuPath draws outlines
        of tens of thousands of vertices slowly, so simplify them first
    names
        what QuPath shows, (n,)

    Raises
    ------
    UsageError, OutputError
        see `GeoJsonWriter`
    """
    if len(geometries) != len(names):
        raise ValueError(f"{len(geometries)} geometries, but {len(names)} names")
    path = _checked_name(Path(path))
    cleaned, index = clean_polygons(geometries, largest=False)
    head = _classification(class_name, {class_name: color})
    features = []
    for polygon, i in zip(cleaned, index, strict=True):
        identity = uuid.uuid5(NAMESPACE, f"{i}/{names[i]}/{polygon.wkt}")
        features.append(
            f'{{"type":"Feature","id":"{identity}",'
            f'"geometry":{_json(shapely.geometry.mapping(polygon))},'
            f'"properties":{{"objectType":"annotation","name":{_json(names[i])},'
            f'{head}"isLocked":true}}}}'
        )
    with open_part(path) as file:
        file.write(_opening(provenance or {}) + ",\n".join(features).encode() + b"]}\n")


def class_color(name: str) -> Color:
    """Red, green and blue of a class, 0 to 255: the same in every run."""
    known = _COLORS.get(name.lower())
    if known:
        return known
    hue = zlib.crc32(name.encode()) / 2**32
    red, green, blue = (round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.85, 0.95))
    return red, green, blue


def _classification(name: str, colors: Mapping[str, Color]) -> str:
    """The member "classification" and a comma; nothing for objects without a class."""
    if name == UNCLASSIFIED:
        return ""
    if not name or name != name.strip() or "\n" in name or "\r" in name:
        raise DataError(f"QuPath rejects or changes the class name {name!r}; choose a plain one")
    color = [int(c) for c in colors.get(name) or class_color(name)]
    return f'"classification":{_json({"name": name, "color": color})},'


def _opening(header: Mapping[str, Any]) -> bytes:
    return f'{{"type":"FeatureCollection","wsiseg":{_json(header)},"features":[\n'.encode()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _checked_name(path: Path) -> Path:
    if not path.name.lower().endswith(SUFFIXES):
        raise UsageError(f"QuPath does not open {path.name!r}; name it {path.stem}.geojson")
    return path


def _checked_type(object_type: str) -> str:
    if object_type not in _OBJECT_TYPES:
        raise UsageError(
            f"QuPath has no object type {object_type!r}; known are {', '.join(_OBJECT_TYPES)}"
        )
    return object_type
