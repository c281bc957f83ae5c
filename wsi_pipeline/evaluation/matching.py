"""Match predicted objects with true ones: one to one, at an IoU threshold.

Polygons, label images and masks all become the same table, `Overlaps`, from which pairs are chosen.
IoU is the area that two objects share ÷ the area of their union; Dice is twice the shared area ÷
the sum of both areas.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

from wsi_pipeline.core.objects import Objects

__all__ = [
    "Match",
    "Overlaps",
    "aggregated_jaccard",
    "geometry_overlaps",
    "kumar_pairs",
    "label_overlaps",
    "match_labels",
    "match_objects",
    "match_overlaps",
    "object_overlaps",
    "ratio",
]

_CHUNK = 20_000
"""Objects whose candidate pairs are in memory at a time."""


@dataclass(frozen=True, eq=False)
class Match:
    """One-to-one pairs of predicted and true objects. Ratios are NaN where they are 0 ÷ 0.

    Attributes
    ----------
    pairs
        int64 (m, 2), sorted by the first: positions in two `Objects`, or labels in two images
    iou
        float64 (m,): IoU of each pair
    predicted, true
        number of predicted and of true objects
    """

    pairs: NDArray[np.int64]
    iou: NDArray[np.float64]
    predicted: int
    true: int

    @property
    def tp(self) -> int:
        """True positives: number of pairs."""
        return len(self.iou)

    @property
    def fp(self) -> int:
        """False positives: predicted objects without a pair."""
        return self.predicted - self.tp

    @property
    def fn(self) -> int:
        """False negatives: true objects without a pair."""
        return self.true - self.tp

    @property
    def precision(self) -> float:
        """Tp ÷ predicted objects."""
        return float(ratio(self.tp, self.predicted))

    @property
    def recall(self) -> float:
        """Tp ÷ true objects."""
        return float(ratio(self.tp, self.true))

    @property
    def f1(self) -> float:
        """2 tp ÷ (predicted + true): harmonic mean of precision and recall."""
        return float(ratio(2 * self.tp, self.predicted + self.true))

    @property
    def sq(self) -> float:
        """Segmentation quality: mean IoU of the pairs (Kirillov et al. 2019, eq. 2)."""
        return float(ratio(self.iou.sum(), self.tp))

    @property
    def pq(self) -> float:
        """Panoptic quality, SQ × F1: Σ IoU ÷ (tp + fp/2 + fn/2).

        Kirillov et al., Panoptic Segmentation, CVPR 2019, eq. 1; F1 is its recognition quality.
        """
        return float(ratio(2 * self.iou.sum(), self.predicted + self.true))

    @staticmethod
    def pool(parts: Sequence[Match]) -> Match:
        """Return the matches of several images as one; pairs keep the numbers of their image."""
        return Match(
            np.concatenate([np.zeros((0, 2), np.int64), *(p.pairs for p in parts)]),
            np.concatenate([np.zeros(0), *(p.iou for p in parts)]),
            sum(p.predicted for p in parts),
            sum(p.true for p in parts),
        )


def match_objects(a: Objects, b: Objects, iou: float = 0.5) -> Match:
    """Match predicted objects `a` with true objects `b` whose polygons have at least that IoU.

    Among all one-to-one assignments, the one with most pairs is taken, and among those the one
    with the largest sum of IoU. Predicted objects may overlap each other, and so may true ones.
    Classes are ignored; give the objects of one class where they matter.

    Raises
    ------
    ValueError
        `iou` is not above 0 and at most 1

    Examples
    --------
    >>> import numpy as np
    >>> import shapely
    >>> from wsi_pipeline import Objects, match_objects
    >>> def nuclei(*boxes):
    ...     n = len(boxes)
    ...     return Objects.from_polygons(
    ...         [shapely.box(*box) for box in boxes],
    ...         classes=["nucleus"],
    ...         ids=np.zeros((n, 2), np.uint64),
    ...         class_index=np.zeros(n, np.uint8),
    ...         score=np.ones(n, np.float32),
    ...     )
    >>> predicted = nuclei((0, 0, 10, 10), (50, 50, 60, 60))
    >>> match = match_objects(predicted, nuclei((0, 0, 10, 8)))
    >>> match.pairs.tolist(), match.iou.tolist(), match.precision, match.recall
    ([[0, 0]], [0.8], 0.5, 1.0)
    """
    _check_threshold(iou)
    return match_overlaps(object_overlaps(a, b, iou), iou)


def match_labels(a: NDArray[np.integer], b: NDArray[np.integer], iou: float = 0.5) -> Match:
    """Match predicted and true label images (h, w), 0 = background, as `match_objects` does.

    Raises
    ------
    ValueError
        `iou` is not above 0 and at most 1, the shapes differ, or a label is negative
    """
    _check_threshold(iou)
    return match_overlaps(label_overlaps(a, b), iou)


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Pairs of a predicted and a true object that overlap, from polygons, masks or label images.

    Attributes
    ----------
    a, b
        int64 (pairs,): position of the predicted and of the true object
    shared
        float64 (pairs,): shared area, px²
    area_a, area_b
        float64 (predicted,) and (true,): areas of all objects, px²
    names_a, names_b
        int64 (predicted,) and (true,): numbers of the objects in `Match.pairs`
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
    """Return the pairs for the aggregated Jaccard index: the one of highest IoU per true object.

    A prediction may be in several pairs. Kumar et al., A Dataset and a Technique for Generalized
    Nuclear Segmentation for Computational Pathology, IEEE TMI 36 (2017), algorithm 1.

    Returns
    -------
    int64 (m,): positions in the table
    """
    order = np.lexsort((table.a, -table.iou, table.b))
    order = order[table.shared[order] > 0]
    return np.asarray(order[np.unique(table.b[order], return_index=True)[1]])


def aggregated_jaccard(table: Overlaps, pairs: NDArray[np.int64]) -> float:
    """Return the aggregated Jaccard index (AJI) over `pairs` of the table.

    Σ shared ÷ (Σ union + area of predictions without a pair + area of true objects without one);
    NaN where there are no objects at all. With `kumar_pairs` it is the published index (Kumar et
    al. 2017, algorithm 1), which is not symmetric.
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
    """Return the overlaps of polygons `a` and `b` whose IoU can reach `iou`; areas are exact."""
    return geometry_overlaps(_valid(a.polygons()), _valid(b.polygons()), iou)


