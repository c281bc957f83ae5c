"""Average precision, computed once for training and for evaluation."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["average_precision"]


def average_precision(scores: NDArray[np.floating], hits: NDArray[np.bool_], total: int) -> float:
    """Return COCO's average precision of predictions at one IoU.

    Precision is averaged over the 101 recalls 0, 0.01 … 1. The precision at a recall is the best
    at that recall or any higher one; it is 0 at recalls that are never reached.

    Parameters
    ----------
    scores
        float (n,), one per prediction; equal scores keep their order
    hits
        bool (n,), whether the prediction matches a true instance that no better one has taken
    total
        number of true instances

    Returns
    -------
    float
        0 to 1; NaN where `total` is 0

    References
    ----------
    Lin et al., "Microsoft COCO: Common objects in context", ECCV 2014; the official cocoeval.

    Examples
    --------
    Two true instances. The best and the third prediction are right, the second is wrong:

    >>> hits = np.array([True, False, True])
    >>> round(average_precision(np.array([0.9, 0.8, 0.7]), hits, 2), 4)
    0.835
    """
    if total == 0:
        return math.nan
    found = np.cumsum(hits[np.argsort(-scores, kind="stable")])
    precision = found / np.arange(1, len(found) + 1)
    best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0)
    at = np.searchsorted(found / total, np.linspace(0, 1, 101), side="left")
    return float(best[at].mean())
