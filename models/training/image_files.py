"""Read the image files of sets: RGB, 8 bits, upright; training and evaluation use these functions.

A photograph is turned upright as its EXIF orientation states, so outlines must be drawn on the
upright image, as viewers show it.
"""

from __future__ import annotations

import threading
import unicodedata
import warnings
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from ..sample_bits import png_bits, scale_samples, tiff_bits, unknown_range

__all__ = ["IMAGE_SUFFIXES", "find_image", "image_shape", "read_image", "resize_image"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
"""Ends of the names of images, where a folder has no list of them."""

BY_OPENCV = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946)
"""Values of the tag Compression that OpenCV reads: none, fax, LZW, JPEG, Deflate, PackBits."""
SEVERAL = {"C": "channels", "Z": "focal planes", "T": "time points", "I": "pages", "Q": "pages"}
"""Axes of a TIFF of which one image would be taken, and the others left out without a word."""
ORIENTATION = 274
"""Tag of the orientation, 1 (upright) to 8, in EXIF and TIFF."""
MAX_RESIZED_PX = 2**29
"""Most pixels of an image that is brought to the pixel size of a network."""
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


class _Header(NamedTuple):
    """Width and height as stored, the orientation, and whether 8-bit pixels are transparent."""

    size: tuple[int, int]
    orientation: int
    clear: bool


def _header(path: Path) -> _Header | None:
    """Return what the head of an image states; None where Pillow has no reader."""
    with _HEADERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about large images and odd tags
        try:
            with Image.open(path) as image:
                clear = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
                turn = int(image.getexif().get(ORIENTATION) or 1)
                return _Header(image.size, turn, clear and image.format in ("PNG", "WEBP"))
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
    width, height = header.size
    return (width, height) if header.orientation in range(5, 9) else (height, width)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image file as RGB uint8 (h, w, 3), upright.

    What is transparent is white, as in slides. Values of 16 bits are scaled by the bits that the
    file states to be significant, as in slides; without a statement, by 16.

    Raises
    ------
    ValueError
        OpenCV cannot read the file, its values cannot be brought to 8 bits (they are no whole
        numbers, or in the lower half of a range that is not stated), or it is a TIFF that is
        stored turned
    """
    header = _header(path)
    if header is not None and header.clear:
        return _upright(_on_white(path), header.orientation)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH
    orientation = 1
    if header is not None:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
        orientation = header.orientation
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


def _on_white(path: Path) -> NDArray[np.uint8]:
    """Return a PNG or WebP with transparent pixels on white, as a slide is read."""
    bits = png_bits(path)
    if bits is None:
        with Image.open(path) as image:
            rgba = np.asarray(image.convert("RGBA"))
    else:
        stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if stored is None or stored.ndim != 3 or stored.shape[2] != 4:
            raise ValueError(f"{path} is neither RGB nor grey; convert it to 8 bits per channel")
        colours = _eight_bits(stored[..., 2::-1], bits, path)
        rgba = np.dstack([colours, scale_samples(stored[..., 3], bits or 16)])
    return _flatten(rgba)


def _flatten(rgba: NDArray[np.generic], *, premultiplied: bool = False) -> NDArray[np.uint8]:
    """Return RGBA (h, w, 4) on white; colours may already be multiplied by alpha."""
    wide = rgba.astype(np.uint32)
    colours, alpha = wide[..., :3], wide[..., 3:]
    share = 255 if premultiplied else alpha
    mixed = (colours * share + 255 * (255 - alpha) + 127) // 255
    return np.minimum(mixed, 255).astype(np.uint8)


def _deep_tiff(path: Path) -> tuple[NDArray[np.generic] | None, int]:
    """Return the pixels (h, w, 3) of a TIFF that OpenCV misreads, and its significant bits.

    None for any other file; 0 bits where it does not state them. OpenCV 5.0 reads unallocated
    memory instead of more than 8 bits in colour, makes what is transparent black, and returns
    black where it lacks the compression.
    """
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            largest = max(p.imagewidth * p.imagelength for p in file.pages)
            series = file.series[0]
            axes = [
                a for a, n in zip(series.axes, series.shape, strict=True) if a in SEVERAL and n > 1
            ]
            plain = page.dtype is None or (page.dtype.itemsize == 1 and not page.extrasamples)
            if plain and int(page.compression) in BY_OPENCV:
                pixels, bits = None, 0
            else:
                pixels = page.asarray()
                bits, stated = tiff_bits(file, 0, page)
                bits *= stated
    except (OSError, ValueError, RuntimeError):  # OpenCV may read it, or is the one to refuse it
        return None, 0
    if page.imagewidth * page.imagelength < largest:
        raise ValueError(f"{path}: its first image is not its largest; save that one alone")
    if axes:
        raise ValueError(f"{path} has several {SEVERAL[axes[0]]}; save one image of them, as RGB")
    return (pixels, 0) if pixels is None else (_colours_of(pixels, page, bits, path), bits)


def _colours_of(
    pixels: NDArray[np.generic], page: tifffile.TiffPage, bits: int, path: Path
) -> NDArray[np.generic]:
    """Return the colours (h, w, 3) of the samples of a page; what is transparent is white."""
    if pixels.ndim == 3 and page.planarconfig == 2:
        pixels = np.moveaxis(pixels, 0, 2)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    extra = tuple(int(kind) for kind in page.extrasamples)
    colours = pixels[..., : pixels.shape[-1] - len(extra)]
    plain = page.photometric in (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.MINISBLACK)
    unclear = colours.shape[-1] == 1 and extra[:1] == (0,)
    if pixels.ndim != 3 or colours.shape[2] not in (1, 3) or not plain or unclear:
        raise ValueError(f"{path} is neither RGB nor grey; convert it to 8 bits per channel")
    rgb = np.repeat(colours, 3, 2) if colours.shape[2] == 1 else colours
    if extra[:1] not in ((1,), (2,)):
        return np.asarray(rgb)
    alpha = pixels[..., colours.shape[2]]
    if alpha.dtype != np.uint8:
        alpha = scale_samples(alpha, bits or 16)
    rgba = np.dstack([_eight_bits(rgb, bits, path), alpha])
    return _flatten(rgba, premultiplied=extra[0] == 1)


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
    """Resize an image (h, w, 3) by `scale`; changes of 2 % and less are not made.

    Raises
    ------
    ValueError
        it would have more than `MAX_RESIZED_PX` pixels
    """
    if abs(scale - 1) <= 0.02:
        return image
    height, width = image.shape[:2]
    if not (width * scale) * (height * scale) <= MAX_RESIZED_PX:
        raise ValueError(
            f"an image of {width} x {height} pixels cannot be made {scale:g} times as large; check "
            "its pixel size, and give the true one as DIR@MPP"
        )
    size = max(8, round(width * scale)), max(8, round(height * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, size, interpolation=way).astype(np.uint8)
