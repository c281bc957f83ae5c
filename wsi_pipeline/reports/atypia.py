"""Rank the nuclei of a slide by how far they lie from the others; no diagnosis.

A normal nucleus is what most nuclei of the slide are: each measurement becomes a robust z-score,
its distance from the slide's median in units of the spread (1.4826 times the median absolute
deviation). Stain, scanner and pixel size move all nuclei of a slide alike, so they cancel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.objects import CELL_CLASS, CYTOPLASM, Objects, is_cell
from wsi_pipeline.reports.robust import centre_and_spread
from wsi_pipeline.segmentation.cell_features import NUCLEUS_RATIO
from wsi_pipeline.segmentation.kinds import ABNORMAL, NOT_CELLS
from wsi_pipeline.segmentation.morphometry import NUCLEUS_AREA, OD_MEAN

__all__ = [
    "MEASURES",
    "PLAUSIBLE_UM2",
    "RANKING",
    "Measure",
    "Ranking",
    "evidence",
    "rank_atypical",
    "rankable",
    "robust_z",
]

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Measure:
    """How a measurement counts.

    Attributes
    ----------
    weight
        factor of its z-score
    spread
        least spread of the slide's nuclei, in the unit of the measurement: where nearly all
        nuclei are alike, a difference that nobody sees would become a large z-score
    least, most
        where its z-score is cut off, so that no value far outside decides alone
    """

    weight: float
    spread: float
    least: float = -3.0
    most: float = 6.0

    def adds(self, z: Floats) -> NDArray[np.float64]:
        """Return what z-scores add to the score; an unknown one adds nothing."""
        return self.weight * np.nan_to_num(np.clip(z, self.least, self.most).astype(np.float64))


def _doubt(weight: float, spread: float) -> Measure:
    """Return a measurement that only lowers the score."""
    return Measure(weight, spread, -6.0, 0.0)


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "nuclear area": Measure(1.0, 0.15),
        "class score": Measure(1.0, 1.0),
        "nucleus/cell ratio": Measure(0.25, 0.3),
        "irregular outline": Measure(0.2, 0.02, most=3.0),
        "optical density": Measure(0.1, 0.03),
        "contrast": Measure(0.1, 0.03),
        "chromatin texture": Measure(0.1, 0.003),
        "even stain": _doubt(0.5, 0.02),
        "detection score": _doubt(0.3, 0.02),
        "sharp edge": _doubt(0.2, 0.1),
    }
)
"""Measurement → how it counts. Areas and ratios are logarithms, probabilities log odds.

