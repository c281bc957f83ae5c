"""Measure in the pixels of a slide what outlines do not tell: texture, contrast and sharpness."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.objects import Objects
from wsi_pipeline.reports.atypia import MEASURES, robust_z
from wsi_pipeline.reports.crops import Crop, window
from wsi_pipeline.slides.slide import Slide

__all__ = ["Chromatin", "look_at", "looked_at"]

FINE_UM, COARSE_UM = 0.25, 1.0
"""Clumps of chromatin are between these two Gaussians, µm."""
EDGE_UM, RING_UM = 0.75, 2.5
"""The border of a nucleus is this wide on both sides; around it, up to `RING_UM`, is its cell."""
MARGIN_UM = 4.0
LEAST_CONTRAST = 0.02


class Chromatin(NamedTuple):
    """What the pixels of a nucleus tell; NaN where it is not known.

    Attributes
    ----------
    texture
        standard deviation of optical density between the scales `FINE_UM` and `COARSE_UM`, inside
        the nucleus
    contrast
        mean optical density of the nucleus above the median of the ring around it
    lightest
        10th percentile of the density of the nucleus above that of the ring, over the contrast:
        low where an outline holds several nuclei, or cytoplasm
    edge_um
        width of the edge: contrast over the mean gradient at the outline, µm
    """

    texture: float
    contrast: float
    lightest: float
    edge_um: float


UNKNOWN = Chromatin(np.nan, np.nan, np.nan, np.nan)


def look_at(slide: Slide, nucleus: shapely.Polygon, mpp: float) -> Chromatin:
    """Measure one nucleus.

    Parameters
    ----------
    nucleus
        outline, level-0 pixels
    mpp
        µm per level-0 pixel
    """
    x0, y0, x1, y1 = nucleus.bounds
    side = max(x1 - x0, y1 - y0) * mpp + 2 * MARGIN_UM
    return chromatin(window(slide, (x0 + x1) / 2, (y0 + y1) / 2, mpp, side), nucleus, slide)


def chromatin(crop: Crop, nucleus: shapely.Polygon, slide: Slide) -> Chromatin:
    """Measure a nucleus in a crop around it."""
    glass = np.asarray(slide.background, np.float32)
    value = np.maximum(crop.pixels.astype(np.float32), 1)
    density = -np.log10(value / glass).mean(2)
    mask = np.zeros(density.shape, np.uint8)
    cv2.fillPoly(mask, [np.round(crop.ring(nucleus) - 0.5).astype(np.int32)], 1)
    inside = cv2.distanceTransform(mask, cv2.DIST_L2, 5) * crop.mpp
    outside = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5) * crop.mpp
    core = inside > EDGE_UM
    ring = (outside > EDGE_UM) & (outside <= RING_UM)
    edge = (inside <= EDGE_UM) & (outside <= EDGE_UM)
    if core.sum() < 9 or ring.sum() < 9:
        return UNKNOWN
    fine = cv2.GaussianBlur(density, (0, 0), FINE_UM / crop.mpp)
    clumps = _inside(density, core, FINE_UM / crop.mpp) - _inside(
        density, core, COARSE_UM / crop.mpp
    )
    around = float(np.median(density[ring]))
    contrast = float(density[core].mean()) - around
    lightest = (float(np.quantile(density[core], 0.1)) - around) / max(contrast, LEAST_CONTRAST)
    slope = np.hypot(cv2.Sobel(fine, cv2.CV_32F, 1, 0), cv2.Sobel(fine, cv2.CV_32F, 0, 1))
    steep = float(slope[edge].mean()) / 8 / crop.mpp
    width = contrast / steep if steep > 0 and contrast > 0 else np.nan
    return Chromatin(float(clumps[core].std()), contrast, lightest, width)


def _inside(
    density: NDArray[np.float32], core: NDArray[np.bool_], sigma_px: float
) -> NDArray[np.float32]:
    """Return a density that is blurred among the pixels of the core alone."""
    weight = cv2.GaussianBlur(core.astype(np.float32), (0, 0), sigma_px)
    blurred = cv2.GaussianBlur(density * core, (0, 0), sigma_px)
    return np.asarray(blurred / np.maximum(weight, 1e-6), np.float32)


def looked_at(
    slide: Slide,
    objects: Objects,
    rows: NDArray[np.int64],
    usual: NDArray[np.bool_],
    *,
    n: int,
    mpp: float,
) -> dict[str, NDArray[np.float32]]:
    """Return z-scores of what the pixels of some nuclei of a slide tell, float32 (n,) each.

    Parameters
    ----------
    objects
        the k nuclei to look at, with outlines
    rows
        int64 (k,): their positions among the `n` objects of the run; others get NaN
    usual
        bool (k,): which of them stand for the nuclei of the slide
    """
    seen = np.array([look_at(slide, nucleus, mpp) for nucleus in objects.polygons()], np.float32)
    seen = seen.reshape(len(rows), len(UNKNOWN))
    columns = zip(
        ("chromatin texture", "contrast", "even stain", "sharp edge"),
        (*seen.T[:3], -seen.T[3]),
        strict=True,
    )
    found = {}
    for name, values in columns:
        found[name] = np.full(n, np.nan, np.float32)
        found[name][rows] = robust_z(values, usual, MEASURES[name].spread)
    return found
