"""The visible and the overlapped parts of cells that are run-length masks; see `hidden_parts`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from wsi_pipeline.evaluation.hidden_parts import CellParts, match_cells
from wsi_pipeline.evaluation.mask_metrics import mask_overlaps
from wsi_pipeline.evaluation.masks import Masks, Rle

__all__ = ["mask_parts"]


def mask_parts(drawn: Masks, truth: Masks) -> CellParts:
    """Return the parts of the cells of one image; areas are in pixels."""
    table, neighbours = mask_overlaps(drawn, truth), mask_overlaps(truth, truth)
    partner, well = match_cells(table)
    # Rows: visible and overlapped pixels of the true cell, of the drawn one, and of both.
    parts = np.zeros((3, len(truth), 2))
    for cell, mine in enumerate(partner):
        near = [neighbours.b[neighbours.a == cell], table.b[table.a == mine]]
        others = [truth.rles[k] for k in np.unique(np.concatenate(near)) if k != cell]
        masks = [truth.rles[cell]]
        if mine >= 0:
            masks += [drawn.rles[mine], coco.merge([drawn.rles[mine], masks[0]], intersect=True)]
        parts[: len(masks), cell] = _divided(masks, others)
    return CellParts(parts[0], parts[1], parts[2], partner >= 0, well)


def _divided(masks: Sequence[Rle], others: Sequence[Rle]) -> NDArray[np.float64]:
    """Return the pixels of each mask outside and inside the `others`, float64 (masks, 2)."""
    area = np.asarray(coco.area(list(masks)), np.float64)
    inside = np.zeros(len(masks))
    if others:
        covered = coco.merge(list(others))
        common = [coco.merge([mask, covered], intersect=True) for mask in masks]
        inside = np.asarray(coco.area(common), np.float64)
    return np.stack([area - inside, inside], axis=1)
