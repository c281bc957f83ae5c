"""Write GeoJSON that QuPath 0.4 and later open without a warning.

A file is one FeatureCollection, written part by part. Its member ``wsiseg``, which QuPath ignores,
stores the order of classes and measurements, and the provenance.
"""

from __future__ import annotations

import colorsys
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
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.polygons import clean_polygons
from wsi_pipeline.formats._compact_json import compact_json
from wsi_pipeline.formats._geojson_annotations import (
    annotation_families,
    annotation_texts,
    stays,
)
from wsi_pipeline.formats._geojson_documents import geojson_entries
from wsi_pipeline.formats._geojson_families import alone_names, families, together
from wsi_pipeline.formats._geojson_grammar import (
    NAMESPACE,
    SCORE_NAME,
    SUFFIXES,
    UNCLASSIFIED,
)
from wsi_pipeline.formats._geojson_read import read_geojson, read_header
from wsi_pipeline.formats._geojson_regions import Regions, read_regions
from wsi_pipeline.formats._geojson_render import Families, ObjectArrays, render
from wsi_pipeline.formats.object_writer import ObjectWriter

__all__ = [
    "GeoJsonWriter",
    "Regions",
    "annotation_document",
    "class_color",
    "format_features",
    "geojson_entries",
    "read_geojson",
    "read_header",
    "read_regions",
    "stays",
    "write_annotations",
]

Color = tuple[int, int, int]

_COLORS: Mapping[str, Color] = MappingProxyType(
    {
        # Colours that differ from the pink, blue and green of a Pap stain.
        "nucleus": (255, 220, 0),
        "cytoplasm": (0, 200, 255),
        "cell": (255, 90, 0),
        "abnormal nucleus": (255, 0, 0),
        "leukocyte": (0, 230, 60),
        "other": (150, 150, 150),
        "foreground": (150, 150, 150),
        "region of interest": (90, 120, 255),
        "unreadable": (200, 0, 0),
    }
)
_OBJECT_TYPES = ("annotation", "detection", "cell", "tile")


class GeoJsonWriter(ObjectWriter):
    """Write the objects of one slide as a FeatureCollection; a context manager.

    The file appears at the end of the `with` block; after an exception there is none. Where
    objects have parents, cells with their nuclei become QuPath cells, and `object_type` holds for
    the other objects only; but with "annotation" each cell and each nucleus is an annotation, see
    `format_features`.

    Parameters
    ----------
    path
        ends in .geojson, .json, .geojson.gz or .json.gz; QuPath ignores other names
    object_type
        QuPath's object type: detection, cell, annotation or tile
    colors
        class name → red, green, blue; other classes get a colour from `class_color`
    provenance
        JSON values for the member ``wsiseg``

    Raises
    ------
    UsageError
        QuPath does not open files of that name, or has no such object type

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
    ...     ids=np.array([[1, 2**63]], np.uint64),
    ...     class_index=np.zeros(1, np.uint8),
    ...     score=np.array([0.9], np.float32),
    ...     features={"Nucleus: Area µm^2": np.array([100], np.float32)},
    ... )
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "objects.geojson.gz"
    ...     with GeoJsonWriter(path, provenance={"model": "dssnet"}) as writer:
    ...         writer.write(objects)
    ...     again, stored = read_geojson(path), read_header(path)
    >>> bool(again.polygons()[0].equals(square)), stored["model"], again.features
    (True, 'dssnet', {'Nucleus: Area µm^2': array([100.], dtype=float32)})
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
        kind, colors = self.object_type, self.colors
        self._file.write(
            format_features(objects, object_type=kind, colors=colors, before=self.count)
        )

    def _end(self) -> None:
        self._file.write(b"]}\n")


def format_features(
    objects: Objects,
    *,
    object_type: str = "detection",
    colors: Mapping[str, Color] | None = None,
    before: int = 0,
) -> bytes:
    """Return the features of `objects`, UTF-8, joined by commas; can run in worker threads.

    Polygons are written unchanged; see `make_valid` for what QuPath needs. The score becomes the
    measurement "Detection probability". Values that are not finite are left out.

    Names are as in QuPath: detections have no prefix, "Area µm^2" for "Nucleus: Area µm^2". Each
    nucleus must follow its cell. A QuPath cell has one list of measurements. There the measurements
    of its nucleus have names that begin with "Nucleus: "; the prefix is added where it is missing.
    Those of several nuclei begin with "Nucleus 1: ", "Nucleus 2: " and so on, and "Nucleus: " is
    what QuPath measures of all of them together, see `together`. The cell's own measurements with
    such a name are left out. Ids and classes of the nuclei are stored in the feature's member
    ``nuclei``, because QuPath has no property for them.

    Annotations are for outlines that a person corrects, so they have no measurements of outlines,
    only probabilities. Those of a cell are named "Cell 7", its nuclei "Cell 7: nucleus", "Cell 7:
    nucleus 2" and so on; the number is the cell's place in the file, after `before` other objects.

    Raises
    ------
    DataError
        QuPath rejects the name of a class or measurement, or it has another meaning
    ValueError
        a nucleus does not follow its cell, or a coordinate is not finite
    """
    if SCORE_NAME in objects.features:
        raise DataError(
            f"measurement {SCORE_NAME!r} has the name of the score; rename the measurement"
        )
    _checked_type(object_type)
    classes = [_classification(name, colors or {}) for name in objects.classes]
    features = together(objects)
    grouped: Families | None = None
    if object_type == "annotation":
        features = {name: column for name, column in features.items() if stays(name)}
    names = [SCORE_NAME, *features]
    if object_type == "annotation":
        tails = annotation_texts(objects, classes, before)
        grouped = annotation_families(len(objects), [_key(name) for name in names])
    else:
        linked = objects.parent is not None
        tails = [
            f']}},"properties":{{"objectType":"{kind}",{part}"measurements":{{'.encode()
            for kind in ((object_type, "cell") if linked else (object_type,))
            for part in classes
        ]
        grouped = families(objects, names, object_type) if linked else None
    return render(
        ObjectArrays(
            objects.ids,
            objects.class_index,
            objects.coords,
            objects.ring_offsets,
            objects.object_offsets,
            np.stack([objects.score, *features.values()]),
        ),
        tails,
        [_key(name) for name in alone_names(names, object_type)],
        grouped,
    )


def _key(name: str) -> bytes:
    return f"{compact_json(name)}:".encode()


def write_annotations(
    path: Path | str,
    geometries: Sequence[shapely.Geometry],
    names: Sequence[str],
    *,
    classes: Sequence[str] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write outlines, such as the foreground or a region of interest, as locked annotations.

    Parameters
    ----------
    path
        ends in .geojson, .json, .geojson.gz or .json.gz
    geometries, names, classes, provenance
        see `annotation_document`

    Raises
    ------
    UsageError, OutputError
        see `GeoJsonWriter`
    """
    document = annotation_document(geometries, names, classes=classes, provenance=provenance)
    with open_part(_checked_name(Path(path))) as file:
        file.write(document)


