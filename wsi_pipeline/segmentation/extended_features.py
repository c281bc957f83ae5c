"""Measure stain, texture and neighbours of objects, by option after a run.

Pixels are read in blocks, and each object is measured on one grid of the whole slide, so that
neither the result nor the memory for pixels depends on the size of the slide or of the blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.spatial import KDTree

from wsi_pipeline.core.errors import DataError
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.objects import Objects, is_cell
from wsi_pipeline.formats.ome_zarr import rasterize
from wsi_pipeline.segmentation.pixel_features import (
    COLUMNS,
    LEVELS,
    OD_RANGE,
    STAIN_VECTORS,
    density_table,
    glcm_steps,
    measure_pixels,
    unmixing,
)
from wsi_pipeline.slides.slide import Slide

__all__ = ["EXTENDED", "GRID_UM", "extended_features", "extended_settings", "neighbours"]

GRID_UM = 0.5
"""Pixel size at which pixels are measured, µm; a coarser slide has its own."""
STEP_UM = 1.0
"""Distance of the pixels of a pair in the co-occurrence matrix, µm."""
RADIUS_UM = 50.0
"""Nuclei whose centroids are nearer than this are neighbours."""
BLOCK_PX = 1024
"""Side of the squares of which objects are read together, pixels of the grid."""

NUCLEUS_COVERED = "Nucleus: Covered share"
CYTOPLASM_MEASURED = "Cytoplasm: Measured share"
NEAREST = "Nucleus: Nearest nucleus µm"
WITHIN = f"Nucleus: Nuclei within {RADIUS_UM:g} µm"
_OF_NUCLEI = (*(f"Nucleus: {name}" for name in COLUMNS if name != "OD mean"), NUCLEUS_COVERED)
_OF_CELLS = (*(f"Cytoplasm: {name}" for name in COLUMNS), CYTOPLASM_MEASURED)

EXTENDED = (*_OF_NUCLEI, *_OF_CELLS, NEAREST, WITHIN)
"""Names of all measurements that `extended_features` may add."""


def extended_features(objects: Objects, slide: Slide, mpp: float) -> Objects:
    """Return objects with measurements of stain, texture and neighbours besides their own.

    Nuclei get those with "Nucleus:", cells those with "Cytoplasm:"; elsewhere they are NaN.

    - A pixel belongs to an object where its centre lies inside the outline.
    - A pixel that two nuclei cover counts for neither.
    - The cytoplasm is the cell without any nucleus, its own or another's, and without what other
      cells cover: densities add up there. `Cytoplasm: Measured share` states how much is left.
    - A nucleus counts also where other cells lie over it; `Nucleus: Covered share` states how much.

    Parameters
    ----------
    objects
        n nuclei or cells of the slide, with real outlines
    slide
        the slide
    mpp
        µm per level-0 pixel

    Raises
    ------
    DataError
        the objects are boxes of a detector
    SlideReadError
        part of the slide cannot be read
    """
    if any(name.startswith("Box: ") for name in objects.features):
        raise DataError("the objects are boxes of a detector; only outlines can be measured")
    table = dict(objects.features) | neighbours(objects, mpp)
    return replace(objects, features=table | _of_pixels(objects, slide, mpp))


def extended_settings(mpp: float) -> Mapping[str, Any]:
    """Return what the measurements depend on, as JSON values.

    Parameters
    ----------
    mpp
        µm per level-0 pixel
    """
    grid = max(GRID_UM, mpp)
    return MappingProxyType(
        {
            "grid_um": grid,
            "glcm_levels": LEVELS,
            "glcm_od_range": OD_RANGE,
            "glcm_step_um": _step_px(grid) * grid,
            "radius_um": RADIUS_UM,
            "stain_vectors": STAIN_VECTORS.tolist(),
        }
    )


def neighbours(objects: Objects, mpp: float) -> dict[str, NDArray[np.float32]]:
    """Return distance to the nearest other nucleus and number of nuclei around; NaN for cells.

    Distances are those of centroids. All nuclei count, of whatever class.
    """
    rows = np.flatnonzero(~is_cell(objects))
    middle = shapely.centroid(objects.polygons()[rows])
    points = np.stack([shapely.get_x(middle), shapely.get_y(middle)], 1) * mpp
    nearest, around = np.full((2, len(objects)), np.nan, np.float32)
    if len(rows):
        tree = KDTree(points)
        if len(rows) > 1:
            nearest[rows] = tree.query(points, k=2)[0][:, 1]
        around[rows] = tree.query_ball_point(points, RADIUS_UM, return_length=True) - 1
    return {NEAREST: nearest, WITHIN: around}


def _step_px(grid: float) -> int:
    return max(1, round(STEP_UM / grid))


@dataclass(frozen=True, eq=False)
class _Grid:
    """The objects on the grid of measured pixels.

    Attributes
    ----------
    objects, cells
        objects (n,), and which are cells
    scale
        grid pixel in level-0 pixels
    bounds
        int64 (n, 4): x0, y0, x1, y1 of the pixels that an object may have
    """

    objects: Objects
    cells: NDArray[np.bool_]
    scale: float
    bounds: NDArray[np.int64]

    def mask(self, i: int) -> NDArray[np.bool_]:
        """Return the pixels of object i inside its bounds."""
        x0, y0, x1, y1 = self.bounds[i]
        labels = np.zeros((y1 - y0, x1 - x0), np.uint32)
        rasterize(labels, self.objects, np.array([i]), origin=(x0, y0), factor=self.scale)
        return labels > 0

    def within(self, i: int, box: Box) -> tuple[slice, slice]:
        """Return rows and columns of the bounds of object i in the pixels of a box."""
        x0, y0, x1, y1 = self.bounds[i]
        return slice(y0 - box.y0, y1 - box.y0), slice(x0 - box.x0, x1 - box.x0)


def _of_pixels(objects: Objects, slide: Slide, mpp: float) -> dict[str, NDArray[np.float32]]:
    """Return the measurements of pixels, all of them, float32 (n,)."""
    scale = max(GRID_UM, mpp) / mpp
    low, high = objects.bounds()[:, :2] / scale, objects.bounds()[:, 2:] / scale
    bounds = np.hstack([np.floor(low), np.ceil(high)]).astype(np.int64)
    grid = _Grid(objects, is_cell(objects), scale, bounds)
    tree = shapely.STRtree(shapely.box(*bounds.T))
    steps, matrix = glcm_steps(_step_px(max(GRID_UM, mpp))), unmixing()
    densities = density_table(slide.background)
    found = np.full((len(objects), len(COLUMNS) + 1), np.nan)
    for group in _blocks(bounds):
        low, high = bounds[group, :2].min(0), bounds[group, 2:].max(0)
        box = Box(*(int(v) for v in (*low, *high)))
        image = slide.read_scaled(box, scale)
        over = _covers(grid, tree.query(shapely.box(*low, *high)), box)
        for i in group:
            at = grid.within(i, box)
            mask, cells, nuclei = grid.mask(i), over[0][at], over[1][at]
            used, found[i, -1] = _used(objects, i, grid.cells[i], mask, cells, nuclei)
            found[i, :-1] = measure_pixels(image[at], used, densities, steps, matrix)
    return _named(found, grid.cells, objects.parent is not None)


def _used(
    objects: Objects, i: int, cell: bool, mask: NDArray[np.bool_],
    cells: NDArray[np.uint16], nuclei: NDArray[np.uint16],
) -> tuple[NDArray[np.bool_], float]:  # fmt: skip
    """Return which pixels of an object count, and its share as in `extended_features`."""
    if cell:
        outside = mask & (nuclei == 0)
        used = outside & (cells == 1)
        return used, used.sum() / outside.sum() if outside.any() else math.nan
    own = objects.parent is not None and objects.parent[i] >= 0
    covered = (mask & (cells > own)).sum()
    return mask & (nuclei == 1), covered / mask.sum() if mask.any() else math.nan


def _covers(
    grid: _Grid, which: NDArray[np.int64], box: Box
) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Return how many cells, and how many nuclei, cover each pixel of a box."""
    # Objects that reach beyond the box are counted on a larger one.
    around = Box(
        *(int(v) for v in (*grid.bounds[which, :2].min(0), *grid.bounds[which, 2:].max(0)))
    )
    count = np.zeros((2, around.height, around.width), np.uint16)
    for i in which:
        count[int(not grid.cells[i])][grid.within(i, around)] += grid.mask(i)
    top, left = box.y0 - around.y0, box.x0 - around.x0
    cells, nuclei = count[:, top : top + box.height, left : left + box.width]
    return cells, nuclei


def _named(
    found: NDArray[np.float64], cells: NDArray[np.bool_], linked: bool
) -> dict[str, NDArray[np.float32]]:
    """Return the table (n, measurements) as named columns, NaN where they do not apply."""
    named: dict[str, NDArray[np.float32]] = {}
    for names, rows in ((_OF_NUCLEI, ~cells), (_OF_CELLS, cells)):
        if names is _OF_CELLS and not (linked or cells.any()):
            continue
        prefix = names[0].split(":")[0]
        for k, name in enumerate([*(f"{prefix}: {c}" for c in COLUMNS), names[-1]]):
            if name in names and (linked or name != NUCLEUS_COVERED):
                named[name] = np.where(rows, found[:, k], np.nan).astype(np.float32)
    return named


def _blocks(bounds: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield the objects whose first corners lie in the same square."""
    place = bounds[:, 1::-1] // BLOCK_PX
    _, which = np.unique(place, axis=0, return_inverse=True)
    order = np.argsort(which, kind="stable")
    if len(order):
        yield from np.split(order, np.flatnonzero(np.diff(which[order])) + 1)
