"""The parts of a GeoJSON feature: each function checks and converts one of them.

A value that QuPath 0.4 or a later version rejects raises `Refused`.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.polygons import MAX_COORDINATE

__all__ = [
    "NAMESPACE",
    "NUCLEUS",
    "SCORE_NAME",
    "SUFFIXES",
    "UNCLASSIFIED",
    "Refused",
    "check_apart",
    "check_display",
    "class_name",
    "detection_name",
    "identity",
    "measurements",
    "nucleus_entries",
    "nucleus_name",
    "nucleus_of",
    "polygons",
]

SCORE_NAME = "Detection probability"  # the name in QuPath's StarDist extension
UNCLASSIFIED = "Unclassified"
NUCLEUS = "Nucleus: "
"""QuPath's prefix of measurements of a cell's nucleus, or of all its nuclei together."""
SUFFIXES = (".geojson", ".json", ".geojson.gz", ".json.gz")
NAMESPACE = uuid.UUID("6f3c1a52-0f5e-5d0b-9a57-5b1d3c0c7e11")  # for ids that a file lacks

_NUCLEUS = re.compile(r"Nucleus( [1-9][0-9]*)?: ")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_TEXT_NUMBERS = MappingProxyType(
    {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
)


class Refused(Exception):
    """The reason why a feature cannot be read; the caller adds the file and the feature's index."""


def identity(feature: Mapping[str, Any], index: int, part: int, shell: NDArray[np.float64]) -> str:
    """Return the feature's UUID, or a UUID of its content where it has none.

    Parameters
    ----------
    index, part
        number of the feature and of its polygon; parts after the first get a UUID of their own
    shell
        float64 (vertices, 2)
    """
    given = feature.get("id", "")
    if given is None:
        raise Refused("id is null; leave it out instead")
    if isinstance(given, str) and part == 0 and _UUID.fullmatch(given):
        return given
    content = f"{given}/{index}/{part}/{shell.tolist()}"
    return str(uuid.uuid5(NAMESPACE, content.encode("utf-8", "backslashreplace").decode()))


def check_display(properties: Mapping[str, Any]) -> None:
    """Check name and colour of an object, which are not read."""
    if not isinstance(properties.get("name", ""), str | int | float):
        raise Refused("name is neither text nor a number; leave it out instead")
    _check_color(properties.get("color"))


def _check_color(color: Any) -> None:
    listed = isinstance(color, list) and len(color) in (3, 4)
    if color is None or isinstance(color, int):
        return
    if not listed or not all(isinstance(c, int) and 0 <= c <= 255 for c in color):
        raise Refused(f"color {color!r} is not [red, green, blue]")


def class_name(classification: Any) -> str:
    """Return the class; parts of a derived class are joined by ": ", as in QuPath."""
    if classification is None:
        return UNCLASSIFIED
    if isinstance(classification, dict):
        if "color" in classification:
            _check_color(classification["color"])
        elif not isinstance(classification.get("colorRGB"), int):
            raise Refused('classification has no "color"; add "color":[red,green,blue]')
        names = classification.get("names", [classification.get("name")])
    else:
        names = [classification]
    if not isinstance(names, list) or not names:
        raise Refused(f"classification names {names!r} are not a list of texts")
    for name in names:
        if not isinstance(name, str) or not name.strip() or "\n" in name:
            raise Refused(f"class name {name!r} is not a line of text")
        _check_whole(name)
    return ": ".join(name.strip() for name in names)


def measurements(given: Any) -> dict[str, float]:
    """Return name → number from QuPath's map or its older list, without null and booleans."""
    if isinstance(given, list):
        if not all(isinstance(m, dict) and isinstance(m.get("name"), str) for m in given):
            raise Refused('measurements are not all {"name": text, "value": number}')
        given = {m["name"]: m.get("value") for m in given}
    if not isinstance(given, dict):
        raise Refused("measurements are neither an object nor a list")
    for name in given:
        _check_whole(name)
    return {
        name: float(value) if type(value) is float else _number(name, value)
        for name, value in given.items()
        if type(value) in (float, int, str)
    }


def nucleus_of(name: str, count: int = 1) -> int:
    """Return the number of the nucleus, from 1, that a cell's measurement belongs to.

    0 for the cell itself, −1 for all nuclei together, where the cell has `count` > 1 of them.

    Examples
    --------
    >>> [nucleus_of(name) for name in ("Nucleus: Area µm^2", "Nucleus 2: Area µm^2", "Area")]
    [1, 2, 0]
    >>> nucleus_of("Nucleus: Area µm^2", 2)
    -1
    """
    found = _NUCLEUS.match(name)
    if not found:
        return 0
    return int(found[1]) if found[1] else 1 if count < 2 else -1


