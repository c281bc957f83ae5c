"""The stain of images: light, and density of what is stained; and the range of a training.

Optical density of a channel value v is −log10(v ÷ glass) (Beer–Lambert law), in which stains add
up. A change of light or exposure multiplies v, and a stronger stain multiplies the density.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Stain", "StainRange", "measure_stain", "stain_range"]

NOISE_OD = 0.02
"""Pixels with a lower mean optical density are glass."""

STAINED = 0.25
"""A pixel is stained from this share of the 95 % quantile of all that are no glass: a limit that
follows the strength of the stain, so that a pale slide is measured on the same pixels."""

BLACK = 20
"""Pixels with no channel above this are borders or holes, no slide."""

LEAST_PX = 1000
LEAST_SHARE = 0.005
"""Number and share of stained pixels below which a density would be noise or dirt."""

GLASS_SHARE = 0.03
GLASS_BAND = 6
"""Glass is the median of the pixels that are as bright as the brightest 3 %, or 6 grey levels
less."""

GLASS_QUANTILES = (0.03, 0.97)
DENSITY_QUANTILES = (0.1, 0.9)
"""Ends of a range, as shares of a training's images; chosen by experiments/adapt.py."""


@dataclass(frozen=True)
class Stain:
    """The stain of one slide or image.

    Attributes
    ----------
    glass
        red, green and blue of empty glass, 1 to 255
    density
        mean optical density of the stained pixels in red, green and blue; None where too few
        pixels are stained
    share
        share of the pixels that are stained
    """

    glass: tuple[float, float, float]
    density: tuple[float, float, float] | None
    share: float


def measure_stain(pixels: NDArray[np.uint8]) -> Stain | None:
    """Measure the stain of pixels uint8 (n, 3); None where there is no image, only black.

    Examples
    --------
    >>> pixels = np.full((5000, 3), 240, np.uint8)
    >>> pixels[:2000] = 24, 240, 240
    >>> measure_stain(pixels)
    Stain(glass=(240.0, 240.0, 240.0), density=(1.0, 0.0, 0.0), share=0.4)
    """
    pixels = pixels[pixels.max(axis=1) > BLACK]
    if len(pixels) < LEAST_PX:
        return None
    light = pixels.mean(axis=1, dtype=np.float32)
    bright = pixels[light >= np.quantile(light, 1 - GLASS_SHARE) - GLASS_BAND]
    glass = np.maximum(np.median(bright, axis=0), 1)
    table = np.maximum(np.log10(glass / np.maximum(np.arange(256), 1)[:, None]), 0)
    density = np.stack([table[pixels[:, c], c] for c in range(3)], axis=1)
    mean = density.mean(axis=1)
    seen = mean[mean > NOISE_OD]
    limit = max(NOISE_OD, STAINED * float(np.quantile(seen, 0.95))) if len(seen) else np.inf
    stained = density[mean > limit]
    share = len(stained) / len(pixels)
    enough = len(stained) >= LEAST_PX and share >= LEAST_SHARE
    return Stain(
        _three(glass, 1), _three(stained.mean(axis=0), 4) if enough else None, round(share, 4)
    )


def _three(values: NDArray[np.floating], digits: int) -> tuple[float, float, float]:
    a, b, c = (round(float(v), digits) for v in values)
    return a, b, c


@dataclass(frozen=True)
class StainRange:
    """What a network was trained with.

    Attributes
    ----------
    glass
        lowest and highest red, green and blue of empty glass
    density
        lowest and highest mean of a `Stain`'s density over the channels
    """

    glass: tuple[tuple[float, ...], tuple[float, ...]]
    density: tuple[float, float]

    @classmethod
    def from_card(cls, entry: Mapping[str, Any]) -> StainRange:
        """Return the range that a card holds.

        Raises
        ------
        ValueError
            the entry is not complete, or a lowest value is above the highest
        """
        found = {}
        for name, shape in (("glass", (2, 3)), ("density", (2,))):
            try:
                rows = found[name] = np.array(entry.get(name, ()), np.float64)
            except (TypeError, ValueError, OverflowError):
                rows = np.zeros(0)
            if rows.shape != shape or not (
                (rows[0] <= rows[1]).all() and rows.min() > 0 and np.isfinite(rows).all()
            ):
                raise ValueError(
                    f"stain range with {name} {entry.get(name)}: the lowest and the highest, "
                    f"{'three numbers' if len(shape) == 2 else 'one number'} above 0 each, "
                    "are needed"
                )
        low, high = (tuple(map(float, row)) for row in found["glass"])
        return cls((low, high), (float(found["density"][0]), float(found["density"][1])))


def stain_range(stains: Sequence[Stain], chances: Sequence[float]) -> dict[str, Any]:
    """Return the entry of a card: the range of training images, without its tails.

    Parameters
    ----------
    chances
        how often each image is drawn in training
    """
    known = [(s, w) for s, w in zip(stains, chances, strict=True) if s.density is not None]
    if not known:
        return {}
    weight = np.array([w for _, w in known], np.float64)
    glass = np.array([s.glass for s, _ in known])
    density = np.array([np.mean(s.density or 0) for s, _ in known])
    return {
        "images": len(known),
        "glass": [[_quantile(glass[:, c], weight, q) for c in range(3)] for q in GLASS_QUANTILES],
        "density": [_quantile(density, weight, q) for q in DENSITY_QUANTILES],
    }


def _quantile(values: NDArray[np.float64], weight: NDArray[np.float64], share: float) -> float:
    """Return the value below which `share` of the weight lies."""
    order = np.argsort(values)
    total = np.cumsum(weight[order])
    at = min(int(np.searchsorted(total, share * total[-1])), len(values) - 1)
    return round(float(values[order][at]), 4)
