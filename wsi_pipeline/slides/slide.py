"""Slides: level-0 pixels, a pixel size, and windows of RGB, for every file format."""

from __future__ import annotations

import math
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from wsi_pipeline.core.named_paths import why_refused
from wsi_pipeline.core.pixel_size import MPP_RANGE, Mpp
from wsi_pipeline.core.request import SlideRequest, as_request
from wsi_pipeline.core.safe_names import shown, slide_id_of
from wsi_pipeline.slides.dask_array import lazy_array
from wsi_pipeline.slides.fast_tiff import FastTiffReader
from wsi_pipeline.slides.levels import area_of
from wsi_pipeline.slides.open_reader import open_reader
from wsi_pipeline.slides.read_timeout import ReadTimeout, slowest_s
from wsi_pipeline.slides.readers import Choice, Level, Reader
from wsi_pipeline.slides.resample import Taps, plan_taps, resample, touches

if TYPE_CHECKING:
    from types import TracebackType

    import dask.array

__all__ = ["Slide", "open_slide"]

MAX_WINDOW_PX = 2**25
"""Most source pixels that are held at once for resampling."""


def open_slide(
    slide: SlideRequest | Path | str,
    *,
    crop: bool = True,
    read_timeout_s: float = RunConfig.read_timeout_s,
    mpp: float | None = None,
    series: int | None = None,
    plane: int | None = None,
    time: int | None = None,
) -> Slide:
    """Open a slide with the first reader that supports its format.

    The readers are OpenSlide, tifffile and, for plain images, Pillow.

    Parameters
    ----------
    slide
        path of the slide file, or a request; of a DICOM slide the path of any of its files
    crop
        use only the scanned area that the file declares (openslide.bounds), as QuPath does;
        otherwise the whole canvas
    read_timeout_s
        seconds to wait for the opening and for each read
    mpp
        µm per level-0 pixel, used instead of that of the file; a request's own takes precedence
    series, plane, time
        number of the image in a file with several, of the focal plane, and of the time point,
        from 0; the largest image, its middle plane and first time point by default

    Raises
    ------
    SlideNotFoundError
        the file does not exist
    SlideFormatError
        no reader supports the file; the message has the reason of each reader
    MppError
        `mpp` is implausible
    SlideTimeoutError
        the drive does not answer in time

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import tifffile
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "small.tif"
    ...     tifffile.imwrite(path, np.full((300, 400, 3), 240, np.uint8), tile=(128, 128))
    ...     with open_slide(path, mpp=0.25) as slide:
    ...         print(slide.width, slide.height, slide.require_mpp().value)
    ...         slide.read_region(Box(390, 0, 410, 8)).shape
    ...         slide.read_scaled(Box(0, 0, 100, 75), scale=4.0).shape
    400 300 0.25
    (8, 20, 3)
    (75, 100, 3)
    """
    request = as_request(slide)
    if request.mpp is None:
        request = SlideRequest(request.path, mpp)
    given = None if request.mpp is None else Mpp(request.mpp, request.mpp, request.mpp_source)
    timeout = ReadTimeout(request.path.name, read_timeout_s)
    return timeout.call(_open, request.path, given, crop, timeout, Choice(series, plane, time))


def _open(path: Path, given: Mpp | None, crop: bool, timeout: ReadTimeout, choice: Choice) -> Slide:
    slide_id_of(path)  # refuse a bad name before the file is opened
    if why := why_refused(path):
        raise SlideFormatError(f"{shown(path)} cannot be opened ({why}); check the path")
    if not path.exists():
        raise SlideNotFoundError(f"{path} does not exist; check the path")
    if given is not None and not given.plausible:
        raise MppError(
            f"{path.name}: pixel size of {given.x:g} µm ({given.source}) is implausible; "
            f"give {MPP_RANGE}, e.g. 0.25"
        )
    return Slide(
        path, open_reader(path, choice), mpp=given, crop=crop, timeout=timeout, choice=choice
    )


