"""How large nuclei are, to judge a pixel size by what was found with it."""

from __future__ import annotations

import math

__all__ = ["LEAST_NUCLEI", "NUCLEUS_UM2", "USUAL_UM2", "fitting_mpp"]

NUCLEUS_UM2 = (20.0, 80.0)
"""Range of the median area of the nuclei of a slide."""
USUAL_UM2 = 42.0
"""Area of an intermediate cell's nucleus."""
LEAST_NUCLEI = 30
"""With fewer, the median may be that of one odd cell."""


def fitting_mpp(median_um2: float, mpp: float) -> float | None:
    """Return the pixel size in µm that would give nuclei their usual area, None where `mpp` fits.

    Parameters
    ----------
    median_um2
        median area of the nuclei, computed with `mpp`

    Examples
    --------
    >>> fitting_mpp(42.0, 0.25), fitting_mpp(168.0, 0.5)
    (None, 0.25)
    """
    low, high = NUCLEUS_UM2
    return None if low <= median_um2 <= high else mpp * math.sqrt(USUAL_UM2 / median_um2)
