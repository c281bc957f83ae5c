"""Read plain images with Pillow."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from wsi_pipeline.core.errors import SlideFormatError, one_line
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.machine import process_settings
from wsi_pipeline.slides.readers import MAX_PX, WHITE, Header, Refusal, make_levels
from wsi_pipeline.slides.resample import flatten

__all__ = ["ImageReader"]


class ImageReader:
    """Reads PNG, JPEG, BMP and WebP, decoded whole.

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

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with self._open() as image:
                width, height = image.size
                vendor = str(image.format)
        except UnidentifiedImageError as error:
            raise Refusal("not PNG, JPEG, BMP or WebP") from error
        except Exception as error:
            raise Refusal(one_line(error)) from error
        if width * height > MAX_PX:
            raise SlideFormatError(
                f"{path.name} has {width} x {height} pixels, too many for a plain image; "
                "convert it to a tiled pyramidal TIFF"
            )
        try:
            with self._open() as image:
                self._pixels: NDArray[np.uint8] | None = _rgb(image)
        except Exception as error:
            raise SlideFormatError(
                f"{path.name} is damaged ({one_line(error)}); copy it again"
            ) from error
        self.header = Header(
            vendor,
            make_levels([(width, height)]),
            Box(0, 0, width, height),
            background=_glass(self._pixels),
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


def _glass(pixels: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Return the colour of the glass: the 90th percentile of each channel."""
    step = max(1, math.isqrt(pixels.size // 3_000_000))
    red, green, blue = np.percentile(pixels[::step, ::step], 90, axis=(0, 1)).round().astype(int)
    return int(red), int(green), int(blue)


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):  # 16 bits of grey
        grey = (np.asarray(image).astype(np.uint32) + 128) // 257
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return flatten(np.asarray(image.convert("RGBA")), WHITE)
    return np.asarray(image.convert("RGB"))
