"""Lay painted cells into a field of a slide: at free and crowded places, in groups, and faint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
import shapely
import shapely.affinity
from numpy.typing import NDArray

from wsi_pipeline.evaluation.spike_stain import SlideStain, dark_spots, grey_density
from wsi_pipeline.synthetic.cell_painter import OD_STEPS, coverage
from wsi_pipeline.synthetic.real_kinds import REAL_KINDS
from wsi_pipeline.synthetic.real_painter import RealPainter

__all__ = ["FAINT", "GROUP", "PLACES", "Laid", "Spike", "Wanted", "lay"]

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

FREE, CROWDED, GROUP, FAINT = PLACES = ("free", "crowded", "group", "faint")
"""On glass; among or over cells of the slide; in a group of its own kind on glass; anywhere, with a
nucleus of `FAINT_NUCLEUS` times the usual density."""
FAINT_NUCLEUS = 0.4
FREE_SHARE, CROWDED_SHARE, GROUP_SHARE = 0.1, 0.5, 0.3
"""Most share of stain under a free cell, least under a crowded one, and most under a group."""
TRIES = 60
MEMBERS = 7
"""Cells of a group."""
APART_UM = 1.0
"""Least distance of a laid nucleus from other nuclei."""


class Wanted(NamedTuple):
    """One cell, or group of cells, that is to be laid."""

    kind: str
    place: str


@dataclass(frozen=True, eq=False)
class Spike:
    """One laid cell: its kind, its place, and outlines in pixels of its field."""

    kind: str
    place: str
    nucleus: shapely.Polygon
    cell: shapely.Polygon


@dataclass(frozen=True, eq=False)
class Laid:
    """A field with laid cells.

    Attributes
    ----------
    image
        uint8 (h, w, 3)
    spikes
        the laid cells
    left
        what found no place
    """

    image: Image
    spikes: tuple[Spike, ...]
    left: tuple[Wanted, ...]


class _Cell(NamedTuple):
    """A painted cell before it has a place: density, masks, outlines in its own pixels."""

    density: NDArray[np.floating]
    inside: Mask
    near_nucleus: Mask
    nucleus: shapely.Polygon
    cell: shapely.Polygon


def lay(
    image: Image, mpp: float, stain: SlideStain, painter: RealPainter,
    wanted: Sequence[Wanted], nuclei: Sequence[shapely.Geometry], margin_px: int,
) -> Laid:  # fmt: skip
    """Multiply painted cells into a field, each where it fits.

    A cell is free where at most `FREE_SHARE` of its area is stained in the field, and crowded where
    at least `CROWDED_SHARE` is. No nucleus is laid on another nucleus, neither one of `nuclei` nor
    a dark spot that may be one, and no cell on another laid one, except in groups.

    Parameters
    ----------
    image
        field uint8 (h, w, 3)
    mpp
        µm per pixel
    nuclei
        nuclei that were found in the field
    margin_px
        border in which no cell is laid
    """
    field = _Field.of(image, mpp, stain, nuclei, margin_px, painter.rng)
    left: list[Wanted] = []
    spikes: list[Spike] = []
    for one in wanted:
        cells = _paint(painter, one, mpp)
        found = field.place(cells, one.place)
        if not found:
            left.append(one)
        for cell, (x, y) in found:
            field.add(cell, x, y)
            outlines = (shapely.affinity.translate(p, x, y) for p in (cell.nucleus, cell.cell))
            spikes.append(Spike(one.kind, one.place, *outlines))
    through = np.exp(-field.density)
    return Laid(np.rint(image * through).astype(np.uint8), tuple(spikes), tuple(left))


def _paint(painter: RealPainter, one: Wanted, mpp: float) -> list[_Cell]:
    """Paint a cell with one nucleus, or the cells of a group."""
    cells: list[_Cell] = []
    usual = painter.style
    style = replace(usual, nucleus=FAINT_NUCLEUS * usual.nucleus) if one.place == FAINT else usual
    while len(cells) < (MEMBERS if one.place == GROUP else 1):
        painter.style = style
        sprite = painter.cell(REAL_KINDS[one.kind], one.kind)
        painter.style = usual
        if len(sprite.outlines) != 2:
            continue
        shape = sprite.od.shape[:2]
        cell, nucleus = (shapely.Polygon(points).buffer(0) for points in sprite.outlines)
        if nucleus.geom_type != "Polygon" or cell.geom_type != "Polygon":
            continue
        near = np.asarray(nucleus.buffer(APART_UM / mpp).exterior.coords)[:-1]
        cells.append(_Cell(
            sprite.od / np.float32(OD_STEPS), coverage(sprite.outlines[0], shape) > 0.5,
            coverage(near, shape) > 0, nucleus, cell,
        ))  # fmt: skip
    return cells


@dataclass(eq=False)
class _Field:
    """What of a field is taken, and the density that is laid into it.

    Attributes
    ----------
    stained, nuclei, taken
        bool (h, w): stained in the field; nuclei, found, suspected or laid; laid cells
    density
        float32 (h, w, 3): −ln of the light that laid cells let through
    """

    stained: Mask
    nuclei: Mask
    taken: Mask
    density: NDArray[np.float32]
    margin: int
    rng: np.random.Generator

    @classmethod
    def of(
        cls, image: Image, mpp: float, stain: SlideStain, nuclei: Sequence[shapely.Geometry],
        margin: int, rng: np.random.Generator,
    ) -> _Field:  # fmt: skip
        """Measure a field."""
        _, grey = grey_density(image, stain.glass)
        side = max(1, round(1 / mpp))
        known = dark_spots(grey, stain, mpp).astype(np.uint8)
        rings = shapely.get_parts(shapely.boundary(np.array(nuclei, object)))
        points = [np.round(shapely.get_coordinates(r)).astype(np.int32) for r in rings]
        cv2.fillPoly(known, points, 1)
        return cls(
            cv2.blur(grey, (side, side)) > stain.stained, known > 0, np.zeros(grey.shape, bool),
            np.zeros(image.shape, np.float32), margin, rng,
        )  # fmt: skip

    def place(self, cells: list[_Cell], place: str) -> list[tuple[_Cell, tuple[int, int]]]:
        """Return the cells with the corner of each where they fit; empty if no place was found."""
        offsets = _sheet(cells) if place == GROUP else [(0, 0)]
        sides = [cell.inside.shape for cell in cells]
        right = max(x + s[1] for s, (x, _) in zip(sides, offsets, strict=True))
        low = max(y + s[0] for s, (_, y) in zip(sides, offsets, strict=True))
        height, width = self.stained.shape
        m = self.margin
        if width - right - m <= m or height - low - m <= m:
            return []
        for _ in range(TRIES):
            x, y = self.rng.integers((m, m), (width - right - m, height - low - m))
            corners = [(int(x) + dx, int(y) + dy) for dx, dy in offsets]
            if self._fits(cells, corners, place):
                return list(zip(cells, corners, strict=True))
        return []

    def _fits(self, cells: list[_Cell], corners: list[tuple[int, int]], place: str) -> bool:
        stained = total = 0
        for cell, (x, y) in zip(cells, corners, strict=True):
            h, w = cell.inside.shape
            at = slice(y, y + h), slice(x, x + w)
            if (self.taken[at] & cell.inside).any() or (self.nuclei[at] & cell.near_nucleus).any():
                return False
            stained += int((self.stained[at] & cell.inside).sum())
            total += int(cell.inside.sum())
        share = stained / max(total, 1)
        if place in (CROWDED, FAINT):
            return share >= CROWDED_SHARE or place == FAINT
        return share <= (GROUP_SHARE if place == GROUP else FREE_SHARE)

    def add(self, cell: _Cell, x: int, y: int) -> None:
        """Lay a cell with its corner at (x, y)."""
        h, w = cell.inside.shape
        at = slice(y, y + h), slice(x, x + w)
        self.density[at] += cell.density
        self.taken[at] |= cell.inside
        self.nuclei[at] |= cell.near_nucleus


def _sheet(cells: list[_Cell]) -> list[tuple[int, int]]:
    """Return the corners of the cells of a group: one in the middle, the others around it.

    Neighbours overlap, but their nuclei stay apart.
    """
    sides = [math.sqrt(cell.cell.area) for cell in cells]
    nuclei = [math.sqrt(cell.nucleus.area / math.pi) for cell in cells]
    step = max(0.8 * sum(sides) / len(sides), 2.5 * max(nuclei))
    middles = [(0.0, 0.0)]
    for k in range(1, len(cells)):
        angle = 2 * math.pi * k / (len(cells) - 1)
        middles.append((step * math.cos(angle), step * math.sin(angle)))
    corners = []
    for cell, (x, y) in zip(cells, middles, strict=True):
        own = cell.nucleus.centroid
        corners.append((round(x - own.x), round(y - own.y)))
    left, top = min(x for x, _ in corners), min(y for _, y in corners)
    return [(x - left, y - top) for x, y in corners]
