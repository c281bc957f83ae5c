"""Readers: what stands behind a slide, one class for each library that decodes.

A reader describes the whole file in a `Header` and reads windows of its levels. The same pixel
has the same value in every window. TIFF that OpenSlide does not know has its own module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.geometry import Box

__all__ = [
    "MAX_PX",
    "MAX_TILE_PX",
    "Header",
    "Level",
    "Mpp",
    "Reader",
]

WHITE = (255, 255, 255)
MAX_PX = 2**29
"""Pixels of a picture or strip that can only be decoded whole: 1.6 GB of RGB, and as much again."""
MAX_TILE_PX = 2**26
"""Pixels of a tile, of which several are held at once."""
CHUNK_PX = 512


@dataclass(frozen=True)
class Level:
    """One level of the pyramid: its size in its own pixels, and level 0's size over it."""

    width: int
    height: int
    downsample: float


@dataclass(frozen=True)
class Mpp:
    """Pixel size in µm, and where it comes from: "metadata", "slide sheet" or "--mpp"."""

    x: float
    y: float
    source: str

    @property
    def value(self) -> float:
        """Mean of both directions."""
        return (self.x + self.y) / 2

    @property
    def plausible(self) -> bool:
        """Whether a microscope can have made such pixels."""
        return all(0.02 <= size <= 20 for size in (self.x, self.y))


@dataclass(frozen=True)
class Header:
    """What a file says about itself; `bounds` in pixels of level 0, `levels` of all of it."""

    vendor: str
    levels: tuple[Level, ...]
    bounds: Box
    mpp: Mpp | None = None
    background: tuple[int, int, int] = WHITE
    notes: tuple[str, ...] = ()


class Reader(Protocol):
    """An open file. Reads may come from any thread."""

    name: str
    header: Header

    def read(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Pixels (h, w, 3) of a box that lies in the level and is not empty."""

    def tile(self, level: int) -> tuple[int, int]:
        """Width and height of what is damaged as a whole: a tile, or a strip."""

    def close(self) -> None:
        """Let go of the file."""


class Refusal(Exception):
    """Why one reader cannot use a file; another one may."""


def make_levels(sizes: list[tuple[int, int]]) -> tuple[Level, ...]:
    """Levels of the given widths and heights, the largest first."""
    width, height = sizes[0]
    return tuple(Level(w, h, (width / w + height / h) / 2) for w, h in sizes)


def plausible_mpp(mpp: Mpp | None) -> tuple[Mpp | None, tuple[str, ...]]:
    """A pixel size from a resolution tag, unless it is the one for print; and a note then."""
    if mpp is None or mpp.plausible:
        return mpp, ()
    return None, (f"resolution tag of {mpp.value:g} µm per pixel not believed",)
