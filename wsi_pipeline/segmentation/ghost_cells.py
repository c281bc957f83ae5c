"""Cells, and parts of cells, that a network draws on empty glass: there is no stain under them."""

from __future__ import annotations

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.segmentation.mask_atlas import MaskAtlas

__all__ = ["GLASS_MARGIN", "STAINED", "clear_glass", "is_ghost"]

STAINED = 0.05
"""A cell with a higher median optical density is no ghost, whatever lies around it."""

GLASS_MARGIN = 0.015
"""A ghost is darker than the glass around it by less than this optical density.

Chosen by looking at all cells that the networks of version 0.1.0 draw on the extended-focus and
liquid-based fields: those on empty glass have up to 0.0145, real pale cells 0.015 and more.
"""

BARE_MARGIN = 0.01
"""A pixel of a cell is glass if its density is less than this above the glass around the cell."""
UNEVEN = 0.025
"""How far the density of glass around a cell may be above the lightest 2 % of its window."""
CLEARLY_STAINED = 0.03
"""Pixels are removed only from cells whose median density is this much above their glass."""
_HALF = 128
"""Least value of a mask's pixel that belongs to the object."""
_BLUR_PX, _DISC = 1.5, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
"""Blur of densities against noise; a piece of glass holds at least one such disc."""

_STEPS = 1000
_LEVELS = 256
"""Optical densities are counted in steps of 1/1000, the last one for all that are higher."""

Images = NDArray[np.uint8]


def is_ghost(
    image: Images, labels: NDArray[np.int32], field: Images, boxes: NDArray[np.float64],
    background: tuple[int, int, int],
) -> NDArray[np.bool_]:  # fmt: skip
    """Return which objects are drawn where there is only glass, bool (n,).

    An object is a ghost if its median optical density is below `STAINED`, and below that of the
    glass around it + `GLASS_MARGIN`. The glass is the 10th percentile in the object's bounding box,
    grown by a quarter of its sides: the light is not even over a field. An object without a pixel
    is no ghost.

    Parameters
    ----------
    image, labels
        uint8 (h, w, 3) and int32 (h, w): object i has label i + 1; for a cell only where no nucleus
        is drawn, since a speck that is taken for one is no stain of the cell
    field
        the window of the slide, uint8 (h, w, 3)
    boxes
        float (n, 4): bounding boxes in `field`
    background
        channel values of empty glass, 1 to 255

    Examples
    --------
    >>> field = np.full((20, 40, 3), 240, np.uint8)
    >>> field[5:15, 25:35] = 200
    >>> labels = np.zeros((20, 40), np.int32)
    >>> labels[5:15, 5:15], labels[5:15, 25:35] = 1, 2
    >>> boxes = np.array([[5, 5, 15, 15], [25, 5, 35, 15]], float)
    >>> is_ghost(field, labels, field, boxes, (240, 240, 240)).tolist()
    [True, False]
    """
    levels = _density_levels(background)
    median = _medians(image, labels, len(boxes), levels) / _STEPS
    ghost = median < STAINED
    for k in np.flatnonzero(ghost):
        x0, y0, x1, y1 = boxes[k]
        aside, above = (x1 - x0) / 4, (y1 - y0) / 4
        rows = slice(max(int(y0 - above), 0), int(np.ceil(y1 + above)))
        columns = slice(max(int(x0 - aside), 0), int(np.ceil(x1 + aside)))
        around = _levels_of(field[rows, columns], levels)
        ghost[k] = median[k] < float(np.percentile(around, 10)) / _STEPS + GLASS_MARGIN
    return ghost


