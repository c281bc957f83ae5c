"""Metrics of instances that may overlap, from run-length masks, one class at a time.

The published numbers of overlapping-cell segmentation differ in who is matched with whom and in
what is averaged over what; each is here under a name of its own, as the source computes it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from wsi_pipeline.evaluation.matching import (
    Match,
    Overlaps,
    aggregated_jaccard,
    kumar_pairs,
    match_overlaps,
    ratio,
)

__all__ = [
    "COUNTS",
    "Masks",
    "challenge_cells",
    "challenge_nuclei",
    "coco_ap",
    "donet_aji",
    "donet_f1",
    "mask_overlaps",
    "score_class",
    "score_instances",
]

COUNTS = ("images", "true", "found", "beyond AP's limit")
"""Scores that are counts, which add up over classes."""

Rle = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Masks:
    """Instances of one class in one image, `k` of them; they may overlap.

    Attributes
    ----------
    rles
        k masks as COCO's compressed run lengths
    scores
        float64 (k,), 0 to 1; ones for the truth
    shape
        height and width of the image
    """

    rles: Sequence[Rle]
    scores: NDArray[np.float64]
    shape: tuple[int, int]

    def __len__(self) -> int:
        return len(self.rles)

    @property
    def area(self) -> NDArray[np.float64]:
        """Pixels of each mask (k,)."""
        return np.asarray(coco.area(list(self.rles)), np.float64).reshape(-1)

    @property
    def union(self) -> Rle:
        """Pixels of any instance."""
        nothing = coco.encode(np.zeros(self.shape, np.uint8, order="F"))
        united: Rle = coco.merge([nothing, *self.rles])
        return united

    def above(self, score: float) -> Masks:
        """The instances of at least that score."""
        kept = self.scores >= score
        rles = [rle for rle, keep in zip(self.rles, kept, strict=True) if keep]
        return Masks(rles, self.scores[kept], self.shape)


def mask_overlaps(found: Masks, truth: Masks) -> Overlaps:
    """Pairs of found and true instances that share pixels; areas are exact, in pixels."""
    area_a, area_b = found.area, truth.area
    shared = np.zeros((len(found), len(truth)))
    if shared.size:
        # A "crowd" is compared by what it shares with a detection ÷ the detection's area.
        share = coco.iou(list(found.rles), list(truth.rles), [1] * len(truth))
        shared = np.rint(share * area_a[:, None])
    a, b = np.nonzero(shared)
    return Overlaps(
        a, b, shared[a, b], area_a, area_b, np.arange(len(found)), np.arange(len(truth))
    )


def coco_ap(
    found: Sequence[Masks], truth: Sequence[Masks], *, max_dets: int | None = 100
) -> dict[str, float]:
    """COCO's mask AP of one class; NaN where no true instance is of that size.

    AP is the mean over IoU 0.50, 0.55 … 0.95, at 101 recalls each; APs, APm and APl are those of
    masks under 32² pixels, up to 96² and above.

    Parameters
    ----------
    found, truth
        instances of each image, image by image
    max_dets
        found instances of one image that count, best first; None: all of them
    """
    most = max((len(masks) for masks in found), default=0)
    with redirect_stdout(io.StringIO()):
        judge = COCOeval(_dataset(truth), _dataset(found), "segm")
        judge.params.maxDets = [max(100, most) if max_dets is None else max_dets]
        judge.evaluate()
        judge.accumulate()
    precision, iou = judge.eval["precision"][:, :, :, :, 0], judge.params.iouThrs
    everything = dict(zip(judge.params.areaRngLbl, range(4), strict=True))

    def mean(at: Any = slice(None), size: str = "all") -> float:
        values = precision[at][..., everything[size]]
        return float(values.mean()) if values.size and values.min() >= 0 else math.nan

    return {
        "AP": mean(),
        "AP50": mean(np.isclose(iou, 0.5)),
        "AP75": mean(np.isclose(iou, 0.75)),
        "APs": mean(size="small"),
        "APm": mean(size="medium"),
        "APl": mean(size="large"),
    }


def _dataset(images: Sequence[Masks]) -> COCO:
    """The instances as pycocotools wants them; its ids start at 1, since 0 means unmatched."""
    annotations: list[dict[str, Any]] = []
    for number, masks in enumerate(images):
        for rle, score, area in zip(masks.rles, masks.scores, masks.area, strict=True):
            key = {"id": len(annotations) + 1, "image_id": number, "category_id": 1}
            about = {"score": float(score), "area": float(area), "iscrowd": 0}
            annotations.append({**key, **about, "segmentation": dict(rle)})
    dataset = COCO()
    dataset.dataset = {
        "images": [
            {"id": k, "height": m.shape[0], "width": m.shape[1]} for k, m in enumerate(images)
        ],
        "categories": [{"id": 1, "name": "instance"}],
        "annotations": annotations,
    }
    dataset.createIndex()
    return dataset


def donet_f1(tables: Sequence[Overlaps]) -> float:
    """F1 as DoNet's evaluation has it: pairs of IoU over 0.5, best first; mean over images.

    An image with neither found nor true instances is left out; one with found instances alone
    counts 0, where the published code counts 1.
    """
    values = []
    for table in tables:
        pairs = _one_to_one(table, np.argsort(-table.iou, kind="stable"), table.iou > 0.5)
        values.append(float(ratio(2 * len(pairs), len(table.area_a) + len(table.area_b))))
    return _mean(values)


def donet_aji(tables: Sequence[Overlaps]) -> float:
    """AJI as DoNet's evaluation has it, mean over images.

    True instances choose in order, each the free prediction of highest IoU from 0.5 on; the
    published index (`metrics.aji`) knows no such limit and lets predictions be chosen again.
    """
    values = []
    for table in tables:
        pairs = _one_to_one(table, np.lexsort((-table.iou, table.b)), table.iou >= 0.5)
        values.append(aggregated_jaccard(table, pairs))
    return _mean(values)


def challenge_cells(tables: Sequence[Overlaps], pixels: Sequence[int]) -> dict[str, float]:
    """Segmentation scores of the ISBI 2014 overlapping-cell challenge, over all images.

    A pair is good where its Dice coefficient is over 0.7; pairs are taken best first. Dice, TPp
    (shared ÷ true pixels), FPp (found beyond the true mask ÷ pixels outside that) and FNp
    (1 − TPp) are means over good pairs, FNo is the share of true cells without one. The challenge
    names FPp and gives no formula; this is the usual reading.

    Parameters
    ----------
    pixels
        of each image
    """
    dice, hit, beyond = [np.zeros(0)], [np.zeros(0)], [np.zeros(0)]
    for table, size in zip(tables, pixels, strict=True):
        pairs = _one_to_one(table, np.argsort(-table.dice, kind="stable"), table.dice > 0.7)
        found, true = table.area_a[table.a[pairs]], table.area_b[table.b[pairs]]
        shared = table.shared[pairs]
        dice.append(table.dice[pairs])
        hit.append(shared / true)
        beyond.append(ratio(found - shared, size - true))
    good, cells = sum(map(len, dice)), sum(len(t.area_b) for t in tables)
    tpp = _mean(np.concatenate(hit))
    return {
        "Dice": _mean(np.concatenate(dice)),
        "TPp": tpp,
        "FPp": _mean(np.concatenate(beyond)),
        "FNp": 1 - tpp,
        "FNo": float(ratio(cells - good, cells)),
    }


def challenge_nuclei(tables: Sequence[Overlaps]) -> dict[str, float]:
    """Detection scores of the ISBI 2014 challenge, over all images.

    A detection is correct where what it shares with a true nucleus is over 0.6 of either;
    Dice is the mean over correct ones.
    """
    dice = [np.zeros(0)]
    for table in tables:
        larger = np.maximum(table.area_a[table.a], table.area_b[table.b])
        able = table.shared > 0.6 * larger
        pairs = _one_to_one(table, np.argsort(-table.dice, kind="stable"), able)
        dice.append(table.dice[pairs])
    values = np.concatenate(dice)
    return {
        "detection precision": float(ratio(len(values), sum(len(t.area_a) for t in tables))),
        "detection recall": float(ratio(len(values), sum(len(t.area_b) for t in tables))),
        "detection Dice": _mean(values),
    }


def score_class(
    found: Sequence[Masks], truth: Sequence[Masks], *, cut: float = 0.5, max_dets: int | None = 100
) -> dict[str, float]:
    """All scores of one class, found and true instances given image by image.

    AP ranks whatever was found; everything else counts what has a score of at least `cut`.
    """
    kept = [masks.above(cut) for masks in found]
    tables = [mask_overlaps(a, b) for a, b in zip(kept, truth, strict=True)]
    match = Match.pool([match_overlaps(table, 0.5) for table in tables])
    limit = math.inf if max_dets is None else max_dets
    shared, united = _pixels(kept, truth)
    return {
        "images": len(truth),
        "true": match.true,
        "found": match.predicted,
        "beyond AP's limit": sum(max(len(masks) - limit, 0) for masks in found),
        **coco_ap(found, truth, max_dets=max_dets),
        "F1": match.f1,
        "precision": match.precision,
        "recall": match.recall,
        "mean IoU": match.sq,
        "PQ": match.pq,
        "AJI": _mean([aggregated_jaccard(t, kumar_pairs(t)) for t in tables]),
        "AJI (DoNet)": donet_aji(tables),
        "F1 (DoNet)": donet_f1(tables),
        **challenge_cells(tables, [h * w for h, w in (masks.shape for masks in truth)]),
        **challenge_nuclei(tables),
        "pixel IoU": float(ratio(shared, united)),
    }


def score_instances(
    found: Sequence[Mapping[str, Masks]],
    truth: Sequence[Mapping[str, Masks]],
    classes: Sequence[str],
    *,
    cut: float = 0.5,
    max_dets: int | None = 100,
) -> dict[str, dict[str, float]]:
    """The scores of each class, and as ``all`` their means over classes (of `COUNTS` the sums).

    Parameters
    ----------
    found, truth
        class → instances, image by image; an image whose truth lacks a class says nothing of it
    cut, max_dets
        as in `score_class`
    """
    out: dict[str, dict[str, float]] = {}
    for name in classes:
        seen = [(f[name], t[name]) for f, t in zip(found, truth, strict=True) if name in t]
        out[name] = score_class([f for f, _ in seen], [t for _, t in seen], cut=cut,
                                max_dets=max_dets)  # fmt: skip
    rows = list(out.values())
    whole = {k: _mean([row[k] for row in rows]) for k in rows[0]}
    whole |= {k: sum(row[k] for row in rows) for k in COUNTS} | {"images": len(truth)}
    whole["pixel IoU with background"] = _with_background(
        [[f[name].above(cut) for name in classes] for f in found],
        [[t[name] for name in classes if name in t] for t in truth],
        [out[name]["pixel IoU"] for name in classes],
    )
    out["all"] = whole
    return out


def _with_background(
    found: Sequence[Sequence[Masks]], truth: Sequence[Sequence[Masks]], iou: Sequence[float]
) -> float:
    """Mean of the classes' IoU and that of the pixels of no class, where every class is known."""
    known = [(f, t) for f, t in zip(found, truth, strict=True) if len(t) == len(f)]
    if not known:
        return math.nan
    shared, united = _pixels([_joined(f) for f, _ in known], [_joined(t) for _, t in known])
    pixels = sum(t[0].shape[0] * t[0].shape[1] for _, t in known)
    return _mean([*iou, float(ratio(pixels - united, pixels - shared))])


