"""Optical density of areas in a field, and cells with no stain under them.

Optical density of a channel value v is −log10(v ÷ glass), averaged over the channels.
"""

from __future__ import annotations

import math

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.segmentation.ghost_cells import GLASS_MARGIN, STAINED

__all__ = ["ghost_cells", "mean_density", "optical_density"]

Areas = NDArray[np.object_]
Image = NDArray[np.uint8]
Density = NDArray[np.float32]


def optical_density(image: Image, background: tuple[int, int, int]) -> Density:
    """Return the optical density of each pixel of an image (h, w, 3), float32 (h, w)."""
    glass = np.maximum(np.asarray(background, np.float32), 1)
    value = np.maximum(image, 1).astype(np.float32)
    return np.asarray(-np.log10(value / glass).mean(2), np.float32)


def mean_density(density: Density, areas: Areas) -> NDArray[np.float64]:
    """Return the mean optical density in each area (n,); NaN where an area has no pixel."""
    values = [_inside(density, area) for area in areas]
    return np.array([v.mean() if v.size else math.nan for v in values], np.float64)


def ghost_cells(density: Density, cells: Areas, nuclei: Areas) -> NDArray[np.bool_]:
    """Return which cells are ghosts, bool (n,): there is no stain where their cytoplasm is drawn.

    The cytoplasm of a cell is its area without the drawn nuclei. A cell is a ghost if the median
    optical density of its cytoplasm is below `STAINED`, and below that of the glass around it
    + `GLASS_MARGIN`. The glass is the 10th percentile in the cell's bounding box, grown by a
    quarter of its sides: the light is not even over a field. A cell without cytoplasm is no ghost.
    """
    tree = shapely.STRtree(nuclei)
    ghosts = np.zeros(len(cells), np.bool_)
    for k, cell in enumerate(cells):
        cytoplasm = shapely.difference(cell, shapely.union_all(nuclei[tree.query(cell)]))
        values = _inside(density, cytoplasm)
        if values.size:
            x0, y0, x1, y1 = shapely.bounds(cell)
            aside, above = (x1 - x0) / 4, (y1 - y0) / 4
            around = _cut(density, x0 - aside, y0 - above, x1 + aside, y1 + above)[2]
            limit = min(STAINED, float(np.percentile(around, 10)) + GLASS_MARGIN)
            ghosts[k] = float(np.median(values)) < limit
    return ghosts


def _inside(density: Density, area: shapely.Geometry) -> Density:
    """Return the values of the pixels whose centre lies in an area."""
    if area.is_empty:
        return np.zeros(0, np.float32)
    left, top, window = _cut(density, *area.bounds)
    rows, columns = np.indices(window.shape)
    shapely.prepare(area)
    inside = shapely.contains_xy(area, columns.ravel() + left + 0.5, rows.ravel() + top + 0.5)
    return window.ravel()[inside]


def _cut(density: Density, x0: float, y0: float, x1: float, y1: float) -> tuple[int, int, Density]:
    """Return x and y of the first pixel in a box, and the pixels that the box touches."""
    left, top = max(math.floor(x0), 0), max(math.floor(y0), 0)
    return left, top, density[top : max(math.ceil(y1), top), left : max(math.ceil(x1), left)]
