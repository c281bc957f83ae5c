"""Pictures: what was found, drawn on the slide."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.errors import SlideTimeoutError
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.numbers import grouped
from wsi_pipeline.core.objects import Objects, is_cell
from wsi_pipeline.formats.geojson import class_color
from wsi_pipeline.runs.picture_frame import Key, Panel, framed
from wsi_pipeline.runs.work_plan import Overview
from wsi_pipeline.slides.slide import Slide

__all__ = ["Density", "draw_objects", "draw_overlay", "objects_in", "to_png"]

_log = logging.getLogger(__name__)

Image = NDArray[np.uint8]
CASING = (40, 30, 60)
"""Colour below light outlines, which would not show on glass without it."""
FOREGROUND = class_color("Foreground")
FIELD = (0, 90, 200)
FIELD_PX = 1024
"""Side of the field that is shown in full detail, and of the slide beside it."""


class Density:
    """Counts objects on a coarse grid, to find the most crowded place, and per class.

    Attributes
    ----------
    counts
        float32, number of objects per square of the grid
    per_class
        class name → number of objects
    """

    def __init__(self, width: int, height: int) -> None:
        self._cell = max(1, max(width, height) // 512)
        self.counts = np.zeros((height // self._cell + 1, width // self._cell + 1), np.float32)
        self.per_class: Counter[str] = Counter()

    def add(self, objects: Objects) -> None:
        """Count more objects, by the centre of their bounding boxes."""
        box = objects.bounds()
        x, y = (box[:, 0] + box[:, 2]) / 2, (box[:, 1] + box[:, 3]) / 2
        np.add.at(self.counts, ((y // self._cell).astype(int), (x // self._cell).astype(int)), 1)
        found = np.bincount(objects.class_index, minlength=len(objects.classes))
        self.per_class.update(dict(zip(objects.classes, found.tolist(), strict=True)))

    def busiest(self, side: float) -> tuple[float, float]:
        """Centre, level 0, of the square of `side` pixels with the most objects."""
        n = max(1, round(side / self._cell))
        sums = cv2.boxFilter(
            self.counts, -1, (n, n), normalize=False, borderType=cv2.BORDER_CONSTANT
        )
        row, col = np.unravel_index(int(sums.argmax()), sums.shape)
        return (float(col) + 0.5) * self._cell, (float(row) + 0.5) * self._cell


def objects_in(parts: Iterable[Objects], box: tuple[float, float, float, float]) -> list[Objects]:
    """The objects whose bounding box meets `box` (x0, y0, x1, y1), part by part."""
    x0, y0, x1, y1 = box
    found = []
    for objects in parts:
        b = objects.bounds()
        hit = (b[:, 2] > x0) & (b[:, 0] < x1) & (b[:, 3] > y0) & (b[:, 1] < y1)
        if hit.any():
            found.append(objects.take(hit))
    return found


def draw_objects(
    image: Image, objects: Objects, *, origin: tuple[float, float], scale: float, width: int = 2
) -> None:
    """Draw outlines on an image whose pixel (0, 0) is at level-0 `origin`, in place.

    Each class has its colour of QuPath. Cells lie under all else; the others have a dark casing,
    so that they show on glass and when the picture is made smaller. `scale` is level-0 pixels per
    image pixel.
    """
    cells = is_cell(objects)
    for k, name in enumerate(objects.classes):
        own = cells & (objects.class_index == k)
        if own.any():
            _draw(image, objects.take(own), origin, scale, class_color(name), width)
    if not cells.all():
        _draw(image, objects.take(~cells), origin, scale, CASING, width + 2)
    for k, name in enumerate(objects.classes):
        own = ~cells & (objects.class_index == k)
        if own.any():
            _draw(image, objects.take(own), origin, scale, class_color(name), width)


def _draw(
    image: Image,
    objects: Objects,
    origin: tuple[float, float],
    scale: float,
    color: tuple[int, int, int],
    width: int,
) -> None:
    points = (objects.coords - origin) / scale * 16  # 1/16 pixel, OpenCV's shift of 4
    rings = np.split(np.round(points).astype(np.int32), objects.ring_offsets[1:-1])
    cv2.polylines(image, rings, True, color, width, cv2.LINE_AA, shift=4)


def draw_overlay(
    slide: Slide,
    overview: Overview,
    density: Density,
    near: Callable[[tuple[float, float, float, float]], Iterable[Objects]],
    *,
    scale: float,
    title: str,
) -> Image:
    """The slide with its foreground, and beside it its most crowded field with every outline.

    A small image is shown whole, in full detail. Title, legend and scale bars are around them.

    Parameters
    ----------
    near
        gives objects of the slide, at least those that meet a box (x0, y0, x1, y1) of level 0
    scale
        level-0 pixels per model pixel, which is the detail of the field
    """
    zoom = max(scale / 2, 1.0)  # twice the model's detail shows whether an outline fits
    whole = max(slide.width, slide.height) <= 1.5 * FIELD_PX * zoom
    box = _field_box(slide, density, zoom, whole=whole)
    try:
        field, _ = slide.read_what_is_there(box, zoom)
    except SlideTimeoutError as error:  # the objects are worth more than their picture
        _log.warning("overlay.png shows no pixels: %s", error)
        field = np.full((box.height, box.width, 3), slide.background, np.uint8)
    corner = box.x0 * zoom, box.y0 * zoom
    seen = (*corner, box.x1 * zoom, box.y1 * zoom)
    found = objects_in(near(seen), seen)
    if found:  # at once: the cells of one part lie under the nuclei of all
        draw_objects(field, Objects.concatenate(found), origin=corner, scale=zoom)
    mpp = slide.require_mpp().value
    counts = {name: count for name, count in density.per_class.items() if count}
    keys = [Key(class_color(name), name) for name in counts]
    panels = [Panel(field, mpp * zoom, keys)]
    if not whole:
        panels.insert(0, _overview(overview, seen, mpp))
    facts = ",  ".join(f"{name}: {grouped(count)}" for name, count in counts.items())
    return framed(panels, title, facts or "no object")


def _field_box(slide: Slide, density: Density, zoom: float, *, whole: bool) -> Box:
    """Return the field to show, in its own pixels: all of a small image, else the most crowded."""
    if whole:
        return Box(0, 0, int(slide.width / zoom), int(slide.height / zoom))
    side = FIELD_PX * zoom
    x, y = density.busiest(side)
    x0 = int(np.clip(x - side / 2, 0, max(0, slide.width - side)) / zoom)
    y0 = int(np.clip(y - side / 2, 0, max(0, slide.height - side)) / zoom)
    return Box(x0, y0, x0 + FIELD_PX, y0 + FIELD_PX)


def _overview(overview: Overview, seen: tuple[float, float, float, float], mpp: float) -> Panel:
    """Return the slide with its foreground and the field beside it, `seen` in level-0 pixels."""
    thumbnail = overview.thumbnail
    shrink = FIELD_PX / max(thumbnail.shape[:2])
    size = (
        max(1, round(thumbnail.shape[1] * shrink)),
        max(1, round(thumbnail.shape[0] * shrink)),
    )
    small = cv2.resize(thumbnail, size, interpolation=cv2.INTER_AREA)
    per_px = overview.downsample / shrink
    rings = [
        np.round(np.asarray(polygon.exterior.coords) / per_px).astype(np.int32)
        for polygon in overview.foreground.polygons()
    ]
    for color, width in ((CASING, 5), (FOREGROUND, 3)):
        cv2.polylines(small, rings, True, color, width, cv2.LINE_AA)
    low, high = np.array(seen[:2]) / per_px, np.array(seen[2:]) / per_px
    cv2.rectangle(small, low.astype(int).tolist(), high.astype(int).tolist(), FIELD, 4)
    panel = np.full((FIELD_PX, size[0], 3), 255, np.uint8)
    panel[: size[1]] = small
    keys = [Key(FOREGROUND, "foreground: where the run looked"), Key(FIELD, "field at the right")]
    return Panel(panel, mpp * per_px, keys)


def to_png(image: Image) -> bytes:
    """PNG file of an RGB image (h, w, 3)."""
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert done
    return bytes(data)
