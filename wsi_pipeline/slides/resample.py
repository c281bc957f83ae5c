"""Resampling: pixels of one pyramid level to pixels of the model's grid.

A triangle filter as wide as an output pixel needs, horizontally and vertically. Where a filter
lies depends on the number of the output pixel alone, never on the window that is asked for, so
that any two windows agree on every pixel they share, to the last bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["Taps", "flatten", "plan_taps", "resample"]

_HALF = np.array([1, 3, 3, 1], np.float32)


@dataclass(frozen=True, eq=False)
class Taps:
    """The filter along one axis: which source pixels make an output pixel, and how much of each.

    Attributes
    ----------
    first
        int64 (n,): first source pixel of each output pixel
    weights
        float32 (n, taps): weights of that pixel and the next ones; rows sum to 1
    """

    first: NDArray[np.int64]
    weights: NDArray[np.float32]

    @property
    def start(self) -> int:
        """First source pixel that is needed."""
        return int(self.first[0])

    @property
    def stop(self) -> int:
        """One after the last source pixel that is needed."""
        return int(self.first[-1]) + self.weights.shape[1]


def plan_taps(start: int, stop: int, step: float, origin: float = 0.0) -> Taps:
    """Filter for the output pixels [start, stop), at least one.

    Output pixel i covers [origin + i * step, origin + (i + 1) * step) of the source; its filter
    is a triangle around the middle that falls to zero max(1, step) source pixels away. A whole
    origin and step 1 copy.
    """
    index = np.arange(start, stop, dtype=np.float64)
    if step == 1 and float(origin).is_integer():
        return Taps((index + origin).astype(np.int64), np.ones((len(index), 1), np.float32))
    middle = origin + (index + 0.5) * step
    support = max(1.0, step)
    first = np.floor(middle - support - 0.5).astype(np.int64) + 1
    pixels = first[:, None] + np.arange(math.ceil(2 * support))
    weights = np.maximum(0.0, 1.0 - np.abs(pixels + 0.5 - middle[:, None]) / support)
    weights /= weights.sum(axis=1, keepdims=True)
    return Taps(first, weights.astype(np.float32))


def resample(source: NDArray[np.uint8], rows: Taps, columns: Taps) -> NDArray[np.uint8]:
    """Filtered picture, uint8 (len(rows.first), len(columns.first), 3), rounded half up.

    Parameters
    ----------
    source
        uint8 (h, w, 3), whose pixel [0, 0] is the source pixel (`rows.start`, `columns.start`)
        and which reaches to `rows.stop` and `columns.stop`
    rows, columns
        from `plan_taps`
    """
    if rows.weights.shape[1] == columns.weights.shape[1] == 1:
        return source
    flat = np.ascontiguousarray(source).reshape(len(source), -1)
    out = np.empty((len(rows.first), len(columns.first), 3), np.uint8)
    top, left = rows.first - rows.start, columns.first - columns.start
    if _halves(rows) and _halves(columns):
        _halve(flat, int(top[0]), int(left[0]), out)
    else:
        _resample(flat, top, rows.weights, left, columns.weights, out)
    return out


def _halves(taps: Taps) -> bool:
    """Whether the filter is that of step 2 from a whole origin, 1 3 3 1 ÷ 8."""
    even = (np.diff(taps.first) == 2).all()
    return bool(even and np.array_equal(8 * taps.weights, np.tile(_HALF, (len(taps.first), 1))))


@njit(cache=True, nogil=True, boundscheck=False)
def _resample(
    source: NDArray[np.uint8],
    top: NDArray[np.int64],
    row_weights: NDArray[np.float32],
    left: NDArray[np.int64],
    column_weights: NDArray[np.float32],
    out: NDArray[np.uint8],
) -> None:
    """Fill `out`: each row of it is a sum of source rows, then of that sum's pixels.

    Sums run over the taps in order, without fast-math, so that they never depend on the window.
    """
    half = np.float32(0.5)
    line = np.empty(source.shape[1], np.float32)
    for i in range(out.shape[0]):
        line[:] = np.float32(0)
        for t in range(row_weights.shape[1]):
            weight = row_weights[i, t]
            if weight != 0:
                pixels = source[top[i] + t]
                for k in range(line.shape[0]):
                    line[k] += weight * np.float32(pixels[k])
        for j in range(out.shape[1]):
            k = 3 * left[j]
            red = green = blue = half
            for t in range(column_weights.shape[1]):
                weight = column_weights[j, t]
                red += weight * line[k]
                green += weight * line[k + 1]
                blue += weight * line[k + 2]
                k += 3
            out[i, j, 0] = np.uint8(red)
            out[i, j, 1] = np.uint8(green)
            out[i, j, 2] = np.uint8(blue)


@njit(cache=True, nogil=True, boundscheck=False)
def _halve(source: NDArray[np.uint8], top: int, left: int, out: NDArray[np.uint8]) -> None:
    """`_resample` for the most common step in whole numbers, which are exact as its sums are."""
    width = source.shape[1]
    line = np.empty(width, np.uint16)
    mixed = np.empty(width, np.uint8)
    three, half, six = np.uint16(3), np.uint16(32), np.uint16(6)
    for i in range(out.shape[0]):
        r = top + 2 * i
        a, b, c, d = source[r], source[r + 1], source[r + 2], source[r + 3]
        for k in range(width):
            middle = np.uint16(b[k]) + np.uint16(c[k])
            line[k] = np.uint16(a[k]) + three * middle + np.uint16(d[k])
        for k in range(width - 9):
            middle = line[k + 3] + line[k + 6]
            mixed[k] = np.uint8((line[k] + three * middle + line[k + 9] + half) >> six)
        for j in range(out.shape[1]):
            k = 3 * left + 6 * j
            out[i, j, 0] = mixed[k]
            out[i, j, 1] = mixed[k + 1]
            out[i, j, 2] = mixed[k + 2]


def flatten(
    rgba: NDArray[np.uint8], background: tuple[int, int, int], *, premultiplied: bool = False
) -> NDArray[np.uint8]:
    """RGB picture, uint8 (h, w, 3): RGBA (h, w, 4) laid on a background colour.

    `premultiplied` says that the colours are already multiplied with their alpha.
    """
    out = np.empty((*rgba.shape[:2], 3), np.uint8)
    _flatten(rgba, np.array(background, np.uint32), premultiplied, out)
    return out


@njit(cache=True, nogil=True, boundscheck=False)
def _flatten(
    rgba: NDArray[np.uint8],
    background: NDArray[np.uint32],
    premultiplied: bool,
    out: NDArray[np.uint8],
) -> None:
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            alpha = np.uint32(rgba[i, j, 3])
            for c in range(3):
                colour = np.uint32(rgba[i, j, c])
                if alpha != 255:
                    share = np.uint32(255) if premultiplied else alpha
                    behind = background[c] * (np.uint32(255) - alpha)
                    mixed = (colour * share + behind + np.uint32(127)) // np.uint32(255)
                    colour = min(mixed, np.uint32(255))
                out[i, j, c] = np.uint8(colour)
