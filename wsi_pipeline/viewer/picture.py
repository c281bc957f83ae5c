"""The pixels of a slide as JPEG tiles of a pyramid in which each level halves the one below."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from wsi_pipeline.core.errors import DataError, SlideReadError
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.slides.slide import Slide

__all__ = ["TILE_PX", "Picture", "SlidePixels", "ThumbnailPixels"]

TILE_PX = 512
_QUALITY = 88
_CACHED_BYTES = 64 * 2**20
"""JPEG tiles that are kept, in bytes."""
_THUMBNAIL_PX = 2048
_STEPS_DOWN = 8.0
"""A tile is read from the thumbnail where each of its pixels would need more than this squared."""
_STRIPE = (np.array([205, 205, 205], np.uint8), np.array([170, 170, 170], np.uint8))
_STRIPE_PX = 12

Pixels = NDArray[np.uint8]


class SlidePixels:
    """Reads a slide; the overview of one without small levels comes from a thumbnail.

    Parameters
    ----------
    thumbnail
        picture of the whole slide that a run has written; without it one is read from the slide
    """

    def __init__(self, slide: Slide, thumbnail: Path | None = None) -> None:
        self.slide = slide
        self._file = thumbnail
        self._small: Pixels | None = None
        self._lock = threading.Lock()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of level 0."""
        return self.slide.width, self.slide.height

    def read(self, box: Box, scale: float) -> tuple[Pixels, NDArray[np.bool_]]:
        """Return pixels of a box of the grid of `scale`, and which could be read."""
        finest = max(
            (e.downsample for e in self.slide.levels if e.downsample <= scale * 1.001), default=1.0
        )
        whole = max(self.size) / _THUMBNAIL_PX
        if scale / finest > _STEPS_DOWN and scale >= whole / 2:
            small = self._thumbnail()
            return _from_thumbnail(small, self.slide.width / small.shape[1], box, scale)
        return self.slide.read_what_is_there(box, scale)

    def _thumbnail(self) -> Pixels:
        with self._lock:
            if self._small is None:
                if self._file is not None and self._file.is_file():
                    self._small = read_thumbnail(self._file)
                else:
                    box, scale = self.slide.thumbnail_box(_THUMBNAIL_PX)
                    self._small, _ = self.slide.read_what_is_there(box, scale)
            return self._small


@dataclass(frozen=True, eq=False)
class ThumbnailPixels:
    """Shows the thumbnail of a run, where the slide is not at hand."""

    pixels: Pixels
    width: int
    height: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of level 0."""
        return self.width, self.height

    def read(self, box: Box, scale: float) -> tuple[Pixels, NDArray[np.bool_]]:
        """Return pixels of a box of the grid of `scale`, enlarged where need be."""
        return _from_thumbnail(self.pixels, self.width / self.pixels.shape[1], box, scale)


def read_thumbnail(path: Path) -> Pixels:
    """Return the picture of a run, uint8 (h, w, 3).

    Raises
    ------
    DataError
        the file is missing or damaged
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read ({error}); give the slide") from error


def _from_thumbnail(
    pixels: Pixels, downsample: float, box: Box, scale: float
) -> tuple[Pixels, NDArray[np.bool_]]:
    step = scale / downsample
    area = tuple(v * step for v in (box.x0, box.y0, box.x1, box.y1))
    height, width = pixels.shape[:2]
    inside = (area[0], area[1], min(area[2], width), min(area[3], height))
    image = Image.fromarray(pixels).resize(
        (box.width, box.height), Image.Resampling.BILINEAR, box=inside
    )
    return np.asarray(image), np.ones((box.height, box.width), np.bool_)


class Picture:
    """Tiles of a slide as JPEG, the last ones kept in memory; any thread may read.

    Level 0 is one pixel; level `levels` - 1 is the slide's level 0.

    Attributes
    ----------
    width, height
        size of the slide's level 0
    unreadable
        number of tiles that were shown with stripes, in part or as a whole
    """

    def __init__(self, source: SlidePixels | ThumbnailPixels) -> None:
        self.source = source
        self.width, self.height = source.size
        self.levels = math.ceil(math.log2(max(self.width, self.height, 2))) + 1
        self.unreadable = 0
        self._cache: OrderedDict[tuple[int, int, int], bytes] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def tile(self, level: int, column: int, row: int) -> bytes:
        """Return one tile as JPEG; what cannot be read is striped.

        Raises
        ------
        DataError
            there is no such tile
        """
        scale = float(2 ** (self.levels - 1 - level)) if 0 <= level < self.levels else 0.0
        if not scale:
            raise DataError(f"level {level} does not exist; levels are 0 to {self.levels - 1}")
        width, height = math.ceil(self.width / scale), math.ceil(self.height / scale)
        box = Box(column * TILE_PX, row * TILE_PX, (column + 1) * TILE_PX, (row + 1) * TILE_PX)
        box = box.clip(Box(0, 0, width, height))
        if box.width <= 0 or box.height <= 0:
            raise DataError(f"tile {column}, {row} is outside level {level}")
        key = (level, column, row)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        return self._kept(key, *self._read(box, scale))

    def crop(self, x: float, y: float, side: float, most_px: int) -> bytes:
        """Return the square of `side` level-0 pixels around a point as JPEG."""
        scale = max(1.0, side / most_px)
        left, top = round((x - side / 2) / scale), round((y - side / 2) / scale)
        count = max(1, round(side / scale))
        pixels, _ = self._read(Box(left, top, left + count, top + count), scale)
        return _jpeg(pixels)

    def _read(self, box: Box, scale: float) -> tuple[Pixels, bool]:
        """Return the pixels of a box, and whether all could be read."""
        try:
            pixels, readable = self.source.read(box, scale)
        except SlideReadError:
            return _striped(np.zeros((box.height, box.width, 3), np.uint8), None), False
        if readable.all():
            return pixels, True
        return _striped(pixels, readable), False

    def _kept(self, key: tuple[int, int, int], pixels: Pixels, complete: bool) -> bytes:
        jpeg = _jpeg(pixels)
        with self._lock:
            self.unreadable += not complete
            if complete:  # a drive may come back
                self._held += len(jpeg) - len(self._cache.pop(key, b""))
                self._cache[key] = jpeg
                while self._held > _CACHED_BYTES:
                    self._held -= len(self._cache.popitem(last=False)[1])
        return jpeg


def _striped(pixels: Pixels, readable: NDArray[np.bool_] | None) -> Pixels:
    """Return the pixels with diagonal stripes where they are not readable."""
    height, width = pixels.shape[:2]
    y, x = np.mgrid[:height, :width]
    dark = ((x + y) // _STRIPE_PX % 2).astype(np.bool_)
    stripes: Any = np.where(dark[..., None], _STRIPE[1], _STRIPE[0])
    if readable is None:
        return np.ascontiguousarray(stripes)
    return np.ascontiguousarray(np.where(readable[..., None], pixels, stripes))


def _jpeg(pixels: Pixels) -> bytes:
    jpeg: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels), _QUALITY, colorspace="RGB", colorsubsampling="420"
    )
    return jpeg
