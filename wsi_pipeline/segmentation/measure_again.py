"""Measure objects again after a person corrected their outlines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.objects import Objects, is_cell
from wsi_pipeline.formats.ome_zarr import rasterize
from wsi_pipeline.segmentation.cell_features import cell_features
from wsi_pipeline.segmentation.morphometry import OD_MEAN, mean_od, morphometry
from wsi_pipeline.slides.slide import Slide

__all__ = ["measure_again", "optical_density"]

BLOCK_PX = 1024
"""Side of the squares of which objects are read together, pixels of the model."""


def measure_again(
    objects: Objects, mpp: float, *, slide: Slide | None = None, model_mpp: float | None = None
) -> Objects:
    """Return objects with the measurements that a run makes of outlines; others stay.

    Parameters
    ----------
    mpp
        µm per level-0 pixel
    slide, model_mpp
        slide and µm per pixel of the model, for the optical density, which needs pixels
    """
    if slide is not None:
        density = optical_density(objects, slide, (model_mpp or mpp) / mpp)
        objects = replace(objects, features={**objects.features, OD_MEAN: density})
    if objects.parent is not None:
        return cell_features(objects, mpp)
    return replace(objects, features={**objects.features, **morphometry(objects, mpp)})


def optical_density(objects: Objects, slide: Slide, scale: float) -> NDArray[np.float32]:
    """Return the mean optical density of nuclei; NaN for cells, and where no pixel lies inside.

    A pixel of the model belongs to a nucleus where its centre lies inside the outline. In a run the
    network's own pixels count, so values of an outline that was not changed differ a little.

    Parameters
    ----------
    scale
        pixel size of the model over that of the slide
    """
    found = np.full(len(objects), np.nan, np.float32)
    rows = np.flatnonzero(~is_cell(objects))
    x0, y0 = np.floor(objects.bounds()[:, :2].T / scale).astype(np.int64)
    x1, y1 = np.ceil(objects.bounds()[:, 2:].T / scale).astype(np.int64)
    for group in _blocks(rows, x0, y0):
        box = Box(*(int(v) for v in (x0[group].min(), y0[group].min(), x1[group].max(),
                                     y1[group].max())))  # fmt: skip
        image = slide.read_scaled(box, scale)
        for i in group:
            across = slice(x0[i] - box.x0, x1[i] - box.x0)
            part = image[y0[i] - box.y0 : y1[i] - box.y0, across]
            labels = np.zeros(part.shape[:2], np.uint32)
            rasterize(labels, objects, np.array([i]), origin=(x0[i], y0[i]), factor=scale)
            mask = (labels > 0).astype(np.int32)
            found[i] = mean_od(part, mask, 1, background=slide.background)[0]
    return found


def _blocks(
    rows: NDArray[np.int64], x: NDArray[np.int64], y: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """Yield the rows whose corners lie in the same square."""
    place = np.stack([y[rows] // BLOCK_PX, x[rows] // BLOCK_PX], 1)
    _, which = np.unique(place, axis=0, return_inverse=True)
    order = np.argsort(which, kind="stable")
    yield from np.split(rows[order], np.flatnonzero(np.diff(which[order])) + 1)
