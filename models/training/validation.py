"""Scores of a network during training: AP at IoU 0.5 on held-out images.

They are cheap; ``wsiseg evaluate`` computes the scores that are published.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..metrics import average_precision
from ..predictions import Instances, Window, paste
from .instance_data import InstanceSample
from .normalise import Normal

__all__ = ["IOU", "box_iou", "detect_image", "hits_of", "validate_instances"]

STRIDE = 32
IOU = 0.5

Placed = tuple[NDArray[np.integer], NDArray[np.bool_]]
"""x0, y0, x1, y1 in the image, and the mask in it."""


@torch.no_grad()
def run_padded(
    network: nn.Module, image: NDArray[np.uint8], normal: Normal, stride: int = STRIDE
) -> Any:
    """Return the output for one image (h, w, 3), padded right and below with the mean."""
    x = normal(torch.from_numpy(image)[None])
    h, w = image.shape[:2]
    return network(nn.functional.pad(x, (0, -w % stride, 0, -h % stride)))


def detect_image(
    network: nn.Module,
    decode: Callable[[Any], list[Instances]],
    image: NDArray[np.uint8],
    normal: Normal,
) -> Instances:
    """Return the detections in one image (h, w, 3) of any size."""
    return decode(run_padded(network, image, normal))[0]


def _placed(window: Window, mask: NDArray[np.bool_]) -> Placed:
    rows, columns = window
    return np.array((columns.start, rows.start, columns.stop, rows.stop)), mask


def _iou(a: Placed, b: Placed) -> float:
    (x0, y0), (x1, y1) = np.maximum(a[0][:2], b[0][:2]), np.minimum(a[0][2:], b[0][2:])
    if x0 >= x1 or y0 >= y1:
        return 0.0
    mine, theirs = (
        mask[y0 - w[1] : y1 - w[1], x0 - w[0] : x1 - w[0]] for w, mask in (a, b)
    )  # fmt: skip
    shared = int((mine & theirs).sum())
    return shared / max(int(a[1].sum() + b[1].sum()) - shared, 1)


def box_iou(a: NDArray[np.number], b: NDArray[np.number]) -> NDArray[np.float64]:
    """Return IoU of boxes (m, 4) and (n, 4): (m, n)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(2)
    areas = [(v[:, 2:] - v[:, :2]).prod(1) for v in (a, b)]
    return np.asarray(shared / np.maximum(areas[0][:, None] + areas[1] - shared, 1e-6), float)


def hits_of(iou: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which predictions (rows, best first) match an instance that is still free."""
    hits, free = np.zeros(len(iou), bool), np.ones(iou.shape[1], bool)
    for i, row in enumerate(iou):
        row = np.where(free, row, 0)
        if row.size and row.max() >= IOU:
            hits[i], free[row.argmax()] = True, False
    return hits


def _judged(found: Instances, sample: InstanceSample, label: int) -> NDArray[np.bool_]:
    """Return which boxes (n,) do not lie mostly where other instances of `label` may be."""
    if sample.unknown is None:
        return np.ones(len(found.boxes), bool)
    unknown = sample.unknown & (sample.count(label) == 0)
    h, w = unknown.shape
    (x0, y0), (x1, y1) = np.floor(found.boxes[:, :2].T), np.ceil(found.boxes[:, 2:].T)
    corners = np.maximum(np.stack([x0, y0, x1, y1], 1), 0).astype(int)
    shares = [
        unknown[b:d, a:c].mean() if a < min(c, w) and b < min(d, h) else 0.0
        for a, b, c, d in corners
    ]
    # A box in the padding of the image shows no pixel of it, so it counts nowhere.
    return np.asarray((np.array(shares) <= 0.5) & (corners[:, 0] < w) & (corners[:, 1] < h), bool)


def validate_instances(
    detect: Callable[[NDArray[np.uint8]], Instances],
    samples: Sequence[InstanceSample],
    classes: Sequence[str],
) -> dict[str, dict[str, float]]:
    """Return AP50 of boxes and masks per set and class, and their means.

    Classes without true instances are left out.

    Parameters
    ----------
    detect
        image uint8 (h, w, 3) → its instances, best first
    """
    rows: dict[tuple[str, int, str], list[tuple[NDArray[Any], NDArray[np.bool_]]]] = {}
    totals: dict[tuple[str, int], int] = {}
    for sample in samples:
        found = detect(sample.image)
        for c in range(len(classes)):
            mine, true = found.class_index == c, np.flatnonzero(sample.labels == c + 1)
            part = found.take(mine & _judged(found, sample, c + 1))
            boxes = box_iou(part.boxes, sample.windows[true])
            pasted = [_placed(w, m) for w, m in paste(part, sample.image.shape[:2])]
            masks = np.zeros_like(boxes)
            for i, j in np.argwhere(boxes > 0):
                masks[i, j] = _iou(pasted[i], (sample.windows[true[j]], sample.masks[true[j]]))
            totals[sample.group, c] = totals.get((sample.group, c), 0) + len(true)
            for kind, iou in (("box", boxes), ("mask", masks)):
                rows.setdefault((sample.group, c, kind), []).append((part.scores, hits_of(iou)))
    out: dict[str, dict[str, float]] = {}
    for (group, c, kind), parts in rows.items():
        if totals[group, c]:
            scores, hits = (np.concatenate(column) for column in zip(*parts, strict=True))
            value = average_precision(scores, hits, totals[group, c])
            out.setdefault(group, {})[f"{classes[c]} {kind} AP50"] = value
    for measured in out.values():
        for kind in ("box", "mask"):
            values = [v for k, v in measured.items() if k.endswith(f" {kind} AP50")]
            measured[f"{kind} AP50"] = float(np.mean(values))
    return out
