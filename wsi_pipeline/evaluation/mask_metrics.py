"""Scores of instances that may overlap, from run-length masks, one class at a time.

Publications on overlapping cells pair instances by different rules and average over different
things. Each of their scores has its own name here and is computed as in its source.

Sources: DoNet, Jiang et al., CVPR 2023, and its published evaluation code; ISBI 2014 challenge, Lu
et al., Evaluation of Three Algorithms for the Segmentation of Overlapping Cervical Cells, IEEE JBHI
21 (2017); COCO, Lin et al., ECCV 2014, as computed by pycocotools.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from wsi_pipeline.evaluation.masks import Masks
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
    "judged",
    "mask_overlaps",
    "score_class",
    "score_instances",
]

COUNTS = ("images", "true", "found", "beyond AP's limit")
"""Scores that are counts; over several classes they are added."""


def mask_overlaps(found: Masks, truth: Masks) -> Overlaps:
    """Return the pairs of found and true instances that share pixels; areas are in pixels."""
    area_a, area_b = found.area, truth.area
    shared = np.zeros((len(found), len(truth)))
    if shared.size:
        # With a "crowd", pycocotools returns the shared area ÷ the area of the detection.
        share = coco.iou(list(found.rles), list(truth.rles), [1] * len(truth))
        shared = np.rint(share * area_a[:, None])
    a, b = np.nonzero(shared)
    return Overlaps(
        a, b, shared[a, b], area_a, area_b, np.arange(len(found)), np.arange(len(truth))
    )


def coco_ap(
    found: Sequence[Masks], truth: Sequence[Masks], *, max_dets: int | None = 100
) -> dict[str, float]:
    """Return COCO's mask AP of one class; NaN where no true instance has that size.

    AP is the mean precision over IoU thresholds 0.50, 0.55 … 0.95 and 101 recalls 0, 0.01 … 1.
    APs, APm and APl are the same of masks below 32² pixels, up to 96² pixels, and above.

    Parameters
    ----------
    found, truth
        instances, one entry per image
    max_dets
        number of found instances per image that count, those of highest score; None: all
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
    """Return the instances in the form of pycocotools. Ids start at 1: there, 0 means no match."""
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
    """Return F1 as in DoNet's evaluation code: pairs of IoU above 0.5, mean over images.

    The pair of highest IoU is taken first. F1 of an image is 2 · pairs ÷ (found + true). An image
    without found and true instances is left out. An image with found instances only counts 0; in
    the published code it counts 1.
    """
    values = []
    for table in tables:
        pairs = _one_to_one(table, np.argsort(-table.iou, kind="stable"), table.iou > 0.5)
        values.append(float(ratio(2 * len(pairs), len(table.area_a) + len(table.area_b))))
    return _mean(values)


def donet_aji(tables: Sequence[Overlaps]) -> float:
    """Return AJI as in DoNet's evaluation code, mean over images.

    In order, each true instance takes the prediction of highest IoU, at least 0.5, that is not
    taken yet. The original index (see `kumar_pairs`) has no such threshold, and there a prediction
    can be taken several times.
    """
    values = []
    for table in tables:
        pairs = _one_to_one(table, np.lexsort((-table.iou, table.b)), table.iou >= 0.5)
        values.append(aggregated_jaccard(table, pairs))
    return _mean(values)


def challenge_cells(tables: Sequence[Overlaps], pixels: Sequence[int]) -> dict[str, float]:
    """Return the segmentation scores of the ISBI 2014 challenge, over all images.

    A pair counts where its Dice coefficient is above 0.7; pairs of higher Dice are taken first.

    ::

        Dice  mean of 2 shared ÷ (found + true)       over the pairs
        TPp   mean of shared ÷ true                   over the pairs
        FPp   mean of (found − shared) ÷ (all − true) over the pairs
        FNp   1 − TPp
        FNo   true cells without a pair ÷ true cells

    with the pixels of the found and the true cell, and all pixels of the image. The challenge
    gives no formula for FPp; this is the usual one.

    Parameters
    ----------
    tables
        overlaps, one per image
    pixels
        number of pixels of each image
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
    """Return the detection scores of the ISBI 2014 challenge, over all images.

    A detection is correct where the shared area is above 0.6 of the detection and above 0.6 of the
    true nucleus. Dice is the mean over correct detections.
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
    """Return all scores of one class.

    AP uses all found instances; the other scores use those with a score of at least `cut`.

    Parameters
    ----------
    found, truth
        instances, one entry per image
    max_dets
        see `coco_ap`
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
        **challenge_cells(tables, [masks.known_px for masks in truth]),
        **challenge_nuclei(tables),
        "pixel IoU": float(ratio(shared, united)),
    }


def judged(found: Mapping[str, Masks], truth: Mapping[str, Masks]) -> dict[str, Masks]:
    """Return class → the found instances of one image that count; see `Masks.judged`."""
    return {k: one.judged(truth[k]) if k in truth else one for k, one in found.items()}


def score_instances(
    found: Sequence[Mapping[str, Masks]],
    truth: Sequence[Mapping[str, Masks]],
    classes: Sequence[str],
    *,
    cut: float = 0.5,
    max_dets: int | None = 100,
) -> dict[str, dict[str, float]]:
    """Return the scores of each class; under ``all`` their means (for `COUNTS` the sums).

    Parameters
    ----------
    found, truth
        class → instances, one entry per image; an image without truth for a class is left out of
        the scores of that class, and a found instance that lies mostly in unknown pixels counts
        nowhere
    cut, max_dets
        see `score_class`
    """
    out: dict[str, dict[str, float]] = {}
    found = [judged(f, t) for f, t in zip(found, truth, strict=True)]
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
    """Return the mean of the classes' IoU and the background's, over images with all classes."""
    known = [(f, t) for f, t in zip(found, truth, strict=True) if len(t) == len(f)]
    if not known:
        return math.nan
    joined = [_joined(t) for _, t in known]
    shared, united = _pixels([_joined(f) for f, _ in known], joined)
    pixels = sum(masks.known_px for masks in joined)
    return _mean([*iou, float(ratio(pixels - united, pixels - shared))])


def _joined(parts: Sequence[Masks]) -> Masks:
    """Return the instances of several classes as one class."""
    rles = [rle for masks in parts for rle in masks.rles]
    unknown = [masks.unknown for masks in parts if masks.unknown is not None]
    both = coco.merge(unknown, intersect=True) if unknown else None
    return Masks(rles, np.concatenate([masks.scores for masks in parts]), parts[0].shape, both)


def _pixels(found: Sequence[Masks], truth: Sequence[Masks]) -> tuple[int, int]:
    """Return the number of known pixels in found and true instances, and in either."""
    shared = united = 0
    for a, b in zip(found, truth, strict=True):
        both = [a.union, b.union]
        shared += int(coco.area(coco.merge(both, intersect=True)))
        united += int(coco.area(coco.merge(both)))
        if b.unknown is not None:
            united -= int(coco.area(coco.merge([a.union, b.unknown], intersect=True)))
    return shared, united


def _one_to_one(
    table: Overlaps, order: NDArray[np.int64], able: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return one-to-one pairs: in `order`, each `able` pair whose objects are not taken yet."""
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
    """Return the mean of all values that are not NaN; NaN where there are none."""
    array = np.asarray(values, np.float64)
    array = array[~np.isnan(array)]
    return float(array.mean()) if array.size else math.nan