class Slide:
    """An open whole-slide image; a context manager. Any thread may read.

    A pickled slide consists of its path and options; unpickling opens the file again.

    Attributes
    ----------
    path, slide_id
        the file, and its name without suffix
    width, height
        size of level 0, pixels, cropped
    bounds
        the cropped area, level-0 pixels of the file
    levels
        the pyramid, cropped to the whole pixels of the file that are nearest to `bounds`
    mpp
        pixel size, or None; `require_mpp` checks it
    background
        RGB of everything transparent or outside
    reader, vendor
        "openslide", "tifffile" or "image", and its name for the format
    decoder
        "direct" where tiles are decoded without OpenSlide, to the same pixels; else the reader
    notes
        how the file was understood, for the user
    plane, time
        numbers of the focal plane and of the time point that are read
    """

    def __init__(
        self,
        path: Path,
        reader: Reader,
        *,
        mpp: Mpp | None,
        crop: bool,
        timeout: ReadTimeout | None = None,
        choice: Choice = Choice(),  # noqa: B008 (it is frozen)
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
        self._areas = [area_of(level, self.bounds, whole) for level in header.levels]
        self.levels = tuple(
            Level(area.width, area.height, level.downsample)
            for area, level in zip(self._areas, header.levels, strict=True)
        )
        self.mpp, self.notes = header.mpp if mpp is None else mpp, header.notes
        self.plane, self.time = header.plane, header.time
        if mpp is not None and header.mpp is not None and mpp.value != header.mpp.value:
            note = f"{mpp.source} {mpp.value:g} used instead of the file's {header.mpp.value:g}"
            self.notes += (note,)
        self._reader = reader
        self._given, self._crop, self._choice, self._closed = mpp, crop, choice, False
        self._timeout = timeout or ReadTimeout(path.name, RunConfig.read_timeout_s)
        self._scratch = threading.local()

    def require_mpp(self) -> Mpp:
        """Return the pixel size.

        Raises
        ------
        MppError
            the slide has none, or it is implausible, or the pixels are not square
        """
        remedy = "give --mpp, e.g. --mpp 0.25"
        if self.mpp is None:
            raise MppError(f"{self.path.name} has no pixel size; {remedy}")
        size = f"{self.path.name} has pixels of {self.mpp.x:g} x {self.mpp.y:g} µm"
        if not self.mpp.plausible:
            raise MppError(f"{size}, not {MPP_RANGE}; {remedy}")
        if not self.mpp.square:
            raise MppError(f"{size}, which are not square; resample the slide, or {remedy}")
        return self.mpp

    def read_region(self, box: Box, level: int = 0) -> NDArray[np.uint8]:
        """Return the pixels of a box of one level, uint8 (h, w, 3); background outside the slide.

        Raises
        ------
        SlideReadError
            the file is damaged there; later reads of other boxes work
        """
        corner = self._areas[level]
        return self._window(
            level,
            Box(box.x0 + corner.x0, box.y0 + corner.y0, box.x1 + corner.x0, box.y1 + corner.y0),
        )

    def read_scaled(self, box: Box, scale: float) -> NDArray[np.uint8]:
        """Return the pixels of a box of a grid with any pixel size, uint8 (h, w, 3).

        Pixel i of the grid covers the level-0 pixels [i * scale, (i + 1) * scale). It is filtered
        from the coarsest level that is fine enough, and has the same value in every box.

        Parameters
        ----------
        scale
            pixel size of the grid over that of level 0; for a model, its mpp over the slide's

        Raises
        ------
        SlideReadError
            the file is damaged there; later reads of other boxes work
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
        """Return level, filters and window of the level for a box of a grid; None if too large."""
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
        """Return memory that this thread reuses for a window at every call.

        The system clears new memory, which takes as long as decoding.
        """
        size = window.width * window.height * 3
        memory: NDArray[np.uint8] | None = getattr(self._scratch, "memory", None)
        if memory is None or len(memory) < size:
            memory = self._scratch.memory = np.empty(size, np.uint8)
        return memory[:size].reshape(window.height, window.width, 3)

    def read_what_is_there(
        self, box: Box, scale: float
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Read a damaged slide like `read_scaled`; return pixels, and which of them were readable.

        A tile of the file that cannot be read gets the background colour.

        Returns
        -------
        uint8 (h, w, 3) and bool (h, w)
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
            raise  # each tile would take as long
        except SlideReadError:
            if self._closed:
                raise
        level, rows, columns, window = source
        found = np.full((window.height, window.width, 3), self.background, np.uint8)
        missing = np.zeros((window.height, window.width), np.uint8)
        for tile in window.cut(*self._reader.tile(level)):
            try:
                paste(found, window, self._window(level, tile), tile)
            except SlideTimeoutError:
                raise
            except SlideReadError:
                paste(missing, window, np.ones((tile.height, tile.width), np.uint8), tile)
        return resample(found, rows, columns), ~touches(missing, rows, columns)

    def thumbnail(self, max_px: int = 2048) -> tuple[NDArray[np.uint8], float]:
        """Return the whole slide, uint8 (h, w, 3), sides up to `max_px`, and its downsample."""
        box, downsample = self.thumbnail_box(max_px)
        with self.limited_time():
            return self.read_scaled(box, downsample), downsample

    def limited_time(self) -> AbstractContextManager[None]:
        """Limit all reads of this thread together: a small file can state a million rows."""
        return self._timeout.together(slowest_s(self.path, self.width * self.height))

    def thumbnail_box(self, max_px: int = 2048) -> tuple[Box, float]:
        """Return the box of the whole slide on the grid of its thumbnail, and its downsample."""
        downsample = max(1.0, max(self.width, self.height) / max_px)
        # A quotient just above a whole number is a rounding error, not one more pixel.
        width = math.ceil(self.width / downsample - 1e-6)
        height = math.ceil(self.height / downsample - 1e-6)
        return Box(0, 0, width, height), downsample

    def to_dask(self, level: int = 0, chunk_px: int = 1024) -> dask.array.Array:
        """Return one level as a lazy Dask array, uint8 (h, w, 3), read chunk by chunk."""
        return lazy_array(self, level, chunk_px)

    def _window(
        self, level: int, box: Box, out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Return the pixels of a box of the file's own level; background outside the crop.

        `out` is memory that a `FastTiffReader` may fill and return.
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
                pixels = self._timeout.call(self._reader.read, level, inside, out)
            else:
                pixels = self._timeout.call(self._reader.read, level, inside)
        except MemoryError:
            raise
        except SlideTimeoutError:
            self._scratch.memory = None  # the late read may still write into it
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
        """Close the file, unless a read still hangs in it."""
        self._closed = True
        if not self._timeout.hanging:
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
        options = (self._given, self._crop, self._timeout.seconds, self._choice)
        return _reopen, (self.path.absolute(), *options)

    def __repr__(self) -> str:
        return f"<Slide {self.slide_id} {self.width} x {self.height}, {self.reader} {self.vendor}>"


def _reopen(
    path: Path, given: Mpp | None, crop: bool, read_timeout_s: float, choice: Choice
) -> Slide:
    timeout = ReadTimeout(path.name, read_timeout_s)
    return timeout.call(_open, path, given, crop, timeout, choice)
