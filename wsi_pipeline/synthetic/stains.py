"""Stain, light and focus of a synthetic slide, as they vary between laboratories."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Stain", "Style", "draw_style"]

Array = NDArray[np.float32]
Stain = Literal["pap", "pale", "grey", "brown"]


@dataclass(frozen=True)
class Style:
    """Stain, light and focus of one slide.

    Attributes
    ----------
    stains
        float32 (4, 3): RGB optical density of haematoxylin, eosin, orange G and light green
    white
        RGB of the empty slide, 0 to 255
    nucleus, cytoplasm
        strength of the nuclear and the cytoplasmic stain, 1 is usual
    eosin
        factor of the share of pink cells, see `CellKind.eosin`
    blur_um
        usual focus blur of a cell, standard deviation in µm
    noise
        standard deviation of the sensor noise, in grey levels
    shade
        loss of light at the corner of a camera field, 0 to 1
    """

    stains: Array
    white: tuple[float, float, float]
    nucleus: float
    cytoplasm: float
    eosin: float
    blur_um: float
    noise: float
    shade: float

    @property
    def monochrome(self) -> bool:
        """Whether the camera records grey values only."""
        return bool(np.ptp(self.stains, axis=1).max() < 1e-6)


_STAINS = np.array(
    [[1.0, 0.93, 0.52], [0.14, 0.80, 0.46], [0.06, 0.42, 0.92], [0.86, 0.34, 0.31]], np.float32
)
_MAGENTA = np.array([0.10, 0.85, 0.16], np.float32)
_BROWN = np.array(
    [[0.80, 0.95, 1.0], [0.18, 0.42, 0.85], [0.15, 0.40, 0.90], [0.30, 0.38, 0.50]], np.float32
)


def draw_style(rng: np.random.Generator, stain: Stain = "pap") -> Style:
    """Draw stain, light and focus of one laboratory.

    Parameters
    ----------
    rng
        random generator
    stain
        ``pap`` Papanicolaou, ``pale`` the same faded, ``grey`` a monochrome camera,
        ``brown`` a silver stain
    """
    stains = _BROWN if stain == "brown" else _STAINS
    stains = (stains * rng.lognormal(0, 0.13, stains.shape)).astype(np.float32)
    magenta = rng.choice([0.0, 1.0]) * rng.uniform(0, 0.9)
    stains[1] = stains[1] * (1 - magenta) + _MAGENTA * magenta
    white = rng.uniform(228, 250) + rng.normal(0, 2.5, 3)
    if stain == "brown":
        white += rng.uniform(-14, 0) * np.array([0.4, 0.6, 1.0])
    if stain == "grey":
        stains = np.repeat(stains.mean(1, keepdims=True) * 1.1, 3, 1)
        white = np.repeat(white[:1], 3)
    pale = 0.6 if stain == "pale" else 1.0
    return Style(
        stains=stains,
        white=tuple(np.clip(white, 150, 253).tolist()),
        nucleus=pale * float(rng.uniform(0.75, 1.25)),
        cytoplasm=pale * float(rng.uniform(0.6, 1.35)),
        eosin=float(rng.choice([0.3, 1.0, 1.0, 1.6, 3.0])),
        blur_um=float(rng.uniform(0.1, 0.3)),
        noise=float(rng.uniform(0.8, 2.2)),
        shade=float(rng.uniform(0.01, 0.04)),
    )
