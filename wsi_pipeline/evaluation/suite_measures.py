"""Measures of a suite: what is counted in one field, and the scores of all fields of a set.

All areas are polygons, so sizes are exact. A true nucleus below the run's least area counts as
unknown; a drawn object with more than half of its area in unknown ones is ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.stats import rankdata
from wsiseg_models.metrics import average_precision

from wsi_pipeline.evaluation.cell_metrics import ap_hits
from wsi_pipeline.evaluation.matching import (
    Match,
    Overlaps,
    geometry_overlaps,
    match_overlaps,
    ratio,
)

__all__ = [
    "SAME_NUCLEUS_IOU",
    "SIZE_IOU",
    "Compared",
    "Marked",
    "compare",
    "find_marks",
    "rank_auc",
    "score_marks",
    "score_outlines",
]

SAME_NUCLEUS_IOU = 0.5
"""Least IoU of a drawn and a true object that are the same, for F1, AP50 and PQ."""

SIZE_IOU = 0.3
"""Least IoU of pairs whose areas are compared: at 0.5 the worst sizes would not be counted."""

NORMAL = "NILM"
"""Class of marks that are normal; all others are abnormal."""

Areas = NDArray[np.object_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Compared:
    """Drawn and true outlines of one class in one field.

    Attributes
    ----------
    drawn, truth
        shapely areas of the objects that count, in pixels
    table
        pairs that share enough for `SIZE_IOU`; areas in pixels
    match
        one-to-one pairs of at least `SAME_NUCLEUS_IOU`
    scores
        float (drawn,)
    shared_px, united_px
        pixels that are drawn and true, and either
    px_um2
        µm² of a pixel
    density
        mean optical density of each true object, float64 (true,); NaN where it was not measured
    """

    drawn: Areas
    truth: Areas
    table: Overlaps
    match: Match
    scores: NDArray[np.floating]
    shared_px: float
    united_px: float
    px_um2: float
    density: Floats


def compare(
    drawn: Areas,
    scores: NDArray[np.floating],
    truth: Areas,
    unsure: Areas,
    density: Floats,
    *,
    mpp: float,
    min_area_um2: float,
) -> Compared:
    """Compare the drawn outlines of a field with the true ones; all are valid shapely areas.

    Parameters
    ----------
    unsure
        areas that are neither object nor background
    density
        see `Compared`
    min_area_um2
        true objects below this area count as unknown, as runs leave such objects out
    """
    large = shapely.area(truth) * mpp**2 >= min_area_um2
    unknown = shapely.union_all(np.concatenate([unsure, truth[~large]]))
    truth, density = truth[large], density[large]
    if len(unsure):  # a drawn object that fits a true one counts, wherever it lies
        unknown = shapely.difference(unknown, shapely.union_all(truth))
    inside = shapely.area(shapely.intersection(drawn, unknown))
    counted = inside <= 0.5 * shapely.area(drawn)
    drawn, scores = drawn[counted], scores[counted]
    table = geometry_overlaps(drawn, truth, SIZE_IOU)
    mine = shapely.difference(shapely.union_all(drawn), unknown)
    true = shapely.difference(shapely.union_all(truth), unknown)
    shared = float(shapely.area(shapely.intersection(mine, true)))
    return Compared(
        drawn=drawn,
        truth=truth,
        table=table,
        match=match_overlaps(table, SAME_NUCLEUS_IOU),
        scores=scores,
        shared_px=shared,
        united_px=float(shapely.area(mine) + shapely.area(true)) - shared,
        px_um2=mpp**2,
        density=density,
    )


def score_outlines(fields: Sequence[Compared]) -> dict[str, float]:
    """Return the scores of one class over all fields of a set; NaN where they are 0 ÷ 0.

    Counts and pairs are added over the fields first. ``count bias`` is drawn ÷ true − 1.
    ``area bias`` is the median of drawn ÷ true area − 1 over pairs of at least `SIZE_IOU`; of the
    ``palest quarter``, those whose true nucleus has a mean optical density in the set's lowest
    quarter; of the ``largest quarter``, those whose true area is in the set's highest quarter.
    """
    match = Match.pool([one.match for one in fields])
    hits = [ap_hits(one.table, one.scores, SAME_NUCLEUS_IOU) for one in fields]
    scores = np.concatenate([np.zeros(0), *(one.scores for one in fields)])
    hit = np.concatenate([np.zeros(0, np.bool_), *hits])
    return {
        "images": len(fields),
        "true": match.true,
        "drawn": match.predicted,
        "F1": match.f1,
        "precision": match.precision,
        "recall": match.recall,
        "AP50": average_precision(scores, hit, match.true),
        "PQ": match.pq,
        "foreground IoU": float(
            ratio(sum(one.shared_px for one in fields), sum(one.united_px for one in fields))
        ),
        "count bias": float(ratio(match.predicted, match.true)) - 1,
        **_area_bias(fields),
    }


def _area_bias(fields: Sequence[Compared]) -> dict[str, float]:
    """Return the median area bias of all pairs, of the palest and of the largest true objects."""
    size: list[Floats] = [np.zeros(0)]
    density: list[Floats] = [np.zeros(0)]
    bias: list[Floats] = [np.zeros(0)]
    for one in fields:
        pairs = match_overlaps(one.table, SIZE_IOU).pairs
        mine = np.full(len(one.table.area_b), math.nan)  # NaN where no drawn object is a pair
        mine[pairs[:, 1]] = one.table.area_a[pairs[:, 0]] / one.table.area_b[pairs[:, 1]] - 1
        bias.append(mine)
        size.append(one.table.area_b * one.px_um2)
        density.append(one.density)
    sizes, densities, values = (np.concatenate(v) for v in (size, density, bias))
    pale = densities <= _quantile(densities, 0.25)
    large = sizes >= _quantile(sizes, 0.75)
    return {
        "pairs for area": int(np.isfinite(values).sum()),
        "area bias": _median(values),
        "area bias, palest quarter": _median(values[pale]),
        "area bias, largest quarter": _median(values[large]),
    }


def _quantile(values: Floats, share: float) -> float:
    known = values[~np.isnan(values)]
    return float(np.quantile(known, share)) if len(known) else math.nan


def _median(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else math.nan


@dataclass(frozen=True, eq=False)
class Marked:
    """The marks of one field and the drawn nuclei that contain them.

    Attributes
    ----------
    classes
        class of each mark (m,)
    nucleus
        int64 (m,): position of the smallest drawn nucleus that contains the mark, −1 for none
    drawn
        number of drawn nuclei
    measured
        measurement → float (drawn,), one value per drawn nucleus; ``area`` in µm² is always there
    called
        how many drawn nuclei are called nuclei, that is neither leukocytes nor other; None: the
        model does not sort nuclei
    """

    classes: tuple[str, ...]
    nucleus: NDArray[np.int64]
    drawn: int
    measured: Mapping[str, NDArray[np.floating]] = field(default_factory=dict)
    called: int | None = None


def find_marks(drawn: Areas, points: Floats) -> NDArray[np.int64]:
    """Return for each point (m, 2) the smallest drawn area that contains it, −1 for none."""
    found = np.full(len(points), -1, np.int64)
    if len(drawn) == 0 or len(points) == 0:
        return found
    mark, nucleus = shapely.STRtree(drawn).query(shapely.points(points), predicate="intersects")
    # The last one that is written stays, so the smallest comes last.
    order = np.argsort(-shapely.area(drawn[nucleus]), kind="stable")
    found[mark[order]] = nucleus[order]
    return found


def score_marks(fields: Sequence[Marked], probability: str) -> dict[str, float]:
    """Return the scores of marked nuclei over all fields of a set; NaN where they are undefined.

    A mark is found if a drawn nucleus contains it. Marks are not exhaustive, so drawn nuclei
    without a mark are no errors: only their number per mark is given.

    ``called nuclei`` leaves out drawn objects that the model calls leukocytes or other.

    Parameters
    ----------
    probability
        name of the measurement that tells abnormal from normal, where drawn nuclei have it
    """
    classes = np.array([name for one in fields for name in one.classes], object)
    found = np.concatenate([np.zeros(0, np.bool_), *(one.nucleus >= 0 for one in fields)])
    drawn = sum(one.drawn for one in fields)
    called = [one.called for one in fields if one.called is not None]
    nuclei = sum(called) if len(called) == len(fields) else math.nan
    distinct = sum(len(np.unique(one.nucleus[one.nucleus >= 0])) for one in fields)
    area = _of_marks(fields, "area")
    abnormal = classes != NORMAL
    out: dict[str, float] = {
        "images": len(fields),
        "marks": len(classes),
        "drawn": drawn,
        "found": int(found.sum()),
        "recall": float(ratio(found.sum(), len(classes))),
        "found in an outline of their own": distinct,
        "drawn per mark": float(ratio(drawn, len(classes))),
        "called nuclei": nuclei,
        "called nuclei per mark": float(ratio(nuclei, len(classes))),
    }
    likely = _of_marks(fields, probability)
    for name in sorted(set(classes)):
        out[f"recall {name}"] = float(
            ratio((found & (classes == name)).sum(), (classes == name).sum())
        )
        out[f"median area {name}"] = _median(area[classes == name])
        if name != NORMAL:
            pair = (classes == name) | (classes == NORMAL)
            out[f"AUC of class {name}"] = rank_auc(likely[pair], abnormal[pair])
    out["AUC of area"] = rank_auc(area, abnormal)
    out["AUC of class"] = rank_auc(likely, abnormal)
    return out


def _of_marks(fields: Sequence[Marked], name: str) -> Floats:
    """Return a measurement of the drawn nucleus of each mark; NaN where there is none."""
    parts = [np.zeros(0)]
    for one in fields:
        column = one.measured.get(name, np.zeros(0))
        values = np.full(len(one.nucleus), math.nan)
        if len(column):
            values[one.nucleus >= 0] = column[one.nucleus[one.nucleus >= 0]]
        parts.append(values)
    return np.concatenate(parts)


def rank_auc(values: Floats, positive: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve: the chance that a positive has the higher value.

    Equal values count half; NaN is left out. NaN where there are no positives or no negatives.
    """
    known = ~np.isnan(values)
    rank = rankdata(values[known])
    yes = positive[known]
    n, m = int(yes.sum()), int((~yes).sum())
    if n == 0 or m == 0:
        return math.nan
    return float((rank[yes].sum() - n * (n + 1) / 2) / (n * m))
