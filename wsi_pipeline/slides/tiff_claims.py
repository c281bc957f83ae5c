"""Compare what a TIFF file states with what it can hold, before memory is taken for it."""

from __future__ import annotations

import math
import re
from typing import Any

from wsi_pipeline.slides.readers import MAX_TILE_PX, Refusal

__all__ = ["check_chunks", "check_coded_size", "check_ome_sizes"]

MAX_PLANES = 100_000
"""Most planes of an OME image, all channels, focal planes and time points together."""
MOST_MISSING = 100
"""Most bytes of plain pixels for each byte of the file."""
_PIXELS = re.compile(r"<(?:\w+:)?Pixels\b[^>]*>")
_COUNT = re.compile(r"\bSize[CZT]\s*=\s*[\"']\s*\+?(\d+)")
_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Second bytes of the markers in a JPEG behind which its size stands (ITU-T T.81, table B.1)."""
JPEG, JPEG_2000 = (6, 7, 33007), (33003, 33004, 33005, 34712)
"""Values of the tag Compression."""


def check_ome_sizes(file: Any) -> None:
    """Refuse an OME-TIFF that states more planes than any file has.

    tifffile makes an entry for each of them, also for those that are not there.

    Parameters
    ----------
    file
        a `tifffile.TiffFile`

    Raises
    ------
    Refusal
        the planes are too many
    """
    for pixels in _PIXELS.findall(file.ome_metadata or ""):
        planes = math.prod(int(number[:20]) for number in _COUNT.findall(pixels))
        if planes > MAX_PLANES:
            raise Refusal(f"its OME-XML states {planes} planes, more than {MAX_PLANES}")


def check_chunks(page: Any) -> None:
    """Refuse a page whose tiles or strips have no size, or are fewer than its size needs.

    Parameters
    ----------
    page
        a page of tifffile

    Raises
    ------
    Refusal
        it states a size that its tiles or strips do not fill
    """
    frame = page.keyframe
    width, height = (
        (frame.tilewidth, frame.tilelength)
        if frame.is_tiled
        else (frame.imagewidth, frame.rowsperstrip)
    )
    what = "tiles" if frame.is_tiled else "strips"
    if min(width, height, frame.imagewidth, frame.imagelength) < 1:
        raise Refusal(f"it states {what} of {width} x {height} pixels; the file is damaged")
    if page.is_memmappable:
        _check_bytes(page)
        return
    needed = -(-frame.imagewidth // width) * -(-frame.imagelength // height)
    needed *= frame.samplesperpixel if frame.planarconfig == 2 else 1
    there = min(len(page.dataoffsets), len(page.databytecounts))
    if there < needed:
        raise Refusal(
            f"its {frame.imagewidth} x {frame.imagelength} pixels need {needed} {what}, and it has "
            f"{there}; the file is damaged"
        )


def _check_bytes(page: Any) -> None:
    """Refuse an image of plain pixels of which the file can hold only a small part.

    A file that was cut off is read as far as it goes, so the image may be larger than the file.
    """
    frame, there = page.keyframe, page.parent.filehandle.size
    size = frame.imagewidth * frame.imagelength
    stated = size * frame.samplesperpixel * frame.bitspersample // 8
    if stated > MOST_MISSING * there:
        raise Refusal(
            f"its {frame.imagewidth} x {frame.imagelength} pixels take {stated} bytes, and the "
            f"file has {there}; the file is damaged"
        )


def check_coded_size(data: bytes | None, compression: int) -> None:
    """Refuse a tile whose own header states far more pixels than any tile has.

    Raises
    ------
    Refusal
        a JPEG or JPEG 2000 tile of more than `MAX_TILE_PX`, four times
    """
    if data is None:
        return
    if compression in JPEG:
        size = _jpeg_size(data)
    elif compression in JPEG_2000 and (at := data[:100].find(b"\xff\x4f\xff\x51")) >= 0:
        size = tuple(int.from_bytes(data[at + k : at + k + 4], "big") for k in (8, 12))
    else:
        return
    if math.prod(size) > 4 * MAX_TILE_PX:
        raise Refusal(f"a tile states {size[0]} x {size[1]} pixels, too many to decode at once")


def _jpeg_size(data: bytes) -> tuple[int, ...]:
    """Return height and width of a JPEG; (0, 0) where its head has none."""
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        kind = data[at + 1]
        if kind in _START_OF_FRAME:
            return tuple(int.from_bytes(data[at + k : at + k + 2], "big") for k in (5, 7))
        at += 2 + (0 if kind in (0x01, 0xFF) else int.from_bytes(data[at + 2 : at + 4], "big"))
    return 0, 0
