"""Dense groups of cells and crowds of leukocytes, which `placement.py` lays among single cells.

A hyperchromatic crowded group is several sheets of small cells over each other, so that the
outlines of its nuclei overlap. Each sheet is a hexagonal grid whose points are moved at random.
"""

from __future__ import annotations

import math

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.synthetic.deposit import Deposit
from wsi_pipeline.synthetic.looks import Scene
from wsi_pipeline.synthetic.real_kinds import GROUP_KINDS, LEUKOCYTES
from wsi_pipeline.synthetic.sprites import Bank

__all__ = ["crowd"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def crowd(
    rng: np.random.Generator,
    deposit: Deposit,
    bank: Bank,
    scene: Scene,
    single: tuple[Floats, Ints],
    grouped: int,
) -> tuple[Floats, Ints, NDArray[np.bool_]]:
    """Add the cells of dense groups after the candidates, and crowd leukocytes together.

    Returns
    -------
    place, kind, blocked
        centres (n, 2) and kinds (n,); which candidates are cells that lie in a dense group
    """
    place, kind = single
    blocked = np.zeros(len(kind), bool)
    if scene.leukocyte_crowds:
        _gather_leukocytes(rng, deposit, bank, scene, place, kind)
    if grouped:
        more, own, discs = _dense_groups(rng, deposit, bank, grouped)
        blocked = _in_groups(place, discs) & (kind < len(bank.look.cells))
        place, kind = np.concatenate([place, more]), np.concatenate([kind, own])
        blocked = np.concatenate([blocked, np.zeros(len(own), bool)])
    if scene.streaks:
        _pull_into_streaks(rng, scene, bank.mpp, place)
    return place, kind, blocked


def _dense_groups(
    rng: np.random.Generator, deposit: Deposit, bank: Bank, count: int
) -> tuple[Floats, Ints, Floats]:
    """Draw dense groups of about `count` cells in all.

    Returns
    -------
    place, kind, discs
        centres (n, 2) in pixels and kinds (n,) of the cells; centre and radius (groups, 3)
    """
    names = list(bank.look.cells)
    weights = np.array(list(GROUP_KINDS.values()))
    places, kinds, discs = [np.zeros((0, 2))], [np.zeros(0, np.int64)], [np.zeros((0, 3))]
    taken = 0
    while taken < count:
        name = str(rng.choice(list(GROUP_KINDS), p=weights / weights.sum()))
        kind = names.index(name)
        nucleus_px = 2 * float(np.median(bank.circles[bank.kind == kind, 1, 2]))
        members = int(np.clip(rng.lognormal(math.log(22), 0.7), 5, 150))
        sheets = int(rng.choice([1, 2, 3], p=[0.45, 0.45, 0.1]))
        step = nucleus_px * rng.uniform(0.95, 1.6) * sheets**0.25
        reach = step * math.sqrt(members / sheets / math.pi) * 1.05
        middle = deposit.draw(rng, 1)[0]
        turn, aspect = rng.uniform(0, math.pi), math.sqrt(rng.uniform(1, 2.6))
        at = np.concatenate([_sheet(rng, step, reach, aspect, turn) for _ in range(sheets)])
        places.append(at + middle)
        kinds.append(np.full(len(at), kind))
        discs.append(np.array([[*middle, reach]]))
        taken += len(at)
    return np.concatenate(places), np.concatenate(kinds), np.concatenate(discs)


def _sheet(
    rng: np.random.Generator, step: float, reach: float, aspect: float, turn: float
) -> Floats:
    """Draw the centres (n, 2) of one sheet of cells around the origin, with a ragged border."""
    n = math.ceil(1.5 * reach / step) + 1
    column, row = np.meshgrid(np.arange(-n, n + 1.0), np.arange(-n, n + 1.0))
    grid = np.stack([column + row % 2 / 2, row * math.sqrt(0.75)], -1).reshape(-1, 2) * step
    grid += rng.uniform(-0.5, 0.5, 2) * step + rng.normal(0, 0.17 * step, grid.shape)
    angle = np.arctan2(grid[:, 1], grid[:, 0])
    border = 1 + sum(0.16 * np.cos(k * angle + rng.uniform(0, 7)) for k in (2, 3, 5))
    grid = grid[np.hypot(*grid.T) < reach * border] * [aspect, 1 / aspect]
    c, s = math.cos(turn), math.sin(turn)
    return np.asarray(grid @ np.array([[c, s], [-s, c]]))


def _in_groups(place: Floats, discs: Floats) -> NDArray[np.bool_]:
    """Return which places (n, 2) lie in the middle part of a dense group."""
    tree = shapely.STRtree(shapely.points(discs[:, :2]).reshape(-1))
    which, disc = tree.query(
        shapely.points(place), predicate="dwithin", distance=float(discs[:, 2].max(initial=0))
    )
    near = np.hypot(*(place[which] - discs[disc, :2]).T) < discs[disc, 2] * 0.8
    inside = np.zeros(len(place), bool)
    inside[which[near]] = True
    return inside


def _gather_leukocytes(
    rng: np.random.Generator, deposit: Deposit, bank: Bank, scene: Scene, place: Floats, kind: Ints
) -> None:
    """Move a share of the leukocytes, in place, into crowds of 10 to 300."""
    look = bank.look
    own = [len(look.cells) + look.debris.index(n) for n in LEUKOCYTES if n in look.debris]
    moved = np.flatnonzero(np.isin(kind, own) & (rng.random(len(kind)) < scene.leukocyte_crowds))
    at = 0
    while at < len(moved):
        members = moved[at : at + int(rng.lognormal(math.log(45), 0.8)) + 10]
        spread = rng.uniform(4.5, 9.0) * math.sqrt(len(members)) / 2 / bank.mpp
        turn, aspect = rng.uniform(0, math.pi), rng.uniform(1, 2.2)
        c, s = math.cos(turn), math.sin(turn)
        offset = rng.normal(size=(len(members), 2)) * [spread * aspect, spread / aspect]
        place[members] = deposit.draw(rng, 1)[0] + offset @ np.array([[c, s], [-s, c]])
        at += len(members)


def _pull_into_streaks(rng: np.random.Generator, scene: Scene, mpp: float, place: Floats) -> None:
    """Move places (n, 2), in place, towards parallel stripes, as the smear of a spatula has them.

    The density across the stripes becomes about 1 ÷ (1 + streaks × cos), so that no place is empty.
    """
    across = np.array([-math.sin(scene.direction), math.cos(scene.direction)])
    period = rng.uniform(60, 200) / mpp
    phase = (place @ across) * (2 * math.pi / period) + rng.uniform(0, 7)
    shift = scene.streaks * np.sin(phase) * period / (2 * math.pi)
    place += shift[:, None] * across
