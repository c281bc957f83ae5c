"""Pixels and outlines of a planned synthetic slide.

By the law of Beer and Lambert, a pixel is light × exp(−sum of the optical densities of all cells
over it). The sum does not depend on the order of the cells, so a window has the same pixels however
the slide is tiled, and a slide of any size needs the memory of its plan only.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import numpy as np
from numba import njit
from numpy.typing import NDArray

from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.ids import uuids
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.synthetic.cell_painter import OD_STEPS
from wsi_pipeline.synthetic.placement import BIN_PX, Ints, SlidePlan

__all__ = [
    "PERIOD_PX",
    "densities",
    "expose",
    "render",
    "truth_cells",
    "truth_kinds",
    "truth_leukocytes",
    "truth_objects",
]

PERIOD_PX = 1024
"""Side of a camera field, a power of two. A scanner joins such fields: shading and noise, and so
the pixels of empty glass, repeat with this period."""


def render(plan: SlidePlan, box: Box) -> NDArray[np.uint8]:
    """Return the RGB pixels (h, w, 3) of a window; beyond the border of the slide lies glass."""
    return expose(plan, densities(plan, box), box)


def densities(plan: SlidePlan, box: Box) -> NDArray[np.uint16] | None:
    """Return the summed optical density × `OD_STEPS` (h, w, 3) of a window; None if it is empty."""
    canvas = np.zeros((box.height, box.width, 3), np.uint16)
    bank = plan.bank
    met = _lay(
        canvas,
        (box.x0, box.y0, box.x1, box.y1),
        (-(-plan.width // BIN_PX), -(-plan.height // BIN_PX)),
        int(bank.shape.max()),
        (plan.x, plan.y, plan.sprite, plan.variant),
        plan.bin_start,
        (bank.pixels, bank.start, bank.shape),
    )
    return canvas if met else None


def expose(plan: SlidePlan, canvas: NDArray[np.uint16] | None, box: Box) -> NDArray[np.uint8]:
    """Return the camera's RGB pixels (h, w, 3) of a window's densities; of glass for None."""
    if canvas is None:
        canvas = np.zeros((box.height, box.width, 3), np.uint16)
    light, noise, transmittance = _camera(plan.seed, plan.style.noise, plan.style.shade)
    out = np.empty(canvas.shape, np.uint8)
    white = np.array(plan.style.white, np.float32)
    _expose(canvas, box.x0, box.y0, light, white, transmittance, noise, out)
    return out


@functools.lru_cache(maxsize=4)
def _camera(
    seed: int, noise: float, shade: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return one period of the shading (by column or row), one of the noise, and exp(−od)."""
    rng = np.random.default_rng([seed, 99])
    t = np.arange(PERIOD_PX) * (2 * math.pi / PERIOD_PX)
    light = (1 - shade / 4 * (1 - np.cos(t))).astype(np.float32)
    # A colour sensor interpolates between its channels, so they have half of the noise in common.
    square = (PERIOD_PX, PERIOD_PX)
    grain = rng.standard_normal((*square, 3), np.float32)
    grain = (grain + rng.standard_normal((*square, 1), np.float32)) * np.float32(0.7 * noise)
    transmittance = np.exp(-np.arange(6 * OD_STEPS) / OD_STEPS).astype(np.float32)
    return light, grain, transmittance


