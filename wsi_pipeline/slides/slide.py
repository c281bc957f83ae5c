"""Slides: whatever the file format, level-0 pixels, a pixel size, and windows of RGB.

OpenSlide reads first; behind it tifffile and, for plain images, Pillow.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import (
    MppError,
    SlideFormatError,
    SlideNotFoundError,
    SlideReadError,
    SlideTimeoutError,
    one_line,
)
from wsi_pipeline.core.geometry import Box, paste
from wsi_pipeline.core.request import SlideRequest, as_request
from wsi_pipeline.core.safe_names import check_name
from wsi_pipeline.slides.fast_tiff import FastTiffReader
from wsi_pipeline.slides.image_reader import ImageReader
from wsi_pipeline.slides.openslide_reader import OpenSlideReader
from wsi_pipeline.slides.read_timeout import ReadTimeout
from wsi_pipeline.slides.readers import Level, Mpp, Reader, Refusal
from wsi_pipeline.slides.resample import Taps, plan_taps, resample
from wsi_pipeline.slides.tiff_reader import TiffReader

if TYPE_CHECKING:
    from types import TracebackType

    import dask.array

__all__ = ["Level", "Mpp", "Slide", "open_slide", "slide_id_of"]

READERS: tuple[type[OpenSlideReader] | type[TiffReader] | type[ImageReader], ...] = (
    OpenSlideReader,
    TiffReader,
    ImageReader,
)
MAX_WINDOW_PX = 2**25  # source pixels held at once while resampling


def open_slide(
    slide: SlideRequest | Path | str,
    *,
    crop: bool = True,
    read_timeout_s: float = RunConfig.read_timeout_s,
    mpp: float | None = None,
) -> Slide:
    """Open a slide with the first reader that understands it.

    Parameters
    ----------
    slide
        the slide file, or a request with its path and pixel size; any file of a DICOM slide
    crop
        whether level 0 is only the scanned area that the file declares (openslide.bounds), as
        QuPath shows it, or the whole canvas
    read_timeout_s
        how long opening and each read may take, in seconds
    mpp
        µm per pixel of level 0, used instead of the file's; a request's own comes first

    Raises
    ------
    SlideNotFoundError
        there is no such file
    SlideFormatError
        no reader understands it; the message says why for each of them
    MppError
        `mpp` is not between 0.02 and 20 µm
    SlideTimeoutError
        its drive does not answer
    """
    request = as_request(slide)
    if request.mpp is None:
        request = SlideRequest(request.path, mpp)
    size = request.mpp
    given = None if size is None else Mpp(size, size, request.mpp_source)
    deadline = ReadTimeout(request.path.name, read_timeout_s)
    return deadline.call(_open, request.path, given, crop, deadline)


def _open(path: Path, given: Mpp | None, crop: bool, deadline: ReadTimeout) -> Slide:
    if not path.exists():
        raise SlideNotFoundError(f"{path} does not exist; check the path")
    if path.is_dir():
        raise SlideFormatError(f"{path} is a directory; give a slide file in it")
    slide_id_of(path)  # what cannot be named is refused before it is opened
    if given is not None and not given.plausible:
        raise MppError(
            f"{path.name}: {given.x:g} µm per pixel ({given.source}) is not in 0.02–20; fix it"
        )
    return Slide(path, _open_reader(path), mpp=given, crop=crop, deadline=deadline)


def _open_reader(path: Path) -> Reader:
    if path.stat().st_size == 0:
        raise SlideFormatError(f"{path.name} is empty; copy it again")
    refusals = []
    for reader in READERS:
        try:
            return _with_own_decoder(path, reader(path))
        except Refusal as refusal:
            refusals.append(f"{reader.name}: {refusal}")
    raise SlideFormatError(
        f"{path.name} cannot be read ({'; '.join(refusals)}); "
        "check that the file is complete, or export it as a pyramidal RGB TIFF"
    )


def _with_own_decoder(path: Path, reader: Reader) -> Reader:
    """The reader, or a faster one in front of it that gives the same pixels."""
    if isinstance(reader, OpenSlideReader):
        with contextlib.suppress(Refusal):
            return FastTiffReader(path, reader)
    return reader


class Slide:
    """One whole-slide image, open; a context manager. Reads may come from any thread.

    It pickles as its path and options and is opened anew by whoever unpickles it.

    Attributes
    ----------
    path, slide_id
        the file, and its name without suffix
    width, height
        pixels of level 0, cropped
    bounds
        the cropped area in the file's own level-0 pixels
    levels
        the pyramid, cropped; its pixels are the file's, so that a crop starts at the whole pixel
        nearest to the corner of level 0
    mpp
        pixel size, or None; `require_mpp` also checks it
    background
        the colour of everything transparent or outside
    reader, vendor
        "openslide", "tifffile" or "image", and what it calls the format
    decoder
        "direct" if tiles are decoded without OpenSlide, to the same pixels; else the reader
    notes
        what a user should know about how the file was understood
    """

    def __init__(
        self,
        path: Path,
        reader: Reader,
        *,
        mpp: Mpp | None,
        crop: bool,
        deadline: ReadTimeout | None = None,
    ) -> None:
        header = reader.header
        whole = Box(0, 0, header.levels[0].width, header.levels[0].height)
        self.path = path
        self.slide_id = slide_id_of(path)
        self.reader, self.vendor = reader.name, header.vendor
        self.decoder = "direct" if isinstance(reader, FastTiffReader) else reader.name
        self.background = header.background
        self.bounds = header.bounds if crop else whole
        self.width, self.height = self.bounds.width, self.bounds.height
        self._areas = [_area(level, self.bounds, whole) for level in header.levels]
        self.levels = tuple(
            Level(area.width, area.height, level.downsample)
            for area, level in zip(self._areas, header.levels, strict=True)
        )
        self.mpp, self.notes = header.mpp if mpp is None else mpp, header.notes
        if mpp is not None and header.mpp is not None and mpp.value != header.mpp.value:
            said = f"{mpp.source} {mpp.value:g} used instead of the file's {header.mpp.value:g}"
            self.notes += (said,)
        self._reader = reader
        self._given, self._crop, self._closed = mpp, crop, False
        self._deadline = deadline or ReadTimeout(path.name, RunConfig.read_timeout_s)
        self._scratch = threading.local()

    def require_mpp(self) -> Mpp:
        """The pixel size; `MppError` if there is none, or one that cannot be worked with."""
        remedy = "give --mpp, e.g. --mpp 0.25"
        if self.mpp is None:
            raise MppError(f"{self.path.name} has no pixel size; {remedy}")
        size = f"{self.path.name} has pixels of {self.mpp.x:g} x {self.mpp.y:g} µm"
        if not self.mpp.plausible:
            raise MppError(f"{size}, which is not in 0.02–20; {remedy}")
        if abs(self.mpp.x - self.mpp.y) > 0.02 * self.mpp.value:
            raise MppError(f"{size}, which are not square; resample the slide, or {remedy}")
        return self.mpp

    def read_region(self, box: Box, level: int = 0) -> NDArray[np.uint8]:
        """Pixels of a box of one level, uint8 (h, w, 3); background outside of the slide.

        Raises `SlideReadError` where the file is damaged; the next read is not harmed.
        """
        corner = self._areas[level]
        return self._window(
            level,
            Box(box.x0 + corner.x0, box.y0 + corner.y0, box.x1 + corner.x0, box.y1 + corner.y0),
        )

    def read_scaled(self, box: Box, scale: float) -> NDArray[np.uint8]:
        """Pixels of a box of a grid with any pixel size, uint8 (h, w, 3).

        Pixel i of that grid covers the level-0 pixels [i * scale, (i + 1) * scale), so that
        `scale` is the model's mpp over the slide's. It is filtered from the coarsest level that
        is fine enough and has the same value in whatever box it is read.
        """
        if box.width <= 0 or box.height <= 0:
            return np.empty((max(0, box.height), max(0, box.width), 3), np.uint8)
        source = self._source(box, scale)
        if source is None:
            parts = [self.read_scaled(half, scale) for half in box.halves()]
            return np.concatenate(parts, axis=int(box.width >= box.height))
        level, rows, columns, window = source
        if isinstance(self._reader, FastTiffReader) and rows.weights.shape[1] > 1:
            return resample(self._window(level, window, self._borrowed(window)), rows, columns)
        return resample(self._window(level, window), rows, columns)

    def _source(self, box: Box, scale: float) -> tuple[int, Taps, Taps, Box] | None:
        """Level, filters and the level's window for a box of a grid; None if that is too large."""
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"scale {scale} is not a positive number")
        level = max(
            (i for i, entry in enumerate(self.levels) if entry.downsample <= scale * 1.001),
            key=lambda i: self.levels[i].downsample,
            default=0,
        )
        downsample = self.levels[level].downsample
        step = scale / downsample
        if max(box.width, box.height) > 1 and box.width * box.height * step**2 > MAX_WINDOW_PX:
            return None
        rows = plan_taps(box.y0, box.y1, step, self.bounds.y0 / downsample)
        columns = plan_taps(box.x0, box.x1, step, self.bounds.x0 / downsample)
        return level, rows, columns, Box(columns.start, rows.start, columns.stop, rows.stop)

    def _borrowed(self, window: Box) -> NDArray[np.uint8]:
        """Memory for a window that this thread needs only for a moment.

        Memory that is new each time is cleared by the system, which takes as long as decoding.
        """
        size = window.width * window.height * 3
        memory: NDArray[np.uint8] | None = getattr(self._scratch, "memory", None)
        if memory is None or len(memory) < size:
            memory = self._scratch.memory = np.empty(size, np.uint8)
        return memory[:size].reshape(window.height, window.width, 3)

    def read_what_is_there(
        self, box: Box, scale: float
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """`read_scaled` of a slide that may be damaged: pixels, and which of them could be read.

        A tile of the file that cannot be read is left in the background colour.
        """
        source = self._source(box, scale)
        if source is None:
            halves = [self.read_what_is_there(half, scale) for half in box.halves()]
            axis = int(box.width >= box.height)
            pixels, readable = (np.concatenate(part, axis) for part in zip(*halves, strict=True))
            return pixels, readable
        try:
            return self.read_scaled(box, scale), np.ones((box.height, box.width), np.bool_)
        except SlideTimeoutError:
            raise  # so would each tile of it be
        except SlideReadError:
            if self._closed:
                raise
        level, rows, columns, window = source
        found = np.full((window.height, window.width, 3), self.background, np.uint8)
        missing = np.zeros((window.height, window.width), np.uint8)
        for tile in _grid(window, *self._reader.tile(level)):
            try:
                paste(found, window, self._window(level, tile), tile)
            except SlideTimeoutError:
                raise
            except SlideReadError:
                paste(missing, window, np.ones((tile.height, tile.width), np.uint8), tile)
        return resample(found, rows, columns), ~_meets(missing, rows, columns)

    def thumbnail(self, max_px: int = 2048) -> tuple[NDArray[np.uint8], float]:
        """The whole slide, uint8 (h, w, 3) with no side above `max_px`, and its downsample."""
        box, downsample = self.thumbnail_box(max_px)
        return self.read_scaled(box, downsample), downsample

    def thumbnail_box(self, max_px: int = 2048) -> tuple[Box, float]:
        """All of the slide on the grid of its thumbnail, and its downsample."""
        downsample = max(1.0, max(self.width, self.height) / max_px)
        # Just above a whole number is rounding, not one more pixel.
        width = math.ceil(self.width / downsample - 1e-6)
        height = math.ceil(self.height / downsample - 1e-6)
        return Box(0, 0, width, height), downsample

    def to_dask(self, level: int = 0, chunk_px: int = 1024) -> dask.array.Array:
        """One level as a lazy uint8 array (h, w, 3), read chunk by chunk."""
        import dask.array
        from dask.base import tokenize

        entry = self.levels[level]
        chunks = dask.array.core.normalize_chunks(
            (chunk_px, chunk_px, 3), (entry.height, entry.width, 3), dtype=np.uint8
        )
        file = self.path.stat()
        options = (self.path.absolute(), file.st_mtime_ns, file.st_size, self.bounds)
        return dask.array.map_blocks(
            _read_block,
            slide=self,
            level=level,
            chunks=chunks,
            dtype=np.uint8,
            meta=np.empty((0, 0, 0), np.uint8),
            name=f"slide-{tokenize(*options, level, chunk_px)}",
        )

    def _window(
        self, level: int, box: Box, out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Pixels of a box of the file's own level; background outside of the cropped area.

        They may lie in `out`, which only a `FastTiffReader` fills.
        """
        if self._closed:
            raise SlideReadError(f"{self.path.name} is closed; open it again")
        if box.width < 0 or box.height < 0:
            raise ValueError(f"{box} ends before it starts")
        inside = box.clip(self._areas[level])
        if inside.width == 0 or inside.height == 0:
            return np.full((box.height, box.width, 3), self.background, np.uint8)
        try:
            if inside == box and isinstance(self._reader, FastTiffReader):
                pixels = self._deadline.call(self._reader.read, level, inside, out)
            else:
                pixels = self._deadline.call(self._reader.read, level, inside)
        except MemoryError:
            raise
        except SlideTimeoutError:
            self._scratch.memory = None  # the late read may yet write into it
            raise
        except Exception as error:
            raise SlideReadError(
                f"{self.path.name}: x {inside.x0}–{inside.x1}, y {inside.y0}–{inside.y1} of "
                f"level {level} cannot be read ({one_line(error)}); copy or scan the slide again"
            ) from error
        if inside == box:
            return pixels
        out = np.full((box.height, box.width, 3), self.background, np.uint8)
        paste(out, box, pixels, inside)
        return out

    def close(self) -> None:
        """Let go of the file; where a read still hangs, when it comes back."""
        self._closed = True
        if not self._deadline.hanging:
            self._reader.close()

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        options = (self._given, self._crop, self._deadline.seconds)
        return _reopen, (self.path.absolute(), *options)

    def __repr__(self) -> str:
        return f"<Slide {self.slide_id} {self.width} x {self.height}, {self.reader} {self.vendor}>"


def _reopen(path: Path, given: Mpp | None, crop: bool, read_timeout_s: float) -> Slide:
    deadline = ReadTimeout(path.name, read_timeout_s)
    return deadline.call(_open, path, given, crop, deadline)


def _read_block(*, slide: Slide, level: int, block_info: Any = None) -> NDArray[np.uint8]:
    (y0, y1), (x0, x1), _ = block_info[None]["array-location"]
    return slide.read_region(Box(x0, y0, x1, y1), level)


def slide_id_of(path: Path) -> str:
    """The id of a slide: its file's name without suffix. `NameRefused` if it can name no folder."""
    ome = path.name.lower().endswith((".ome.tif", ".ome.tiff"))
    return check_name(Path(path.stem).stem if ome else path.stem)


def _grid(window: Box, width: int, height: int) -> Iterator[Box]:
    """The parts of a window that lie in the same tile each; tiles are `width` × `height`."""
    for y in range(window.y0 // height * height, window.y1, height):
        for x in range(window.x0 // width * width, window.x1, width):
            yield Box(x, y, x + width, y + height).clip(window)


def _meets(missing: NDArray[np.uint8], rows: Taps, columns: Taps) -> NDArray[np.bool_]:
    """Which output pixels take something from `missing` source pixels, bool (rows, columns)."""
    sums = cv2.integral(missing)
    top, left = rows.first - rows.start, columns.first - columns.start
    bottom, right = top + rows.weights.shape[1], left + columns.weights.shape[1]
    inside = sums[bottom][:, right] - sums[top][:, right] - sums[bottom][:, left]
    return np.asarray(inside + sums[top][:, left] > 0)


def _area(level: Level, bounds: Box, whole: Box) -> Box:
    """The part of a level that shows `bounds`; all of it for all of level 0."""
    full = Box(0, 0, level.width, level.height)
    if bounds == whole:
        return full
    edges = (bounds.x0, bounds.y0, bounds.x1, bounds.y1)
    return Box(*(round(edge / level.downsample) for edge in edges)).clip(full)
