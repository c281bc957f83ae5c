"""Morphometry: shape of each object in µm, under the names that QuPath gives its own.

One compiled pass over the ragged polygons; shape is translation free, so that coordinates of
10⁵ px lose no digits.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.errors import MppError
from wsi_pipeline.core.objects import Objects

__all__ = [
    "MORPHOMETRY",
    "OD_MEAN",
    "mean_od",
    "morphometry",
]

MORPHOMETRY = (
    "Area µm^2",
    "Length µm",
    "Circularity",
    "Solidity",
    "Max diameter µm",
    "Min diameter µm",
    "Eccentricity",
)
"""What `morphometry` measures, without the prefix; all but the last are QuPath's names."""

OD_MEAN = "Nucleus: OD mean"
"""Name of what `mean_od` measures on nuclei."""


_POWERS = np.array([2, 1, 0, 0, 1, 1, 0])  # of the pixel size, for each of MORPHOMETRY
_GAPS = np.array([1750, 701, 301, 132, 57, 23, 10, 4, 1])  # Ciura's, for Shell's sort


def morphometry(
    objects: Objects, mpp: float, *, prefix: str = "Nucleus"
) -> dict[str, NDArray[np.float32]]:
    """Shape of every object, measurement name → float32 (n,).

    Names are "`prefix`: " and one of `MORPHOMETRY`. Area and Solidity (area ÷ area of the convex
    hull) are without the holes, Length is the perimeter with them, and Circularity, 4π area ÷
    perimeter², is that of the shell: all as in QuPath. Min diameter is the least width of the hull
    as in QuPath; Max diameter is the greatest distance of two vertices (Feret), where QuPath takes
    the smallest enclosing circle, up to 15 % more on triangles and the same on longish nuclei.
    Eccentricity is that of the ellipse with the polygon's second moments, 0 for a circle.
    A polygon without area has NaN where that would divide by zero.

    Parameters
    ----------
    objects
        n polygons in level-0 pixels
    mpp
        µm per level-0 pixel

    Raises
    ------
    MppError
        if `mpp` is not a positive number
    """
    if not (math.isfinite(mpp) and mpp > 0):
        raise MppError(f"pixel size {mpp} µm makes no sense; give a positive one, e.g. 0.25")
    table = _shapes(objects.coords, objects.ring_offsets, objects.object_offsets)
    table *= float(mpp) ** _POWERS[:, None]
    columns = table.astype(np.float32)
    return {f"{prefix}: {name}": column for name, column in zip(MORPHOMETRY, columns, strict=True)}


def mean_od(
    image: NDArray[np.uint8],
    labels: NDArray[np.int32],
    n: int,
    background: tuple[int, int, int] = (255, 255, 255),
) -> NDArray[np.float32]:
    """Mean optical density of each object, float32 (n,); NaN where it has no pixel.

    Optical density is −log10(max(v, 1) ÷ background), averaged over the channels and then over the
    object's pixels.

    Parameters
    ----------
    image
        uint8 (h, w, 3)
    labels
        int32 (h, w): 0 is background, object i has the pixels i + 1
    n
        number of objects
    background
        channel values of empty glass, 1 to 255

    Raises
    ------
    ValueError
        if the shapes disagree, a label is not in 0 … n or the background is not in 1 … 255
    """
    if image.shape != (*labels.shape, 3):
        raise ValueError(f"image {image.shape} and labels {labels.shape} disagree")
    if min(background) < 1 or max(background) > 255:
        raise ValueError(f"background {background} is not within 1 … 255")
    value = np.maximum(np.arange(256), 1)
    density = -np.log10(value / np.asarray(background, np.float64)[:, None]) / 3
    total, count = _sums(image, labels, density, n)
    if count[0] < 0:
        raise ValueError(f"a label is not within 0 … {n}, the number of objects")
    mean = np.full(n, np.nan, np.float32)
    np.divide(total[1:], count[1:], out=mean, where=count[1:] > 0, casting="same_kind")
    return mean


