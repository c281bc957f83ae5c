"""RetinaNet (Lin et al. 2017): a pyramid P3 to P7 and a head that is shared over its levels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork, batched_nms
from torchvision.ops.boxes import clip_boxes_to_image, remove_small_boxes
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from ..instance.backbone import NORMS, build_backbone
from ..instance.config import LITE
from ..instance.roi_heads import MIN_PX
from ..settings import configure
from .config import RetinaNetConfig
from .faster_rcnn import check_sides
from .losses import check_boxes, retina_losses
from .parts import GridAnchors, freeze, keep_still, without_rivals

__all__ = ["STRIDES", "RetinaNet", "retinanet"]

STRIDES = (8, 16, 32, 64, 128)
"""Strides of P3 to P7."""

OCTAVE = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
"""Sizes of the anchors of a level, in units of the level's size."""


class Pyramid(nn.Module):
    """Trunk and pyramid: (n, 3, h, w) → P3 to P7 by name; P6 and P7 from C5."""

    def __init__(self, settings: RetinaNetConfig, norm: Any) -> None:
        super().__init__()
        self.body = build_backbone(settings.core()).body
        channels, width = list(self.body.channels[1:]), settings.fpn_width
        self.fpn = FeaturePyramidNetwork(channels, width, _LastLevels(channels[-1], width), norm)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """See the class."""
        levels = self.body(x)
        return dict(self.fpn({name: levels[name] for name in list(levels)[1:]}))


class _LastLevels(LastLevelP6P7):  # type: ignore[misc]
    """torchvision's, which takes P5 instead of C5 where both have as many channels."""

    def __init__(self, cin: int, width: int) -> None:
        super().__init__(cin, width)
        self.use_P5 = False


class RetinaNet(nn.Module):
    """Images (n, 3, h, w), normalised, sides multiples of 32 → boxes; see `FasterRCNN`."""

    stride = STRIDES[-1]

    def __init__(self, settings: RetinaNetConfig) -> None:
        super().__init__()
        self.settings, self.config = settings, settings.core()
        # Only a pyramid and a head that are trained from scratch need norms of their own.
        fresh = settings.norm == "group" or settings.backbone.startswith(LITE)
        norm = NORMS["group"] if fresh else None
        self.backbone = Pyramid(settings, norm)
        sizes = tuple(tuple(px * octave for octave in OCTAVE) for px in settings.anchor_px)
        self.anchors = GridAnchors(sizes, settings.anchor_ratios, STRIDES)
        count = len(OCTAVE) * len(settings.anchor_ratios)
        self.head = RetinaNetHead(settings.fpn_width, count, settings.classes, norm_layer=norm)
        for branch in (self.head.classification_head, self.head.regression_head):
            branch.conv = branch.conv[: settings.head_convs]
        self.coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        freeze(self.backbone.body, settings)

    def train(self, mode: bool = True) -> RetinaNet:
        """Switch to training or evaluation; norms of frozen stages stay in evaluation."""
        super().train(mode)
        keep_still(self.backbone.body, self.settings)
        return self

    def forward(
        self, images: Tensor, targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """See the class."""
        check_sides(images)
        if self.training:
            targets = check_boxes(targets, images, self.settings.classes)
        levels = list(self.backbone(images).values())
        out = self.head(levels)
        logits, deltas = out["cls_logits"].float(), out["bbox_regression"].float()
        size = (images.shape[2], images.shape[3])
        anchors = self.anchors(ImageList(images, [size]), levels)[0]
        if targets is not None and self.training:
            return retina_losses(self.settings, logits, deltas, anchors, targets, self.coder)
        counts = [level.shape[2] * level.shape[3] * self._kinds for level in levels]
        parts = zip(logits, deltas, strict=True)
        return [self._detections(mine, moves, anchors, counts, size) for mine, moves in parts]

    @property
    def _kinds(self) -> int:
        """Number of anchors at each place."""
        return len(OCTAVE) * len(self.settings.anchor_ratios)

    def _detections(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchors: Tensor,
        counts: list[int],
        size: tuple[int, int],
    ) -> dict[str, Tensor]:
        """Return the detections of one image from logits (a, classes) and deltas (a, 4)."""
        s, found = self.settings, []
        per_level = (torch.split(v, counts) for v in (logits, deltas, anchors))
        for mine, moves, boxes in zip(*per_level, strict=True):
            scores = mine.sigmoid().flatten()
            kept = (scores > s.score).nonzero()[:, 0]
            kept = kept[scores[kept].topk(min(s.candidates, len(kept))).indices]
            place = kept // s.classes
            moved = self.coder.decode_single(moves[place], boxes[place])
            found.append((clip_boxes_to_image(moved, size), kept % s.classes + 1, scores[kept]))
        boxes, labels, scores = (torch.cat(column) for column in zip(*found, strict=True))
        big = remove_small_boxes(boxes, MIN_PX)
        boxes, labels, scores = boxes[big], labels[big], scores[big]
        keep = batched_nms(boxes, scores, labels, s.nms)[: s.max_detections]
        boxes, labels, scores = boxes[keep], labels[keep], scores[keep]
        if s.exclusive:
            boxes, labels, scores = without_rivals(boxes, labels, scores, s.nms)
        return {"boxes": boxes, "labels": labels, "scores": scores}


def retinanet(**options: Any) -> RetinaNet:
    """Build RetinaNet; `options` are fields of `RetinaNetConfig`, by default R50-FPN."""
    return RetinaNet(configure(RetinaNetConfig(), options))