def clear_glass(
    atlas: MaskAtlas, cells: NDArray[np.bool_], field: Images, on_slide: tuple[slice, slice],
    background: tuple[int, int, int],
) -> None:  # fmt: skip
    """Remove empty glass from the masks of cells, in place.

    Beside a cell, where a mask should be 0, a network's probability may be about 0.5: the outline
    then runs over glass in a ragged line. A pixel is removed if it is glass and is connected to the
    outside of the mask by glass alone; so a clear halo around a nucleus stays. The density of glass
    is that of `is_ghost`. If it is `UNEVEN` above the lightest 2 % of the window, there are only
    cells around this one, and nothing is removed.

    Parameters
    ----------
    atlas
        masks of k instances
    cells
        bool (k,): which instances are cells
    field
        the window, uint8 (h, w, 3)
    on_slide
        rows and columns of the window that lie on the slide
    background
        channel values of empty glass, 1 to 255
    """
    rows, columns = on_slide
    if not cells.any() or not field[rows, columns].size:
        return
    density = cv2.GaussianBlur(_levels_of(field, _density_levels(background)), (0, 0), _BLUR_PX)
    limit = np.percentile(density[rows, columns][::4, ::4], 2) + UNEVEN * _STEPS
    for k in np.flatnonzero(cells):
        (x, y), (u, v), (w, h) = atlas.corner[k], atlas.origin[k], atlas.size[k]
        around = density[
            max(v - h // 4, rows.start) : min(v + h + h // 4, rows.stop),
            max(u - w // 4, columns.start) : min(u + w + w // 4, columns.stop),
        ]
        if around.size and (glass := np.percentile(around, 10)) <= limit:
            mask = atlas.probability[y : y + h, x : x + w]
            _clear(mask, density[v : v + h, u : u + w] - np.float32(glass))


def _clear(mask: NDArray[np.uint8], density: NDArray[np.float32]) -> None:
    """Remove glass from a mask (h, w), in place; densities are those above glass, in steps."""
    inside = mask >= _HALF
    if not inside.any() or np.median(density[inside]) < CLEARLY_STAINED * _STEPS:
        return
    glass = (inside & (density < BARE_MARGIN * _STEPS)).view(np.uint8)
    bare = cv2.dilate(cv2.erode(glass, _DISC), _DISC, iterations=2) & glass
    if bare.any():
        outside = np.pad((~inside | (bare > 0)).view(np.uint8), 1, constant_values=1)
        _, pieces = cv2.connectedComponents(outside, connectivity=4)
        gone = (bare > 0) & (pieces[1:-1, 1:-1] == pieces[0, 0])
        # A ramp, so that the outline follows the density between pixels.
        share = np.clip(density[gone] / (BARE_MARGIN * _STEPS), 0, 1)
        mask[gone] = (share * (_HALF - 1)).astype(np.uint8)


def _density_levels(background: tuple[int, int, int]) -> NDArray[np.float32]:
    """Return a third of the optical density of each value of each channel, in steps: (3, 256)."""
    value = np.maximum(np.arange(256, dtype=np.float32), 1)
    return np.stack([-np.log10(value / glass) * (_STEPS / 3) for glass in background])


def _levels_of(image: Images, levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the optical density of each pixel of an image, in steps."""
    red, green, blue = (levels[channel][image[..., channel]] for channel in range(3))
    return np.asarray(red + green + blue, np.float32)


@numba.njit(nogil=True, cache=True)
def _medians(
    image: Images, labels: NDArray[np.int32], n: int, levels: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the median optical density of each object in steps, cut off at `_LEVELS` − 1."""
    counts = np.zeros((n, _LEVELS), np.int32)
    for r in range(labels.shape[0]):
        for c in range(labels.shape[1]):
            k = labels[r, c]
            if k > 0:
                step = levels[0, image[r, c, 0]] + levels[1, image[r, c, 1]]
                step += levels[2, image[r, c, 2]]
                counts[k - 1, min(max(int(step + 0.5), 0), _LEVELS - 1)] += 1
    out = np.zeros(n, np.float32)
    for k in range(n):
        half, seen = (counts[k].sum() + 1) // 2, 0
        out[k] = _LEVELS - 1
        for level in range(_LEVELS):
            seen += counts[k, level]
            if half > 0 and seen >= half:
                out[k] = level
                break
    return out
