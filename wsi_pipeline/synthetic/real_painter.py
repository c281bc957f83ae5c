"""Paint cells and debris as real slides have them: folds, halos, leukocytes, keratin, smears."""

from __future__ import annotations

import math
from typing import ClassVar

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.synthetic.cell_kinds import CellKind
from wsi_pipeline.synthetic.cell_painter import Sprite, coverage, depth_um, quantise, rotated
from wsi_pipeline.synthetic.debris_painter import DebrisPainter, cropped
from wsi_pipeline.synthetic.real_kinds import LEUKOCYTES, REAL_KINDS

__all__ = ["RealPainter"]

Array = NDArray[np.float32]
Points = NDArray[np.float64]


_FAINTEST = 0.3
"""Least optical density of a nucleus, in the channel that shows it best."""


class RealPainter(DebrisPainter):
    """Paint the kinds of `REAL_KINDS` and `REAL_DEBRIS`."""

    sizes_um: ClassVar[dict[str, float]] = {
        **DebrisPainter.sizes_um,
        "neutrophil": 22.0,
        "lymphocyte": 18.0,
        "erythrocyte": 14.0,
        "keratin": 84.0,
        "rolled": 90.0,
        "smear": 100.0,
        "bacteria": 70.0,
        "strand": 100.0,
    }
    copies: ClassVar[dict[str, int]] = {"neutrophil": 20, "lymphocyte": 8, "erythrocyte": 6}

    def cell(self, kind: CellKind, name: str) -> Sprite:
        """Paint one cell with its nucleus, never too pale to be seen; it is swollen if dried."""
        swell = self.style.swell
        unit = float(self.style.stains[0].max()) * self.style.nucleus
        low, high = (max(c, _FAINTEST / unit) for c in kind.chromatin)
        kind = kind._replace(chromatin=(low, high))
        if swell > 1:
            wide = swell**0.3
            kind = kind._replace(
                nucleus_um2=(kind.nucleus_um2[0] * swell, kind.nucleus_um2[1] * swell),
                width_um=(kind.width_um[0] * wide, kind.width_um[1] * wide),
            )
        return super().cell(kind, name)

    def outline(self, area: float, aspect: float, corners: int, rough: float, n: int) -> Points:
        """Draw an outline as `Painter` does; one with corners is rougher and bent."""
        if not corners:
            return super().outline(area, aspect, corners, rough, n)
        rng = self.rng
        points = super().outline(area, aspect, corners, rough * rng.uniform(0.6, 2.4), n)
        points = rotated(points, rng.uniform(0, 2 * math.pi))
        points[:, 1] += rng.normal(0, 0.22) * points[:, 0] ** 2 / math.sqrt(area)
        polygon = shapely.Polygon(points)
        return (points - polygon.centroid.coords[0]) * math.sqrt(area / polygon.area)

    def debris(self, name: str) -> Sprite:
        """Paint one piece of debris; a leukocyte has the outline of its nucleus."""
        if name not in LEUKOCYTES:
            return super().debris(name)
        side = round(self.sizes_um[name] / self.mpp)
        nucleus = self._lobes() if name == "neutrophil" else self._round_nucleus()
        od = self._leukocyte(nucleus + side / 2, (side, side))
        blur_um = self.style.blur_um * self.rng.choice([0.7, 1.2, 2.5], p=[0.4, 0.4, 0.2])
        pixels, x, y = cropped(quantise(od, blur_um / self.mpp))
        return Sprite(pixels, [nucleus + side / 2 - [x, y]])

    def _round_nucleus(self) -> Points:
        """Draw the outline of a lymphocyte's nucleus around the origin, in pixels."""
        area = self.rng.uniform(16, 34) / self.mpp**2
        return self.outline(area, self.rng.uniform(1, 1.25), 0, 0.03, 32)

    def _lobes(self) -> Points:
        """Draw the outline of a nucleus of two to five lobes that hang together."""
        rng = self.rng
        count = int(rng.choice([2, 3, 4, 5], p=[0.3, 0.4, 0.22, 0.08]))
        angle = rng.uniform(0, 7) + np.cumsum(rng.uniform(0.9, 1.8, count))
        away = rng.uniform(0.9, 2.2) * rng.uniform(0.8, 1.2, count)
        middle = np.stack([np.cos(angle), np.sin(angle)], 1) * away[:, None]
        spots = [
            shapely.Polygon(self.outline(math.pi * r**2, rng.uniform(1, 1.5), 0, 0.05, 24) + at)
            for r, at in zip(rng.uniform(1.2, 2.1, count), middle, strict=True)
        ]
        bridge = shapely.LineString(middle).buffer(rng.uniform(0.35, 0.7))
        whole = shapely.union_all([*spots, bridge]).buffer(0.25).buffer(-0.25)
        return np.asarray(whole.simplify(0.04).exterior.coords)[:-1] / self.mpp

    def _leukocyte(self, nucleus: Points, shape: tuple[int, int]) -> Array:
        """Return the optical density of a leukocyte; many have lost their cytoplasm."""
        rng = self.rng
        inside = coverage(nucleus, shape)
        grain = 1 + 0.18 * self.texture(0.8, shape)
        dark = inside * np.clip(grain, 0.4, 2) * rng.uniform(0.75, 1.3)
        body = self._disk(shape, 0, 0, rng.uniform(3.8, 6), 0.06) * rng.choice([0.0, 0.04, 0.1])
        stains = self.style.stains
        pale = (stains[3] + stains[1]) / 2 * self.style.cytoplasm
        od = dark[..., None] * stains[0] * self.style.nucleus * self.tint(0.06)
        return np.asarray(od + body[..., None] * pale, np.float32)

    def cytoplasm(
        self,
        kind: CellKind,
        name: str,
        edge: Points,
        flap: Points | None,
        nuclei: list[Points],
        shape: tuple[int, int],
    ) -> Array:
        """Return the optical density (h, w, 3) of a cell without its nuclei, with its folds."""
        rng = self.rng
        od = super().cytoplasm(kind, name, edge, flap, nuclei, shape)
        inside = coverage(edge, shape)
        more = np.ones(shape, np.float32)
        if kind.corners:
            more += self._folds(inside, 1.0 if name != "crumpled" else 2.5)
        if rng.random() < 0.5:  # keratohyalin and glycogen
            grain = np.clip(self.texture(0.8, shape) - rng.uniform(0.4, 1.4), 0, 1.5)
            more += rng.uniform(-0.35, 0.6) * grain
        if name == "koilocyte" and nuclei:
            more *= self._halo(nuclei[0], shape)
        if name in ("dark_parabasal", "crowded"):
            more *= 1 + 0.25 * self.texture(2.0, shape)
        return np.asarray(od * np.clip(more, 0.1, 4.0)[..., None], np.float32)

    def _folds(self, inside: Array, strength: float) -> Array:
        """Draw folds of a thin cell: rolled borders, and creases with a sharp and a soft side."""
        rng, shape = self.rng, inside.shape
        depth = depth_um(inside, self.mpp)
        part = np.clip(self.texture(14.0, shape) - rng.uniform(0.2, 1.2), 0, 1.5)
        more = rng.uniform(0.3, 2.4) * part * np.exp(-depth / rng.uniform(0.8, 2.2))
        for _ in range(int(rng.integers(0, 4) + (strength > 1) * 2)):
            away = self.texture(rng.choice([6.0, 14.0]), shape) - rng.uniform(-1, 1)
            soft = np.exp(-np.maximum(away, 0) / rng.uniform(0.06, 0.35)) * (away > 0)
            where = np.clip(self.texture(14.0, shape) + rng.uniform(-0.9, 0.3), 0, 1.2)
            more = more + rng.uniform(0.3, 1.3) * strength * soft * where
        return np.asarray(more, np.float32)

    def _halo(self, nucleus: Points, shape: tuple[int, int]) -> Array:
        """Return the factor of a koilocyte's cytoplasm: clear around the nucleus, then dense."""
        rng = self.rng
        away = depth_um(1 - coverage(nucleus, shape), self.mpp)
        away = away + 0.8 * self.texture(6.0, shape)
        rim = rng.uniform(3, 8)
        step = 1 / (1 + np.exp(np.clip((away - rim) / rng.uniform(0.4, 1.4), -30, 30)))
        band = np.exp(-(((away - rim - 2) / 3) ** 2))
        return np.asarray(1 - rng.uniform(0.35, 0.85) * step + rng.uniform(0.0, 0.5) * band)

    def _erythrocyte(self, shape: tuple[int, int]) -> Array:
        rng = self.rng
        disk = self._disk(shape, 0, 0, rng.uniform(2.8, 3.9), 0.03)
        depth = depth_um(disk, self.mpp)
        ring = 1 - rng.uniform(0, 0.6) * np.clip(depth / 3, 0, 1)
        _, eosin, orange, green = self.style.stains
        colour = [eosin, orange, (eosin + green) / 2][rng.choice(3, p=[0.4, 0.35, 0.25])]
        amount = disk * ring * rng.uniform(0.08, 0.3) * self.style.cytoplasm
        return np.asarray(amount[..., None] * colour * self.tint(0.08), np.float32)

    def _keratin(self, shape: tuple[int, int]) -> Array:
        """Paint an orange-brown squame without nucleus, or with the pale ghost of one."""
        rng = self.rng
        kind = REAL_KINDS["superficial"]
        area = rng.uniform(16, 52) ** 2 * 0.6 / self.mpp**2
        middle = np.array(shape[::-1]) / 2
        edge = self.outline(area, rng.uniform(1, 2.4), 5, 0.06, 64) + middle
        inside = coverage(np.clip(edge, 1, shape[0] - 2), shape)
        body = 1 + 0.25 * self.texture(14.0, shape) + 0.2 * self.texture(2.0, shape)
        body += self._folds(inside, rng.uniform(0.8, 2.5))
        x, y = rng.uniform(-4, 4, 2)
        ghost = self._disk(shape, x, y, rng.uniform(2.5, 5), 0.06)
        body = body * (1 + rng.choice([0.0, 0.25, -0.5]) * ghost)
        mix = rng.uniform(0.15, 0.85)
        colour = self.style.stains[2] * mix + self.style.stains[1] * (1 - mix)
        if rng.random() < 0.3:  # brown
            colour = colour + 0.4 * self.style.stains[3]
        amount = inside * np.clip(body, 0.1, 4) * rng.uniform(*kind.thickness) * rng.uniform(0.7, 2)
        return np.asarray(amount[..., None] * colour * self.style.cytoplasm, np.float32)

    def _rolled(self, shape: tuple[int, int]) -> Array:
        """Paint a squame rolled up to a dark spindle, in which nothing can be seen."""
        rng = self.rng
        area = rng.uniform(8, 16) * rng.uniform(30, 70) / self.mpp**2 * 0.6
        edge = self.outline(area, rng.uniform(3, 6), 4, 0.06, 64) + np.array(shape[::-1]) / 2
        inside = coverage(edge, shape)
        body = 1 + self._folds(inside, 2.0) + 0.3 * self.texture(2.0, shape)
        stains = self.style.stains
        colour = stains[rng.choice([1, 3])] * 0.8 + stains[0] * rng.uniform(0, 0.1)
        amount = inside * np.clip(body, 0.2, 4) * rng.uniform(0.3, 0.8) * self.style.cytoplasm
        return np.asarray(amount[..., None] * colour, np.float32)

    def _smear(self, shape: tuple[int, int]) -> Array:
        """Paint nuclei that were crushed and drawn out to threads."""
        rng = self.rng
        threads = np.zeros(shape, np.float32)
        turn = rng.uniform(0, math.pi)
        t = np.linspace(-1, 1, 30)
        for _ in range(int(rng.integers(2, 9))):
            length, thick = rng.uniform(8, 38), rng.uniform(0.5, 3.5)
            bow = rng.uniform(-5, 5) * t**2 + rng.uniform(-2, 2) * np.sin(3 * t)
            path = np.stack([t * length, bow + rng.normal(0, 6)], 1)
            points = (rotated(path, turn + rng.normal(0, 0.1)) / self.mpp).astype(np.float64)
            one = np.zeros(shape, np.uint8)
            width = max(1, round(thick / self.mpp))
            at = (points + np.array(shape[::-1]) / 2).astype(np.int32)
            cv2.polylines(one, [at], False, 255, width, cv2.LINE_AA)
            threads = np.maximum(threads, one.astype(np.float32) / 255 * rng.uniform(0.3, 1))
        threads = cv2.GaussianBlur(threads, (0, 0), max(rng.uniform(0.3, 1.0) / self.mpp, 0.3))
        threads *= np.clip(1 + 0.4 * self.texture(2.0, shape), 0, 2) * rng.uniform(0.3, 0.9)
        colour = self.style.stains[0] * self.style.nucleus
        return np.asarray(threads[..., None] * colour, np.float32)

    def _bacteria(self, shape: tuple[int, int]) -> Array:
        """Paint a cloud of rods or cocci, each below a µm."""
        rng = self.rng
        cloud = np.zeros(shape, np.uint8)
        count = int(rng.integers(60, 400))
        at = np.clip(rng.normal(0, rng.uniform(5, 14), (count, 2)), -31, 31) / self.mpp
        at += np.array(shape[::-1]) / 2
        angle = rng.uniform(0, math.pi, count)
        step = np.stack([np.cos(angle), np.sin(angle)], 1) * rng.uniform(0.1, 1.2) / self.mpp
        for a, b in zip((at - step) * 16, (at + step) * 16, strict=True):
            begin, end = a.astype(int).tolist(), b.astype(int).tolist()
            cv2.line(cloud, begin, end, int(rng.integers(80, 255)), 1, cv2.LINE_AA, 4)
        soft = cv2.GaussianBlur(cloud.astype(np.float32) / 255, (0, 0), max(0.25 / self.mpp, 0.3))
        colour = self.style.stains[0] * 0.5 + self.style.stains[3] * 0.3
        return np.asarray(soft[..., None] * colour * rng.uniform(0.15, 0.6), np.float32)

    def _strand(self, shape: tuple[int, int]) -> Array:
        """Paint mucus: fine parallel threads in a pale band."""
        rng = self.rng
        fx = np.linspace(-1, 1, shape[1], dtype=np.float32)[None]
        fy = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
        turn = rng.uniform(0, math.pi)
        across = -math.sin(turn) * fx + math.cos(turn) * fy
        across = across + 0.08 * self.texture(14.0, shape)
        fade = np.clip(1.2 - np.hypot(fx, fy), 0, 1)
        width = rng.uniform(0.08, 0.4)
        band = np.exp(-((across / width) ** 2)) * fade
        threads = np.abs(np.sin(across * rng.uniform(20, 60))) ** 4
        amount = band * (0.4 + threads * rng.uniform(0.1, 0.9)) * rng.uniform(0.06, 0.3)
        stains = self.style.stains
        return np.asarray(amount[..., None] * stains[rng.choice([1, 3, 3])], np.float32)