def nucleus_name(name: str, k: int, names: Sequence[str]) -> str:
    """Return the name of a measurement of nucleus k among the measurements of its cell.

    k is 0 for the only nucleus. "" where one of `names`, all the measurements, has that name
    already.

    Examples
    --------
    >>> nucleus_name("Nucleus: Area µm^2", 2, []), nucleus_name("contrast", 0, [])
    ('Nucleus 2: Area µm^2', 'Nucleus: contrast')
    """
    plain = name.removeprefix(NUCLEUS)
    if plain == name and f"{NUCLEUS}{name}" in names:
        return ""
    return f"Nucleus{f' {k}' if k else ''}: {plain}"


def detection_name(name: str, names: Sequence[str]) -> str:
    """Return the name of a measurement of a detection, which has no prefix in QuPath.

    It stays where one of `names`, all the measurements, is the shorter name.

    Examples
    --------
    >>> detection_name("Nucleus: Area µm^2", []), detection_name("Nucleus: Area", ["Area"])
    ('Area µm^2', 'Nucleus: Area')
    """
    plain = name.removeprefix(NUCLEUS)
    return name if plain in names else plain


def nucleus_entries(feature: Mapping[str, Any], cell_id: str, count: int) -> list[tuple[str, str]]:
    """Return id and class of each nucleus of a cell.

    A missing id is derived from the cell's id; a missing class is "nucleus".
    """
    given = feature.get("nuclei")
    given = given if isinstance(given, list) and len(given) == count else [None] * count
    entries = []
    for k, entry in enumerate(given):
        key, name = (entry.get(m) if isinstance(entry, dict) else None for m in ("id", "class"))
        if not isinstance(key, str) or not _UUID.fullmatch(key):
            key = str(uuid.uuid5(NAMESPACE, f"{cell_id}/nucleus/{k}"))
        named = name if isinstance(name, str) and name.strip() else "nucleus"
        entries.append((key, _check_whole(named)))
    return entries


def _check_whole(name: str) -> str:
    r"""Return a name, if other files can hold it: JSON can state half a character, ``"\ud800"``."""
    if not name.isascii():
        try:
            name.encode()
        except UnicodeEncodeError:
            raise Refused(f"{name[:80]!a} has half of a character; write it again") from None
    return name


def _number(name: str, value: int | str) -> float:
    try:
        return _TEXT_NUMBERS[value] if isinstance(value, str) else float(value)
    except (KeyError, OverflowError):
        raise Refused(f"measurement {name!r} is {value!r}, not a number") from None


def polygons(geometry: Any) -> list[list[NDArray[np.float64]]]:
    """Return the rings, float64 (vertices, 2) on the 0.01 px grid, of each polygon."""
    if not isinstance(geometry, dict) or "type" not in geometry:
        raise Refused("it has no geometry; add a Polygon")
    kind, coordinates = geometry["type"], geometry.get("coordinates")
    if kind not in ("Polygon", "MultiPolygon"):
        raise Refused(f"a {kind} has no area; only Polygon and MultiPolygon are objects")
    plane = geometry.get("plane", {})
    if not isinstance(plane, dict) or not all(
        key in ("c", "z", "t") and isinstance(plane[key], int) for key in plane
    ):
        raise Refused(f"plane {plane!r} must have whole numbers c, z and t")
    if not isinstance(coordinates, list) or not coordinates:
        raise Refused("the geometry has no coordinates")
    parts = [coordinates] if kind == "Polygon" else coordinates
    if not all(isinstance(part, list) and part for part in parts):
        raise Refused("a polygon has no coordinates")
    return [[_ring(ring) for ring in part] for part in parts]


def _ring(ring: Any) -> NDArray[np.float64]:
    try:
        try:
            points = np.asarray(ring)
        except ValueError:  # positions of two and of three numbers
            points = np.asarray([position[:2] for position in ring])
    except (ValueError, TypeError, LookupError):
        points = np.zeros(0)
    if points.ndim != 2 or points.shape[1] not in (2, 3) or points.dtype.kind not in "if":
        raise Refused("coordinates are not [x, y] pairs of numbers")
    points = points[:, :2].astype(np.float64)
    if len(points) < 4:
        raise Refused(f"a ring has {len(points)} points; it takes at least 4")
    if not (np.abs(points) < MAX_COORDINATE).all():
        raise Refused(f"a coordinate is not finite or not below {MAX_COORDINATE:g}")
    if (points[0] != points[-1]).any():
        raise Refused("a ring is not closed; repeat its first point at its end")
    return np.round(points, 2)


def check_apart(parts: list[list[NDArray[np.float64]]]) -> None:
    """Check that the parts of a MultiPolygon do not overlap; QuPath rejects the file if they do."""
    shapes = shapely.make_valid([shapely.Polygon(rings[0], rings[1:]) for rings in parts])
    total = float(shapely.area(shapes).sum())
    if float(shapely.union_all(shapes).area) < total - 1e-6 * max(1.0, total):
        raise Refused("parts of the MultiPolygon overlap")
