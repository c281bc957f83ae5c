"""Cells as QuPath annotations, whose outlines a person can correct: names join nuclei to cells.

QuPath keeps the id, name, class and outline of an annotation, and drops what else a feature has.
So a nucleus is joined to its cell twice: by the member ``cell``, the id of the cell, which stays
until QuPath writes the file again, and by its name, ``Cell 7: nucleus`` in the cell ``Cell 7``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import shapely

from wsi_pipeline.core.objects import Objects, is_cell
from wsi_pipeline.formats._compact_json import compact_json
from wsi_pipeline.formats._geojson_render import Families, uuid_text

__all__ = ["Mark", "annotation_families", "annotation_texts", "mark_of", "parents", "stays"]

_NUCLEUS_OF = re.compile(r"(.+): nucleus( \d+)?", re.IGNORECASE)


class Mark(NamedTuple):
    """What joins annotations: id and name of one, and the id of the cell that it states."""

    own: str
    name: str
    cell: str

    @property
    def cell_name(self) -> str:
        """Name of the cell of a nucleus; "" where the name is not that of a nucleus."""
        found = _NUCLEUS_OF.fullmatch(self.name)
        return found[1].strip() if found else ""


def stays(measurement: str) -> bool:
    """Return whether a measurement is still true after an outline was corrected."""
    return measurement.lower().endswith("probability")


def annotation_texts(
    objects: Objects, classifications: Sequence[str], before: int = 0
) -> list[bytes]:
    """Return per object all between its coordinates and its first measurement.

    Parameters
    ----------
    objects
        each nucleus follows its cell
    classifications
        the member "classification" of each class
    before
        number of objects in the file before these; cells are numbered by their place in the file
    """
    ids = [bytes(row).decode() for row in uuid_text(objects.ids)]
    cells = is_cell(objects)
    parent = np.full(len(objects), -1) if objects.parent is None else objects.parent
    count: dict[int, int] = {}
    texts = []
    for row, cell in enumerate(parent.tolist()):
        link = name = ""
        if cells[row]:
            name = f"Cell {before + row + 1}"
        elif cell >= 0:
            count[cell] = count.get(cell, 0) + 1
            number = f" {count[cell]}" if count[cell] > 1 else ""
            name = f"Cell {before + cell + 1}: nucleus{number}"
            link = f'"cell":"{ids[cell]}",'
        named = f'"name":{compact_json(name)},' if name else ""
        kind = classifications[objects.class_index[row]]
        texts.append(
            f']}},{link}"properties":{{"objectType":"annotation",{named}{kind}"measurements":{{'
        )
    return [text.encode() for text in texts]


def annotation_families(n: int, column_texts: Sequence[bytes]) -> Families:
    """Return families of one object each, for texts of one object each."""
    return Families(np.arange(n + 1), np.arange(n), (), column_texts)


def mark_of(feature: Mapping[str, Any], own: str) -> Mark | None:
    """Return what may join an annotation to others; None where nothing of it can."""
    properties = feature.get("properties") or {}
    if properties.get("objectType", "annotation") != "annotation":
        return None
    name, cell = str(properties.get("name", "")).strip(), feature.get("cell")
    if not name and not isinstance(cell, str):
        return None
    return Mark(own.lower(), name, cell.lower() if isinstance(cell, str) else "")


def parents(marks: Mapping[int, Mark], shape: Callable[[int], shapely.Polygon]) -> dict[int, int]:
    """Return row of a nucleus → row of its cell.

    Where several cells have the name, for example the parts of a cell that was cut in two, it is
    the one that covers most of the nucleus. A nucleus whose cell is gone has none.

    Parameters
    ----------
    marks
        row → its mark
    shape
        row → its polygon
    """
    by_id: dict[str, list[int]] = {}
    by_name: dict[str, list[int]] = {}
    for row, mark in marks.items():
        if not mark.cell_name and not mark.cell:  # a nucleus holds no nuclei
            by_id.setdefault(mark.own, []).append(row)
            by_name.setdefault(mark.name, []).append(row)
    found = {}
    for row, mark in marks.items():
        cells = by_id.get(mark.cell) if mark.cell else None
        cells = cells or (by_name.get(mark.cell_name, []) if mark.cell_name else [])
        if len(cells) > 1:
            nucleus = shapely.make_valid(shape(row))
            covered = [_shared(nucleus, shape(cell)) for cell in cells]
            found[row] = cells[int(np.argmax(covered))]
        elif cells:
            found[row] = cells[0]
    return found


def _shared(nucleus: shapely.Geometry, cell: shapely.Polygon) -> float:
    return float(shapely.area(shapely.intersection(nucleus, shapely.make_valid(cell))))
