"""Find cells that are drawn on empty glass, with the rule that a run applies to its windows."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.objects import Objects, is_cell
from wsi_pipeline.core.run_layout import PARQUET, read_run
from wsi_pipeline.formats.parquet_rows import read_boxes, read_rows
from wsi_pipeline.segmentation.ghost_cells import is_ghost
from wsi_pipeline.slides.slide import Slide

__all__ = ["cells_on_glass"]

STRIP = 20_000
"""Cells whose outlines are in memory at once."""

Bools = NDArray[np.bool_]


def cells_on_glass(folder: Path, slide: Slide) -> Bools:
    """Return which objects of a run are cells with only glass under their cytoplasm, bool (n,).

    A run leaves such cells out; some appear where an outline changes later, and in runs of earlier
    versions. It takes about 3 ms per cell.

    Parameters
    ----------
    folder
        the run folder
    slide
        its slide, open

    Raises
    ------
    DataError
        the run cannot be read
    SlideTimeoutError
        the drive of the slide does not answer
    """
    path, run = folder / PARQUET, read_run(folder)
    mpp = (run["slide"]["mpp"]["x"] + run["slide"]["mpp"]["y"]) / 2
    light = read_boxes(path, ())
    cell, box = is_cell(light), light.bounds()
    found = np.zeros(len(light), bool)
    cells = np.flatnonzero(cell)
    cells = cells[np.argsort(box[cells, 1], kind="stable")]
    for start in range(0, len(cells), STRIP):
        own = cells[start : start + STRIP]
        near = (box[:, 3] >= box[own, 1].min()) & (box[:, 1] <= box[own, 3].max())
        rows = np.union1d(own, np.flatnonzero(~cell & near))
        objects = read_rows(path, rows, None)
        place = np.searchsorted(rows, own)
        found[own] = _ghosts(objects, place, slide, run["model"]["mpp"] / mpp)
    return found


def _ghosts(objects: Objects, cells: NDArray[np.int64], slide: Slide, scale: float) -> Bools:
    """Return which of the cells lie on glass; all other objects are nuclei."""
    shapes, box = objects.polygons(), objects.bounds() / scale
    nuclei = np.setdiff1d(np.arange(len(objects)), cells)
    tree = shapely.STRtree(shapes[nuclei])
    found = np.zeros(len(cells), bool)
    for n, i in enumerate(cells):
        aside, above = (box[i, 2:] - box[i, :2]) / 4
        low = np.floor(box[i, :2] - (aside, above)).astype(int)
        high = np.ceil(box[i, 2:] + (aside, above)).astype(int)
        window = Box(*low.tolist(), *high.tolist()).clip(
            Box(0, 0, int(slide.width / scale), int(slide.height / scale))
        )
        if window.width <= 0 or window.height <= 0:
            continue
        pixels, _ = slide.read_what_is_there(window, scale)
        corner = np.array([window.x0, window.y0])
        labels = np.zeros(pixels.shape[:2], np.int32)
        for value, members in ((1, [i]), (0, nuclei[tree.query(shapes[i])])):
            for k in members:
                ring = shapely.get_coordinates(shapes[k].exterior) / scale - corner - 0.5
                cv2.fillPoly(labels, [np.round(ring).astype(np.int32)], value)
        around = (box[[i]] - np.tile(corner, 2)).astype(np.float64)
        found[n] = is_ghost(pixels, labels, pixels, around, slide.background)[0]
    return found
