"""Where the cells of a synthetic slide lie: placed all at once, before any pixel is made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import shapely
from numba import njit
from numpy.typing import NDArray

from wsi_pipeline.core.errors import ConfigError
from wsi_pipeline.synthetic.cell_painter import CELL_KINDS, Stain, Style, draw_style
from wsi_pipeline.synthetic.sprites import DEBRIS_KINDS, Bank

__all__ = ["BIN_PX", "SlidePlan", "plan_slide"]

BIN_PX = 512  # sprites are sorted by blocks of this size
_MEGAPIXEL_UM2 = 250.0**2  # a million pixels of 0.25 µm
_NUCLEUS_OVERLAP, _CELL_OVERLAP = 0.12, 0.5  # of the smaller one, taking both for circles

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SlidePlan:
    """Every sprite of a slide, `n` cells and pieces of debris, before any pixel is made.

    Attributes
    ----------
    width, height
        level-0 pixels
    mpp
        µm per pixel
    seed
        where all chance comes from
    style, bank
        stain and light; the sprites
    x, y
        int64 (n,): left and top of each sprite's box
    sprite
        int64 (n,): position in `bank`
    variant
        int64 (n,): bit 0 mirrors x, bit 1 mirrors y, bit 2 then swaps x and y
    bin_start
        int64 (bins + 1,): where each block of `BIN_PX`, row by row, begins; a sprite belongs to
        the block that holds its corner
    """

    width: int
    height: int
    mpp: float
    seed: int
    style: Style
    bank: Bank
    x: Ints
    y: Ints
    sprite: Ints
    variant: Ints
    bin_start: Ints

    @property
    def cells(self) -> Ints:
        """Positions of the cells among the sprites, debris left out."""
        return np.flatnonzero(self.bank.kind[self.sprite] < len(CELL_KINDS))

    @property
    def nucleus_cell(self) -> Ints:
        """int64 (nuclei,): which cell of `truth_objects` holds each nucleus."""
        count = (self.bank.circles[self.sprite[self.cells], 1:, 2] > 0).sum(1)
        return np.repeat(np.arange(len(count)), count)


def plan_slide(
    width: int,
    height: int,
    *,
    mpp: float = 0.25,
    seed: int = 0,
    tissue: float = 0.35,
    density: float = 135.0,
    clustering: float = 0.35,
    mix: Mapping[str, float] | None = None,
    max_overlap: float | None = None,
    stain: Stain = "pap",
    style: Style | None = None,
    bank: Bank | None = None,
) -> SlidePlan:
    """Place all cells of a slide; the same arguments give the same slide.

    Parameters
    ----------
    width, height
        level-0 pixels
    mpp
        µm per pixel
    seed
        where all chance comes from
    tissue
        share of the slide under the deposit, 0 to 1
    density
        nuclei per 62 500 µm² of deposit (a megapixel at 0.25 µm)
    clustering
        share of the cells that lie in clusters, 0 to 1
    mix
        kind of cell → weight; as in `CELL_KINDS` if not given
    max_overlap
        share of the smaller of any two cells that the other may cover, 0 to 1, which leaves room
        for fewer cells; if not given 0.5 of cells taken for circles, and every sixth may lie
        wholly over another
    stain
        see `draw_style`; used where `style` is not given
    style, bank
        to share between slides; made from `seed` if not given

    Raises
    ------
    ConfigError
        where a size, `mpp`, share or kind of cell makes no sense
    """
    mix = mix if mix is not None else {name: kind.share for name, kind in CELL_KINDS.items()}
    _check(width, height, mpp, tissue, density, clustering, mix)
    if max_overlap is not None and not 0 <= max_overlap <= 1:
        raise ConfigError(f"an overlap of at most {max_overlap} makes no sense; take 0 to 1")
    rng = np.random.default_rng([seed, width, height, round(mpp * 1e6)])
    style = style or draw_style(rng, stain)
    bank = bank or Bank.paint(mpp, style, seed=seed)
    area = width * height * mpp**2 / _MEGAPIXEL_UM2
    wanted = round(area * tissue * density / 1.04)  # one cell in 25 has two nuclei
    spare = 3 * wanted  # many do not find room
    debris = round(wanted * sum(DEBRIS_KINDS.values()))
    deposit = _Deposit(rng, width, height, tissue)
    x, y, kind = _scatter(rng, deposit, spare, debris, clustering, mpp, mix)
    sprite = _choose(rng, bank, kind)
    variant: Ints = rng.integers(0, 8, len(kind))
    size = np.where((variant & 4 == 4)[:, None], bank.shape[sprite], bank.shape[sprite][:, ::-1])
    corner = np.round(np.stack([x, y], 1) - size / 2).astype(np.int64)
    fits: NDArray[np.bool_] = np.all((corner >= 0) & (corner + size <= [width, height]), axis=1)
    at = _place(corner, bank.circles[sprite], size, variant)
    radius = bank.circles[sprite][:, :, 2]
    limits = (_CELL_OVERLAP, 1.0) if max_overlap is None else (max_overlap, max_overlap)
    reach = int(bank.shape.max())
    free = _accept(at[:spare], radius[:spare], fits[:spare], wanted, reach, limits)
    if max_overlap is not None:  # circles are not enough for a promise
        own = sprite[free], corner[free], size[free], variant[free]
        free = free[_apart(_outlines(bank, *own), max_overlap)]
    keep = np.concatenate([free, spare + np.flatnonzero(fits[spare:])])
    columns, rows = -(-width // BIN_PX), -(-height // BIN_PX)
    bins = corner[keep, 1] // BIN_PX * columns + corner[keep, 0] // BIN_PX
    keep = keep[np.argsort(bins, kind="stable")]
    count = np.bincount(bins, minlength=columns * rows)
    return SlidePlan(
        width=width,
        height=height,
        mpp=mpp,
        seed=seed,
        style=style,
        bank=bank,
        x=np.ascontiguousarray(corner[keep, 0]),
        y=np.ascontiguousarray(corner[keep, 1]),
        sprite=sprite[keep],
        variant=variant[keep],
        bin_start=np.concatenate([[0], np.cumsum(count)]).astype(np.int64),
    )


def _check(
    width: int,
    height: int,
    mpp: float,
    tissue: float,
    density: float,
    clustering: float,
    mix: Mapping[str, float],
) -> None:
    if not 0.05 <= mpp <= 2 or min(width, height) * mpp < 64:
        raise ConfigError(
            f"a slide of {width} × {height} px at {mpp} µm is not possible; "
            "take at least 64 µm a side and an mpp of 0.05 to 2"
        )
    if not (0 <= tissue <= 1 and 0 <= clustering <= 1 and 0 <= density <= 400):
        raise ConfigError(
            f"tissue {tissue} and clustering {clustering} must lie in 0 to 1, "
            f"density {density} in 0 to 400"
        )
    if not set(mix) <= set(CELL_KINDS) or min(mix.values(), default=0) < 0 or not any(mix.values()):
        raise ConfigError(f"mix {dict(mix)} must give weights to some of {', '.join(CELL_KINDS)}")


class _Deposit:
    """Where on the slide there are cells, and how densely: a coarse map to draw places from."""

    def __init__(self, rng: np.random.Generator, width: int, height: int, tissue: float) -> None:
        self.step = max(width, height) / 256
        self.shape = (math.ceil(height / self.step), math.ceil(width / self.step))
        rows, columns = self.shape
        fy, fx = np.mgrid[:rows, :columns]
        radius = np.hypot((fx + 0.5) / columns - 0.5, (fy + 0.5) / rows - 0.5)
        score = _smooth(rng, self.shape, 24) * 0.035 + _smooth(rng, self.shape, 6) * 0.012 - radius
        uneven = np.exp(0.3 * _smooth(rng, self.shape, 16) + 0.2 * _smooth(rng, self.shape, 4))
        inside = np.argsort(-score, axis=None, kind="stable")[: round(score.size * tissue)]
        weight = np.zeros(score.size)
        weight[inside] = uneven.ravel()[inside]
        self.cumulative = np.cumsum(weight)

    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        """`count` places (count, 2), x and y in level-0 pixels."""
        at = np.searchsorted(self.cumulative, rng.random(count) * self.cumulative[-1], "right")
        row, column = np.divmod(np.minimum(at, len(self.cumulative) - 1), self.shape[1])
        return (np.stack([column, row], 1) + rng.random((count, 2))) * self.step


def _smooth(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> Floats:
    """Noise of mean 0 and deviation 1, smooth over `sigma` map pixels."""
    field = cv2.GaussianBlur(rng.normal(size=shape), (0, 0), sigma)
    return np.asarray((field - field.mean()) / max(field.std(), 1e-9))


def _scatter(
    rng: np.random.Generator,
    deposit: _Deposit,
    cells: int,
    debris: int,
    clustering: float,
    mpp: float,
    mix: Mapping[str, float],
) -> tuple[Floats, Floats, Ints]:
    """Centres x, y and kinds of the candidates, cells before debris."""
    weights = np.array([mix.get(name, 0.0) for name in CELL_KINDS])
    weights /= weights.sum()
    rest = np.array(list(DEBRIS_KINDS.values()))
    kind = rng.choice(len(weights), cells, p=weights)
    other = len(weights) + rng.choice(len(rest), debris, p=rest / rest.sum())
    place = deposit.draw(rng, cells + debris)
    clusters = max(1, cells // 14)
    cluster = rng.integers(0, clusters, cells)
    joins = np.flatnonzero(rng.random(cells) < clustering)
    middle = deposit.draw(rng, clusters)[cluster[joins]]
    spread = rng.uniform(12, 45, clusters)[cluster[joins]] / mpp
    place[joins] = middle + rng.normal(size=(len(joins), 2)) * spread[:, None]
    alike = joins[rng.random(len(joins)) < 0.7]  # a cluster is mostly of one kind
    kind[alike] = rng.choice(len(weights), clusters, p=weights)[cluster[alike]]
    return place[:, 0], place[:, 1], np.concatenate([kind, other])


def _choose(rng: np.random.Generator, bank: Bank, kind: Ints) -> Ints:
    """A sprite of each kind."""
    first = np.searchsorted(bank.kind, np.arange(len(CELL_KINDS) + len(DEBRIS_KINDS) + 1))
    return first[kind] + (rng.random(len(kind)) * np.diff(first)[kind]).astype(np.int64)


def _place(corner: Ints, circles: Floats, size: Ints, variant: Ints) -> Floats:
    """Slide positions (n, 3, 2) of the circles of mirrored sprites of `size` (width, height)."""
    at = circles[:, :, :2].copy()
    swap = variant & 4 == 4
    own = np.where(swap[:, None], size[:, ::-1], size)  # before x and y are swapped
    for axis in (0, 1):
        flip = (variant >> axis) & 1 == 1
        at[flip, :, axis] = own[flip, None, axis] - at[flip, :, axis]
    at[swap] = at[swap][..., ::-1]
    return at + corner[:, None]


def _outlines(
    bank: Bank, sprite: Ints, corner: Ints, size: Ints, variant: Ints
) -> NDArray[np.object_]:
    """The cells (n,) of mirrored sprites where they lie, as polygons."""
    begin, end = bank.ring_start[sprite, 0], bank.ring_start[sprite, 1]
    start = np.cumsum(end - begin) - (end - begin)
    cell = np.repeat(np.arange(len(sprite)), end - begin)
    points = bank.rings[np.arange(len(cell)) + (begin - start)[cell]]
    at = _place(corner[cell], points[:, None], size[cell], variant[cell])[:, 0]
    if len(at) == 0:
        return np.zeros(0, object)
    shapes = shapely.polygons(shapely.linearrings(at, indices=cell))
    return np.asarray(shapely.make_valid(shapes), object)


def _apart(shapes: NDArray[np.object_], limit: float) -> NDArray[np.bool_]:
    """Which polygons (n,) stay, in turn, when none may share more than `limit` of the smaller."""
    stays = np.ones(len(shapes), bool)
    later, earlier = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    later, earlier = later[earlier < later], earlier[earlier < later]
    area = shapely.area(shapes)
    shared = shapely.area(shapely.intersection(shapes[later], shapes[earlier]))
    over = shared > limit * np.minimum(area[later], area[earlier]) + 1e-6
    later, earlier = later[over], earlier[over]
    for i in np.argsort(later, kind="stable"):
        stays[later[i]] &= ~stays[earlier[i]]
    return stays


@njit(nogil=True, cache=True)
def _lens(distance: float, r: float, s: float) -> float:
    """Shared area of two circles over the smaller one's."""
    if distance >= r + s:
        return 0.0
    small, large = min(r, s), max(r, s)
    if distance <= large - small:
        return 1.0
    a = (distance * distance + small * small - large * large) / (2 * distance)
    b = distance - a
    area = small * small * math.acos(a / small) - a * math.sqrt(max(small * small - a * a, 0.0))
    area += large * large * math.acos(b / large) - b * math.sqrt(max(large * large - b * b, 0.0))
    return area / (math.pi * small * small)


