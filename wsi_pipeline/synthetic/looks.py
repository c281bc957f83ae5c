"""What a synthetic slide is made of: plain, or like real slides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from wsi_pipeline.core.errors import ConfigError
from wsi_pipeline.synthetic.cell_kinds import CELL_KINDS, CellKind
from wsi_pipeline.synthetic.debris_painter import DEBRIS_KINDS, DebrisPainter
from wsi_pipeline.synthetic.real_kinds import REAL_DEBRIS, REAL_KINDS
from wsi_pipeline.synthetic.real_painter import RealPainter

__all__ = ["LOOKS", "POSITIVE_KINDS", "Look", "LookName", "Scene", "dysplastic_mix", "find_look"]

LookName = Literal["plain", "real"]
POSITIVE_KINDS = ("lsil", "hsil", "pale_lsil", "koilocyte")
"""Kinds of dysplastic cells: their nuclei are large and deformed."""


@dataclass(frozen=True)
class Scene:
    """What a slide or field shows between and among its single cells.

    Attributes
    ----------
    litter
        kind of debris → its number per cell
    groups
        share of the cells that lie in dense groups, where nuclei overlap
    leukocyte_crowds
        share of the leukocytes that lie in crowds
    streaks
        how far cells and debris are drawn together into stripes, 0 to 1
    direction
        angle of the stripes, radians
    """

    litter: Mapping[str, float]
    groups: float = 0.0
    leukocyte_crowds: float = 0.0
    streaks: float = 0.0
    direction: float = 0.0


@dataclass(frozen=True)
class Look:
    """Kinds of cells and debris, who paints them, and what a usual slide shows.

    Attributes
    ----------
    name
        name in `LOOKS`
    cells
        kind of cell → its appearance
    debris
        kinds of debris
    painter
        class that paints the sprites
    scene
        what a slide shows where nothing else is asked for
    """

    name: LookName
    cells: Mapping[str, CellKind]
    debris: tuple[str, ...]
    painter: type[DebrisPainter]
    scene: Scene


LOOKS: dict[str, Look] = {
    "plain": Look("plain", CELL_KINDS, tuple(DEBRIS_KINDS), DebrisPainter, Scene(DEBRIS_KINDS)),
    "real": Look(
        "real", REAL_KINDS, tuple(REAL_DEBRIS), RealPainter, Scene(REAL_DEBRIS, 0.15, 0.5)
    ),
}


def find_look(name: str) -> Look:
    """Return the look of that name.

    Raises
    ------
    ConfigError
        there is none
    """
    if name not in LOOKS:
        raise ConfigError(f"unknown look {name!r}; use {' or '.join(LOOKS)}")
    return LOOKS[name]


def draw_scene(rng: np.random.Generator, look: Look, conventional: bool) -> Scene:
    """Draw what one field of a look shows; fields of a slide differ."""
    if look.name == "plain":
        return look.scene
    litter = {
        name: share * float(rng.lognormal(-0.5, 1.2)) for name, share in look.scene.litter.items()
    }
    if rng.random() < 0.3:  # inflammation: leukocytes by the hundred
        litter["neutrophil"] = float(rng.uniform(1, 6))
    if rng.random() < 0.2:
        litter["erythrocyte"] = float(rng.uniform(0.5, 3))
    if rng.random() < 0.6:
        litter["smear"] = 0.0
    return Scene(
        litter=litter,
        groups=float(
            rng.choice([0.0, rng.uniform(0.05, 0.3), rng.uniform(0.4, 0.9)], p=[0.35, 0.4, 0.25])
        ),
        leukocyte_crowds=float(rng.uniform(0.1, 0.8)),
        streaks=float(rng.uniform(0.2, 0.8)) if conventional else 0.0,
        direction=float(rng.uniform(0, np.pi)),
    )


def dysplastic_mix(look: Look, share: float) -> dict[str, float]:
    """Return the weights of the kinds of cells in which dysplastic ones have this share.

    Raises
    ------
    ConfigError
        the share is not in 0 to 1

    Examples
    --------
    >>> mix = dysplastic_mix(find_look("plain"), 0.01)
    >>> round((mix["lsil"] + mix["hsil"]) / sum(mix.values()), 6)
    0.01
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"the share of dysplastic cells must be 0 to 1, got {share:g}")
    weights = {name: kind.share for name, kind in look.cells.items()}
    usual = sum(weights[name] for name in weights if name in POSITIVE_KINDS)
    factor = {True: share / usual, False: (1 - share) / (sum(weights.values()) - usual)}
    return {name: w * factor[name in POSITIVE_KINDS] for name, w in weights.items()}
