"""Read the pixel size of a TIFF file: OME-XML, ImageJ, a description, or the resolution tags."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from wsi_pipeline.core.pixel_size import Mpp
from wsi_pipeline.core.sample_bits import ome_pixels
from wsi_pipeline.slides.readers import plausible_mpp

__all__ = ["UNITS", "number_of", "tiff_pixel_size", "unit_of"]

_PREFIXES = {
    "Y": 24, "Z": 21, "E": 18, "P": 15, "T": 12, "G": 9, "M": 6, "k": 3, "h": 2, "da": 1, "": 0,
    "d": -1, "c": -2, "m": -3, "µ": -6, "n": -9, "p": -12, "f": -15, "a": -18, "z": -21, "y": -24,
}  # fmt: skip
UNITS = MappingProxyType(
    {f"{prefix}m": 10.0 ** (power + 6) for prefix, power in _PREFIXES.items()}
    | {"Å": 1e-4, "thou": 25.4, "li": 25400 / 12, "in": 25400.0, "ft": 304800.0, "yd": 914400.0,
       "mi": 1.609344e9, "ua": 1.495978707e17, "ly": 9.4607304725808e21,
       "pc": 3.0856775814913673e22, "pt": 25400 / 72}
)  # fmt: skip
"""Every unit of length of the OME schema (UnitsLength, 2016-06) → µm. Its "pixel" and
"reference frame" are no lengths."""
_ALIASES = {
    "um": "µm", "micron": "µm", "inch": "in", "inches": "in", "cm.": "cm", "angstrom": "Å",
    "foot": "ft", "feet": "ft", "yard": "yd", "mile": "mi", "parsec": "pc",
}  # fmt: skip
_NAMES = {
    "yotta": "Y", "zetta": "Z", "exa": "E", "peta": "P", "tera": "T", "giga": "G", "mega": "M",
    "kilo": "k", "hecto": "h", "deca": "da", "": "", "deci": "d", "centi": "c", "milli": "m",
    "micro": "µ", "nano": "n", "pico": "p", "femto": "f", "atto": "a", "zepto": "z", "yocto": "y",
}  # fmt: skip
"""Prefixes as they are written out, e.g. in OME-Zarr: "micrometer"."""
_NUMBER = r"[-+]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][-+]?\d+)?"


def unit_of(text: str | None) -> float | None:
    r"""Return the length of a unit in µm, or None if it is no length.

    Examples
    --------
    >>> unit_of("microns"), unit_of("\\u00B5m"), unit_of("μm"), unit_of("mm"), unit_of("pixel")
    (1.0, 1.0, 1.0, 1000.0, None)
    >>> unit_of("micrometre"), unit_of("picometers")
    (1.0, 1e-06)
    """
    name = (text or "").strip()
    if "\\u" in name:  # ImageJ writes characters beyond ASCII in this way
        name = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), name)
    name = name.replace("\u03bc", "\u00b5")  # the Greek letter and the sign for micro
    plain = name.lower().removesuffix("s")
    if (long := re.fullmatch(r"([a-z]*)met(?:er|re)", plain)) and long[1] in _NAMES:
        return UNITS[f"{_NAMES[long[1]]}m"]
    return UNITS.get(_ALIASES.get(name.lower(), _ALIASES.get(plain, name)))


def number_of(text: str | None) -> float | None:
    """Return the number in a text, with a point or a decimal comma, or None.

    Examples
    --------
    >>> number_of("0,25"), number_of("2.5e-1"), number_of("1,234.5")
    (0.25, 0.25, None)
    """
    match = re.fullmatch(rf"\s*({_NUMBER})\s*", text or "")
    return float(match[1].replace(",", ".")) if match else None


def tiff_pixel_size(file: Any, index: int, page: Any) -> tuple[Mpp | None, tuple[str, ...]]:
    """Return the pixel size of a file that tifffile opened, and notes on how it was understood.

    Parameters
    ----------
    index
        number of the series
    page
        first page of the series
    """
    if file.is_ome:
        mpp, notes = _of_ome(ome_pixels(file, index))
        if mpp is not None or notes:
            return mpp, notes
    described = re.search(rf"\|\s*MPP\s*=\s*({_NUMBER})\s*(?:\||$)", page.description)
    size = number_of(described[1]) if described else None
    if size is not None:
        return Mpp(size, size, "metadata"), ()
    try:
        per_unit, code = page.resolution, int(page.resolutionunit)
    except (ValueError, TypeError):
        return None, ("its resolution tags cannot be read and are ignored",)
    unit: float | None = None
    if file.is_imagej:
        unit = unit_of(str((file.imagej_metadata or {}).get("unit", "")))
    if unit is None:  # inch, cm, mm, µm; without a unit the numbers are an aspect ratio
        unit = {2: 25400.0, 3: 1e4, 4: 1e3, 5: 1.0}.get(code)
    if not unit or min(per_unit) <= 0 or per_unit == (1, 1):
        return None, ()
    return plausible_mpp(Mpp(unit / per_unit[0], unit / per_unit[1], "metadata"))


def _of_ome(images: Sequence[ET.Element]) -> tuple[Mpp | None, tuple[str, ...]]:
    """Return the pixel size of OME images that agree; without Y, pixels are as high as wide."""
    found = {_of_pixels(pixels) for pixels in images}
    if len(found) > 1:
        return None, ("its OME-XML states several pixel sizes for images of this size; ignored",)
    return found.pop() if found else (None, ())


def _of_pixels(pixels: ET.Element) -> tuple[Mpp | None, tuple[str, ...]]:
    """Return the pixel size of an element Pixels, and notes."""
    sizes: dict[str, float] = {}
    for axis in "XY":
        stated = pixels.get(f"PhysicalSize{axis}")
        unit = pixels.get(f"PhysicalSize{axis}Unit", "µm")
        if stated is None:
            continue
        size, length = number_of(stated), unit_of(unit)
        if size is None or length is None:
            return None, (f"pixel size {stated} {unit} is no length and ignored",)
        sizes[axis] = size * length
    if not sizes:
        return None, ()
    x = sizes.get("X", sizes.get("Y", 0.0))
    notes = () if len(sizes) == 2 else (
        f"the file states only PhysicalSize{next(iter(sizes))}; pixels are taken as square",
    )  # fmt: skip
    return Mpp(x, sizes.get("Y", x), "metadata"), notes
