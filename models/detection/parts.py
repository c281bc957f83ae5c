"""Parts of both detectors: stages that keep their weights, anchors, decoding."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import nms

from ..instance.config import LITE
from ..predictions import Instances
from .config import DetectorConfig

__all__ = ["GridAnchors", "boxes_of", "freeze", "is_frozen", "keep_still", "without_rivals"]


def _stages(frozen: str) -> tuple[str, ...]:
    """Return the stages that a value of `FROZEN` means, the stem being "0"."""
    if frozen == "none":
        return ()
    if frozen.startswith("stage"):
        return (frozen.removeprefix("stage"),)
    last = int(frozen.removeprefix("stem").removeprefix("+") or 0)
    return tuple(str(n) for n in range(last + 1))


def is_frozen(settings: DetectorConfig, name: str) -> bool:
    """Return whether an entry of the trunk, or a module in it, keeps its weights.

    Examples
    --------
    >>> settings = DetectorConfig(frozen="stem+1")
    >>> [is_frozen(settings, name) for name in ("conv1", "layer1.0.conv1.weight", "layer2")]
    [True, True, False]
    >>> is_frozen(DetectorConfig(frozen="stage2"), "conv1")
    False
    """
    stages = _stages(settings.frozen)
    if settings.backbone.startswith(LITE):
        parts = {"0": ("stem", "stages.0")} | {str(n): (f"stages.{n}",) for n in range(1, 5)}
    else:
        parts = {"0": ("conv1", "bn1")} | {str(n): (f"layer{n}",) for n in range(1, 5)}
    starts = [start for stage in stages for start in parts[stage]]
    return any(f"{name}.".startswith(f"{start}.") for start in starts)


def freeze(body: nn.Module, settings: DetectorConfig) -> None:
    """Let the weights of the frozen stages of a trunk stay as they are, and no others."""
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(not is_frozen(settings, name))


def keep_still(body: nn.Module, settings: DetectorConfig) -> None:
    """Let the norms of the frozen stages use their stored statistics, also in training."""
    for name, module in body.named_modules():
        if name and is_frozen(settings, name):
            module.training = False


class GridAnchors(AnchorGenerator):  # type: ignore[misc]
    """Anchors at the strides of the levels, float32, whatever the image's size and precision.

    torchvision divides the image's side by that of the level, which is another stride where the
    coarsest level does not divide the side.
    """

    def __init__(self, sizes: Any, ratios: tuple[float, ...], strides: tuple[int, ...]) -> None:
        super().__init__(sizes, (ratios,) * len(sizes))
        self.strides = strides

    def forward(self, image_list: Any, feature_maps: list[Tensor]) -> list[Tensor]:
        """Return the anchors (a, 4) of each image, level by level."""
        grids = [tuple(level.shape[-2:]) for level in feature_maps]
        device = feature_maps[0].device
        self.set_cell_anchors(torch.float32, device)
        strides = [[torch.tensor(s, device=device)] * 2 for s in self.strides]
        anchors = torch.cat(self.grid_anchors(grids, strides))
        return [anchors] * len(image_list.image_sizes)


def without_rivals(
    boxes: Tensor, labels: Tensor, scores: Tensor, iou: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Drop boxes (n, 4) that overlap a better one of any class by `iou`."""
    keep = nms(boxes, scores, iou)
    return boxes[keep], labels[keep], scores[keep]


def boxes_of(output: list[dict[str, Tensor]]) -> list[Instances]:
    """Turn the output of a detector in evaluation into one `Instances` per image, without masks."""
    return [
        Instances(
            boxes=image["boxes"].float().cpu().numpy(),
            class_index=(image["labels"] - 1).cpu().numpy().astype(np.uint8),
            scores=image["scores"].float().cpu().numpy(),
            masks=np.zeros((len(image["labels"]), 0, 0), np.uint8),
        )
        for image in output
    ]
