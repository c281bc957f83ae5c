"""Bring samples of 16 bits to 8, by the bits that the file states to be significant.

A camera of 12 bits writes values up to 4095 into samples of 16 bits. Slides, training and
evaluation use these functions, so that a file has the same pixels everywhere.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ome_pixels", "png_bits", "scale_samples", "tiff_bits", "unknown_range"]

LEAST_SHARE = 0.5
"""A bright-field image whose brightest sample is below this share of its range was scaled wrongly:
its glass would be dark."""


def ome_pixels(file: Any, index: int) -> list[ET.Element]:
    """Return the OME-XML element Pixels of a series.

    tifffile leaves out images whose pixels are in no file. Then these are the elements with the
    size of the series: none, one or several.

    Parameters
    ----------
    file
        the file, opened with tifffile
    index
        number of the series
    """
    nodes = ET.fromstring(file.ome_metadata).iter()
    pixels = [node for node in nodes if node.tag.rpartition("}")[2] == "Pixels"]
    if len(pixels) == len(file.series):
        return [pixels[index]]
    frame = file.series[index].keyframe
    size = str(frame.imagewidth), str(frame.imagelength)
    return [p for p in pixels if (p.get("SizeX"), p.get("SizeY")) == size]


def tiff_bits(file: Any, index: int, page: Any) -> tuple[int, bool]:
    """Return the significant bits of a sample of a TIFF file, and whether the file states them.

    OME-XML states them by SignificantBits, TIFF by the tag MaxSampleValue. All stored bits are no
    statement: many programs write that whatever the camera gave.

    Parameters
    ----------
    file, index
        as in `ome_pixels`
    page
        first page of the series
    """
    stored = int(np.max(page.bitspersample))
    if file.is_ome:
        found = {pixels.get("SignificantBits", "") for pixels in ome_pixels(file, index)}
        stated = found.pop() if len(found) == 1 else ""
        if stated.isdecimal() and 1 <= int(stated) < stored:
            return int(stated), True
    if "MaxSampleValue" in page.tags:
        top = int(np.max(page.tags["MaxSampleValue"].value))
        if 0 < top < 2**stored - 1:
            return top.bit_length(), True
    return stored, False


def png_bits(path: Path) -> int | None:
    """Return the significant bits of a PNG of 16 bits per sample, 0 if it does not state them.

    Without 16 bits, None. The chunk sBIT states them (PNG specification, 11.3.2.5).
    """
    with path.open("rb") as file:
        head = file.read(33)
        if len(head) < 33 or head[:4] != b"\x89PNG" or head[24] != 16:
            return None
        while len(chunk := file.read(8)) == 8:
            size, kind = int.from_bytes(chunk[:4], "big"), chunk[4:]
            if kind == b"sBIT":
                bits = max(file.read(size), default=0)
                return bits if bits < 16 else 0
            if kind == b"IDAT":
                break
            file.seek(size + 4, 1)
    return 0


def scale_samples(samples: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Return samples with the given significant bits as 8 bits, rounded; brighter ones are white.

    Examples
    --------
    >>> scale_samples(np.array([0, 2048, 4095, 5000]), 12).tolist()
    [0, 128, 255, 255]
    """
    top = 2**bits - 1
    scaled = (samples.astype(np.uint32) * 255 + top // 2) // top
    return np.minimum(scaled, 255).astype(np.uint8)


def unknown_range(brightest: int, bits: int) -> str | None:
    """Return why an image that does not state its significant bits cannot be brought to 8 bits.

    Parameters
    ----------
    brightest
        its largest sample
    bits
        bits of a stored sample

    Examples
    --------
    >>> unknown_range(4095, 16)[:49]
    'its samples of 16 bits reach only 4095 of 65535, '
    >>> unknown_range(60000, 16), unknown_range(3, 8)
    (None, None)
    """
    top = 2**bits - 1
    if bits <= 8 or not 0 < brightest < LEAST_SHARE * top:
        return None
    return (
        f"its samples of {bits} bits reach only {brightest} of {top}, and the file does not "
        "state how many bits are significant; convert it to 8 bits per sample, or write "
        "SignificantBits (OME-XML), MaxSampleValue (TIFF) or sBIT (PNG), e.g. "
        f"{brightest.bit_length()} or {2 ** brightest.bit_length() - 1}"
    )
