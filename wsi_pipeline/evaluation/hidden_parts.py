"""How well cells are drawn where other cells lie over or under them, and where none does.

Truth rarely states which of two cells lies on top, so a true cell is divided by its neighbours
alone. The *overlapped* part is what other true cells cover, the *visible* part is the rest. The
area of all other true cells divides the drawn cell in the same way, so that each pixel that is
drawn wrongly counts in one of the parts.

Cells are grouped by the share of their area that is overlapped. The limits "none" and 25 % are
those of COCOA (Zhu et al., Semantic Amodal Segmentation, CVPR 2017; amodalAPI, `evalWrapper`, where
the groups are none, partial and heavy). Here cells above 25 % are divided once more, at 50 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.evaluation.matching import Overlaps, match_overlaps, ratio

__all__ = [
    "GROUPS",
    "CellParts",
    "describe_groups",
    "geometry_parts",
    "match_cells",
    "score_parts",
]

LEAST_SHARE = 1e-5
"""A part with at most this share of its true cell counts as absent."""

GROUPS: Mapping[str, tuple[float, float]] = {
    "all": (-math.inf, math.inf),
    "none": (-math.inf, LEAST_SHARE),
    "light": (LEAST_SHARE, 0.25),
    "medium": (0.25, 0.5),
    "heavy": (0.5, math.inf),
}
"""Group → overlapped share of its true cells: above the first limit, up to the second."""

FOUND_IOU, WELL_FOUND_IOU = 0.5, 0.7
"""Least IoU of a drawn and a true whole cell that are the same; that of the stricter recall."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Areas = NDArray[np.object_]


@dataclass(frozen=True, eq=False)
class CellParts:
    """The true cells of a field (n) and the drawn cells that match them.

    Attributes
    ----------
    true
        float64 (n, 2): area of the visible and of the overlapped part
    drawn
        float64 (n, 2): area of the matched drawn cell outside and inside all other true cells;
        0 where no drawn cell matches
    shared
        float64 (n, 2): area that is both drawn and true
    found, well_found
        bool (n,): a drawn cell matches at `FOUND_IOU`, and at `WELL_FOUND_IOU`
    """

    true: Floats
    drawn: Floats
    shared: Floats
    found: Bools
    well_found: Bools

    @staticmethod
    def pool(fields: Sequence[CellParts]) -> CellParts:
        """Return the cells of several fields as one."""
        pair, flag = [np.zeros((0, 2))], [np.zeros(0, np.bool_)]
        return CellParts(
            np.concatenate(pair + [one.true for one in fields]),
            np.concatenate(pair + [one.drawn for one in fields]),
            np.concatenate(pair + [one.shared for one in fields]),
            np.concatenate(flag + [one.found for one in fields]),
            np.concatenate(flag + [one.well_found for one in fields]),
        )


def describe_groups() -> str:
    """Return a heading for tables of `score_parts`."""
    light, medium = (GROUPS[name][1] for name in ("light", "medium"))
    return (
        "Whole cells by the share that other true cells overlap: none, light (up to "
        f"{100 * light:.0f} %), medium (up to {100 * medium:.0f} %), heavy"
    )


def match_cells(table: Overlaps) -> tuple[NDArray[np.int64], Bools]:
    """Return for each true cell its drawn cell (n,), −1 for none, and whether it is well found."""
    partner = np.full(len(table.area_b), -1)
    pairs = match_overlaps(table, FOUND_IOU).pairs
    partner[pairs[:, 1]] = pairs[:, 0]
    well = np.zeros(len(partner), np.bool_)
    well[match_overlaps(table, WELL_FOUND_IOU).pairs[:, 1]] = True
    return partner, well


