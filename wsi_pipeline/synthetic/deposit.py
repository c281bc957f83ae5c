"""Where the cells of a synthetic slide lie: a map of the deposit."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Deposit", "smooth"]

Floats = NDArray[np.float64]


class Deposit:
    """Area of the slide that is covered by cells, and how densely: a map to draw positions from."""

    def __init__(self, rng: np.random.Generator, width: int, height: int, tissue: float) -> None:
        self.step = max(width, height) / 256
        self.shape = (math.ceil(height / self.step), math.ceil(width / self.step))
        rows, columns = self.shape
        fy, fx = np.mgrid[:rows, :columns]
        radius = np.hypot((fx + 0.5) / columns - 0.5, (fy + 0.5) / rows - 0.5)
        score = smooth(rng, self.shape, 24) * 0.035 + smooth(rng, self.shape, 6) * 0.012 - radius
        uneven = np.exp(0.3 * smooth(rng, self.shape, 16) + 0.2 * smooth(rng, self.shape, 4))
        inside = np.argsort(-score, axis=None, kind="stable")[: round(score.size * tissue)]
        weight = np.zeros(score.size)
        weight[inside] = uneven.ravel()[inside]
        self.cumulative = np.cumsum(weight)

    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        """Draw positions (count, 2), x and y in level-0 pixels."""
        at = np.searchsorted(self.cumulative, rng.random(count) * self.cumulative[-1], "right")
        row, column = np.divmod(np.minimum(at, len(self.cumulative) - 1), self.shape[1])
        return (np.stack([column, row], 1) + rng.random((count, 2))) * self.step


def smooth(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> Floats:
    """Return noise of mean 0 and deviation 1, smooth over `sigma` map pixels."""
    field = cv2.GaussianBlur(rng.normal(size=shape), (0, 0), sigma)
    return np.asarray((field - field.mean()) / max(field.std(), 1e-9))
