"""Two measurements against each other: dots, or hexagons coloured by count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.numbers import grouped
from wsi_pipeline.reports.density_map import ramp
from wsi_pipeline.reports.templates import Tick, round_up

__all__ = ["PLOT_HEIGHT", "PLOT_WIDTH", "Axis", "Mark", "Plot", "plot"]

PLOT_WIDTH, PLOT_HEIGHT = 420, 300
"""Size of the area of a plot in pixels; html/parts.html has the same figures."""
MOST_DOTS = 600
"""With more objects, hexagons are drawn."""
_HEXAGON_PX, _LEVELS = 5.0, 8
_TAIL = 0.002
Points = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Mark:
    """Shapes of one colour.

    Attributes
    ----------
    polygons
        vertices in pixels, each (k, 2)
    color
        as in CSS
    title
        what the colour means
    """

    polygons: Sequence[Points]
    color: str
    title: str

    @property
    def path(self) -> str:
        """The shapes as an SVG path."""
        return _path(self.polygons)


@dataclass(frozen=True)
class Axis:
    """Name, range of values, and ticks in pixels; values beyond lie on the border."""

    label: str
    low: float
    high: float
    ticks: tuple[Tick, ...]


@dataclass(frozen=True, eq=False)
class Plot:
    """A plot as html/parts.html draws it.

    Attributes
    ----------
    count
        number of objects
    gate
        vertices of the gate in pixels (k, 2), or None
    """

    x: Axis
    y: Axis
    marks: tuple[Mark, ...]
    count: int
    gate: Points | None

    @property
    def gate_path(self) -> str | None:
        """The gate as an SVG path."""
        return None if self.gate is None else _path([self.gate])


def plot(
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    labels: tuple[str, str],
    gate: Points | None = None,
) -> Plot:
    """Return the plot of finite `x` and `y`, each (n,).

    Parameters
    ----------
    labels
        names of x and y
    gate
        vertices (k, 2) in the units of x and y
    """
    right = _axis(labels[0], x, PLOT_WIDTH)
    up = _axis(labels[1], y, PLOT_HEIGHT)
    place = _pixels(np.stack([x, y], 1).astype(np.float64), right, up)
    dots = len(place) <= MOST_DOTS
    marks = tuple(_dots(place) if dots else _hexagons(place))
    drawn = None if gate is None else _pixels(gate, right, up)
    return Plot(right, up, marks, len(place), drawn)


def _path(polygons: Iterable[Points]) -> str:
    return "".join(
        "M" + " ".join(f"{px:.1f} {py:.1f}" for px, py in points.tolist()) + "Z"
        for points in polygons
    )


def _axis(label: str, values: NDArray[np.floating], length: int) -> Axis:
    """Return an axis that holds all values but the 0.2 % at each end, or 0 to 1 for shares."""
    if len(values) == 0:
        low, high, beyond = 0.0, 1.0, False
    else:
        least, most = np.quantile(values, (_TAIL, 1 - _TAIL)).tolist()
        low = -round_up(-least) if least < 0 else 0.0
        high = round_up(most) if most > 0 else 0.0
        high = high if high > low else low + 1.0
        beyond = bool((values > high).any())
    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    texts = [f"{low + share * (high - low):.4g}" for share in shares]
    if beyond:
        texts[-1] += "+"
    anchors = ("start", "middle", "middle", "middle", "end")
    ticks = (Tick(s * length, a, t) for s, a, t in zip(shares, anchors, texts, strict=True))
    return Axis(label.replace("^2", "²"), low, high, tuple(ticks))


def _pixels(points: Points, x: Axis, y: Axis) -> Points:
    """Return points in pixels from the upper left corner; those beyond the axes on the border."""
    low, high = np.array([x.low, y.low]), np.array([x.high, y.high])
    share = np.clip((points - low) / (high - low), 0, 1)
    return np.stack([share[:, 0] * PLOT_WIDTH, (1 - share[:, 1]) * PLOT_HEIGHT], 1)


def _dots(place: Points) -> Iterator[Mark]:
    angle = np.arange(8) * np.pi / 4
    ring = 2.4 * np.stack([np.cos(angle), np.sin(angle)], 1)
    if len(place):
        yield Mark([ring + point for point in place], ramp(3)[1], "one object each")


def _hexagons(place: Points) -> Iterator[Mark]:
    """Yield the hexagons of each colour, from few to many objects; colours are logarithmic."""
    middles, counts = _binned(place)
    angle = np.arange(6) * np.pi / 3 + np.pi / 6
    ring = _HEXAGON_PX * np.stack([np.cos(angle), np.sin(angle)], 1)
    level = np.floor(_LEVELS * np.log(counts) / np.log(counts.max() + 1)).astype(int)
    for k, color in enumerate(ramp(_LEVELS)):
        own = level == k
        if own.any():
            few, many = int(counts[own].min()), int(counts[own].max())
            title = grouped(few) if few == many else f"{grouped(few)} to {grouped(many)}"
            yield Mark([ring + m for m in middles[own]], color, f"{title} objects per hexagon")


def _binned(place: Points) -> tuple[Points, NDArray[np.int64]]:
    """Return the middles of the hexagons that hold points, (k, 2), and their counts (k,)."""
    step = np.array([np.sqrt(3), 3.0]) * _HEXAGON_PX  # of each of two interlaced rectangular grids
    first = np.round(place / step) * step
    second = (np.floor(place / step) + 0.5) * step
    nearer = ((place - first) ** 2).sum(1) <= ((place - second) ** 2).sum(1)
    middles, counts = np.unique(np.where(nearer[:, None], first, second).round(3), axis=0,
                                return_counts=True)  # fmt: skip
    return middles, counts.astype(np.int64)
