"""Contours: from label images to closed rings in pixel edges, with as few vertices as needed."""

from __future__ import annotations

import numba
import numpy as np
import shapely
from numpy.typing import NDArray

__all__ = [
    "simplified",
    "simplify",
    "trace",
]

Bytes = NDArray[np.uint8]


@numba.njit(nogil=True, cache=True)
def trace(
    labels: NDArray[np.int32], probability: Bytes, first: NDArray[np.int32], level: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Outer contours of objects 1…n of a label image, in pixel edges of the window.

    Follows the cracks between inside and outside pixels. On each crack lies one vertex: where
    `probability`, interpolated between the two pixel centres, crosses `level`; half-way between
    two objects. A contour therefore never meets itself, and holes are filled.

    Returns
    -------
    vertices float64 (v, 2) as x, y, each ring closed; offsets int64 (n + 1,)
    """
    h, w = labels.shape
    vertices = np.empty((max(64, 64 * len(first)), 2), np.float64)
    offsets = np.zeros(len(first) + 1, np.int64)
    dx, dy = (1, 0, -1, 0), (0, 1, 0, -1)  # east, south, west, north
    # Pixel on the right and on the left of an edge that leaves corner (x, y) in each direction.
    rx, ry = (0, -1, -1, 0), (0, 0, -1, -1)
    lx, ly = (0, 0, -1, -1), (-1, 0, 0, -1)
    v = 0
    for k in range(len(first)):
        x, y = first[k]
        start_x, start_y, way, begin = x, y, 0, v
        while True:
            ic, ir = x + rx[way], y + ry[way]
            oc, orow = x + lx[way], y + ly[way]
            share = 0.5
            inside = float(probability[ir, ic])
            if 0 <= oc < w and 0 <= orow < h and labels[orow, oc] == 0:
                outside = float(probability[orow, oc])
                if outside < level <= inside:
                    share = min(0.95, max(0.05, (inside - level) / (inside - outside)))
                    # Whole 1/256 px are exact wherever the window lies; so is the sum with it.
                    share = np.floor(share * 256 + 0.5) / 256
            if v == len(vertices):
                wider = np.empty((2 * v, 2), np.float64)
                wider[:v] = vertices
                vertices = wider
            vertices[v, 0] = ic + 0.5 + share * (oc - ic)
            vertices[v, 1] = ir + 0.5 + share * (orow - ir)
            v += 1
            x, y = x + dx[way], y + dy[way]
            ac, ar = x + rx[way], y + ry[way]
            ahead = 0 <= ac < w and 0 <= ar < h and labels[ar, ac] == k + 1
            bc, br = x + lx[way], y + ly[way]
            beside = 0 <= bc < w and 0 <= br < h and labels[br, bc] == k + 1
            if not ahead:
                way = (way + 1) % 4
            elif beside:
                way = (way + 3) % 4
            if x == start_x and y == start_y and way == 0:
                break
        if v == len(vertices):
            wider = np.empty((2 * v, 2), np.float64)
            wider[:v] = vertices
            vertices = wider
        vertices[v] = vertices[begin]
        v += 1
        offsets[k + 1] = v
    return vertices[:v].copy(), offsets


@numba.njit(nogil=True, cache=True)
def simplify(
    vertices: NDArray[np.float64], offsets: NDArray[np.int64], tolerance: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Closed rings with fewer vertices, off by their `tolerance` (n,) at most (Douglas–Peucker)."""
    kept = np.zeros(len(vertices), np.bool_)
    out_offsets = np.zeros_like(offsets)
    stack = np.empty((64, 2), np.int64)
    count = 0
    for k in range(len(offsets) - 1):
        begin, end = offsets[k], offsets[k + 1] - 1
        # Cut the ring at its first vertex and at the one farthest from it.
        split, best = begin, -1.0
        for i in range(begin, end):
            d = (vertices[i, 0] - vertices[begin, 0]) ** 2 + (
                vertices[i, 1] - vertices[begin, 1]
            ) ** 2
            if d > best:
                split, best = i, d
        kept[begin] = kept[split] = kept[end] = True
        top = 2
        stack[0, 0], stack[0, 1] = begin, split
        stack[1, 0], stack[1, 1] = split, end
        while top > 0:
            top -= 1
            a, b = stack[top]
            far, at = tolerance[k], -1
            ax, ay = vertices[a]
            bx, by = vertices[b]
            length = np.hypot(bx - ax, by - ay)
            for i in range(a + 1, b):
                px, py = vertices[i]
                if length > 0:
                    d = abs((bx - ax) * (py - ay) - (by - ay) * (px - ax)) / length
                else:
                    d = np.hypot(px - ax, py - ay)
                if d > far:
                    far, at = d, i
            if at >= 0:
                kept[at] = True
                if top + 2 > len(stack):
                    wider = np.empty((2 * len(stack), 2), np.int64)
                    wider[:top] = stack[:top]
                    stack = wider
                stack[top, 0], stack[top, 1] = a, at
                stack[top + 1, 0], stack[top + 1, 1] = at, b
                top += 2
        for i in range(begin, end + 1):
            count += kept[i]
        out_offsets[k + 1] = count
    out = np.empty((count, 2), np.float64)
    j = 0
    for i in range(len(vertices)):
        if kept[i]:
            out[j] = vertices[i]
            j += 1
    return out, out_offsets


def simplified(
    vertices: NDArray[np.float64], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Closed rings with fewer vertices, off by half a level-0 pixel at most, and which are valid.

    They lie on 0.01 px. A ring that would cross itself, or be a line, keeps all its vertices.
    """
    tolerance = np.full(len(offsets) - 1, 0.5)
    while True:
        coords, shorter = simplify(vertices, offsets, tolerance)
        line = (np.diff(shorter) < 4) & (tolerance >= 0)
        if line.any():
            tolerance[line] = -1
            continue
        coords = np.round(coords, 2)
        rings = np.arange(len(offsets), dtype=np.int64)
        polygons = shapely.from_ragged_array(shapely.GeometryType.POLYGON, coords, (shorter, rings))
        valid = shapely.is_valid(polygons)
        crossed = ~valid & (tolerance > 0)
        if not crossed.any():
            return coords, shorter, valid
        tolerance[crossed] = 0
