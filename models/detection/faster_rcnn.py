"""Faster R-CNN (Ren et al. 2015) with a feature pyramid, on the parts of the instance networks."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..instance.backbone import build_backbone
from ..instance.config import InstanceConfig
from ..instance.network import STRIDE, InstanceNetwork
from ..instance.roi_heads import Detections, RegionHeads, Size
from ..instance.rpn import RegionProposals
from ..settings import configure
from .config import FasterRCNNConfig
from .losses import check_boxes, is_neutral
from .parts import GridAnchors, freeze, keep_still, without_rivals

__all__ = ["STRIDES", "FasterRCNN", "faster_rcnn"]

STRIDES = (4, 8, 16, 32, 64)
"""Strides of P2 to P6."""


class BoxProposals(RegionProposals):
    """`RegionProposals` that do not learn anchors of which nothing is known."""

    def __init__(self, config: InstanceConfig) -> None:
        super().__init__(config)
        sizes = tuple((px,) for px in config.anchor_px)
        self.anchor_generator = GridAnchors(sizes, config.anchor_ratios, STRIDES)

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return per image: labels (a,), 1 object, 0 background, −1 not learned; boxes (a, 4)."""
        labels, matched = super().assign_targets_to_anchors(anchors, targets)
        for mine, boxes, target in zip(labels, anchors, targets, strict=True):
            mine[(mine == 0) & is_neutral(boxes, target)] = -1
        return labels, matched


class BoxHeads(RegionHeads):
    """`RegionHeads` with one box stage and no masks."""

    def __init__(self, config: InstanceConfig, *, exclusive: bool) -> None:
        super().__init__(config, tuple(range(1, config.classes + 1)))
        self.exclusive = exclusive
        self.masks = nn.ModuleList()

    def learned(self, labels: Tensor, boxes: Tensor, target: dict[str, Tensor]) -> Tensor:
        """See `RegionHeads`."""
        return labels.masked_fill((labels == 0) & is_neutral(boxes, target), -1)

    def learn(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        size: Size,
        targets: list[dict[str, Tensor]],
    ) -> tuple[Detections, dict[str, Tensor]]:
        """Return no detections, and the losses by name."""
        samples = self.sample(0, proposals, targets)
        x = self.box_pool(features, samples.boxes, [size] * len(targets))
        return Detections([], [], [], []), self._box_losses(0, samples, *self.boxes[0](x))

    def draw(self, features: dict[str, Tensor], found: Detections, size: Size) -> Detections:
        """Return detections with masks of no pixel."""
        logits = [boxes.new_zeros(len(boxes), 0, 0) for boxes in found.boxes]
        return Detections(found.boxes, found.labels, found.scores, logits)

    def _best(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        best = super()._best(boxes, scores)
        return without_rivals(*best, self.config.nms) if self.exclusive else best


class FasterRCNN(InstanceNetwork):
    """Images (n, 3, h, w), normalised, sides multiples of 32 → boxes.

    In training it needs `targets` (per image: boxes float32 (k, 4) xyxy in pixels; labels int64
    (k,) from 1; ``ignore`` float32 (m, 4) and ``partial`` bool as in `is_neutral`) and returns
    losses by name, whose sum is minimised. Otherwise it returns one dictionary per image, best
    first: ``boxes`` (k, 4), ``labels`` (k,), ``scores`` (k,).
    """

    stride = STRIDES[-1]

    def __init__(self, settings: FasterRCNNConfig) -> None:
        nn.Module.__init__(self)
        self.settings = settings
        config = self.config = settings.core()
        backbone = self.backbone = build_backbone(config)
        self.rpn = BoxProposals(config)
        self.roi_heads = BoxHeads(config, exclusive=settings.exclusive)
        self.second_rpn = None
        freeze(backbone.body, settings)

    def train(self, mode: bool = True) -> FasterRCNN:
        """Switch to training or evaluation; norms of frozen stages stay in evaluation."""
        super().train(mode)
        keep_still(self.get_submodule("backbone.body"), self.settings)
        return self

    def forward(
        self, images: Tensor, targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """See the class."""
        if not self.training:
            return super().forward(images)
        check_sides(images)
        targets = check_boxes(targets, images, self.config.classes)
        return self._pass(self.rpn, self.roi_heads, self.backbone(images), images, targets)[1]


def check_sides(images: Tensor) -> None:
    """Refuse images that are not (n, 3, h, w) with sides that are multiples of `STRIDE`.

    Raises
    ------
    ValueError
        the message states the shape
    """
    if images.ndim != 4 or images.shape[1] != 3 or any(s % STRIDE for s in images.shape[2:]):
        raise ValueError(
            f"images of shape {tuple(images.shape)}; give (n, 3, h, w) with sides that are "
            f"multiples of {STRIDE}"
        )


def faster_rcnn(**options: Any) -> FasterRCNN:
    """Build Faster R-CNN; `options` are fields of `FasterRCNNConfig`, by default R50-FPN."""
    return FasterRCNN(configure(FasterRCNNConfig(), options))
