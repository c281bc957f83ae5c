"""Measure one model on the fields of a suite, segmented as `wsiseg run` does it.

The function that segments a field comes from the caller, since it belongs to a package beside this
one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.objects import CELL_CLASS, Objects, is_cell
from wsi_pipeline.core.progress import progress
from wsi_pipeline.evaluation.hidden_parts import geometry_parts, score_parts
from wsi_pipeline.evaluation.suite_measures import (
    Compared,
    Marked,
    compare,
    find_marks,
    score_marks,
    score_outlines,
)
from wsi_pipeline.evaluation.suite_sets import SuiteField, SuiteSet
from wsi_pipeline.evaluation.suite_stain import ghost_cells, mean_density, optical_density
from wsi_pipeline.segmentation.kinds import ABNORMAL, NOT_CELLS, has_kinds
from wsi_pipeline.segmentation.model import Model
from wsi_pipeline.slides.slide import Slide, open_slide

__all__ = ["Drawn", "SegmentSlide", "field_rows", "measure_field", "measure_model"]

SegmentSlide = Callable[[Slide, Model, RunConfig], Objects]
"""Returns the objects of a small slide, those of a run with these settings."""

SetScores = dict[str, dict[str, Any]]

Areas = NDArray[np.object_]


@dataclass(frozen=True, eq=False)
class Drawn:
    """What a model drew in one field, and how it compares with the truth.

    Attributes
    ----------
    field
        the field
    nuclei, cells
        shapely areas of the drawn nuclei (n,) and cells (m,), pixels of the field
    ghosts
        bool (m,), which cells have no stain under them
    of_nuclei, of_cells, marks
        comparisons; None where the field has no such truth, or the model draws no cells
    """

    field: SuiteField
    nuclei: Areas
    cells: Areas
    ghosts: NDArray[np.bool_]
    of_nuclei: Compared | None
    of_cells: Compared | None
    marks: Marked | None

    @property
    def quality(self) -> float:
        """Mean PQ of the classes with truth, or the share of marks found; NaN without truth."""
        if self.marks is not None:
            found = self.marks.nucleus >= 0
            return float(found.mean()) if len(found) else math.nan
        parts = [one.match.pq for one in (self.of_nuclei, self.of_cells) if one is not None]
        known = [value for value in parts if not math.isnan(value)]
        return float(np.mean(known)) if known else math.nan


def measure_model(
    model: Model,
    sets: Sequence[SuiteSet],
    config: RunConfig,
    segment: SegmentSlide,
    *,
    quiet: bool,
) -> tuple[dict[str, SetScores], dict[str, list[Drawn]]]:
    """Segment all fields of all sets with one model and measure them.

    Parameters
    ----------
    config
        settings of the run; those that belong to a slide are set per field
    segment
        segments one field
    quiet
        show no progress

    Returns
    -------
    scores, drawn
        set → ``nuclei``, ``cells`` or ``marks`` → name → value, NaN where undefined, and
        ``overlap`` → group → name → value (see `score_parts`); and set → what was drawn in each of
        its fields

    Raises
    ------
    SlideError
        a field cannot be read
    """
    scores: dict[str, SetScores] = {}
    drawn: dict[str, list[Drawn]] = {}
    bar = progress(sum(len(s.fields) for s in sets), desc=model.name, unit="field", quiet=quiet)
    for one in sets:
        drawn[one.name] = []
        for field in one.fields:
            drawn[one.name].append(measure_field(field, model, config, segment))
            bar.update()
        scores[one.name] = _set_scores(drawn[one.name], CELL_CLASS in model.classes)
    bar.close()
    return scores, drawn


def measure_field(
    field: SuiteField, model: Model, config: RunConfig, segment: SegmentSlide
) -> Drawn:
    """Segment one field and compare what was drawn with its truth; see `measure_model`."""
    with open_slide(field.path, mpp=field.mpp) as slide:
        objects = segment(slide, model, config)
        image = slide.read_region(Box(0, 0, slide.width, slide.height))
        density = optical_density(image, slide.background)
    whole, outlines = is_cell(objects), objects.polygons()
    nuclei, cells = outlines[~whole], outlines[whole]

    def against(truth: Areas | None, mine: NDArray[np.bool_]) -> Compared | None:
        if truth is None:
            return None
        return compare(
            outlines[mine], objects.score[mine], truth, field.unsure,
            mean_density(density, truth), mpp=field.mpp, min_area_um2=config.min_area_um2,
        )  # fmt: skip

    draws_cells = CELL_CLASS in model.classes
    return Drawn(
        field=field,
        nuclei=nuclei,
        cells=cells,
        ghosts=ghost_cells(density, cells, nuclei),
        of_nuclei=against(field.nuclei, ~whole),
        of_cells=against(field.cells, whole) if draws_cells else None,
        marks=_marks(field, objects.take(~whole), nuclei) if field.classes else None,
    )


def _marks(field: SuiteField, objects: Objects, nuclei: Areas) -> Marked:
    """Find the drawn nucleus of each mark."""
    area = np.array([one.area for one in nuclei], np.float64) * field.mpp**2
    measured: dict[str, NDArray[np.floating]] = {"area": area}
    if ABNORMAL in objects.features:
        measured[ABNORMAL] = objects.features[ABNORMAL]
    called = None
    if has_kinds(objects.classes):
        names = np.array(objects.classes)[objects.class_index]
        called = int((~np.isin(names, list(NOT_CELLS))).sum())
    found = find_marks(nuclei, field.points)
    return Marked(field.classes, found, len(nuclei), measured, called)


def _set_scores(fields: Sequence[Drawn], draws_cells: bool) -> SetScores:
    """Return the scores of one set: of nuclei, of cells and of marks, those that it has."""
    out: SetScores = {}
    nuclei = [one.of_nuclei for one in fields if one.of_nuclei is not None]
    if nuclei:
        out["nuclei"] = score_outlines(nuclei)
    if draws_cells:
        cells = [one.of_cells for one in fields if one.of_cells is not None]
        count = sum(int(one.ghosts.sum()) for one in fields)
        out["cells"] = {
            **(score_outlines(cells) if cells else {"images": len(fields)}),
            "drawn": sum(len(one.cells) for one in fields),
            "ghosts": count,
            "ghosts per field": count / len(fields),
            "fields with ghosts": sum(bool(one.ghosts.any()) for one in fields),
        }
        if cells:
            parts = [geometry_parts(one.drawn, one.truth, one.table) for one in cells]
            out["overlap"] = dict(score_parts(parts))
    marks = [one.marks for one in fields if one.marks is not None]
    if marks:
        out["marks"] = score_marks(marks, ABNORMAL)
    return out


def field_rows(drawn: Mapping[str, Sequence[Drawn]]) -> list[dict[str, Any]]:
    """Return one row per field: what was drawn in it and how good it is."""
    return [
        {
            "set": name,
            "field": one.field.name,
            "mpp": one.field.mpp,
            "nuclei": len(one.nuclei),
            "true nuclei": None if one.field.nuclei is None else len(one.field.nuclei),
            "cells": len(one.cells),
            "ghosts": int(one.ghosts.sum()),
            "marks": len(one.field.points),
            "marks found": int((one.marks.nucleus >= 0).sum()) if one.marks else 0,
            "quality": one.quality,
        }
        for name, fields in drawn.items()
        for one in fields
    ]
