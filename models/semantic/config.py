"""Settings of DSSNet, with the paper's defaults."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..settings import check_choices, setting, typed

__all__ = ["DSSNetConfig"]


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
