"""Paint what lies between the cells: debris that is not part of the truth."""

from __future__ import annotations

import math
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.synthetic.cell_kinds import CELL_KINDS
from wsi_pipeline.synthetic.cell_painter import Painter, Sprite, coverage, quantise, rotated

__all__ = ["DEBRIS_KINDS", "DebrisPainter", "cropped"]

Array = NDArray[np.float32]

DEBRIS_KINDS: dict[str, float] = {
    "neutrophil": 0.17,
    "specks": 0.05,
    "mucus": 0.008,
    "smudge": 0.015,
    "precipitate": 0.012,
    "fragment": 0.03,
}
"""Kind of debris → its number per cell."""


class DebrisPainter(Painter):
    """Paint what lies between the cells."""

    sizes_um: ClassVar[dict[str, float]] = {
        "neutrophil": 18.0,
        "specks": 34.0,
        "mucus": 90.0,
        "smudge": 60.0,
    }
    """Side of the sprite of a kind of debris, where it is not 30 µm."""
    copies: ClassVar[dict[str, int]] = {}
    """Number of sprites of a kind of debris, where it is not the same for all."""

    def debris(self, name: str) -> Sprite:
        """Paint one piece of debris; it has no outline in the truth."""
        side = round(self.sizes_um.get(name, 30.0) / self.mpp)
        od = getattr(self, f"_{name}")((side, side))
        blur_um = self.style.blur_um * self.rng.choice([0.7, 1.2, 3.0])
        if name == "smudge":
            blur_um = self.rng.uniform(1.8, 4.5)
        return Sprite(cropped(quantise(od, blur_um / self.mpp))[0], [])

    def _disk(self, shape: tuple[int, int], x: float, y: float, r: float, rough: float) -> Array:
        """Return the coverage of a round spot; lengths in µm, from the middle of the sprite."""
        points = self.outline(math.pi * (r / self.mpp) ** 2, self.rng.uniform(1, 1.4), 0, rough, 32)
        return coverage(points + np.array([x, y]) / self.mpp + np.array(shape[::-1]) / 2, shape)

    def _neutrophil(self, shape: tuple[int, int]) -> Array:
        rng = self.rng
        lobes = np.zeros(shape, np.float32)
        count = int(rng.integers(2, 5))
        first = rng.uniform(0, 7)
        for k in range(count):
            angle = first + k * rng.uniform(1.2, 1.9)
            at = rng.uniform(1.2, 2.3)
            spot = self._disk(
                shape, at * math.cos(angle), at * math.sin(angle), rng.uniform(1.2, 2.0), 0.04
            )
            lobes = np.maximum(lobes, spot)
        body = self._disk(shape, 0, 0, rng.uniform(4.5, 6), 0.04) * rng.uniform(0, 0.12)
        lobes *= (1 + 0.15 * self.texture(0.8, shape)) * rng.uniform(0.8, 1.5)
        stains = self.style.stains
        strong = lobes[..., None] * stains[0] * self.style.nucleus
        return np.asarray(strong + body[..., None] * (stains[3] + stains[1]) / 2, np.float32)

    def _specks(self, shape: tuple[int, int]) -> Array:
        rng = self.rng
        od = np.zeros((*shape, 3), np.float32)
        spread = rng.uniform(2, 9)
        colour = self.style.stains[rng.choice(4, p=[0.55, 0.1, 0.1, 0.25])]
        for _ in range(int(rng.integers(3, 30))):
            x, y = np.clip(rng.normal(0, spread, 2), -14, 14)
            spot = self._disk(shape, x, y, rng.uniform(0.25, 0.9), 0.05)
            od = np.maximum(od, spot[..., None] * colour * rng.uniform(0.2, 0.9))
        return od

    def _mucus(self, shape: tuple[int, int]) -> Array:
        rng = self.rng
        t = np.linspace(-1, 1, 60)
        path = np.stack([t * 36, 9 * np.sin(t * rng.uniform(1, 4) + rng.uniform(0, 7))], 1)
        path = rotated(path / self.mpp, rng.uniform(0, 7)) + np.array(shape[::-1]) / 2
        strand = np.zeros(shape, np.uint8)
        for _ in range(int(rng.integers(1, 5))):
            bent = path + rng.normal(0, 4, 2) / self.mpp
            thick = max(1, round(rng.uniform(0.6, 3.5) / self.mpp))
            cv2.polylines(strand, [bent.astype(np.int32)], False, 255, thick, cv2.LINE_AA)
        soft = cv2.GaussianBlur(strand.astype(np.float32) / 255, (0, 0), 1.0 / self.mpp)
        soft *= np.clip(1 + 0.5 * self.texture(6.0, shape), 0, 2) * rng.uniform(0.08, 0.3)
        stains = self.style.stains
        return np.asarray(soft[..., None] * stains[rng.choice([1, 3, 3])], np.float32)

    def _smudge(self, shape: tuple[int, int]) -> Array:
        rng = self.rng
        body = self._disk(shape, 0, 0, rng.uniform(3, 16), 0.06) * rng.uniform(0.1, 0.35)
        x, y = rng.uniform(-2, 2, 2)
        dark = self._disk(shape, x, y, rng.uniform(1.5, 4.5), 0.04)
        stains = self.style.stains
        colour = stains[rng.choice([1, 3, 3])]
        return np.asarray(
            body[..., None] * colour + dark[..., None] * stains[0] * rng.choice([0, 0.4, 0.9]),
            np.float32,
        )

    def _precipitate(self, shape: tuple[int, int]) -> Array:
        rng = self.rng
        od = np.zeros(shape, np.float32)
        for _ in range(int(rng.integers(1, 7))):
            x, y = rng.normal(0, 3, 2)
            od = np.maximum(od, self._disk(shape, x, y, rng.uniform(0.4, 2.2), 0.12))
        tint = np.ones(3) * self.tint(0.1)
        return np.asarray(od[..., None] * tint * rng.uniform(0.7, 1.9), np.float32)

    def _fragment(self, shape: tuple[int, int]) -> Array:
        rng = self.rng
        kind = CELL_KINDS["intermediate"]
        area = (rng.uniform(5, 18) / self.mpp) ** 2 * 0.7
        edge = self.outline(area, rng.uniform(1, 2), 5, 0.08, 48) + np.array(shape[::-1]) / 2
        return self.cytoplasm(kind, "fragment", edge, None, [], shape)


def cropped(od: NDArray[np.uint16]) -> tuple[NDArray[np.uint16], int, int]:
    """Return a sprite without its empty margin, and x and y of where it began."""
    filled = od.max(2) > 2
    rows, columns = np.flatnonzero(filled.any(1)), np.flatnonzero(filled.any(0))
    if len(rows) == 0:
        return od[:1, :1], 0, 0
    y, x = int(rows[0]), int(columns[0])
    return np.ascontiguousarray(od[y : rows[-1] + 1, x : columns[-1] + 1]), x, y
