"""What detectors learn of: which boxes are neither object nor background, and RetinaNet's losses.

The six losses of boxes are `wsiseg_models.instance.losses.box_loss`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import box_iou, sigmoid_focal_loss

from ..instance.losses import box_loss
from .config import RetinaNetConfig

__all__ = ["check_boxes", "covered_share", "is_neutral", "retina_losses"]

COVERED = 0.5
"""Least share of a box inside a mark, or inside a region to ignore, that makes it part of it."""


def covered_share(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the largest share of each box (n, 4) that lies in one of `others` (m, 4): (n,).

    Examples
    --------
    >>> boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    >>> covered_share(boxes, torch.tensor([[0.0, 0, 5, 10]])).tolist()
    [0.5, 0.0]
    """
    if not len(others) or not len(boxes):
        return boxes.new_zeros(len(boxes))
    low = torch.max(boxes[:, None, :2], others[:, :2])
    high = torch.min(boxes[:, None, 2:], others[:, 2:])
    shared = (high - low).clamp(min=0).prod(2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1).clamp(min=1e-6)
    return shared.amax(1) / area


def is_neutral(boxes: Tensor, target: dict[str, Tensor]) -> Tensor:
    """Return which boxes (n, 4) are not to be learned as background, bool (n,).

    They lie in a region to ignore (``ignore``, (m, 4)) or, where only some objects of an image are
    marked (``partial``), outside the marked boxes: nothing is known there.

    Examples
    --------
    >>> target = {
    ...     "boxes": torch.tensor([[0.0, 0, 8, 8]]), "ignore": torch.tensor([[20.0, 20, 30, 30]]),
    ...     "partial": torch.tensor(False),
    ... }
    >>> boxes = torch.tensor([[0.0, 0, 4, 4], [21, 21, 25, 25], [50, 50, 54, 54]])
    >>> is_neutral(boxes, target).tolist()
    [False, True, False]
    >>> is_neutral(boxes, target | {"partial": torch.tensor(True)}).tolist()
    [False, True, True]
    """
    neutral = covered_share(boxes, target["ignore"]) >= COVERED
    if bool(target["partial"]):
        neutral |= covered_share(boxes, target["boxes"]) < COVERED
    return neutral


def check_boxes(
    targets: list[dict[str, Tensor]] | None, images: Tensor, classes: int
) -> list[dict[str, Tensor]]:
    """Check the targets of images (n, 3, h, w), and return them.

    Raises
    ------
    ValueError
        a target that cannot be learned; the message names its position and the fault
    """
    if targets is None or len(targets) != len(images):
        got = "none" if targets is None else len(targets)
        raise ValueError(
            f"training needs one target per image: {len(images)} images, {got} targets"
        )
    for i, target in enumerate(targets):
        boxes, labels = target["boxes"], target["labels"]
        if boxes.shape != (len(labels), 4) or boxes.dtype != torch.float32:
            raise ValueError(
                f"target {i}: boxes {tuple(boxes.shape)} {boxes.dtype} for {len(labels)} labels; "
                "give float32 (k, 4)"
            )
        good = (boxes[:, 2:] > boxes[:, :2]).all(1) & boxes.isfinite().all(1)
        if not bool(good.all()):
            raise ValueError(
                f"target {i}: box {boxes[~good][0].tolist()} has no area; leave it out"
            )
        if len(labels) and not 1 <= int(labels.min()) <= int(labels.max()) <= classes:
            raise ValueError(
                f"target {i}: labels {sorted(set(labels.tolist()))}, not 1 to {classes}"
            )
    return targets


def retina_losses(
    settings: RetinaNetConfig,
    logits: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    targets: Sequence[dict[str, Tensor]],
    coder: BoxCoder,
) -> dict[str, Tensor]:
    """Return focal loss and box loss, per object and as a mean over the images.

    Parameters
    ----------
    logits, deltas
        (n, a, classes) and (n, a, 4), float32
    anchors
        (a, 4)
    """
    matcher = Matcher(settings.positive_iou, settings.negative_iou, allow_low_quality_matches=True)
    terms: dict[str, list[Tensor]] = {"class": [], "box": []}
    for target, mine, moves in zip(targets, logits, deltas, strict=True):
        matched = torch.full((len(anchors),), Matcher.BELOW_LOW_THRESHOLD, device=anchors.device)
        if len(target["boxes"]):
            matched = matcher(box_iou(target["boxes"], anchors))
        below = matched == Matcher.BELOW_LOW_THRESHOLD
        learned = (matched >= 0) | (below & ~is_neutral(anchors, target))
        positive = (matched >= 0).nonzero()[:, 0]
        own = matched[positive]
        wanted = torch.zeros_like(mine)
        wanted[positive, target["labels"][own] - 1] = 1
        count = max(len(own), 1)
        focal = sigmoid_focal_loss(
            mine[learned], wanted[learned],
            alpha=settings.focal_alpha, gamma=settings.focal_gamma, reduction="sum",
        )  # fmt: skip
        boxes = box_loss(
            settings.box_loss, moves[positive], anchors[positive], target["boxes"][own], coder,
            settings.box_beta,
        )  # fmt: skip
        terms["class"].append(focal / count)
        terms["box"].append(settings.box_loss_weight * boxes / count)
    return {name: torch.stack(values).mean() for name, values in terms.items()}
