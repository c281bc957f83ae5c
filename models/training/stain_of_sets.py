"""The range of stains in training images, for the card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..stain import measure_stain, stain_range
from .weighted_sets import HasImage

__all__ = ["range_of_samples"]


def range_of_samples(samples: Sequence[HasImage], chances: NDArray[np.float64]) -> dict[str, Any]:
    """Return the range of the samples' stains, see `stain_range`; empty where none is known.

    Parameters
    ----------
    chances
        float64 (samples,): how often each is drawn
    """
    measured = [measure_stain(s.image[::2, ::2].reshape(-1, 3)) for s in samples]
    known = [(one, float(w)) for one, w in zip(measured, chances, strict=True) if one is not None]
    return stain_range([one for one, _ in known], [w for _, w in known])
