"""COCO's AP and AR of boxes, per class (`wsiseg evaluate` of a detector).

Source: Lin et al., ECCV 2014, as computed by pycocotools. AP and AR are means over IoU 0.50, 0.55 …
0.95; AP50, AP75 and AR50 are at one IoU. "All" is the mean over the classes that have true objects.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from wsiseg_models.predictions import Instances
from wsiseg_models.training.detection_data import BoxSample
from wsiseg_models.training.detection_validation import on_known_ground

from wsi_pipeline.evaluation.matching import ratio

__all__ = ["BOX_COUNTS", "Judged", "judge_boxes", "score_boxes"]

BOX_COUNTS = ("images", "true", "found", "beyond AP's limit", "elsewhere")
"""Scores that are counts; over several classes they are added."""


@dataclass(frozen=True, eq=False)
class Judged:
    """One image: the boxes that count, the truth, and how many boxes of each class do not count.

    Attributes
    ----------
    found
        boxes in places of which something is known, best first
    truth
        image with its true boxes
    elsewhere
        int64 (classes,): boxes found in places of which nothing is known
    """

    found: Instances
    truth: BoxSample
    elsewhere: NDArray[np.int64]


def judge_boxes(
    find: Callable[[NDArray[np.uint8]], Instances], samples: Iterable[BoxSample], classes: int
) -> list[Judged]:
    """Find boxes in each sample, and set aside those of which nothing can be said.

    These lie in regions to ignore or, where only some objects are marked, outside the marks.
    """
    judged = []
    for sample in samples:
        found = find(sample.image)
        counts = on_known_ground(found.boxes, sample)
        elsewhere = np.bincount(found.class_index[~counts], minlength=classes)
        judged.append(Judged(found.take(counts), sample, elsewhere))
    return judged


def score_boxes(
    judged: Sequence[Judged],
    classes: Sequence[str],
    *,
    cut: float = 0.5,
    max_dets: int | None = 100,
) -> dict[str, dict[str, float]]:
    """Return the scores of each class; under ``all`` their means (for `BOX_COUNTS` the sums).

    AP and AR use all found boxes; F1, precision and recall those with a score of at least `cut`, at
    IoU 0.5.

    Parameters
    ----------
    max_dets
        number of boxes per image and class that count, those of highest score; None: all
    """
    most = max((len(j.found) for j in judged), default=0)
    limit = max(100, most) if max_dets is None else max_dets
    table = _coco_table(judged, len(classes), limit)
    out = {
        name: _counts(judged, k, limit) | table[k] | _at_cut(judged, k, cut)
        for k, name in enumerate(classes)
    }
    rows = list(out.values())
    known = [row for row in rows if row["true"]]
    whole = {name: _mean([row[name] for row in known]) for name in rows[0]}
    whole |= {name: float(sum(row[name] for row in rows)) for name in BOX_COUNTS}
    return {**out, "all": whole | {"images": float(len(judged))}}


def _counts(judged: Sequence[Judged], k: int, limit: int) -> dict[str, float]:
    found = [int((j.found.class_index == k).sum()) for j in judged]
    return {
        "images": float(len(judged)),
        "true": float(sum(int((j.truth.labels == k + 1).sum()) for j in judged)),
        "found": float(sum(found)),
        "beyond AP's limit": float(sum(max(n - limit, 0) for n in found)),
        "elsewhere": float(sum(int(j.elsewhere[k]) for j in judged)),
    }


def _coco_table(judged: Sequence[Judged], classes: int, limit: int) -> list[dict[str, float]]:
    """Return AP and AR of each class, computed by pycocotools; NaN where there is no true box."""
    truth = [(j.truth.boxes, j.truth.labels, np.ones(len(j.truth))) for j in judged]
    found = [(j.found.boxes, j.found.class_index.astype(int) + 1, j.found.scores) for j in judged]
    with redirect_stdout(io.StringIO()):
        judge = COCOeval(_dataset(truth, classes), _dataset(found, classes), "bbox")
        judge.params.maxDets = [limit]
        judge.evaluate()
        judge.accumulate()
    # (IoU, recall, class, area, limit) and (IoU, class, area, limit); −1 is undefined
    precision, recall = judge.eval["precision"][..., 0], judge.eval["recall"][..., 0]
    iou, sizes = judge.params.iouThrs, judge.params.areaRngLbl
    at50, at75 = np.isclose(iou, 0.5), np.isclose(iou, 0.75)

    def mean(values: Any) -> float:
        return float(values.mean()) if values.size and values.min() >= 0 else math.nan

    return [
        {
            "AP": mean(precision[:, :, k, sizes.index("all")]),
            "AP50": mean(precision[at50, :, k, sizes.index("all")]),
            "AP75": mean(precision[at75, :, k, sizes.index("all")]),
            "APs": mean(precision[:, :, k, sizes.index("small")]),
            "APm": mean(precision[:, :, k, sizes.index("medium")]),
            "APl": mean(precision[:, :, k, sizes.index("large")]),
            "AR": mean(recall[:, k, sizes.index("all")]),
            "AR50": mean(recall[at50, k, sizes.index("all")]),
        }
        for k in range(classes)
    ]


def _dataset(images: Sequence[tuple[Any, Any, Any]], classes: int) -> COCO:
    """Return boxes in the form of pycocotools. Ids start at 1: there, 0 means no match."""
    annotations: list[Mapping[str, Any]] = []
    for number, (boxes, labels, scores) in enumerate(images):
        for (x0, y0, x1, y1), label, score in zip(boxes.tolist(), labels, scores, strict=True):
            box = [x0, y0, x1 - x0, y1 - y0]
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": number, "category_id": int(label),
                    "bbox": box, "area": box[2] * box[3], "iscrowd": 0, "score": float(score),
                }
            )  # fmt: skip
    dataset = COCO()
    dataset.dataset = {
        "images": [{"id": k} for k in range(len(images))],
        "categories": [{"id": k + 1, "name": str(k)} for k in range(classes)],
        "annotations": annotations,
    }
    dataset.createIndex()
    return dataset


def _at_cut(judged: Sequence[Judged], k: int, cut: float) -> dict[str, float]:
    """Return F1, precision and recall of one class at IoU 0.5, from a score on."""
    from wsiseg_models.training.validation import box_iou, hits_of

    hits = found = true = 0
    for j in judged:
        part = j.found.take((j.found.class_index == k) & (j.found.scores >= cut))
        wanted = j.truth.boxes[j.truth.labels == k + 1]
        hits += int(hits_of(box_iou(part.boxes, wanted)).sum())
        found += len(part)
        true += len(wanted)
    return {
        "F1": float(ratio(2 * hits, found + true)),
        "precision": float(ratio(hits, found)),
        "recall": float(ratio(hits, true)),
    }


def _mean(values: Sequence[float]) -> float:
    """Return the mean of the values that are not NaN; NaN where there are none."""
    known = [v for v in values if not math.isnan(v)]
    return float(np.mean(known)) if known else math.nan
