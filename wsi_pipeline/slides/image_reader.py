"""Read plain images with Pillow."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from wsi_pipeline.core.errors import SlideFormatError, one_line
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.machine import process_settings
from wsi_pipeline.core.sample_bits import png_bits, scale_samples
from wsi_pipeline.slides.readers import MAX_PX, WHITE, Choice, Header, Refusal, make_levels
from wsi_pipeline.slides.resample import flatten
from wsi_pipeline.slides.tiff_colour import refuse_dark_range

__all__ = ["ImageReader"]

ORIENTATION = 0x0112
TURNS = {
    2: (False, 1, -1), 3: (False, -1, -1), 4: (False, -1, 1), 5: (True, 1, 1),
    6: (True, 1, -1), 7: (True, -1, -1), 8: (True, -1, 1),
}  # fmt: skip
"""EXIF orientation → whether rows and columns are swapped, and then their steps."""


DENSEST = {"PNG": 10_000, "JPEG": 10_000, "BMP": 1000}
"""Format → more pixels than a byte can hold. Deflate makes one byte of at most 1032, which has 8
pixels of a bit; a JPEG needs some bits for each square of 16 pixels."""


class ImageReader:
    """Reads PNG, JPEG, BMP and WebP, decoded whole, upright as their EXIF data states.

    The background has the colour of the glass in the image: a white margin beside grey glass
    would look like the edge of a cell.

    Raises
    ------
    Refusal
        the file is no such image
    SlideFormatError
        the image is damaged, or has more than `MAX_PX` pixels
    """

    name = "image"

    def __init__(self, path: Path, choice: Choice = Choice()) -> None:  # noqa: B008 (it is frozen)
        if choice.series or choice.plane or choice.time:
            raise Refusal("a plain image has one series, one plane and one time point, number 0")
        self._path = path
        try:
            with self._open() as image:
                width, height = image.size
                vendor = str(image.format)
        except UnidentifiedImageError as error:
            raise Refusal("not PNG, JPEG, BMP or WebP") from error
        except Exception as error:
            raise Refusal(one_line(error)) from error
        _check_claims(path, vendor, width, height)
        try:
            with self._open() as image:
                turn = image.getexif().get(ORIENTATION, 1)
                frames = int(getattr(image, "n_frames", 1))
                self._pixels: NDArray[np.uint8] | None = _upright(_rgb(image, path), turn)
        except Refusal:
            raise
        except Exception as error:
            raise SlideFormatError(
                f"{path.name} is damaged ({one_line(error)}); copy it again"
            ) from error
        height, width = self._pixels.shape[:2]
        self.header = Header(
            vendor,
            make_levels([(width, height)]),
            Box(0, 0, width, height),
            background=_glass(self._pixels),
            notes=(
                *(f"turned upright: its EXIF orientation is {turn}",) * (turn in TURNS),
                *(f"image 0 of {frames} is read",) * (frames > 1),
            ),
        )

    def _open(self) -> Image.Image:
        # Pillow's own limit is far below the size of a slide; `MAX_PX` is used instead.
        with process_settings(any_image_size=True):
            return Image.open(self._path, formats=("PNG", "JPEG", "BMP", "WEBP"))

    def read(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Return the pixels (h, w, 3) of a box."""
        assert self._pixels is not None  # `Slide` does not read after `close`
        return self._pixels[box.y0 : box.y1, box.x0 : box.x1].copy()

    def tile(self, level: int) -> tuple[int, int]:
        """Return width and height of the image."""
        return self.header.levels[level].width, self.header.levels[level].height

    def close(self) -> None:
        """Free the pixels."""
        self._pixels = None


def _check_claims(path: Path, vendor: str, width: int, height: int) -> None:
    """Refuse an image with too many pixels, or more than its file can hold."""
    if width * height > MAX_PX:
        raise SlideFormatError(
            f"{path.name} has {width} x {height} pixels, too many for a plain image; "
            "convert it to a tiled pyramidal TIFF"
        )
    size = path.stat().st_size
    if vendor in DENSEST and width * height > DENSEST[vendor] * size:
        raise SlideFormatError(
            f"{path.name} states {width} x {height} pixels, which its {size} bytes cannot hold; "
            "copy it again"
        )


def _glass(pixels: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Return the colour of the glass: the 90th percentile of each channel."""
    step = max(1, math.isqrt(pixels.size // 3_000_000))
    red, green, blue = np.percentile(pixels[::step, ::step], 90, axis=(0, 1)).round().astype(int)
    return int(red), int(green), int(blue)


def _upright(pixels: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    """Return an image as it is shown (CIPA DC-008, tag Orientation)."""
    if turn not in TURNS:
        return pixels
    swap, rows, columns = TURNS[turn]
    return np.ascontiguousarray((pixels.swapaxes(0, 1) if swap else pixels)[::rows, ::columns])


def _rgb(image: Image.Image, path: Path) -> NDArray[np.uint8]:
    if image.format == "PNG" and (bits := png_bits(path)) is not None:
        return _rgb_of_16_bits(path, bits)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return flatten(np.asarray(image.convert("RGBA")), WHITE)
    return np.asarray(image.convert("RGB"))


def _rgb_of_16_bits(path: Path, bits: int) -> NDArray[np.uint8]:
    """Read a PNG of 16 bits per sample, which Pillow would cut down to the upper 8."""
    stored = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if stored is None:
        raise ValueError("OpenCV cannot decode it")
    stored = stored.reshape(*stored.shape[:2], -1)
    colours = stored[..., :3][..., ::-1] if stored.shape[2] > 2 else stored[..., :1]
    if not bits:
        refuse_dark_range(int(colours.max()), 16)
    scaled = scale_samples(stored, bits or 16)
    rgb = scaled[..., 2::-1] if stored.shape[2] > 2 else np.repeat(scaled[..., :1], 3, axis=2)
    if stored.shape[2] == 4:
        return flatten(np.concatenate([rgb, scaled[..., 3:]], axis=2), WHITE)
    return np.ascontiguousarray(rgb)
