"""How well predicted classes and objects agree with the truth.

Pixels are counted in a `Confusion`. Objects are matched one to one at an IoU threshold, from
polygons or from label images; both come down to the same table of overlaps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

from wsi_pipeline.core.objects import Objects

__all__ = [
    "Confusion",
    "Match",
    "Overlaps",
    "aggregated_jaccard",
    "aji",
    "kumar_pairs",
    "match_labels",
    "match_objects",
    "match_overlaps",
    "mean_iou",
    "object_overlaps",
    "ratio",
]

_CHUNK = 20_000
"""Objects whose candidate pairs are held at a time."""


class Confusion:
    """Pixels by class of prediction and truth, added up over any number of images.

    Parameters
    ----------
    classes
        number of classes; with 2, background and nucleus

    Attributes
    ----------
    counts
        int64 (classes, classes): pixels of true class i that were predicted as class j
    """

    def __init__(self, classes: int) -> None:
        if classes < 1:
            raise ValueError(f"{classes} classes cannot be compared; give at least 1")
        self.counts: NDArray[np.int64] = np.zeros((classes, classes), np.int64)

    def add(self, pred: NDArray[np.integer], truth: NDArray[np.integer]) -> None:
        """Count the pixels of one image, two arrays of class numbers of one shape.

        Raises
        ------
        ValueError
            if the shapes differ or a class number is out of range
        """
        if pred.shape != truth.shape:
            raise ValueError(f"prediction {pred.shape} and truth {truth.shape} differ in shape")
        n = len(self.counts)
        for name, array in (("prediction", pred), ("truth", truth)):
            if array.size and (array.min() < 0 or array.max() >= n):
                raise ValueError(
                    f"{name} has classes {array.min()} … {array.max()}, not 0 … {n - 1}"
                )
        pairs = truth.astype(np.int64).ravel() * n + pred.ravel()
        self.counts += np.bincount(pairs, minlength=n * n).reshape(n, n)

    @property
    def iou(self) -> NDArray[np.float64]:
        """IoU of each class (classes,); NaN where neither prediction nor truth has it."""
        hit = self.counts.diagonal()
        return ratio(hit, self.counts.sum(axis=0) + self.counts.sum(axis=1) - hit)

    @property
    def dice(self) -> NDArray[np.float64]:
        """Dice coefficient of each class (classes,); NaN where nobody has it."""
        hit = self.counts.diagonal()
        return ratio(2 * hit, self.counts.sum(axis=0) + self.counts.sum(axis=1))

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the classes that occur, background included; NaN without pixels."""
        iou = self.iou[~np.isnan(self.iou)]
        return float(iou.mean()) if iou.size else math.nan

    @property
    def accuracy(self) -> float:
        """Share of pixels whose class is right; NaN without pixels."""
        return float(ratio(self.counts.trace(), self.counts.sum()))


def mean_iou(pred: NDArray[np.integer], truth: NDArray[np.integer], classes: int) -> float:
    """Mean IoU of one image over the classes that occur (see `Confusion`)."""
    confusion = Confusion(classes)
    confusion.add(pred, truth)
    return confusion.mean_iou


