"""Which fields are cut out of a slide, and which of them are held out.

A field shows one area, or a part of a large one, and some of the slide around it, where nothing is
known. Every fourth area from the second on is held out. A single area is cut in two, and its last
quarter is held out; objects on the cut count in neither part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import shapely

from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.polygons import polygon_parts

__all__ = ["CONTEXT_UM", "FIELD_PX", "Piece", "boxes_of", "plan_pieces"]

FIELD_PX = 2048
"""Largest side of a field, pixels of the set."""
OVERLAP_PX = 512
"""Overlap of the fields of one area: an object on the border of one is whole in another."""
CONTEXT_UM = 40.0
"""What a field shows around its area, µm."""
KEPT = 0.25
"""Share of a single area that is held out."""
LEAST_PX = 32.0
"""Areas that are narrower on both sides are clicks, not areas."""


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of the areas that is trained on or held out as a whole.

    Attributes
    ----------
    number
        number of its area, from 1
    """

    number: int
    area: shapely.Geometry
    held_out: bool


def plan_pieces(
    area: shapely.Geometry,
    whole: Box,
    *,
    before: int = 0,
    hold_out: bool = True,
    alone: bool = True,
) -> list[Piece]:
    """Return the pieces of an area on a slide, from top to bottom.

    Parameters
    ----------
    area
        level-0 pixels; parts that overlap were joined
    whole
        the slide
    before
        number of areas on other slides before these
    hold_out
        whether some are held out
    alone
        whether there are no areas on other slides
    """
    frame = shapely.box(whole.x0, whole.y0, whole.x1, whole.y1)
    parts = [p for p in polygon_parts(shapely.intersection(area, frame)) if _wide(p)]
    parts.sort(key=lambda p: (p.bounds[1], p.bounds[0]))
    if hold_out and alone and len(parts) == 1:
        first, last = _cut(parts[0])
        return [Piece(1, first, False), Piece(1, last, True)]
    return [
        Piece(i + 1, part, hold_out and i % 4 == 1) for i, part in enumerate(parts, start=before)
    ]


def _wide(part: shapely.Polygon) -> bool:
    x0, y0, x1, y1 = part.bounds
    return bool(max(x1 - x0, y1 - y0) >= LEAST_PX)


def _cut(part: shapely.Polygon) -> tuple[shapely.Geometry, shapely.Geometry]:
    """Return an area without its last quarter, and that quarter: right, or below if it is high."""
    x0, y0, x1, y1 = part.bounds
    if x1 - x0 >= y1 - y0:
        x = np.round(x1 - KEPT * (x1 - x0))
        boxes = shapely.box([x0, x], [y0, y0], [x, x1], [y1, y1])
    else:
        y = np.round(y1 - KEPT * (y1 - y0))
        boxes = shapely.box([x0, x0], [y0, y], [x1, x1], [y, y1])
    first, last = shapely.intersection(part, boxes)
    return first, last


def boxes_of(piece: Piece, whole: Box, *, scale: float, context_px: int) -> Sequence[Box]:
    """Return the fields of a piece, in pixels of a grid.

    Parameters
    ----------
    whole
        the slide, in pixels of the grid
    scale
        level-0 pixels per pixel of the grid
    context_px
        pixels of the grid around the piece
    """
    x0, y0, x1, y1 = np.array(piece.area.bounds) / scale
    box = Box(int(np.floor(x0)), int(np.floor(y0)), int(np.ceil(x1)), int(np.ceil(y1)))
    box = box.grow(context_px).clip(whole)
    columns = list(_spans(box.x0, box.x1))
    return [Box(a, c, b, d) for c, d in _spans(box.y0, box.y1) for a, b in columns]


def _spans(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield overlapping spans of equal length, at most `FIELD_PX`, from `start` to `stop`."""
    length = stop - start
    if length <= FIELD_PX:
        yield start, stop
        return
    count = -(-(length - OVERLAP_PX) // (FIELD_PX - OVERLAP_PX))
    for at in np.linspace(start, stop - FIELD_PX, count).round().astype(int).tolist():
        yield at, at + FIELD_PX
