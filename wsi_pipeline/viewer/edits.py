"""Corrections: what a person changed in the page, as objects and back."""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.errors import DataError
from wsi_pipeline.core.objects import CELL_CLASS, Objects, is_cell
from wsi_pipeline.core.polygons import MAX_COORDINATE, clean_polygons
from wsi_pipeline.formats.geojson import stays
from wsi_pipeline.viewer.object_tiles import SortedObjects

__all__ = [
    "Edit",
    "corrected",
    "edits_between",
    "id_text",
    "parse_edits",
    "parse_polygon",
    "rings_of",
]

MOST_EDITS = 50_000
_MOST_VERTICES = 100_000
_MOST_CLASS = 100
"""Longest name of a class, characters."""
_SAME_PX = 0.02
"""Outlines that differ by less are the same."""
_NUCLEUS = "nucleus"


@dataclass(frozen=True, eq=False)
class Edit:
    """One object that a person deleted, changed or added.

    Attributes
    ----------
    id
        high and low half of its UUID
    deleted
        the object is no object
    class_name
        its class, None where that is as it was
    polygon
        its outline, None where that is as it was
    """

    id: tuple[int, int]
    deleted: bool = False
    class_name: str | None = None
    polygon: shapely.Polygon | None = None


def id_text(halves: NDArray[np.uint64]) -> str:
    """Return a UUID as text."""
    return str(uuid.UUID(int=(int(halves[0]) << 64) | int(halves[1])))


def parse_edits(entries: Any) -> list[Edit]:
    """Return the edits that the page sends.

    Raises
    ------
    DataError
        an entry is not one that the page makes
    """
    if not isinstance(entries, list) or len(entries) > MOST_EDITS:
        raise DataError(f"edits must be a list of at most {MOST_EDITS}")
    return [_parse_edit(entry) for entry in entries]


def _parse_edit(entry: Any) -> Edit:
    if not isinstance(entry, dict):
        raise DataError("an edit must be an object with an id")
    try:
        whole = uuid.UUID(str(entry.get("id"))).int
    except ValueError:
        raise DataError(f"{str(entry.get('id'))[:50]!r} is no UUID") from None
    identity = whole >> 64, whole & (2**64 - 1)
    if entry.get("deleted") is True:
        return Edit(identity, deleted=True)
    name, rings = entry.get("class"), entry.get("rings")
    return Edit(
        identity,
        class_name=None if name is None else _class_name(name),
        polygon=None if rings is None else parse_polygon(rings),
    )


def _class_name(name: Any) -> str:
    if (
        not isinstance(name, str) or not 0 < len(name) <= _MOST_CLASS or not name.isprintable()
        or name != name.strip() or not all(part.strip() for part in name.split(":"))
    ):  # fmt: skip
        raise DataError(
            f"{str(name)[:50]!r} cannot name a class; use one line of at most {_MOST_CLASS} "
            'characters without outer spaces and without a blank part beside ":"'
        )
    return name


def parse_polygon(rings: Any) -> shapely.Polygon:
    """Return the polygon of a list of rings of x and y, valid and on the grid of 0.01 px.

    Raises
    ------
    DataError
        the rings are no numbers, too many, or enclose no area
    """
    try:
        shell, *holes = [np.asarray(ring, np.float64).reshape(-1, 2) for ring in rings]
        numbers = np.concatenate([shell, *holes])
    except (TypeError, ValueError):
        raise DataError("an outline must be a list of rings of x and y") from None
    if len(numbers) > _MOST_VERTICES or not (np.abs(numbers) < MAX_COORDINATE).all():
        raise DataError(f"an outline has over {_MOST_VERTICES} points, or points far outside")
    if min(map(len, (shell, *holes))) < 3:
        raise DataError("an outline needs at least three points")
    cleaned, _ = clean_polygons([shapely.Polygon(shell, holes)])
    if not len(cleaned):
        raise DataError("the outline encloses no area of at least 1 px²; draw it again")
    polygon: shapely.Polygon = cleaned[0]
    return polygon


def corrected(original: SortedObjects, edits: Sequence[Edit]) -> Objects:
    """Return the objects of a run after edits; the ids of all others stay.

    Only probabilities are kept as measurements: the others may be wrong after a correction, also
    those of neighbours. `wsiseg import` measures again.

    Raises
    ------
    DataError
        an added object has no outline or no class
    """
    objects = original.outlines.get()
    last = {edit.id: edit for edit in edits}
    rows = original.rows_of(np.array(list(last), np.uint64).reshape(-1, 2))
    known = {int(row): edit for row, edit in zip(rows, last.values(), strict=True) if row >= 0}
    added = [e for row, e in zip(rows, last.values(), strict=True) if row < 0 and not e.deleted]
    if any(e.polygon is None or e.class_name is None for e in added):
        raise DataError("an added object needs an outline and a class; load the page again")
    names = [e.class_name for e in last.values() if e.class_name is not None]
    classes = tuple(dict.fromkeys((*objects.classes, *names)))
    reshaped = [row for row, e in known.items() if e.polygon is not None]
    kept = np.ones(len(objects), np.bool_)
    kept[[row for row, e in known.items() if e.deleted] + reshaped] = False
    class_index = objects.class_index.copy()
    for row, edit in known.items():
        if edit.class_name is not None:
            class_index[row] = classes.index(edit.class_name)
    features = {name: column for name, column in objects.features.items() if stays(name)}
    base = replace(objects, classes=classes, class_index=class_index, features=features)
    changed = [*(known[row] for row in reshaped), *added]
    fresh = _drawn(base, np.array(reshaped, np.int64), changed)
    still = np.flatnonzero(kept)
    whole = Objects.concatenate([replace(base.take(still), parent=None), fresh])
    if objects.parent is None:
        return whole
    place = np.full(len(objects) + 1, -1, np.int64)
    place[still] = np.arange(len(still))
    place[reshaped] = len(still) + np.arange(len(reshaped))
    links = np.concatenate([place[objects.parent[still]], place[objects.parent[reshaped]]])
    return _joined(whole, links, len(added))


