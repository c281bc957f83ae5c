"""Read the image files of sets: RGB, 8 bits, upright; training and evaluation use these functions.

A photograph is turned upright as its EXIF orientation states, so outlines must be drawn on the
upright image, as viewers show it.
"""

from __future__ import annotations

import threading
import unicodedata
import warnings
from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from ..sample_bits import png_bits, scale_samples, tiff_bits, unknown_range

__all__ = ["IMAGE_SUFFIXES", "find_image", "image_shape", "read_image", "resize_image"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
"""Ends of the names of images, where a folder has no list of them."""

ORIENTATION = 274
"""Tag of the orientation, 1 (upright) to 8, in EXIF and TIFF."""
_HEADERS = threading.Lock()


def find_image(folder: Path, name: str) -> Path:
    r"""Return the file that a set names, relative to its folder.

    A name written on Windows may have ``\``, one written on a Mac decomposed accents.
    """
    plain = name.replace("\\", "/")
    forms = (name, plain, *(unicodedata.normalize(form, plain) for form in ("NFC", "NFD")))
    for form in forms:
        try:
            if (folder / form).is_file():
                return folder / form
        except OSError:  # a name that the file system refuses
            continue
    return folder / plain


def _header(path: Path) -> tuple[tuple[int, int], int] | None:
    """Return width and height as stored, and the orientation; None where Pillow has no reader."""
    with _HEADERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about large images and odd tags
        try:
            with Image.open(path) as image:
                return image.size, int(image.getexif().get(ORIENTATION) or 1)
        except (OSError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError):
            return None


def image_shape(path: Path) -> tuple[int, int]:
    """Return height and width of an upright image; its pixels are read only where they must be.

    Raises
    ------
    ValueError
        as `read_image`
    """
    header = _header(path)
    if header is None:
        height, width = read_image(path).shape[:2]
        return height, width
    (width, height), orientation = header
    return (width, height) if orientation in range(5, 9) else (height, width)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image file as RGB uint8 (h, w, 3), upright.

    Values of 16 bits are scaled by the bits that the file states to be significant, as in slides;
    without a statement, by 16.

    Raises
    ------
    ValueError
        OpenCV cannot read the file, its values cannot be brought to 8 bits (they are no whole
        numbers, or in the lower half of a range that is not stated), or it is a TIFF that is
        stored turned
    """
    header = _header(path)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH
    orientation = 1
    if header is not None:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
        orientation = header[1]
    image, bits = None, 0
    if path.suffix.lower() in (".tif", ".tiff"):
        if orientation != 1:
            raise ValueError(
                f"{path} is stored turned (orientation {orientation}); save it upright, as PNG or "
                "TIFF"
            )
        image, bits = _deep_tiff(path)
    if image is None:
        image = cv2.imread(str(path), flags)
    if image is None:
        raise ValueError(f"{path}: not an image that OpenCV reads; use PNG, TIFF or JPEG")
    if image.dtype != np.uint8:
        bits = bits or png_bits(path) or 0
    return _upright(_eight_bits(image, bits, path), orientation)


def _deep_tiff(path: Path) -> tuple[NDArray[np.generic] | None, int]:
    """Return the pixels (h, w, 3) of a TIFF of more than 8 bits, and its significant bits.

    None for any other file; 0 bits where it does not state them. OpenCV 5.0 reads unallocated
    memory instead of such a file in colour.
    """
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            if page.dtype is None or page.dtype.itemsize == 1:
                return None, 0
            pixels = page.asarray()
            bits, stated = tiff_bits(file, 0, page)
    except (OSError, ValueError, RuntimeError):  # OpenCV may read it, or is the one to refuse it
        return None, 0
    if pixels.ndim == 3 and page.planarconfig == 2:
        pixels = np.moveaxis(pixels, 0, 2)
    if pixels.ndim == 2:
        pixels = np.stack([pixels] * 3, 2)
    plain = page.photometric in (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.MINISBLACK)
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or not plain:
        raise ValueError(f"{path} is neither RGB nor grey; convert it to 8 bits per channel")
    return np.asarray(pixels[..., :3]), bits if stated else 0


def _eight_bits(image: NDArray[np.generic], bits: int, path: Path) -> NDArray[np.uint8]:
    """Bring values to 8 bits; `bits` is 0 where the file does not state which are significant."""
    if image.dtype == np.uint8:
        return image.astype(np.uint8, copy=False)
    if image.dtype != np.uint16:
        raise ValueError(f"{path} has {image.dtype} values; convert it to 8 bits per channel")
    if not bits and (why := unknown_range(int(image.astype(np.uint16).max()), 16)) is not None:
        raise ValueError(f"{path}: {why}")
    return scale_samples(image, bits or 16)


def _upright(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn an image (h, w, 3) as its orientation states (source: EXIF 2.32, tag 0x0112)."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def resize_image(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """Resize an image (h, w, 3) by `scale`; changes of 2 % and less are not made."""
    if abs(scale - 1) <= 0.02:
        return image
    height, width = image.shape[:2]
    size = max(8, round(width * scale)), max(8, round(height * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, size, interpolation=way).astype(np.uint8)