def _joined(parts: Sequence[Masks]) -> Masks:
    """The instances of several classes as one."""
    rles = [rle for masks in parts for rle in masks.rles]
    return Masks(rles, np.concatenate([masks.scores for masks in parts]), parts[0].shape)


def _pixels(found: Sequence[Masks], truth: Sequence[Masks]) -> tuple[int, int]:
    """Pixels that found and true instances both cover, and that either covers."""
    shared = united = 0
    for a, b in zip(found, truth, strict=True):
        both = [a.union, b.union]
        shared += int(coco.area(coco.merge(both, intersect=True)))
        united += int(coco.area(coco.merge(both)))
    return shared, united


def _one_to_one(
    table: Overlaps, order: NDArray[np.int64], able: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Those of the `able` pairs whose objects are both free when their turn in `order` comes."""
    free_a = np.ones(len(table.area_a), np.bool_)
    free_b = np.ones(len(table.area_b), np.bool_)
    kept = []
    for pair in order[able[order]]:
        i, j = table.a[pair], table.b[pair]
        if free_a[i] and free_b[j]:
            free_a[i] = free_b[j] = False
            kept.append(pair)
    return np.array(kept, np.int64)


def _mean(values: Sequence[float] | NDArray[np.float64]) -> float:
    """Mean of what is defined; NaN where nothing is."""
    array = np.asarray(values, np.float64)
    array = array[~np.isnan(array)]
    return float(array.mean()) if array.size else math.nan