def geometry_overlaps(a: NDArray[np.object_], b: NDArray[np.object_], iou: float) -> Overlaps:
    """Return the overlaps of valid shapely areas `a` and `b` whose IoU can reach `iou`."""
    area_a, area_b = shapely.area(a), shapely.area(b)
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    tree = shapely.STRtree(b)
    bounds_a, bounds_b = shapely.bounds(a), shapely.bounds(b)
    for start in range(0, len(a), _CHUNK):
        i, j = tree.query(a[start : start + _CHUNK])
        i += start
        # Two polygons share at most what their boxes share. This rules most pairs out without
        # an intersection.
        sides = np.minimum(bounds_a[i, 2:], bounds_b[j, 2:])
        sides -= np.maximum(bounds_a[i, :2], bounds_b[j, :2])
        most = np.minimum(sides.prod(axis=1), np.minimum(area_a[i], area_b[j]))
        hopeful = most >= iou * (area_a[i] + area_b[j] - most) * (1 - 1e-9)
        i, j = i[hopeful], j[hopeful]
        shared = shapely.area(shapely.intersection(a[i], b[j]))
        parts.append((i, j, shared))
    at_a, at_b, shared = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Overlaps(at_a, at_b, shared, area_a, area_b, np.arange(len(a)), np.arange(len(b)))


def _valid(polygons: NDArray[np.object_]) -> NDArray[np.object_]:
    """Repair polygons that cross themselves."""
    broken = ~shapely.is_valid(polygons)
    polygons[broken] = shapely.make_valid(polygons[broken])
    return polygons


def label_overlaps(a: NDArray[np.integer], b: NDArray[np.integer]) -> Overlaps:
    """Return the overlaps of two label images (h, w), 0 = background, in pixels.

    Raises
    ------
    ValueError
        the shapes differ, or a label is negative
    """
    if a.shape != b.shape:
        raise ValueError(f"label images {a.shape} and {b.shape} differ in shape")
    a, b = a.ravel(), b.ravel()
    # Sort runs of equal labels along the rows instead of pixels: there are far fewer.
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
    """Return the labels that occur, each run's position among them (−1 = background), and areas."""
    if labels.size and labels.min() < 0:
        raise ValueError(f"labels must not be negative, got {labels.min()}")
    names, position = np.unique(labels, return_inverse=True)
    area = np.bincount(position, length, len(names)).astype(np.float64)
    skip = int(names.size > 0 and names[0] == 0)
    return names[skip:].astype(np.int64), position - skip, area[skip:]


def match_overlaps(table: Overlaps, iou: float = 0.5) -> Match:
    """Return the best one-to-one pairs among those of at least `iou`; see `match_objects`."""
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
    """Yield the `edges` (i, j) of each connected group of objects."""
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
    """Return the edges (i, j) that give most pairs and, among those, the largest sum of scores.

    An edge is worth 1 + score ÷ (2k + 1), where k is the largest possible number of pairs, so that
    all scores together count less than one more pair. The edges of largest total worth are a
    minimum-weight full matching of a bipartite graph with costs 3 − worth.
    """
    rows, i = np.unique(i, return_inverse=True)
    columns, j = np.unique(j, return_inverse=True)
    n, m = len(rows), len(columns)
    # Each row may stay without a pair, in a column of its own (worth 0), so that a full matching
    # exists. Costs are positive, because a sparse table has no zeros.
    worth = np.concatenate([1 + score / (2 * min(n, m) + 1), np.zeros(n)])
    ends = (np.concatenate([i, np.arange(n)]), np.concatenate([j, m + np.arange(n)]))
    costs = coo_array((3 - worth, ends), shape=(n, m + n)).tocsr()
    row, column = min_weight_full_bipartite_matching(costs)
    partner = np.full(n, -1)
    partner[row] = column
    return np.flatnonzero(partner[i] == j)


def _check_threshold(iou: float) -> None:
    if not 0 < iou <= 1:
        raise ValueError(f"the IoU threshold must be above 0 and at most 1, got {iou}")


def ratio(part: ArrayLike, whole: ArrayLike) -> NDArray[np.float64]:
    """Return part ÷ whole, NaN where whole is 0."""
    whole = np.asarray(whole, np.float64)
    out = np.full(whole.shape, np.nan)
    return np.asarray(np.divide(part, whole, out=out, where=whole != 0))
