"""Read QuPath's annotations as regions of interest; what is no region is named."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import geojson
import shapely

from wsi_pipeline.core.errors import DataError
from wsi_pipeline.core.polygons import MAX_COORDINATE, clean_polygons
from wsi_pipeline.formats._geojson_documents import MOST_LISTS, documents, features
from wsi_pipeline.formats._geojson_grammar import Refused, class_name, polygons

__all__ = ["Regions", "read_regions"]

IGNORED = re.compile(r"(?:.*:)?\s*ignore\b", re.IGNORECASE)
"""Classes whose areas are left out of the regions: QuPath's ``Ignore*``, also as a part of a name
between ``:``."""
OLD_KINDS: Mapping[str, str] = MappingProxyType(
    {
        "PathAnnotationObject": "annotation",
        "TMACoreObject": "tma_core",
        "PathDetectionObject": "detection",
        "PathCellObject": "cell",
        "PathTileObject": "tile",
    }
)
"""QuPath 0.2 wrote the type of an object as its id."""
AREAS = ("Polygon", "MultiPolygon")
Read = tuple[int, int]
"""Focal plane and time point that are read."""
NAMED = 5
"""At most this many features are named in a warning."""


@dataclass(frozen=True, eq=False)
class Regions:
    """Regions of interest in level-0 pixels.

    Attributes
    ----------
    path
        the file
    inside
        number of the feature → its area; without any, the whole slide is meant
    excluded
        areas of the class ``Ignore*``, which no region has
    left_out
        what of the file is no region, one text each
    """

    path: Path
    inside: Mapping[int, shapely.Geometry]
    excluded: Sequence[shapely.Geometry] = ()
    left_out: Sequence[str] = field(default=())

    @property
    def area(self) -> shapely.Geometry:
        """All regions without what is excluded."""
        whole = shapely.box(0, 0, MAX_COORDINATE, MAX_COORDINATE)
        area = shapely.union_all(list(self.inside.values())) if self.inside else whole
        return shapely.difference(area, shapely.union_all(list(self.excluded)))

    def warnings(self, width: int, height: int) -> list[str]:
        """Return what of the file has no effect on a slide of `width` × `height`."""
        found = []
        if self.left_out:
            found.append(f"{self.path.name}: no regions: {_listed(self.left_out)}")
        slide = shapely.box(0, 0, width, height)
        beside = [
            f"feature {number}"
            for number, area in self.inside.items()
            if shapely.area(shapely.intersection(area, slide)) == 0
        ]
        if beside:
            found.append(
                f"{self.path.name}: {len(beside)} of {len(self.inside)} regions do not touch the "
                f"slide of {width} x {height} pixels ({_listed(beside)}); do they belong to it?"
            )
        elif shapely.area(shapely.intersection(self.area, slide)) == 0:
            found.append(f"{self.path.name}: nothing of the slide is left; all of it is ignored")
        return found


def _listed(texts: Sequence[str]) -> str:
    more = len(texts) - NAMED
    return ", ".join(texts[:NAMED]) + (f" and {more} more" if more > 0 else "")


def read_regions(path: Path | str, *, plane: int | None = 0, time: int = 0) -> Regions:
    """Return QuPath's annotations as regions of interest.

    TMA cores are regions where there is no annotation. Detections, cells and tiles are not read.
    Annotations without an area are left out and named. Outlines that cross themselves are repaired.

    Parameters
    ----------
    plane
        focal plane that is read; None: it and the time point are not known yet
    time
        time point that is read

    Raises
    ------
    DataError
        the file is not GeoJSON, has no region, or one that cannot be read or lies on another
        focal plane or time point
    """
    path = Path(path)
    read = None if plane is None else (plane, time)
    regions: dict[int, shapely.Geometry] = {}
    cores: dict[int, shapely.Geometry] = {}
    excluded: list[shapely.Geometry] = []
    left_out: list[str] = []
    for index, feature in enumerate(_every_feature(path)):
        properties = feature.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        kind = _kind(feature, properties)
        if kind not in ("annotation", "tma_core"):
            continue
        if kind != "annotation" and properties.get("isMissing") is True:
            left_out.append(f"feature {index} (missing TMA core)")
            continue
        try:
            parts, others = _areas(feature.get("geometry"), read)
            ignored = IGNORED.match(_name(properties)) is not None
        except Refused as cause:
            raise DataError(f"{path}: feature {index}: {cause}") from None
        left_out += [f"feature {index} ({what})" for what in others]
        if not parts:
            continue
        area = shapely.union_all(parts)
        if ignored:
            excluded.append(area)
        else:
            (regions if kind == "annotation" else cores)[index] = area
    if regions:
        left_out += [f"feature {index} (TMA core beside annotations)" for index in cores]
    if not (regions or cores or excluded):
        also = f" with an area, but {_listed(left_out)}" if left_out else ""
        raise DataError(f"{path} has no annotation{also}; draw a region in QuPath and export it")
    return Regions(path, regions or cores, excluded, left_out)


def _every_feature(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the features of a file, each followed by its children."""
    for document in documents(path):
        waiting = list(features(path, document))[::-1]
        while waiting:
            feature = waiting.pop()
            yield feature
            properties = feature.get("properties")
            for key in ("childObjects", "children"):
                children = properties.get(key) if isinstance(properties, dict) else None
                if isinstance(children, list):
                    waiting += [child for child in children[::-1] if isinstance(child, dict)]


