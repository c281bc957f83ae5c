"""Read slides with OpenSlide."""

from __future__ import annotations

import contextlib
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import openslide
from numpy.typing import NDArray

from wsi_pipeline.core.errors import SlideFormatError, one_line
from wsi_pipeline.core.geometry import Box, paste
from wsi_pipeline.core.pixel_size import Mpp
from wsi_pipeline.slides.byte_counts import HARMLESS_BYTES, largest_byte_count
from wsi_pipeline.slides.levels import fit_levels
from wsi_pipeline.slides.plain_tiff import check_plain_tiff
from wsi_pipeline.slides.readers import (
    CHUNK_PX,
    MAX_TILE_PX,
    Choice,
    Header,
    Level,
    Refusal,
    check_size,
    plausible_mpp,
)
from wsi_pipeline.slides.resample import flatten

__all__ = ["OpenSlideReader"]


class OpenSlideReader:
    """Reads Aperio, Hamamatsu, MIRAX, Leica, Ventana, DICOM, tiled TIFF and more.

    Raises
    ------
    Refusal
        OpenSlide does not support the format
    SlideFormatError
        OpenSlide supports the format, but the file is damaged; no other reader is tried, because
        it could return a part of the slide as the whole
    """

    name = "openslide"

    def __init__(self, path: Path, choice: Choice = Choice()) -> None:  # noqa: B008 (it is frozen)
        if choice.series or choice.plane is not None or choice.time:
            raise Refusal("series, planes and time points are read by tifffile")
        self._path = path
        self._lock = threading.Lock()
        try:
            self._handle = openslide.OpenSlide(path)
            self.header, self._kept = _openslide_header(path, self._handle)
        except openslide.OpenSlideUnsupportedFormatError as error:
            raise Refusal(one_line(error)) from error
        except openslide.OpenSlideError as error:
            # tifffile reads more compressions, and images of 1 bit, which need no such tag.
            if any(text in str(error) for text in ("TIFF compression", "required TIFF tag: 258")):
                raise Refusal(one_line(error)) from error
            raise SlideFormatError(
                f"{path.name} is damaged or not supported ({one_line(error)}); "
                "copy it again, or export it as a pyramidal TIFF"
            ) from error
        # After an error the handle returns nothing but that error, so this is read first.
        self._tiles = _tile_sizes(self._handle)
        self._downsamples = self._handle.level_downsamples
        _check_tiles(path, self._handle, self._tiles)

    def read(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Return the pixels (h, w, 3) of a box of the level.

        OpenSlide takes positions in level-0 pixels. Where the downsample is not a whole number,
        such a position lies between two pixels of the level, and OpenSlide interpolates. Reading
        in fixed chunks keeps the fraction, and so each pixel, the same in all windows.
        """
        if self._downsamples[self._kept[level]].is_integer():
            return self._read(level, box)
        out = np.empty((box.height, box.width, 3), np.uint8)
        whole = Box(0, 0, self.header.levels[level].width, self.header.levels[level].height)
        for chunk in box.snap(CHUNK_PX).clip(whole).cut(CHUNK_PX, CHUNK_PX):
            paste(out, box, self._read(level, chunk), chunk)
        return out

    def _read(self, level: int, box: Box) -> NDArray[np.uint8]:
        handle = self._handle
        try:
            return self._decode(handle, level, box)
        except openslide.OpenSlideError:
            # After an error the handle returns nothing but that error, which may be the error of
            # another thread's tile. So a new handle replaces it, and this box is read once more.
            with self._lock:
                if self._handle is handle:
                    self._handle = openslide.OpenSlide(self._path)
            with openslide.OpenSlide(self._path) as alone:
                return self._decode(alone, level, box)

    def _decode(self, handle: Any, level: int, box: Box) -> NDArray[np.uint8]:
        own = self._kept[level]
        # OpenSlide divides by its own downsample, which need not be the exact one.
        downsample = self._downsamples[own]
        corner = (round(box.x0 * downsample), round(box.y0 * downsample))
        rgba = handle.read_region(corner, own, (box.width, box.height))
        return flatten(np.asarray(rgba), self.header.background)

    def tile(self, level: int) -> tuple[int, int]:
        """Return width and height of a tile, or of a chunk where there are no tiles."""
        width, height = (min(side or CHUNK_PX, CHUNK_PX) for side in self._tiles[self._kept[level]])
        return width, height

    def close(self) -> None:
        """Close the file."""
        self._handle.close()


def _tile_sizes(handle: Any) -> list[tuple[int, int]]:
    """Return width and height of the tiles of each level, 0 where OpenSlide has no value."""
    properties = handle.properties
    names = [f"openslide.level[{n}].tile-" for n in range(handle.level_count)]
    return [
        (int(properties.get(f"{n}width", 0)), int(properties.get(f"{n}height", 0))) for n in names
    ]


def _check_tiles(path: Path, handle: Any, tiles: list[tuple[int, int]]) -> None:
    """Refuse tiles that may not fit into memory: OpenSlide then ends the whole process."""
    # OpenSlide reads the one tile of a Hamamatsu level in rows.
    if handle.properties["openslide.vendor"] == "hamamatsu":
        return
    stated, there = largest_byte_count(path), path.stat().st_size
    if stated > max(there, HARMLESS_BYTES):
        handle.close()
        raise Refusal(f"a tile states {stated} bytes, and the file has {there}")
    for width, height in tiles:
        if width * height > MAX_TILE_PX:
            handle.close()
            raise SlideFormatError(
                f"{path.name} has tiles of {width} x {height} pixels, more than {MAX_TILE_PX}; "
                "convert it to a pyramidal TIFF with tiles of 512 x 512"
            )


def _openslide_header(path: Path, handle: Any) -> tuple[Header, tuple[int, ...]]:
    """Return the header, and the number in OpenSlide of each of its levels."""
    properties = _properties(handle)
    vendor = properties["openslide.vendor"]
    if vendor == "generic-tiff" and any(
        mark in properties.get("tiff.ImageDescription", "") for mark in ("<OME", "PerkinElmer-QPI")
    ):
        # As a plain TIFF it would lose its pyramid, or its channels would become one.
        raise Refusal("OME-TIFF and QPTIFF are read by tifffile")
    mpp = _openslide_mpp(properties)
    sizes = handle.level_dimensions
    check_size(*sizes[0])
    levels = tuple(
        Level(width, height, downsample)
        for (width, height), downsample in zip(sizes, handle.level_downsamples, strict=True)
    )
    notes: tuple[str, ...] = ()
    kept = tuple(range(len(levels)))
    if vendor == "generic-tiff":
        stated, notes = check_plain_tiff(path, sizes[0])
        own, _ = plausible_mpp(mpp)  # OpenSlide reads resolution tags of more types
        mpp, notes = (own, ()) if stated is None and own is not None else (stated, notes)
        pyramid = fit_levels(sizes, _tile_sizes(handle))
        if pyramid.padded:
            raise Refusal("its reduced levels are padded")
        # Another value than OpenSlide's would move the pixels that it reads.
        levels, kept = tuple(levels[number] for number in pyramid.kept), pyramid.kept
        notes += pyramid.notes
    colour = properties.get("openslide.background-color", "FFFFFF")
    width, height = handle.dimensions
    header = Header(
        vendor=vendor,
        levels=levels,
        bounds=_openslide_bounds(properties, Box(0, 0, width, height)),
        mpp=mpp,
        background=(int(colour[:2], 16), int(colour[2:4], 16), int(colour[4:6], 16)),
        notes=notes,
    )
    return header, kept


def _properties(handle: Any) -> dict[str, str]:
    """Return the properties, without those whose name is no UTF-8: they cannot be asked for."""
    found = {}
    for name in handle.properties:
        with contextlib.suppress(KeyError):
            found[name] = handle.properties[name]
    return found


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
    """Return the number in a property, or NaN, which later checks refuse."""
    try:
        return float(text)
    except ValueError:
        return math.nan