@dataclass(frozen=True, eq=False)
class Match:
    """One-to-one matches of predicted objects and the truth. Ratios are NaN where 0 ÷ 0.

    Attributes
    ----------
    pairs
        int64 (m, 2), in order of the first: positions in two `Objects`, or labels of two images
    iou
        float64 (m,): IoU of each pair
    predicted, true
        number of objects on either side
    """

    pairs: NDArray[np.int64]
    iou: NDArray[np.float64]
    predicted: int
    true: int

    @property
    def tp(self) -> int:
        """True positives: objects that found each other."""
        return len(self.iou)

    @property
    def fp(self) -> int:
        """False positives: predicted objects without a partner."""
        return self.predicted - self.tp

    @property
    def fn(self) -> int:
        """False negatives: true objects without a partner."""
        return self.true - self.tp

    @property
    def precision(self) -> float:
        """True positives ÷ predicted objects."""
        return float(ratio(self.tp, self.predicted))

    @property
    def recall(self) -> float:
        """True positives ÷ true objects."""
        return float(ratio(self.tp, self.true))

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; the recognition quality of PQ."""
        return float(ratio(2 * self.tp, self.predicted + self.true))

    @property
    def sq(self) -> float:
        """Segmentation quality: mean IoU of the pairs."""
        return float(ratio(self.iou.sum(), self.tp))

    @property
    def pq(self) -> float:
        """Panoptic quality, SQ × F1 (Kirillov et al. 2019, section 4)."""
        return float(ratio(2 * self.iou.sum(), self.predicted + self.true))

    @staticmethod
    def pool(parts: Sequence[Match]) -> Match:
        """The matches of several images as one; pairs keep the numbers of their own image."""
        return Match(
            np.concatenate([np.zeros((0, 2), np.int64), *(p.pairs for p in parts)]),
            np.concatenate([np.zeros(0), *(p.iou for p in parts)]),
            sum(p.predicted for p in parts),
            sum(p.true for p in parts),
        )


def match_objects(a: Objects, b: Objects, iou: float = 0.5) -> Match:
    """Match predicted objects `a` with the truth `b` where their polygons' IoU is at least `iou`.

    The most pairs win, then the largest sum of IoU. Objects may overlap within a side; classes
    are not looked at (take one class at a time where they matter).

    Raises
    ------
    ValueError
        if `iou` is not within (0, 1]
    """
    _check_threshold(iou)
    return match_overlaps(object_overlaps(a, b, iou), iou)


def match_labels(a: NDArray[np.integer], b: NDArray[np.integer], iou: float = 0.5) -> Match:
    """Match predicted and true label images (h, w), 0 = background, as `match_objects` does.

    Raises
    ------
    ValueError
        if `iou` is not within (0, 1], the shapes differ or a label is negative
    """
    _check_threshold(iou)
    return match_overlaps(_label_overlaps(a, b), iou)


def aji(a: Objects | NDArray[np.integer], b: Objects | NDArray[np.integer]) -> float:
    """Aggregated Jaccard index of predictions `a` and truth `b`: two Objects or label images.

    Each true object takes the prediction of largest IoU; predictions that nobody took count as
    error (Kumar et al. 2017, algorithm 1). Not symmetric. NaN where both sides are empty.
    """
    if isinstance(a, Objects) and isinstance(b, Objects):
        table = object_overlaps(a, b, 0.0)
    elif isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        table = _label_overlaps(a, b)
    else:
        raise TypeError(f"two Objects or two label images, not {type(a)} and {type(b)}")
    return aggregated_jaccard(table, kumar_pairs(table))


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Pairs of predicted objects and true ones that overlap, from polygons, masks or labels.

    Attributes
    ----------
    a, b
        int64 (pairs,): positions of the predicted and of the true object
    shared
        float64 (pairs,): area that both have
    area_a, area_b
        float64: areas of all objects on either side
    names_a, names_b
        int64: what `Match.pairs` calls the objects
    """

    a: NDArray[np.int64]
    b: NDArray[np.int64]
    shared: NDArray[np.float64]
    area_a: NDArray[np.float64]
    area_b: NDArray[np.float64]
    names_a: NDArray[np.int64]
    names_b: NDArray[np.int64]

    @property
    def iou(self) -> NDArray[np.float64]:
        """IoU of each pair."""
        return ratio(self.shared, self.area_a[self.a] + self.area_b[self.b] - self.shared)

    @property
    def dice(self) -> NDArray[np.float64]:
        """Dice coefficient of each pair."""
        return ratio(2 * self.shared, self.area_a[self.a] + self.area_b[self.b])


def kumar_pairs(table: Overlaps) -> NDArray[np.int64]:
    """Which pairs the aggregated Jaccard index takes: the best one of each true object.

    A prediction may be taken more than once (Kumar et al. 2017, algorithm 1).
    """
    order = np.lexsort((table.a, -table.iou, table.b))
    order = order[table.shared[order] > 0]
    return np.asarray(order[np.unique(table.b[order], return_index=True)[1]])


def aggregated_jaccard(table: Overlaps, pairs: NDArray[np.int64]) -> float:
    """Σ shared ÷ (Σ united + what is left alone on either side), over `pairs` of the table.

    NaN where both sides are empty.
    """
    a, b, shared = table.a[pairs], table.b[pairs], table.shared[pairs]
    both = table.area_a[a] + table.area_b[b] - shared
    alone = np.ones(len(table.area_a), np.bool_)
    alone[a] = False
    missed = np.ones(len(table.area_b), np.bool_)
    missed[b] = False
    union = both.sum() + table.area_a[alone].sum() + table.area_b[missed].sum()
    return float(ratio(shared.sum(), union))


def object_overlaps(a: Objects, b: Objects, iou: float) -> Overlaps:
    """Overlaps of the polygons `a` and `b` whose IoU can reach `iou`; areas are exact."""
    polygons_a, polygons_b = _valid(a.polygons()), _valid(b.polygons())
    area_a, area_b = shapely.area(polygons_a), shapely.area(polygons_b)
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    tree = shapely.STRtree(polygons_b)
    bounds_a, bounds_b = shapely.bounds(polygons_a), shapely.bounds(polygons_b)
    for start in range(0, len(a), _CHUNK):
        i, j = tree.query(polygons_a[start : start + _CHUNK])
        i += start
        # No more can be shared than the boxes share; most pairs end here, uncut.
        sides = np.minimum(bounds_a[i, 2:], bounds_b[j, 2:])
        sides -= np.maximum(bounds_a[i, :2], bounds_b[j, :2])
        most = np.minimum(sides.prod(axis=1), np.minimum(area_a[i], area_b[j]))
        hopeful = most >= iou * (area_a[i] + area_b[j] - most) * (1 - 1e-9)
        i, j = i[hopeful], j[hopeful]
        shared = shapely.area(shapely.intersection(polygons_a[i], polygons_b[j]))
        parts.append((i, j, shared))
    at_a, at_b, shared = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Overlaps(at_a, at_b, shared, area_a, area_b, np.arange(len(a)), np.arange(len(b)))


