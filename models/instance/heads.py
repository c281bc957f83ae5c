"""Heads on pooled regions: boxes, masks, and DoNet's masks of overlapping cells."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import InstanceConfig

__all__ = [
    "BoxBranch",
    "DeoverlapBranch",
    "FusionConvs",
    "MaskBranch",
    "MaskIoUBranch",
    "VisibleBranch",
    "build_mask_branch",
]


class BoxBranch(nn.Module):
    """Regions (n, c, 7, 7) → class logits (n, 1 + classes) and deltas (n, boxes, 4), float32.

    `boxes` is the number of classes, or 1 where all share one box.
    """

    def __init__(self, config: InstanceConfig) -> None:
        super().__init__()
        width = config.box_width
        self.fc6 = nn.Linear(config.fpn_width * 49, width)
        self.fc7 = nn.Linear(width, width)
        self.cls_score = nn.Linear(width, 1 + config.classes)
        self.bbox_pred = nn.Linear(width, 4 * (1 if config.class_agnostic else config.classes))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        x = F.relu(self.fc7(F.relu(self.fc6(x.flatten(1)))))
        deltas: Tensor = self.bbox_pred(x).float()
        logits: Tensor = self.cls_score(x).float()
        return logits, deltas.view(len(deltas), self.bbox_pred.out_features // 4, 4)


def _convs(widths: list[int], last_stride: int = 1) -> nn.Sequential:
    """Build 3×3 convolutions from each width to the next, a ReLU after each."""
    layers: list[nn.Module] = []
    for k, (cin, cout) in enumerate(pairwise(widths), 2):
        conv = nn.Conv2d(cin, cout, 3, last_stride if k == len(widths) else 1, padding=1)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        layers += [conv, nn.ReLU()]
    return nn.Sequential(*layers)


class MaskBranch(nn.Module):
    """Mask R-CNN's mask head in two steps: features, and logits at twice their size.

    With `flow` the features of an earlier mask head of the same regions are added to the regions
    first, through a 1×1 convolution (Hybrid Task Cascade, Chen et al., CVPR 2019, section 3.2).
    """

    def __init__(self, cin: int, config: InstanceConfig, *, flow: bool = False) -> None:
        super().__init__()
        self.flow = nn.Conv2d(config.mask_width, cin, 1) if flow else None
        width = config.mask_width
        self.convs = _convs([cin] + [width] * config.mask_convs)
        self.deconv = nn.ConvTranspose2d(width, width, 2, 2)
        self.predictor = nn.Conv2d(width, config.classes, 1)
        nn.init.kaiming_normal_(self.deconv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.deconv.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)  # type: ignore[arg-type]

    def features(self, x: Tensor, before: Tensor | None = None) -> Tensor:
        """(n, cin, 14, 14), features of the head before → (n, mask_width, 14, 14)."""
        if self.flow is not None and before is not None:
            x = x + self.flow(before)
        y: Tensor = self.convs(x)
        return y

    def logits(self, features: Tensor) -> Tensor:
        """(n, mask_width, 14, 14) → float32 (n, classes, 28, 28)."""
        y: Tensor = self.predictor(F.relu(self.deconv(features)))
        return y.float()

    def forward(self, x: Tensor, before: Tensor | None = None) -> dict[str, Tensor]:
        """Return ``mask``, logits (n, classes, 28, 28) of regions (n, cin, 14, 14)."""
        return {"mask": self.logits(self.features(x, before))}


class VisibleBranch(nn.Module):
    """Occlusion R-CNN's mask heads: the whole instance, which is the result, and what is seen.

    Source: Follmann et al., "Learning to see the invisible: End-to-end trainable amodal instance
    segmentation", WACV 2019.
    """

    def __init__(self, config: InstanceConfig) -> None:
        super().__init__()
        self.whole = MaskBranch(config.fpn_width, config)
        self.rest = MaskBranch(config.fpn_width, config)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return logits (n, classes, 28, 28): ``mask``, and in training ``visible``."""
        whole: dict[str, Tensor] = self.whole(x)
        return whole | ({"visible": self.rest(x)["mask"]} if self.training else {})


