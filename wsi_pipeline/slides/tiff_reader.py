"""Read TIFF files that OpenSlide does not support: OME-TIFF, QPTIFF, plain and striped files.

tifffile describes the file and decodes tiles and strips, but only those that a window needs. The
middle plane of a z-stack is read, and the first image of a time series. Channels are read only
where they are red, green and blue.

Decoded tiles are kept in a cache here. tifffile's zarr store (``aszarr``) would replace about 60
lines, but needs more time: for a file of 4096 × 4096 px in windows of 640 px, 1.2 (strips) to 12
times (LZW strips) as long, since it decodes a tile again for each window. With zarr's
experimental cache it needs 1.5 to 7 times as long for tiles and compressed strips. Only for
uncompressed strips it needs half the time, but it then holds a whole plain file in memory.
"""

from __future__ import annotations

import re
import threading
import xml.etree.ElementTree as ET
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_pipeline.core.errors import one_line
from wsi_pipeline.core.geometry import Box, paste
from wsi_pipeline.core.pixel_size import Mpp
from wsi_pipeline.slides.readers import (
    MAX_PX,
    MAX_TILE_PX,
    WHITE,
    Header,
    Refusal,
    make_levels,
    plausible_mpp,
)
from wsi_pipeline.slides.resample import flatten

__all__ = ["TiffReader"]

CACHE_BYTES = 2**27
"""Memory for decoded tiles and strips."""
PLAIN_PX = 256
"""Side of the squares in which a plain file that is cut off is read."""
MICRONS = {"µm": 1, "μm": 1, "um": 1, "micron": 1, "nm": 1e-3, "Å": 1e-4, "mm": 1e3, "cm": 1e4}
"""Unit → its length in µm."""
GREY, PALETTE, COLOUR = (0, 1), (3,), (1, 2, 6)
"""PhotometricInterpretation of images with 1 sample per pixel (grey, palette) and with 3."""
YCBCR, ASSOCIATED_ALPHA = 6, 1
JPEG = (6, 7, 33007, 34892)
"""Values of the tag Compression whose decoders turn YCbCr into RGB."""


