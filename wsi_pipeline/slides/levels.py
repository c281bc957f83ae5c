"""Find out which reduced images of a file are levels of its pyramid, and their downsamples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from wsi_pipeline.core.geometry import Box
from wsi_pipeline.slides.readers import Level

__all__ = ["ROUNDING_PX", "Pyramid", "area_of", "fit_levels"]

ROUNDING_PX = 2
"""Largest difference between a side of a level and the slide's side ÷ downsample: 1 px each time
that a program halves an odd side."""
MAX_FACTOR = 4096


@dataclass(frozen=True)
class Pyramid:
    """The levels of a slide.

    Attributes
    ----------
    levels
        level 0 first; without the padding that fills up the last tiles
    kept
        position of each level in the list of sizes
    padded
        whether a level was padded to whole tiles
    notes
        which images were left out, for the user
    """

    levels: tuple[Level, ...]
    kept: tuple[int, ...]
    padded: bool
    notes: tuple[str, ...]


def fit_levels(
    sizes: Sequence[tuple[int, int]], tiles: Sequence[tuple[int, int] | None] | None = None
) -> Pyramid:
    """Return the levels among images of one file.

    The downsamples along both sides must agree. Where a side was padded to whole tiles, as in
    files of Philips, its ratio to the slide is too small: then the downsample is the whole number
    with which the level fits into these tiles. An image with neither is a picture of something
    else, for example of the label, and no level.

    Parameters
    ----------
    sizes
        width and height of each image; the first is level 0
    tiles
        width and height of its tiles, or None where it has none

    Examples
    --------
    >>> [level.downsample for level in fit_levels([(1999, 1501), (1000, 751), (499, 375)]).levels]
    [1.0, 2.0, 4.0]
    >>> fit_levels([(1999, 1501), (1024, 768)], [(256, 256)] * 2).levels[1]
    Level(width=1000, height=751, downsample=2.0)
    >>> fit_levels([(1999, 1501), (400, 400)]).notes
    ('image of 400 x 400 px left out: it has other proportions than the slide',)
    """
    levels, kept, notes, padded = [Level(*sizes[0], 1.0)], [0], [], False
    steps: list[float] = []
    for number, size in enumerate(sizes[1:], 1):
        tile = tiles[number] if tiles else None
        low, high, mean = _ratios(sizes[0], size)
        downsample = float(round(mean)) if low <= round(mean) <= high else None
        if downsample is None and tile is not None:
            downsample = _padded_factor(sizes[0], size, tile, levels[-1].downsample, steps)
            if downsample is not None:
                width, height = (math.ceil(whole / downsample) for whole in sizes[0])
                size, padded = (width, height), True
        if downsample is None and low <= mean <= high:
            downsample = mean
        if downsample is None or downsample <= levels[-1].downsample:
            notes.append(
                f"image of {size[0]} x {size[1]} px left out: "
                + ("it has other proportions than the slide" if downsample is None
                   else "a level of its size is there already")
            )  # fmt: skip
            continue
        steps.append(downsample / levels[-1].downsample)
        levels.append(Level(*size, downsample))
        kept.append(number)
    return Pyramid(tuple(levels), tuple(kept), padded, tuple(notes))


def _ratios(whole: tuple[int, int], size: tuple[int, int]) -> tuple[float, float, float]:
    """Return the least and largest downsample that explain both sides, and the mean ratio."""
    low, high = 0.0, math.inf
    for long, short in zip(whole, size, strict=True):
        low = max(low, long / (short + ROUNDING_PX))
        high = min(high, long / (short - ROUNDING_PX) if short > ROUNDING_PX else math.inf)
    return low, high, sum(long / short for long, short in zip(whole, size, strict=True)) / 2


def _padded_factor(
    whole: tuple[int, int],
    size: tuple[int, int],
    tile: tuple[int, int],
    before: float,
    steps: Sequence[float],
) -> float | None:
    """Return the whole-number downsample of a level that was padded to whole tiles, or None.

    A level of one or two tiles fits several numbers; then the level before decides.
    """
    if any(side % step for side, step in zip(size, tile, strict=True)):
        return None
    fitting = [
        factor
        for factor in range(2, MAX_FACTOR)
        if all(
            math.ceil(math.ceil(long / factor) / step) * step == side
            for long, side, step in zip(whole, size, tile, strict=True)
        )
    ]
    if len(fitting) > 1:
        wanted = before * (steps[-1] if steps else 2)
        fitting = [factor for factor in fitting if factor == wanted]
    return float(fitting[0]) if len(fitting) == 1 else None


def area_of(level: Level, bounds: Box, whole: Box) -> Box:
    """Return the part of a level that shows `bounds`; the whole level where they are `whole`."""
    full = Box(0, 0, level.width, level.height)
    if bounds == whole:
        return full
    edges = (bounds.x0, bounds.y0, bounds.x1, bounds.y1)
    return Box(*(round(edge / level.downsample) for edge in edges)).clip(full)
