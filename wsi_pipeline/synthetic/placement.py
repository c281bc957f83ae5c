"""Place the cells of a synthetic slide, all at once, before any pixel is painted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import shapely
from numba import njit
from numpy.typing import NDArray

from wsi_pipeline.core.errors import ConfigError
from wsi_pipeline.synthetic.crowds import crowd
from wsi_pipeline.synthetic.deposit import Deposit
from wsi_pipeline.synthetic.looks import Look, LookName, Scene, find_look
from wsi_pipeline.synthetic.sprites import Bank
from wsi_pipeline.synthetic.stains import Stain, Style, draw_real_style, draw_style

__all__ = ["BIN_PX", "SlidePlan", "check_seed", "plan_slide"]

BIN_PX = 512
"""Side of the blocks by which sprites are sorted."""
SPRITES = 384
"""About how many sprites are painted for a slide; each is used many times."""
_MEGAPIXEL_UM2 = 250.0**2
"""Area of a million pixels at 0.25 µm per pixel."""
MOST_PX = 500_000
"""Longest side of a slide; scanners write less than half of it."""
_NUCLEUS_OVERLAP, _CELL_OVERLAP = 0.12, 0.5
"""Largest shared area ÷ area of the smaller one, where both are taken as circles."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SlidePlan:
    """All sprites of a slide, n cells and pieces of debris, and where they lie.

    Attributes
    ----------
    width, height
        level-0 pixels
    mpp
        µm per pixel
    seed
        seed of all random numbers
    style, bank
        stain and light; the sprites
    x, y
        int64 (n,): left and top of each sprite's box
    sprite
        int64 (n,): position in `bank`
    variant
        int64 (n,): bit 0 mirrors x, bit 1 mirrors y, bit 2 then swaps x and y
    bin_start
        int64 (blocks + 1,): position of the first sprite of each block of `BIN_PX`, row by row; a
        sprite belongs to the block with its left top corner
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
        """int64 (cells,): positions of the cells among the sprites."""
        return np.flatnonzero(self.bank.kind[self.sprite] < len(self.bank.look.cells))

    @property
    def nucleus_cell(self) -> Ints:
        """int64 (nuclei,): position in `cells` of the cell that holds each nucleus."""
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
    look: LookName = "plain",
    scene: Scene | None = None,
) -> SlidePlan:
    """Place all cells of a slide; the same arguments give the same slide.

    Parameters
    ----------
    width, height
        level-0 pixels
    mpp
        µm per pixel
    seed
        seed of all random numbers
    tissue
        share of the slide that is covered by cells and debris, 0 to 1
    density
        nuclei per 62 500 µm² of the covered area (a megapixel at 0.25 µm)
    clustering
        share of the cells that lie in clusters, 0 to 1
    mix
        kind of cell → weight; the shares of the look's kinds if not given
    max_overlap
        largest shared area of two cells ÷ area of the smaller one, 0 to 1; fewer cells fit then.
        If not given: 0.5 of cells taken as circles, and every sixth cell may lie wholly over
        another
    stain
        see `draw_style`; used where `style` is not given
    style, bank
        style and sprites to use for several slides; drawn from `seed` if not given
    look
        ``plain``, or ``real``: more kinds of cells and debris, stains of real fields; that of
        `bank` where it is given
    scene
        debris, dense groups, crowds and streaks; the look's usual ones if not given

    Raises
    ------
    ConfigError
        a size, `mpp`, share, look or kind of cell is not possible
    """
    kinds = bank.look if bank else find_look(look)
    scene = scene or kinds.scene
    mix = mix if mix is not None else {name: kind.share for name, kind in kinds.cells.items()}
    _check(width, height, mpp, tissue, density, clustering, max_overlap)
    check_seed(seed)
    _check_mix(mix, kinds)
    rng = np.random.default_rng([seed, width, height, round(mpp * 1e6)])
    style = style or (draw_style(rng, stain) if kinds.name == "plain" else draw_real_style(rng))
    bank = bank or Bank.paint(mpp, style, count=SPRITES, seed=seed, look=kinds)
    area = width * height * mpp**2 / _MEGAPIXEL_UM2
    wanted = round(area * tissue * density / 1.04)  # one cell in 25 has two nuclei
    spare = 3 * wanted  # many do not find room
    debris = round(wanted * sum(scene.litter.values()))
    deposit = Deposit(rng, width, height, tissue)
    place, kind = _scatter(rng, deposit, (spare, debris), clustering, bank, mix, scene)
    grouped = round(wanted * scene.groups) if max_overlap is None else 0
    place, kind, blocked = crowd(rng, deposit, bank, scene, (place, kind), grouped)
    sprite = _choose(rng, bank, kind)
    variant: Ints = rng.integers(0, 8, len(kind))
    size = np.where((variant & 4 == 4)[:, None], bank.shape[sprite], bank.shape[sprite][:, ::-1])
    corner = np.round(place - size / 2).astype(np.int64)
    fits: NDArray[np.bool_] = np.all((corner >= 0) & (corner + size <= [width, height]), axis=1)
    fits &= ~blocked
    at = _place(corner, bank.circles[sprite], size, variant)
    radius = bank.circles[sprite][:, :, 2]
    limits = (_CELL_OVERLAP, 1.0) if max_overlap is None else (max_overlap, max_overlap)
    reach = int(bank.shape.max())
    free = _accept(at[:spare], radius[:spare], fits[:spare], wanted - grouped, reach, limits)
    if max_overlap is not None:  # circles are not enough for a promise
        own = sprite[free], corner[free], size[free], variant[free]
        free = free[_apart(_outlines(bank, *own), max_overlap)]
    keep = np.concatenate([free, spare + np.flatnonzero(fits[spare:])])
    order, bin_start = _by_block(corner[keep], width, height)
    keep = keep[order]
    x, y = np.ascontiguousarray(corner[keep].T)
    return SlidePlan(
        width=width, height=height, mpp=mpp, seed=seed, style=style, bank=bank,
        x=x, y=y, sprite=sprite[keep], variant=variant[keep], bin_start=bin_start,
    )  # fmt: skip


def check_seed(seed: int) -> None:
    """Raise a `ConfigError` for a seed that no generator of random numbers takes."""
    if seed < 0:
        raise ConfigError(f"the seed must be 0 or more, got {seed}")


def _check(
    width: int,
    height: int,
    mpp: float,
    tissue: float,
    density: float,
    clustering: float,
    max_overlap: float | None,
) -> None:
    if not 0.05 <= mpp <= 2 or min(width, height) * mpp < 64:
        raise ConfigError(
            f"a slide needs at least 64 µm a side and an mpp of 0.05 to 2, got {width} × {height} "
            f"px at {mpp} µm per px"
        )
    if max(width, height) > MOST_PX:
        raise ConfigError(f"a slide has at most {MOST_PX} px a side, got {width} × {height}")
    if not (0 <= tissue <= 1 and 0 <= clustering <= 1 and 0 <= density <= 400):
        raise ConfigError(
            f"tissue {tissue} and clustering {clustering} must be between 0 and 1, "
            f"density {density} between 0 and 400"
        )
    if max_overlap is not None and not 0 <= max_overlap <= 1:
        raise ConfigError(f"max_overlap must be between 0 and 1, got {max_overlap:g}")


def _check_mix(mix: Mapping[str, float], look: Look) -> None:
    known = look.cells
    if not set(mix) <= set(known) or min(mix.values(), default=0) < 0 or not any(mix.values()):
        raise ConfigError(
            f"mix {dict(mix)} must have weights, not negative, of some of {', '.join(known)}"
        )


def _scatter(
    rng: np.random.Generator,
    deposit: Deposit,
    counts: tuple[int, int],
    clustering: float,
    bank: Bank,
    mix: Mapping[str, float],
    scene: Scene,
) -> tuple[Floats, Ints]:
    """Draw centres and kinds of the candidates: as many cells, then pieces of debris, as given."""
    cells, debris = counts
    weights = np.array([mix.get(name, 0.0) for name in bank.look.cells])
    weights /= weights.sum()
    rest = np.array([scene.litter.get(name, 0.0) for name in bank.look.debris])
    kind = rng.choice(len(weights), cells, p=weights)
    other = len(weights) + rng.choice(len(rest), debris, p=rest / rest.sum())
    place = deposit.draw(rng, cells + debris)
    clusters = max(1, cells // 14)
    cluster = rng.integers(0, clusters, cells)
    joins = np.flatnonzero(rng.random(cells) < clustering)
    middle = deposit.draw(rng, clusters)[cluster[joins]]
    spread = rng.uniform(12, 45, clusters)[cluster[joins]] / bank.mpp
    place[joins] = middle + rng.normal(size=(len(joins), 2)) * spread[:, None]
    alike = joins[rng.random(len(joins)) < 0.7]  # a cluster is mostly of one kind
    kind[alike] = rng.choice(len(weights), clusters, p=weights)[cluster[alike]]
    return place, np.concatenate([kind, other])


def _by_block(corner: Ints, width: int, height: int) -> tuple[Ints, Ints]:
    """Return the order of corners (n, 2) by blocks of `BIN_PX`, and where each block begins."""
    columns, rows = -(-width // BIN_PX), -(-height // BIN_PX)
    bins = corner[:, 1] // BIN_PX * columns + corner[:, 0] // BIN_PX
    count = np.bincount(bins, minlength=columns * rows)
    starts = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    return np.argsort(bins, kind="stable"), starts


def _choose(rng: np.random.Generator, bank: Bank, kind: Ints) -> Ints:
    """Draw a sprite for each kind."""
    first = np.searchsorted(bank.kind, np.arange(len(bank.look.cells) + len(bank.look.debris) + 1))
    return first[kind] + (rng.random(len(kind)) * np.diff(first)[kind]).astype(np.int64)


def _place(corner: Ints, circles: Floats, size: Ints, variant: Ints) -> Floats:
    """Return slide positions (n, 3, 2) of the circles of mirrored sprites, size (width, height)."""
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
    """Return the cells (n,) of mirrored sprites as polygons on the slide."""
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
    """Return which polygons (n,) to keep so that none share more than `limit` of the smaller."""
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
    """Return the shared area of two circles ÷ the area of the smaller one.

    The lens is two circular segments: each is the sector r² acos(a/r) without the triangle
    a √(r² − a²), where a is the distance from the centre to the common chord.
    """
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
    """Return whether two cells, or any of their nuclei, share too much; circles as in `Bank`."""
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
    """Return up to `wanted` candidates, each of which shares little with all earlier ones.

    `at` (n, 3, 2) and `radius` (n, 3) are circles as in `Bank`; `reach` is the side of the largest
    sprite. Cells may share up to `limits[0]` of the smaller one. Every sixth candidate may share up
    to `limits[1]`, because small cells lie wholly over others on real slides.

    Candidates are kept in blocks of side `reach`, each a linked list, so that a candidate is
    compared with those of nine blocks only.
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
