"""Instance networks: Mask R-CNN, Cascade (IMBMDCR-Net among them), DoNet and its baselines.

Jiang et al., "DoNet: Deep de-overlapping network for cytology instance segmentation", CVPR 2023;
Cai and Vasconcelos, "Cascade R-CNN", CVPR 2018; He et al., "Mask R-CNN", ICCV 2017; Huang et al.,
"Mask Scoring R-CNN", CVPR 2019; Chen et al., "Hybrid task cascade for instance segmentation", CVPR
2019; Follmann et al., "Learning to see the invisible" (Occlusion R-CNN), WACV 2019.
All are one class: a pass is a proposal network with its heads, and DoNet has two passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d

from ..predictions import Instances
from ..settings import configure
from .backbone import ModulatedDeformConv2d, build_backbone
from .config import (
    CASCADE,
    CELL,
    DONET,
    HTC,
    IMBMDCR,
    MASKRCNN,
    MS_RCNN,
    ORCNN,
    InstanceConfig,
)
from .mask_pasting import Sum, attention, paste_sum
from .roi_heads import Detections, RegionHeads
from .rpn import RegionProposals
from .targets import check_targets

__all__ = [
    "InstanceNetwork",
    "cascade",
    "donet",
    "for_inference",
    "htc",
    "imbmdcr",
    "instances",
    "maskrcnn",
    "ms_rcnn",
    "norms_after_convolutions",
    "orcnn",
]

STRIDE = 32
"""Sides of images are multiples of this many pixels."""

FINEST = 4
"""Stride of P2, on which the attention of the second pass is drawn."""


class InstanceNetwork(nn.Module):
    """Images (n, 3, h, w), ``(x − 128) / 128``, sides multiples of 32 → instances.

    In training it needs `targets` (per image: boxes float32 (k, 4) xyxy in pixels, labels int64
    (k,) from 1, masks uint8 (k, h, w)) and returns losses by name, whose sum is minimised.
    Otherwise it returns one dictionary per image, best first: ``boxes`` (k, 4), ``labels`` (k,),
    ``scores`` (k,), ``masks`` (k, 1, 28, 28): probability over the box, for its own class.
    """

    paste_sum: Sum = staticmethod(paste_sum)

    def __init__(self, config: InstanceConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone: nn.Module = build_backbone(config)
        classes = tuple(range(1, config.classes + 1))
        self.rpn: nn.Module = RegionProposals(config)
        self.roi_heads = RegionHeads(config, (CELL,) if config.mrp else classes)
        self.second_rpn: nn.Module | None = None
        if config.mrp:
            # Cells below `score` may still weigh the second pass.
            self.roi_heads.score = min(config.score, config.attention_score)
            self.second_rpn = RegionProposals(config)
            self.second_heads = RegionHeads(config, tuple(c for c in classes if c != CELL))

    def forward(
        self, images: Tensor, targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """See the class."""
        if images.ndim != 4 or images.shape[1] != 3 or any(s % STRIDE for s in images.shape[2:]):
            raise ValueError(
                f"images of shape {tuple(images.shape)}; give (n, 3, h, w) with sides that are "
                f"multiples of {STRIDE}"
            )
        if self.training:
            targets = check_targets(targets, images.shape, self.config.classes)
        features = self.backbone(images)
        found, losses = self._pass(self.rpn, self.roi_heads, features, images, targets)
        passes = [found]
        if self.second_rpn is not None:
            features = self._weighed(features, found)
            found, more = self._pass(self.second_rpn, self.second_heads, features, images, targets)
            passes.append(found)
            losses |= {f"second_{name}": loss for name, loss in more.items()}
        return losses if self.training else _merged(passes, self.config.score)

    def _pass(
        self,
        rpn: nn.Module,
        heads: RegionHeads,
        features: dict[str, Tensor],
        images: Tensor,
        targets: list[dict[str, Tensor]] | None,
    ) -> tuple[Detections, dict[str, Tensor]]:
        """Run proposals, then heads; return detections, and in training the losses."""
        size = (images.shape[2], images.shape[3])
        batch = ImageList(images, [size] * len(images))
        if not self.training or targets is None:
            proposals, _ = rpn(batch, features)
            return heads.find(features, proposals, size), {}
        proposals, losses = rpn(batch, features, targets)
        found, more = heads.learn(features, proposals, size, targets)
        named = {"rpn_class": losses["loss_objectness"], "rpn_box": losses["loss_rpn_box_reg"]}
        return found, named | more

    def _weighed(self, features: dict[str, Tensor], cells: Detections) -> dict[str, Tensor]:
        """Multiply the features by the map of cells (DoNet, mask-guided region proposal)."""
        c, finest = self.config, features["0"]
        size = (finest.shape[2], finest.shape[3])
        maps = []
        for boxes, scores, logits in zip(cells.boxes, cells.scores, cells.logits, strict=True):
            sure = scores >= c.attention_score
            maps.append(
                attention(
                    logits[sure],
                    boxes[sure],
                    size,
                    FINEST,
                    mode=c.attention,
                    floor=c.attention_floor,
                    summed=self.paste_sum,
                )
            )
        weight = torch.stack(maps)[:, None].to(finest.dtype)
        return {
            # The mean over the coarser cell; DoNet's code takes one of its corners.
            name: level * F.adaptive_avg_pool2d(weight, (level.shape[2], level.shape[3]))
            for name, level in features.items()
        }


def _merged(passes: list[Detections], least: float) -> list[dict[str, Tensor]]:
    """Join the detections of the passes with a score above `least`, per image, best first."""
    output = []
    for i in range(len(passes[0].boxes)):
        scores = torch.cat([found.scores[i] for found in passes])
        order = scores.argsort(descending=True, stable=True)
        order = order[scores[order] > least]
        logits = torch.cat([found.logits[i] for found in passes])[order]
        output.append(
            {
                "boxes": torch.cat([found.boxes[i] for found in passes])[order],
                "labels": torch.cat([found.labels[i] for found in passes])[order],
                "scores": scores[order],
                "masks": logits.sigmoid()[:, None],
            }
        )
    return output


def maskrcnn(**options: Any) -> InstanceNetwork:
    """Build Mask R-CNN; `options` are fields of `InstanceConfig`, by default those of R50-FPN."""
    return InstanceNetwork(configure(MASKRCNN, options))


def cascade(**options: Any) -> InstanceNetwork:
    """Build Cascade Mask R-CNN, by default with a mask head per stage (``mask_every_stage``)."""
    return InstanceNetwork(configure(CASCADE, options))


def imbmdcr(**options: Any) -> InstanceNetwork:
    """Build IMBMDCR-Net: a cascade with one mask head, by default on a deformable ResNeXt-101."""
    return InstanceNetwork(configure(IMBMDCR, options))


def donet(**options: Any) -> InstanceNetwork:
    """Build DoNet; the rows of its ablation switch ``drm``, ``crm`` and ``mrp`` off."""
    return InstanceNetwork(configure(DONET, options))


def ms_rcnn(**options: Any) -> InstanceNetwork:
    """Build Mask Scoring R-CNN, by default on R50-FPN; its score is class score × mask IoU."""
    return InstanceNetwork(configure(MS_RCNN, options))


def htc(**options: Any) -> InstanceNetwork:
    """Build Hybrid Task Cascade, by default on R50-FPN.

    Its semantic branch, which learns from maps of stuff in the background, is left out: sets of
    cells have no such maps.
    """
    return InstanceNetwork(configure(HTC, options))


def orcnn(**options: Any) -> InstanceNetwork:
    """Build Occlusion R-CNN, by default on R50-FPN.

    The visible part of a cell is what no other cell covers, for sets do not state which of two
    cells lies on top; the invisible part is the rest.
    """
    return InstanceNetwork(configure(ORCNN, options))


def instances(output: list[dict[str, Tensor]]) -> list[Instances]:
    """Turn the output of a network in evaluation into one `Instances` per image."""
    found = []
    for image in output:
        masks = (image["masks"][:, 0].float() * 255).round().to(torch.uint8)
        found.append(
            Instances(
                boxes=image["boxes"].float().cpu().numpy(),
                class_index=(image["labels"] - 1).cpu().numpy().astype(np.uint8),
                scores=image["scores"].float().cpu().numpy(),
                masks=masks.cpu().numpy(),
            )
        )
    return found


@torch.no_grad()
def _fold(conv: Any, norm: Any) -> None:
    """Fold a norm, as it works in evaluation, into the convolution before it."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    conv.weight.mul_(scale.view(-1, 1, 1, 1))
    conv.bias = nn.Parameter(shift)


def norms_after_convolutions(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the full names of each convolution and the norm that follows it."""
    convs, norms = (nn.Conv2d, ModulatedDeformConv2d), (nn.BatchNorm2d, FrozenBatchNorm2d)
    for module_name, module in network.named_modules():
        prefix = f"{module_name}." if module_name else ""
        for (first, conv), (second, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, convs) and isinstance(norm, norms):
                yield prefix + first, prefix + second


def for_inference(network: InstanceNetwork) -> InstanceNetwork:
    """Fold batch norms into the convolutions before them, in place; the function stays the same."""
    for conv, norm in list(norms_after_convolutions(network)):
        _fold(network.get_submodule(conv), network.get_submodule(norm))
        parent, _, name = norm.rpartition(".")
        setattr(network.get_submodule(parent), name, nn.Identity())
    return network.eval().requires_grad_(False)
