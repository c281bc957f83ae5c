"""HTML pages from the templates in html/: one file each, nothing from other places.

Jinja escapes every value that a template prints, so a name with HTML in it appears as text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from wsi_pipeline.core.numbers import grouped, percent

__all__ = [
    "Bar", "Histogram", "Tick", "cell_text", "histogram", "render", "round_up", "shown"
]  # fmt: skip

_WIDTH, _HEIGHT = 420, 160
"""Size of a histogram's bars in pixels; html/parts.html has the same figures."""


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram: place and size in pixels, range of values, count."""

    x: float
    width: float
    height: float
    range: str
    count: int


@dataclass(frozen=True)
class Tick:
    """One number below a histogram, at x in pixels; `anchor` as in SVG."""

    x: float
    anchor: str
    text: str


@dataclass(frozen=True)
class Histogram:
    """A histogram as html/parts.html draws it.

    Attributes
    ----------
    most
        count of the highest bar
    mark_x
        position of a dashed line in pixels, or None
    usual
        SVG path of the laboratory's distribution, the pale background, or None
    summary
        the figure in words, for readers who do not see it
    """

    title: str
    caption: str
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    most: int
    mark_x: float | None
    usual: str | None
    summary: str


def render(template: str, **values: Any) -> str:
    """Return the page of a template in html/.

    Examples
    --------
    >>> render("slide_report.html", title="<b>", models=(), numbers=(), runs=()).count("&lt;b&gt;")
    2
    """
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("wsi_pipeline.reports", "html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    environment.filters["cell_text"] = cell_text
    return environment


def shown(value: Any) -> str:
    """Return a value as text for people; None and empty text become a dash.

    Examples
    --------
    >>> shown(None), shown(5000), shown(0.123456), shown(1234.5)
    ('–', '5000', '0.123', '1234')
    """
    if value is None or value == "":
        return "–"
    if isinstance(value, float):
        return grouped(round(value)) if abs(value) >= 100 else f"{value:.3g}"
    return grouped(value) if isinstance(value, int) else str(value)


def cell_text(name: str, value: Any) -> str:
    """Return the value of a column of `COLUMNS` as text for people; shares become percent."""
    if isinstance(value, int | float) and name.endswith("_share"):
        return percent(value)
    return shown(value)


def histogram(
    values: NDArray[np.floating],
    title: str,
    *,
    high: float,
    bins: int,
    mark: float | None = None,
    usual: NDArray[np.floating] | None = None,
    caption: str = "",
) -> Histogram:
    """Return the histogram of `values` from 0 to `high`; the last bar also counts what is above.

    Parameters
    ----------
    values
        (n,), at least one
    mark
        value with a dashed line
    usual
        (bins,): shares of objects that are usual, for the pale background
    """
    counts, edges = np.histogram(np.clip(values, 0, high), bins=bins, range=(0, high))
    pale = np.zeros(bins) if usual is None else usual * len(values)
    step, most = _WIDTH / bins, max(int(counts.max()), float(pale.max()))
    bars = tuple(
        Bar(
            index * step, step - 1, _HEIGHT * count / most,
            f"{edges[index]:.4g}–{edges[index + 1]:.4g}", count,
        )
        for index, count in enumerate(counts.tolist())
    )  # fmt: skip
    ticks = tuple(
        Tick(
            share * _WIDTH,
            "start" if share == 0 else "end" if share == 1 else "middle",
            f"{share * high:.4g}" + ("+" if share == 1 and bool((values > high).any()) else ""),
        )
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    low, middle, top = (shown(float(q)) for q in np.quantile(values, (0.1, 0.5, 0.9)))
    return Histogram(
        title=title,
        caption=caption,
        bars=bars,
        ticks=ticks,
        most=round(most),
        mark_x=mark / high * _WIDTH if mark is not None and 0 < mark < high else None,
        usual=None if usual is None else _steps(pale * _HEIGHT / most, step),
        summary=f"{title}: half of {grouped(len(values))} objects have {middle} or less, "
        f"most have {low} to {top}",
    )


def _steps(heights: NDArray[np.floating], step: float) -> str:
    """Return the outline of bars as an SVG path."""
    tops = "".join(
        f"V{_HEIGHT - height:.1f}H{(index + 1) * step:.1f}"
        for index, height in enumerate(heights.tolist())
    )
    return f"M0 {_HEIGHT}{tops}V{_HEIGHT}Z"


def round_up(value: float) -> float:
    """Return the next of 1, 1.5, 2, 3, 4, 5, 6, 8, 10 times a power of ten, for an axis.

    Examples
    --------
    >>> round_up(0.13), round_up(101.0)
    (0.15, 150.0)
    """
    power = 10.0 ** np.floor(np.log10(max(value, 1e-6)))
    steps = (1, 1.5, 2, 3, 4, 5, 6, 8, 10)
    return float(f"{next(f * power for f in steps if f * power >= value * (1 - 1e-9)):.6g}")
