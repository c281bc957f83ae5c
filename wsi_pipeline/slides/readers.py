"""Readers: what stands behind a slide, one class for each library that decodes.

A reader describes the whole file in a `Header` and reads windows of its levels. The same pixel
has the same value in every window. TIFF that OpenSlide does not know has its own module.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from wsi_pipeline.core.errors import SlideFormatError, one_line
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.slides.resample import flatten

__all__ = [
    "MAX_PX",
    "MAX_TILE_PX",
    "Header",
    "ImageReader",
    "Level",
    "Mpp",
    "OpenSlideReader",
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


def believe(mpp: Mpp | None) -> tuple[Mpp | None, tuple[str, ...]]:
    """A pixel size from a resolution tag, unless it is the one for print; and a note then."""
    if mpp is None or mpp.plausible:
        return mpp, ()
    return None, (f"resolution tag of {mpp.value:g} µm per pixel not believed",)


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


def paste(out: NDArray[Any], box: Box, pixels: NDArray[Any], where: Box) -> None:
    """Copy into `out`, the pixels of `box`, those of `pixels`, which start where `where` does."""
    both = box.clip(where)
    out[both.y0 - box.y0 : both.y1 - box.y0, both.x0 - box.x0 : both.x1 - box.x0] = pixels[
        both.y0 - where.y0 : both.y1 - where.y0, both.x0 - where.x0 : both.x1 - where.x0
    ]


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
        mpp, notes = believe(mpp)
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


class ImageReader:
    """PNG, JPEG, BMP and WebP, decoded whole.

    The background is the field's glass: a white margin beside grey glass looks like a cell's edge.
    """

    name = "image"
    _opening = threading.Lock()

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with self._open() as image:
                width, height = image.size
                vendor = str(image.format)
        except UnidentifiedImageError as error:
            raise Refusal("not PNG, JPEG, BMP or WebP") from error
        except Exception as error:
            raise Refusal(one_line(error)) from error
        if width * height > MAX_PX:
            raise SlideFormatError(
                f"{path.name} has {width} x {height} pixels, too many for a plain image; "
                "convert it to a tiled pyramidal TIFF"
            )
        try:
            with self._open() as image:
                self._pixels: NDArray[np.uint8] | None = _rgb(image)
        except Exception as error:
            raise SlideFormatError(
                f"{path.name} is damaged ({one_line(error)}); copy it again"
            ) from error
        self.header = Header(
            vendor,
            make_levels([(width, height)]),
            Box(0, 0, width, height),
            background=_glass(self._pixels),
        )

    def _open(self) -> Image.Image:
        # Pillow's own limit is far below a slide's size and is a global; ours is MAX_PX.
        with self._opening:
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                return Image.open(self._path, formats=("PNG", "JPEG", "BMP", "WEBP"))
            finally:
                Image.MAX_IMAGE_PIXELS = limit

    def read(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Pixels (h, w, 3) of a box."""
        assert self._pixels is not None  # Slide reads nothing that is closed
        return self._pixels[box.y0 : box.y1, box.x0 : box.x1].copy()

    def tile(self, level: int) -> tuple[int, int]:
        """Width and height of the picture."""
        return self.header.levels[level].width, self.header.levels[level].height

    def close(self) -> None:
        """Let go of the pixels."""
        self._pixels = None


def _glass(pixels: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Colour than which a tenth of the pixels are brighter."""
    step = max(1, math.isqrt(pixels.size // 3_000_000))
    red, green, blue = np.percentile(pixels[::step, ::step], 90, axis=(0, 1)).round().astype(int)
    return int(red), int(green), int(blue)


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):  # 16 bits of grey
        grey = (np.asarray(image).astype(np.uint32) + 128) // 257
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return flatten(np.asarray(image.convert("RGBA")), WHITE)
    return np.asarray(image.convert("RGB"))