The weights were chosen on generated slides: there area and class score
find dysplastic cells, and the density of their chromatin hardly differs from that of others.
"""

_DOUBTS = tuple(name for name, measure in MEASURES.items() if measure.most == 0)
RANKING = (
    "Each measurement of a nucleus becomes a robust z-score: its distance from the median of the "
    "slide's nuclei, divided by 1.4826 times the median absolute deviation, cut off at -3 and 6. "
    "The score is their weighted mean; weights: "
    + ", ".join(f"{name} {m.weight:g}" for name, m in MEASURES.items() if name not in _DOUBTS)
    + ". Doubts lower it by their z-score below 0; weights: "
    + ", ".join(f"{name} {MEASURES[name].weight:g}" for name in _DOUBTS)
    + ". A measurement that a run does not have is left out. Leukocytes, objects of implausible "
    "area or shape, nuclei cut by the border of the slide, and copies are not ranked. A cell with "
    "several nuclei is shown once, for the most atypical one. At most a quarter of the "
    "list, or three cells, come from one neighbourhood of ten nuclear diameters. The "
    "ranking finds what differs from the rest of this slide; it is no diagnosis."
)
"""The ranking in words, for the reader of a gallery."""

PLAUSIBLE_UM2 = (20.0, 500.0)
"""Least and greatest area of a nucleus that is ranked, µm²."""
LEAST_SOLIDITY = 0.8
"""A less convex outline is that of several nuclei or of debris."""
NEAR = 10.0
"""Cells this many nuclear diameters apart, about 80 µm, belong to one neighbourhood."""
CROWD = 0.25
"""Most of the list that comes from one neighbourhood, as a share."""
_POOL = 12
"""Candidates per place of the list."""


@dataclass(frozen=True)
class Ranking:
    """The most atypical nuclei of a slide.

    Attributes
    ----------
    order
        int64 (k,): positions of objects, the most atypical first
    score
        float32 (n,): score of each object, NaN where it is not ranked
    reasons
        for each of `order`, measurement → robust z-score, the ones that decided first
    """

    order: NDArray[np.int64]
    score: Floats
    reasons: tuple[Mapping[str, float], ...]


def rank_atypical(
    objects: Objects,
    count: int,
    *,
    spread: bool = True,
    looked: Mapping[str, Floats] | None = None,
    among: Bools | None = None,
) -> Ranking:
    """Return the `count` most atypical nuclei; `RANKING` states the rule in words.

    The result does not depend on the order of the objects, nor on where they lie.

    Parameters
    ----------
    objects
        n objects with the measurements of a run; of the outlines only the bounds count
    count
        most nuclei to return
    spread
        take at most a share `CROWD` of one neighbourhood
    looked
        further z-scores (n,), by name, NaN where unknown
    among
        bool (n,): which objects may be ranked; all by default

    Examples
    --------
    >>> import shapely
    >>> x = np.arange(9) * 100.0
    >>> objects = Objects.from_polygons(
    ...     shapely.box(x, 0, x + 30, 30), classes=("nucleus",),
    ...     ids=np.stack([np.arange(9)] * 2, 1).astype(np.uint64),
    ...     class_index=np.zeros(9, np.uint8), score=np.ones(9, np.float32),
    ...     features={NUCLEUS_AREA: np.array([40, 41, 39, 42, 150, 40, 38, 41, 40], np.float32)},
    ... )
    >>> ranking = rank_atypical(objects, 2)
    >>> int(ranking.order[0]), dict(ranking.reasons[0])
    (4, {'nuclear area': 8.8})
    """
    found = evidence(objects) | dict(looked or {})
    ranked = rankable(objects)
    if among is not None:
        ranked &= among
    score = _weighted(found, ranked)
    rows = np.flatnonzero(ranked)
    best_first = rows[np.lexsort((*objects.ids[rows].T, -score[rows]))]
    most_near = max(3, int(count * CROWD)) if spread else count
    order = _chosen(objects, best_first, count, most_near)
    return Ranking(order, score, tuple(_reasons(found, i) for i in order))


def evidence(objects: Objects) -> dict[str, Floats]:
    """Return the robust z-score of each measurement of nuclei, float32 (n,), NaN where unknown.

    Measurements that the objects do not have are left out.
    """
    nuclei = _nuclei(objects)
    features = objects.features
    found: dict[str, Floats] = {}
    if not len(objects):
        return found

    def add(name: str, values: Floats) -> None:
        if np.isfinite(values[nuclei]).any():
            found[name] = robust_z(values, nuclei, MEASURES[name].spread)

    with np.errstate(divide="ignore", invalid="ignore"):
        if NUCLEUS_AREA in features:
            add("nuclear area", np.log(features[NUCLEUS_AREA]))
        if NUCLEUS_RATIO in features and objects.parent is not None:
            held = objects.parent >= 0
            ratio = np.full(len(objects), np.nan, np.float32)
            ratio[held] = np.log(features[NUCLEUS_RATIO][objects.parent[held]])
            add("nucleus/cell ratio", ratio)
        if OD_MEAN in features:
            add("optical density", features[OD_MEAN])
        if (rough := _roughness(features)) is not None:
            add("irregular outline", rough)
        if ABNORMAL in features:
            p = np.clip(features[ABNORMAL], 0.01, 0.99)
            add("class score", np.log(p / (1 - p)))
    add("detection score", objects.score)
    return found


def robust_z(values: Floats, reference: Bools, spread: float) -> Floats:
    """Return distances from the median of the reference in units of its spread, float32 (n,).

    Parameters
    ----------
    values
        (n,), NaN where unknown
    reference
        bool (n,): which values have the median and the spread
    spread
        least spread

    Examples
    --------
    >>> values = np.array([1, 2, 3, 4, 5, 100], np.float32)
    >>> [round(float(z), 1) for z in robust_z(values, np.ones(6, bool), 0.1)]
    [-1.1, -0.7, -0.2, 0.2, 0.7, 43.4]
    """
    known = values[reference & np.isfinite(values)].astype(np.float64)
    if not len(known):
        return np.full(len(values), np.nan, np.float32)
    middle, deviation = centre_and_spread(known)
    unit = max(deviation, spread)
    return np.where(np.isfinite(values), (values - middle) / unit, np.nan).astype(np.float32)


def _nuclei(objects: Objects) -> Bools:
    """Return which objects are nuclei of cells, bool (n,)."""
    other = {CELL_CLASS, CYTOPLASM, *NOT_CELLS}
    kinds = np.array([name not in other and "leukocyte" not in name for name in objects.classes])
    return kinds[objects.class_index] & ~is_cell(objects) if len(objects) else np.zeros(0, bool)


def rankable(objects: Objects) -> Bools:
    """Return which objects are nuclei of plausible area and shape, bool (n,)."""
    features = objects.features
    if NUCLEUS_AREA not in features:
        return np.zeros(len(objects), bool)
    area = features[NUCLEUS_AREA]
    fits = _nuclei(objects) & (area >= PLAUSIBLE_UM2[0]) & (area <= PLAUSIBLE_UM2[1])
    solidity = features.get("Nucleus: Solidity")
    return fits if solidity is None else fits & ~(solidity < LEAST_SOLIDITY)


def _roughness(features: Mapping[str, Floats]) -> Floats | None:
    """Return how far outlines are from round and convex ones; None where it is not measured."""
    parts = [
        1 - features[name] for name in ("Nucleus: Circularity", "Nucleus: Solidity")
        if name in features
    ]  # fmt: skip
    return np.sum(parts, axis=0, dtype=np.float32) if parts else None


def _weighted(found: Mapping[str, Floats], ranked: Bools) -> Floats:
    """Return the weighted mean of the z-scores, less the doubts; float32 (n,)."""
    total, weights = np.zeros(len(ranked)), 0.0
    for name, z in found.items():
        total += MEASURES[name].adds(z)
        weights += MEASURES[name].weight * (name not in _DOUBTS)
    return np.where(ranked, total / max(weights, 1e-9), np.nan).astype(np.float32)


def _chosen(
    objects: Objects, best_first: NDArray[np.int64], count: int, most_near: int
) -> NDArray[np.int64]:
    """Return up to `count` positions: one per cell, none a copy, `most_near` per neighbourhood."""
    pool = best_first[: max(_POOL * count, 200)]
    if not len(pool) or count <= 0:
        return np.zeros(0, np.int64)
    box = objects.bounds()
    size = box[:, 2:] - box[:, :2]
    middle = (box[:, :2] + box[:, 2:])[pool] / 2
    near = NEAR * float(np.median(size[best_first]))
    radius = size[pool].mean(1) / 2
    cell = np.full(len(pool), -1) if objects.parent is None else objects.parent[pool]
    free, around = np.ones(len(pool), bool), np.zeros(len(pool), np.int64)
    taken: list[int] = []
    for k in range(len(pool)):
        if not free[k] or around[k] >= most_near:
            continue
        taken.append(k)
        if len(taken) == count:
            break
        away = np.hypot(*(middle - middle[k]).T)
        around += away <= near
        free &= (away >= np.maximum(radius[k], radius)) & ((cell != cell[k]) | (cell < 0))
    return pool[taken]


def _reasons(found: Mapping[str, Floats], i: int) -> Mapping[str, float]:
    """Return measurement → z-score of one object, the ones that add most to its score first."""
    z = {name: float(column[i]) for name, column in found.items() if np.isfinite(column[i])}
    z = {name: value for name, value in z.items() if name not in _DOUBTS or value <= -0.05}
    first = sorted(z, key=lambda name: -float(MEASURES[name].adds(found[name][[i]])[0]))
    return MappingProxyType({name: round(z[name], 1) + 0.0 for name in first})
