"""How well a network of kinds sorts labelled nuclei."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.evaluation.suite_measures import rank_auc
from wsi_pipeline.segmentation.kinds import decide

__all__ = ["NO_CELL", "kind_scores"]

NO_CELL = "no cell"
"""Leukocytes and everything else that is no nucleus of a cell."""
_GROUPS = {"normal": (0,), "abnormal": (1,), NO_CELL: (2, 3)}


def kind_scores(
    probability: NDArray[np.floating], allowed: NDArray[np.bool_], limits: Sequence[float]
) -> Mapping[str, float]:
    """Return number of labels, AUC of abnormal against normal, and shares that are sorted right.

    What cannot be measured is left out.

    Parameters
    ----------
    probability
        (n, kinds)
    allowed
        bool (n, kinds): the kinds that the label of each leaves open
    limits
        (kinds,) see `decide`

    Examples
    --------
    >>> p = np.array([[0.9, 0.1, 0, 0], [0.2, 0.8, 0, 0], [0.1, 0, 0.2, 0.7]])
    >>> told = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1]], bool)
    >>> kind_scores(p, told, (0, 0.5, 0.5, 0.5))["right"]
    0.6667
    """
    right = allowed[np.arange(len(allowed)), decide(probability, limits)]
    found: dict[str, float] = {"labels": len(allowed)}
    if len(allowed):
        found["right"] = round(float(right.mean()), 4)
    single = allowed.sum(1) == 1
    two = single & allowed[:, :2].any(1)
    abnormal = allowed[two, 1]
    if abnormal.any() and not abnormal.all():
        found["AUC"] = round(rank_auc(probability[two, 1], abnormal), 4)
    for name, kinds in _GROUPS.items():
        own = allowed[:, kinds].any(1)
        if own.any():
            found |= {f"labels {name}": int(own.sum()), name: round(float(right[own].mean()), 4)}
    return found