class MaskIoUBranch(nn.Module):
    """Regions (n, c, 14, 14) and their masks (n, 28, 28), 0 to 1 → IoU (n, classes), float32.

    Source: Huang et al., "Mask Scoring R-CNN", CVPR 2019, section 3.3: the mask is pooled to 14×14
    and joins the region; four convolutions, the last of stride 2, and three linear layers.
    """

    def __init__(self, config: InstanceConfig) -> None:
        super().__init__()
        width, wide = config.mask_width, config.box_width
        self.convs = _convs([config.fpn_width + 1] + [width] * 4, last_stride=2)
        self.layers = nn.Sequential(
            nn.Linear(width * 49, wide), nn.ReLU(), nn.Linear(wide, wide), nn.ReLU()
        )
        self.predictor = nn.Linear(wide, config.classes)

    def forward(self, x: Tensor, masks: Tensor) -> Tensor:
        """See the class."""
        pooled = F.max_pool2d(masks[:, None].to(x.dtype), 2)
        y: Tensor = self.predictor(self.layers(self.convs(torch.cat([x, pooled], 1)).flatten(1)))
        return y.float()


class FusionConvs(nn.Module):
    """Feature maps side by side → `width` channels, through `depth` 3×3 convolutions."""

    def __init__(self, cin: int, width: int, depth: int, inner: int) -> None:
        super().__init__()
        self.convs = _convs([cin] + [inner] * (depth - 1) + [width])

    def forward(self, *features: Tensor) -> Tensor:
        """Maps (n, any, 14, 14), `cin` channels in all → (n, width, 14, 14)."""
        y: Tensor = self.convs(torch.cat([f.to(features[-1].dtype) for f in features], 1))
        return y


class DeoverlapBranch(nn.Module):
    """DoNet's mask head: the whole cell, its overlap with others, the rest, and the cell refined.

    Source: Jiang et al., "DoNet: Deep de-overlapping network for cytology instance segmentation",
    CVPR 2023. `whole` (H_i) is used twice: for the coarse mask and, after the fusion unit, for the
    refined mask. Without `crm` the coarse mask is the result.
    """

    def __init__(self, config: InstanceConfig) -> None:
        super().__init__()
        roi, width = config.fpn_width, config.mask_width
        depth = 3 if config.chained else 1
        self.whole = MaskBranch(roi, config)
        self.to_shared = FusionConvs(roi + width, width, depth, roi + width)
        self.to_rest = FusionConvs(roi + width, width, depth, roi + width)
        self.shared, self.rest = MaskBranch(width, config), MaskBranch(width, config)
        self.fusion: nn.Module | None = None
        if config.crm:
            cin = roi + 2 * width
            # Its output has as many channels as a region, since H_i is applied to both.
            self.fusion = FusionConvs(cin, roi, 3, config.fusion_width or cin)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Regions (n, c, 14, 14) → logits by name, each (n, classes, 28, 28).

        ``mask`` is the result; in training also ``shared``, ``rest`` and, if the result is a
        refined mask, ``coarse``. Inference computes only what the result needs.
        """
        coarse = self.whole.features(x)
        if not self.training and self.fusion is None:
            return {"mask": self.whole.logits(coarse)}
        shared = self.shared.features(self.to_shared(x, coarse))
        rest = self.rest.features(self.to_rest(x, coarse))
        parts = {}
        if self.training:
            parts = {"shared": self.shared.logits(shared), "rest": self.rest.logits(rest)}
        if self.fusion is None:
            return {"mask": self.whole.logits(coarse), **parts}
        refined = self.whole.features(self.fusion(x, shared, rest))
        if self.training:
            parts["coarse"] = self.whole.logits(coarse)
        return {"mask": self.whole.logits(refined), **parts}


def build_mask_branch(config: InstanceConfig, stage: int) -> nn.Module:
    """Build the mask head that `config` describes, of this box stage, counted from 0."""
    if config.drm:
        return DeoverlapBranch(config)
    if config.visible:
        return VisibleBranch(config)
    return MaskBranch(config.fpn_width, config, flow=config.interleaved and stage > 0)
