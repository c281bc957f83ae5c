"""Settings of the instance networks, and the published ones by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from ..settings import check_choices, setting, typed

__all__ = [
    "BACKBONES",
    "CASCADE",
    "CELL",
    "DONET",
    "HTC",
    "IMBMDCR",
    "LIGHT",
    "LITE",
    "MASKRCNN",
    "MS_RCNN",
    "ORCNN",
    "InstanceConfig",
]

CELL = 1
"""Label of the whole cell, the only class that DoNet decomposes where instances overlap."""

LITE = "efficientnet_"
"""Start of the names of trunks that are an encoder of `efficientnet_lite`."""

BACKBONES = (
    "resnet18",
    "resnet50",
    "resnet101",
    "resnext101_32x4d",
    "resnext101_64x4d",
    "res2net101",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
)


_MAY_BE_0 = ("trainable_layers", "fusion_width")
_SHARES = (
    "rpn_positive_iou", "rpn_negative_iou", "rpn_fraction", "rpn_nms", "stage_iou",
    "roi_fraction", "attention_floor", "attention_score", "score", "nms",
    "mask_margin",
)  # fmt: skip
_DIVISORS = ("anchor_ratios", "stage_box_weights")


def _flat(value: Any) -> Iterator[float]:
    """Yield the numbers of nested tuples."""
    if isinstance(value, tuple):
        for part in value:
            yield from _flat(part)
    else:
        yield value


@dataclass(frozen=True)
class InstanceConfig:
    """Settings of an instance network, JSON-able. The defaults are those of Mask R-CNN.

    Each field carries its help text (see `wsiseg_models.settings`). Label 1 is the whole cell.

    Raises
    ------
    ValueError
        a value that cannot be, or two that do not fit together; the message names the fields

    Examples
    --------
    >>> InstanceConfig(backbone="resnet18", anchor_px=[16, 32, 64, 128, 256]).anchor_px
    (16, 32, 64, 128, 256)
    """

    classes: int = setting(2, "Set the number of classes, background left out.")

    # Trunk and pyramid.
    backbone: str = setting("resnet50", "Choose the trunk.", choices=BACKBONES)
    trunk_width: int = setting(
        64, "Set the channels of the trunk's stem (as published: 64); EfficientNet has its own."
    )
    norm: str = setting(
        "frozen",
        "Choose the trunk's norms: frozen to start from pretrained weights, group or batch to "
        "train from scratch.",
        choices=("frozen", "group", "batch"),
    )
    trainable_layers: int = setting(
        3, "Train this many stages of the trunk, counted from the last (5 = all)."
    )
    dcn_stages: tuple[int, ...] = setting(
        (), "Use modulated deformable convolutions in these stages (of 3, 4, 5)."
    )
    dcn: str = setting(
        "op",
        "Compute deformable convolutions with torchvision's operator (op) or with grid_sample "
        "(grid).",
        choices=("op", "grid"),
    )
    mask_scale: float = setting(
        1.0,
        "Multiply the modulation of deformable convolutions; 2 makes them plain convolutions at "
        "the start.",
    )
    fpn_width: int = setting(256, "Set the channels of the pyramid, P2 to P6.")

    # Proposals.
    anchor_px: tuple[int, ...] = setting(
        (32, 64, 128, 256, 512), "Set the anchor size of each level, P2 to P6, in model pixels."
    )
    anchor_ratios: tuple[float, ...] = setting(
        (0.5, 1.0, 2.0), "Set the ratios of height to width of the anchors."
    )
    rpn_positive_iou: float = setting(0.7, "Learn anchors from this IoU on as objects.")
    rpn_negative_iou: float = setting(0.3, "Learn anchors below this IoU as background.")
    rpn_samples: int = setting(256, "Train proposals on this many anchors per image.")
    rpn_fraction: float = setting(0.5, "Set the largest share of objects among these anchors.")
    rpn_nms: float = setting(0.7, "Drop proposals that overlap a better one by this IoU.")
    rpn_pre_nms: tuple[int, ...] = setting(
        (2000, 1000), "Keep this many proposals per level before NMS (training, test)."
    )
    rpn_post_nms: tuple[int, ...] = setting(
        (2000, 1000), "Keep this many proposals after NMS (training, test)."
    )
    rpn_box_loss: str = setting(
        "smooth_l1", "Choose the box loss of the proposals.", choices=("l1", "smooth_l1")
    )
    rpn_beta: float = setting(1 / 9, "Set where the proposals' smooth L1 turns linear.")

    # Boxes.
    box_loss: str = setting(
        "smooth_l1",
        "Choose the box loss of the regions.",
        choices=("l1", "smooth_l1", "iou", "giou", "diou", "ciou"),
    )
    box_beta: float = setting(1 / 9, "Set where the regions' smooth L1 turns linear.")
    box_loss_weight: float = setting(1.0, "Weigh the box loss.")
    stage_iou: tuple[float, ...] = setting(
        (0.5,), "Set the IoU of a match in each box stage; their number is that of the stages."
    )
    stage_box_weights: tuple[tuple[float, ...], ...] = setting(
        ((10.0, 10.0, 5.0, 5.0),), "Set the box coder's weights (x, y, w, h) in each box stage."
    )
    stage_weights: tuple[float, ...] = setting((1.0,), "Weigh the losses of each box stage.")
    roi_samples: int = setting(512, "Train the heads on this many regions per image.")
    roi_fraction: float = setting(0.25, "Set the largest share of objects among these regions.")
    class_agnostic: bool = setting(False, "Predict one box for all classes.")
    average_scores: bool = setting(
        True, "Average scores over the box stages instead of taking the last."
    )
    box_width: int = setting(1024, "Set the channels of the box heads.")

    # Masks.
    mask_width: int = setting(256, "Set the channels of the mask heads.")
    mask_convs: int = setting(4, "Set the number of convolutions of a mask head.")
    mask_every_stage: bool = setting(
        False, "Use a mask head in every box stage, not one at the end."
    )
    drm: bool = setting(False, "Use DoNet's decomposition of cells into overlap and rest.")
    crm: bool = setting(False, "Use DoNet's recombination of the two parts.")
    mrp: bool = setting(False, "Use DoNet's second pass, which finds nuclei inside cells.")
    chained: bool = setting(
        False, "Use three convolutions before each part, as DoNet is printed; its code has one."
    )
    fusion_width: int = setting(
        0, "Set the channels inside the fusion unit; 0 is as many as enter, as published."
    )
    interleaved: bool = setting(
        False,
        "Train the mask head of each box stage on the boxes that this stage moved, and pass mask "
        "features from stage to stage (Hybrid Task Cascade, without its semantic branch).",
    )
    visible: bool = setting(
        False,
        "Predict the visible part of each instance beside the whole (Occlusion R-CNN).",
    )
    mask_iou: bool = setting(
        False,
        "Predict the IoU of each mask, and multiply the score by it (Mask Scoring R-CNN).",
    )
    consistency: str = setting(
        "soft",
        "Choose the consistency loss: soft xor, the published one without gradient (code), or off.",
        choices=("soft", "code", "off"),
    )
    consistency_weight: float = setting(0.1, "Weigh the consistency loss.")
    attention: str = setting(
        "prob",
        "Choose how cells weigh the second pass: by probability, or as DoNet's code does.",
        choices=("prob", "code"),
    )
    attention_floor: float = setting(0.0, "Set the least weight of the second pass, 0 to 1.")
    attention_score: float = setting(
        0.5, "Use cells from this score on to weigh the second pass (test)."
    )
    mask_weight: float = setting(1.0, "Weigh the loss of the mask (DoNet: of the coarse mask).")
    intersection_weight: float = setting(1.0, "Weigh the loss of the overlap.")
    complement_weight: float = setting(1.0, "Weigh the loss of the rest.")
    refined_weight: float = setting(1.0, "Weigh the loss of the refined mask.")
    visible_weight: float = setting(1.0, "Weigh the loss of the visible part.")
    invisible_weight: float = setting(1.0, "Weigh the loss of the invisible part.")
    mask_iou_weight: float = setting(1.0, "Weigh the loss of the predicted IoU of a mask.")

    # Output.
    score: float = setting(0.05, "Leave out detections below this score.")
    nms: float = setting(0.5, "Drop detections that overlap a better one by this IoU.")
    mask_margin: float = setting(
        0.0,
        "Draw each cell's mask over its box enlarged by this share of its sides on each side "
        "(test); a box that is too small then cuts no straight edge.",
    )
    max_detections: int = setting(100, "Keep this many detections per image and pass.")

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, typed(f.name, getattr(self, f.name), f.default))
        check_choices(self)
        self._check_numbers()
        self._check_parts()

    def _check_numbers(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, str | bool):
                continue
            numbers = list(_flat(value))
            whole = all(type(n) is int for n in numbers)
            least = 1 if whole and f.name not in _MAY_BE_0 else 0
            if min(numbers, default=least) < least:
                raise ValueError(f"{f.name} {value} must be {least} or more")
            if f.name in _SHARES and max(numbers, default=0) > 1:
                raise ValueError(f"{f.name} {value} must be 1 or less")
            if f.name in _DIVISORS and 0 in numbers:
                raise ValueError(f"{f.name} {value} must be above 0")
        if self.trainable_layers > 5:
            raise ValueError(f"trainable_layers {self.trainable_layers} must be 5 (all) or less")
        if self.rpn_negative_iou > self.rpn_positive_iou:
            raise ValueError(
                f"rpn_negative_iou {self.rpn_negative_iou} is above rpn_positive_iou "
                f"{self.rpn_positive_iou}; lower it"
            )

    def _check_parts(self) -> None:
        lengths = {"anchor_px": 5, "rpn_pre_nms": 2, "rpn_post_nms": 2}
        stages = len(self.stage_iou)
        for name, n in {**lengths, "stage_box_weights": stages, "stage_weights": stages}.items():
            if len(getattr(self, name)) != n:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries; give {n}")
        if not stages:
            raise ValueError("stage_iou is empty; give one IoU per box stage, e.g. 0.5")
        if any(len(weights) != 4 for weights in self.stage_box_weights):
            raise ValueError("stage_box_weights: give four numbers per stage, for x, y, w and h")
        if not set(self.dcn_stages) <= {3, 4, 5}:
            raise ValueError(f"dcn_stages {self.dcn_stages}: only stages 3, 4 and 5 can have them")
        if self.dcn_stages and "resne" not in self.backbone:
            raise ValueError(
                f"dcn_stages: {self.backbone} has none; use a ResNet or ResNeXt as backbone"
            )
        if self.crm and not self.drm:
            raise ValueError("crm needs drm, whose parts it recombines; switch drm on")
        if self.mrp and self.classes < 2:
            raise ValueError("mrp needs a second class for its second pass; set classes to 2")
        if self.drm and (self.interleaved or self.visible or self.mask_iou):
            raise ValueError(
                "interleaved, visible and mask_iou need the plain mask head; switch drm off"
            )
        if self.interleaved and (stages < 2 or not self.mask_every_stage or self.visible):
            raise ValueError(
                "interleaved needs several box stages with a plain mask head each; switch "
                "mask_every_stage on and visible off"
            )
        if self.mask_iou and self.mask_every_stage:
            raise ValueError("mask_iou needs one mask head; switch mask_every_stage off")
        if stages > 1 and not self.class_agnostic:
            raise ValueError("several box stages need class_agnostic; switch it on")
        widths = (self.trunk_width, self.fpn_width)
        if self.norm == "group" and any(width % 8 for width in widths):
            raise ValueError(
                f"norm group needs trunk_width and fpn_width that are multiples of 8, got {widths}"
            )


MASKRCNN = InstanceConfig()
"""Mask R-CNN R50-FPN, torchvision's numbers."""

