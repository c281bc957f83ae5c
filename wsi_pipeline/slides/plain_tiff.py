"""Find the TIFF files that OpenSlide opens as plain ones, but would read wrongly or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

from wsi_pipeline.core.errors import one_line
from wsi_pipeline.slides.readers import Refusal
from wsi_pipeline.slides.tiff_colour import contradicted_by_tiles, orientation_of

__all__ = ["check_plain_tiff"]

LIBTIFF = (1, 5, 7, 8, 32773, 32946)
"""Values of the tag Compression that OpenSlide reads wherever it was built: none, LZW, JPEG,
Deflate and PackBits."""
UNSIGNED = 1


def check_plain_tiff(path: Path, size: tuple[int, int]) -> None:
    """Refuse a file with pixels that tifffile reads rightly, or that it refuses with a reason.

    Parameters
    ----------
    size
        width and height of what OpenSlide takes for the slide

    Raises
    ------
    Refusal
        OpenSlide mirrors each tile of a turned image by itself; it takes 16-bit samples as if all
        bits were significant; it follows the tag where the tiles state another colour model; it
        lacks some compressions; it takes a small first image for the slide
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            page = next(
                p for p in tiff.pages
                if p.is_tiled and (p.imagewidth, p.imagelength) == size
            )  # fmt: skip
            reason = _reason(tiff, page)
    except Exception as error:
        raise Refusal(one_line(error)) from error
    if reason:
        raise Refusal(reason)


def _reason(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> str | None:
    """Return why OpenSlide cannot be used, or None."""
    if int(page.compression) not in LIBTIFF:
        return f"compression {page.compression.name} is read by tifffile"
    if int(page.sampleformat) != UNSIGNED or int(np.max(page.bitspersample)) != 8:
        return "samples of other than 8 bits are read by tifffile"
    if orientation_of(page) != 1:
        return f"Orientation {orientation_of(page)}"
    area = page.imagewidth * page.imagelength
    if any(p.imagewidth * p.imagelength >= area for p in tiff.pages if p.index != page.index):
        return "another image of the file is as large"
    if contradicted_by_tiles(tiff, page) is not None:
        return "its tag and its tiles state different colour models"
    return None
