"""Settings with which the networks are trained that DSSNet was compared with, and growing ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..settings import setting
from .config import SemanticTrainConfig

if TYPE_CHECKING:
    import torch

__all__ = ["BaselineTrainConfig", "EncoderTrainConfig", "GrowingTrainConfig", "grow", "stage_at"]


@dataclass(frozen=True, kw_only=True)
class BaselineTrainConfig(SemanticTrainConfig):
    """Settings to train `erfnet` and `dfanet`: those of DSSNet, with crops of multiples of 32."""

    crop_multiple: ClassVar[int] = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch * math.ceil(self.crop_px / 64) ** 2 < 2:
            raise ValueError(
                f"crop_px {self.crop_px} and batch {self.batch} leave a batch norm one value; use "
                "crop_px 128 or batch 2"
            )


@dataclass(frozen=True, kw_only=True)
class EncoderTrainConfig(BaselineTrainConfig):
    """Settings to train `unetpp` and `pspnet`."""

    pretrained: Path | None = setting(  # noqa: RUF009 (it makes a field)
        None,
        "Start the encoder from ImageNet weights in this local file, of torchvision, for "
        "efficientnet_b2 of timm; nothing is downloaded.",
        metavar="FILE",
        may_change=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        without = {"unetpp": "none"}.get(self.model, "resnet50")
        if self.pretrained is not None and self.options.get("encoder", without) == "none":
            raise ValueError(
                "pretrained is for a network with an encoder; give e.g. --encoder vgg19"
            )


@dataclass(frozen=True, kw_only=True)
class GrowingTrainConfig(BaselineTrainConfig):
    """Settings to train `pgunet`, which grows from its coarsest part."""

    growth: float = setting(
        0.1,
        "Train each coarser part for this share of the steps before a finer one is added; 0 trains "
        "all parts from the start.",
    )
    coarse_rate: float = setting(
        0.01,
        "Train the parts of earlier stages with this share of the learning rate, in all stages but "
        "the last.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.growth <= 0.3:
            raise ValueError(
                f"growth {self.growth:g} must be 0 to 0.3, so that steps are left for the whole "
                "network; try 0.1"
            )
        if not 0 <= self.coarse_rate <= 1:
            raise ValueError(f"coarse_rate {self.coarse_rate:g} must be 0 to 1; try 0.01")


def stage_at(config: SemanticTrainConfig, step: int) -> dict[str, int]:
    """Return ``stage``, an option of the network, for `step`; nothing for others than `pgunet`.

    It depends on the step alone, so that a resumed run grows as an uninterrupted one.
    """
    if not isinstance(config, GrowingTrainConfig):
        return {}
    last = int(config.options.get("stage", 4))
    length = config.growth * config.steps
    return {"stage": last if not length else min(last, 1 + int(step / length))}


def grow(
    config: SemanticTrainConfig, network: Any, optimizer: torch.optim.Optimizer, step: int
) -> None:
    """Bring a network that grows to the stage of `step`, and slow its earlier parts down.

    The learning rates of the optimizer's groups must have been set for this step.
    """
    stage = stage_at(config, step)
    if not stage or not isinstance(config, GrowingTrainConfig):
        return
    network.stage = stage["stage"]
    if network.stage < int(config.options.get("stage", 4)):
        for group in optimizer.param_groups:
            if group["part"] < network.stage - 1:
                group["lr"] *= config.coarse_rate
