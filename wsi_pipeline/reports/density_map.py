"""The density of objects over a slide: a picture with legend and scale bar."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.errors import DataError, one_line
from wsi_pipeline.core.json_files import read_json
from wsi_pipeline.core.numbers import grouped
from wsi_pipeline.core.records import RunRecord
from wsi_pipeline.core.run_layout import FOREGROUND, RUN_JSON, THUMBNAIL
from wsi_pipeline.core.scale_bar import length_text, round_length
from wsi_pipeline.reports.templates import round_up

__all__ = ["DensityMap", "density_map", "ramp"]

MAP_PX = 720
"""Longer side of the picture."""
_MOST_SQUARES, _LEAST_SQUARES, _SQUARE_UM = 64, 4, 100.0
_ALPHA = 0.8
_QUALITY = 85
_RAMP = cv2.applyColorMap(np.linspace(30, 255, 256).astype(np.uint8)[None], cv2.COLORMAP_VIRIDIS)[
    0, ::-1, ::-1
]
"""Red, green and blue from few (pale yellow) to many (dark)."""


@dataclass(frozen=True)
class Area:
    """Outlines on the map: an SVG path, and the class of its annotation."""

    kind: str
    path: str


@dataclass(frozen=True)
class DensityMap:
    """What html/parts.html draws.

    Attributes
    ----------
    jpeg
        the picture in base64
    width, height
        its size in pixels
    bar_px, bar_text
        length of the scale bar, and what it says
    square
        side of the squares in which objects were counted, with its unit
    what
        what was counted, plural
    most
        objects per mm² at the dark end of the legend
    peak
        objects per mm² in the fullest square
    areas
        foreground, regions of interest, and what could not be read
    """

    jpeg: str
    width: int
    height: int
    bar_px: float
    bar_text: str
    square: str
    what: str
    most: str
    peak: str
    areas: tuple[Area, ...]


def ramp(steps: int) -> list[str]:
    """Return the colours of the legend, from few to many, as CSS."""
    chosen = _RAMP[np.linspace(0, 255, steps).astype(int)].tolist()
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in chosen]


def density_map(
    folder: Path, run: RunRecord, middles: NDArray[np.float64], what: str
) -> DensityMap:
    """Count objects in squares, and paint them on the thumbnail of the run.

    Squares have 100 µm, more on slides of over 6.4 mm and less on small images. Squares at the
    right and lower edge count only the area that they have.

    Parameters
    ----------
    middles
        (n, 2): x and y of the objects, level-0 pixels
    what
        what they are, plural

    Raises
    ------
    DataError
        the thumbnail or foreground.geojson cannot be read, or the slide has no size
    """
    slide = run["slide"]
    mpp = (slide["mpp"]["x"] + slide["mpp"]["y"]) / 2
    if not (mpp > 0 and np.isfinite(mpp) and min(slide["width"], slide["height"]) > 0):
        raise DataError(f"{folder / RUN_JSON} states no size of the slide; run the slide again")
    path = folder / THUMBNAIL
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{path} cannot be read; run the slide again with --overwrite")
    longest = max(slide["width"], slide["height"])
    scale = longest / MAP_PX  # level-0 pixels per pixel of the picture
    size = max(1, round(slide["width"] / scale)), max(1, round(slide["height"] / scale))
    square_um = _square(longest * mpp)
    density = _per_mm2(middles, slide["width"], slide["height"], square_um / mpp, mpp)
    filled = density[density > 0]
    most = round_up(float(np.quantile(filled, 0.98))) if len(filled) else 1.0
    picture = _painted(image, density, most, size, square_um / mpp / scale)
    bar = round_length(size[0] * scale * mpp / 4)
    done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert done
    return DensityMap(
        jpeg=base64.b64encode(data.tobytes()).decode(),
        width=size[0],
        height=size[1],
        bar_px=bar / mpp / scale,
        bar_text=length_text(bar),
        square=length_text(square_um),
        what=what,
        most=grouped(round(most)),
        peak=grouped(round(float(density.max()))),
        areas=tuple(_areas(folder / FOREGROUND, scale)),
    )


def _square(longest_um: float) -> float:
    """Return the side of the squares in µm, one of 1, 2 and 5 times a power of ten."""
    side = max(longest_um / _MOST_SQUARES, min(_SQUARE_UM, longest_um / _LEAST_SQUARES))
    below = round_length(side)
    return next(f * below for f in (1.0, 2.0, 2.5) if f * below >= 0.999 * side)


def _per_mm2(
    middles: NDArray[np.float64], width: int, height: int, side: float, mpp: float
) -> NDArray[np.float64]:
    """Return objects per mm², (rows, columns) of squares of `side` level-0 pixels."""
    columns, rows = (int(np.ceil(length / side)) for length in (width, height))
    place = np.clip((middles // side).astype(np.int64), 0, [columns - 1, rows - 1])
    counts = np.bincount(place[:, 1] * columns + place[:, 0], minlength=rows * columns)
    wide = np.minimum(side, width - side * np.arange(columns))
    high = np.minimum(side, height - side * np.arange(rows))
    # A sliver at the edge would show chance as density.
    area = np.maximum(high[:, None] * wide, 0.25 * side**2) * mpp**2 / 1e6
    return np.asarray(counts.reshape(rows, columns) / area)


def _painted(
    image: NDArray[np.uint8],
    density: NDArray[np.float64],
    most: float,
    size: tuple[int, int],
    square_px: float,
) -> NDArray[np.uint8]:
    """Return the thumbnail in grey (BGR) with the squares that hold objects in colour."""
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.float32)[..., None]
    grey = 255 - 0.6 * (255 - grey)
    across, down = (np.minimum((np.arange(n) / square_px).astype(int), m - 1)
                    for n, m in zip(size, density.shape[::-1], strict=True))  # fmt: skip
    shown = density[down[:, None], across]
    color = _RAMP[np.clip(shown / most * 255, 0, 255).astype(int)][..., ::-1].astype(np.float32)
    painted = grey / 255 * color * _ALPHA + grey * (1 - _ALPHA)
    return np.where(shown[..., None] > 0, painted, grey).astype(np.uint8)


def _areas(path: Path, scale: float) -> Iterator[Area]:
    """Yield the outlines of foreground.geojson; nothing for a run without the file."""
    if not path.is_file():
        return
    try:
        for feature in read_json(path)["features"]:
            kind = str(feature["properties"]["classification"]["name"])
            rings = list(_rings(feature["geometry"], scale))
            if rings:
                yield Area(kind, "".join(rings))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, cv2.error) as error:
        raise DataError(
            f"{path} cannot be used ({one_line(error)}); run the slide again"
        ) from error


def _rings(geometry: Mapping[str, Any], scale: float) -> Iterator[str]:
    parts = geometry["coordinates"]
    for polygon in [parts] if geometry["type"] == "Polygon" else parts:
        for ring in polygon:
            points = np.asarray(ring, np.float32)[:, None, :2] / np.float32(scale)
            if not np.isfinite(points).all():
                raise ValueError("a coordinate is no number")
            kept = cv2.approxPolyDP(points, 0.8, True)[:, 0]
            if len(kept) > 2:
                yield "M" + " ".join(f"{x:.1f} {y:.1f}" for x, y in kept.tolist()) + "Z"
