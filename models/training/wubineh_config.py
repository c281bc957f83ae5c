"""Settings with which `wubineh` is trained: those of its paper."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..settings import changed, setting
from .coco import CELLS
from .config import SemanticTrainConfig, TrainConfig

__all__ = ["WubinehTrainConfig"]


@dataclass(frozen=True, kw_only=True)
class WubinehTrainConfig(SemanticTrainConfig):
    """Settings to train `wubineh`; the defaults are those of its paper where it states them.

    AdamW without weight decay is Adam.
    """

    crop_multiple: ClassVar[int] = 32
    learns_gaps: ClassVar[bool] = False

    crop_px: int = changed(TrainConfig, "crop_px", 224)
    batch: int = changed(TrainConfig, "batch", 18)
    lr: float = changed(TrainConfig, "lr", 3e-3)
    weight_decay: float = changed(TrainConfig, "weight_decay", 0.0)
    ema: float = changed(TrainConfig, "ema", 0.0)
    epochs: int = setting(
        0, "Train for this many times the number of images, instead of for --steps; 0: --steps."
    )
    schedule: str = setting(
        "constant",
        "Choose the learning rate: constant, or cosine, which rises over 100 steps and falls.",
        choices=("constant", "cosine"),
    )
    pretrained: Path | None = setting(  # noqa: RUF009 (it makes a field)
        None,
        "Start the encoder from ImageNet weights in this local file, of torchvision, for "
        "efficientnet_b2 of timm; nothing is downloaded.",
        metavar="FILE",
        may_change=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.categories and set(self.classes) & set(CELLS):
            raise ValueError(
                f"class {self.classes[0]} needs its COCO category; give e.g. --category cytoplasm"
            )
        for name, category in zip(self.classes, self.categories, strict=False):
            if len(self.classes) > 1 and category in CELLS and name not in CELLS:
                raise ValueError(
                    f"class {name!r} of category {category!r} must be called {' or '.join(CELLS)}, "
                    "so that a run can tell whole cells from the nuclei in them"
                )
        if self.pretrained is not None and self.options.get("encoder", "none") == "none":
            raise ValueError(
                "pretrained is for a network with an encoder; give e.g. --encoder vgg19"
            )

    def steps_for(self, images: int) -> int:
        """Return the number of steps with so many training images."""
        return -(-self.epochs * images // self.batch) if self.epochs else self.steps
