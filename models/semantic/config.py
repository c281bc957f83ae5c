"""Settings of the networks that classify pixels."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..settings import check_choices, setting, typed

__all__ = ["DSSNetConfig", "UNetConfig", "WubinehConfig"]


@dataclass(frozen=True)
class DSSNetConfig:
    """Settings of DSSNet, JSON-able (Luo et al. 2022; ranges are those of its ablation tables).

    Raises
    ------
    ValueError
        a value that cannot be; the message names field and value

    Examples
    --------
    >>> DSSNetConfig(width=12).depth
    10
    """

    classes: int = setting(2, "Set the number of classes, background included.")
    width: int = setting(
        30,
        "Set the channels of the down-sampling part (paper: 9 to 36). The trunk has 1.4 times as "
        "many.",
    )
    depth: int = setting(10, "Set the number of blocks of the trunk (paper: 4 to 13).")
    block: str = setting(
        "wneck",
        "Choose the block of the trunk (paper: wneck).",
        choices=("wneck", "wdsr-b", "bottleneck", "basic"),
    )
    sr_head: bool = setting(True, "Train with the super-resolution head.")
    edge_head: bool = setting(True, "Train with the edge head.")

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, typed(f.name, getattr(self, f.name), f.default))
        check_choices(self)
        for name, least in (("classes", 2), ("width", 4), ("depth", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)} is below {least}")


@dataclass(frozen=True)
class UNetConfig:
    """Settings of `unet`, JSON-able.

    Raises
    ------
    ValueError
        a value that cannot be; the message names field and value

    Examples
    --------
    >>> UNetConfig(encoder="lite1").widths
    (64, 32, 24)
    """

    classes: int = setting(2, "Set the number of classes, background included.")
    encoder: str = setting(
        "lite0",
        "Choose the encoder, an EfficientNet-Lite.",
        choices=("lite0", "lite1", "lite2"),
    )
    widths: tuple[int, ...] = setting(
        (64, 32, 24), "Set the channels of the decoder at strides 8, 4 and 2."
    )

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, typed(f.name, getattr(self, f.name), f.default))
        check_choices(self)
        if self.classes < 2:
            raise ValueError(f"classes {self.classes} is below 2")
        if len(self.widths) != 3 or min(self.widths) < 1:
            raise ValueError(f"widths {self.widths} are not three numbers above 0; try 64,32,24")


@dataclass(frozen=True)
class WubinehConfig:
    """Settings of `wubineh`, JSON-able (Wubineh et al. 2024).

    Raises
    ------
    ValueError
        a value that cannot be; the message names field and value

    Examples
    --------
    >>> WubinehConfig(encoder="vgg19").dropout
    0.1
    """

    classes: int = setting(2, "Set the number of classes, background included.")
    encoder: str = setting(
        "none",
        "Choose the encoder; none builds the plain U-Net of five levels. MobileNet is version 2.",
        choices=("none", "vgg19", "resnet50", "mobilenet", "efficientnet_b2", "densenet121"),
    )
    width: int = setting(
        64, "Set the channels of the plain U-Net at full resolution; each level doubles them."
    )
    dropout: float = setting(
        0.1, "Set the share of whole channels that training leaves out (spatial dropout)."
    )

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, typed(f.name, getattr(self, f.name), f.default))
        check_choices(self)
        for name, least in (("classes", 2), ("width", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)} is below {least}")
        if self.width != 64 and self.encoder != "none":
            raise ValueError(f"width {self.width} is for encoder none; leave it out")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout:g} is not 0 or more and below 1; try 0.1")
