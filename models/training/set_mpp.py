"""Pixel sizes of the images of a set: given, stated, or estimated from its nuclei.

A set without a pixel size gets one from its nuclei: an intermediate squamous nucleus, which
cervical cytology uses as its measure, has 35–50 µm² (`NUCLEUS_UM2` is the middle).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..pixel_size import MPP_RANGE, is_plausible_mpp
from .coco_types import CocoFile

__all__ = ["NUCLEUS_UM2", "image_mpps", "origin_text"]

NUCLEUS_UM2 = 42.0


def image_mpps(
    coco: CocoFile, areas: Sequence[Sequence[float]], given: float | None
) -> list[float]:
    """Return µm per pixel of each image: given, stated by the set, or estimated from its nuclei.

    A set gathered from many microscopes is estimated image by image, any other as a whole. It is
    recognised by median areas that differ more than four times.

    Parameters
    ----------
    areas
        pixels of each nucleus of each image

    Raises
    ------
    ValueError
        an image has no stated pixel size and the set has no nuclei, or nuclei of a size from
        which no plausible one follows
    """
    if given is not None:
        return [given] * len(coco.images)
    everything = [area for per_image in areas for area in per_image]
    lacking = [image.name for image in coco.images if image.mpp is None]
    if lacking and not everything:
        raise ValueError(
            f"{coco.path} states no pixel size for {lacking[0]} and has no nuclei to estimate it "
            "from; give DIR@MPP"
        )
    if not everything:
        return [image.mpp or 0.0 for image in coco.images]
    overall = float((NUCLEUS_UM2 / np.median(everything)) ** 0.5)
    medians = [float(np.median(v)) if len(v) >= 3 else math.nan for v in areas]
    known = [m for m in medians if not math.isnan(m)]
    low, high = np.quantile(known, [0.1, 0.9]) if known else (1.0, 1.0)
    mixed = high > 4 * low
    each = [(NUCLEUS_UM2 / m) ** 0.5 if mixed and m == m else overall for m in medians]
    for image, mpp in zip(coco.images, each, strict=True):
        if image.mpp is None and not is_plausible_mpp(mpp):
            raise ValueError(
                f"{image.where} states no pixel size, and the areas of its nuclei would make it "
                f"{mpp:g} µm, not {MPP_RANGE}; correct the areas, or give DIR@MPP"
            )
    return [image.mpp or mpp for image, mpp in zip(coco.images, each, strict=True)]


def origin_text(coco: CocoFile, mpps: Sequence[float], stated: bool) -> str:
    """Describe a set in one line, for the card of what is trained on it."""
    known = stated or any(image.mpp for image in coco.images)
    size = "–".join(f"{v:.3g}" for v in sorted({min(mpps, default=0), max(mpps, default=0)}))
    how = "stated" if known else f"estimated from nuclei of {NUCLEUS_UM2:g} µm²"
    return f"{coco.group} (licence: {coco.licence or 'not stated'}; {size} µm per px, {how})"
