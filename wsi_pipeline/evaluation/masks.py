"""Instances of one class in one image, as run-length masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

__all__ = ["Masks", "Rle"]

Rle = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Masks:
    """Instances of one class in one image, k of them; they may overlap.

    Attributes
    ----------
    rles
        k masks as COCO's compressed run lengths
    scores
        float64 (k,), 0 to 1; 1 for true instances
    shape
        height and width of the image
    unknown
        of true instances: mask of the pixels outside of them that may belong to other ones; None:
        all others are annotated
    """

    rles: Sequence[Rle]
    scores: NDArray[np.float64]
    shape: tuple[int, int]
    unknown: Rle | None = None

    def __len__(self) -> int:
        return len(self.rles)

    @property
    def area(self) -> NDArray[np.float64]:
        """Number of pixels of each mask, float64 (k,)."""
        # One mask per call: coco.area writes the number of masks into a byte, and NumPy 2 refuses
        # more than 255.
        return np.array([coco.area(rle) for rle in self.rles], np.float64)

    @property
    def union(self) -> Rle:
        """The pixels of all instances, as one mask."""
        nothing = coco.encode(np.zeros(self.shape, np.uint8, order="F"))
        united: Rle = coco.merge([nothing, *self.rles])
        return united

    def above(self, score: float) -> Masks:
        """Return the instances at or above a score."""
        kept = self.scores >= score
        rles = [rle for rle, keep in zip(self.rles, kept, strict=True) if keep]
        return Masks(rles, self.scores[kept], self.shape, self.unknown)

    def with_unknown(self, mask: Rle | None) -> Masks:
        """Return the true instances, with the rest of a mask as unknown."""
        if mask is None:
            return self
        rest = coco.decode(mask) & ~coco.decode(self.union)
        return replace(self, unknown=coco.encode(np.asfortranarray(rest)))

    def judged(self, truth: Masks) -> Masks:
        """Return the found instances with at most half of their area where truth is unknown.

        An instance that shares half of its united area with a true one is always among them.
        """
        if truth.unknown is None or not len(self):
            return self
        inside = coco.iou(list(self.rles), [truth.unknown], [1])[:, 0]  # ÷ area of the instance
        rles = [rle for rle, share in zip(self.rles, inside, strict=True) if share <= 0.5]
        return replace(self, rles=rles, scores=self.scores[inside <= 0.5])

    @property
    def known_px(self) -> int:
        """Number of pixels that are not unknown."""
        pixels = self.shape[0] * self.shape[1]
        return pixels - (int(coco.area(self.unknown)) if self.unknown is not None else 0)
