"""Measure with trained weights how much context changes the result of a pixel."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["CORE_PX", "HALOS", "crop_error", "measure_halo"]

HALOS = (32, 48, 64, 80, 96, 112, 128, 160, 192, 224)
CORE_PX = 256
ALIGN_PX = 32
"""A multiple of every network's stride: crops begin where its grid has a line."""

Predict = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


def crop_error(
    predict: Predict, image: NDArray[np.uint8], halos: Sequence[int]
) -> list[NDArray[np.int64]]:
    """Compute the middle of an image with each halo, and with the whole image.

    Parameters
    ----------
    predict
        image uint8 (h, w, 3) → probabilities uint8 (k, h, w)
    image
        at least `CORE_PX` and twice the largest halo on each side

    Returns
    -------
    for each halo int64 (2, k, `CORE_PX`, `CORE_PX`): result of the crop, result of the image
    """
    y, x = ((n - CORE_PX) // 2 // ALIGN_PX * ALIGN_PX for n in image.shape[:2])
    whole = predict(image)[:, y : y + CORE_PX, x : x + CORE_PX]
    out = []
    for halo in halos:
        crop = image[y - halo : y + CORE_PX + halo, x - halo : x + CORE_PX + halo]
        mine = predict(crop)[:, halo : halo + CORE_PX, halo : halo + CORE_PX]
        out.append(np.stack([mine, whole]).astype(np.int64))
    return out


def measure_halo(
    predict: Predict, images: Sequence[NDArray[np.uint8]], *, context_px: int, stride: int
) -> int:
    """Return the smallest halo at which a crop gives the same bytes as the whole image.

    Images that are too small are skipped. `context_px` is returned if no image is large enough or
    no smaller halo suffices.

    Parameters
    ----------
    context_px
        no pixel farther away changes a result of the network
    stride
        of which the halo is a multiple
    """
    halos = [halo for halo in HALOS if halo < context_px and halo % stride == 0]
    side = CORE_PX + 2 * context_px
    large = [i for i in images if min(i.shape[:2]) >= side]
    errors = [crop_error(predict, image, halos) for image in large]
    for position, halo in enumerate(halos if large else ()):
        if all((mine == whole).all() for mine, whole in (e[position] for e in errors)):
            return halo
    return context_px
