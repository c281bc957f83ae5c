"""Compare corrected objects with those of the run: added, removed, reshaped, of another class.

Objects are the same where they have the same id. QuPath gives a new id to an object that is split,
merged, or copied; so an object whose id is not in the other list is the same as the object there
that is not paired yet and overlaps it most, with an IoU of at least `SAME_IOU`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.objects import Objects
from wsi_pipeline.corrections.read import id_text

__all__ = ["Changes", "compare", "inside"]

SAME_IOU = 0.5
"""Objects with different ids are the same from this IoU on."""
SAME_SHAPE = 0.995
"""An outline was changed below this IoU; QuPath itself rounds coordinates."""


@dataclass(frozen=True)
class Changes:
    """What a person changed inside the areas.

    Attributes
    ----------
    run, corrected
        number of objects of the run, and of corrected objects
    unchanged
        number of objects with the same outline and class
    added, removed
        id and class of each
    reshaped
        id and class of each, and the IoU of both outlines
    reclassified
        id of each, and both classes
    other_ids
        number of objects that were paired by their outlines
    """

    run: int
    corrected: int
    unchanged: int
    added: Sequence[tuple[str, str]]
    removed: Sequence[tuple[str, str]]
    reshaped: Sequence[tuple[str, str, float]]
    reclassified: Sequence[tuple[str, str, str]]
    other_ids: int

    def record(self) -> dict[str, Any]:
        """Return the changes as JSON values."""
        return {
            "objects_of_run": self.run,
            "objects_corrected": self.corrected,
            "unchanged": self.unchanged,
            "paired_by_outline": self.other_ids,
            "added": [{"id": i, "class": c} for i, c in self.added],
            "removed": [{"id": i, "class": c} for i, c in self.removed],
            "reshaped": [{"id": i, "class": c, "iou": round(v, 4)} for i, c, v in self.reshaped],
            "reclassified": [{"id": i, "from": a, "to": b} for i, a, b in self.reclassified],
        }

    def lines(self) -> list[str]:
        """Return one line for each kind of change."""
        kinds = Counter(f"{a} → {b}" for _, a, b in self.reclassified)
        return [
            f"unchanged  {self.unchanged} of {self.run}",
            f"added      {_counted(Counter(c for _, c in self.added))}",
            f"removed    {_counted(Counter(c for _, c in self.removed))}",
            f"reshaped   {_counted(Counter(c for _, c, _ in self.reshaped))}",
            f"class      {_counted(kinds)}",
        ]


def _counted(counts: Counter[str]) -> str:
    if not counts:
        return "0"
    return f"{counts.total()} (" + ", ".join(f"{n} {c}" for c, n in sorted(counts.items())) + ")"


def inside(objects: Objects, area: shapely.Geometry) -> NDArray[np.bool_]:
    """Return which objects have their centroid in an area, bool (n,), as QuPath counts."""
    shapely.prepare(area)
    return np.asarray(shapely.contains(area, shapely.centroid(objects.polygons())), bool)


def compare(run: Objects, corrected: Objects, area: shapely.Geometry) -> Changes:
    """Compare the objects of a run with corrected ones, inside an area.

    An object counts where its centroid lies in the area, before or after the correction.
    """
    pairs, by_outline = _pairs(run, corrected)
    here, there = inside(run, area), inside(corrected, area)
    before, after = _names(run), _names(corrected)
    paired = [(i, j) for i, j in pairs if here[i] or there[j]]
    a, b = run.polygons(), corrected.polygons()
    iou = _iou(a[[i for i, _ in paired]], b[[j for _, j in paired]])
    texts = [id_text(corrected.ids[j]) for _, j in paired]
    reshaped = [
        (text, after[j], float(v))
        for (_, j), text, v in zip(paired, texts, iou, strict=True)
        if v < SAME_SHAPE
    ]
    reclassified = [
        (text, before[i], after[j])
        for (i, j), text in zip(paired, texts, strict=True)
        if before[i] != after[j]
    ]
    changed = {text for text, *_ in (*reshaped, *reclassified)}
    gone = here & ~np.isin(np.arange(len(run)), [i for i, _ in pairs])
    new = there & ~np.isin(np.arange(len(corrected)), [j for _, j in pairs])
    return Changes(
        run=int(here.sum()),
        corrected=int(there.sum()),
        unchanged=len(paired) - len(changed),
        added=[(id_text(corrected.ids[j]), after[j]) for j in np.flatnonzero(new)],
        removed=[(id_text(run.ids[i]), before[i]) for i in np.flatnonzero(gone)],
        reshaped=reshaped,
        reclassified=reclassified,
        other_ids=sum((i, j) in by_outline for i, j in paired),
    )


def _names(objects: Objects) -> list[str]:
    return [objects.classes[k] for k in objects.class_index]


def _pairs(run: Objects, corrected: Objects) -> tuple[list[tuple[int, int]], set[tuple[int, int]]]:
    """Return the pairs of the same object, and which of them were paired by their outlines."""
    places = {key: i for i, key in enumerate(map(tuple, run.ids.tolist()))}
    by_id = [
        (places[key], j)
        for j, key in enumerate(map(tuple, corrected.ids.tolist()))
        if key in places
    ]
    left = np.setdiff1d(np.arange(len(run)), [i for i, _ in by_id])
    right = np.setdiff1d(np.arange(len(corrected)), [j for _, j in by_id])
    a, b = run.polygons(), corrected.polygons()
    j, i = shapely.STRtree(a[left]).query(b[right], predicate="intersects")
    iou = _iou(a[left[i]], b[right[j]])
    found: set[tuple[int, int]] = set()
    free_a, free_b = set(left.tolist()), set(right.tolist())
    for k in np.argsort(-iou, kind="stable"):
        pair = int(left[i[k]]), int(right[j[k]])
        if iou[k] >= SAME_IOU and pair[0] in free_a and pair[1] in free_b:
            found.add(pair)
            free_a.remove(pair[0])
            free_b.remove(pair[1])
    return [*by_id, *sorted(found)], found


def _iou(a: NDArray[np.object_], b: NDArray[np.object_]) -> NDArray[np.float64]:
    shared = shapely.area(shapely.intersection(a, b))
    return np.asarray(shared / np.maximum(shapely.area(a) + shapely.area(b) - shared, 1e-9), float)