@numba.njit(nogil=True, cache=True)
def _sums(
    image: NDArray[np.uint8], labels: NDArray[np.int32], density: NDArray[np.float64], n: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sum of optical density and pixels per label; count[0] is −1 where a label is out of range."""
    total = np.zeros(n + 1)
    count = np.zeros(n + 1, np.int64)
    for i in range(labels.shape[0]):
        for j in range(labels.shape[1]):
            label = labels[i, j]
            if label == 0:
                continue
            if label < 0 or label > n:
                count[0] = -1
                return total, count
            r, g, b = image[i, j, 0], image[i, j, 1], image[i, j, 2]
            total[label] += density[0, r] + density[1, g] + density[2, b]
            count[label] += 1
    return total, count


@numba.njit(nogil=True, cache=True)
def _shapes(
    coords: NDArray[np.float64], rings: NDArray[np.int64], objects: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The measurements in pixels, one row for each of MORPHOMETRY (7, n)."""
    n = len(objects) - 1
    out = np.full((7, n), np.nan)
    longest = 0
    for i in range(n):
        longest = max(longest, rings[objects[i] + 1] - rings[objects[i]])
    points = np.empty((longest, 2))
    hull = np.empty((2 * longest + 2, 2))
    moments = np.empty(6)
    for i in range(n):
        moments[:] = 0
        length = shell_area = shell_length = 0.0
        origin = coords[rings[objects[i]]]
        for ring in range(objects[i], objects[i + 1]):
            sign = 1.0 if ring == objects[i] else -1.0
            vertices = coords[rings[ring] : rings[ring + 1]]
            ring_length = _add_ring(vertices, origin[0], origin[1], sign, moments)
            length += ring_length
            if sign > 0:
                shell_area, shell_length = moments[0], ring_length
        area = moments[0]
        out[0, i] = area
        out[1, i] = length
        if shell_length > 0:
            out[2, i] = 4 * math.pi * shell_area / shell_length**2
        first, last = rings[objects[i]], rings[objects[i] + 1]
        count = _hull(coords[first:last], points, hull)
        hull_area, out[4, i], out[5, i] = _calipers(hull, count)
        if hull_area > 0:
            out[3, i] = area / hull_area
        if area > 0:
            out[6, i] = _eccentricity(moments)
    return out


@numba.njit(nogil=True, cache=True)
def _add_ring(
    ring: NDArray[np.float64], x0: float, y0: float, sign: float, moments: NDArray[np.float64]
) -> float:
    """Add area, first (x, y) and second (xx, xy, yy) moments about (x0, y0); return the length."""
    area = mx = my = xx = xy = yy = length = 0.0
    ax, ay = ring[0, 0] - x0, ring[0, 1] - y0
    for k in range(1, len(ring)):
        bx, by = ring[k, 0] - x0, ring[k, 1] - y0
        cross = ax * by - bx * ay
        area += cross
        mx += cross * (ax + bx)
        my += cross * (ay + by)
        xx += cross * (ax * ax + ax * bx + bx * bx)
        yy += cross * (ay * ay + ay * by + by * by)
        xy += cross * (2 * ax * ay + ax * by + bx * ay + 2 * bx * by)
        length += math.sqrt((bx - ax) ** 2 + (by - ay) ** 2)
        ax, ay = bx, by
    # Rings may run either way; a shell adds and a hole subtracts.
    turn = sign if area >= 0 else -sign
    moments[0] += turn * area / 2
    moments[1] += turn * mx / 6
    moments[2] += turn * my / 6
    moments[3] += turn * xx / 12
    moments[4] += turn * xy / 24
    moments[5] += turn * yy / 12
    return length


@numba.njit(nogil=True, cache=True)
def _eccentricity(moments: NDArray[np.float64]) -> float:
    """Eccentricity of the ellipse that has these moments."""
    area, mx, my = moments[0], moments[1], moments[2]
    xx = moments[3] - mx * mx / area
    xy = moments[4] - mx * my / area
    yy = moments[5] - my * my / area
    spread = math.sqrt((xx - yy) ** 2 + 4 * xy * xy)
    major = xx + yy + spread
    return math.sqrt(min(1.0, 2 * spread / major)) if major > 0 else math.nan


@numba.njit(nogil=True, cache=True)
def _hull(ring: NDArray[np.float64], points: NDArray[np.float64], hull: NDArray[np.float64]) -> int:
    """Write the convex hull, counter-clockwise and open, relative to the first vertex; its size.

    Andrew's monotone chain.
    """
    n = len(ring) - 1
    for k in range(n):
        points[k, 0], points[k, 1] = ring[k, 0] - ring[0, 0], ring[k, 1] - ring[0, 1]
    _sort(points, n)
    size = 0
    for k in range(n):
        size = _append(hull, size, 0, points[k, 0], points[k, 1])
    start = size - 1
    for k in range(n - 2, -1, -1):
        size = _append(hull, size, start, points[k, 0], points[k, 1])
    return max(size - 1, 1)


@numba.njit(nogil=True, cache=True)
def _append(hull: NDArray[np.float64], size: int, start: int, x: float, y: float) -> int:
    """Append (x, y) to the chain that began at `start`, dropping what is no left turn."""
    while size >= start + 2:
        ax, ay = hull[size - 2, 0], hull[size - 2, 1]
        if (hull[size - 1, 0] - ax) * (y - ay) - (hull[size - 1, 1] - ay) * (x - ax) > 0:
            break
        size -= 1
    hull[size, 0], hull[size, 1] = x, y
    return size + 1


@numba.njit(nogil=True, cache=True)
def _sort(points: NDArray[np.float64], n: int) -> None:
    """Sort the first n points by x, then y, in place: few points at a time, so Shell's sort."""
    for gap in _GAPS:
        for k in range(gap, n):
            x, y = points[k, 0], points[k, 1]
            j = k
            while j >= gap and (
                points[j - gap, 0] > x or (points[j - gap, 0] == x and points[j - gap, 1] > y)
            ):
                points[j, 0], points[j, 1] = points[j - gap, 0], points[j - gap, 1]
                j -= gap
            points[j, 0], points[j, 1] = x, y


@numba.njit(nogil=True, cache=True)
def _calipers(hull: NDArray[np.float64], size: int) -> tuple[float, float, float]:
    """Area, greatest distance of two vertices and least width of a convex polygon."""
    if size < 3:
        dx, dy = hull[size - 1, 0] - hull[0, 0], hull[size - 1, 1] - hull[0, 1]
        return 0.0, math.sqrt(dx * dx + dy * dy), 0.0
    double_area = farthest = 0.0
    least = math.inf
    far = 1
    for i in range(size):
        j = i + 1 if i + 1 < size else 0
        ax, ay = hull[i, 0], hull[i, 1]
        ex, ey = hull[j, 0] - ax, hull[j, 1] - ay
        double_area += ax * hull[j, 1] - ay * hull[j, 0]
        height = ex * (hull[far, 1] - ay) - ey * (hull[far, 0] - ax)
        while True:
            dx, dy = hull[far, 0] - ax, hull[far, 1] - ay
            bx, by = hull[far, 0] - hull[j, 0], hull[far, 1] - hull[j, 1]
            farthest = max(farthest, dx * dx + dy * dy, bx * bx + by * by)
            ahead = far + 1 if far + 1 < size else 0
            higher = ex * (hull[ahead, 1] - ay) - ey * (hull[ahead, 0] - ax)
            if higher <= height:
                break
            far, height = ahead, higher
        least = min(least, height / math.sqrt(ex * ex + ey * ey))
    return double_area / 2, math.sqrt(farthest), least
