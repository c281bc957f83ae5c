"""Slides through OpenSlide."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import openslide
from numpy.typing import NDArray

from wsi_pipeline.core.errors import SlideFormatError, one_line
from wsi_pipeline.core.geometry import Box, paste
from wsi_pipeline.slides.readers import (
    CHUNK_PX,
    MAX_TILE_PX,
    Header,
    Level,
    Mpp,
    Refusal,
    plausible_mpp,
)
from wsi_pipeline.slides.resample import flatten

__all__ = [
    "OpenSlideReader",
]


class OpenSlideReader:
    """Aperio, Hamamatsu, MIRAX, Leica, Ventana, DICOM, tiled TIFF and what else OpenSlide reads.

    Raises `Refusal` when OpenSlide does not know the format, `SlideFormatError` when it does but
    the file is broken: no other reader should make up a slide from what is left of it.
    """

    name = "openslide"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            self._handle = openslide.OpenSlide(path)
            self.header = _openslide_header(self._handle)
        except openslide.OpenSlideUnsupportedFormatError as error:
            raise Refusal(one_line(error)) from error
        except openslide.OpenSlideError as error:
            raise SlideFormatError(
                f"{path.name} is damaged or not supported ({one_line(error)}); "
                "copy it again, or export it as a pyramidal TIFF"
            ) from error
        # A handle that has met an error answers nothing any more, so this is asked beforehand.
        self._tiles = _tile_sizes(self._handle)
        _check_tiles(path, self._handle, self._tiles)

    def read(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Pixels (h, w, 3) of a box of the level.

        OpenSlide takes positions in level-0 pixels. Where the downsample is not whole they miss
        the pixels of the level by a fraction, and OpenSlide interpolates; fixed chunks then keep
        that fraction, and so every pixel, the same in all windows.
        """
        if self.header.levels[level].downsample.is_integer():
            return self._read(level, box)
        out = np.empty((box.height, box.width, 3), np.uint8)
        around = box.snap(CHUNK_PX)
        whole = Box(0, 0, self.header.levels[level].width, self.header.levels[level].height)
        for y in range(around.y0, around.y1, CHUNK_PX):
            for x in range(around.x0, around.x1, CHUNK_PX):
                chunk = Box(x, y, x + CHUNK_PX, y + CHUNK_PX).clip(whole)
                paste(out, box, self._read(level, chunk), chunk)
        return out

    def _read(self, level: int, box: Box) -> NDArray[np.uint8]:
        handle = self._handle
        try:
            return self._decode(handle, level, box)
        except openslide.OpenSlideError:
            # A handle that has met an error gives nothing but that error. It may be the error of
            # another thread's tile, so this one is read again by itself.
            with self._lock:
                if self._handle is handle:
                    self._handle = openslide.OpenSlide(self._path)
            with openslide.OpenSlide(self._path) as alone:
                return self._decode(alone, level, box)

    def _decode(self, handle: Any, level: int, box: Box) -> NDArray[np.uint8]:
        downsample = self.header.levels[level].downsample
        corner = (round(box.x0 * downsample), round(box.y0 * downsample))
        rgba = handle.read_region(corner, level, (box.width, box.height))
        return flatten(np.asarray(rgba), self.header.background)

    def tile(self, level: int) -> tuple[int, int]:
        """Width and height of a tile, or of a chunk that is read at a time."""
        width, height = (min(side or CHUNK_PX, CHUNK_PX) for side in self._tiles[level])
        return width, height

    def close(self) -> None:
        """Let go of the file."""
        self._handle.close()


def _tile_sizes(handle: Any) -> list[tuple[int, int]]:
    """Width and height of the tiles of each level, 0 where OpenSlide does not say."""
    properties = handle.properties
    names = [f"openslide.level[{n}].tile-" for n in range(handle.level_count)]
    return [
        (int(properties.get(f"{n}width", 0)), int(properties.get(f"{n}height", 0))) for n in names
    ]


def _check_tiles(path: Path, handle: Any, tiles: list[tuple[int, int]]) -> None:
    """Refuse tiles for which OpenSlide could get no memory: it then ends the whole process."""
    # Hamamatsu's level that is one tile is read in rows.
    if handle.properties["openslide.vendor"] == "hamamatsu":
        return
    for width, height in tiles:
        if width * height > MAX_TILE_PX:
            handle.close()
            raise SlideFormatError(
                f"{path.name} has tiles of {width} x {height} pixels, more than {MAX_TILE_PX}; "
                "convert it to a pyramidal TIFF with tiles of 512 x 512"
            )


def _openslide_header(handle: Any) -> Header:
    properties = dict(handle.properties)
    vendor = properties["openslide.vendor"]
    if vendor == "generic-tiff" and any(
        mark in properties.get("tiff.ImageDescription", "") for mark in ("<OME", "PerkinElmer-QPI")
    ):
        # As plain TIFF it would lose its pyramid, or take its channels for one.
        raise Refusal("OME-TIFF and QPTIFF are read by tifffile")
    notes: tuple[str, ...] = ()
    mpp = _openslide_mpp(properties)
    if vendor == "generic-tiff":
        mpp, notes = plausible_mpp(mpp)
    colour = properties.get("openslide.background-color", "FFFFFF")
    width, height = handle.dimensions
    sizes = zip(handle.level_dimensions, handle.level_downsamples, strict=True)
    return Header(
        vendor=vendor,
        levels=tuple(Level(w, h, downsample) for (w, h), downsample in sizes),
        bounds=_openslide_bounds(properties, Box(0, 0, width, height)),
        mpp=mpp,
        background=(int(colour[:2], 16), int(colour[2:4], 16), int(colour[4:6], 16)),
        notes=notes,
    )


def _openslide_mpp(properties: dict[str, str]) -> Mpp | None:
    texts = [properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
    sizes = [_number(text) for text in texts if text is not None]
    return Mpp(sizes[0], sizes[1], "metadata") if len(sizes) == 2 else None


def _openslide_bounds(properties: dict[str, str], canvas: Box) -> Box:
    x, y, width, height = (
        _number(properties.get(f"openslide.bounds-{name}", ""))
        for name in ("x", "y", "width", "height")
    )
    if not (width > 0 and height > 0 and math.isfinite(x + y + width + height)):
        return canvas
    bounds = Box(int(x), int(y), int(x + width), int(y + height)).clip(canvas)
    return bounds if bounds.width > 0 and bounds.height > 0 else canvas


def _number(text: str) -> float:
    """The number that a property holds; NaN, which is refused where it is used, if none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
