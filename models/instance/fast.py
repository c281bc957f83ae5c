"""Instance networks for inference: the same results as `network.py` up to rounding, in less time.

Regions of all levels and images are pooled in one call, as weighted sums of rows of one table of
pixels. Only anchors that may become proposals are decoded. Cells are drawn for the second pass
within their boxes. Features may be bfloat16; boxes and scores are float32.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms
from torchvision.ops.boxes import clip_boxes_to_image, remove_small_boxes
from torchvision.ops.poolers import LevelMapper

from .backbone import LEVELS, Backbone
from .config import InstanceConfig
from .heads import BoxBranch
from .mask_pasting import paste_sum_in_boxes
from .network import FINEST, InstanceNetwork
from .roi_heads import RegionHeads
from .rpn import RegionProposals

__all__ = ["FastInstances", "faster"]

BOX_SIDE = 7
"""Side of the pooled regions that `BoxBranch` gets."""

WINDOW_PX = 832
"""Side of the window for which the number of proposals was chosen (tile 512, halo 160). A larger
window gets more, in proportion to its area (cell AP50 in 1280²: 2000 gave 0.90, 4733 gave 0.94)."""


def faster(network: InstanceNetwork) -> FastInstances:
    """Return a faster network of the same function; `for_inference` has made `network` ready."""
    return FastInstances(copy.deepcopy(network)).eval().requires_grad_(False)


class FastInstances(InstanceNetwork):
    """`InstanceNetwork` in evaluation, in float32 or bfloat16, made from the parts of another."""

    paste_sum = staticmethod(paste_sum_in_boxes)

    def __init__(self, network: InstanceNetwork) -> None:
        nn.Module.__init__(self)
        config = self.config = network.config
        backbone = cast("Backbone", network.backbone)
        # Without the last step of the backbone, which turns its levels into float32.
        self.backbone = nn.Sequential(backbone.body, backbone.fpn)
        self.rpn, self.roi_heads = Proposals(network.rpn, config), _quick(network.roi_heads)
        self.second_rpn = None
        if network.second_rpn is not None:
            self.second_rpn = Proposals(network.second_rpn, config)
            self.second_heads = _quick(network.second_heads)
        for module in self.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = True


def _quick(heads: RegionHeads) -> RegionHeads:
    """Replace the slow parts of `heads`, in place."""
    heads.box_pool, heads.mask_pool = (
        RegionPool(pool.output_size[0]) for pool in (heads.box_pool, heads.mask_pool)
    )
    heads.boxes = nn.ModuleList(FastBoxBranch(cast("BoxBranch", b)) for b in heads.boxes)
    return heads


class Proposals(nn.Module):
    """`RegionProposals` in evaluation; only the best anchors of each level are decoded."""

    anchors: Tensor

    def __init__(self, rpn: nn.Module, config: InstanceConfig) -> None:
        super().__init__()
        assert isinstance(rpn, RegionProposals)
        head = rpn.head
        self.conv = head.conv
        self.both = nn.Conv2d(config.fpn_width, 5 * len(config.anchor_ratios), 1)
        self.both.weight.data = torch.cat([head.cls_logits.weight, head.bbox_pred.weight])
        self.both.bias = nn.Parameter(torch.cat([head.cls_logits.bias, head.bbox_pred.bias]))
        self.coder, self.nms, self.min_px = rpn.box_coder, rpn.nms_thresh, rpn.min_size
        self.before, self.after = config.rpn_pre_nms[1], config.rpn_post_nms[1]
        # Whole numbers, so that no change of precision rounds them.
        cells = torch.stack(rpn.anchor_generator.cell_anchors).long()
        self.register_buffer("anchors", cells, persistent=False)

    def forward(
        self, batch: ImageList, features: dict[str, Tensor]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return boxes (k, 4) of each image, best first; no losses."""
        size = batch.image_sizes[0]
        more = max(1.0, size[0] * size[1] / WINDOW_PX**2)
        before, after = round(more * self.before), round(more * self.after)
        levels = zip(features.values(), self.anchors, strict=True)
        found = [self._level(level, anchors, size, before) for level, anchors in levels]
        boxes, scores = (torch.cat(column, 1) for column in zip(*found, strict=True))
        level = torch.cat([s.new_full(s.shape[1:], i) for i, (_, s) in enumerate(found)])
        return [self._best(b, s, level)[:after] for b, s in zip(boxes, scores, strict=True)], {}

    def _level(
        self, features: Tensor, anchors: Tensor, size: tuple[int, int], most: int
    ) -> tuple[Tensor, Tensor]:
        """Return boxes (n, k, 4) and scores (n, k) of the `most` best anchors of a level."""
        n, _, h, w = features.shape
        kinds = len(anchors)
        out = self.both(self.conv(features)).permute(0, 2, 3, 1)
        logits = out[..., :kinds].reshape(n, -1)
        logits, best = logits.topk(min(most, logits.shape[1]), 1)
        place = best // kinds
        x, y = place % w * (size[1] // w), place // w * (size[0] // h)
        start = torch.stack([x, y, x, y], 2) + anchors[best % kinds]
        deltas = out[..., kinds:].reshape(n, -1, 4).gather(1, best[..., None].expand(-1, -1, 4))
        boxes = self.coder.decode_single(deltas.float().view(-1, 4), start.float().view(-1, 4))
        return clip_boxes_to_image(boxes.view(n, -1, 4), size), logits.float().sigmoid()

    def _best(self, boxes: Tensor, scores: Tensor, level: Tensor) -> Tensor:
        """Drop boxes (k, 4) of one image that overlap a better one of the same level (NMS)."""
        keep = remove_small_boxes(boxes, self.min_px)
        best = batched_nms(boxes[keep], scores[keep], level[keep], self.nms)
        return boxes[keep[best]]


class RegionPool(nn.Module):
    """`MultiScaleRoIAlign` with 2 × 2 samples per bin: regions → (k, c, side, side).

    Bilinear sampling makes a bin the weighted sum of 4 × 4 pixels; one call sums all bins of all
    levels and images.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        self.level_of = LevelMapper(2, 1 + len(LEVELS))

    def forward(
        self, features: dict[str, Tensor], boxes: list[Tensor], _: list[tuple[int, int]]
    ) -> Tensor:
        """Pool the boxes (k, 4) of each image, all inside it, from levels (n, c, h, w)."""
        maps = [features[name].permute(0, 2, 3, 1) for name in LEVELS]
        channels = maps[0].shape[3]
        table = torch.cat([m.reshape(-1, channels) for m in maps])
        level = self.level_of(boxes)
        rows, columns = (level.new_tensor([m.shape[i] for m in maps]) for i in (1, 2))
        area = rows * columns
        first = ((area * len(boxes)).cumsum(0) - area * len(boxes))[level]
        image = torch.cat([level.new_full((len(b),), i) for i, b in enumerate(boxes)])
        start, stride = first + image * area[level], FINEST * 2**level
        x0, y0, x1, y1 = (torch.cat(boxes) / stride[:, None]).unbind(1)
        y, weight_y = self._taps(y0, y1, rows[level])
        x, weight_x = self._taps(x0, x1, columns[level])
        y = start[:, None, None] + y * columns[level][:, None, None]
        index = y.int()[:, :, None, :, None] + x.int()[:, None, :, None]
        weight = weight_y[:, :, None, :, None] * weight_x[:, None, :, None]
        pooled = F.embedding_bag(
            index.view(-1, 16),
            table,
            per_sample_weights=weight.view(-1, 16).to(table.dtype),
            mode="sum",
        )
        return pooled.view(-1, self.side, self.side, channels).permute(0, 3, 1, 2)

    def _taps(self, low: Tensor, high: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
        """Return pixels and weights (k, side, 4) of spans (k,) along an axis of `limit` pixels."""
        step = (torch.arange(2 * self.side, device=low.device) + 0.5) / (2 * self.side)
        most = (limit - 1)[:, None]
        at = low[:, None] + (high - low).clamp(min=1)[:, None] * step
        # A span that was widened to one pixel may leave the map; values there are zero.
        seen = (at <= limit[:, None]) / 2
        at = torch.minimum(at, most)
        before = at.long()
        after = torch.minimum(before + 1, most)
        shape = (-1, self.side, 4)
        weights = torch.stack([seen * (before + 1 - at), seen * (at - before)], 2)
        return torch.stack([before, after], 2).view(shape), weights.view(shape)


class FastBoxBranch(nn.Module):
    """`BoxBranch` for features whose channels are adjacent in memory (channels last)."""

    def __init__(self, branch: BoxBranch) -> None:
        super().__init__()
        width, channels = len(branch.fc6.weight), branch.fc6.in_features // BOX_SIDE**2
        weight = branch.fc6.weight.view(width, channels, BOX_SIDE**2).transpose(1, 2)
        branch.fc6.weight = nn.Parameter(weight.reshape(width, -1))
        self.branch = branch

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `BoxBranch` returns."""
        logits, deltas = self.branch(x.permute(0, 2, 3, 1))
        return logits, deltas
