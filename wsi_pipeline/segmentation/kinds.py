"""What kind of nucleus: normal, abnormal, leukocyte, or no nucleus of a cell.

This sorts nuclei by appearance, for a reader who looks at them. It is no diagnosis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
from numpy.typing import NDArray
from wsiseg_models.checkpoint import read_card, weights_path
from wsiseg_models.kinds.crops import CROP_PX, crop_side, nucleus_crops
from wsiseg_models.kinds.labels import KINDS_OF_LABEL, LABELS, NOT_A_CELL, label_named

from wsi_pipeline.segmentation.model import Images

__all__ = [
    "ABNORMAL",
    "KINDS_NAME",
    "KINDS_OF_LABEL",
    "KIND_CLASSES",
    "LABELS",
    "NOT_A_CELL",
    "NOT_CELLS",
    "KindSorter",
    "decide",
    "has_kinds",
    "kinds_identity",
    "label_named",
    "reach_of_kinds",
]

KINDS_NAME = "nucleus_kinds"
"""Name of the weights of the network that ships."""

ABNORMAL = "Abnormal: probability"
"""Measurement of each nucleus: the probability that it is abnormal; no diagnosis."""

KIND_CLASSES = ("nucleus", "abnormal nucleus", "leukocyte", "other")
"""Classes of sorted nuclei, in the order of the network's output; the first is normal."""

NOT_CELLS = frozenset(KIND_CLASSES[2:])
"""Classes that do not count as nuclei of cells."""

_BATCH = 64


def has_kinds(classes: tuple[str, ...]) -> bool:
    """Return whether a model with these classes sorts its nuclei.

    Examples
    --------
    >>> has_kinds(KIND_CLASSES), has_kinds(("nucleus",))
    (True, False)
    """
    return classes == KIND_CLASSES


def kinds_identity(checkpoint: Path | None = None) -> str:
    """Return the SHA-256 of the weights that sort nuclei; by default of those that ship."""
    return read_card(checkpoint or weights_path(KINDS_NAME)).sha256


def reach_of_kinds(mpp: float) -> int:
    """Return how far from a nucleus's middle the image counts, in pixels of `mpp` µm."""
    return crop_side(mpp) // 2


def decide(probability: NDArray[np.floating], limits: Sequence[float]) -> NDArray[np.uint8]:
    """Return the class index (n,) of nuclei with these probabilities (n, kinds).

    A nucleus is normal, the first class, unless another class reaches its limit; of those that
    reach theirs, the most probable one counts.

    Parameters
    ----------
    limits
        (kinds,) least probability of each class; that of the first has no effect

    Examples
    --------
    >>> p = np.array([[0.3, 0.6, 0.1, 0.0], [0.2, 0.1, 0.1, 0.6], [0.0, 0.1, 0.2, 0.7]])
    >>> decide(p, (0, 0.5, 0.5, 0.65)).tolist()
    [1, 0, 3]
    """
    reached = np.where(probability >= np.asarray(limits, np.float32), probability, -1)
    reached[:, 0] = 0
    return reached.argmax(1).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class KindSorter:
    """A network that sorts nuclei.

    Attributes
    ----------
    network
        crops uint8 (n, s, s, 4), see `nucleus_crops` → probabilities float32 (n, kinds)
    mpp
        µm per pixel of the images from which it gets nuclei
    limits
        least probability of each class, see `decide`
    """

    network: Callable[[Images], NDArray[np.float32]]
    mpp: float
    limits: tuple[float, ...] = (0.0, 0.5, 0.5, 0.5)

    def sort(
        self, image: Images, labels: NDArray[np.int32], wanted: NDArray[np.bool_]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return class index (n,) and probability (n,) of being abnormal of the wanted nuclei.

        Both depend on the pixels within `reach_of_kinds` of the middle of each nucleus alone. The
        probability is rounded, so that it does not depend on how many nuclei are sorted at once.

        Parameters
        ----------
        image, labels
            uint8 (h, w, 3), and int32 (h, w) with the numbers 1 … n of the nuclei
        wanted
            bool (n,); the others get class 0 and NaN
        """
        numbers = np.flatnonzero(wanted) + 1
        middle = _middles(labels, len(wanted))[wanted]
        found = np.empty((len(numbers), len(KIND_CLASSES)), np.float32)
        for start in range(0, len(numbers), _BATCH):
            part = slice(start, start + _BATCH)
            crops = nucleus_crops(image, labels, numbers[part], middle[part], mpp=self.mpp)
            found[part] = self.network(_padded(crops))[: len(crops)]
        found = np.round(found, 3)
        kinds, abnormal = np.zeros(len(wanted), np.uint8), np.full(len(wanted), np.nan, np.float32)
        kinds[wanted], abnormal[wanted] = decide(found, self.limits), found[:, 1]
        return kinds, abnormal


def _padded(crops: Images) -> Images:
    """Fill a batch up, since a network may compute batches of other sizes in another order."""
    if len(crops) == _BATCH:
        return crops
    empty = np.zeros((_BATCH - len(crops), CROP_PX, CROP_PX, 4), np.uint8)
    return np.concatenate([crops, empty])


@numba.njit(nogil=True, cache=True)
def _middles(labels: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """Return the middle of each nucleus's bounding box, x and y, int64 (n, 2)."""
    box = np.empty((count, 4), np.int64)
    box[:, :2] = labels.size
    box[:, 2:] = -1
    for r in range(labels.shape[0]):
        for c in range(labels.shape[1]):
            k = labels[r, c] - 1
            if k >= 0:
                box[k, 0], box[k, 1] = min(box[k, 0], c), min(box[k, 1], r)
                box[k, 2], box[k, 3] = max(box[k, 2], c), max(box[k, 3], r)
    return (box[:, :2] + box[:, 2:] + 1) // 2
