"""Pictures of the worst fields of a suite: the truth and what a model drew, as outlines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.errors import OutputError
from wsi_pipeline.core.files import as_output_error, write_bytes
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.evaluation.suite_fields import Drawn
from wsi_pipeline.slides.slide import open_slide

__all__ = ["worst_fields", "write_worst"]

TRUE, DRAWN, CELL, TRUE_CELL, MISSED = (
    (255, 120, 0), (0, 200, 60), (40, 80, 255), (200, 0, 200), (230, 0, 0),
)  # fmt: skip
"""Colours: true and drawn nuclei, drawn and true cells, and marks that were missed."""

LEAST_PX, QUALITY = 1024, 85
"""Fields are enlarged by a whole number to at least this width; quality of the JPEG."""

Image = NDArray[np.uint8]


def worst_fields(drawn: Mapping[str, Sequence[Drawn]], count: int) -> list[tuple[str, Drawn]]:
    """Return the fields of lowest quality, each with its set, the worst first.

    The quality is the mean PQ of nuclei and cells, or the share of the marks that were found.
    Fields without truth have none and are left out.
    """
    every = [(name, one) for name, fields in drawn.items() for one in fields]
    known = [pair for pair in every if not math.isnan(pair[1].quality)]
    return sorted(known, key=lambda pair: pair[1].quality)[:count]


def write_worst(folder: Path, model: str, fields: Sequence[tuple[str, Drawn]]) -> list[str]:
    """Write a picture of each field below `folder`; return their names.

    Raises
    ------
    OutputError
        a file cannot be written
    """
    with as_output_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
    names = []
    for number, (set_name, one) in enumerate(fields, 1):
        where = f"{set_name}-{Path(one.field.name).stem}".replace("/", "-")
        name = f"{model.replace('/', '-')}-{number:02}-{where}.jpg"
        title = f"{model}: {set_name} {one.field.name}, {_quality(one)}"
        picture = cv2.cvtColor(draw_field(one, title), cv2.COLOR_RGB2BGR)
        done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        if not done:
            raise OutputError(f"{folder / name} cannot be encoded; give another --out")
        write_bytes(folder / name, bytes(data))
        names.append(name)
    return names


def _quality(one: Drawn) -> str:
    if one.marks is not None:
        found = one.marks.nucleus >= 0
        return f"{found.sum()} of {len(found)} marks found, {len(one.nuclei)} nuclei drawn"
    return f"PQ {one.quality:.3f}"


def draw_field(one: Drawn, title: str) -> Image:
    """Draw one field with a legend above it, uint8 (h, w, 3)."""
    with open_slide(one.field.path, mpp=one.field.mpp) as slide:
        image = slide.read_region(Box(0, 0, slide.width, slide.height))
    zoom = max(1, -(-LEAST_PX // image.shape[1]))
    image = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    image = np.ascontiguousarray(image, np.uint8)
    legend = [("drawn nuclei", DRAWN)]
    if one.of_nuclei is not None and one.field.nuclei is not None:
        legend.append(("true nuclei", TRUE))
        _outline(image, one.field.nuclei, TRUE, zoom)
    if len(one.cells):
        legend.append(("drawn cells", CELL))
        _outline(image, one.cells, CELL, zoom)
    if one.of_cells is not None and one.field.cells is not None:
        legend.append(("true cells", TRUE_CELL))
        _outline(image, one.field.cells, TRUE_CELL, zoom)
    _outline(image, one.nuclei, DRAWN, zoom)
    if one.marks is not None:
        legend += [("marks found", TRUE), ("marks missed", MISSED)]
        for (x, y), nucleus in zip(one.field.points * zoom, one.marks.nucleus, strict=True):
            colour = TRUE if nucleus >= 0 else MISSED
            at = round(float(x)), round(float(y))
            cv2.drawMarker(image, at, colour, cv2.MARKER_CROSS, 16, 2)
    return np.vstack([_head(image.shape[1], title, legend), image])


def _outline(
    image: Image, areas: NDArray[np.object_], colour: tuple[int, int, int], zoom: int
) -> None:
    """Draw the outlines of areas, in place."""
    rings = shapely.get_parts(shapely.boundary(areas))
    points = [np.round(shapely.get_coordinates(r) * zoom * 16).astype(np.int32) for r in rings]
    cv2.polylines(image, points, True, colour, 1, cv2.LINE_AA, shift=4)


def _head(width: int, title: str, legend: Sequence[tuple[str, tuple[int, int, int]]]) -> Image:
    """Draw a strip with the title and the colours."""
    strip = np.full((52, width, 3), 255, np.uint8)
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(strip, title, (8, 20), font, 0.55, (0, 0, 0), 1, cv2.LINE_AA)
    x = 8
    for text, colour in legend:
        cv2.line(strip, (x, 38), (x + 24, 38), colour, 3)
        cv2.putText(strip, text, (x + 30, 43), font, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        x += 50 + cv2.getTextSize(text, font, 0.5, 1)[0][0]
    return strip
