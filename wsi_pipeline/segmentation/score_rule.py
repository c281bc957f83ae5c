"""Which objects are certain enough to keep."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "SMALL_UM2",
    "is_certain",
]


SMALL_UM2 = 30.0
"""Intermediate nuclei begin here; smaller ones are pyknotic, or the lobes of leukocytes."""


def is_certain(
    score: NDArray[np.floating],
    area_um2: NDArray[np.floating],
    *,
    min_score: float,
    min_small_score: float,
) -> NDArray[np.bool_]:
    """Which objects (n,) are probable enough, small ones under a bound of their own."""
    bound = np.where(area_um2 < SMALL_UM2, min_small_score, min_score)
    return np.asarray(score >= bound.astype(score.dtype))
