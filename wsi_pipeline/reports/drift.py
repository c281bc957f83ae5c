"""How the numbers of a laboratory's slides change from slide to slide: control charts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.reports.robust import OUTLIER_Z, centre_and_spread
from wsi_pipeline.reports.templates import shown

__all__ = ["LEAST_BEFORE", "RUN_LENGTH", "WINDOW", "Chart", "Dot", "chart", "judge"]

WINDOW, LEAST_BEFORE = 30, 12
"""A slide is compared with at most so many slides before it, and with at least so many."""
RUN_LENGTH = 9
"""So many slides in a row on one side of the median are a drift (Nelson 1984).

With these figures 100 slides of a laboratory that does not change have 0.6 slides outside the
limits and 0.1 drifts per chart; a change by 1.5 standard deviations is noticed within 16 slides in
two thirds of 150 trials (normal distribution).
"""
CHART_WIDTH, CHART_HEIGHT = 760, 150
"""Size of a chart in pixels; html/cohort.html has the same figures."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Dot:
    """One slide on a chart: place in pixels, name and value, and why it is marked."""

    x: float
    y: float
    text: str
    why: str


@dataclass(frozen=True)
class Chart:
    """A control chart as html/cohort.html draws it.

    Attributes
    ----------
    low, high
        values at the lower and the upper border
    middle, band
        SVG paths of the running median, and of the limits around it
    marked
        slides that are out of the limits or part of a drift, in words
    """

    title: str
    low: str
    high: str
    dots: tuple[Dot, ...]
    middle: str
    band: str
    marked: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Judged:
    """For each slide the median and the spread of those before it, NaN for the first ones.

    Attributes
    ----------
    outside
        bool (n,): further than `OUTLIER_Z` spreads from the median
    drifting
        bool (n,): at least the `RUN_LENGTH`-th slide in a row on one side of the median
    """

    centre: Floats
    spread: Floats
    outside: NDArray[np.bool_]
    drifting: NDArray[np.bool_]


def judge(values: Floats) -> Judged:
    """Compare each value with the `WINDOW` values before it.

    Parameters
    ----------
    values
        finite, (n,), in order

    Examples
    --------
    >>> judged = judge(np.array([1, 2, 3, 2, 1, 2, 3, 2, 1, 2, 3, 2, 9], np.float64))
    >>> judged.outside.tolist()[-2:], float(judged.centre[-1])
    ([False, True], 2.0)
    """
    n = len(values)
    centre, spread = np.full((2, n), np.nan)
    for i in range(LEAST_BEFORE, n):
        centre[i], spread[i] = centre_and_spread(values[max(0, i - WINDOW) : i])
    with np.errstate(invalid="ignore"):
        outside = (spread > 0) & (np.abs(values - centre) > OUTLIER_Z * spread)
        side = np.nan_to_num(np.sign(values - centre))
    drifting = np.zeros(n, np.bool_)
    run = 0
    for i in range(n):
        run = run + 1 if i and side[i] == side[i - 1] else 1
        drifting[i] = side[i] != 0 and run >= RUN_LENGTH
    return Judged(centre, spread, outside, drifting)


def chart(title: str, names: Sequence[str], values: Floats, texts: Sequence[str]) -> Chart:
    """Return the control chart of one number of slides in order.

    Parameters
    ----------
    names, values, texts
        slides, their finite values (n,), and these as text
    """
    judged = judge(values)
    known = np.isfinite(judged.centre)
    reach = OUTLIER_Z * judged.spread[known]
    seen = np.concatenate([values, judged.centre[known] - reach, judged.centre[known] + reach])
    low, high = float(seen.min()), float(seen.max())
    if high <= low:
        low, high = low - 1, high + 1
    x = (np.arange(len(values)) + 0.5) / len(values) * CHART_WIDTH

    def y(value: Floats) -> Floats:
        return np.asarray((1 - (value - low) / (high - low)) * CHART_HEIGHT)

    why = [
        "outside the limits" if out else "drift" if drift else ""
        for out, drift in zip(judged.outside, judged.drifting, strict=True)
    ]
    labels = [f"{name}: {text}" for name, text in zip(names, texts, strict=True)]
    dots = zip(x.tolist(), y(values).tolist(), labels, why, strict=True)
    upper, lower = y(judged.centre[known] + reach), y(judged.centre[known] - reach)
    return Chart(
        title=title,
        low=shown(low),
        high=shown(high),
        dots=tuple(Dot(*dot) for dot in dots),
        middle=_line(x[known], y(judged.centre[known])),
        band=_line(np.r_[x[known], x[known][::-1]], np.r_[upper, lower[::-1]]),
        marked=tuple(_marked(labels, judged)),
    )


def _line(x: Floats, y: Floats) -> str:
    if len(x) == 0:
        return ""
    return "M" + " ".join(f"{px:.1f} {py:.1f}" for px, py in zip(x, y, strict=True))


def _marked(labels: Sequence[str], judged: Judged) -> Iterator[str]:
    """Yield the slides outside the limits, and where each drift was noticed."""
    for i, label in enumerate(labels):
        if judged.outside[i]:
            yield f"{label}, outside the limits of the slides before it"
        elif judged.drifting[i] and not judged.drifting[i - 1]:
            yield f"{label}, the {RUN_LENGTH}th in a row on one side of the median"
