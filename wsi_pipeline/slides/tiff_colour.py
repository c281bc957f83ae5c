"""Turn the stored samples of a TIFF image into RGB with 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.sample_bits import ome_pixels, scale_samples, unknown_range
from wsi_pipeline.slides.readers import WHITE, Refusal
from wsi_pipeline.slides.resample import flatten

__all__ = [
    "JPEG",
    "YCBCR",
    "Colour",
    "contradicted_by_tiles",
    "jpeg_is_ycbcr",
    "ome_order",
    "orientation_of",
    "refuse_dark_range",
    "rgb_order",
]

GREY, PALETTE, COLOUR = (0, 1), (3,), (1, 2, 6)
"""PhotometricInterpretation of images with 1 sample per pixel (grey, palette) and with 3."""
YCBCR, ASSOCIATED_ALPHA = 6, 1
JPEG = (6, 7, 33007, 34892)
"""Values of the tag Compression whose decoders turn YCbCr into RGB."""
RGB_NAMES = {"r": 0, "red": 0, "ff0000": 0, "g": 1, "green": 1, "00ff00": 1, "b": 2, "blue": 2,
             "0000ff": 2}  # fmt: skip
"""Name or colour of a channel → its place in RGB."""
HEAD_BYTES = 4096
"""Bytes in which a JPEG states its colours."""


class Colour:
    """Turns the stored samples (h, w, n) of an image into RGB (h, w, 3).

    Parameters
    ----------
    page
        first page of the image
    samples
        number of samples of a pixel
    bits
        significant bits of a sample

    Raises
    ------
    Refusal
        the image is not RGB, grey or a palette of 8 or 16 bits
    """

    def __init__(self, page: Any, samples: int, bits: int) -> None:
        extra = tuple(int(kind) for kind in page.extrasamples)
        self._colours = samples - len(extra)
        self._alpha = bool(extra) and extra[0] in (1, 2)  # 0 is an unspecified sample
        self._premultiplied = extra[:1] == (ASSOCIATED_ALPHA,)
        photometric = int(page.photometric)
        if self._colours == 1 and extra[:1] == (0,):
            raise Refusal(
                f"{samples} samples of which the file calls only one a colour are not RGB; write "
                "them with PhotometricInterpretation RGB if they are"
            )
        known = {1: GREY + PALETTE, 3: COLOUR}.get(self._colours, ())
        if photometric not in known or page.dtype is None or page.dtype.kind not in "ub":
            raise Refusal(
                f"{self._colours} {page.dtype} samples of photometric {photometric} are not RGB"
                + _remedy(page)
            )
        if photometric == YCBCR and page.compression not in JPEG:
            raise Refusal("YCbCr is read only in JPEG")
        if page.dtype.itemsize > 2:
            raise Refusal(f"the range of {page.dtype} samples is unknown" + _remedy(page))
        self._table = _table(page, bits)

    def __call__(self, raw: NDArray[Any]) -> NDArray[np.uint8]:
        """Return RGB (h, w, 3)."""
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


def _remedy(page: Any) -> str:
    """Return what to do with samples that are no whole numbers, or whose range is unknown."""
    if page.dtype is None or (page.dtype.kind in "ub" and page.dtype.itemsize <= 2):
        return ""
    return "; convert the image to RGB with 8 bits per sample"


def _table(page: Any, bits: int) -> NDArray[np.uint8] | None:
    """Return what each stored value becomes: a grey (n,), a colour (n, 3), or None: itself."""
    if page.photometric == 3:
        colours = np.asarray(page.colormap).T
        return (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)
    if bits == 8 and page.photometric != 0 and page.dtype.itemsize == 1:
        return None
    table = scale_samples(np.arange(65536), bits)
    return 255 - table if page.photometric == 0 else table


def contradicted_by_tiles(file: Any, page: Any) -> bool | None:
    """Return whether JPEG tiles are YCbCr where they contradict the page's tag; None: they agree.

    Parameters
    ----------
    file
        the file, opened with tifffile
    page
        a page whose first tile with data is looked at
    """
    frame = page.keyframe
    if int(frame.compression) != 7 or frame.samplesperpixel != 3:
        return None
    index = next((i for i, size in enumerate(page.databytecounts) if size), None)
    if index is None:
        return None
    file.filehandle.seek(page.dataoffsets[index])
    ycbcr = jpeg_is_ycbcr(file.filehandle.read(min(page.databytecounts[index], HEAD_BYTES)))
    return None if ycbcr == (int(frame.photometric) == YCBCR) else ycbcr


def rgb_order(names: Sequence[str], colours: Sequence[str]) -> tuple[int, int, int]:
    """Return where red, green and blue are among three channels; 0, 1, 2 if that is not stated.

    Parameters
    ----------
    names
        their names, in any letters
    colours
        their colours, six hexadecimal digits each

    Examples
    --------
    >>> rgb_order(["B", "green", "Red"], []), rgb_order(["DAPI", "FITC", "TRITC"], [])
    ((2, 1, 0), (0, 1, 2))
    """
    for stated in (names, colours):
        found = [RGB_NAMES.get(text.strip().lower(), -1) for text in stated]
        if sorted(found) == [0, 1, 2]:
            return found.index(0), found.index(1), found.index(2)
    return 0, 1, 2


def ome_order(file: Any, index: int) -> tuple[int, int, int]:
    """Return `rgb_order` of the channels of a series, as its OME-XML states them."""
    channels = [
        node
        for pixels in (ome_pixels(file, index)[:1] if file.is_ome else [])
        for node in pixels.iter()
        if node.tag.rpartition("}")[2] == "Channel"
    ]
    colours = [node.get("Color", "") for node in channels]
    whole = [int(c) % 2**32 >> 8 if c.lstrip("-").isdecimal() else 1 for c in colours]
    return rgb_order([node.get("Name", "") for node in channels], [f"{c:06x}" for c in whole])


def orientation_of(page: Any) -> int:
    """Return the value of the tag Orientation; 1 is upright, as is 0, which some programs write."""
    tag = page.tags.get("Orientation")
    return int(tag.value) if tag is not None else 1


def refuse_dark_range(brightest: int, bits: int) -> None:
    """Refuse an image whose samples use only the lower half of their range.

    Raises
    ------
    Refusal
        the file does not state its significant bits, and its brightest sample is too dark
    """
    if (why := unknown_range(brightest, bits)) is not None:
        raise Refusal(why)


def jpeg_is_ycbcr(data: bytes) -> bool | None:
    """Return whether a JPEG with three components states that it is YCbCr; None: no statement.

    Adobe's marker states it, then the names R, G and B of the components, then JFIF, whose colours
    are always YCbCr (ITU-T T.871).

    Examples
    --------
    >>> jpeg_is_ycbcr(bytes.fromhex("ffd8ffee000e" "41646f6265" "0064" "0000" "0000" "00"))
    False
    """
    start, jfif = 2, False
    adobe: bool | None = None
    named: bool | None = None
    while start + 4 <= len(data) and data[start] == 0xFF:
        marker, size = data[start + 1], int.from_bytes(data[start + 2 : start + 4], "big")
        body = data[start + 4 : start + 2 + size]
        if marker == 0xDA:  # the pixels
            break
        if marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
            adobe = body[11] == 1
        elif marker == 0xE0 and body[:4] == b"JFIF":
            jfif = True
        elif 0xC0 <= marker <= 0xC3 and body[5:6] == b"\x03" and body[6:15:3] == b"RGB":
            named = False
        start += 2 + size
    if adobe is not None:
        return adobe
    return named if named is not None else (True if jfif else None)
