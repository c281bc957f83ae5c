"""What an instance model finds in one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Instances"]


@dataclass(frozen=True, eq=False)
class Instances:
    """`k` instances of one image, best first; they may overlap.

    Attributes
    ----------
    boxes
        float32 (k, 4): x0, y0, x1, y1 in pixel edges, inside the image
    class_index
        uint8 (k,): class, background left out
    scores
        float32 (k,), 0 to 1
    masks
        uint8 (k, m, m): probability of each cell of a grid laid over the box, 255 = certain
    """

    boxes: NDArray[np.float32]
    class_index: NDArray[np.uint8]
    scores: NDArray[np.float32]
    masks: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> Instances:
        """The instances at `index`."""
        return Instances(
            self.boxes[index], self.class_index[index], self.scores[index], self.masks[index]
        )
