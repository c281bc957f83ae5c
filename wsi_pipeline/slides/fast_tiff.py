"""Tiled JPEG and JPEG 2000 decoded straight into the window, several times as fast as OpenSlide.

OpenSlide still opens the file, describes it, and reads everything that is not plainly a whole
tile. A level is read directly only after tiles of it were equal to OpenSlide's in every bit.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import openslide
import simplejpeg
import tifffile
from numpy.typing import NDArray

from wsi_pipeline.core.errors import one_line
from wsi_pipeline.core.geometry import Box, paste
from wsi_pipeline.slides.openslide_reader import OpenSlideReader
from wsi_pipeline.slides.readers import Header, Refusal

__all__ = ["FastTiffReader"]

VENDORS = ("aperio", "generic-tiff")  # the others shift, blend or leave out tiles
JPEG, JPEG_2000_RGB = 7, 33005  # Compression; 33003 is converted to RGB by OpenSlide's own tables
# PhotometricInterpretation, which OpenSlide obeys, as Adobe's marker tells it to a JPEG decoder.
COLOURS = {2: b"\0", 6: b"\1"}
ADOBE = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0"
REDUCED = 1  # NewSubfileType
COMPARED_TILES = 8  # of level 0; one of the others; of each the last one, too
HEAVY = 32  # one in so many tiles is heavy, and so neither glass nor an empty margin

# Fills a tile (h, w, 3), or raises an error if the bytes are not all of it.
Decode = Callable[[bytes, NDArray[np.uint8]], Any]


@dataclass(frozen=True, eq=False)
class Tiles:
    """Where the tiles of one level are.

    Attributes
    ----------
    size, tile
        width and height of the level and of a tile
    offsets, counts
        int64 (tiles,): first byte and number of bytes, row by row
    decode
        what decodes them
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    decode: Decode

    @property
    def across(self) -> int:
        """Tiles in a row."""
        return -(-self.size[0] // self.tile[0])

    def box(self, index: int) -> Box:
        """What a tile shows of the level."""
        (width, height), (y, x) = self.tile, divmod(index, self.across)
        box = Box(x * width, y * height, (x + 1) * width, (y + 1) * height)
        return box.clip(Box(0, 0, *self.size))


class FastTiffReader:
    """A file that OpenSlide has opened, `behind`, whose tiles need no OpenSlide.

    Raises `Refusal` where those of level 0 do, or differ. What is damaged or missing is read by
    OpenSlide, which alone says what is wrong with it or fills the gap.
    """

    name = "openslide"

    def __init__(self, path: Path, behind: OpenSlideReader) -> None:
        self.header = behind.header
        if self.header.vendor not in VENDORS:
            raise Refusal(f"{self.header.vendor} is read by OpenSlide")
        self._behind = behind
        self._file = _File(path)
        self._levels = [
            tiles if tiles is not None and self._agrees(level, tiles) else None
            for level, tiles in enumerate(_index(path, self.header, self._file))
        ]
        if self._levels[0] is None:
            raise Refusal("level 0 is not made of tiles that decode as OpenSlide does it")

    def _agrees(self, level: int, tiles: Tiles) -> bool:
        """Whether sampled tiles are OpenSlide's."""
        samples = _heavy(tiles.counts, COMPARED_TILES if level == 0 else 1)
        for index in {*samples, int(np.flatnonzero(tiles.counts)[-1])}:
            box = tiles.box(index)
            try:
                if not np.array_equal(self._decode(tiles, box), self._behind.read(level, box)):
                    return False
            except (ValueError, RuntimeError, OSError, openslide.OpenSlideError):
                return False
        return True

    def read(self, level: int, box: Box, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Pixels (h, w, 3) of a box of the level, in `out` where that is convenient."""
        tiles = self._levels[level]
        if tiles is not None:
            try:
                return self._decode(tiles, box, out)
            except (ValueError, RuntimeError, OSError):
                pass  # OpenSlide tells why, or knows better
        return self._behind.read(level, box)

    def _decode(
        self, tiles: Tiles, box: Box, out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Pixels of a box, each tile decoded once; an error if one of them is not whole."""
        if out is None:
            out = np.empty((box.height, box.width, 3), np.uint8)
        width, height = tiles.tile
        pixels = np.empty((height, width, 3), np.uint8)
        for row in range(box.y0 // height, -(-box.y1 // height)):
            for column in range(box.x0 // width, -(-box.x1 // width)):
                index = row * tiles.across + column
                size = int(tiles.counts[index])
                data = self._file.read(size, int(tiles.offsets[index]))
                if not 0 < size == len(data):
                    raise ValueError("missing")
                tiles.decode(data, pixels)
                x, y = column * width, row * height
                paste(out, box, pixels, Box(x, y, x + width, y + height))
        if not self._file.close.alive:  # the descriptor may have become another file's
            raise ValueError("closed")
        return out

    def tile(self, level: int) -> tuple[int, int]:
        """Width and height of a tile."""
        tiles = self._levels[level]
        return self._behind.tile(level) if tiles is None else tiles.tile

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
        self._behind.close()


class _File:
    """A file that any number of threads read, each at a position of its own."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()
        self.close = weakref.finalize(self, os.close, self._descriptor)

    def read(self, size: int, start: int) -> bytes:
        """`size` bytes from `start` on, fewer where the file ends."""
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, size, start)
        with self._lock:  # on Windows the position is shared by all threads
            os.lseek(self._descriptor, start, os.SEEK_SET)
            return os.read(self._descriptor, size)


def _index(path: Path, header: Header, file: _File) -> list[Tiles | None]:
    """The tiles of each level, None of levels that are OpenSlide's. Raises `Refusal`."""
    try:
        with tifffile.TiffFile(path) as tiff:
            pages = [page for page in tiff.pages if page.is_tiled]
            if header.vendor == "generic-tiff":
                pages = [page for page in pages if page.index == 0 or page.subfiletype & REDUCED]
                pages.sort(key=lambda page: -page.imagewidth)
            sizes = [(page.imagewidth, page.imagelength) for page in pages]
            if sizes != [(level.width, level.height) for level in header.levels]:
                raise Refusal("its pages are not the levels of the slide")
            found: list[Tiles | None] = []
            gaps = False
            for page, level in zip(pages, header.levels, strict=True):
                # Beneath a gap in one level OpenSlide leaves out tiles of the next one.
                plain = level.downsample.is_integer() and not gaps
                found.append(_tiles(page, file) if plain else None)
                gaps = gaps or 0 in page.databytecounts
            return found
    except Refusal:
        raise
    except Exception as error:
        raise Refusal(one_line(error)) from error


def _tiles(page: Any, file: _File) -> Tiles | None:
    """The tiles of a page, None if they are not of a kind that is read directly."""
    offsets = np.array(page.dataoffsets, np.int64)
    counts = np.array(page.databytecounts, np.int64)
    sample = _heavy(counts, 1)[0]
    try:
        if not counts[sample]:
            raise ValueError("nothing but gaps")
        decode = _decoder(page, file.read(int(counts[sample]), int(offsets[sample])))
    except (ValueError, LookupError):
        return None
    tiles = Tiles(
        size=(page.imagewidth, page.imagelength),
        tile=(page.tilewidth, page.tilelength),
        offsets=offsets,
        counts=counts,
        decode=decode,
    )
    return tiles if len(counts) == tiles.across * -(-page.imagelength // page.tilelength) else None


def _decoder(page: Any, sample: bytes) -> Decode:
    """What decodes the tiles of a page, given one of them; `ValueError` or `LookupError`."""
    if (page.samplesperpixel, page.bitspersample, page.planarconfig) != (3, 8, 1):
        raise ValueError("not RGB in 8 bits")
    if page.compression == JPEG_2000_RGB:
        return lambda data, out: imagecodecs.jpeg2k_decode(data, out=out)
    if page.compression != JPEG:
        raise ValueError("neither JPEG nor JPEG 2000")
    tables = page.jpegtables[2:-2] if page.jpegtables else b""
    head = sample[:2] + ADOBE + COLOURS[int(page.photometric)] + tables

    def decode(data: bytes, out: NDArray[np.uint8]) -> None:
        if data[:20] != sample[:20]:  # a marker of its own could tell other colours
            raise ValueError("of another layout")
        whole = head + data[2:]
        if simplejpeg.decode_jpeg_header(whole, strict=True)[:2] != out.shape[:2]:
            raise ValueError("of another size")
        simplejpeg.decode_jpeg(whole, "RGB", buffer=out, strict=True)

    return decode


def _heavy(counts: NDArray[np.int64], number: int) -> list[int]:
    """So many tiles, spread over those with the most bytes."""
    some = len(counts) // HEAVY if number > 1 else 1
    heavy = np.sort(np.argsort(counts, kind="stable")[-max(number, some) :])
    return [int(i) for i in heavy[np.linspace(0, len(heavy) - 1, number).astype(int)]]
