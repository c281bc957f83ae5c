"""Stain and texture of the pixels of one object, in one compiled pass.

Colour deconvolution after Ruifrok and Johnston, Quantification of histochemical staining by color
deconvolution, Analytical and Quantitative Cytology and Histology 23 (2001): the optical density of
a pixel is a sum of stains, each an amount times its vector. Texture after Haralick, Shanmugam and
Dinstein, Textural features for image classification, IEEE Transactions on Systems, Man and
Cybernetics 3 (1973).
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CHANNELS",
    "COLUMNS",
    "LEVELS",
    "OD_RANGE",
    "STAIN_VECTORS",
    "STATISTICS",
    "TEXTURES",
    "glcm_steps",
    "measure_pixels",
    "unmixing",
]

STAIN_VECTORS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
"""RGB optical densities of haematoxylin and eosin (Ruifrok and Johnston 2001).

The third vector is at right angles to both. Light green of a Papanicolaou stain (0.95, 0.25, 0.20)
is no vector of its own: haematoxylin is nearly a sum of eosin and light green, so that separation
into those three multiplies errors twentyfold (the condition number of the matrix; with the third
vector at right angles it is 2.8). Green cytoplasm shows as little haematoxylin with negative eosin.
"""
CHANNELS = ("Hematoxylin OD", "Eosin OD", "Residual OD", "OD")
"""Stains, with QuPath's names, and optical density averaged over red, green and blue."""
STATISTICS = ("mean", "std dev", "min", "max")
"""QuPath's names; the standard deviation is that of all pixels, not of a sample."""
TEXTURES = (
    "OD: Haralick Angular second moment (F0)",
    "OD: Haralick Contrast (F1)",
    "OD: Haralick Correlation (F2)",
    "OD: Haralick Inverse difference moment (F4)",
    "OD: Haralick Entropy (F8)",
)
"""QuPath's names; scikit-image calls them ASM, contrast, correlation, homogeneity and entropy."""
COLUMNS = (*(f"{c} {s}" for c in CHANNELS for s in STATISTICS), *TEXTURES)
"""What `measure_pixels` returns, in order."""

LEVELS, OD_RANGE = 32, 1.6
"""Grey levels of the co-occurrence matrix, and the optical density at the end of the last one."""


def unmixing() -> NDArray[np.float64]:
    """Return the matrix (3, 3) from RGB optical density (a row) to amounts of the stains.

    Examples
    --------
    >>> haematoxylin = np.array([0.65, 0.70, 0.29]) / np.linalg.norm([0.65, 0.70, 0.29])
    >>> (0.8 * haematoxylin @ unmixing()).round(6) + 0.0
    array([0.8, 0. , 0. ])
    """
    first, second = STAIN_VECTORS / np.linalg.norm(STAIN_VECTORS, axis=1, keepdims=True)
    third = np.cross(first, second)
    return np.linalg.inv(np.stack([first, second, third / np.linalg.norm(third)]))


def glcm_steps(distance_px: int) -> NDArray[np.int64]:
    """Return rows and columns of the steps at 0°, 45°, 90° and 135°, int64 (4, 2).

    Examples
    --------
    >>> glcm_steps(2).tolist()
    [[0, 2], [1, 1], [2, 0], [1, -1]]
    """
    aslant = max(1, round(distance_px / math.sqrt(2)))
    return np.array([[0, distance_px], [aslant, aslant], [distance_px, 0], [aslant, -aslant]])


def density_table(background: tuple[int, int, int]) -> NDArray[np.float64]:
    """Return the optical density of each value of each channel, float64 (3, 256)."""
    glass = np.maximum(np.asarray(background, np.float64), 1)[:, None]
    return -np.log10(np.maximum(np.arange(256), 1) / glass)


def measure_pixels(
    image: NDArray[np.uint8],
    used: NDArray[np.bool_],
    densities: NDArray[np.float64],
    steps: NDArray[np.int64],
    matrix: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Measure the pixels of one object, float64 in the order of `COLUMNS`; NaN without pixels.

    The co-occurrence matrix is symmetric, counts pairs in which both pixels are used, and sums over
    the four directions. Its entropy is in nats. The correlation is NaN where all levels are equal.

    Parameters
    ----------
    image
        uint8 (h, w, 3)
    used
        bool (h, w): which pixels count
    densities
        see `density_table`
    steps
        see `glcm_steps`
    matrix
        see `unmixing`
    """
    out = np.full(len(COLUMNS), np.nan)
    _measure(image, used, densities, steps, matrix, out)
    return out


@numba.njit(nogil=True, cache=True)
def _measure(
    image: NDArray[np.uint8],
    used: NDArray[np.bool_],
    densities: NDArray[np.float64],
    steps: NDArray[np.int64],
    matrix: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    rows, columns = used.shape
    level = np.full((rows, columns), -1, np.int64)
    total, squares = np.zeros(4), np.zeros(4)
    least, most = np.full(4, np.inf), np.full(4, -np.inf)
    value = np.empty(4)
    count = 0
    for i in range(rows):
        for j in range(columns):
            if not used[i, j]:
                continue
            r = densities[0, image[i, j, 0]]
            g = densities[1, image[i, j, 1]]
            b = densities[2, image[i, j, 2]]
            for k in range(3):
                value[k] = r * matrix[0, k] + g * matrix[1, k] + b * matrix[2, k]
            value[3] = (r + g + b) / 3
            level[i, j] = min(max(int(value[3] * (LEVELS / OD_RANGE)), 0), LEVELS - 1)
            count += 1
            for k in range(4):
                total[k] += value[k]
                squares[k] += value[k] * value[k]
                least[k] = min(least[k], value[k])
                most[k] = max(most[k], value[k])
    if count == 0:
        return
    for k in range(4):
        mean = total[k] / count
        out[4 * k] = mean
        out[4 * k + 1] = math.sqrt(max(squares[k] / count - mean * mean, 0.0))
        out[4 * k + 2], out[4 * k + 3] = least[k], most[k]
    _texture(_pairs(level, steps), out[16:])


@numba.njit(nogil=True, cache=True)
def _pairs(level: NDArray[np.int64], steps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the symmetric co-occurrence matrix; pixels of level −1 do not count."""
    rows, columns = level.shape
    pairs = np.zeros((LEVELS, LEVELS), np.int64)
    for s in range(len(steps)):
        down, right = steps[s]
        for i in range(rows - down):
            for j in range(max(0, -right), columns - max(0, right)):
                a, b = level[i, j], level[i + down, j + right]
                if a >= 0 and b >= 0:
                    pairs[a, b] += 1
                    pairs[b, a] += 1
    return pairs


@numba.njit(nogil=True, cache=True)
def _texture(pairs: NDArray[np.int64], out: NDArray[np.float64]) -> None:
    """Write the measurements of `TEXTURES`; they stay where there is no pair."""
    total = pairs.sum()
    if total == 0:
        return
    second = contrast = inverse = entropy = product = mean = square = 0.0
    for a in range(LEVELS):
        for b in range(LEVELS):
            if pairs[a, b] == 0:
                continue
            p = pairs[a, b] / total
            second += p * p
            contrast += p * (a - b) ** 2
            inverse += p / (1 + (a - b) ** 2)
            entropy -= p * math.log(p)
            product += p * a * b
            mean += p * a
            square += p * a * a
    out[0], out[1], out[3], out[4] = second, contrast, inverse, entropy
    variance = square - mean * mean
    if variance > 1e-12:
        out[2] = (product - mean * mean) / variance
