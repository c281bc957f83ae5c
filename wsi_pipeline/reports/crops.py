"""Pictures of one cell: its surroundings, with and without outline, and the cell cut out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from wsi_pipeline.core.geometry import Box
from wsi_pipeline.slides.slide import Slide

__all__ = ["CELL_COLOR", "NUCLEUS_COLOR", "WINDOW_UM", "Crop", "cut_out", "jpeg", "png", "window"]

WINDOW_UM = 70.0
"""Side of the window around a cell, µm; a whole superficial cell has up to 60 µm."""
FINEST_UM = 0.2
"""Least pixel size of a crop, µm; finer slides are shrunk to it."""
BAR_UM = 20
NUCLEUS_COLOR, CELL_COLOR = (255, 220, 0), (255, 90, 0)
"""Colours of outlines, red, green, blue: those of the classes in QuPath."""
MOST_UM = 250.0
"""Longest side of a cell that is cut out, µm."""

Pixels = NDArray[np.uint8]
Ring = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Crop:
    """A square of a slide.

    Attributes
    ----------
    pixels
        uint8 (h, w, 3), background beside the slide
    x0, y0
        left and top, level-0 pixels
    scale
        level-0 pixels per pixel
    mpp
        µm per pixel
    """

    pixels: Pixels
    x0: float
    y0: float
    scale: float
    mpp: float

    def ring(self, polygon: shapely.Polygon) -> Ring:
        """Return the outer vertices of a polygon in pixels of the crop, float64 (n, 2)."""
        outer = shapely.get_coordinates(polygon.exterior)
        return np.asarray((outer - (self.x0, self.y0)) / self.scale)

    def outlined(self, cells: Sequence[Ring], nuclei: Sequence[Ring]) -> Pixels:
        """Return the pixels with outlines of cells, then of nuclei, on them."""
        image = self.pixels.copy()
        for rings, color in ((cells, CELL_COLOR), (nuclei, NUCLEUS_COLOR)):
            for ring in rings:
                points = np.round((ring - 0.5) * 16).astype(np.int32)
                cv2.polylines(image, [points], True, color, 2, cv2.LINE_AA, shift=4)
        return image


def window(slide: Slide, x: float, y: float, mpp: float, side_um: float = WINDOW_UM) -> Crop:
    """Return the square of `side_um` around a point of the slide, what can be read of it.

    Parameters
    ----------
    x, y
        middle, level-0 pixels
    mpp
        µm per level-0 pixel
    """
    fine = max(mpp, FINEST_UM)
    scale = fine / mpp
    half = side_um / fine / 2
    box = Box(
        round(x / scale - half), round(y / scale - half),
        round(x / scale + half), round(y / scale + half),
    )  # fmt: skip
    pixels, _ = slide.read_what_is_there(box, scale)
    return Crop(pixels, box.x0 * scale, box.y0 * scale, scale, fine)


def cut_out(slide: Slide, polygon: shapely.Polygon, mpp: float) -> Pixels:
    """Return the pixels inside a polygon, uint8 (h, w, 4): transparent outside."""
    x0, y0, x1, y1 = polygon.bounds
    side = min(max(x1 - x0, y1 - y0) * mpp + 4, MOST_UM)
    crop = window(slide, (x0 + x1) / 2, (y0 + y1) / 2, mpp, side)
    alpha = np.zeros(crop.pixels.shape[:2], np.uint8)
    points = np.round((crop.ring(polygon) - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(alpha, [points], 255, cv2.LINE_AA, shift=4)
    return np.dstack([crop.pixels, alpha])


def with_bar(pixels: Pixels, mpp: float) -> Pixels:
    """Return a copy with a bar of `BAR_UM` and its length in the lower right corner."""
    height, width = pixels.shape[:2]
    length, edge = BAR_UM / mpp, max(4, round(height / 40))
    if length + 2 * edge > width:
        return pixels
    size = max(10, round(height / 22))
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image, "RGBA")
    right, bottom = width - edge, height - edge
    left, thick = right - length, max(2, round(height / 130))
    top = bottom - thick - size - edge
    draw.rectangle((left - edge / 2, top, width, height), fill=(255, 255, 255, 200))
    draw.rectangle((left, bottom - thick, right, bottom), fill=(0, 0, 0, 255))
    _length_text(draw, (left + right) / 2, bottom - thick - edge / 2, size)
    return np.asarray(image)


def _length_text(draw: ImageDraw.ImageDraw, x: float, y: float, size: int) -> None:
    """Write the length of the bar above (x, y); Pillow's own font has no µ, so u gets a stem."""
    font = ImageFont.load_default(size)
    text = f"{BAR_UM} um"
    left = x - draw.textlength(text, font) / 2
    base = y - size / 5
    draw.text((left, base), text, fill=(0, 0, 0, 255), anchor="ls", font=font)
    stem = left + draw.textlength(f"{BAR_UM} ", font) + size / 11
    thick = max(1, round(size / 10))
    draw.line((stem, base - size / 3, stem, base + size / 5), fill=(0, 0, 0, 255), width=thick)


def jpeg(pixels: Pixels, mpp: float | None = None) -> bytes:
    """Return a JPEG file of RGB pixels, with a scale bar where the pixel size is given."""
    image = pixels if mpp is None else with_bar(pixels, mpp)
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    assert done
    return bytes(data)


def png(pixels: Pixels) -> bytes:
    """Return a PNG file of pixels with transparency, uint8 (h, w, 4)."""
    done, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA))
    assert done
    return bytes(data)


def padded(polygon: shapely.Polygon, margin_px: float) -> shapely.Polygon:
    """Return a polygon grown by a margin."""
    grown = shapely.buffer(shapely.Polygon(polygon.exterior), margin_px)
    assert isinstance(grown, shapely.Polygon) and math.isfinite(grown.area)
    return grown
