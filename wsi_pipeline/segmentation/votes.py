"""What is a nucleus, whatever its class, and the class of each nucleus by a vote of its pixels."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["CERTAINTY", "Votes", "foreground", "vote"]

CERTAINTY = "Class: probability"
"""Measurement of the objects of a model with several classes, see `Votes.certainty`."""


class Votes(NamedTuple):
    """The classes of n objects.

    Attributes
    ----------
    classes
        uint8 (n,): index of the class
    score
        float32 (n,): mean probability that a pixel of the object is no background
    certainty
        float32 (n,): share of the class in the probability of all classes
    """

    classes: NDArray[np.uint8]
    score: NDArray[np.float32]
    certainty: NDArray[np.float32]


def foreground(probability: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the probability (h, w) of all classes (classes, h, w) together, 255 = certain.

    A pixel whose class is uncertain can be certain to be no background.

    Examples
    --------
    >>> foreground(np.array([[[120, 255]], [[120, 3]]], np.uint8)).tolist()
    [[240, 255]]
    """
    if len(probability) == 1:
        return np.asarray(probability[0], np.uint8)
    return np.minimum(probability.sum(0, dtype=np.uint16), 255).astype(np.uint8)


def vote(
    labels: NDArray[np.int32], probability: NDArray[np.uint8], area_px: NDArray[np.integer]
) -> Votes:
    """Decide the class of each object by all of its pixels (Luo et al. 2022).

    Each pixel votes with its probabilities; of equal classes the first one wins.

    Parameters
    ----------
    labels
        (h, w): 0 background, then 1 … n
    probability
        (classes, h, w)
    area_px
        (n,) pixels of each object

    Examples
    --------
    >>> labels = np.array([[1, 1, 1, 0]], np.int32)
    >>> planes = np.array([[[200, 40, 30, 0]], [[50, 200, 210, 0]]], np.uint8)
    >>> classes, score, certainty = vote(labels, planes, np.array([3]))
    >>> classes.tolist(), score.round(2).tolist(), certainty.round(2).tolist()
    ([1], [0.949999988079071], [0.6299999952316284])
    """
    sums = _class_sums(labels, probability, len(area_px))
    best = sums.argmax(1)
    # Sums of bytes are exact, so the score does not depend on the order of the pixels.
    total = sums.sum(1)
    score = np.minimum(total / (255.0 * area_px), 1)
    certainty = sums[np.arange(len(best)), best] / np.maximum(total, 1)
    rounded = (np.round(values, 4).astype(np.float32) for values in (score, certainty))
    return Votes(best.astype(np.uint8), *rounded)


@numba.njit(nogil=True, cache=True)
def _class_sums(
    labels: NDArray[np.int32], probability: NDArray[np.uint8], n: int
) -> NDArray[np.int64]:
    """Sum each class's probability bytes over the pixels of each object, int64 (n, classes)."""
    sums = np.zeros((n, len(probability)), np.int64)
    for k in range(len(probability)):
        for r in range(labels.shape[0]):
            for c in range(labels.shape[1]):
                if labels[r, c] > 0:
                    sums[labels[r, c] - 1, k] += probability[k, r, c]
    return sums
