"""Draw the masks of overlapping instances side by side in one image, a mask atlas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.segmentation.components import find_components
from wsi_pipeline.segmentation.model import Images, Instances
from wsi_pipeline.segmentation.split_touching import LabelImage

__all__ = ["MaskAtlas", "draw_atlas", "largest_parts"]

ATLAS_PX = 2048
"""Least width of an atlas."""

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class MaskAtlas:
    """Masks of k instances of a window, each in a rectangle of its own with a gap around it.

    Attributes
    ----------
    probability
        uint8 (h, w), 255 = certain
    instance
        int32 (h, w): number of the instance whose rectangle contains the pixel, −1 for none
    corner, origin
        int64 (k, 2): x, y of the upper left pixel of each rectangle, in the atlas and in the window
    size
        int64 (k, 2): width and height of each rectangle
    """

    probability: NDArray[np.uint8]
    instance: NDArray[np.int32]
    corner: Ints
    origin: Ints
    size: Ints

    def copy_pixels(self, image: Images) -> Images:
        """Copy the pixels of the window's image (h, w, …) into each rectangle of the atlas."""
        out = np.zeros((*self.probability.shape, *image.shape[2:]), np.uint8)
        for (x, y), (u, v), (w, h) in zip(self.corner, self.origin, self.size, strict=True):
            out[y : y + h, x : x + w] = image[v : v + h, u : u + w]
        return out

    def merge(self, pixels: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Return which pixels of the window (h, w) are set in any rectangle of the atlas."""
        out = np.zeros(shape, np.bool_)
        for (x, y), (u, v), (w, h) in zip(self.corner, self.origin, self.size, strict=True):
            out[v : v + h, u : u + w] |= pixels[y : y + h, x : x + w]
        return out


def draw_atlas(instances: Instances, width: int, height: int) -> MaskAtlas:
    """Draw the masks of instances of a window of `width` × `height` pixels.

    Rectangles are one pixel larger than the boxes on each side, and are placed in rows from left
    to right.
    """
    limit = np.array([width, height])
    origin = np.clip(np.floor(instances.boxes[:, :2]).astype(np.int64) - 1, 0, limit)
    end = np.clip(np.ceil(instances.boxes[:, 2:]).astype(np.int64) + 1, origin, limit)
    size = end - origin
    across = max(ATLAS_PX, int(size[:, 0].max(initial=0)) + 2)
    corner = np.zeros_like(origin)
    x, y, tallest = 1, 1, 0
    for k, (w, h) in enumerate(size.tolist()):
        if x + w + 1 > across:
            x, y, tallest = 1, y + tallest + 1, 0
        corner[k] = x, y
        x, tallest = x + w + 1, max(tallest, h)
    shape = (y + tallest + 1, across)
    probability, instance = np.zeros(shape, np.uint8), np.full(shape, -1, np.int32)
    boxes = instances.boxes.astype(np.float64)
    masks = np.ascontiguousarray(instances.masks)
    _draw(masks, boxes, origin, size, corner, probability, instance)
    return MaskAtlas(probability, instance, corner, origin, size)


@numba.njit(nogil=True, cache=True)
def _draw(
    masks: NDArray[np.uint8],
    boxes: NDArray[np.float64],
    origin: Ints,
    size: Ints,
    corner: Ints,
    probability: NDArray[np.uint8],
    instance: NDArray[np.int32],
) -> None:
    """Resample each mask to pixels, as `wsiseg_models.predictions.paste`, and keep probabilities.

    Bilinear interpolation between the centres of the mask's cells; 0 outside the box.
    """
    side = masks.shape[1]
    for k in range(len(masks)):
        x0, y0, x1, y1 = boxes[k]
        for r in range(size[k, 1]):
            v = (origin[k, 1] + r + 0.5 - y0) / max(y1 - y0, 1e-6) * side - 0.5
            for c in range(size[k, 0]):
                u = (origin[k, 0] + c + 0.5 - x0) / max(x1 - x0, 1e-6) * side - 0.5
                row, column = corner[k, 1] + r, corner[k, 0] + c
                instance[row, column] = k
                if u <= -0.5 or v <= -0.5 or u >= side - 0.5 or v >= side - 0.5:
                    continue
                i, j = int(np.floor(v)), int(np.floor(u))
                fv, fu = v - i, u - j
                total = 0.0
                for di in range(2):
                    for dj in range(2):
                        if 0 <= i + di < side and 0 <= j + dj < side:
                            weight = (fv if di else 1 - fv) * (fu if dj else 1 - fu)
                            total += weight * masks[k, i + di, j + dj]
                probability[row, column] = int(total + 0.5)


def largest_parts(
    atlas: MaskAtlas, keep: Callable[[Ints, Ints], NDArray[np.bool_]]
) -> tuple[LabelImage, Ints]:
    """Find the largest connected part of each mask, at a probability of 0.5 and more.

    Parameters
    ----------
    keep
        areas in pixels and numbers of instances, int64 (n,) each → which of them to keep

    Returns
    -------
    objects
        n label numbers in the pixels of the atlas, in the order of the instances
    index
        int64 (n,): number of each object's instance
    """
    components = find_components(atlas.probability, 0.5)
    first = np.stack([components.first_x, components.boxes[:, 1]], 1)
    instance = atlas.instance[first[1:, 1], first[1:, 0]]
    order = np.lexsort((-components.area_px[1:], instance)) + 1
    leads = np.concatenate([[True], np.diff(instance[order - 1]) > 0])[: len(order)]
    chosen = order[leads]
    area = components.area_px.astype(np.int64)
    chosen = chosen[keep(area[chosen], instance[chosen - 1].astype(np.int64))]
    number = np.zeros(len(components) + 1, np.int32)
    number[chosen] = np.arange(1, len(chosen) + 1)
    objects = LabelImage(number[components.labels], first[chosen], components.area_px[chosen])
    return objects, instance[chosen - 1].astype(np.int64)
