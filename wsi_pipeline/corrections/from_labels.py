"""Make a training set of images with label images: each object has a number of its own there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from wsi_pipeline.core.errors import DataError, UsageError, one_line
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.pixel_size import MPP_RANGE, is_plausible_mpp
from wsi_pipeline.corrections.coco_set import SetObject, SetWriter, run_lengths
from wsi_pipeline.corrections.objects import CELL, NUCLEUS
from wsi_pipeline.slides.slide import open_slide

__all__ = ["dataset_from_labels", "find_labels"]

IMAGES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".webp")
LABELS = (".png", ".tif", ".tiff")
ENDINGS = ("", "_labels", "_label", "_masks", "_mask", "_nuclei", "_cells")
"""What the name of a label image may have after that of its image."""
_AROUND_PX = 3
"""A nucleus belongs to the cell around it, where its own pixels have no cell."""

Labels = NDArray[np.int32]
Window = tuple[slice, slice]


def dataset_from_labels(
    images: Path,
    nuclei: Path,
    out: Path,
    *,
    mpp: float,
    cells: Path | None = None,
    components: bool = False,
    partial: bool = False,
) -> dict[str, int]:
    """Write images with label images as a training set.

    Parameters
    ----------
    images
        an image, or a folder of them
    nuclei, cells
        a label image, or a folder with one for each image, named after it: 0 is background, and
        each nucleus, or whole cell, has another number. A cell includes its nucleus
    mpp
        µm per pixel
    components
        split each number into its connected parts: for masks, in which all objects have one number
    partial
        whether only some objects are drawn: the rest is unknown, not background

    Returns
    -------
    dict
        number of ``images``, ``nuclei`` and ``cells``, and of ``nuclei without a cell``

    Raises
    ------
    UsageError, DataError, SlideError, OutputError
        a file is missing or cannot be used, or `out` holds a set
    """
    if not is_plausible_mpp(mpp):
        raise UsageError(f"--mpp {mpp:g} is no pixel size, {MPP_RANGE}")
    found = [
        (path, find_labels(nuclei, path, "--nuclei"),
         None if cells is None else find_labels(cells, path, "--cells"))
        for path in _images(images)
    ]  # fmt: skip
    writer = SetWriter(out)
    counts = {"images": 0, "nuclei": 0, "cells": 0, "nuclei without a cell": 0}
    for path, of_nuclei, of_cells in found:
        with open_slide(path, mpp=mpp) as image:
            pixels = image.read_region(Box(0, 0, image.width, image.height))
        shape = pixels.shape[0], pixels.shape[1]
        drawn = _read(of_nuclei, shape, components)
        around = None if of_cells is None else _read(of_cells, shape, components)
        objects = list(_objects(drawn, around))
        more = {"exhaustive": False} if partial else {}
        writer.add(path.stem, pixels, objects, mpp=mpp, **more)
        own = [one for one in objects if one.role == NUCLEUS]
        counts["images"] += 1
        counts["nuclei"] += len(own)
        counts["cells"] += len(objects) - len(own)
        if around is not None:
            counts["nuclei without a cell"] += sum(one.cell_id is None for one in own)
    writer.finish(cells=cells is not None, description="objects of label images, wsiseg")
    return counts


def _images(place: Path) -> list[Path]:
    """Return the images at a place, sorted."""
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise DataError(f"{place} does not exist; give an image, or a folder of images")
    found = sorted(p for p in place.iterdir() if p.suffix.lower() in IMAGES and p.is_file())
    if not found:
        raise DataError(f"{place} has no image ({', '.join(IMAGES)}); give another folder")
    if len({path.stem for path in found}) < len(found):
        raise DataError(f"{place} has images with the same name and another ending; rename one")
    return found


def find_labels(place: Path, image: Path, option: str) -> Path:
    """Return the label image of an image: the file itself, or the one in a folder with its name.

    Raises
    ------
    DataError
        there is none, or there are several
    """
    if place.is_file():
        return place
    names = {f"{image.stem}{ending}" for ending in ENDINGS}
    files = sorted(place.iterdir()) if place.is_dir() else []
    fits = [p for p in files if p.suffix.lower() in LABELS and p.stem in names and p != image]
    if len(fits) != 1:
        raise DataError(
            f"{option} {place} has {len(fits)} label images of {image.name}; name one "
            f"{image.stem}.png or .tif, or {image.stem}_labels.png"
        )
    return fits[0]


def _read(path: Path, shape: tuple[int, int], components: bool) -> Labels:
    """Read a label image (h, w); numbers become 1, 2, … in their order."""
    try:
        tiff = path.suffix.lower() in (".tif", ".tiff")
        labels: Any = tifffile.imread(path) if tiff else cv2.imread(str(path), -1)
    except (OSError, ValueError, cv2.error) as error:
        raise DataError(f"{path} cannot be read ({one_line(error)})") from error
    if labels is None:
        raise DataError(f"{path} is no image that can be read; save it as PNG or TIFF")
    labels = np.squeeze(labels)
    if labels.ndim != 2 or labels.dtype.kind not in "bui":
        raise DataError(
            f"{path} has the shape {labels.shape} and {labels.dtype} values; a label image has one "
            "whole number per pixel, save it without colours"
        )
    if labels.shape != shape:
        raise DataError(
            f"{path} has {labels.shape[1]} x {labels.shape[0]} pixels, and its image "
            f"{shape[1]} x {shape[0]}; give the labels of that image"
        )
    if labels.min(initial=0) < 0:
        raise DataError(
            f"{path} has the number {labels.min()}; numbers are 0 or more, 0 is background"
        )
    numbers, index = np.unique(labels, return_inverse=True)
    numbered = index.reshape(shape).astype(np.int32) + int(numbers[0] != 0)
    parts = _parts(numbered)
    if components:
        return parts
    if numbered.max() == 1 and parts.max() > 1:
        raise DataError(
            f"{path} has one number for {parts.max()} separate parts; it is a mask. Give "
            "--components, which takes each part as an object"
        )
    return numbered


def _parts(labels: Labels) -> Labels:
    """Return the connected parts of each number, numbered from 1."""
    if labels.max(initial=0) <= 1:
        return cv2.connectedComponents((labels > 0).astype(np.uint8))[1].astype(np.int32)
    out, count = np.zeros_like(labels), 0
    for number, window in enumerate(ndimage.find_objects(labels), 1):
        own = (labels[window] == number).astype(np.uint8)
        n, parts = cv2.connectedComponents(own)
        out[window] = np.where(own > 0, parts + count, out[window])
        count += n - 1
    return out


def _objects(nuclei: Labels, cells: Labels | None) -> Iterator[SetObject]:
    """Yield the cells and then the nuclei of an image, joined by the number of the cell."""
    windows: list[Window] = ndimage.find_objects(nuclei)
    owner = [_cell_of(nuclei, cells, k, window) for k, window in enumerate(windows, 1)]
    if cells is not None:
        for number, window in enumerate(ndimage.find_objects(cells), 1):
            held = [k for k, cell in enumerate(owner, 1) if cell == number]
            place = _around([window, *(windows[k - 1] for k in held)])
            mask = (cells[place] == number) | np.isin(nuclei[place], held)
            yield _object(mask, place, cells.shape, CELL, number)
    for number, (window, cell) in enumerate(zip(windows, owner, strict=True), 1):
        yield _object(nuclei[window] == number, window, nuclei.shape, NUCLEUS, cell)


def _cell_of(nuclei: Labels, cells: Labels | None, number: int, window: Window) -> int | None:
    """Return the cell that has most pixels of a nucleus, or of what is around it."""
    if cells is None:
        return None
    rows, columns = (slice(max(s.start - _AROUND_PX, 0), s.stop + _AROUND_PX) for s in window)
    own = (nuclei[rows, columns] == number).astype(np.uint8)
    wider = cv2.dilate(own, np.ones((2 * _AROUND_PX + 1,) * 2, np.uint8))
    for mask in (own, wider):
        inside = cells[rows, columns][mask > 0]
        inside = inside[inside > 0]
        if len(inside):
            return int(np.bincount(inside).argmax())
    return None


def _around(windows: list[Window]) -> Window:
    rows, columns = zip(*windows, strict=True)
    return tuple(  # type: ignore[return-value]
        slice(min(s.start for s in side), max(s.stop for s in side)) for side in (rows, columns)
    )


def _object(
    mask: NDArray[np.bool_], window: Window, shape: tuple[int, ...], role: int, cell: int | None
) -> SetObject:
    y, x = window[0].start, window[1].start
    box = (x, y, mask.shape[1], mask.shape[0])
    return SetObject(run_lengths(mask, (y, x), shape), role, float(mask.sum()), box, cell)
