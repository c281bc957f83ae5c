"""Tiling: pure geometry of regions and tiles on a slide's model-pixel grid.

The slide is laid on one grid whose pixel is the model's mpp. Regions partition that grid; the
tiles of a region partition the region together with its margin. A core is what a region or tile
owns, the halo is the context around it that it only sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

__all__ = [
    "Box",
    "Region",
    "Tile",
    "paste",
    "plan_regions",
    "plan_tiles",
]


@dataclass(frozen=True, order=True)
class Box:
    """Half-open rectangle [x0, x1) × [y0, y1) in pixels."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return self.y1 - self.y0

    def grow(self, margin: int) -> Box:
        """The box with `margin` more pixels on each side."""
        return Box(self.x0 - margin, self.y0 - margin, self.x1 + margin, self.y1 + margin)

    def shift(self, x: int, y: int) -> Box:
        """The box moved by `x` and `y`."""
        return Box(self.x0 + x, self.y0 + y, self.x1 + x, self.y1 + y)

    def clip(self, other: Box) -> Box:
        """The part that lies in `other`; may be empty."""
        x0, y0 = max(self.x0, other.x0), max(self.y0, other.y0)
        return Box(x0, y0, max(x0, min(self.x1, other.x1)), max(y0, min(self.y1, other.y1)))

    def around(self, other: Box) -> Box:
        """The smallest box around this one and another."""
        return Box(
            min(self.x0, other.x0),
            min(self.y0, other.y0),
            max(self.x1, other.x1),
            max(self.y1, other.y1),
        )

    def snap(self, stride: int) -> Box:
        """The smallest box around this one whose corners are multiples of `stride`."""
        return Box(
            self.x0 // stride * stride,
            self.y0 // stride * stride,
            -(-self.x1 // stride) * stride,
            -(-self.y1 // stride) * stride,
        )

    def halves(self) -> tuple[Box, Box]:
        """The box cut in two across its longer side: left and right, or top and bottom."""
        if self.width >= self.height:
            x = (self.x0 + self.x1) // 2
            return Box(self.x0, self.y0, x, self.y1), Box(x, self.y0, self.x1, self.y1)
        y = (self.y0 + self.y1) // 2
        return Box(self.x0, self.y0, self.x1, y), Box(self.x0, y, self.x1, self.y1)

    def contains(self, x: float, y: float) -> bool:
        """Whether the point (x, y) lies in the box."""
        return self.x0 <= x < self.x1 and self.y0 <= y < self.y1


@dataclass(frozen=True)
class Region:
    """A block of tiles that is read, segmented and polygonised as one task."""

    index: int
    core: Box


@dataclass(frozen=True)
class Tile:
    """What the network sees at once: `core` is kept, the halo around it is context."""

    core: Box
    halo: int

    @property
    def window(self) -> Box:
        """Core and halo."""
        return self.core.grow(self.halo)


def plan_regions(width: int, height: int, region_px: int) -> Iterator[Region]:
    """Regions whose cores partition a grid of `width` × `height` pixels, row by row."""
    index = 0
    for y in range(0, height, region_px):
        for x in range(0, width, region_px):
            yield Region(index, Box(x, y, min(x + region_px, width), min(y + region_px, height)))
            index += 1


def plan_tiles(window: Box, tile_px: int, halo: int) -> Iterator[Tile]:
    """Tiles of one shape whose cores cover `window` from its top left corner, row by row.

    The last cores may reach beyond the window, so that a network sees a single shape.
    """
    for y in range(window.y0, window.y1, tile_px):
        for x in range(window.x0, window.x1, tile_px):
            yield Tile(Box(x, y, x + tile_px, y + tile_px), halo)


def paste(out: NDArray[Any], box: Box, pixels: NDArray[Any], where: Box) -> None:
    """Copy into `out`, the pixels of `box`, those of `pixels`, which start where `where` does."""
    both = box.clip(where)
    out[both.y0 - box.y0 : both.y1 - box.y0, both.x0 - box.x0 : both.x1 - box.x0] = pixels[
        both.y0 - where.y0 : both.y1 - where.y0, both.x0 - where.x0 : both.x1 - where.x0
    ]
