"""Focus: how sharp a slide is, as a number that can be compared between a lab's slides.

The Brenner gradient, the mean squared difference of pixels two apart (Brenner et al. 1976, J.
Histochem. Cytochem. 24:100, made for cytology), at a fixed pixel size in optical density, over
the same at four times the distance. Light that is stronger or weaker adds a constant to optical
density, and contrast multiplies both differences alike, so that neither shows. Sharp edges differ
four times as much at four times the distance, smooth ones sixteen times: the score is 1 for
step edges, falls with blur and ends at 1/4; texture finer than the distance brings it above 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.errors import SlideReadError
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.slides.foreground import Foreground
from wsi_pipeline.slides.slide import Slide

__all__ = ["BLURRED", "FOCUS_MPP", "Focus", "measure_focus", "sharpness"]

FOCUS_MPP = 0.5
"""Pixel size at which focus is measured, µm."""
NEAR_PX, FAR_PX = 2, 8
"""Brenner's distance, 1 µm, and the one that contrast is taken at, 4 µm."""
BLURRED = 0.5
"""Score below which a field is blurred.

A step edge has it after a Gaussian of 0.6 µm. Of 69 photographed fields of cytology (ISBI 2014,
CCAgT, bttfa_lbc) the least sharp had 0.59, and after a Gaussian of 1 µm the sharpest 0.49.
It was chosen on these; the pixel size of bttfa_lbc was taken for 0.25 µm.
"""
FIELD_PX = 256
MAX_FIELDS = 64
LEAST_PX = 4 * FAR_PX
LEAST_DEVIATION = 0.02
"""Standard deviation of optical density below which a field holds little but noise."""

_OD = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)


@dataclass(frozen=True)
class Focus:
    """Focus of a slide.

    Attributes
    ----------
    score
        median over the fields, or None where there is none: 1 for step edges, 0.25 for no edges
    blurred_share
        share of fields below `BLURRED`, or None
    fields
        how many were measured
    note
        why there is no score
    """

    score: float | None
    blurred_share: float | None
    fields: int
    note: str = ""
    mpp: float = FOCUS_MPP


def measure_focus(slide: Slide, foreground: Foreground) -> Focus:
    """Focus on up to `MAX_FIELDS` fields of 128 µm, spread evenly over the foreground.

    The same slide gives the same fields. Fields that cannot be read, or that hold next to
    nothing, are left out.
    """
    if slide.mpp is None or not slide.mpp.plausible:
        return Focus(None, None, 0, "no pixel size")
    if slide.mpp.value > 1.1 * FOCUS_MPP:
        coarse = f"pixels of {slide.mpp.value:g} µm are coarser than {FOCUS_MPP:g}"
        return Focus(None, None, 0, coarse)
    scores = []
    for box in _fields(slide, foreground):
        try:
            score = sharpness(slide.read_scaled(box, FOCUS_MPP / slide.mpp.value))
        except SlideReadError:
            continue
        if score is not None:
            scores.append(score)
    if not scores:
        return Focus(None, None, 0, "no field with enough contrast")
    blurred = float(np.mean(np.array(scores) < BLURRED))
    return Focus(round(float(np.median(scores)), 4), round(blurred, 4), len(scores))


def sharpness(field: NDArray[np.uint8]) -> float | None:
    """Score of one field at `FOCUS_MPP`, uint8 (h, w, 3); None where it holds next to nothing."""
    if min(field.shape[:2]) < LEAST_PX:
        return None
    density = cv2.transform(_OD[field], np.full((1, 3), 1 / 3, np.float32))
    if float(density.std()) < LEAST_DEVIATION:
        return None
    near, far = _difference(density, NEAR_PX), _difference(density, FAR_PX)
    return FAR_PX / NEAR_PX * near / far if far > 0 else None


def _difference(values: NDArray[np.float32], px: int) -> float:
    """Mean squared difference of pixels `px` apart, along rows and columns."""
    along = np.square(values[:, px:] - values[:, :-px]).mean(dtype=np.float64)
    down = np.square(values[px:] - values[:-px]).mean(dtype=np.float64)
    return float(along + down) / 2


def _fields(slide: Slide, foreground: Foreground) -> list[Box]:
    """Fields on the grid of `FOCUS_MPP` whose middle is foreground, thinned out evenly."""
    scale = FOCUS_MPP / slide.require_mpp().value
    width, height = int(slide.width / scale), int(slide.height / scale)
    found = []
    for y in range(0, max(height - FIELD_PX, 0) + 1, FIELD_PX):
        for x in range(0, max(width - FIELD_PX, 0) + 1, FIELD_PX):
            middle = ((x + FIELD_PX / 2) * scale, (y + FIELD_PX / 2) * scale)
            whole = width < FIELD_PX or height < FIELD_PX
            if whole or foreground.covers(*middle, middle[0] + 1, middle[1] + 1):
                box = Box(x, y, x + FIELD_PX, y + FIELD_PX)
                found.append(box.clip(Box(0, 0, width, height)))
    if len(found) <= MAX_FIELDS:
        return found
    return [found[i * len(found) // MAX_FIELDS] for i in range(MAX_FIELDS)]
