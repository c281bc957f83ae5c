"""Detections of an instance network in one image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Instances", "Window", "paste"]

Window = tuple[slice, slice]
"""Rows and columns of an image."""


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
        uint8 (k, m, m): probability of each cell of a grid laid over the box, 255 = certain;
        (k, 0, 0) of a detector, which gives boxes alone
    """

    boxes: NDArray[np.float32]
    class_index: NDArray[np.uint8]
    scores: NDArray[np.float32]
    masks: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> Instances:
        """Return the instances at `index`."""
        return Instances(
            self.boxes[index], self.class_index[index], self.scores[index], self.masks[index]
        )


def paste(found: Instances, shape: tuple[int, int]) -> list[tuple[Window, NDArray[np.bool_]]]:
    """Return for each instance its window of an image (h, w), and the mask in it.

    The mask holds pixels of probability 0.5 and more. Probabilities are interpolated linearly
    between the centres of the cells of the grid; outside its box an instance has no pixel.

    Examples
    --------
    >>> grid = np.full((1, 28, 28), 255, np.uint8)
    >>> boxes = np.array([[2, 1, 6, 4]], np.float32)
    >>> found = Instances(boxes, np.zeros(1, np.uint8), np.ones(1, np.float32), grid)
    >>> ((window, mask),) = paste(found, (10, 10))
    >>> window, mask.all()
    ((slice(1, 4, None), slice(2, 6, None)), np.True_)
    """
    out = []
    for box, grid in zip(found.boxes.astype(np.float64), found.masks, strict=True):
        weights, window = [], []
        for low, high, most in ((box[1], box[3], shape[0]), (box[0], box[2], shape[1])):
            # Pixels whose centres lie in the box.
            span = slice(max(math.ceil(low - 0.5), 0), min(math.ceil(high - 0.5), most))
            at = (np.arange(span.start, max(span.stop, span.start)) + 0.5 - low) / (high - low)
            apart = np.abs(at[:, None] * len(grid) - 0.5 - np.arange(len(grid)))
            weights.append(np.maximum(1 - apart, 0))
            window.append(span)
        mask = weights[0] @ grid.astype(np.float64) @ weights[1].T >= 127.5
        out.append(((window[0], window[1]), mask))
    return out
