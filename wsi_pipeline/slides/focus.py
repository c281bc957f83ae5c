"""Measure how sharp a slide is, with a score that is comparable between slides.

The score is based on the Brenner gradient, made for cytology (Brenner et al. 1976, J. Histochem.
Cytochem. 24:100): the mean squared difference B(d) of pixels at distance d, here in optical
density at a fixed pixel size. The score is (8 / 2) · B(2) / B(8). The brightness of the light
adds a constant to optical density, and contrast multiplies both B alike, so that neither changes
the score. At a step edge B grows with d, in a smooth gradient with d²: the score is 1 for step
edges, decreases with blur to 1/4, and is above 1 for texture finer than d.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.errors import SlideReadError
from wsi_pipeline.slides.fields import spread_fields
from wsi_pipeline.slides.foreground import Foreground
from wsi_pipeline.slides.slide import Slide

__all__ = ["BLURRED", "FOCUS_MPP", "Focus", "measure_focus", "sharpness"]

FOCUS_MPP = 0.5
"""Pixel size at which focus is measured, µm."""
NEAR_PX, FAR_PX = 2, 8
"""Brenner's distance, 1 µm, and the distance for the contrast, 4 µm."""
BLURRED = 0.5
"""A field with a lower score is blurred.

A step edge has this score after a Gaussian of 0.6 µm. It was chosen on 69 photographed fields of
cytology (ISBI 2014, CCAgT, and bttfa_lbc at an assumed 0.25 µm): the least sharp field had 0.59,
and the sharpest 0.49 after a Gaussian of 1 µm.
"""
FIELD_PX = 256
"""Side of a field, pixels of `FOCUS_MPP`."""
MAX_FIELDS = 64
LEAST_PX = 4 * FAR_PX
"""Side below which an image is too small to be measured."""
LEAST_DEVIATION = 0.02
"""Standard deviation of optical density below which a field has little but noise."""

_OD = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)


@dataclass(frozen=True)
class Focus:
    """Focus of a slide.

    Attributes
    ----------
    score
        median over the fields: 1 for step edges, 0.25 for no edges; None where no field was
        measured
    blurred_share
        share of fields below `BLURRED`, 0 to 1, or None
    fields
        number of fields that were measured
    note
        why there is no score
    mpp
        pixel size of the measurement, µm
    """

    score: float | None
    blurred_share: float | None
    fields: int
    note: str = ""
    mpp: float = FOCUS_MPP


def measure_focus(slide: Slide, foreground: Foreground) -> Focus:
    """Measure focus on up to `MAX_FIELDS` fields of 128 µm, spread evenly over the foreground.

    A slide always has the same fields. Fields that cannot be read, or have little contrast, are
    left out.
    """
    if slide.mpp is None or not slide.mpp.plausible:
        return Focus(None, None, 0, "no pixel size")
    if slide.mpp.value > 1.1 * FOCUS_MPP:
        coarse = f"pixels of {slide.mpp.value:g} µm are coarser than {FOCUS_MPP:g}"
        return Focus(None, None, 0, coarse)
    scores = []
    for box in spread_fields(slide, foreground, mpp=FOCUS_MPP, side_px=FIELD_PX, most=MAX_FIELDS):
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
    """Return the score of a field at `FOCUS_MPP`, uint8 (h, w, 3); None for little contrast."""
    if min(field.shape[:2]) < LEAST_PX:
        return None
    density = cv2.transform(_OD[field], np.full((1, 3), 1 / 3, np.float32))
    if float(density.std()) < LEAST_DEVIATION:
        return None
    near, far = _difference(density, NEAR_PX), _difference(density, FAR_PX)
    return FAR_PX / NEAR_PX * near / far if far > 0 else None


def _difference(values: NDArray[np.float32], px: int) -> float:
    """Return the mean squared difference of pixels `px` apart, along rows and columns."""
    along = np.square(values[:, px:] - values[:, :-px]).mean(dtype=np.float64)
    down = np.square(values[px:] - values[:-px]).mean(dtype=np.float64)
    return float(along + down) / 2
