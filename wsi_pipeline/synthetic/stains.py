"""Stain, light and focus of a synthetic slide, as they vary between laboratories."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["MEASURED", "Measured", "Preparation", "Stain", "Style", "draw_real_style", "draw_style"]

Array = NDArray[np.float32]
Stain = Literal["pap", "pale", "grey", "brown"]
Preparation = Literal["liquid", "conventional", "air-dried"]


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
    preparation
        how the cells came onto the glass; only the look "real" has others than "liquid"
    swell
        factor of the area of nuclei, above 1 where they dried in air
    """

    stains: Array
    white: tuple[float, float, float]
    nucleus: float
    cytoplasm: float
    eosin: float
    blur_um: float
    noise: float
    shade: float
    preparation: Preparation = "liquid"
    swell: float = 1.0

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


class Measured(NamedTuple):
    """Stain of a group of real fields: RGB optical densities, and how fields of it differ.

    Attributes
    ----------
    cyanophilic, eosinophilic, nucleus
        mean density of one layer of cytoplasm, and of a nucleus without the cytoplasm around it
    strength, hue
        standard deviation of ln(density) between fields, of those three: of the mean of the
        channels, and of each channel ÷ the mean
    pink
        quartiles of the share of eosinophilic pixels
    """

    cyanophilic: tuple[float, float, float]
    eosinophilic: tuple[float, float, float]
    nucleus: tuple[float, float, float]
    strength: tuple[float, float, float]
    hue: tuple[float, float, float]
    pink: tuple[float, float]


MEASURED: dict[str, Measured] = {
    "rose": Measured(
        (0.43, 0.26, 0.19), (0.19, 0.51, 0.35), (1.50, 1.72, 1.07),
        (0.27, 0.47, 0.16), (0.12, 0.20, 0.09), (0.20, 0.54),
    ),
    "magenta": Measured(
        (0.33, 0.13, 0.02), (0.02, 0.50, 0.02), (1.45, 2.76, 0.53),
        (0.30, 0.23, 0.23), (0.26, 0.25, 0.19), (0.65, 1.00),
    ),
    "grey": Measured(
        (0.22, 0.22, 0.22), (0.22, 0.22, 0.22), (0.86, 0.86, 0.86),
        (0.15, 0.15, 0.24), (0.0, 0.0, 0.0), (0.5, 0.5),
    ),
}  # fmt: skip
"""Stains of real fields. Source: `experiments/stain_table.py` makes these numbers, and says how.

Rose and magenta: 15 and 22 liquid-based fields of bttfa_lbc (CC BY 4.0, Jianwei Zhang, doi
10.17632/jks43dkjj7.1). Grey: 36 fields of isbi2014 (no licence stated). Fields of fold 0, which
training holds out, were not used.
"""


_ORANGE = np.array([0.35, 1.1, 1.9])
"""Keratin, per unit of thickness; chosen by eye, since few cells of the sets have it."""


def draw_real_style(rng: np.random.Generator) -> Style:
    """Draw stain, light, focus and preparation of one laboratory as real fields have them.

    Each stain is one of `MEASURED`, or lies between rose and magenta; it varies as fields of that
    group do, and more in hue, since two laboratories are few.
    """
    name = rng.choice([*MEASURED, "between"], p=[0.48, 0.14, 0.16, 0.22])
    one, two = (MEASURED[n] for n in (("rose", "magenta") if name == "between" else (name, name)))
    t = rng.uniform(0.1, 0.9)
    parts: list[NDArray[np.float64]] = []
    for k in range(3):
        colour = np.exp((1 - t) * np.log(one[k]) + t * np.log(two[k]))
        strength = (1 - t) * one.strength[k] + t * two.strength[k]
        spread = 0.0 if name == "grey" else max((1 - t) * one.hue[k] + t * two.hue[k], 0.15)
        parts.append(colour * rng.lognormal(0, strength) * rng.lognormal(0, spread, 3))
    preparations: tuple[Preparation, ...] = ("liquid", "conventional", "air-dried")
    preparation = preparations[int(rng.choice(3, p=[0.62, 0.26, 0.12]))]
    grey, dry = name == "grey", preparation == "air-dried"
    orange = np.full(3, 1.0) if grey else _ORANGE * rng.lognormal(0, 0.2, 3)
    white = np.full(3, 255.0)
    if rng.random() < 0.35:
        white = rng.uniform(190, 250) + rng.normal(0, 5, 3)
        white = np.full(3, white[0]) if grey else white
    low, high = (1 - t) * np.array(one.pink) + t * np.array(two.pink)
    # Kinds have a thickness of about 0.25, and a chromatin of about 1.
    return Style(
        stains=np.stack([parts[2], parts[1] / 0.25, orange, parts[0] / 0.25]).astype(np.float32),
        white=tuple(np.clip(white, 150, 255).tolist()),
        nucleus=float(rng.uniform(0.6, 1.15) * (0.65 if dry else 1)),
        cytoplasm=float(rng.uniform(0.7, 1.25) * (0.7 if dry else 1)),
        eosin=float(rng.uniform(low, high) / 0.35 * rng.choice([0.4, 1.0])),
        blur_um=float(rng.uniform(0.12, 0.35) * (1.6 if dry else 1)),
        noise=float(rng.uniform(0.8, 3.0)),
        shade=float(rng.uniform(0.01, 0.05)),
        preparation=preparation,
        swell=float(rng.uniform(1.25, 1.8)) if dry else 1.0,
    )
