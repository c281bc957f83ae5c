"""The score rule: which objects are certain enough to keep."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["SMALL_UM2", "is_certain"]

SMALL_UM2 = 30.0
"""Below this area an object is small: a pyknotic nucleus or a lobe of a leukocyte's nucleus.

Nuclei of intermediate cells are larger.
"""


def is_certain(
    score: NDArray[np.floating],
    area_um2: NDArray[np.floating],
    *,
    min_score: float,
    min_small_score: float,
) -> NDArray[np.bool_]:
    """Return which objects to keep: those whose score reaches the limit for their size.

    Parameters
    ----------
    score, area_um2
        float (n,), 0 to 1, and µm²
    min_score, min_small_score
        least score of an object, and of one smaller than `SMALL_UM2`

    Returns
    -------
    bool (n,)

    Examples
    --------
    >>> score, area = np.array([0.6, 0.6, 0.9]), np.array([80.0, 10.0, 10.0])
    >>> is_certain(score, area, min_score=0.5, min_small_score=0.8).tolist()
    [True, False, True]
    """
    bound = np.where(area_um2 < SMALL_UM2, min_small_score, min_score)
    return np.asarray(score >= bound.astype(score.dtype))
