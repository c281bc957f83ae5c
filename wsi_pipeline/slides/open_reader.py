"""Find the reader for a slide file."""

from __future__ import annotations

import contextlib
from pathlib import Path

from wsi_pipeline.core.errors import SlideFormatError
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
            return fast_reader(path, reader(path, choice))
        except Refusal as refusal:
            refusals.append(f"{reader.name}: {refusal}")
    raise SlideFormatError(
        f"{path.name} cannot be read ({'; '.join(refusals)}); "
        "check that the file is complete, or export it as a pyramidal RGB TIFF"
    )


def fast_reader(path: Path, reader: Reader) -> Reader:
    """Return a faster reader with the same pixels where there is one, else the reader itself."""
    if isinstance(reader, OpenSlideReader):
        with contextlib.suppress(Refusal):
            return FastTiffReader(path, reader)
    return reader
