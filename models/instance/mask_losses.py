"""Losses of the mask heads: plain ones, DoNet's, the visible part, and the predicted IoU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .config import CELL, InstanceConfig
from .losses import consistency, invisible_bce, mask_bce, mask_iou_loss
from .targets import decompose, iou_with_truth, project

if TYPE_CHECKING:
    from .roi_heads import Samples

__all__ = ["GRID", "mask_losses"]

GRID = 28
"""Side of a mask over its box: twice that of the pooled 14×14 features."""


def mask_losses(
    config: InstanceConfig,
    keep: Sequence[int],
    logits: dict[str, Tensor],
    samples: Samples,
    targets: list[dict[str, Tensor]],
) -> dict[str, Tensor]:
    """Return the losses of the masks of positive `samples`, by name.

    Parameters
    ----------
    keep
        labels that the pass is to find
    logits
        (n, 28, 28) by name, as the mask heads return them, for the class of each region
    """
    c = config
    whole, rest = _true_parts(c, samples, targets)
    if c.drm:
        return _deoverlap_losses(c, keep, logits, samples, whole, rest)
    losses = {"mask": c.mask_weight * mask_bce(logits["mask"], whole)}
    if c.visible:
        hidden = invisible_bce(logits["mask"], logits["visible"], whole - rest)
        losses["visible"] = c.visible_weight * mask_bce(logits["visible"], rest)
        losses["invisible"] = c.invisible_weight * hidden
    if c.mask_iou:
        area = torch.cat([
            target["masks"].sum((1, 2))[matched] if len(matched) else whole.new_zeros(0)
            for matched, target in zip(samples.matched, targets, strict=True)
        ])  # fmt: skip
        wanted = iou_with_truth(logits["mask"].detach(), whole, torch.cat(samples.boxes), area)
        losses["mask_iou"] = c.mask_iou_weight * mask_iou_loss(logits["iou"], wanted)
    return losses


def _true_parts(
    config: InstanceConfig, samples: Samples, targets: list[dict[str, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Return the true masks (n, 28, 28) over the boxes, and their parts without other cells."""
    whole_rest = []
    for boxes, matched, target in zip(samples.boxes, samples.matched, targets, strict=True):
        masks = target["masks"].to(torch.uint8)
        rest = masks
        if config.drm or config.visible:
            rest = decompose(masks, target["labels"])[1]
        whole_rest.append(project(torch.stack([masks, rest], 1), boxes, matched, GRID))
    whole, rest = torch.cat(whole_rest).unbind(1)
    return whole, rest


def _deoverlap_losses(
    config: InstanceConfig,
    keep: Sequence[int],
    logits: dict[str, Tensor],
    samples: Samples,
    whole: Tensor,
    rest: Tensor,
) -> dict[str, Tensor]:
    """Return the losses of DoNet's mask head."""
    c = config
    losses = {
        "mask": c.mask_weight * mask_bce(logits["coarse" if c.crm else "mask"], whole),
        "intersection": c.intersection_weight * mask_bce(logits["shared"], whole - rest),
        "complement": c.complement_weight * mask_bce(logits["rest"], rest),
    }
    if c.crm:
        losses["refined"] = c.refined_weight * mask_bce(logits["mask"], whole)
    if c.crm and c.consistency != "off" and CELL in keep:
        cell = torch.cat(samples.labels) == CELL
        refined, shared, apart = (logits[k][cell] for k in ("mask", "shared", "rest"))
        term = consistency(refined, shared, apart, c.consistency)
        losses["consistency"] = c.consistency_weight * term
    return losses
