"""Regions: box stages, which classify proposals and refine their boxes, and masks over them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import (
    BalancedPositiveNegativeSampler,
    BoxCoder,
    Matcher,
)
from torchvision.ops import MultiScaleRoIAlign, batched_nms, box_iou
from torchvision.ops.boxes import clip_boxes_to_image, remove_small_boxes

from .backbone import LEVELS
from .config import CELL, InstanceConfig
from .heads import BoxBranch, MaskIoUBranch, build_mask_branch
from .losses import box_loss
from .mask_losses import GRID, mask_losses
from .targets import drop_unknown

__all__ = ["Detections", "RegionHeads", "Samples"]

CHUNK = 256
"""Regions per call of a mask head in inference; it limits memory."""

MIN_PX = 0.01
"""Boxes with a shorter side are dropped."""

Size = tuple[int, int]
"""Rows and columns of the images."""


@dataclass(frozen=True)
class Samples:
    """Regions that train a stage; one tensor per image.

    Attributes
    ----------
    boxes
        (n, 4)
    labels
        (n,), 0 for background
    matched
        (n,) index of the true instance; any where the label is 0
    truth
        (n, 4) box of the true instance
    copied
        (n,) whether the box is a copy of a true box
    """

    boxes: list[Tensor]
    labels: list[Tensor]
    matched: list[Tensor]
    truth: list[Tensor]
    copied: list[Tensor]

    def positive(self) -> Samples:
        """Return the regions that are not background."""
        keep = [labels > 0 for labels in self.labels]
        columns = (self.boxes, self.labels, self.matched, self.truth, self.copied)
        return Samples(*([v[k] for v, k in zip(c, keep, strict=True)] for c in columns))


@dataclass(frozen=True)
class Detections:
    """Boxes with masks; one tensor per image.

    `boxes` (k, 4), `labels` (k,), `scores` (k,), `logits` (k, 28, 28) of the own class' mask. In
    training they are the positive samples, of score 1.
    """

    boxes: list[Tensor]
    labels: list[Tensor]
    scores: list[Tensor]
    logits: list[Tensor]


class RegionHeads(nn.Module):
    """Box stages and mask heads of one pass over the features.

    Parameters
    ----------
    config
        numbers
    keep
        labels that this pass is to find; instances of others are background to it
    """

    def __init__(self, config: InstanceConfig, keep: tuple[int, ...]) -> None:
        super().__init__()
        self.config, self.keep, self.score = config, keep, config.score
        stages = len(config.stage_iou)
        self.box_pool = MultiScaleRoIAlign(list(LEVELS), 7, 2)
        self.mask_pool = MultiScaleRoIAlign(list(LEVELS), GRID // 2, 2)
        self.boxes = nn.ModuleList(BoxBranch(config) for _ in range(stages))
        masks = stages if config.mask_every_stage else 1
        self.masks = nn.ModuleList(build_mask_branch(config, stage) for stage in range(masks))
        self.iou: nn.Module | None = MaskIoUBranch(config) if config.mask_iou else None
        self.coders = [BoxCoder(weights) for weights in config.stage_box_weights]
        self.matchers = [Matcher(iou, iou) for iou in config.stage_iou]
        self.sampler = BalancedPositiveNegativeSampler(config.roi_samples, config.roi_fraction)

    @torch.no_grad()
    def sample(
        self, stage: int, proposals: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> Samples:
        """Draw the regions that train `stage`, from the proposals and the true boxes."""
        columns: list[tuple[Tensor, ...]] = []
        for found, target in zip(proposals, targets, strict=True):
            truth = target["boxes"]
            boxes = torch.cat([found, truth])
            matched = torch.full((len(boxes),), -1, device=boxes.device)
            if len(truth):
                matched = self.matchers[stage](box_iou(truth, boxes))
            known = torch.cat([target["labels"], target["labels"].new_zeros(1)])
            labels = known[matched.clamp(min=-1)]
            labels = labels * torch.isin(labels, labels.new_tensor(self.keep))
            labels = self.learned(labels, boxes, target)
            pick = torch.cat([m.nonzero()[:, 0] for m in self._drawn(labels)])
            matched = matched[pick].clamp(min=0)
            aim = truth[matched] if len(truth) else boxes[pick]
            columns.append((boxes[pick], labels[pick], matched, aim, pick >= len(found)))
        return Samples(*(list(c) for c in zip(*columns, strict=True)))

    def learned(self, labels: Tensor, boxes: Tensor, target: dict[str, Tensor]) -> Tensor:
        """Return `labels` (n,) of boxes (n, 4), with −1 for those that are not to be learned."""
        return drop_unknown(labels, boxes, target)

    def _drawn(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Draw positive and negative samples (n,) of one image."""
        positive, negative = self.sampler([labels])
        return positive[0], negative[0]

    def _box_losses(
        self, stage: int, samples: Samples, logits: Tensor, deltas: Tensor
    ) -> dict[str, Tensor]:
        """Return class and box loss of a stage."""
        labels = torch.cat(samples.labels)
        if not len(labels):
            return {"class": logits.sum() * 0, "box": deltas.sum() * 0}
        c, positive = self.config, labels.nonzero()[:, 0]
        own = 0 if c.class_agnostic else labels[positive] - 1
        boxes = box_loss(
            c.box_loss,
            deltas[positive, own],
            torch.cat(samples.boxes)[positive],
            torch.cat(samples.truth)[positive],
            self.coders[stage],
            c.box_beta,
        )
        boxes = c.box_loss_weight * boxes / len(labels)
        return {"class": F.cross_entropy(logits, labels), "box": boxes}

    def _masks(
        self, head: int, features: dict[str, Tensor], found: Samples | Detections, size: Size
    ) -> dict[str, Tensor]:
        """Return logits (n, 28, 28) of a mask head, each for the class of its region, by name."""
        x = self.mask_pool(features, found.boxes, [size] * len(found.boxes))
        own = torch.cat(found.labels) - 1
        most = len(x) + 1 if self.training else CHUNK
        chunks = zip(torch.split(x, most), torch.split(own, most), strict=True)
        parts = [self._head(head, *chunk) for chunk in chunks]
        return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}

    def _head(self, head: int, x: Tensor, own: Tensor) -> dict[str, Tensor]:
        """Return the same of pooled regions (n, c, 14, 14) with the class `own` (n,) each."""
        masks: Any = self.masks
        before: Tensor | None = None
        if self.config.interleaved:
            for earlier in masks[:head]:
                before = earlier.features(x, before)
        found = masks[head](x) if before is None else masks[head](x, before)
        row = torch.arange(len(own), device=own.device)
        out = {name: logits[row, own] for name, logits in found.items()}
        if self.iou is not None:
            # The mask is an input like the region: its head does not learn from the IoU.
            out["iou"] = self.iou(x, out["mask"].detach().sigmoid())[row, own]
        return out

    def _moved(self, stage: int, boxes: list[Tensor], deltas: Tensor, size: Size) -> list[Tensor]:
        """Move boxes (n, 4) by `deltas` (n, c, 4) and clip them: (n, c, 4) per image."""
        moved: Tensor = self.coders[stage].decode_single(deltas.flatten(1), torch.cat(boxes))
        moved = clip_boxes_to_image(moved.view(len(moved), deltas.shape[1], 4), size)
        return list(torch.split(moved, [len(b) for b in boxes]))

    def learn(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        size: Size,
        targets: list[dict[str, Tensor]],
    ) -> tuple[Detections, dict[str, Tensor]]:
        """Return the positive samples of the last stage with their masks, and losses by name."""
        losses: dict[str, Tensor] = {}
        every, last = self.config.mask_every_stage, len(self.boxes) - 1
        for stage, weight in enumerate(self.config.stage_weights):
            prefix = f"stage{stage}_" if last else ""
            samples = self.sample(stage, proposals, targets)
            x = self.box_pool(features, samples.boxes, [size] * len(targets))
            logits, deltas = self.boxes[stage](x)
            terms = self._box_losses(stage, samples, logits, deltas)
            moved = proposals
            if stage < last or self.config.interleaved:
                moved = self._next(stage, samples, deltas.detach(), size)
            if every or stage == last:
                if self.config.interleaved:
                    samples = self.sample(stage, moved, targets)
                positive = samples.positive()
                masks = self._masks(stage if every else 0, features, positive, size)
                terms |= mask_losses(self.config, self.keep, masks, positive, targets)
            for name, term in terms.items():
                # A single mask head has weight 1, whatever the weight of the last box stage.
                own = weight if every or name in ("class", "box") else 1.0
                losses[prefix + name] = own * term
            proposals = moved
        ones = [torch.ones(len(boxes), device=boxes.device) for boxes in positive.boxes]
        split = torch.split(masks["mask"], [len(boxes) for boxes in positive.boxes])
        return Detections(positive.boxes, positive.labels, ones, list(split)), losses

    def _next(self, stage: int, samples: Samples, deltas: Tensor, size: Size) -> list[Tensor]:
        """Return the proposals of the next stage, without the copies of true boxes."""
        moved = self._moved(stage, samples.boxes, deltas, size)
        boxes = [m[~copy, 0] for m, copy in zip(moved, samples.copied, strict=True)]
        return [b[remove_small_boxes(b, MIN_PX)] for b in boxes]

    def find(self, features: dict[str, Tensor], proposals: list[Tensor], size: Size) -> Detections:
        """Return the detections in the images, best first."""
        n, boxes = len(proposals), proposals
        scores: list[Tensor] = []
        for stage in range(len(self.boxes)):
            logits, deltas = self.boxes[stage](self.box_pool(features, boxes, [size] * n))
            scores.append(logits.softmax(1))
            moved = self._moved(stage, boxes, deltas, size)
            boxes = [m[:, 0] for m in moved]
        mean = torch.stack(scores).mean(0) if self.config.average_scores else scores[-1]
        each = torch.split(mean, [len(m) for m in moved])
        best = [self._best(m, s) for m, s in zip(moved, each, strict=True)]
        kept, labels, confidence = (list(column) for column in zip(*best, strict=True))
        found = Detections(self._grown(kept, labels, size), labels, confidence, [])
        return self.draw(features, found, size)

    def draw(self, features: dict[str, Tensor], found: Detections, size: Size) -> Detections:
        """Return detections with their masks, which lie over their boxes."""
        heads = [self._masks(i, features, found, size) for i in range(len(self.masks))]
        p = [head["mask"] for head in heads]
        logits = p[0] if len(p) == 1 else torch.stack(p).sigmoid().mean(0).logit(eps=1e-6)
        counts = [len(b) for b in found.boxes]
        scores = found.scores
        if "iou" in heads[0]:
            shares = torch.split(heads[0]["iou"].clamp(0, 1), counts)
            scores = [score * share for score, share in zip(scores, shares, strict=True)]
        return replace(found, scores=scores, logits=list(torch.split(logits, counts)))

    def _grown(self, boxes: list[Tensor], labels: list[Tensor], size: Size) -> list[Tensor]:
        """Enlarge boxes (k, 4) of cells by `mask_margin` of their sides, and clip them."""
        margin = self.config.mask_margin
        if not margin:
            return boxes
        way = torch.tensor([-margin, -margin, margin, margin], device=boxes[0].device)
        grown = []
        for box, label in zip(boxes, labels, strict=True):
            side = (box[:, 2:] - box[:, :2]).repeat(1, 2)
            grown.append(clip_boxes_to_image(box + (label == CELL)[:, None] * way * side, size))
        return grown

    def _best(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pick the detections of one image from boxes (n, c or 1, 4) and scores (n, 1 + c)."""
        c = self.config
        labels = torch.tensor(self.keep, device=scores.device).expand(len(scores), -1)
        if not c.class_agnostic:
            boxes = boxes[:, [label - 1 for label in self.keep]]
        boxes = boxes.expand(-1, labels.shape[1], -1).reshape(-1, 4)
        scores, labels = scores[:, list(self.keep)].reshape(-1), labels.reshape(-1)
        big = (boxes[:, 2:] - boxes[:, :2] >= MIN_PX).all(1)
        keep = (big & (scores > self.score)).nonzero()[:, 0]
        boxes, labels, scores = boxes[keep], labels[keep], scores[keep]
        keep = batched_nms(boxes, scores, labels, c.nms)[: c.max_detections]
        return boxes[keep], labels[keep], scores[keep]
