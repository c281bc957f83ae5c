"""Medians and deviations that a few odd values do not move."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["OUTLIER_Z", "centre_and_spread", "robust_z"]

_NORMAL = 1.4826
"""The median absolute deviation of a normal distribution times this is its standard deviation."""
OUTLIER_Z = 3.5
"""A value with a larger robust z-score is an outlier (Iglewicz and Hoaglin 1993)."""


def centre_and_spread(values: NDArray[np.floating]) -> tuple[float, float]:
    """Return median, and 1.4826 times the median absolute deviation, of finite values (n,).

    Both are NaN without a value.

    Examples
    --------
    >>> centre_and_spread(np.array([1.0, 2.0, 3.0, 4.0, 100.0]))
    (3.0, 1.4826)
    """
    if len(values) == 0:
        return float("nan"), float("nan")
    middle = float(np.median(values))
    return middle, _NORMAL * float(np.median(np.abs(values - middle)))


def robust_z(value: float, others: NDArray[np.floating]) -> float | None:
    """Return how many spreads `value` lies above the median of `others`, None where there are none.

    None also where half of the others have the same value, so that there is no spread.

    Examples
    --------
    >>> robust_z(3.0, np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    0.0
    """
    middle, spread = centre_and_spread(others)
    return (value - middle) / spread if spread > 0 else None
