"""Proposals: torchvision's network, for half precision and with a choice of box losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.models.detection.rpn import RPNHead as _RPNHead

from .config import InstanceConfig
from .targets import drop_unknown

__all__ = ["RegionProposals"]


class RPNHead(_RPNHead):  # type: ignore[misc]
    """torchvision's head; its output is float32 under autocast, since boxes need it."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return objectness and deltas of each level."""
        objectness, deltas = super().forward(x)
        return [o.float() for o in objectness], [d.float() for d in deltas]


class RegionProposals(RegionProposalNetwork):  # type: ignore[misc]
    """torchvision's proposal network, with the box loss of the published model."""

    def __init__(self, config: InstanceConfig) -> None:
        ratios = (config.anchor_ratios,) * len(config.anchor_px)
        super().__init__(
            AnchorGenerator(tuple((px,) for px in config.anchor_px), ratios),
            RPNHead(config.fpn_width, len(config.anchor_ratios)),
            config.rpn_positive_iou,
            config.rpn_negative_iou,
            config.rpn_samples,
            config.rpn_fraction,
            dict(zip(("training", "testing"), config.rpn_pre_nms, strict=True)),
            dict(zip(("training", "testing"), config.rpn_post_nms, strict=True)),
            config.rpn_nms,
        )
        self.beta = 0.0 if config.rpn_box_loss == "l1" else config.rpn_beta

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return label and box of each anchor; −1 where it is not known to be background."""
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        known = [drop_unknown(*each) for each in zip(labels, anchors, targets, strict=True)]
        return known, boxes

    def compute_loss(
        self, objectness: Tensor, deltas: Tensor, labels: list[Tensor], wanted: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return cross entropy of the sampled anchors, and the box loss of the positive ones."""
        positive, negative = (torch.cat(m).nonzero()[:, 0] for m in self.fg_bg_sampler(labels))
        sampled = torch.cat([positive, negative])
        boxes = F.smooth_l1_loss(
            deltas[positive], torch.cat(wanted)[positive], beta=self.beta, reduction="sum"
        )
        if not len(sampled):
            return objectness.sum() * 0, boxes
        truth = torch.cat(labels)[sampled]
        bce = F.binary_cross_entropy_with_logits(objectness.flatten()[sampled], truth)
        return bce, boxes / max(len(sampled), 1)
