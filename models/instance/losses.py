"""Losses of boxes and masks, in float32; finite and differentiable also without any region."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

__all__ = [
    "OVERLAP_LOSSES",
    "box_loss",
    "consistency",
    "invisible_bce",
    "mask_bce",
    "mask_iou_loss",
    "soft_xor",
]


def iou_loss(boxes: Tensor, truth: Tensor, reduction: str = "sum") -> Tensor:
    """Return 1 − IoU of boxes (n, 4), pair by pair; their sum, or each with reduction ``none``."""
    low, high = torch.max(boxes[:, :2], truth[:, :2]), torch.min(boxes[:, 2:], truth[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    areas = [(b[:, 2:] - b[:, :2]).clamp(min=0).prod(1) for b in (boxes, truth)]
    loss = 1 - shared / (areas[0] + areas[1] - shared + 1e-7)
    return loss.sum() if reduction == "sum" else loss


OVERLAP_LOSSES: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {
        "iou": iou_loss,
        "giou": generalized_box_iou_loss,
        "diou": distance_box_iou_loss,
        "ciou": complete_box_iou_loss,
    }
)


def box_loss(
    name: str, deltas: Tensor, boxes: Tensor, truth: Tensor, coder: Any, beta: float
) -> Tensor:
    """Return a regression loss, summed over the regions.

    Parameters
    ----------
    name
        ``l1`` and ``smooth_l1`` compare deltas; ``iou``, ``giou``, ``diou``, ``ciou`` boxes
    deltas, boxes, truth
        (n, 4): `deltas` move `boxes`, which should become `truth`
    coder
        torchvision's box coder
    beta
        where smooth L1 turns linear
    """
    if name in OVERLAP_LOSSES:
        return OVERLAP_LOSSES[name](coder.decode_single(deltas, boxes), truth, reduction="sum")
    wanted = coder.encode_single(truth, boxes)
    return F.smooth_l1_loss(deltas, wanted, reduction="sum", beta=beta if name != "l1" else 0.0)


def mask_bce(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross entropy over regions and pixels (n, m, m); 0 for n = 0."""
    if not logits.numel():
        return logits.float().sum() * 0
    return F.binary_cross_entropy_with_logits(logits.float(), target.float())


def invisible_bce(whole: Tensor, visible: Tensor, target: Tensor) -> Tensor:
    """Return the cross entropy of the part that is whole but not visible; logits (n, m, m).

    Its probability is that of the whole less that of the visible part, at least 0 (Follmann et al.
    2019). 0 for n = 0.
    """
    if not whole.numel():
        return (whole.float().sum() + visible.float().sum()) * 0
    p = (whole.float().sigmoid() - visible.float().sigmoid()).clamp(1e-6, 1 - 1e-6)
    return -(target * p.log() + (1 - target) * (1 - p).log()).mean()


def mask_iou_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean squared error of the predicted IoU of masks (n,); 0 for n = 0."""
    if not found.numel():
        return found.float().sum() * 0
    return F.mse_loss(found.float(), wanted)


def soft_xor(a: Tensor, b: Tensor) -> Tensor:
    """Return the probability that exactly one of two independent events happens: a + b − 2ab."""
    return a + b - 2 * a * b


def consistency(refined: Tensor, shared: Tensor, rest: Tensor, mode: str) -> Tensor:
    """Compare the refined mask with its two parts put together; logits (n, m, m).

    Parameters
    ----------
    mode
        ``soft``: cross entropy against the soft xor of the parts, with a gradient into all three.
        ``code``: as DoNet's code has it, 100 times the share of pixels where the thresholded masks
        disagree, which has no gradient.
    """
    if mode == "soft":
        return mask_bce(refined, soft_xor(shared.float().sigmoid(), rest.float().sigmoid()))
    if not refined.numel():
        return refined.float().sum() * 0
    return 100 * (((shared > 0) ^ (rest > 0)) != (refined > 0)).float().mean()
