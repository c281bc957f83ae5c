"""Read what a person corrected: objects, the areas that were checked, and labels of objects."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.errors import DataError, UsageError, one_line
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.polygons import polygon_parts
from wsi_pipeline.corrections.objects import IGNORED, without
from wsi_pipeline.formats.geojson import read_geojson, read_regions
from wsi_pipeline.reports.gallery import REVIEW_CLASS
from wsi_pipeline.segmentation.kinds import NOT_A_CELL

__all__ = ["NOT_A_CELL", "Checked", "id_text", "read_checked", "read_labels", "read_objects_of"]

_OWN_ANNOTATIONS = ("foreground", "region of interest", "unreadable", REVIEW_CLASS.lower())
"""Classes of the annotations that a run's import script and its gallery add to a slide."""
_SAME_AREA = 0.99


@dataclass(frozen=True, eq=False)
class Checked:
    """What a person corrected on one slide.

    Attributes
    ----------
    objects
        all objects of the file, also outside the areas
    area
        where every object was checked, level-0 pixels
    ignored
        where nothing is known, inside the areas too
    """

    objects: Objects
    area: shapely.Geometry
    ignored: shapely.Geometry


def read_checked(corrected: Path, area: Path | None, area_class: str | None) -> Checked:
    """Read corrected objects and the areas that were checked.

    The areas, what a run and its gallery add to the slide, and QuPath's ``Ignore*`` are no objects.

    Parameters
    ----------
    area
        GeoJSON with the areas as annotations
    area_class
        class of the annotations in `corrected` that are the areas

    Raises
    ------
    UsageError
        neither of them is given, or both
    DataError
        a file cannot be read, or has no area
    """
    if (area is None) == (area_class is None):
        raise UsageError(
            "tell where every object was checked: outline that area in QuPath and give its GeoJSON "
            "with --area, or its class in CORRECTED with --area-class NAME"
        )
    objects = read_geojson(corrected)
    names = np.array([name.strip().lower() for name in objects.classes], object)
    shapes = objects.polygons()
    ignored = _of_classes(objects, np.array([bool(IGNORED.match(n)) for n in names], bool))
    no_objects = ignored | _of_classes(objects, np.isin(names, _OWN_ANNOTATIONS))
    if area_class is not None:
        marked = _of_classes(objects, names == area_class.strip().lower())
        if not marked.any():
            known = ", ".join(objects.classes) or "none"
            raise DataError(
                f"{corrected} has no annotation of class {area_class!r}; it has {known}"
            )
        checked = shapely.union_all(shapes[marked])
        no_objects |= marked
    else:
        assert area is not None
        regions = read_regions(area, plane=None)
        if not regions.inside:
            raise DataError(f"{area} has no area but what is ignored; outline what was checked")
        checked = regions.area
        no_objects |= _same_as(shapes, list(regions.inside.values()))
    unknown = shapely.union_all(shapes[ignored])
    return Checked(without(objects, no_objects), shapely.difference(checked, unknown), unknown)


def read_objects_of(corrected: Path, ignored: str | None = None) -> Objects:
    """Read corrected objects alone, without areas, ``Ignore*`` and what the run adds.

    Parameters
    ----------
    ignored
        class of the areas

    Raises
    ------
    DataError
        the file cannot be read
    """
    objects = read_geojson(corrected)
    names = [name.strip().lower() for name in objects.classes]
    others = {*_OWN_ANNOTATIONS, (ignored or "").strip().lower()}
    dropped = np.array([n in others or bool(IGNORED.match(n)) for n in names], bool)
    return without(objects, _of_classes(objects, dropped))


def _of_classes(objects: Objects, wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which objects have one of the classes `wanted`, bool (classes,)."""
    return wanted[objects.class_index] if len(objects) else np.zeros(0, bool)


def _same_as(shapes: NDArray[np.object_], areas: list[shapely.Geometry]) -> NDArray[np.bool_]:
    """Return which shapes are one of `areas`: an export of everything has the areas, too."""
    same = np.zeros(len(shapes), bool)
    for part in (part for area in areas for part in polygon_parts(area)):
        shared = shapely.area(shapely.intersection(shapely.buffer(shapes, 0), part))
        both = shapely.area(shapes) + part.area - shared
        same |= shared >= _SAME_AREA * both
    return same


def id_text(halves: NDArray[np.uint64]) -> str:
    """Return an id, uint64 (2,), as the text of a UUID."""
    return str(uuid.UUID(int=(int(halves[0]) << 64) | int(halves[1])))


def read_labels(path: Path, slide_id: str) -> Mapping[str, str]:
    """Read class labels by object id, as the review page saves them.

    Raises
    ------
    DataError
        the file cannot be read, has another form, or is of another slide
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({one_line(error)})") from error
    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, dict) or not all(isinstance(v, str) for v in labels.values()):
        raise DataError(
            f'{path} has no "labels" with a text for each object id; save it from the review page'
        )
    slide = content.get("slide", slide_id)
    if slide != slide_id:
        raise DataError(f"{path} has labels of slide {slide!r}, not of {slide_id!r}")
    return dict(_normal(labels))


def _normal(labels: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for key, label in labels.items():
        try:
            yield str(uuid.UUID(key)), " ".join(label.split())
        except ValueError:
            raise DataError(f"labels: {key!r} is no id of an object; ids are UUIDs") from None