@njit(nogil=True, cache=True)
def _crowds(a: Floats, ra: Floats, b: Floats, rb: Floats, cell_limit: float) -> bool:
    """Whether two cells, or any of their nuclei, share too much; circles as in `Bank`."""
    if _lens(math.hypot(a[0, 0] - b[0, 0], a[0, 1] - b[0, 1]), ra[0], rb[0]) > cell_limit:
        return True
    for i in range(1, 3):
        for j in range(1, 3):
            if ra[i] > 0 and rb[j] > 0:
                distance = math.hypot(a[i, 0] - b[j, 0], a[i, 1] - b[j, 1])
                if _lens(distance, ra[i], rb[j]) > _NUCLEUS_OVERLAP:
                    return True
    return False


@njit(nogil=True, cache=True)
def _accept(
    at: Floats,
    radius: Floats,
    fits: NDArray[np.bool_],
    wanted: int,
    reach: int,
    limits: tuple[float, float],
) -> Ints:
    """Indices of up to `wanted` candidates, in turn each that does not crowd an earlier one.

    `at` (n, 3, 2) and `radius` (n, 3) are circles as in `Bank`; `reach` is the largest sprite's
    side. Cells may share up to `limits[0]` of the smaller one, every sixth candidate up to
    `limits[1]`: small cells do lie wholly over others.
    """
    keep = np.zeros(wanted, np.int64)
    if len(at) == 0:
        return keep
    extent = np.zeros(len(at))  # of all three circles, from the middle of the cell's
    for i in range(len(at)):
        for k in range(3):
            away = math.hypot(at[i, k, 0] - at[i, 0, 0], at[i, k, 1] - at[i, 0, 1])
            if radius[i, k] > 0:
                extent[i] = max(extent[i], away + radius[i, k])
    columns = int(at[:, 0, 0].max()) // reach + 1
    rows = int(at[:, 0, 1].max()) // reach + 1
    head = np.full(rows * columns, -1, np.int64)  # blocks of `reach`, each a linked list
    follow = np.full(len(at), -1, np.int64)
    taken = 0
    for i in range(len(at)):
        if not fits[i]:
            continue
        if taken == wanted:
            break
        bx, by = int(at[i, 0, 0]) // reach, int(at[i, 0, 1]) // reach
        limit = limits[0] if i % 6 else limits[1]
        free = True
        for row in range(max(by - 1, 0), min(by + 2, rows)):
            for column in range(max(bx - 1, 0), min(bx + 2, columns)):
                j = head[row * columns + column]
                while j >= 0 and free:
                    dx, dy = at[i, 0, 0] - at[j, 0, 0], at[i, 0, 1] - at[j, 0, 1]
                    if dx * dx + dy * dy < (extent[i] + extent[j]) ** 2:
                        free = not _crowds(at[i], radius[i], at[j], radius[j], limit)
                    j = follow[j]
        if free:
            keep[taken] = i
            taken += 1
            follow[i] = head[by * columns + bx]
            head[by * columns + bx] = i
    return keep[:taken]
