"""Scores of a detector during training, and the score from which its boxes are kept on slides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..metrics import average_precision
from ..predictions import Instances
from .detection_data import BoxSample
from .validation import IOU, box_iou, hits_of

__all__ = ["TOUCHING", "Found", "best_score", "compare", "on_known_ground", "validate_boxes"]

TOUCHING = 0.5
"""Least share of a found box inside a mark, or inside a region to ignore."""


@dataclass(frozen=True, eq=False)
class Found:
    """What was found of one class in one image: scores (k,), hits (k,), number of true objects."""

    group: str
    class_index: int
    scores: NDArray[np.float32]
    hits: NDArray[np.bool_]
    true: int


def on_known_ground(boxes: NDArray[np.float32], sample: BoxSample) -> NDArray[np.bool_]:
    """Return which found boxes (k, 4) count, bool (k,).

    Not those that lie in a region to ignore and match no true box; nor, where only some objects
    are marked, those that lie outside the marks, where nothing is known.
    """
    near = box_iou(boxes, sample.boxes).max(1, initial=0) >= IOU
    counts = near | (_inside(boxes, sample.ignore) < TOUCHING)
    if sample.partial:
        counts &= near | (_inside(boxes, sample.boxes) >= TOUCHING)
    return np.asarray(counts, bool)


def _inside(boxes: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the largest share of each box (k, 4) that lies in one of `others` (m, 4)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(2).max(1, initial=0)
    return np.asarray(shared / np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1e-6), float)


def compare(
    detect: Callable[[NDArray[np.uint8]], Instances], samples: Sequence[BoxSample], classes: int
) -> Iterator[Found]:
    """Yield what is found of each class in each sample, compared with the truth at IoU 0.5.

    Parameters
    ----------
    detect
        image uint8 (h, w, 3) → its boxes, best first
    """
    for sample in samples:
        found = detect(sample.image)
        found = found.take(on_known_ground(found.boxes, sample))
        for c in range(classes):
            part = found.take(found.class_index == c)
            truth = sample.boxes[sample.labels == c + 1]
            hits = hits_of(box_iou(part.boxes, truth))
            yield Found(sample.group, c, part.scores, hits, len(truth))


def validate_boxes(rows: Sequence[Found], classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return AP50 per set and class, and their mean; classes without true objects are left out."""
    out: dict[str, dict[str, float]] = {}
    for group, c in dict.fromkeys((row.group, row.class_index) for row in rows):
        mine = [row for row in rows if (row.group, row.class_index) == (group, c)]
        true = sum(row.true for row in mine)
        if true:
            scores, hits = (
                np.concatenate([getattr(r, k) for r in mine]) for k in ("scores", "hits")
            )
            out.setdefault(group, {})[f"{classes[c]} AP50"] = average_precision(scores, hits, true)
    for measured in out.values():
        measured["AP50"] = float(np.mean(list(measured.values())))
    return out


def best_score(rows: Sequence[Found]) -> float:
    """Return the score of the highest F1 over all classes, 0.05 to 0.95; 0.5 where nothing hits.

    Examples
    --------
    >>> hits = np.array([True, True, False])
    >>> best_score([Found("a", 0, np.array([0.9, 0.7, 0.4], np.float32), hits, 2)])
    0.55
    """
    true = sum(row.true for row in rows)
    scores = np.concatenate([row.scores for row in rows] or [np.zeros(0, np.float32)])
    hits = np.concatenate([row.hits for row in rows] or [np.zeros(0, bool)])
    if not true or not hits.any():
        return 0.5
    order = np.argsort(-scores, kind="stable")
    scores, right = scores[order], hits[order].cumsum()
    f1 = 2 * right / (np.arange(1, len(order) + 1) + true)
    best = int(f1.argmax())
    below = scores[best + 1] if best + 1 < len(scores) else 0.0
    return float(np.clip(round(float(scores[best] + below) / 2, 2), 0.05, 0.95))
