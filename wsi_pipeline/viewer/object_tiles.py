"""Objects as the page draws them: sorted by square tiles of the slide, in plain binary arrays."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.objects import CELL_CLASS, Objects
from wsi_pipeline.viewer.later import Later

__all__ = ["RING_END", "SortedObjects", "sort_into_tiles"]

RING_END = 2**32 - 1
"""Stands for the object of the last vertex of each ring: no line starts there."""
_OBJECTS_PER_TILE = 150
_FINEST_PX = 0.01
_VERTICES_FAR = 8
"""Vertices of an outline that is drawn small."""
_SUMMED = ("Nucleus: Area",)
"""Measurements of several nuclei that add up in their cell."""


@dataclass(frozen=True, eq=False)
class SortedObjects:
    """The objects of a run, sorted by tile; within a tile they keep their order.

    Attributes
    ----------
    objects
        sorted; their outlines may be boxes, see `outlines`
    tile_px
        side of a tile in level-0 pixels
    columns, rows
        number of tiles in x and y
    offsets
        uint32 (tiles + 1,): tile t, row by row, holds the objects offsets[t]:offsets[t + 1]
    centres
        float32 (n, 2): centre of the box around each outline
    outlines
        the same objects with their outlines, which take longer to read
    """

    objects: Objects
    tile_px: int
    columns: int
    rows: int
    offsets: NDArray[np.uint32]
    centres: NDArray[np.float32]
    outlines: Later[Objects]

    def base(self) -> bytes:
        """Return offsets (uint32), centres (float32 x, y) and classes (uint8), end to end."""
        classes = self.objects.class_index.astype(np.uint8)
        return self.offsets.tobytes() + self.centres.tobytes() + classes.tobytes()

    def tile(self, index: int, *, far: bool = False) -> bytes:
        """Return the outlines of a tile as the graphics card takes them.

        A header of little-endian uint32 count, float32 unit, x and y, then per vertex int16 x and
        y in units from (x, y), uint32 object of the tile or `RING_END`.

        Parameters
        ----------
        far
            leave out vertices, for outlines that are drawn small
        """
        first, last = int(self.offsets[index]), int(self.offsets[index + 1])
        objects = self.outlines.get()
        rings = slice(objects.object_offsets[first], objects.object_offsets[last])
        starts = objects.ring_offsets[rings.start : rings.stop + 1]
        coords = objects.coords[starts[0] : starts[-1]]
        counts = np.diff(starts)
        owner = np.repeat(
            np.arange(last - first), np.diff(objects.object_offsets[first : last + 1])
        )
        if far:
            kept, counts = _thinned(starts - starts[0], counts)
            coords = coords[kept]
        x = (index % self.columns + 0.5) * self.tile_px
        y = (index // self.columns + 0.5) * self.tile_px
        reach = np.abs(coords - (x, y)).max(initial=1.0)
        unit = np.float32(max(_FINEST_PX, reach / 32767))
        vertices = np.zeros(len(coords), [("xy", "<i2", 2), ("object", "<u4")])
        vertices["xy"] = np.clip(np.rint((coords - (x, y)) / unit), -32768, 32767)
        vertices["object"] = np.repeat(owner, counts)
        vertices["object"][np.cumsum(counts) - 1] = RING_END
        return struct.pack("<Ifff", len(coords), unit, x, y) + vertices.tobytes()

    def column(self, name: str) -> NDArray[np.float32]:
        """Return a measurement, float32 (n,), "Score" included.

        Cells get the values of their nuclei (the sum of areas, otherwise those of the largest), and
        nuclei those of their cell, so that N/C and nuclear area are known for one object.
        """
        if name == "Score":
            return self.objects.score
        values = self.objects.features[name].astype(np.float32, copy=True)
        parent = self.objects.parent
        if parent is None or not len(parent):
            return values
        nuclei = np.flatnonzero(parent >= 0)
        cells = parent[nuclei]
        own = values.copy()
        if name.startswith(_SUMMED):
            total = np.zeros(len(values))
            np.add.at(total, cells, np.nan_to_num(values[nuclei]))
            values[cells] = np.where(np.isnan(own[cells]), total[cells], own[cells])
        else:
            area = self.objects.features.get("Nucleus: Area µm^2", self.objects.score)
            by_size = np.argsort(area[nuclei], kind="stable")  # the largest is written last
            given = values[nuclei][by_size]
            into = cells[by_size]
            values[into] = np.where(np.isnan(own[into]), given, own[into])
        values[nuclei] = np.where(np.isnan(own[nuclei]), own[cells], own[nuclei])
        return values

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the measurements, "Score" first."""
        return ("Score", *self.objects.features)

    @cached_property
    def _by_id(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        ids = self.objects.ids
        order = np.lexsort((ids[:, 1], ids[:, 0]))
        return ids[order], order

    def rows_of(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the row of each id, uint64 (m, 2); -1 where there is none."""
        known, order = self._by_id
        if not len(known) or not len(ids):
            return np.full(len(ids), -1, np.int64)
        pair = np.dtype([("high", np.uint64), ("low", np.uint64)])
        keys = np.ascontiguousarray(known).view(pair).ravel()
        wanted = np.ascontiguousarray(ids, np.uint64).view(pair).ravel()
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[place] == wanted, order[place], -1)

    def plotted_class(self) -> str:
        """Return the class that the population plot begins with; "" for all."""
        linked = self.objects.parent is not None
        return CELL_CLASS if linked and CELL_CLASS in self.objects.classes else ""


def sort_into_tiles(
    objects: Objects, width: int, height: int, read: Callable[[], Objects] | None = None
) -> SortedObjects:
    """Return the objects of a slide of that size, sorted by tiles of some hundred objects each.

    Parameters
    ----------
    read
        returns the objects with their outlines, in the same order, where `objects` has boxes
    """
    bounds = objects.bounds()
    centres = ((bounds[:, :2] + bounds[:, 2:]) / 2).astype(np.float32)
    wanted = math.sqrt(width * height * _OBJECTS_PER_TILE / max(len(objects), 1))
    tile_px = int(2 ** np.clip(round(math.log2(wanted)), 8, 13))
    columns, rows = max(1, -(-width // tile_px)), max(1, -(-height // tile_px))
    x = np.clip(centres[:, 0] // tile_px, 0, columns - 1).astype(np.int64)
    y = np.clip(centres[:, 1] // tile_px, 0, rows - 1).astype(np.int64)
    tile = y * columns + x
    order = np.argsort(tile, kind="stable")
    counts = np.bincount(tile, minlength=columns * rows)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32)
    held = objects.take(order)

    def whole() -> Objects:
        # The measurements are held once.
        return held if read is None else replace(read().take(order), features=held.features)

    return SortedObjects(held, tile_px, columns, rows, offsets, centres[order], Later(whole))


def _thinned(
    starts: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the vertices that stay of rings, the first and last among them, and their numbers."""
    stride = np.maximum(1, (counts - 1) // _VERTICES_FAR)
    left = np.minimum(counts, (counts - 2) // stride + 2)
    place = np.arange(left.sum()) - np.repeat(np.cumsum(left) - left, left)
    inside = np.minimum(place * np.repeat(stride, left), np.repeat(counts - 1, left))
    return inside + np.repeat(starts[:-1], left), left