def _drawn(base: Objects, reshaped: NDArray[np.int64], edits: Sequence[Edit]) -> Objects:
    """Return the reshaped objects, then the added ones, with their new outlines."""
    old = base.take(reshaped)
    extra = len(edits) - len(reshaped)
    new = [base.classes.index(e.class_name or "") for e in edits[len(reshaped) :]]
    drawn = Objects.from_polygons(
        [e.polygon for e in edits],
        classes=base.classes,
        ids=np.array([e.id for e in edits], np.uint64).reshape(-1, 2),
        class_index=np.concatenate([old.class_index, np.array(new, np.uint8)]),
        score=np.concatenate([old.score, np.ones(extra, np.float32)]),
        features={
            name: np.concatenate([column, np.full(extra, np.nan, np.float32)])
            for name, column in old.features.items()
        },
    )
    return replace(drawn, valid=True)


def _joined(whole: Objects, links: NDArray[np.int64], added: int) -> Objects:
    """Return the objects with their parents; an added nucleus gets the smallest cell around it."""
    parent = np.concatenate([links, np.full(added, -1, np.int64)])
    first = len(whole) - added
    loose = [
        row for row in range(first, len(whole)) if whole.classes[whole.class_index[row]] == _NUCLEUS
    ]
    if not loose:
        return replace(whole, parent=parent)
    bounds = whole.bounds()
    cells = is_cell(replace(whole, parent=parent))
    cells |= np.array([name == CELL_CLASS for name in whole.classes])[whole.class_index]
    for row, polygon in zip(loose, whole.take(np.array(loose)).polygons(), strict=True):
        point = polygon.representative_point()
        around = cells & (bounds[:, 0] <= point.x) & (bounds[:, 2] >= point.x)
        near = np.flatnonzero(around & (bounds[:, 1] <= point.y) & (bounds[:, 3] >= point.y))
        shapes = whole.take(near).polygons()
        inside = [(s.area, int(n)) for s, n in zip(shapes, near, strict=True) if s.covers(point)]
        parent[row] = min(inside, default=(math.inf, -1))[1]
    return replace(whole, parent=parent)


def edits_between(original: SortedObjects, after: Objects) -> list[dict[str, Any]]:
    """Return the edits that lead from the objects of a run to others, as the page has them.

    Raises
    ------
    DataError
        so much differs that the two belong to different runs
    """
    rows = original.rows_of(after.ids)
    gone = np.setdiff1d(np.arange(len(original.objects)), rows)
    found = np.flatnonzero(rows >= 0)
    before, now = original.outlines.get().take(rows[found]), after.take(found)
    moved = _differs(before, now)
    names_before, names_now = np.array(before.classes), np.array(now.classes)
    renamed = np.zeros(len(found), np.bool_)
    if len(found):
        renamed = names_before[before.class_index] != names_now[now.class_index]
    changed = np.flatnonzero(moved | renamed)
    added = np.flatnonzero(rows < 0)
    if (count := len(gone) + len(changed) + len(added)) > MOST_EDITS:
        raise DataError(f"{count} objects differ from the run, more than {MOST_EDITS}")
    edits: list[dict[str, Any]] = [
        {"id": id_text(original.objects.ids[row]), "row": int(row), "deleted": True} for row in gone
    ]
    for k in changed:
        flags = {"moved": bool(moved[k]), "renamed": bool(renamed[k])}
        edits.append(_entry(now, int(k), row=int(rows[found[k]])) | flags)
    return edits + [_entry(after, int(k), row=-1) for k in added]


def _entry(objects: Objects, k: int, *, row: int) -> dict[str, Any]:
    (polygon,) = objects.take(np.array([k])).polygons()
    name = objects.classes[objects.class_index[k]]
    return {
        "id": id_text(objects.ids[k]), "row": row, "deleted": False, "class": name,
        "rings": rings_of(polygon), "moved": True, "renamed": True,
    }  # fmt: skip


def rings_of(polygon: shapely.Polygon) -> list[list[list[float]]]:
    """Return the rings of a polygon as lists of x and y; the last point repeats the first."""
    rings = (polygon.exterior, *polygon.interiors)
    return [shapely.get_coordinates(ring).tolist() for ring in rings]


def _differs(before: Objects, now: Objects) -> NDArray[np.bool_]:
    """Return which outlines differ, bool (n,)."""
    sizes = [_vertex_counts(o) for o in (before, now)]
    other: NDArray[np.bool_] = sizes[0] != sizes[1]
    same = np.flatnonzero(~other)
    if len(same):
        a, b = before.take(same), now.take(same)
        apart = np.abs(a.coords - b.coords).max(axis=1)
        starts = a.ring_offsets[a.object_offsets[:-1]]
        other[same] = np.maximum.reduceat(apart, starts) > _SAME_PX
    rows = np.flatnonzero(other)
    if len(rows):  # another program may begin a ring at another vertex
        pairs = [shapely.normalize(o.take(rows).polygons()) for o in (before, now)]
        other[rows] = ~shapely.equals_exact(pairs[0], pairs[1], _SAME_PX)
    return other


def _vertex_counts(objects: Objects) -> NDArray[np.int64]:
    return np.diff(objects.ring_offsets[objects.object_offsets])