def _valid(polygons: NDArray[np.object_]) -> NDArray[np.object_]:
    """The polygons, repaired where they cross themselves."""
    broken = ~shapely.is_valid(polygons)
    polygons[broken] = shapely.make_valid(polygons[broken])
    return polygons


def _label_overlaps(a: NDArray[np.integer], b: NDArray[np.integer]) -> Overlaps:
    """Overlaps of label images, in pixels."""
    if a.shape != b.shape:
        raise ValueError(f"label images {a.shape} and {b.shape} differ in shape")
    a, b = a.ravel(), b.ravel()
    # Labels come in runs along a row; only the runs are sorted, not the pixels.
    cut = np.flatnonzero((a[1:] != a[:-1]) | (b[1:] != b[:-1])) + 1
    starts = np.concatenate([np.zeros(min(a.size, 1), np.int64), cut])
    length = np.diff(np.append(starts, a.size))
    names_a, at_a, area_a = _compact(a[starts], length)
    names_b, at_b, area_b = _compact(b[starts], length)
    both = (at_a >= 0) & (at_b >= 0)
    pairs, position = np.unique(at_a[both] * len(names_b) + at_b[both], return_inverse=True)
    shared = np.bincount(position, length[both], len(pairs)).astype(np.float64)
    i, j = np.divmod(pairs, max(len(names_b), 1))
    return Overlaps(i, j, shared, area_a, area_b, names_a, names_b)


def _compact(
    labels: NDArray[np.integer], length: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Labels that occur, the position of each run's among them (−1 = background), and areas."""
    if labels.size and labels.min() < 0:
        raise ValueError(f"label image has label {labels.min()}; 0 is background, objects above")
    names, position = np.unique(labels, return_inverse=True)
    area = np.bincount(position, length, len(names)).astype(np.float64)
    skip = int(names.size > 0 and names[0] == 0)
    return names[skip:].astype(np.int64), position - skip, area[skip:]


def match_overlaps(table: Overlaps, iou: float = 0.5) -> Match:
    """The best one-to-one pairs among those of at least `iou`, as `match_objects` says."""
    able = np.flatnonzero(table.iou >= iou)
    i, j, score = table.a[able], table.b[able], table.iou[able]
    rivals = (np.bincount(i)[i] > 1) | (np.bincount(j)[j] > 1)
    kept = [np.flatnonzero(~rivals)]
    for edges in _components(i, j, np.flatnonzero(rivals)):
        kept.append(edges[_best(i[edges], j[edges], score[edges])])
    order = np.concatenate(kept)
    order = order[np.argsort(i[order], kind="stable")]
    pairs = np.stack([table.names_a[i[order]], table.names_b[j[order]]], axis=1)
    return Match(pairs, score[order], len(table.area_a), len(table.area_b))


def _components(
    i: NDArray[np.int64], j: NDArray[np.int64], edges: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """The `edges` (i, j) that hang together, group by group."""
    if not len(edges):
        return
    rows, columns = i[edges], j[edges]
    shift = int(rows.max()) + 1
    size = shift + int(columns.max()) + 1
    graph = coo_array((np.ones(len(edges), np.int8), (rows, columns + shift)), shape=(size, size))
    group = connected_components(graph, directed=False)[1][rows]
    order = np.argsort(group, kind="stable")
    yield from np.split(edges[order], np.flatnonzero(np.diff(group[order])) + 1)


def _best(
    i: NDArray[np.int64], j: NDArray[np.int64], score: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Positions of the edges (i, j) that give most pairs and, among those, the largest score."""
    rows, i = np.unique(i, return_inverse=True)
    columns, j = np.unique(j, return_inverse=True)
    n, m = len(rows), len(columns)
    # A pair is worth more than any sum of scores. Each row may stay single, in a column of its
    # own, so that a full matching exists; costs are above 0, which a sparse table needs.
    worth = np.concatenate([1 + score / (2 * min(n, m) + 1), np.zeros(n)])
    ends = (np.concatenate([i, np.arange(n)]), np.concatenate([j, m + np.arange(n)]))
    costs = coo_array((3 - worth, ends), shape=(n, m + n)).tocsr()
    row, column = min_weight_full_bipartite_matching(costs)
    partner = np.full(n, -1)
    partner[row] = column
    return np.flatnonzero(partner[i] == j)


def _check_threshold(iou: float) -> None:
    if not 0 < iou <= 1:
        raise ValueError(f"IoU threshold {iou} is not within (0, 1]")


def ratio(part: ArrayLike, whole: ArrayLike) -> NDArray[np.float64]:
    """Part ÷ whole, NaN where that is 0 ÷ 0."""
    whole = np.asarray(whole, np.float64)
    out = np.full(whole.shape, np.nan)
    return np.asarray(np.divide(part, whole, out=out, where=whole != 0))
