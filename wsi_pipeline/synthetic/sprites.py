"""The sprites of a slide: cells, and debris that is not part of the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.synthetic.cell_painter import Sprite
from wsi_pipeline.synthetic.looks import LOOKS, Look
from wsi_pipeline.synthetic.stains import Style

__all__ = ["Bank"]

Points = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Bank:
    """Sprites of one slide, `n` of them: the look's kinds of cells first, then its debris.

    Attributes
    ----------
    mpp
        µm per pixel
    kind
        int64 (n,): position in the list of cell and debris kinds
    pixels
        uint16 (pixels × 3,): optical density × `OD_STEPS`, sprites one after the other
    start
        int64 (n,): position in `pixels` of each sprite's first value
    shape
        int64 (n, 2): height and width
    circles
        float64 (n, 3, 3): x, y, radius of circles of the same area as the cell and its nuclei;
        radius 0 where there is none
    rings
        float64 (vertices, 2): closed outlines in pixel edges of the sprite; of each cell first the
        cell, then its nuclei
    ring_start
        int64 (n, 4): positions in `rings` of cell, first nucleus, second nucleus, and end; of a
        leukocyte the first ring is its nucleus
    look
        kinds of cells and debris
    """

    mpp: float
    kind: NDArray[np.int64]
    pixels: NDArray[np.uint16]
    start: NDArray[np.int64]
    shape: NDArray[np.int64]
    circles: Points
    rings: Points
    ring_start: NDArray[np.int64]
    look: Look

    @classmethod
    def paint(
        cls,
        mpp: float,
        style: Style,
        *,
        count: int = 384,
        seed: int = 0,
        look: Look = LOOKS["plain"],
    ) -> Bank:
        """Paint about `count` sprites; the same arguments give the same sprites."""
        rng = np.random.default_rng([seed, 77])
        painter = look.painter(mpp, style, rng)
        sprites: list[tuple[int, Sprite]] = []
        shares = sum(kind.share**0.7 for kind in look.cells.values())
        for k, (name, kind) in enumerate(look.cells.items()):
            part = max(4, round(count * 0.8 * kind.share**0.7 / shares))
            sprites += [(k, painter.cell(kind, name)) for _ in range(part)]
        for k, name in enumerate(look.debris, len(look.cells)):
            part = look.painter.copies.get(name, max(3, round(count * 0.2 / len(look.debris))))
            sprites += [(k, painter.debris(name)) for _ in range(part)]
        return cls._pack(mpp, sprites, look)

    @classmethod
    def _pack(cls, mpp: float, sprites: list[tuple[int, Sprite]], look: Look) -> Bank:
        sizes = np.array([s.od.size for _, s in sprites])
        circles = np.zeros((len(sprites), 3, 3))
        rings: list[Points] = []
        ring_start = np.zeros((len(sprites), 4), np.int64)
        at = 0
        for i, (_, sprite) in enumerate(sprites):
            ring_start[i] = at
            for j, points in enumerate(sprite.outlines):
                polygon = shapely.Polygon(points)
                x, y = polygon.centroid.coords[0]
                circles[i, j] = x, y, math.sqrt(polygon.area / math.pi)
                closed: Points = np.vstack([points, points[:1]])
                rings.append(closed.round(2))
                at += len(closed)
                ring_start[i, j + 1 :] = at
        return cls(
            mpp=mpp,
            kind=np.array([k for k, _ in sprites]),
            pixels=np.concatenate([s.od.ravel() for _, s in sprites]),
            start=np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64),
            shape=np.array([s.od.shape[:2] for _, s in sprites], np.int64),
            circles=circles,
            rings=np.vstack(rings),
            ring_start=ring_start,
            look=look,
        )