def annotation_document(
    geometries: Sequence[shapely.Geometry],
    names: Sequence[str],
    *,
    classes: Sequence[str] | None = None,
    measurements: Sequence[Mapping[str, float]] = (),
    locked: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> bytes:
    """Return GeoJSON, UTF-8, with outlines as annotations.

    Parameters
    ----------
    geometries
        polygons (n,), holes and several parts allowed, in level-0 pixels; QuPath draws outlines
        of tens of thousands of vertices slowly, so simplify them first
    names
        names that QuPath shows, (n,)
    classes
        class of each, (n,); "Foreground" if not given
    measurements
        measurement → finite number of each, (n,); none by default
    locked
        whether QuPath refuses to move and reshape them
    provenance
        JSON values for the member ``wsiseg``
    """
    lock = ',"isLocked":true' if locked else ""
    classes = ["Foreground"] * len(names) if classes is None else classes
    if not len(geometries) == len(names) == len(classes):
        raise ValueError(
            f"got {len(geometries)} geometries, {len(names)} names and {len(classes)} classes"
        )
    cleaned, index = clean_polygons(geometries, largest=False)
    features = []
    for polygon, i in zip(cleaned, index, strict=True):
        identity = uuid.uuid5(NAMESPACE, f"{i}/{names[i]}/{polygon.wkt}")
        features.append(
            f'{{"type":"Feature","id":"{identity}",'
            f'"geometry":{compact_json(shapely.geometry.mapping(polygon))},'
            f'"properties":{{"objectType":"annotation","name":{compact_json(names[i])},'
            f"{_classification(classes[i], {})}"
            f'"measurements":{compact_json(dict(measurements[i]) if measurements else {})}'
            f"{lock}}}}}"
        )
    return _opening(provenance or {}) + ",\n".join(features).encode() + b"]}\n"


def class_color(name: str) -> Color:
    """Return red, green and blue of a class, 0 to 255: the same in every run.

    Examples
    --------
    >>> class_color("nucleus")
    (255, 220, 0)
    """
    known = _COLORS.get(name.lower())
    if known:
        return known
    hue = zlib.crc32(name.encode()) / 2**32
    red, green, blue = (round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.85, 0.95))
    return red, green, blue


def _classification(name: str, colors: Mapping[str, Color]) -> str:
    """Return the member "classification" and a comma; nothing for objects without a class."""
    if name == UNCLASSIFIED:
        return ""
    blank = not all(part.strip() for part in name.split(":"))
    if blank or name != name.strip() or len(name.splitlines()) > 1:
        raise DataError(
            f"QuPath rejects or changes the class name {name!r}; use one line without outer spaces "
            'and without a blank part beside ":"'
        )
    color = [int(c) for c in colors.get(name) or class_color(name)]
    return f'"classification":{compact_json({"name": name, "color": color})},'


def _opening(header: Mapping[str, Any]) -> bytes:
    return f'{{"type":"FeatureCollection","wsiseg":{compact_json(header)},"features":[\n'.encode()


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