def _kind(feature: Mapping[str, Any], properties: Mapping[str, Any]) -> str:
    """Return the type of an object, as QuPath names it today; annotation where none is stated."""
    stated = properties.get("objectType")
    if not isinstance(stated, str):
        return OLD_KINDS.get(str(feature.get("id")), "annotation")
    return stated.lower().replace(" ", "_")


def _name(properties: Mapping[str, Any]) -> str:
    """Return the class; its colour does not matter here."""
    given = properties.get("classification")
    if isinstance(given, dict):
        given = {**given, "color": None}
    return class_name(given)


def _areas(
    geometry: Any, read: Read | None, depth: int = 0
) -> tuple[list[shapely.Geometry], list[str]]:
    """Return the areas of a geometry, and what in it is none."""
    if not isinstance(geometry, dict) or not geometry:
        return [], ["no geometry"]
    kind = geometry.get("type")
    if kind == "GeometryCollection":
        members = geometry.get("geometries")
        if depth == MOST_LISTS:
            raise Refused(f"more than {MOST_LISTS} collections in collections")
        found = (
            [_areas(part, read, depth + 1) for part in members] if isinstance(members, list) else []
        )
        areas = [area for parts, _ in found for area in parts]
        return areas, [what for _, others in found for what in others] if found else ["empty"]
    if kind not in AREAS:
        return [], [str(kind)]
    if geometry.get("coordinates") == []:
        return [], [f"empty {kind}"]
    _check_plane(geometry.get("plane"), read)
    area = _area(kind, geometry)
    return ([], [f"{kind} without area"]) if area is None else ([area], [])


def _area(kind: str, geometry: Mapping[str, Any]) -> shapely.Geometry | None:
    """Return the area of a polygon or of several; None where it has none."""
    parts = polygons({"type": kind, "coordinates": geometry.get("coordinates")})
    plain = [[ring.tolist() for ring in rings] for rings in parts]
    whole = geojson.MultiPolygon(plain) if kind == "MultiPolygon" else geojson.Polygon(plain[0])
    if whole.errors():
        raise Refused(" ".join(str(whole.errors()).split()))
    shapes = [shapely.Polygon(rings[0], rings[1:]) for rings in parts]
    cleaned, _ = clean_polygons(
        [shapes[0] if len(shapes) == 1 else shapely.MultiPolygon(shapes)], largest=False
    )
    return cleaned[0] if len(cleaned) else None


def _check_plane(stated: Any, read: Read | None) -> None:
    """Refuse a region on another focal plane or time point than the one that is read."""
    if not isinstance(stated, dict) or read is None:
        return
    for axis, what, own in zip("zt", ("focal plane", "time point"), read, strict=True):
        number = stated.get(axis, own)
        if number != own:
            raise Refused(
                f"the region lies on {what} {number!r}, and {own} is read; draw it on that one"
            )
