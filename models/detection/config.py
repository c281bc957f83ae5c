"""Settings of the detectors; the defaults are those of Xu et al. 2022 where it states them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ..instance.config import BACKBONES, InstanceConfig
from ..settings import check_choices, setting, typed

__all__ = ["FROZEN", "DetectorConfig", "FasterRCNNConfig", "RetinaNetConfig"]

FROZEN = (
    "none", "stem", "stem+1", "stem+2", "stem+3", "stem+4",
    "stage1", "stage2", "stage3", "stage4",
)  # fmt: skip
"""Which stages of the trunk keep their weights: stem+2 are the stem and stages 1 and 2."""

_SHARED = (
    "classes", "backbone", "trunk_width", "norm", "fpn_width", "anchor_px", "anchor_ratios",
    "box_loss", "box_beta", "box_loss_weight", "score", "nms", "max_detections",
)  # fmt: skip
_RPN = (
    "rpn_positive_iou", "rpn_negative_iou", "rpn_samples", "rpn_fraction", "rpn_nms",
    "rpn_pre_nms", "rpn_post_nms", "rpn_box_loss", "rpn_beta", "roi_samples", "roi_fraction",
    "box_width",
)  # fmt: skip


@dataclass(frozen=True)
class DetectorConfig:
    """What both detectors have, JSON-able.

    Each field carries its help text (see `wsiseg_models.settings`).

    Raises
    ------
    ValueError
        a value that cannot be, or two that do not fit together; the message names the fields
    """

    classes: int = setting(1, "Set the number of classes, background left out.")
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
    frozen: str = setting(
        "stem+1",
        "Keep the weights of these stages of the trunk: stem+2 are the stem and stages 1 and 2, "
        "stage2 is that stage alone.",
        choices=FROZEN,
    )
    fpn_width: int = setting(256, "Set the channels of the pyramid.")
    anchor_px: tuple[int, ...] = setting(
        (32, 64, 128, 256, 512),
        "Set the anchor size of each level of the pyramid, in model pixels.",
    )
    anchor_ratios: tuple[float, ...] = setting(
        (0.5, 1.0, 2.0), "Set the ratios of height to width of the anchors."
    )
    box_loss: str = setting(
        "l1",
        "Choose the box loss.",
        choices=("l1", "smooth_l1", "iou", "giou", "diou", "ciou"),
    )
    box_beta: float = setting(1.0, "Set where the smooth L1 loss turns linear.")
    box_loss_weight: float = setting(1.0, "Weigh the box loss.")
    score: float = setting(0.05, "Leave out detections below this score.")
    nms: float = setting(0.5, "Drop boxes that overlap a better one of their class by this IoU.")
    exclusive: bool = setting(
        False, "Drop boxes that overlap a better one of any class: for classes that exclude others."
    )
    max_detections: int = setting(100, "Keep at most this many detections per image.")

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, typed(f.name, getattr(self, f.name), f.default))
        check_choices(self)
        self.core()

    def core(self) -> InstanceConfig:
        """Return the settings of the parts that the instance networks have too."""
        return _core(self, _SHARED)


def _core(settings: DetectorConfig, names: tuple[str, ...], **more: Any) -> InstanceConfig:
    """Copy fields; masks, which detectors do not have, are as small as can be."""
    shared = {name: getattr(settings, name) for name in names}
    return InstanceConfig(trainable_layers=5, mask_width=8, mask_convs=1, **shared, **more)


@dataclass(frozen=True)
class FasterRCNNConfig(DetectorConfig):
    """Settings of `faster_rcnn`, whose pyramid is P2 to P6.

    Examples
    --------
    >>> FasterRCNNConfig(classes=11, box_loss="giou").frozen
    'stem+1'
    """

    rpn_positive_iou: float = setting(0.7, "Learn anchors from this IoU on as objects.")
    rpn_negative_iou: float = setting(0.3, "Learn anchors below this IoU as background.")
    rpn_samples: int = setting(256, "Train proposals on this many anchors per image.")
    rpn_fraction: float = setting(0.5, "Set the largest share of objects among these anchors.")
    rpn_nms: float = setting(0.7, "Drop proposals that overlap a better one by this IoU.")
    rpn_pre_nms: tuple[int, ...] = setting(
        (2000, 1000), "Keep this many proposals per level before NMS (training, test)."
    )
    rpn_post_nms: tuple[int, ...] = setting(
        (1000, 1000), "Keep this many proposals after NMS (training, test)."
    )
    rpn_box_loss: str = setting(
        "l1", "Choose the box loss of the proposals.", choices=("l1", "smooth_l1")
    )
    rpn_beta: float = setting(1 / 9, "Set where the proposals' smooth L1 turns linear.")
    roi_samples: int = setting(512, "Train the head on this many regions per image.")
    roi_fraction: float = setting(0.25, "Set the largest share of objects among these regions.")
    box_width: int = setting(1024, "Set the channels of the box head.")

    def core(self) -> InstanceConfig:
        """See `DetectorConfig`."""
        return _core(self, _SHARED + _RPN)


@dataclass(frozen=True)
class RetinaNetConfig(DetectorConfig):
    """Settings of `retinanet`, whose pyramid is P3 to P7, P6 and P7 from C5.

    Each level has anchors of its size, and of 2^(1/3) and 2^(2/3) times its size.

    Examples
    --------
    >>> RetinaNetConfig(positive_iou=0.3)
    Traceback (most recent call last):
    ...
    ValueError: negative_iou 0.4 is above positive_iou 0.3; lower it
    """

    positive_iou: float = setting(0.5, "Learn anchors from this IoU on as objects.")
    negative_iou: float = setting(0.4, "Learn anchors below this IoU as background.")
    focal_alpha: float = setting(
        0.25, "Weigh objects by this in the focal loss, background by 1 less this."
    )
    focal_gamma: float = setting(2.0, "Weigh easy anchors down by this power in the focal loss.")
    head_convs: int = setting(4, "Set the number of convolutions of each of the two branches.")
    candidates: int = setting(1000, "Keep this many boxes per level before NMS.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("positive_iou", "negative_iou", "focal_alpha"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} must be within 0 and 1")
        if self.negative_iou > self.positive_iou:
            raise ValueError(
                f"negative_iou {self.negative_iou} is above positive_iou {self.positive_iou}; "
                "lower it"
            )
        if self.focal_gamma < 0:
            raise ValueError(f"focal_gamma {self.focal_gamma} must be 0 or more")
        if not 1 <= self.head_convs <= 4:
            raise ValueError(f"head_convs {self.head_convs} is not 1 to 4")
        if self.candidates < 1:
            raise ValueError(f"candidates {self.candidates} must be 1 or more")