class TiffReader:
    """Reads the largest image of a TIFF file, with its pyramid.

    Raises
    ------
    Refusal
        the file is incomplete, or no RGB image
    """

    name = "tifffile"

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[int, int, int], NDArray[Any]] = OrderedDict()
        self._cached_bytes = 0
        try:
            self._file = tifffile.TiffFile(path)
        except Exception as error:
            raise Refusal(one_line(error)) from error
        try:
            self._describe()
        except Exception as error:
            self._file.close()
            raise Refusal(one_line(error)) from error

    def _describe(self) -> None:
        _check_complete(self._file)
        pictures = list(self._file.series)
        sizes = [p.keyframe.imagewidth * p.keyframe.imagelength for p in pictures]
        index = int(np.argmax(sizes))
        series = pictures[index]
        chosen = _choose_planes(series)
        levels = [_pages(level, chosen) for level in series.levels]
        self._levels = [pages for pages in levels if _alike(pages[0], levels[0][0])]
        page = self._levels[0][0].keyframe
        self._colour = _Colour(page, len(chosen) * page.samplesperpixel)
        frames = [pages[0].keyframe for pages in self._levels]
        mpp, notes = _pixel_size(self._file, index, page)
        self.header = Header(
            vendor=series.kind,
            levels=make_levels([(f.imagewidth, f.imagelength) for f in frames]),
            bounds=Box(0, 0, page.imagewidth, page.imagelength),
            mpp=mpp,
            notes=notes,
        )

    def read(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Return the pixels (h, w, 3) of a box of the level."""
        pages = self._levels[level]
        raw = [self._plane(level, number, page, box) for number, page in enumerate(pages)]
        return self._colour(raw[0] if len(raw) == 1 else np.concatenate(raw, axis=2))

    def _plane(self, level: int, number: int, page: Any, box: Box) -> NDArray[Any]:
        """Return the stored samples of a page, (h, w, samples)."""
        frame = page.keyframe
        if page.is_memmappable:
            return self._plain(page, box)
        out = np.empty((box.height, box.width, frame.samplesperpixel), frame.dtype)
        for index, sample, where in _chunks(frame, box):
            pixels = self._chunk(level, number, page, index)
            part = out[..., sample : sample + 1] if frame.planarconfig == 2 else out
            if pixels is None:  # a sparse file, the tile was never written
                pixels = np.broadcast_to(_blank(frame), (where.height, where.width, part.shape[2]))
            paste(part, box, pixels, where)
        return out

    def _plain(self, page: Any, box: Box) -> NDArray[Any]:
        """Return the samples of a page that is stored as one array, (h, w, samples).

        They are not memory-mapped: the process would end if a mapped file shrinks or disappears.
        """
        frame, handle = page.keyframe, self._file.filehandle
        planes, depth, height, width, samples = frame.shaped
        dtype = np.dtype(self._file.byteorder + frame.dtype.char)
        out = np.empty((planes, box.height, box.width, samples), dtype)
        with self._lock:
            for plane, y in np.ndindex(planes, box.height):
                pixel = (plane * depth * height + box.y0 + y) * width + box.x0
                handle.seek(page.dataoffsets[0] + pixel * samples * dtype.itemsize)
                row = out[plane, y].view(np.uint8)
                if handle.readinto(row) < row.nbytes:
                    raise EOFError("the file ends too early")
        return np.moveaxis(out, 0, 2).reshape(box.height, box.width, -1)

    def _chunk(self, level: int, number: int, page: Any, index: int) -> NDArray[Any] | None:
        """Return a decoded tile or strip (h, w, samples), from the cache where it is there."""
        key = (level, number, index)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
            size = page.databytecounts[index]
            handle = self._file.filehandle
            handle.seek(page.dataoffsets[index])
            data = handle.read(size) if size else None
        if data is not None and len(data) < size:
            raise EOFError("the file ends too early")
        frame = page.keyframe
        tables = (
            {"jpegtables": page.jpegtables, "jpegheader": frame.jpegheader}
            if frame.compression in JPEG
            else {}
        )
        decoded, _, _ = frame.decode(data, index, **tables)
        pixels = None if decoded is None else decoded[0]
        with self._lock:
            if key not in self._cache and pixels is not None:
                self._cache[key] = pixels
                self._cached_bytes += pixels.nbytes
            while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
                self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return pixels

    def tile(self, level: int) -> tuple[int, int]:
        """Return width and height of a tile or strip."""
        page = self._levels[level][0]
        return (PLAIN_PX, PLAIN_PX) if page.is_memmappable else _step(page.keyframe)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _check_complete(file: Any) -> None:
    """Refuse a file whose list of pages is cut off: levels, or the slide itself, may be missing."""
    handle, tiff = file.filehandle, file.tiff
    if len(file.pages) == 0:
        raise Refusal("the file ends before its first page")
    handle.seek(file.pages.next_page_offset)
    if any(handle.read(tiff.offsetsize)):
        raise Refusal(f"the file ends before page {len(file.pages) + 1}")


def _chunks(frame: Any, box: Box) -> Iterator[tuple[int, int, Box]]:
    """Yield index, sample and box of each tile or strip that `box` touches."""
    width, height = frame.imagewidth, frame.imagelength
    step_x, step_y = _step(frame)
    across, down = -(-width // step_x), -(-height // step_y)
    for sample in range(frame.samplesperpixel if frame.planarconfig == 2 else 1):
        for row in range(box.y0 // step_y, -(-box.y1 // step_y)):
            for column in range(box.x0 // step_x, -(-box.x1 // step_x)):
                x, y = column * step_x, row * step_y
                where = Box(x, y, min(x + step_x, width), min(y + step_y, height))
                yield (sample * down + row) * across + column, sample, where


def _step(frame: Any) -> tuple[int, int]:
    """Return width and height of a tile or strip."""
    if frame.is_tiled:
        return frame.tilewidth, frame.tilelength
    return frame.imagewidth, frame.rowsperstrip


def _blank(frame: Any) -> Any:
    """Return the value of a white sample."""
    white = 0 if frame.photometric == 0 else 2 ** int(np.max(frame.bitspersample)) - 1
    return np.array(white).astype(frame.dtype)


def _choose_planes(series: Any) -> list[int]:
    """Return the pages of a series that make the image: one, or one for each of three channels."""
    frame = series.keyframe
    if not series.axes.endswith(frame.axes) or frame.imagedepth > 1:
        raise Refusal(f"axes {series.axes} are not those of images")
    axes = series.axes[: len(series.axes) - len(frame.axes)]
    shape = series.shape[: len(axes)]
    where: list[Any] = []
    for axis, size in zip(axes, shape, strict=True):
        if axis == "C" and size == 3 and frame.samplesperpixel == 1 and frame.dtype == np.uint8:
            where.append(slice(None))
        elif size == 1 or axis in "ZT":
            where.append(size // 2 if axis == "Z" else 0)
        else:
            raise Refusal(f"{size} {frame.dtype} planes along axis {axis} are not an RGB image")
    numbers = np.arange(np.prod(shape, dtype=int)).reshape(shape)[tuple(where)]
    return [int(number) for number in np.atleast_1d(numbers)]


def _pages(level: Any, chosen: list[int]) -> list[Any]:
    if level.is_multifile:
        raise Refusal("the image is spread over several files")
    pages = [level.pages[number] for number in chosen]
    for page in pages:
        if page is None:
            raise Refusal("a plane of the image is missing")
        frame = page.keyframe
        chunk_px = (
            frame.tilewidth * frame.tilelength
            if frame.is_tiled
            else frame.imagewidth * frame.rowsperstrip
        )
        if chunk_px > (MAX_TILE_PX if frame.is_tiled else MAX_PX) and not page.is_memmappable:
            raise Refusal(f"a tile or strip has {chunk_px} pixels, too many to decode at once")
    return pages


def _alike(page: Any, other: Any) -> bool:
    a, b = page.keyframe, other.keyframe
    names = ("dtype", "photometric", "samplesperpixel", "bitspersample")
    return all(getattr(a, name) == getattr(b, name) for name in names)


class _Colour:
    """Turns the stored samples (h, w, n) of an image into RGB (h, w, 3). Raises `Refusal`."""

    def __init__(self, page: Any, samples: int) -> None:
        extra = tuple(int(kind) for kind in page.extrasamples)
        self._colours = samples - len(extra)
        self._alpha = bool(extra) and extra[0] in (1, 2)  # 0 is an unspecified sample
        self._premultiplied = extra[:1] == (ASSOCIATED_ALPHA,)
        photometric = int(page.photometric)
        known = {1: GREY + PALETTE, 3: COLOUR}.get(self._colours, ())
        if photometric not in known or page.dtype is None or page.dtype.kind not in "ub":
            raise Refusal(
                f"{self._colours} {page.dtype} samples of photometric {photometric} are not RGB"
            )
        if photometric == YCBCR and page.compression not in JPEG:
            raise Refusal("YCbCr is read only in JPEG")
        if page.dtype.itemsize > 2:
            raise Refusal(f"the range of {page.dtype} samples is unknown")
        self._table = _table(page)

    def __call__(self, raw: NDArray[Any]) -> NDArray[np.uint8]:
        if self._table is not None and self._table.ndim == 2:
            return self._table[np.minimum(raw[..., 0], len(self._table) - 1)]
        pixels = raw if self._table is None else self._table[raw.astype(np.uint16)]
        rgb = pixels[..., : self._colours]
        if self._colours == 1:
            rgb = np.repeat(rgb, 3, axis=2)
        if not self._alpha:
            return np.ascontiguousarray(rgb)
        rgba = np.concatenate([rgb, pixels[..., self._colours : self._colours + 1]], axis=2)
        return flatten(rgba, WHITE, premultiplied=self._premultiplied)


def _table(page: Any) -> NDArray[np.uint8] | None:
    """Return what each stored value becomes: a grey (n,), a colour (n, 3), or None: itself."""
    if page.photometric == 3:
        colours = np.asarray(page.colormap).T
        return (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)
    top = 2 ** int(np.max(page.bitspersample)) - 1
    if top == 255 and page.photometric != 0:
        return None
    table = np.minimum((np.arange(65536) * 255 + top // 2) // top, 255).astype(np.uint8)
    return 255 - table if page.photometric == 0 else table


def _pixel_size(file: Any, index: int, page: Any) -> tuple[Mpp | None, tuple[str, ...]]:
    """Return the pixel size from OME-XML, Aperio's description or a resolution tag, and notes."""
    if file.is_ome:
        mpp = _ome_pixel_size(file.ome_metadata, index)
        if mpp is not None:
            return mpp, ()
    aperio = re.search(r"\|\s*MPP\s*=\s*([\d.]+)", page.description)
    if aperio:
        return Mpp(float(aperio[1]), float(aperio[1]), "metadata"), ()
    per_unit = page.resolution
    if file.is_imagej and str((file.imagej_metadata or {}).get("unit")) in MICRONS:
        unit = MICRONS[str(file.imagej_metadata["unit"])]
    else:  # inch, cm, mm, µm; without a unit the numbers are an aspect ratio
        unit = {2: 25400, 3: 1e4, 4: 1e3, 5: 1}.get(int(page.resolutionunit), 0)
    if not unit or min(per_unit) <= 0 or per_unit == (1, 1):
        return None, ()
    return plausible_mpp(Mpp(unit / per_unit[0], unit / per_unit[1], "metadata"))


def _ome_pixel_size(text: str, index: int) -> Mpp | None:
    pixels = [node for node in ET.fromstring(text).iter() if node.tag.endswith("}Pixels")]
    sizes = []
    for axis in "XY" if index < len(pixels) else "":
        size = pixels[index].get(f"PhysicalSize{axis}")
        unit = MICRONS.get(pixels[index].get(f"PhysicalSize{axis}Unit", "µm"))
        if size is not None and unit is not None:
            sizes.append(float(size) * unit)
    return Mpp(sizes[0], sizes[1], "metadata") if len(sizes) == 2 else None
