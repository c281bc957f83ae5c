"""Foreground: the area of a slide to segment, as a mask of its thumbnail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.geometry import Box

__all__ = ["Foreground", "intersect", "roi_foreground"]


@dataclass(frozen=True, eq=False)
class Foreground:
    """The area to segment on a slide of `width` × `height` level-0 pixels.

    Mask pixel (i, j) covers level-0 x in [j, j + 1) × downsample and y in [i, i + 1) × downsample;
    the last row and column extend to the end of the slide.

    Attributes
    ----------
    mask
        bool (rows, columns): True in the area
    downsample
        level-0 pixels per mask pixel
    width, height
        size of the slide, level-0 pixels
    rule
        how the area was found, in words

    Raises
    ------
    ValueError
        the mask does not cover the slide
    """

    mask: NDArray[np.bool_]
    downsample: float
    width: int
    height: int
    rule: str

    def __post_init__(self) -> None:
        rows, columns = self.mask.shape
        off = max(
            abs(columns * self.downsample - self.width), abs(rows * self.downsample - self.height)
        )
        if off > 2 * self.downsample or not self.mask.size:
            raise ValueError(
                f"a mask of {columns} x {rows} at downsample {self.downsample:g} does not cover "
                f"a slide of {self.width} x {self.height}; give the downsample of the thumbnail"
            )

    @cached_property
    def share(self) -> float:
        """Area divided by the area of the slide, 0 to 1."""
        rows, columns = self.mask.shape
        y = np.append(np.arange(rows) * self.downsample, self.height)
        x = np.append(np.arange(columns) * self.downsample, self.width)
        kept = float(np.diff(y) @ self.mask @ np.diff(x))
        return min(1.0, kept / (self.width * self.height))

    @cached_property
    def _integral(self) -> NDArray[np.int64]:
        """Number of True pixels above and left of each corner, int64 (rows + 1, columns + 1)."""
        total = np.zeros((self.mask.shape[0] + 1, self.mask.shape[1] + 1), np.int64)
        np.cumsum(np.cumsum(self.mask, axis=0, dtype=np.int64), axis=1, out=total[1:, 1:])
        return total

    def covers(self, x0: float, y0: float, x1: float, y1: float) -> bool:
        """Return whether the area meets the level-0 box [x0, x1) × [y0, y1)."""
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, self.width), min(y1, self.height)
        if x0 >= x1 or y0 >= y1:
            return False
        # Python numbers are faster than arrays here, and this runs once for each tile of a slide.
        rows, columns = self.mask.shape
        top, left = int(y0 // self.downsample), int(x0 // self.downsample)
        top, left = min(top, rows - 1), min(left, columns - 1)
        bottom = min(max(math.ceil(y1 / self.downsample), top + 1), rows)
        right = min(max(math.ceil(x1 / self.downsample), left + 1), columns)
        total = self._integral
        below = total[bottom, right] - total[bottom, left]
        return bool(below > total[top, right] - total[top, left])

    def _any(
        self,
        rows: tuple[NDArray[np.int64], NDArray[np.int64]],
        columns: tuple[NDArray[np.int64], NDArray[np.int64]],
    ) -> NDArray[np.bool_]:
        """Return for each span of rows and each span of columns whether the area meets both."""
        (top, bottom), (left, right), total = rows, columns, self._integral
        below = total[np.ix_(bottom, right)] - total[np.ix_(bottom, left)]
        above = total[np.ix_(top, right)] - total[np.ix_(top, left)]
        return below > above

    def window(self, box: Box, scale: float) -> NDArray[np.bool_]:
        """Return the mask on a window of the model grid, bool (box.height, box.width).

        Pixel i of the grid covers level-0 [i, i + 1) × scale and takes the mask pixel under its
        centre, so that its value is the same in every window. It is False outside the slide.
        """
        x = (np.arange(box.x0, box.x1) + 0.5) * scale
        y = (np.arange(box.y0, box.y1) + 0.5) * scale
        # A mask pixel covers many rows of the window: one of them is computed, then copied.
        some, which = np.unique(self._index(y, 0), return_inverse=True)
        columns = self.mask[np.ix_(some, self._index(x, 1))] & ((x >= 0) & (x < self.width))
        rows = columns[which]
        rows[(y < 0) | (y >= self.height)] = False
        return np.asarray(rows)

    def contains(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return which level-0 points (n,) lie in the area, bool (n,); False outside the slide."""
        inside = (x >= 0) & (x < self.width) & (y >= 0) & (y < self.height)
        return np.asarray(self.mask[self._index(y, 0), self._index(x, 1)] & inside)

    def _index(self, at: NDArray[np.floating], axis: int) -> NDArray[np.int64]:
        """Return the mask rows (axis 0) or columns (axis 1) at level-0 positions, clipped."""
        index = np.floor(np.asarray(at) / self.downsample)
        return np.clip(index, 0, self.mask.shape[axis] - 1).astype(np.int64)

    def polygons(self) -> list[shapely.Polygon]:
        """Return the area as disjoint polygons with holes, level-0 pixels, along pixel edges."""
        padded = np.pad(self.mask, ((0, 0), (1, 1))).astype(np.int8)
        change = np.diff(padded, axis=1)
        row, left = np.nonzero(change == 1)
        right = np.nonzero(change == -1)[1]
        edge_x = np.append(np.arange(self.mask.shape[1]) * self.downsample, self.width)
        edge_y = np.append(np.arange(self.mask.shape[0]) * self.downsample, self.height)
        runs = shapely.box(edge_x[left], edge_y[row], edge_x[right], edge_y[row + 1])
        whole = shapely.simplify(shapely.union_all(runs), 0)
        return [part for part in shapely.get_parts(whole) if part.area > 0]

    def dilate(self, margin_px: float) -> Foreground:
        """Return the area with a margin of `margin_px` level-0 pixels around it."""
        if margin_px <= 0 or not self.mask.any():
            return self
        nothing = (~self.mask).astype(np.uint8)
        away = cv2.distanceTransform(nothing, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        # The distance is between pixel centres; two points of such pixels can be √2 px nearer.
        return replace(self, mask=away <= margin_px / self.downsample + np.sqrt(2))


def roi_foreground(
    geometries: Sequence[shapely.Geometry], width: int, height: int, max_px: int = 2048
) -> Foreground:
    """Return regions of interest as a foreground: all mask pixels that a geometry meets.

    Parameters
    ----------
    geometries
        shapely geometries, level-0 pixels
    width, height
        size of the slide, level-0 pixels
    max_px
        longest side of the mask
    """
    downsample = max(1.0, max(width, height) / max_px)
    rows, columns = (max(1, int(np.ceil(side / downsample - 1e-9))) for side in (height, width))
    mask = np.zeros((rows, columns), np.bool_)
    for geometry in geometries:
        _touch(mask, shapely.make_valid(geometry), downsample)
    return Foreground(mask, downsample, width, height, f"{len(geometries)} regions of interest")


def _touch(mask: NDArray[np.bool_], geometry: shapely.Geometry, downsample: float) -> None:
    """Set the pixels of `mask` that `geometry` meets, from large blocks down to single pixels."""
    shapely.prepare(geometry)
    side = 1 << (max(mask.shape) - 1).bit_length()
    corners = np.zeros((1, 2), np.int64)
    while len(corners):
        low = corners * downsample
        high = (corners + side) * downsample
        boxes = shapely.box(low[:, 0], low[:, 1], high[:, 0], high[:, 1])
        met = shapely.intersects(geometry, boxes)
        if shapely.get_dimensions(geometry) == 2:
            met &= ~shapely.touches(geometry, boxes)
        full = met if side == 1 else met & shapely.contains_properly(geometry, boxes)
        for x, y in corners[full]:
            mask[y : y + side, x : x + side] = True
        split = corners[met & ~full]
        side //= 2
        quarters = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * side
        corners = (split[:, None] + quarters).reshape(-1, 2)
        corners = corners[(corners[:, 0] < mask.shape[1]) & (corners[:, 1] < mask.shape[0])]


def intersect(a: Foreground, b: Foreground) -> Foreground:
    """Return the area of both, on the finer of the two masks; a pixel that both meet is True.

    Raises
    ------
    ValueError
        the slides differ in size
    """
    if (a.width, a.height) != (b.width, b.height):
        raise ValueError(
            f"the foregrounds belong to slides of {a.width} x {a.height} and "
            f"{b.width} x {b.height} px; give two of the same slide"
        )
    rule = f"{a.rule}; {b.rule}"
    if a.mask.shape == b.mask.shape and a.downsample == b.downsample:
        return replace(a, mask=a.mask & b.mask, rule=rule)
    fine, coarse = sorted((a, b), key=lambda f: (f.downsample, -f.mask.size))
    spans = []
    for axis, end in ((0, a.height), (1, a.width)):
        low = np.arange(fine.mask.shape[axis]) * fine.downsample
        high = np.append(low[1:], max(end, low[-1]))
        spans.append(_span(low, high, coarse.downsample, coarse.mask.shape[axis]))
    return replace(fine, mask=fine.mask & coarse._any(spans[0], spans[1]), rule=rule)


def _span(
    low: NDArray[np.floating], high: NDArray[np.floating], downsample: float, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first and one past the last of `count` mask pixels that meet [low, high)."""
    first = np.clip(np.floor(low / downsample), 0, count - 1).astype(np.int64)
    last = np.clip(np.ceil(high / downsample), first + 1, count).astype(np.int64)
    return first, last
