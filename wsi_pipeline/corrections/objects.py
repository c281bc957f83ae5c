"""Corrected objects: which of them are nuclei, cells, or neither, and which cell holds a nucleus.

A person may have renamed classes, removed them, or drawn new objects without any, so a class alone
does not tell. The first of these decides that applies:

1. an object that holds nuclei is a cell, and one that a cell holds is a nucleus;
2. its class, where it is one that wsiseg writes;
3. the object of the run that has its id;
4. in a run of nuclei only: a nucleus;
5. what it holds: an object with the middle of a nucleus in it is a cell, one with its middle in a
   cell is a nucleus.

What is left is unsure: it is learned neither as an object nor as background.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.objects import CELL_CLASS, CYTOPLASM, Objects, is_cell

__all__ = [
    "CELL",
    "IGNORED",
    "LEUKOCYTE",
    "NUCLEUS",
    "UNSURE",
    "Corrected",
    "with_nuclei",
    "without",
]

NUCLEUS, CELL, LEUKOCYTE, UNSURE = 0, 1, 2, 3
"""Roles of objects."""
IGNORED = re.compile(r"(?:.*:)?\s*ignore\b", re.IGNORECASE)
"""Classes of areas in which nothing is known: QuPath's ``Ignore*``."""
_BY_CLASS = {
    "nucleus": NUCLEUS,
    "abnormal nucleus": NUCLEUS,
    CELL_CLASS: CELL,
    CYTOPLASM: CELL,
    "leukocyte": LEUKOCYTE,
    "other": UNSURE,
}
_HELD = 0.9
"""Share of a nucleus that lies in its cell."""


@dataclass(frozen=True, eq=False)
class Corrected:
    """The corrected objects of one slide.

    Attributes
    ----------
    objects
        with the parents that were found
    role
        int8 (n,): `NUCLEUS`, `CELL`, `LEUKOCYTE` or `UNSURE`
    """

    objects: Objects
    role: NDArray[np.int8]

    @classmethod
    def from_objects(cls, objects: Objects, run: Objects | None) -> Corrected:
        """Tell roles and parents of objects.

        Parameters
        ----------
        run
            objects of the run that were corrected; None: there is no run
        """
        role = _roles(objects, run)
        return cls(_joined(objects, role), role)

    def names(self) -> NDArray[np.object_]:
        """Return the class of each object, (n,)."""
        return np.array(self.objects.classes, object)[self.objects.class_index]


def _roles(objects: Objects, run: Objects | None) -> NDArray[np.int8]:
    role = np.full(len(objects), -1, np.int8)
    if run is not None:
        of_run = np.where(is_cell(run), CELL, NUCLEUS)
        by_id = dict(zip(map(tuple, run.ids.tolist()), of_run.tolist(), strict=True))
        role[:] = [by_id.get(tuple(own), -1) for own in objects.ids.tolist()]
    by_class = np.array([_role_of_class(name) for name in objects.classes], np.int8)
    if len(objects):
        told = by_class[objects.class_index]
        role = np.where(told >= 0, told, role)
    if objects.parent is not None:
        held = objects.parent >= 0
        role[held & (role != LEUKOCYTE) & (role != UNSURE)] = NUCLEUS
        role[objects.parent[held]] = CELL
    open_ = np.flatnonzero(role < 0)
    if len(open_) and (run is None or not is_cell(run).any()) and not (role == CELL).any():
        role[open_] = NUCLEUS
    elif len(open_):
        _tell_by_place(objects, role, open_)
    return np.where(role < 0, UNSURE, role).astype(np.int8)


def _role_of_class(name: str) -> int:
    return UNSURE if IGNORED.match(name) else _BY_CLASS.get(name.strip().lower(), -1)


def _tell_by_place(objects: Objects, role: NDArray[np.int8], rows: NDArray[np.int64]) -> None:
    """Set the role of `rows` that hold the middle of a nucleus, or lie in a cell; in place."""
    shapes = objects.polygons()
    middles = shapely.centroid(shapes)
    tree = shapely.STRtree(middles)
    nuclei, cells = role == NUCLEUS, role == CELL
    area = shapely.area(shapes)
    for row in rows:
        inside = tree.query(shapes[row], predicate="intersects")
        inside = inside[(inside != row) & (area[inside] < area[row])]
        if nuclei[inside].any() or np.isin(inside, rows).any():
            role[row] = CELL
    around = shapely.STRtree(shapes)
    cells = role == CELL
    for row in rows[role[rows] < 0]:
        holders = around.query(middles[row], predicate="intersects")
        if cells[holders[holders != row]].any():
            role[row] = NUCLEUS


def _joined(objects: Objects, role: NDArray[np.int8]) -> Objects:
    """Return objects in which a nucleus that lies in a cell has it as its parent."""
    alone = role == NUCLEUS
    if objects.parent is not None:
        alone &= objects.parent < 0
    cells = np.flatnonzero(role == CELL)
    if not len(cells) or not alone.any():
        return objects
    parent = np.full(len(objects), -1) if objects.parent is None else objects.parent.copy()
    holds = set(parent[parent >= 0].tolist())
    shapes = objects.polygons()
    tree = shapely.STRtree(shapes[cells])
    for row in np.flatnonzero(alone):
        found = cells[tree.query(shapes[row], predicate="intersects")]
        shared = shapely.area(shapely.intersection(shapes[found], shapes[row]))
        found = found[shared >= _HELD * shapely.area(shapes[row])]
        if len(found):  # a cell without a nucleus first, and then the smallest
            size = shapely.area(shapes[found])
            taken = np.array([int(cell) in holds for cell in found])
            parent[row] = found[np.lexsort((size, taken))[0]]
            holds.add(int(parent[row]))
    return replace(objects, parent=parent.astype(np.int64))


def without(objects: Objects, dropped: NDArray[np.bool_]) -> Objects:
    """Return the objects but for `dropped`, bool (n,), and the nuclei that these hold."""
    return objects.take(~with_nuclei(objects, dropped))


def with_nuclei(objects: Objects, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which objects are `chosen`, bool (n,), or nuclei that chosen cells hold."""
    both = chosen.copy()
    if objects.parent is not None:
        held = objects.parent >= 0
        both[held] |= chosen[objects.parent[held]]
    return both
