"""How well the objects of a run agree with a file of true objects (`wsiseg score`)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from wsi_pipeline.core.errors import DataError, UsageError
from wsi_pipeline.core.objects import CELL_CLASS, Objects, is_cell
from wsi_pipeline.evaluation.cell_metrics import score_cells
from wsi_pipeline.evaluation.matching import match_objects
from wsi_pipeline.formats.convert import read_objects

__all__ = ["score_run"]


def score_run(
    source: Path, truth: Path, *, iou: float, class_name: str | None, cells: Path | None = None
) -> dict[str, Any]:
    """Compare the objects of a run folder or file with a file of true objects.

    Parameters
    ----------
    source, truth
        run folders or files, see `read_objects`
    iou
        smallest IoU at which a found and a true object are the same
    class_name
        compare objects of this class only; None: all objects, whatever their class
    cells
        a file of true cells, to compare cells and links too. Where this file also holds nuclei
        with the cell of each, these nuclei are the truth instead of `truth`.

    Returns
    -------
    dict
        name of a count or score → its value, rounded to four digits; None where it is undefined

    Raises
    ------
    UsageError, DataError
        the threshold or the class does not exist, or a file cannot be read
    """
    if not 0 < iou <= 1:
        raise UsageError(f"--iou {iou:g} must be above 0 and at most 1; try 0.5")
    if cells is not None:
        if class_name is not None:
            raise UsageError("--cells compares cells and nuclei; leave --class out")
        return _score_cells(source, truth, cells, iou)
    found, true = (_objects_of_class(path, class_name) for path in (source, truth))
    match = match_objects(found, true, iou)
    ratios = {
        "F1": match.f1,
        "precision": match.precision,
        "recall": match.recall,
        "mean IoU": match.sq,
    }
    return {
        "objects": match.predicted,
        "truth": match.true,
        "difference": match.predicted - match.true,
        "matched": match.tp,
        **{name: _rounded(value) for name, value in ratios.items()},
        "IoU threshold": iou,
    }


def _objects_of_class(source: Path, class_name: str | None) -> Objects:
    objects = read_objects(source)
    if class_name is None:
        return objects
    if class_name not in objects.classes:
        known = ", ".join(objects.classes) or "none"
        raise UsageError(f"{source} has no class {class_name!r}; it has {known}")
    return objects.take(objects.class_index == objects.classes.index(class_name))


def _score_cells(source: Path, truth: Path, cells: Path, iou: float) -> dict[str, Any]:
    found, nuclei, whole = (read_objects(path) for path in (source, truth, cells))
    in_cells = is_cell(whole)
    if len(whole) and not in_cells.any():
        raise DataError(f"{cells} has {len(whole)} objects and none of class {CELL_CLASS!r}")
    links = np.full(len(nuclei), -1)
    if whole.parent is not None and not in_cells.all():
        # The last entry serves the parent −1.
        position = np.append(np.where(in_cells, np.cumsum(in_cells) - 1, -1), -1)
        nuclei, links = whole.take(~in_cells), position[whole.parent[~in_cells]]
    scores = score_cells(found, nuclei, whole.take(in_cells), links, iou=iou)
    return {**{name: _rounded(v) for name, v in scores.items()}, "IoU threshold": iou}


def _rounded(value: float) -> float | None:
    """Return a score with four digits, a count as it is, and None for NaN."""
    if isinstance(value, int):
        return value
    return None if math.isnan(value) else round(value, 4)
