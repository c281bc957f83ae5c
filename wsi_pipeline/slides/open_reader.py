"""Find the reader for a slide file."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from wsi_pipeline.core.errors import SlideFormatError, WsisegError, one_line
from wsi_pipeline.slides.fast_tiff import FastTiffReader
from wsi_pipeline.slides.image_reader import ImageReader
from wsi_pipeline.slides.openslide_reader import OpenSlideReader
from wsi_pipeline.slides.readers import Choice, Reader, Refusal
from wsi_pipeline.slides.tiff_reader import TiffReader

__all__ = ["READERS", "fast_reader", "open_reader"]

READERS: tuple[type[OpenSlideReader] | type[TiffReader] | type[ImageReader], ...] = (
    OpenSlideReader,
    TiffReader,
    ImageReader,
)
"""In the order in which they are tried."""

_log = logging.getLogger(__name__)


def open_reader(path: Path, choice: Choice = Choice()) -> Reader:  # noqa: B008 (it is frozen)
    """Open a file with the first reader that supports it.

    Raises
    ------
    SlideFormatError
        no reader supports the file, or it is damaged; the message has the reason of each reader
    """
    if path.is_dir():
        from wsi_pipeline.slides.ome_zarr_reader import OmeZarrReader  # zarr takes half a second

        try:
            with _any_damage(path, "zarr"):
                return OmeZarrReader(path, choice)
        except Refusal as refusal:
            raise SlideFormatError(
                f"{path} is a folder, and no slide ({refusal}); give a slide file in it"
            ) from refusal
    if path.stat().st_size == 0:
        raise SlideFormatError(f"{path.name} is empty; copy it again")
    refusals = []
    for reader in READERS:
        try:
            with _any_damage(path, reader.name):
                return fast_reader(path, reader(path, choice))
        except Refusal as refusal:
            refusals.append(f"{reader.name}: {refusal}")
    raise SlideFormatError(
        f"{path.name} cannot be read ({'; '.join(refusals)}); "
        "check that the file is complete, or export it as a pyramidal RGB TIFF"
    )


@contextlib.contextmanager
def _any_damage(path: Path, reader: str) -> Iterator[None]:
    """Turn what a library raises for a header that nobody foresaw into a `SlideFormatError`."""
    try:
        yield
    except (WsisegError, Refusal, MemoryError):
        raise
    except Exception as error:
        _log.debug("%s", path, exc_info=True)
        raise SlideFormatError(
            f"{path.name} is damaged or not supported ({reader}: {type(error).__name__}: "
            f"{one_line(error)}); copy it again, or export it as a pyramidal TIFF"
        ) from error


def fast_reader(path: Path, reader: Reader) -> Reader:
    """Return a faster reader with the same pixels where there is one, else the reader itself."""
    if isinstance(reader, OpenSlideReader):
        with contextlib.suppress(Refusal):
            return FastTiffReader(path, reader)
    return reader
