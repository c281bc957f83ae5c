"""Read TIFF files that OpenSlide does not support: OME-TIFF, QPTIFF, plain and striped files.

tifffile describes the file and decodes tiles and strips, but only those that a window needs. The
middle plane of a z-stack is read, and the first image of a time series, unless others are chosen.
Channels are read only where they are red, green and blue.

Decoded tiles are kept in a cache here. tifffile's zarr store (``aszarr``) would replace about 60
lines, but needs more time: for a file of 4096 × 4096 px in windows of 640 px, 1.2 (strips) to 12
times (LZW strips) as long, since it decodes a tile again for each window. With zarr's
experimental cache it needs 1.5 to 7 times as long for tiles and compressed strips. Only for
uncompressed strips it needs half the time, but it then holds a whole plain file in memory.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_pipeline.core.errors import one_line
from wsi_pipeline.core.geometry import Box, paste
from wsi_pipeline.core.sample_bits import tiff_bits
from wsi_pipeline.slides.levels import fit_levels
from wsi_pipeline.slides.readers import (
    MAX_PX,
    MAX_TILE_PX,
    Choice,
    Header,
    Refusal,
    check_size,
    choose_number,
)
from wsi_pipeline.slides.tiff_claims import check_chunks, check_coded_size, check_ome_sizes
from wsi_pipeline.slides.tiff_colour import (
    JPEG,
    Colour,
    contradicted_by_tiles,
    ome_order,
    orientation_of,
    refuse_dark_range,
)
from wsi_pipeline.slides.tiff_pixel_size import tiff_pixel_size

__all__ = ["TiffReader"]

CACHE_BYTES = 2**27
"""Memory for decoded tiles and strips."""
PLAIN_PX = 256
"""Side of the squares in which a plain file that is cut off is read."""
PALETTE = 3
"""PhotometricInterpretation of an image whose samples are numbers of colours."""
PLAIN_KINDS = ("generic", "uniform", "shaped")
"""Kinds of series without a description of their levels."""
OTHER_AXES = {"T": "time point", "I": "page", "Q": "page"}
"""Axes of which the first image is read, unless another is chosen."""
UPRIGHT = (0, 1)
"""Values of the tag Orientation of an image that is stored as it is shown."""
SAMPLED = 3
"""Windows along each side in which the range of 16-bit samples is measured."""


class TiffReader:
    """Reads the largest image of a TIFF file, with its pyramid.

    Raises
    ------
    Refusal
        the file is incomplete, or no RGB image
    """

    name = "tifffile"

    def __init__(self, path: Path, choice: Choice = Choice()) -> None:  # noqa: B008 (it is frozen)
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[int, int, int], NDArray[Any]] = OrderedDict()
        self._cached_bytes = 0
        try:
            self._file = tifffile.TiffFile(path)
        except Exception as error:
            raise Refusal(one_line(error)) from error
        try:
            self._describe(choice)
        except Exception as error:
            self._file.close()
            raise Refusal(one_line(error)) from error

    def _describe(self, choice: Choice) -> None:
        _check_complete(self._file)
        check_ome_sizes(self._file)
        index, notes = _choose_series(self._file, choice.series)
        series = self._file.series[index]
        chosen, plane, time, more = _choose_planes(series, choice)
        if len(chosen) == 3 and (order := ome_order(self._file, index)) != (0, 1, 2):
            chosen = [chosen[place] for place in order]
            more += ("its channels are put in the order red, green, blue, as it states them",)
        levels = [_pages(level, chosen) for level in _images(self._file, index)]
        first = levels[0][0].keyframe
        unlike = [pages for pages in levels if not _alike(pages[0].keyframe, first)]
        levels = [pages for pages in levels if pages not in unlike]
        if unlike:
            notes += (f"{len(unlike)} reduced images left out: other samples than the slide",)
        frames = [pages[0].keyframe for pages in levels]
        for frame in frames:
            check_size(frame.imagewidth, frame.imagelength)
        tiles = [(f.tilewidth, f.tilelength) if f.is_tiled else None for f in frames]
        pyramid = fit_levels([(f.imagewidth, f.imagelength) for f in frames], tiles)
        self._levels = [levels[number] for number in pyramid.kept]
        if orientation_of(first) not in UPRIGHT:
            raise Refusal(
                f"its tag Orientation is {orientation_of(first)}, so that it is stored turned or "
                "mirrored; write it upright, with Orientation 1"
            )
        mpp, about_size = tiff_pixel_size(self._file, index, first)
        self._ycbcr, about_colour = self._stated_colours()
        self.header = Header(
            vendor=series.kind,
            levels=pyramid.levels,
            bounds=Box(0, 0, first.imagewidth, first.imagelength),
            mpp=mpp,
            notes=(*notes, *more, *pyramid.notes, *about_size, *about_colour),
            plane=plane,
            time=time,
        )
        bits, stated = tiff_bits(self._file, index, first)
        self._colour = Colour(first, len(chosen) * first.samplesperpixel, bits)
        if bits > 8 and not stated and first.photometric != PALETTE:
            refuse_dark_range(self._brightest(), bits)

    def _stated_colours(self) -> tuple[bool | None, tuple[str, ...]]:
        """Return the colour model of JPEG tiles where it contradicts the file's tag, and a note."""
        ycbcr = contradicted_by_tiles(self._file, self._levels[0][0])
        if ycbcr is None:
            return None, ()
        names = ("RGB", "YCbCr")
        return ycbcr, (
            f"its tag states {names[not ycbcr]}, its JPEG tiles {names[ycbcr]}, which is used",
        )

    def _brightest(self) -> int:
        """Return the largest sample of some windows that are spread over the image."""
        level = self.header.levels[-1]
        side = PLAIN_PX if len(self._levels) > 1 or level.width * level.height > 2**22 else 2**11
        across, down = (
            sorted({int(x) for x in np.linspace(0, max(0, whole - side), SAMPLED)})
            for whole in (level.width, level.height)
        )
        brightest = 0
        for y, x in itertools.product(down, across):
            box = Box(x, y, min(x + side, level.width), min(y + side, level.height))
            brightest = max(brightest, int(self._stored(len(self._levels) - 1, box).max()))
        return brightest

    def read(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Return the pixels (h, w, 3) of a box of the level."""
        return self._colour(self._stored(level, box))

    def _stored(self, level: int, box: Box) -> NDArray[Any]:
        """Return the stored samples (h, w, n) of a box of the level."""
        pages = self._levels[level]
        raw = [self._plane(level, number, page, box) for number, page in enumerate(pages)]
        return raw[0] if len(raw) == 1 else np.concatenate(raw, axis=2)

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
            if size > handle.size:  # more memory than the file has bytes is not even asked for
                raise EOFError("the file ends too early")
            handle.seek(page.dataoffsets[index])
            data = handle.read(size) if size else None
        if data is not None and len(data) < size:
            raise EOFError("the file ends too early")
        frame = page.keyframe
        check_coded_size(data, int(frame.compression))
        tables = (
            {"jpegtables": page.jpegtables, "jpegheader": frame.jpegheader}
            if frame.compression in JPEG
            else {}
        )
        pixels: NDArray[Any] | None
        if self._ycbcr is not None and data is not None:
            pixels = _decode_jpeg(data, page.jpegtables, self._ycbcr)
        else:
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


def _choose_series(file: Any, wanted: int | None) -> tuple[int, tuple[str, ...]]:
    """Return the number of the series to read, the largest unless one is wanted, and a note."""
    pictures = list(file.series)
    if wanted is not None and not 0 <= wanted < len(pictures):
        raise Refusal(
            f"series {wanted} does not exist; the file has "
            + (f"0 to {len(pictures) - 1}" if len(pictures) > 1 else "series 0 only")
        )
    elsewhere = [p.keyframe.parent is not file for p in pictures]  # OME-TIFF in several files
    if all(elsewhere) or (wanted is not None and elsewhere[wanted]):
        number = wanted or 0
        other = pictures[number].keyframe.parent.filename
        raise Refusal(f"series {number} lies in {other}; give that file")
    sizes = [
        0 if away or p.keyframe.is_mask else p.keyframe.imagewidth * p.keyframe.imagelength
        for p, away in zip(pictures, elsewhere, strict=True)
    ]
    index = int(np.argmax(sizes)) if wanted is None else wanted
    used = {id(level.pages[0]) for level in _images(file, index)}
    others = [p for p in pictures if id(p.pages[0]) not in used]
    if not others:
        return index, ()
    frame = pictures[index].keyframe
    why = "the largest; --series chooses another" if wanted is None else "as chosen"
    return index, (
        f"series {index} of {len(others) + 1} is read, {frame.imagewidth} x {frame.imagelength} px"
        f" ({why})",
    )


def _images(file: Any, index: int) -> list[Any]:
    """Return a series and the reduced images that may be levels of its pyramid, largest first.

    In a plain TIFF, reduced images that are padded are series of their own in tifffile.
    """
    series = file.series[index]
    levels = list(series.levels)
    if series.kind in PLAIN_KINDS:
        levels += [
            other
            for other in file.series
            if other is not series and other.keyframe.is_reduced and len(other.pages) == 1
        ]
        levels[1:] = sorted(levels[1:], key=lambda level: -level.keyframe.imagewidth)
    return levels


def _choose_planes(series: Any, choice: Choice) -> tuple[list[int], int, int, tuple[str, ...]]:
    """Return the pages of a series that make the image, its focal plane and time point, and notes.

    The image is one page, or one for each of three channels.
    """
    frame = series.keyframe
    if not series.axes.endswith(frame.axes) or frame.imagedepth > 1:
        raise Refusal(f"axes {series.axes} are not those of images")
    axes = series.axes[: len(series.axes) - len(frame.axes)]
    shape = series.shape[: len(axes)]
    count = dict(zip(axes, shape, strict=True))
    plane = choose_number(choice.plane, count.get("Z", 1), "focal plane")
    several = next((axis for axis in axes if axis in OTHER_AXES and count[axis] > 1), "T")
    time = choose_number(choice.time, count.get(several, 1), OTHER_AXES[several])
    where: list[Any] = []
    for axis, size in zip(axes, shape, strict=True):
        if axis == "C" and size == 3 and frame.samplesperpixel == 1 and frame.dtype == np.uint8:
            where.append(slice(None))
        elif size == 1 or axis == "Z" or axis in OTHER_AXES:
            where.append({"Z": plane.index, several: time.index}.get(axis, 0))
        else:
            raise Refusal(f"{size} {frame.dtype} planes along axis {axis} are not an RGB image")
    numbers = np.arange(np.prod(shape, dtype=int)).reshape(shape)[tuple(where)]
    pages = [int(number) for number in np.atleast_1d(numbers)]
    return pages, plane.index, time.index, (*plane.notes, *time.notes)


def _decode_jpeg(data: bytes, tables: bytes | None, ycbcr: bool) -> NDArray[np.uint8]:
    """Decode a tile by its own colour model, RGB (h, w, 3)."""
    return np.asarray(imagecodecs.jpeg8_decode(
        data, tables=tables, colorspace="YCBCR" if ycbcr else "RGB", outcolorspace="RGB"
    ), np.uint8)  # fmt: skip


def _pages(level: Any, chosen: list[int]) -> list[Any]:
    if level.is_multifile:
        raise Refusal("the image is spread over several files")
    if max(chosen) >= len(level.pages):
        raise Refusal(
            "its planes lie behind a single page, as in ImageJ's stacks of 4 GB and more, and only "
            "the first can be read; write it as OME-TIFF, or choose --plane 0 --time 0"
        )
    pages = [level.pages[number] for number in chosen]
    for page in pages:
        if page is None:
            raise Refusal(
                "this focal plane or time point is not in the file; choose another by --plane "
                "or --time"
            )
        frame = page.keyframe
        check_chunks(page)
        chunk_px = (
            frame.tilewidth * frame.tilelength
            if frame.is_tiled
            else frame.imagewidth * frame.rowsperstrip
        )
        if chunk_px > (MAX_TILE_PX if frame.is_tiled else MAX_PX) and not page.is_memmappable:
            raise Refusal(f"a tile or strip has {chunk_px} pixels, too many to decode at once")
    return pages


def _alike(a: Any, b: Any) -> bool:
    names = ("dtype", "photometric", "samplesperpixel", "bitspersample")
    same = all(getattr(a, name) == getattr(b, name) for name in names)
    return same and orientation_of(a) == orientation_of(b)
