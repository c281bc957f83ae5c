"""Settings with which detectors are trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..settings import changed, setting
from .config import RegionTrainConfig, TrainConfig, weighted

__all__ = ["DetectorTrainConfig"]


@dataclass(frozen=True, kw_only=True)
class DetectorTrainConfig(RegionTrainConfig):
    """Settings to train a network that finds boxes."""

    data: tuple[str, ...] = changed(TrainConfig, "data", ())
    partial_data: tuple[str, ...] = setting(
        (),
        "Train on this COCO folder or file, as --data, of which only some objects are marked: "
        "places without a mark are not learned as background. Repeatable.",
        flags=("--partial-data",),
        metavar="DIR[@MPP][=WEIGHT]",
    )
    classes: tuple[str, ...] = setting(
        (),
        "Name an object class, which is the COCO category of that name; cell and nucleus are all "
        "categories of cells and nuclei. Objects of other categories are not learned. Repeatable, "
        "in order; by default all categories of the sets.",
        flags=("--class", "--classes"),
        metavar="NAME",
    )
    batch: int = changed(TrainConfig, "batch", 2)
    lr: float = changed(TrainConfig, "lr", 2.5e-3)
    optimizer: str = changed(TrainConfig, "optimizer", "sgd")
    crop_px: int = changed(TrainConfig, "crop_px", 512)
    epochs: int = setting(
        0, "Train for this many times the number of images, instead of for --steps; 0: --steps."
    )
    milestone_epochs: tuple[int, ...] = setting(
        (),
        "Lower the learning rate to a tenth after this many epochs (--schedule steps, with "
        "--epochs). Repeatable.",
        flags=("--milestone-epoch",),
    )
    short_px: tuple[int, ...] = setting(
        (),
        "Train on whole images instead of crops, resized so that the shorter side has this length "
        "and the longer one at most --long-px; each step draws one. Repeatable.",
        flags=("--short-px",),
    )
    long_px: int = setting(1333, "Set the largest length of the longer side, with --short-px.")

    def __post_init__(self) -> None:
        super().__post_init__()
        sets = [weighted(spec)[0] for spec in (*self.data, *self.partial_data)]
        if not sets:
            raise ValueError("there is nothing to train on; give --data or --partial-data")
        if len(set(sets)) < len(sets):
            raise ValueError(f"a set is given twice among {', '.join(sets)}; give it once")
        if self.milestone_epochs and not self.epochs:
            raise ValueError("milestone_epochs need epochs; give --epochs, or --milestone in steps")
        if self.milestone_epochs and self.milestones:
            raise ValueError("milestones and milestone_epochs say the same; give one of them")
        if any(px < 32 for px in (*self.short_px, self.long_px)):
            raise ValueError(
                f"short_px {self.short_px} and long_px {self.long_px} must be 32 or more"
            )
        if len({name.lower() for name in self.classes}) < len(self.classes):
            raise ValueError(f"classes {', '.join(self.classes)} must differ")

    @property
    def drops(self) -> tuple[int, ...]:
        """See `RegionTrainConfig`."""
        return self.milestones or self.milestone_epochs

    def in_steps(self, images: int) -> DetectorTrainConfig:
        """Return the same settings with steps in place of epochs of so many training images."""
        if not self.epochs:
            return self

        def steps(epochs: int) -> int:
            return -(-epochs * images // self.batch)

        drops = self.milestones or tuple(steps(n) for n in self.milestone_epochs)
        changes: dict[str, Any] = {"epochs": 0, "milestone_epochs": (), "milestones": drops}
        return replace(self, steps=steps(self.epochs), **changes)
