"""The numbers of the instance models: one frozen record, and the published ones by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

__all__ = [
    "CASCADE",
    "CELL",
    "DONET",
    "IMBMDCR",
    "LIGHT",
    "MASKRCNN",
    "InstanceConfig",
    "configure",
]

CELL = 1
"""Label of the whole cell; the only class whose instances are taken apart where they overlap."""

_BACKBONES = (
    "resnet18",
    "resnet50",
    "resnet101",
    "resnext101_32x4d",
    "resnext101_64x4d",
    "res2net101",
)
_CHOICES = {
    "backbone": _BACKBONES,
    "norm": ("frozen", "group", "batch"),
    "dcn": ("op", "grid"),
    "rpn_box_loss": ("l1", "smooth_l1"),
    "box_loss": ("l1", "smooth_l1", "iou", "giou", "diou", "ciou"),
    "consistency": ("soft", "code", "off"),
    "attention": ("prob", "code"),
}


@dataclass(frozen=True)
class InstanceConfig:
    """Everything that decides an instance network; JSON-able. Defaults are Mask R-CNN's.

    Attributes
    ----------
    classes
        without background; label 1 is the whole cell
    backbone, trunk_width, norm, trainable_layers
        trunk, channels of its stem (64 as published), kind of norm (``frozen`` for transfer,
        ``group`` or ``batch`` from scratch), stages that learn, counted from the last (5 = all)
    dcn_stages, dcn, mask_scale
        stages (3 to 5) with modulated deformable convolutions; torchvision's operator or
        `grid_sample`; factor on the modulation, 2 is the identity at the start (for transfer)
    fpn_width
        channels of P2 to P6
    anchor_px, anchor_ratios
        one size per level P2 to P6; heights over widths
    rpn_positive_iou, rpn_negative_iou, rpn_samples, rpn_fraction
        which anchors train the proposals: IoU bounds, number per image, share of positive ones
    rpn_nms, rpn_pre_nms, rpn_post_nms
        proposals: NMS per level, number per level before and in all after it, (train, test)
    rpn_box_loss, rpn_beta, box_loss, box_beta, box_loss_weight
        regression losses; beta is where smooth L1 turns
    stage_iou, stage_box_weights, stage_weights
        one entry per box stage: IoU of a match, box coder (x, y, w, h), weight of its losses
    roi_samples, roi_fraction
        regions per image that train the heads, share of positive ones
    class_agnostic, average_scores
        one box for all classes; scores averaged over the stages or those of the last
    box_width, mask_width, mask_convs, mask_every_stage
        of the heads; a mask head in every stage or one at the end
    drm, crm, mrp
        DoNet's decomposition, recombination and two passes
    chained
        the concatenation unit as printed (three convolutions) or as its code runs (one)
    fusion_width
        channels inside the fusion unit; 0 = as many as enter, as published
    consistency, consistency_weight
        ``soft`` xor, the published one (``code``, no gradient) or ``off``
    attention, attention_floor, attention_score
        how cells weigh the second pass, least weight, least score of a cell that counts (test)
    mask_weight, intersection_weight, complement_weight, refined_weight
        of the mask losses
    score, nms, max_detections
        of the output, per path
    """

    classes: int = 2
    backbone: str = "resnet50"
    trunk_width: int = 64
    norm: str = "frozen"
    trainable_layers: int = 3
    dcn_stages: tuple[int, ...] = ()
    dcn: str = "op"
    mask_scale: float = 1.0
    fpn_width: int = 256
    anchor_px: tuple[int, ...] = (32, 64, 128, 256, 512)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rpn_positive_iou: float = 0.7
    rpn_negative_iou: float = 0.3
    rpn_samples: int = 256
    rpn_fraction: float = 0.5
    rpn_nms: float = 0.7
    rpn_pre_nms: tuple[int, ...] = (2000, 1000)
    rpn_post_nms: tuple[int, ...] = (2000, 1000)
    rpn_box_loss: str = "smooth_l1"
    rpn_beta: float = 1 / 9
    box_loss: str = "smooth_l1"
    box_beta: float = 1 / 9
    box_loss_weight: float = 1.0
    stage_iou: tuple[float, ...] = (0.5,)
    stage_box_weights: tuple[tuple[float, ...], ...] = ((10.0, 10.0, 5.0, 5.0),)
    stage_weights: tuple[float, ...] = (1.0,)
    roi_samples: int = 512
    roi_fraction: float = 0.25
    class_agnostic: bool = False
    average_scores: bool = True
    box_width: int = 1024
    mask_width: int = 256
    mask_convs: int = 4
    mask_every_stage: bool = False
    drm: bool = False
    crm: bool = False
    mrp: bool = False
    chained: bool = False
    fusion_width: int = 0
    consistency: str = "soft"
    consistency_weight: float = 0.1
    attention: str = "prob"
    attention_floor: float = 0.0
    attention_score: float = 0.5
    mask_weight: float = 1.0
    intersection_weight: float = 1.0
    complement_weight: float = 1.0
    refined_weight: float = 1.0
    score: float = 0.05
    nms: float = 0.5
    max_detections: int = 100

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, _typed(f.name, getattr(self, f.name), f.default))
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                value = getattr(self, name)
                raise ValueError(f"{name}: unknown {value!r}; known: {', '.join(known)}")
        self._check_numbers()
        self._check_parts()

    def _check_numbers(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            least = 0 if f.name in ("trainable_layers", "fusion_width") else 1
            if type(value) is int and value < least:
                raise ValueError(f"{f.name}: {value} is below {least}")
            if isinstance(value, float) and value < 0:
                raise ValueError(f"{f.name}: {value} is below 0")
        for name in ("rpn_fraction", "roi_fraction", "attention_floor"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name}: {getattr(self, name)} is above 1")
        if self.trainable_layers > 5:
            raise ValueError(f"trainable_layers: {self.trainable_layers} is above 5 (all)")
        if self.rpn_negative_iou > self.rpn_positive_iou:
            raise ValueError(
                f"rpn_negative_iou: {self.rpn_negative_iou} is above rpn_positive_iou "
                f"{self.rpn_positive_iou}"
            )

    def _check_parts(self) -> None:
        lengths = {"anchor_px": 5, "rpn_pre_nms": 2, "rpn_post_nms": 2}
        stages = len(self.stage_iou)
        for name, n in {**lengths, "stage_box_weights": stages, "stage_weights": stages}.items():
            if len(getattr(self, name)) != n:
                raise ValueError(f"{name}: {len(getattr(self, name))} entries, {n} are needed")
        if not stages:
            raise ValueError("stage_iou: at least one box stage is needed")
        if any(len(weights) != 4 for weights in self.stage_box_weights):
            raise ValueError("stage_box_weights: each stage has four, for x, y, w and h")
        if not set(self.dcn_stages) <= {3, 4, 5}:
            raise ValueError(f"dcn_stages: {self.dcn_stages} is not among stages 3, 4 and 5")
        if self.dcn_stages and self.backbone == "res2net101":
            raise ValueError("dcn_stages: res2net101 has none; use a ResNet or ResNeXt")
        if self.crm and not self.drm:
            raise ValueError("crm: recombines what drm has taken apart; switch drm on")
        if self.mrp and self.classes < 2:
            raise ValueError("mrp: the second pass looks for a second class; classes is 1")
        if stages > 1 and not self.class_agnostic:
            raise ValueError("class_agnostic: box stages that follow each other need it on")
        widths = (self.trunk_width, self.fpn_width)
        if self.norm == "group" and any(width % 8 for width in widths):
            raise ValueError(f"norm: groups of 8 channels do not divide widths {widths}")


def _typed(name: str, value: Any, like: Any) -> Any:
    """`value` in the type of the default `like`: JSON has lists for tuples and 1 for 1.0."""
    if isinstance(like, tuple):
        if not isinstance(value, list | tuple):
            raise ValueError(f"{name}: {value!r} is not a list")
        # Stages of the trunk, the one empty default, are whole numbers.
        return tuple(_typed(name, v, like[0] if like else 0) for v in value)
    if isinstance(like, float) and type(value) is int:
        return float(value)
    if type(value) is not type(like):
        raise ValueError(f"{name}: {value!r} is not of type {type(like).__name__}")
    return value


def configure(base: InstanceConfig, options: Mapping[str, Any]) -> InstanceConfig:
    """`base` with `options` in place of its fields.

    Raises
    ------
    ValueError
        a field that does not exist or cannot have that value; the message names it
    """
    known = {f.name for f in fields(InstanceConfig)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r}; known: {', '.join(sorted(known))}")
    return replace(base, **options)


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
"""Options of the checkpoints that ship: below 10 M parameters, trained from scratch on a CPU."""
