"""Scores of cells, their nuclei and the links between them against the truth of a slide."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from wsiseg_models.metrics import average_precision

from wsi_pipeline.core.objects import Objects, is_cell
from wsi_pipeline.evaluation.matching import Overlaps, match_objects, object_overlaps, ratio

__all__ = ["ap_hits", "polygon_ap", "score_cells"]


def polygon_ap(found: Objects, truth: Objects, iou: float = 0.5) -> float:
    """Return AP of polygons at one IoU, as COCO computes it, without a limit on their number.

    In order of falling score, each found polygon takes the true one of highest IoU that is not
    taken yet; it is a hit if there is one of at least `iou`. See `average_precision` for the mean
    over recalls. NaN where there is no truth.
    """
    if len(truth) == 0:
        return math.nan
    hit = ap_hits(object_overlaps(found, truth, iou), found.score, iou)
    return average_precision(found.score, hit, len(truth))


def ap_hits(table: Overlaps, score: NDArray[np.floating], iou: float) -> NDArray[np.bool_]:
    """Return which found objects are hits, bool (found,); see `polygon_ap` for the rule."""
    rank = np.empty(len(score), np.int64)
    rank[np.argsort(-score, kind="stable")] = np.arange(len(score))
    value = table.iou
    hit = np.zeros(len(score), np.bool_)
    free = np.ones(len(table.area_b), np.bool_)
    for pair in np.lexsort((-value, rank[table.a])):
        mine, true = table.a[pair], table.b[pair]
        if value[pair] >= iou and free[true] and not hit[mine]:
            hit[mine], free[true] = True, False
    return hit


def score_cells(
    found: Objects,
    truth_nuclei: Objects,
    truth_cells: Objects,
    links: NDArray[np.int64],
    *,
    iou: float = 0.5,
) -> dict[str, float]:
    """Return scores of cells, of nuclei and of their links. Ratios are NaN where they are 0 ÷ 0.

    A link joins a nucleus to the cell that holds it. A true link is right if its nucleus and its
    cell were found and the found nucleus has the found cell as parent. ``links right`` is right ÷
    true links whose nucleus and cell were both found; ``links found`` is right ÷ all true links.

    Parameters
    ----------
    found
        cells and nuclei (see `is_cell`) with their `parent`
    truth_nuclei, truth_cells
        true nuclei and true cells
    links
        int64 (true nuclei,): position of the true cell that holds each nucleus, −1 for none
    iou
        smallest IoU at which a found and a true object are the same

    Raises
    ------
    ValueError
        `iou` is not above 0 and at most 1, or `links` does not fit the truth
    """
    if len(links) != len(truth_nuclei) or (links >= len(truth_cells)).any():
        raise ValueError(
            f"{len(links)} links up to cell {links.max(initial=-1)} do not fit "
            f"{len(truth_nuclei)} true nuclei and {len(truth_cells)} true cells"
        )
    in_cells = is_cell(found)
    cell_at, nucleus_at = np.flatnonzero(in_cells), np.flatnonzero(~in_cells)
    cells = match_objects(found.take(cell_at), truth_cells, iou)
    nuclei = match_objects(found.take(nucleus_at), truth_nuclei, iou)
    # Position in `found` of the object that matches each true one, −1 for none.
    its_cell = np.full(len(truth_cells), -1)
    its_cell[cells.pairs[:, 1]] = cell_at[cells.pairs[:, 0]]
    its_nucleus = np.full(len(truth_nuclei), -1)
    its_nucleus[nuclei.pairs[:, 1]] = nucleus_at[nuclei.pairs[:, 0]]
    linked = np.flatnonzero(links >= 0)
    nucleus, cell = its_nucleus[linked], its_cell[links[linked]]
    both = (nucleus >= 0) & (cell >= 0)
    parent = np.full(len(found), -1) if found.parent is None else found.parent
    right = int((parent[nucleus[both]] == cell[both]).sum())
    return {
        "cells": cells.predicted,
        "true cells": cells.true,
        "cell AP": polygon_ap(found.take(cell_at), truth_cells, iou),
        "cell F1": cells.f1,
        "cell mean IoU": cells.sq,
        "nuclei": nuclei.predicted,
        "true nuclei": nuclei.true,
        "nucleus F1": nuclei.f1,
        "true links": len(linked),
        "links right": float(ratio(right, both.sum())),
        "links found": float(ratio(right, len(linked))),
    }
