"""Settings of the networks that DSSNet was compared with (Luo et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..settings import changed, check_choices, setting, typed
from .config import WubinehConfig

__all__ = ["BaselineConfig", "EncoderConfig", "PGUNetConfig"]


@dataclass(frozen=True)
class BaselineConfig:
    """Settings of `erfnet` and `dfanet`, JSON-able.

    Raises
    ------
    ValueError
        a value that cannot be; the message names field and value

    Examples
    --------
    >>> BaselineConfig(width=8).classes
    2
    """

    classes: int = setting(2, "Set the number of classes, background included.")
    width: int = setting(16, "Set the channels of the first layer; the others have multiples.")

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, typed(f.name, getattr(self, f.name), f.default))
        check_choices(self)
        for name, least in (("classes", 2), ("width", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)} is below {least}")


@dataclass(frozen=True)
class PGUNetConfig(BaselineConfig):
    """Settings of `pgunet`, JSON-able; raises as `BaselineConfig`.

    Examples
    --------
    >>> PGUNetConfig().width
    64
    """

    width: int = changed(BaselineConfig, "width", 64)
    stage: int = setting(
        4, "Build the network of this stage: 1 works at 1/8 of the image's scale, 4 at all of it."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.stage <= 4:
            raise ValueError(f"stage {self.stage} is not 1, 2, 3 or 4; 4 is the whole network")


@dataclass(frozen=True)
class EncoderConfig(BaselineConfig):
    """Settings of `unetpp` and `pspnet`, JSON-able; raises as `BaselineConfig`.

    Examples
    --------
    >>> EncoderConfig(encoder="vgg19").width
    64
    """

    width: int = setting(
        64, "Set the channels of the plain U-Net++ at full resolution; each level doubles them."
    )
    encoder: str = setting(
        "none",
        "Choose the encoder; none builds the plain U-Net++ of five levels. MobileNet is version 2.",
        choices=WubinehConfig.__dataclass_fields__["encoder"].metadata["choices"],
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width != 64 and self.encoder != "none":
            raise ValueError(f"width {self.width} is for encoder none; leave it out")
