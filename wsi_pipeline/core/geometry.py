"""Boxes, regions and tiles on the grid of model pixels.

The grid covers the slide; its pixel has the model's mpp. Regions partition the grid, and the
tiles of a region partition the region with its margin. A region or tile owns its core; the halo
is the context around the core.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

__all__ = ["Box", "Region", "Tile", "paste", "plan_regions", "plan_tiles"]


@dataclass(frozen=True, order=True)
class Box:
    """Half-open rectangle [x0, x1) × [y0, y1) in pixels.

    Examples
    --------
    >>> box = Box(0, 0, 512, 256)
    >>> box.width, box.height
    (512, 256)
    >>> box.grow(8).clip(Box(0, 0, 516, 256))
    Box(x0=0, y0=0, x1=516, y1=256)
    """

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.y1 - self.y0

    def grow(self, margin: int) -> Box:
        """Return the box with `margin` more pixels on each side."""
        return Box(self.x0 - margin, self.y0 - margin, self.x1 + margin, self.y1 + margin)

    def shift(self, x: int, y: int) -> Box:
        """Return the box moved by `x` and `y`."""
        return Box(self.x0 + x, self.y0 + y, self.x1 + x, self.y1 + y)

    def clip(self, other: Box) -> Box:
        """Return the part of the box inside `other`, which may be empty."""
        x0, y0 = max(self.x0, other.x0), max(self.y0, other.y0)
        return Box(x0, y0, max(x0, min(self.x1, other.x1)), max(y0, min(self.y1, other.y1)))

    def around(self, other: Box) -> Box:
        """Return the smallest box that holds this one and `other`."""
        return Box(
            min(self.x0, other.x0),
            min(self.y0, other.y0),
            max(self.x1, other.x1),
            max(self.y1, other.y1),
        )

    def snap(self, stride: int) -> Box:
        """Return the smallest box that holds this one and has corners at multiples of `stride`."""
        return Box(
            self.x0 // stride * stride,
            self.y0 // stride * stride,
            -(-self.x1 // stride) * stride,
            -(-self.y1 // stride) * stride,
        )

    def halves(self) -> tuple[Box, Box]:
        """Return the halves of the box, cut across its longer side; the left or top one first."""
        if self.width >= self.height:
            x = (self.x0 + self.x1) // 2
            return Box(self.x0, self.y0, x, self.y1), Box(x, self.y0, self.x1, self.y1)
        y = (self.y0 + self.y1) // 2
        return Box(self.x0, self.y0, self.x1, y), Box(self.x0, y, self.x1, self.y1)

    def cut(self, width: int, height: int) -> Iterator[Box]:
        """Yield the parts of the box in each cell of a grid, row by row.

        The cells are `width` × `height` pixels, and one of them starts at (0, 0).
        """
        for y in range(self.y0 // height * height, self.y1, height):
            for x in range(self.x0 // width * width, self.x1, width):
                yield Box(x, y, x + width, y + height).clip(self)

    def contains(self, x: float, y: float) -> bool:
        """Whether the point (x, y) lies in the box."""
        return self.x0 <= x < self.x1 and self.y0 <= y < self.y1


@dataclass(frozen=True)
class Region:
    """A block of tiles that is read, segmented and polygonised as one task.

    `index` numbers the regions of a slide row by row; `core` is what the region owns.
    """

    index: int
    core: Box


@dataclass(frozen=True)
class Tile:
    """Input of one call of the network: the core, and `halo` pixels of context on each side."""

    core: Box
    halo: int

    @property
    def window(self) -> Box:
        """Return the core with its halo."""
        return self.core.grow(self.halo)


def plan_regions(width: int, height: int, region_px: int) -> Iterator[Region]:
    """Yield regions whose cores partition a grid of `width` × `height` pixels, row by row.

    Examples
    --------
    >>> [region.core for region in plan_regions(700, 500, 512)]
    [Box(x0=0, y0=0, x1=512, y1=500), Box(x0=512, y0=0, x1=700, y1=500)]
    """
    index = 0
    for y in range(0, height, region_px):
        for x in range(0, width, region_px):
            yield Region(index, Box(x, y, min(x + region_px, width), min(y + region_px, height)))
            index += 1


def plan_tiles(window: Box, tile_px: int, halo: int) -> Iterator[Tile]:
    """Yield tiles of one shape whose cores cover `window`, row by row from its top left corner.

    The last cores may extend beyond the window, so that all tiles have the same shape.

    Examples
    --------
    >>> [tile.window for tile in plan_tiles(Box(0, 0, 600, 500), 512, halo=8)]
    [Box(x0=-8, y0=-8, x1=520, y1=520), Box(x0=504, y0=-8, x1=1032, y1=520)]
    """
    for y in range(window.y0, window.y1, tile_px):
        for x in range(window.x0, window.x1, tile_px):
            yield Tile(Box(x, y, x + tile_px, y + tile_px), halo)


def paste(out: NDArray[Any], box: Box, pixels: NDArray[Any], where: Box) -> None:
    """Copy pixels into `out` where two boxes overlap.

    Parameters
    ----------
    out
        (h, w, …), the pixels of `box`; changed in place
    pixels
        (h, w, …), whose top left pixel is that of `where`
    """
    both = box.clip(where)
    out[both.y0 - box.y0 : both.y1 - box.y0, both.x0 - box.x0 : both.x1 - box.x0] = pixels[
        both.y0 - where.y0 : both.y1 - where.y0, both.x0 - where.x0 : both.x1 - where.x0
    ]
