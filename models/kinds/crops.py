"""Crops centred on nuclei, with the nucleus's own mask as fourth channel."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["CROP_MPP", "CROP_PX", "crop_side", "nucleus_crops"]

CROP_PX, CROP_MPP = 48, 0.5
"""Side of a crop in pixels, and its pixel size in µm: 24 µm, more than a large nucleus."""


def crop_side(mpp: float, size: int = CROP_PX) -> int:
    """Return the side of a crop in pixels of an image with `mpp` µm per pixel: an even number.

    Examples
    --------
    >>> crop_side(0.5), crop_side(0.25)
    (48, 96)
    """
    return max(2, 2 * round(size * CROP_MPP / mpp / 2))


def nucleus_crops(
    image: NDArray[np.uint8],
    labels: NDArray[np.integer],
    numbers: NDArray[np.integer],
    centres: NDArray[np.integer],
    *,
    mpp: float,
    size: int = CROP_PX,
) -> NDArray[np.uint8]:
    """Cut out nuclei: uint8 (n, size, size, 4) with colours and the nucleus's mask, 0 or 255.

    A crop depends on the pixels within `crop_side` ÷ 2 of its centre alone. Beyond the border the
    image is mirrored.

    Parameters
    ----------
    image, labels
        uint8 (h, w, 3), and (h, w) with one number per nucleus
    numbers
        (n,) of the nuclei to cut out
    centres
        (n, 2) x and y, a corner of pixels near the middle of each nucleus
    mpp
        µm per pixel of the image; crops have `CROP_MPP`
    size
        side of the crops in pixels

    Examples
    --------
    >>> labels = np.zeros((80, 80), np.int32)
    >>> labels[38:42, 38:42] = 7
    >>> image = np.zeros((80, 80, 3), np.uint8)
    >>> crops = nucleus_crops(image, labels, np.array([7]), np.array([[40, 40]]), mpp=0.5)
    >>> crops.shape, int((crops[0, ..., 3] == 255).sum())
    ((1, 48, 48, 4), 16)
    """
    side = crop_side(mpp, size)
    half = side // 2
    h, w = labels.shape
    low, high = centres.min(0, initial=half), centres.max(0, initial=0)
    if (low < half).any() or high[0] > w - half or high[1] > h - half:
        image = np.asarray(
            cv2.copyMakeBorder(image, side, side, side, side, cv2.BORDER_REFLECT_101), np.uint8
        )
        labels = np.pad(labels, side)
        centres = centres + side
    out = np.empty((len(numbers), size, size, 4), np.uint8)
    # Area interpolation takes three times as long, and below this factor linear loses nothing.
    way = cv2.INTER_AREA if side > 1.5 * size else cv2.INTER_LINEAR
    for k, (number, (x, y)) in enumerate(zip(numbers.tolist(), centres.tolist(), strict=True)):
        place = np.s_[y - half : y + half, x - half : x + half]
        mask = (labels[place] == number).view(np.uint8) * np.uint8(255)
        colours = image[place]
        if side != size:
            colours = np.asarray(cv2.resize(colours, (size, size), interpolation=way), np.uint8)
            mask = np.asarray(cv2.resize(mask, (size, size), interpolation=way), np.uint8)
        cv2.merge([*cv2.split(colours), mask], out[k])
    return out
