"""Targets of the mask heads: masks on a grid over their boxes, decomposed at overlaps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from .config import CELL

__all__ = ["check_targets", "decompose", "drop_unknown", "iou_with_truth", "project"]


def decompose(masks: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Decompose masks (k, h, w) of 0 and 1 into the part shared with other cells, and the rest.

    With e the mask and c the number of cells that cover a pixel, the parts are e ∧ (c ≥ 2) and
    e ∧ (c < 2), the two regions of DoNet. Only cells (label 1) share; for other classes the rest
    is the whole mask.

    Examples
    --------
    >>> masks = torch.tensor([[[1, 1, 0]], [[0, 1, 1]]])
    >>> shared, rest = decompose(masks, torch.tensor([1, 1]))
    >>> shared.tolist(), rest.tolist()
    ([[[0, 1, 0]], [[0, 1, 0]]], [[[1, 0, 0]], [[0, 0, 1]]])
    """
    masks = masks.to(torch.uint8)
    cell = labels == CELL
    crowded = (masks[cell].sum(0, dtype=torch.int32) >= 2).to(torch.uint8)
    shared = masks * crowded * cell.view(-1, 1, 1).to(torch.uint8)
    return shared, masks - shared


def project(masks: Tensor, boxes: Tensor, index: Tensor, grid: int) -> Tensor:
    """Draw masks (k, c, h, w) on the grid of their boxes: (n, c, grid, grid).

    Box i of `boxes` (n, 4) shows mask `index[i]`. The result is float32 of 0 and 1: a cell of the
    grid is 1 where at least half of it is covered.
    """
    rois = torch.cat([index[:, None].to(boxes), boxes], 1)
    cover: Tensor = roi_align(masks.to(boxes), rois, grid, aligned=True)
    return (cover >= 0.5).to(boxes.dtype)


def iou_with_truth(logits: Tensor, whole: Tensor, boxes: Tensor, area: Tensor) -> Tensor:
    """Return the IoU (n,) of masks over their boxes with the whole true instances.

    Parameters
    ----------
    logits
        (n, m, m); the mask is where they are above 0
    whole
        (n, m, m) of 0 and 1: the true instance on the same grid
    boxes
        (n, 4)
    area
        (n,) pixels of the true instance, also outside of its box
    """
    mask = (logits > 0).to(whole.dtype)
    cell = (boxes[:, 2:] - boxes[:, :2]).prod(1) / whole.shape[1] ** 2
    shared = (mask * whole).sum((1, 2)) * cell
    return shared / (mask.sum((1, 2)) * cell + area - shared).clamp(min=1e-6)


def drop_unknown(labels: Tensor, boxes: Tensor, target: Mapping[str, Tensor]) -> Tensor:
    """Return labels (n,) of boxes (n, 4), with −1 for background that may be none.

    That is a box labelled 0 with more than half of its area where the target's ``unknown`` (h, w)
    is set.

    Examples
    --------
    >>> target = {"unknown": torch.tensor([[1, 1, 0, 0]])}
    >>> boxes = torch.tensor([[0.0, 0, 2, 1], [1, 0, 4, 1], [0, 0, 2, 1]])
    >>> drop_unknown(torch.tensor([0, 0, 2]), boxes, target).tolist()
    [-1, 0, 2]
    """
    if "unknown" not in target or not len(boxes):
        return labels
    unknown = target["unknown"]
    sums = F.pad(unknown.double().cumsum(0).cumsum(1), (1, 0, 1, 0))
    h, w = unknown.shape
    x0, y0 = (boxes[:, i].floor().long().clamp(0, n - 1) for i, n in ((0, w), (1, h)))
    x1, y1 = (boxes[:, i].ceil().long().clamp(1, n) for i, n in ((2, w), (3, h)))
    x1, y1 = torch.maximum(x1, x0 + 1), torch.maximum(y1, y0 + 1)
    inside = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
    mostly = inside > 0.5 * (x1 - x0) * (y1 - y0)
    return torch.where((labels == 0) & mostly, -torch.ones_like(labels), labels)


def check_targets(
    targets: list[dict[str, Tensor]] | None, shape: torch.Size, classes: int
) -> list[dict[str, Tensor]]:
    """Check the targets of images of `shape` (n, 3, h, w), and return them.

    Raises
    ------
    ValueError
        a target that cannot be learned; the message names its position and the fault
    """
    if targets is None or len(targets) != shape[0]:
        got = "none" if targets is None else len(targets)
        raise ValueError(f"training needs one target per image: {shape[0]} images, {got} targets")
    for i, target in enumerate(targets):
        boxes, labels, masks = target["boxes"], target["labels"], target["masks"]
        k = len(labels)
        if boxes.shape != (k, 4) or masks.shape != (k, *shape[2:]):
            sizes = f"boxes {tuple(boxes.shape)}, labels ({k},), masks {tuple(masks.shape)}"
            raise ValueError(f"target {i} does not fit its image {tuple(shape[2:])}: {sizes}")
        if boxes.dtype != torch.float32 or labels.dtype != torch.int64:
            raise ValueError(f"target {i}: boxes are float32 and labels int64")
        good = (boxes[:, 2:] > boxes[:, :2]).all(1) & boxes.isfinite().all(1)
        if not bool(good.all()):
            box = boxes[~good][0].tolist()
            raise ValueError(f"target {i}: box {box} has no area; leave its instance out")
        if k and not 1 <= int(labels.min()) <= int(labels.max()) <= classes:
            raise ValueError(
                f"target {i}: labels {sorted(set(labels.tolist()))}, not 1 to {classes}"
            )
    return targets
