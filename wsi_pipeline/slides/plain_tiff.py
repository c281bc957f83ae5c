"""Find the TIFF files that OpenSlide opens as plain ones, but would read wrongly or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

from wsi_pipeline.core.errors import one_line
from wsi_pipeline.core.pixel_size import Mpp
from wsi_pipeline.slides.readers import Refusal
from wsi_pipeline.slides.tiff_colour import contradicted_by_tiles, orientation_of
from wsi_pipeline.slides.tiff_pixel_size import tiff_pixel_size

__all__ = ["check_plain_tiff"]

LIBTIFF = (5, 7, 8, 32773, 32946)
"""Values of the tag Compression that OpenSlide reads wherever it was built: LZW, JPEG,
Deflate and PackBits."""
UNSIGNED = 1
RGB, YCBCR = 2, 6
ALPHA = ((1,), (2,))


def check_plain_tiff(path: Path, size: tuple[int, int]) -> tuple[Mpp | None, tuple[str, ...]]:
    """Refuse a file with pixels that tifffile reads rightly, or that it refuses with a reason.

    Return the pixel size of the others, and notes: OpenSlide reads fewer statements of it.

    Parameters
    ----------
    size
        width and height of what OpenSlide takes for the slide

    Raises
    ------
    Refusal
        OpenSlide mirrors each tile of a turned image by itself; it takes 16-bit samples as if all
        bits were significant; it follows the tag where the tiles state another colour model; it
        lacks some compressions; it takes a small first image for the slide; it takes a fourth
        sample of any meaning for alpha; it takes images of other samples for levels; it calls
        the last of some uncompressed tiles damaged
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            page = next(
                p for p in tiff.pages
                if p.is_tiled and (p.imagewidth, p.imagelength) == size
            )  # fmt: skip
            reason = _reason(tiff, page)
            found = tiff_pixel_size(tiff, 0, page)
    except Exception as error:
        raise Refusal(one_line(error)) from error
    if reason:
        raise Refusal(reason)
    return found


def _reason(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> str | None:
    """Return why OpenSlide cannot be used, or None."""
    if int(page.compression) not in LIBTIFF:
        return f"compression {page.compression.name} is read by tifffile"
    if int(page.sampleformat) != UNSIGNED or int(np.max(page.bitspersample)) != 8:
        return "samples of other than 8 bits are read by tifffile"
    if orientation_of(page) != 1:
        return f"Orientation {orientation_of(page)}"
    if page.imagedepth > 1:
        return "its tiles hold several planes"
    extra = tuple(int(kind) for kind in page.extrasamples)
    if max(page.databytecounts, default=0) > tiff.filehandle.size:
        return "a tile states more bytes than the file has"  # OpenSlide would ask for them
    if extra and (extra not in ALPHA or int(page.photometric) not in (RGB, YCBCR)):
        return "further samples are read by tifffile"
    if any(p.is_tiled and p.is_reduced and _samples(p) != _samples(page) for p in tiff.pages):
        return "its reduced images have other samples"
    area = page.imagewidth * page.imagelength
    if any(p.imagewidth * p.imagelength >= area for p in tiff.pages if p.index != page.index):
        return "another image of the file is as large"
    if contradicted_by_tiles(tiff, page) is not None:
        return "its tag and its tiles state different colour models"
    return None


def _samples(page: tifffile.TiffPage) -> tuple[object, ...]:
    """Return what the levels of a slide have in common."""
    return page.dtype, page.samplesperpixel, orientation_of(page)
