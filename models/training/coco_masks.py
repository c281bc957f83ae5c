"""Decode the masks of COCO files: polygons, compressed and uncompressed RLE."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["FARTHEST_PX", "Bools", "Window", "decode_mask", "run_lengths", "scaled_rle"]

Bools = NDArray[np.bool_]
Window = tuple[int, int, int, int]
"""x0, y0, x1, y1 of a part of an image, pixels."""

FARTHEST_PX = 2**17
"""Points of an outline lie within this distance of the image's corner, or within twice its side.

pycocotools takes memory for each pixel of an outline's length, and crashes on huge numbers.
"""
LONGEST_PX = 2**21
"""Length of all outlines of an annotation, pixels; pycocotools takes 120 bytes for each.

It crashes where it does not get the memory, and a zigzag of 100 lines can be too long for it.
"""


def decode_mask(segmentation: Any, shape: tuple[int, int]) -> tuple[Window, Bools]:
    """Decode COCO polygons, compressed or uncompressed RLE.

    Parameters
    ----------
    segmentation
        polygons ``[[x, y, x, y, …], …]``, whose union is the mask and which are cut at the
        image's border, or ``{"size": [h, w], "counts": …}``
    shape
        height and width of the image

    Returns
    -------
    window, mask
        the smallest window that holds the mask, and the mask in it, bool (y1 − y0, x1 − x0);
        an empty window where nothing is covered

    Raises
    ------
    ValueError
        neither polygons nor RLE, or broken ones

    Examples
    --------
    >>> window, mask = decode_mask({"size": [2, 3], "counts": [2, 2, 2]}, (2, 3))
    >>> window, mask.shape
    ((1, 0, 2, 2), (2, 1))
    """
    if isinstance(segmentation, list):
        x0, y0, mask = _draw_polygons(segmentation, shape)
    else:
        x0, y0, mask = _draw_runs(run_lengths(segmentation, shape), shape)
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return (0, 0, 0, 0), np.zeros((0, 0), bool)
    (top, bottom), (left, right) = ((v[0], v[-1] + 1) for v in (rows, columns))
    window = int(x0 + left), int(y0 + top), int(x0 + right), int(y0 + bottom)
    return window, mask[top:bottom, left:right].copy()


def scaled_rle(segmentation: Any, image_shape: tuple[int, int], shape: tuple[int, int]) -> Any:
    """Return a mask of an image of `image_shape` (h, w) as compressed RLE of `shape` (h, w).

    Polygons are scaled before they are drawn; run lengths are resized to the nearest pixel.

    Raises
    ------
    ValueError
        as `decode_mask`
    """
    from pycocotools import mask as coco

    if isinstance(segmentation, list):
        scale = np.array([shape[1] / image_shape[1], shape[0] / image_shape[0]])
        outlines = _rings(segmentation, image_shape)
        scaled = [ring * scale for ring in outlines]
        _check_length(scaled)
        return coco.merge(coco.frPyObjects([ring.ravel().tolist() for ring in scaled], *shape))
    counts = run_lengths(segmentation, image_shape).tolist()
    rle = coco.frPyObjects({"size": list(image_shape), "counts": counts}, *image_shape)
    if shape == image_shape:
        return rle
    mask = cv2.resize(coco.decode(rle), shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return coco.encode(np.asfortranarray(mask))


def _rings(polygons: Sequence[Any], shape: tuple[int, int]) -> list[NDArray[np.float64]]:
    """Return the points (n, 2) of each polygon, checked for an image of `shape` (h, w)."""
    if any(isinstance(polygon, dict) for polygon in polygons):
        raise ValueError("an RLE lies in a list; give each annotation one, without the brackets")
    rings = [np.asarray(polygon, float).ravel() for polygon in polygons]
    if not rings or any(ring.size < 6 or not np.isfinite(ring).all() for ring in rings):
        raise ValueError(
            "a polygon has three or more points, all of them numbers; draw it again, or remove "
            "the annotation"
        )
    if odd := [ring.size for ring in rings if ring.size % 2]:
        raise ValueError(f"a polygon has {odd[0]} numbers; it takes an x and a y for each point")
    farthest = max(FARTHEST_PX, 2 * max(shape))
    for ring in rings:
        if (largest := float(np.abs(ring).max())) > farthest:
            raise ValueError(
                f"a coordinate is {largest:g} pixels away from an image of {shape[1]} x {shape[0]}"
            )
        if ring.min() >= 0 and 0 < largest <= 1 < min(shape):
            raise ValueError("all its coordinates lie between 0 and 1; give them in pixels")
    return [ring.reshape(-1, 2) for ring in rings]


def _check_length(rings: Sequence[NDArray[np.float64]]) -> None:
    """Refuse outlines that are too long to be drawn."""
    sides = (np.abs(ring - np.roll(ring, 1, axis=0)).max(axis=1) for ring in rings)
    length = float(sum(side.sum() for side in sides))
    if length > LONGEST_PX:
        raise ValueError(
            f"its outlines are {length:g} pixels long, more than {LONGEST_PX}; draw it with fewer "
            "points, or split it"
        )


def _draw_polygons(polygons: Sequence[Any], shape: tuple[int, int]) -> tuple[int, int, Bools]:
    """Draw the union of polygons: x0, y0 and the mask from there on."""
    from pycocotools import mask as coco

    rings = _rings(polygons, shape)
    _check_length(rings)
    points = np.concatenate(rings)
    x0, y0 = np.maximum(np.floor(points.min(0)).astype(int) - 1, 0).tolist()
    x1, y1 = np.minimum(np.ceil(points.max(0)).astype(int) + 1, shape[::-1]).tolist()
    if x0 >= x1 or y0 >= y1:
        return 0, 0, np.zeros((0, 0), bool)
    near = [(ring - (x0, y0)).ravel().tolist() for ring in rings]
    rle = coco.merge(coco.frPyObjects(near, y1 - y0, x1 - x0))
    return x0, y0, coco.decode(rle).astype(bool)


def _draw_runs(runs: NDArray[np.int64], shape: tuple[int, int]) -> tuple[int, int, Bools]:
    """Draw run lengths: x0, y0 and the mask of the columns that they reach."""
    h = shape[0]
    ends = np.append(0, runs.cumsum())
    first, last = ends[1:-1:2], ends[2::2]  # each run of pixels inside
    inside = first < last
    if not inside.any():
        return 0, 0, np.zeros((0, 0), bool)
    x0, x1 = int(first[inside][0]) // h, -(-int(last[inside][-1]) // h)
    near = np.diff(ends.clip(x0 * h, x1 * h))
    mask = np.repeat(np.arange(len(near)) % 2 == 1, near).reshape(x1 - x0, h).T
    return x0, 0, mask


def run_lengths(segmentation: Any, shape: tuple[int, int]) -> NDArray[np.int64]:
    """Return checked run lengths of an RLE: pixels outside, inside, outside …, column by column.

    Raises
    ------
    ValueError
        not an RLE, one of another size than `shape` (h, w), or runs that do not fill it
    """
    if not isinstance(segmentation, dict) or "counts" not in segmentation:
        raise ValueError(
            "its segmentation is neither polygons nor RLE; draw its outline, or remove the "
            "annotation"
        )
    size = tuple(segmentation.get("size", shape))
    if size != tuple(shape):
        raise ValueError(f"its mask has {size} and its image {tuple(shape)} rows and columns")
    counts = segmentation["counts"]
    numbers = counts if isinstance(counts, list) else _unpack(counts)
    if not all(isinstance(n, int) or (isinstance(n, float) and n.is_integer()) for n in numbers):
        raise ValueError("its runs are not whole numbers")
    # Python's numbers have no largest one, so a sum of huge runs cannot come out right by chance.
    covered = sum(map(int, numbers))
    if any(n < 0 for n in numbers) or covered != math.prod(shape):
        raise ValueError(f"its runs cover {covered} of {math.prod(shape)} pixels; is it cut off?")
    return np.asarray(numbers, np.int64)


def _unpack(text: str | bytes) -> list[int]:
    """Decode COCO's compressed RLE to run lengths.

    Each number is written in digits of five bits, lowest first, with a sixth bit where more
    follow. From the fourth number on it is the difference to the number two before (source:
    rleFrString in pycocotools, which reads beyond the end of a broken text).
    """
    runs: list[int] = []
    value = shift = 0
    for code in text.encode() if isinstance(text, str) else text:
        digit = code - 48
        if not 0 <= digit < 64:
            raise ValueError(f"{chr(code)!r} is no digit of a compressed RLE")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("a compressed RLE ends within a number")
    return runs