def geometry_parts(drawn: Areas, truth: Areas, table: Overlaps) -> CellParts:
    """Return the parts of cells that are valid shapely areas.

    Parameters
    ----------
    table
        overlaps of `drawn` and `truth`, with all pairs of IoU `FOUND_IOU` or more
    """
    partner, well = match_cells(table)
    found = partner >= 0
    mine = np.full(len(truth), shapely.Polygon(), object)
    mine[found] = drawn[partner[found]]
    # Only neighbours that touch a cell or its drawn cell can change the areas of its parts.
    tree = shapely.STRtree(truth)
    near = [tree.query(cells, predicate="intersects") for cells in (truth, mine)]
    cell, other = np.unique(np.concatenate(near, axis=1), axis=1)
    cell, other = cell[cell != other], other[cell != other]
    groups = np.split(other, np.searchsorted(cell, np.arange(1, len(truth))))
    others = np.array([shapely.union_all(truth[g]) for g in groups[: len(truth)]], object)

    def parts(areas: Areas) -> Floats:
        inside = shapely.area(shapely.intersection(areas, others))
        return np.stack([np.maximum(shapely.area(areas) - inside, 0), inside], axis=1)

    both = shapely.intersection(mine, truth)
    # Outlines that also touch along a line give a collection, which GEOS does not intersect.
    mixed = shapely.get_type_id(both) == shapely.GeometryType.GEOMETRYCOLLECTION
    both[mixed] = shapely.buffer(both[mixed], 0)
    return CellParts(parts(truth), parts(mine), parts(both), found, well)


def score_parts(fields: Sequence[CellParts]) -> dict[str, dict[str, float]]:
    """Return group → name → value over the cells of all fields; NaN where there is nothing.

    ::

        true                    true cells
        recall 0.5, recall 0.7  found ÷ true cells, at that IoU of the whole cell
        IoU, Dice               of the whole cell
        visible …               of the part outside all other true cells
        overlapped …            of the part inside other true cells
        … (missed 0)            with 0 for each true cell that is not found
        area in overlap         true area that is overlapped ÷ true area
        error in overlap        wrong area inside other true cells ÷ wrong area

    IoU and Dice are means over the found cells whose true cell has that part, and ``(missed 0)``
    over all true cells that have it. The last two are sums over the found cells; wrong is what is
    drawn and not true, and what is true and not drawn.
    """
    cells = CellParts.pool(fields)
    share = ratio(cells.true[:, 1], cells.true.sum(axis=1))
    return {
        name: _scores(cells, (share > low) & (share <= high))
        for name, (low, high) in GROUPS.items()
    }


def _scores(cells: CellParts, chosen: Bools) -> dict[str, float]:
    """Return the scores of the chosen true cells."""
    true, drawn, shared = cells.true[chosen], cells.drawn[chosen], cells.shared[chosen]
    found = cells.found[chosen]
    share = true / true.sum(axis=1, keepdims=True)
    out: dict[str, float] = {
        "true": len(found),
        "recall 0.5": _mean(found),
        "recall 0.7": _mean(cells.well_found[chosen]),
    }
    for prefix, columns in (("", [0, 1]), ("visible ", [0]), ("overlapped ", [1])):
        there = share[:, columns].sum(axis=1) > LEAST_SHARE
        a, b, both = (part[:, columns].sum(axis=1) for part in (drawn, true, shared))
        iou = ratio(both, a + b - both)
        out[f"{prefix}IoU"] = _mean(iou[there & found])
        out[f"{prefix}Dice"] = _mean(ratio(2 * both, a + b)[there & found])
        out[f"{prefix}IoU (missed 0)"] = _mean(iou[there])
    wrong = (drawn + true - 2 * shared)[found].sum(axis=0)
    area = true[found].sum(axis=0)
    out["area in overlap"] = float(ratio(area[1], area.sum()))
    out["error in overlap"] = float(ratio(wrong[1], wrong.sum()))
    return out


def _mean(values: Floats | Bools) -> float:
    return float(np.asarray(values, np.float64).mean()) if len(values) else math.nan