@njit(nogil=True, cache=True)
def _lay(
    canvas: NDArray[np.uint16],
    box: tuple[int, int, int, int],
    bins: tuple[int, int],
    reach: int,
    sprites: tuple[Ints, Ints, Ints, Ints],
    bin_start: Ints,
    bank: tuple[NDArray[np.uint16], Ints, Ints],
) -> int:
    """Add the densities of all sprites in `box` to the canvas; return their number."""
    x0, y0, x1, y1 = box
    columns, rows = bins
    met = 0
    for by in range(max((y0 - reach) // BIN_PX, 0), min((y1 - 1) // BIN_PX + 1, rows)):
        for bx in range(max((x0 - reach) // BIN_PX, 0), min((x1 - 1) // BIN_PX + 1, columns)):
            for k in range(bin_start[by * columns + bx], bin_start[by * columns + bx + 1]):
                met += _stamp(canvas, x0, y0, x1, y1, k, sprites, bank)
    return met


@njit(nogil=True, cache=True)
def _stamp(
    canvas: NDArray[np.uint16],
    x0: int,
    y0: int,
    x1: int,
    y1: int,
    k: int,
    sprites: tuple[Ints, Ints, Ints, Ints],
    bank: tuple[NDArray[np.uint16], Ints, Ints],
) -> int:
    """Add sprite k to the canvas; return 1 if it lies in the window, else 0."""
    xs, ys, which, variants = sprites
    pixels, start, shape = bank
    x, y, s, v = xs[k], ys[k], which[k], variants[k]
    h, w = shape[s]
    dx, dy = 3, 3 * w  # steps in the sprite per column and row of the slide
    first = start[s]
    if v & 1:
        first += dx * (w - 1)
        dx = -dx
    if v & 2:
        first += dy * (h - 1)
        dy = -dy
    if v & 4:
        dx, dy = dy, dx
        h, w = w, h
    left, right = max(x, x0), min(x + w, x1)
    top, bottom = max(y, y0), min(y + h, y1)
    if left >= right or top >= bottom:
        return 0
    for j in range(top, bottom):
        p = first + (j - y) * dy + (left - x) * dx
        for i in range(left - x0, right - x0):
            canvas[j - y0, i, 0] += pixels[p]
            canvas[j - y0, i, 1] += pixels[p + 1]
            canvas[j - y0, i, 2] += pixels[p + 2]
            p += dx
    return 1


@njit(nogil=True, cache=True)
def _expose(
    canvas: NDArray[np.uint16],
    x0: int,
    y0: int,
    light: NDArray[np.float32],
    white: NDArray[np.float32],
    transmittance: NDArray[np.float32],
    noise: NDArray[np.float32],
    out: NDArray[np.uint8],
) -> None:
    """Put light × transmittance + noise into `out`, rounded to 0 … 255."""
    wrap = noise.shape[0] - 1
    last = len(transmittance) - 1
    for j in range(canvas.shape[0]):
        row = (y0 + j) & wrap
        for i in range(canvas.shape[1]):
            column = (x0 + i) & wrap
            here = light[column] * light[row]
            for c in range(3):
                through = transmittance[min(canvas[j, i, c], last)]
                value = here * white[c] * through + noise[row, column, c]
                out[j, i, c] = np.uint8(min(max(value + np.float32(0.5), 0), 255))


def truth_objects(plan: SlidePlan) -> tuple[Objects, Objects]:
    """Return all nuclei and all cells of a plan, whole where other cells lie over them too.

    Nuclei have the order of their cells; `SlidePlan.nucleus_cell` gives the cell of each.
    """
    cells = plan.cells
    rings = plan.bank.ring_start[plan.sprite[cells]]
    outer = _trace(plan, cells, rings[:, 0], rings[:, 1], "cell")
    begin, end = rings[:, 1:3], rings[:, 2:4]
    real = end > begin
    owner = np.repeat(cells, real.sum(1))
    return _trace(plan, owner, begin[real], end[real], "nucleus"), outer


def truth_cells(plan: SlidePlan) -> Objects:
    """Return the same cells and nuclei in one list, with classes "cell", "nucleus" and `parent`.

    The cells come first, so that `SlidePlan.nucleus_cell` holds for the whole list.
    """
    nuclei, cells = truth_objects(plan)
    names = ("cell", "nucleus")
    parts = [replace(cells, classes=names), replace(nuclei, classes=names)]
    parts[1] = replace(parts[1], class_index=np.ones(len(nuclei), np.uint8))
    apart = np.full(len(cells), -1, np.int64)
    return replace(Objects.concatenate(parts), parent=np.concatenate([apart, plan.nucleus_cell]))


def truth_leukocytes(plan: SlidePlan) -> Objects:
    """Return the nuclei of all leukocytes of a plan; there are none in the look "plain"."""
    own = _leukocytes(plan)
    rings = plan.bank.ring_start[plan.sprite[own]]
    return _trace(plan, own, rings[:, 0], rings[:, 1], "leukocyte_nucleus")


def truth_kinds(plan: SlidePlan) -> tuple[list[str], list[str]]:
    """Return the name of the kind of each cell, and of each leukocyte, in the truth's order."""
    look = plan.bank.look
    names = [*look.cells, *look.debris]
    kind = plan.bank.kind[plan.sprite]
    return [names[k] for k in kind[plan.cells]], [names[k] for k in kind[_leukocytes(plan)]]


def _leukocytes(plan: SlidePlan) -> Ints:
    """Return which sprites of a plan are leukocytes: debris with an outline."""
    rings = plan.bank.ring_start[plan.sprite]
    kind = plan.bank.kind[plan.sprite]
    return np.flatnonzero((kind >= len(plan.bank.look.cells)) & (rings[:, 1] > rings[:, 0]))


def _trace(plan: SlidePlan, owner: Ints, begin: Ints, end: Ints, name: str) -> Objects:
    """Return objects from the bank's vertices ``begin:end``, moved to their places on the slide."""
    n = len(owner)
    if n == 0:
        return Objects.empty((name,))
    count = end - begin
    offsets = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    coords = plan.bank.rings[np.arange(offsets[-1]) + np.repeat(begin - offsets[:-1], count)]
    size = plan.bank.shape[plan.sprite[owner]][:, ::-1]
    for axis in (0, 1):
        flip = np.repeat((plan.variant[owner] >> axis) & 1 == 1, count)
        coords[flip, axis] = np.repeat(size[:, axis], count)[flip] - coords[flip, axis]
    swap = np.repeat(plan.variant[owner] & 4 == 4, count)
    coords[swap] = coords[swap][:, ::-1]
    coords += np.repeat(np.stack([plan.x[owner], plan.y[owner]], 1), count, axis=0)
    return Objects(
        classes=(name,),
        ids=_ids(plan, name, n),
        class_index=np.zeros(n, np.uint8),
        score=np.ones(n, np.float32),
        coords=np.round(coords, 2),
        ring_offsets=offsets,
        object_offsets=np.arange(n + 1, dtype=np.int64),
    )


def _ids(plan: SlidePlan, name: str, count: int) -> NDArray[np.uint64]:
    """Return UUIDs (count, 2) from the plan, the class and the object's number."""
    state = np.random.SeedSequence([plan.seed, plan.width, plan.height, *name.encode()])
    step = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return uuids(state.generate_state(2, np.uint64) + step[:, None])
