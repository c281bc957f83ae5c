"""Which drawn cells count: those with a nucleus, drawn once, whose outline no box cuts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.objects import CELL_CLASS, CYTOPLASM, Objects, is_cell
from wsi_pipeline.core.run_layout import PARQUET, read_run
from wsi_pipeline.formats.parquet_rows import read_boxes, read_rows
from wsi_pipeline.reports.glass_check import cells_on_glass
from wsi_pipeline.segmentation.cell_copies import cell_copies
from wsi_pipeline.slides.slide import Slide

__all__ = ["FAULT_COLUMNS", "CellCheck", "check_cells", "is_straight"]

STRAIGHT = 0.5
"""A box cuts an outline of which more than this share of one side of its bounding box is outline.

The rule of experiments/results/cell_rules.md. Of the true cells of a generated slide none has it.
"""
STRAIGHT_UM = 0.4
"""How far an outline may lie from the side of its bounding box, µm."""
STRIP = 50_000
"""Cells whose outlines are compared at once."""

Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class CellCheck:
    """Faults of the n objects of a run, bool (n,); a cell has one at most, the first of these.

    Attributes
    ----------
    doubled
        a better cell is the same one, see `cell_copies`
    without_nucleus
        no nucleus was found in it
    cut
        a box of the network cuts its outline
    on_glass
        there is only glass under it; None where the pixels were not looked at
    """

    doubled: Bools
    without_nucleus: Bools
    cut: Bools
    on_glass: Bools | None = None

    @property
    def faulty(self) -> Bools:
        """Which objects are cells that do not count, bool (n,)."""
        drawn = self.doubled | self.without_nucleus | self.cut
        return np.asarray(drawn if self.on_glass is None else drawn | self.on_glass)

    def counts(self) -> dict[str, int | None]:
        """Return the columns `FAULT_COLUMNS` of a run's row."""
        found = {name: getattr(self, fault) for name, fault in FAULT_COLUMNS.items()}
        return {name: None if rows is None else int(rows.sum()) for name, rows in found.items()}


FAULT_COLUMNS: Mapping[str, str] = MappingProxyType(
    {
        "doubled_cells": "doubled",
        "cells_without_nucleus": "without_nucleus",
        "cut_cells": "cut",
        "cells_on_glass": "on_glass",
    }
)
"""Column of a run's row → fault that it counts."""


def check_cells(folder: Path, slide: Slide | None = None) -> CellCheck | None:
    """Return the faults of the cells of a run; None where no object holds another.

    Parameters
    ----------
    folder
        the run folder
    slide
        its slide, to find cells on glass

    Raises
    ------
    DataError
        the run cannot be read
    """
    path = folder / PARQUET
    run = read_run(folder)
    classes = set(run["model"]["classes"])
    if CELL_CLASS not in classes:
        return None
    about, size = path.stat(), (run["slide"]["width"], run["slide"]["height"])
    mpp = (run["slide"]["mpp"]["x"] + run["slide"]["mpp"]["y"]) / 2
    found = _checked(path, about.st_mtime_ns, about.st_size, mpp, size)
    if found is not None and not classes - {CELL_CLASS, CYTOPLASM}:  # nobody looked for nuclei
        found = replace(found, without_nucleus=np.zeros_like(found.doubled))
    if found is not None and slide is not None:
        found = replace(found, on_glass=cells_on_glass(folder, slide) & ~found.faulty)
    return found


@lru_cache(maxsize=4)
def _checked(
    path: Path, changed: int, size: int, mpp: float, slide: tuple[int, int]
) -> CellCheck | None:
    """Return the faults in a file; `changed` and `size` tell whether it is still the same."""
    light = read_boxes(path, ())
    if light.parent is None:
        return None
    cells = is_cell(light)
    doubled, cut = np.zeros((2, len(light)), bool)
    for own, around in _strips(light, np.flatnonzero(cells)):
        rows = np.union1d(own, around)
        held = np.flatnonzero(np.isin(light.parent, rows))
        objects = read_rows(path, np.union1d(rows, held), light.parent)
        place = np.searchsorted(np.union1d(rows, held), own)
        doubled[own] = cell_copies(objects)[place]
        cut[own] = is_straight(objects.take(place), mpp, slide)
    without = cells & ~doubled
    without[light.parent[light.parent >= 0]] = False
    return CellCheck(doubled, without, cut & ~doubled & ~without)


def _strips(
    light: Objects, cells: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield cells of a horizontal strip of the slide, and further ones that may touch them."""
    box = light.bounds()[cells]
    order = np.argsort(box[:, 1], kind="stable")
    for start in range(0, len(cells), STRIP):
        own = order[start : start + STRIP]
        top, bottom = box[own, 1].min(), box[own, 3].max()
        near = (box[:, 3] >= top) & (box[:, 1] <= bottom)
        yield cells[own], cells[near]


def is_straight(objects: Objects, mpp: float, slide: tuple[int, int]) -> Bools:
    """Return which outlines a box cuts, bool (n,).

    The borders of the slide do not count: there the cell itself is cut.

    Parameters
    ----------
    mpp
        µm per level-0 pixel
    slide
        width and height of the slide, level-0 pixels

    Examples
    --------
    >>> import shapely
    >>> disc = shapely.Point(50, 50).buffer(30)
    >>> objects = Objects.from_polygons(
    ...     [disc, disc & shapely.box(0, 0, 60, 100)], classes=("cell",),
    ...     ids=np.zeros((2, 2), np.uint64), class_index=np.zeros(2, np.uint8),
    ...     score=np.ones(2, np.float32),
    ... )
    >>> is_straight(objects, 0.5, (1000, 1000)).tolist()
    [False, True]
    """
    n, near = len(objects), STRAIGHT_UM / mpp
    if not n:
        return np.zeros(0, bool)
    first = objects.ring_offsets[objects.object_offsets[:-1]]
    edges = objects.ring_offsets[objects.object_offsets[:-1] + 1] - first - 1
    owner = np.repeat(np.arange(n), edges)
    at = np.arange(edges.sum()) + np.repeat(first - (np.cumsum(edges) - edges), edges)
    a, b = objects.coords[at], objects.coords[at + 1]
    box = objects.bounds()
    straight = np.zeros(n, bool)
    for side in range(4):
        axis = side % 2
        line, border = box[:, side], slide[axis] if side > 1 else 0
        on = (np.abs(a[:, axis] - line[owner]) <= near) & (np.abs(b[:, axis] - line[owner]) <= near)
        length = np.abs(a[:, 1 - axis] - b[:, 1 - axis])
        along = np.bincount(owner[on], length[on], minlength=n)
        extent = box[:, 3 - axis] - box[:, 1 - axis]
        straight |= (along > STRAIGHT * extent) & (np.abs(line - border) > near)
    return straight
