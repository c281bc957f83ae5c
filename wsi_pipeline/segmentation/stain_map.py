"""Bring the pixels of a slide to the range of stains in which its network was trained.

A slide within the range keeps its pixels. Outside it, the glass of each channel is moved to the
nearest light of the training, and all optical densities are multiplied by one factor, so that the
mean density of what is stained comes to the nearest one of the training. Each value of a channel
has one new value on the whole slide, so that a pixel does not depend on tiles. Only the network
gets the new pixels: what is measured is measured on the slide's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray
from wsiseg_models.stain import Stain, StainRange, measure_stain

__all__ = ["MOST_GAIN", "Stain", "StainMap", "StainRange", "measure_stain", "stain_map"]

MOST_GAIN = 4.0
"""Largest factor of a density, and the inverse of the smallest: more would be noise."""

Images = NDArray[np.uint8]
Three = tuple[float, float, float]


@dataclass(frozen=True)
class StainMap:
    """New values of the channels of one slide: ``new_glass · (v ÷ glass) ^ gain``.

    Attributes
    ----------
    glass, new_glass
        red, green and blue of empty glass, before and after
    gain
        factor of all optical densities

    Examples
    --------
    >>> darker = StainMap(glass=(200, 200, 200), new_glass=(240, 240, 240), gain=2)
    >>> darker(np.full((1, 1, 1, 3), 100, np.uint8)).ravel()
    array([60, 60, 60], dtype=uint8)
    """

    glass: Three
    new_glass: Three
    gain: float

    @cached_property
    def table(self) -> Images:
        """New value of each value of each channel, uint8 (1, 256, 3)."""
        value = np.maximum(np.arange(256, dtype=np.float64)[:, None], 0.25)
        new = np.asarray(self.new_glass) * (value / self.glass) ** self.gain
        return np.asarray(np.clip(np.round(new), 0, 255), np.uint8)[None]

    def __call__(self, images: Images) -> Images:
        """Return images uint8 (n, h, w, 3) with their new values."""
        n, h, w, _ = images.shape
        return np.asarray(cv2.LUT(images.reshape(n * h, w, 3), self.table)).reshape(images.shape)


def stain_map(stain: Stain, trained: StainRange) -> StainMap | None:
    """Return the map that brings a slide's stain into the range; None where it lies in it.

    A slide with too few stained pixels has no known density, and keeps its pixels.
    """
    if stain.density is None:
        return None
    glass = np.clip(stain.glass, *trained.glass)
    density = float(np.mean(stain.density))
    gain = float(np.clip(density, *trained.density)) / density
    gain = round(min(max(gain, 1 / MOST_GAIN), MOST_GAIN), 4)
    red, green, blue = (round(float(v), 1) for v in glass)
    change = StainMap(stain.glass, (red, green, blue), gain)
    same = (change.table[0] == np.arange(256)[:, None]).all()
    return None if same else change
