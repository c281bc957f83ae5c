"""Paint single cells of liquid-based cervical cytology as optical density.

A sprite is one cell by itself. By the law of Beer and Lambert optical densities add up, so sprites
can be laid over each other in any order.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
import shapely
from numba import njit
from numpy.typing import NDArray

from wsi_pipeline.synthetic.cell_kinds import CellKind
from wsi_pipeline.synthetic.stains import Style

__all__ = ["OD_STEPS", "Painter", "Sprite", "coverage", "quantise", "rotated"]

Array = NDArray[np.float32]
Points = NDArray[np.float64]

OD_STEPS = 1024
"""Sprites are stored as uint16 in steps of 1/1024 of optical density."""


class Sprite(NamedTuple):
    """Optical density × `OD_STEPS` (h, w, 3), and outlines in its pixel edges, not closed."""

    od: NDArray[np.uint16]
    outlines: list[Points]  # cell, then nuclei


def _to_area(points: Points, area: float) -> Points:
    """Return the outline moved and scaled: centroid at the origin, and the given area."""
    polygon = shapely.Polygon(points)
    return (points - polygon.centroid.coords[0]) * math.sqrt(area / polygon.area)


def rotated(points: Points, angle: float) -> Points:
    """Return points (n, 2) turned about the origin by an angle in radians."""
    c, s = math.cos(angle), math.sin(angle)
    return points @ np.array([[c, s], [-s, c]])


@njit(nogil=True, cache=True)
def coverage(points: Points, shape: tuple[int, int]) -> Array:
    """Return the share of each pixel (h, w) inside an outline (n, 2).

    Four scan lines per pixel with the even-odd rule; along x the share is exact. Hand-written
    because cv2.fillPoly has no partial coverage with sub-pixel borders in both directions.
    """
    height, width = shape
    out = np.zeros((height, width), np.float32)
    crossings = np.empty(len(points))
    for line in range(4 * height):
        y = (line + 0.5) / 4
        n = 0
        for i in range(len(points)):
            xa, ya = points[i - 1]
            xb, yb = points[i]
            if (ya <= y) != (yb <= y):
                crossings[n] = min(max(xa + (y - ya) * (xb - xa) / (yb - ya), 0.0), width)
                n += 1
        ends = np.sort(crossings[:n])
        for k in range(0, n - 1, 2):
            left, right = ends[k], ends[k + 1]
            for x in range(int(left), min(int(right) + 1, width)):
                share = min(right, x + 1.0) - max(left, float(x))
                out[line // 4, x] += np.float32(share / 4)
    return out


class Painter:
    """Paint sprites. All textures are windows of the same noise.

    Parameters
    ----------
    mpp
        µm per pixel
    style
        stain and focus
    rng
        random generator; the same state gives the same sprites
    """

    def __init__(self, mpp: float, style: Style, rng: np.random.Generator) -> None:
        self.mpp, self.style, self.rng = mpp, style, rng
        self._size = 1 << math.ceil(math.log2(110 / mpp))  # no sprite is larger than 110 µm
        spectrum = np.fft.rfft2(rng.normal(size=(self._size, self._size)))
        fy, fx = np.fft.fftfreq(self._size)[:, None], np.fft.rfftfreq(self._size)[None]
        self._noise: dict[float, Array] = {}
        for length_um in (0.35, 0.8, 2.0, 6.0, 14.0):
            sigma = max(length_um / mpp / 2, 0.4)
            band = np.fft.irfft2(spectrum * np.exp(-2 * (math.pi * sigma) ** 2 * (fx**2 + fy**2)))
            band = ((band - band.mean()) / band.std()).astype(np.float32)
            self._noise[length_um] = np.tile(band, (2, 2))

    def texture(self, length_um: float, shape: tuple[int, int]) -> Array:
        """Return smooth noise (h, w), mean 0 and deviation 1, with grains of `length_um`."""
        oy, ox = self.rng.integers(0, self._size, 2)
        return self._noise[length_um][oy : oy + shape[0], ox : ox + shape[1]]

    def tint(self, spread: float) -> Points:
        """Draw factors around 1 by which the colour of one cell differs from the stain."""
        return self.rng.lognormal(0, spread, 1 if self.style.monochrome else 3)

    def outline(self, area: float, aspect: float, corners: int, rough: float, n: int) -> Points:
        """Draw an outline of `n` vertices around the origin, not closed, `area` in px²."""
        rng = self.rng
        theta = np.arange(n) * (2 * math.pi / n)
        if corners:
            count = max(4, corners + int(rng.integers(-2, 2)))
            angles = (np.arange(count) + rng.uniform(-0.33, 0.33, count)) * (2 * math.pi / count)
            radii = rng.uniform(0.75, 1.15, count)
            knots = np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]
            place = np.arange(n) * (count / n)
            low = place.astype(int)
            f = (place - low)[:, None]
            bow = 1 + rng.uniform(-0.02, 0.16, count)[low][:, None] * 4 * f * (1 - f)
            points = ((1 - f) * knots[low] + f * knots[(low + 1) % count]) * bow
            for _ in range(2):
                points = (np.roll(points, 1, 0) + 2 * points + np.roll(points, -1, 0)) / 4
        else:
            points = np.stack([np.cos(theta), np.sin(theta)], 1)
        wave = np.zeros(n)
        for k in range(2, 14):
            wave += rng.normal() * rough * 3 * k**-1.25 * np.cos(k * theta + rng.uniform(0, 7))
        points = points * np.clip(1 + wave, 0.55, 1.6)[:, None]
        stretched = points * [math.sqrt(aspect), 1 / math.sqrt(aspect)]
        return _to_area(rotated(stretched, rng.uniform(0, 2 * math.pi)), area)

    def cell(self, kind: CellKind, name: str) -> Sprite:
        """Paint one cell with its nucleus; one cell in 25 has two."""
        rng, mpp = self.rng, self.mpp
        aspect = rng.uniform(*kind.aspect)
        width = rng.uniform(*kind.width_um) / mpp
        rough = 0.035
        body = self.outline(0.72 * width**2, aspect, kind.corners, rough, 72)
        nuclei = self._nuclei(kind, body)
        body, flap = self._fold(body, nuclei) if rng.random() < kind.fold else (body, None)
        whole = shapely.union_all([shapely.Polygon(p).buffer(0) for p in (body, *nuclei)])
        if flap is not None:
            whole = whole.union(shapely.Polygon(flap).buffer(0))
        if whole.geom_type != "Polygon":
            whole = max(whole.geoms, key=lambda g: g.area)
        blur = self.style.blur_um / mpp * rng.choice([0.6, 1.0, 1.6, 3.5], p=[0.3, 0.4, 0.2, 0.1])
        pad = math.ceil(3 * blur) + 2
        x0, y0, x1, y1 = whole.bounds
        shape = (math.ceil(y1 - y0) + 2 * pad, math.ceil(x1 - x0) + 2 * pad)
        shift = np.array([pad - x0, pad - y0])
        edge = np.asarray(whole.exterior.coords)[:-1] + shift
        nuclei = [p + shift for p in nuclei]
        flap = None if flap is None else flap + shift
        od = self.cytoplasm(kind, name, edge, flap, nuclei, shape)
        od += self._chromatin(kind, name, nuclei, shape)
        return Sprite(quantise(od, blur), [edge, *nuclei])

    def _nuclei(self, kind: CellKind, body: Points) -> list[Points]:
        """Draw the outlines of the nuclei inside a cell around the origin."""
        rng, mpp = self.rng, self.mpp
        twin = rng.random() < 0.04
        outlines = []
        for _ in range(2 if twin else 1):
            area = rng.uniform(*kind.nucleus_um2) / mpp**2
            aspect = rng.uniform(1, kind.nucleus_aspect)
            outlines.append(self.outline(area, aspect, 0, kind.irregular * 0.5, 40))
        cell = shapely.Polygon(body).buffer(0)
        reach = math.sqrt(cell.area / math.pi) * kind.offcentre
        major = body[np.argmax((body**2).sum(1))]
        for scale in np.linspace(1, 0, 9):
            if kind.offcentre >= 0.5:  # columnar cells have it at one end
                at = major * kind.offcentre * scale
            else:
                angle = rng.uniform(0, 2 * math.pi)
                at = np.array([math.cos(angle), math.sin(angle)]) * reach * scale * rng.random()
            placed = [outlines[0] + at]
            if twin:
                r = sum(math.sqrt(shapely.Polygon(p).area / math.pi) for p in outlines)
                step = rotated(np.array([[r * rng.uniform(1.1, 1.4) / 2, 0]]), rng.uniform(0, 7))
                placed = [outlines[0] + at + step, outlines[1] + at - step]
                if shapely.Polygon(placed[0]).intersects(shapely.Polygon(placed[1])):
                    continue
            if all(cell.contains(shapely.Polygon(p)) for p in placed):
                return placed
        return [outlines[0]]

    def _fold(self, body: Points, nuclei: list[Points]) -> tuple[Points, Points | None]:
        """Fold a flap of a cell back over it.

        Returns
        -------
        body, flap
            the rest of the outline, and the flap; where a nucleus lies on the fold, the whole
            outline and None
        """
        rng = self.rng
        turn = rng.uniform(0, 2 * math.pi)
        points = rotated(body, turn)
        cut = points[:, 0].max() * rng.uniform(0.45, 0.85)
        if max(rotated(p, turn)[:, 0].max() for p in nuclei) > cut - 1:
            return body, None
        far = 10 * np.abs(points).max()
        polygon = shapely.Polygon(points).buffer(0)
        kept = polygon.intersection(shapely.box(-far, -far, cut, far))
        flap = polygon.intersection(shapely.box(cut, -far, far, far))
        if kept.geom_type != "Polygon" or flap.geom_type != "Polygon" or flap.is_empty:
            return body, None
        mirrored = np.asarray(flap.exterior.coords)[:-1] * [-1, 1] + [2 * cut, 0]
        mirrored[:, 1] += (mirrored[:, 0] - cut) * rng.uniform(-0.4, 0.4)
        return rotated(np.asarray(kept.exterior.coords)[:-1], -turn), rotated(mirrored, -turn)

    def cytoplasm(
        self,
        kind: CellKind,
        name: str,
        edge: Points,
        flap: Points | None,
        nuclei: list[Points],
        shape: tuple[int, int],
    ) -> Array:
        """Return the optical density (h, w, 3) of a cell without its nuclei."""
        rng, mpp = self.rng, self.mpp
        inside = coverage(edge, shape)
        depth = depth_um(inside, mpp)
        body = 1 + 0.17 * self.texture(14.0, shape) + 0.11 * self.texture(6.0, shape)
        body += rng.uniform(0.04, 0.16) * self.texture(2.0, shape)
        body += rng.uniform(0.03, 0.14) * self.texture(0.8, shape)
        body *= 1 - kind.dome * np.exp(-depth / 2.5)
        body += rng.uniform(0.1, 0.7) * np.exp(-depth / rng.uniform(0.35, 0.8))
        for _ in range(int(rng.integers(1, 4)) if kind.corners else 0):
            body += self._wrinkles(shape)
        if rng.random() < 0.3:
            grain = self.texture(0.8, shape) - rng.uniform(1.2, 2.0)
            body += rng.choice([-0.5, 0.5]) * np.clip(grain * 2, 0, 1)
        if name == "columnar" or rng.random() < 0.06:  # vacuoles
            body *= 1 - 0.5 * np.clip(self.texture(2.0, shape) - 0.9, 0, 1)
        if name == "lsil" and rng.random() < 0.6:
            away = depth_um(1 - coverage(nuclei[0], shape), mpp)
            body *= 1 - 0.65 * np.exp(-((away / rng.uniform(4, 7)) ** 4))
        if flap is not None:
            over = coverage(flap, shape)
            body += over * rng.uniform(0.5, 1.0) * (1 + 0.6 * np.exp(-depth_um(over, mpp) / 0.5))
        thickness = rng.uniform(*kind.thickness) * rng.lognormal(0, 0.3)
        amount = np.clip(body, 0.05, None) * inside * thickness
        colour = self._cytoplasm_colour(kind)
        second = self._cytoplasm_colour(kind)
        mix = np.clip(0.1 + 0.12 * self.texture(14.0, shape), 0, 0.5)[..., None]
        od = amount[..., None] * (colour * (1 - mix) + second * mix) * self.style.cytoplasm
        return od.astype(np.float32)

    def _cytoplasm_colour(self, kind: CellKind) -> Array:
        """Draw the RGB optical density of one cell's cytoplasm per unit of thickness."""
        rng = self.rng
        _, eosin, orange, green = self.style.stains
        if rng.random() < kind.eosin * self.style.eosin:
            m = rng.choice([0.0, 0.1, 0.6], p=[0.6, 0.25, 0.15])
            base = eosin * (1 - m) + orange * m
        else:
            base = green
        m = rng.beta(0.6, 4)
        mixed = base * (1 - m) + (green + eosin) / 2 * m
        return np.asarray(mixed * self.tint(0.08), np.float32)

    def _wrinkles(self, shape: tuple[int, int]) -> Array:
        """Draw thin dark creases: lines where the noise is zero."""
        rng = self.rng
        where = np.clip(self.texture(14.0, shape) + rng.uniform(-0.8, 0.4), 0, 1.5)
        crease = np.exp(-((self.texture(6.0, shape) / rng.uniform(0.05, 0.14)) ** 2))
        return np.asarray(rng.uniform(0.1, 0.9) * where * crease, np.float32)

    def _chromatin(
        self, kind: CellKind, name: str, nuclei: list[Points], shape: tuple[int, int]
    ) -> Array:
        """Return the optical density (h, w, 3) of the nuclei."""
        rng, mpp = self.rng, self.mpp
        amount = np.zeros(shape, np.float32)
        coarse = rng.uniform(0.06, 0.2) if name in ("lsil", "hsil") else rng.uniform(0.03, 0.15)
        if name == "superficial":
            coarse *= 0.4
        density = rng.uniform(*kind.chromatin)
        for points in nuclei:
            inside = coverage(points, shape)
            depth = depth_um(inside, mpp)
            grain = 1 + coarse * (self.texture(0.8, shape) + 0.6 * self.texture(0.35, shape))
            grain += 0.08 * self.texture(2.0, shape)
            grain += rng.uniform(0.05, 0.45) * np.exp(-((depth / 0.45) ** 2))
            if rng.random() < 0.25:
                grain += 0.5 * np.clip(self.texture(0.8, shape) - 1.5, 0, 1)
            amount = np.maximum(amount, inside * np.clip(grain, 0.3, 2.2))
        colour = self.style.stains[0] * self.tint(0.06)
        od = amount[..., None] * colour * density * self.style.nucleus
        return od.astype(np.float32)


def depth_um(inside: Array, mpp: float) -> Array:
    """Return the distance in µm from each pixel inside to the outline."""
    mask = (inside > 0.5).astype(np.uint8)
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    return np.asarray(depth, np.float32) * np.float32(mpp)


def quantise(od: Array, blur: float) -> NDArray[np.uint16]:
    """Return optical density in the stored steps, blurred by `blur` pixels (standard deviation)."""
    soft = cv2.GaussianBlur(od, (0, 0), blur, borderType=cv2.BORDER_CONSTANT) if blur > 0.2 else od
    return np.asarray(np.clip(np.rint(soft * OD_STEPS), 0, 4 * OD_STEPS), np.uint16)
