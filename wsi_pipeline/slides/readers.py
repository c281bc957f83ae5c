"""What every reader of slide files gives: a header, and windows of the levels.

There is one reader for each library that decodes: `OpenSlideReader`, `TiffReader`, `ImageReader`,
and `FastTiffReader`, which decodes the tiles of OpenSlide's TIFF files itself. In all of them a
pixel has the same value in every window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.pixel_size import Mpp

__all__ = [
    "CHUNK_PX",
    "MAX_AREA_PX",
    "MAX_PX",
    "MAX_SIDE_PX",
    "MAX_TILE_PX",
    "WHITE",
    "Choice",
    "Chosen",
    "Header",
    "Level",
    "Reader",
    "Refusal",
    "check_size",
    "choose_number",
    "make_levels",
    "plausible_mpp",
]

WHITE = (255, 255, 255)
MAX_PX = 2**29
"""Most pixels of an image or strip that must be decoded whole: 1.6 GB of RGB, twice at the peak."""
MAX_TILE_PX = 2**26
"""Most pixels of a tile; several tiles are held at the same time."""
MAX_SIDE_PX = 2**22
"""Largest side of an image: a slide is 76 mm long, and this is 84 mm at 0.02 µm per pixel."""
MAX_AREA_PX = 2**38
"""Most pixels of an image: a whole glass slide has them at 0.08 µm per pixel."""
CHUNK_PX = 512
"""Side of the chunks that are read at a time where a file has no tiles, px."""


@dataclass(frozen=True)
class Level:
    """One level of the pyramid: its size in its own pixels, and its downsample from level 0."""

    width: int
    height: int
    downsample: float


@dataclass(frozen=True)
class Header:
    """What a file declares about itself.

    Attributes
    ----------
    vendor
        format of the file, as the library calls it
    levels
        the whole pyramid, level 0 first
    bounds
        scanned area, level-0 pixels
    mpp
        pixel size, where the file has one
    background
        RGB of everything transparent or outside
    notes
        how the file was understood, for the user
    plane, time
        numbers of the focal plane and of the time point that are read
    """

    vendor: str
    levels: tuple[Level, ...]
    bounds: Box
    mpp: Mpp | None = None
    background: tuple[int, int, int] = WHITE
    notes: tuple[str, ...] = ()
    plane: int = 0
    time: int = 0


@dataclass(frozen=True)
class Choice:
    """Which image of a file is the slide.

    Attributes
    ----------
    series
        number of the image among those of the file, from 0; the largest by default
    plane
        number of the focal plane, from 0; the middle one by default
    time
        number of the time point, or of the page of a plain file with several, from 0; the first
        by default
    """

    series: int | None = None
    plane: int | None = None
    time: int | None = None


@dataclass(frozen=True)
class Chosen:
    """Which of several focal planes or time points is read, and what the user is told of it."""

    index: int
    notes: tuple[str, ...]


def check_size(width: int, height: int) -> None:
    """Refuse sizes that no slide has: their thumbnail alone could take all memory.

    Raises
    ------
    Refusal
        a side is not positive, or too long; or there are too many pixels

    Examples
    --------
    >>> check_size(16_777_216, 300)
    Traceback (most recent call last):
    wsi_pipeline.slides.readers.Refusal: it states 16777216 x 300 pixels; no slide is so large
    """
    if min(width, height) < 1:
        raise Refusal(f"it states {width} x {height} pixels; the file is damaged")
    if max(width, height) > MAX_SIDE_PX or width * height > MAX_AREA_PX:
        raise Refusal(f"it states {width} x {height} pixels; no slide is so large")


def choose_number(wanted: int | None, count: int, what: str) -> Chosen:
    """Return which of `count` focal planes or time points is read.

    Parameters
    ----------
    wanted
        its number; None: the middle focal plane, else the first
    what
        "focal plane", "time point" or "page"

    Raises
    ------
    Refusal
        it does not exist

    Examples
    --------
    >>> choose_number(None, 5, "time point").notes
    ('time point 0 of 5 is read (the first; --time chooses another)',)
    """
    if wanted is not None and not 0 <= wanted < count:
        raise Refusal(f"{what} {wanted} does not exist; the image has {count}, from 0 on")
    is_plane = what == "focal plane"
    usual = count // 2 if is_plane else 0
    option = "the middle one; --plane" if is_plane else "the first; --time"
    index = usual if wanted is None else wanted
    why = f"{option} chooses another" if wanted is None else "as chosen"
    return Chosen(index, (f"{what} {index} of {count} is read ({why})",) * (count > 1))


class Reader(Protocol):
    """An open slide file. Any thread may read."""

    name: str
    header: Header

    def read(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Return the pixels (h, w, 3) of a box that lies inside the level and is not empty."""

    def tile(self, level: int) -> tuple[int, int]:
        """Return width and height of a tile or strip: damage makes all of it unreadable."""

    def close(self) -> None:
        """Close the file."""


class Refusal(Exception):
    """The reason why a reader does not support a file; another reader may."""


def make_levels(sizes: list[tuple[int, int]]) -> tuple[Level, ...]:
    """Return levels of the given (width, height), the largest first."""
    width, height = sizes[0]
    return tuple(Level(w, h, (width / w + height / h) / 2) for w, h in sizes)


def plausible_mpp(mpp: Mpp | None) -> tuple[Mpp | None, tuple[str, ...]]:
    """Return the pixel size of a resolution tag, or None and a note where it is implausible.

    Many programs write the resolution for printing, e.g. 300 dpi, into that tag.
    """
    if mpp is None or mpp.plausible:
        return mpp, ()
    return None, (f"resolution tag of {mpp.value:g} µm per pixel is implausible and ignored",)