DONET = replace(
    MASKRCNN,
    rpn_post_nms=(1000, 1000),
    rpn_box_loss="l1",
    box_loss="l1",
    roi_samples=256,
    drm=True,
    crm=True,
    mrp=True,
    mask_weight=0.75,
    score=0.5,
)
"""DoNet (Jiang et al. 2023), numbers of its code; consistency and attention are ours."""

CASCADE = replace(
    MASKRCNN,
    stage_iou=(0.5, 0.6, 0.7),
    stage_box_weights=(
        (10.0, 10.0, 5.0, 5.0),
        (20.0, 20.0, 10.0, 10.0),
        (30.0, 30.0, 15.0, 15.0),
    ),
    stage_weights=(1.0, 0.5, 0.25),
    class_agnostic=True,
    box_beta=1.0,
    mask_every_stage=True,
)
"""Cascade Mask R-CNN R50-FPN, mmdetection's numbers."""

IMBMDCR = replace(
    CASCADE, backbone="resnext101_64x4d", dcn_stages=(3, 4, 5), mask_every_stage=False
)
"""IMBMDCR-Net: ResNeXt-101 64×4d, deformable C3 to C5, one mask head after three box stages."""

MS_RCNN = replace(MASKRCNN, mask_iou=True)
"""Mask Scoring R-CNN (Huang et al. 2019) on R50-FPN."""

HTC = replace(CASCADE, interleaved=True)
"""Hybrid Task Cascade (Chen et al. 2019) on R50-FPN, without the semantic branch."""

ORCNN = replace(MASKRCNN, visible=True)
"""Occlusion R-CNN (Follmann et al. 2019) on R50-FPN."""

LIGHT: Mapping[str, Any] = MappingProxyType(
    {
        "backbone": "resnet18",
        "trunk_width": 40,
        "norm": "group",
        "trainable_layers": 5,
        "fpn_width": 96,
        "anchor_px": (12, 24, 48, 96, 192),
        "rpn_samples": 128,
        # A window of a slide holds hundreds of nuclei; with 200 of each AP50 was 0.25, not 0.8.
        "rpn_pre_nms": (600, 2000),
        "rpn_post_nms": (300, 2000),
        "roi_samples": 64,
        "box_width": 256,
        "mask_width": 64,
        "fusion_width": 64,
        "attention_floor": 0.5,
        "score": 0.05,
        "max_detections": 1000,
    }
)
"""Options of small networks, below 10 M parameters, which a CPU can train from scratch.

The checkpoints that ship have EfficientNet-Lite0 with frozen norms as trunk instead.
"""
