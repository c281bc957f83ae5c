"""HTML pages from the templates in html/: one file each, no scripts, nothing from other places.

Jinja escapes every value that a template prints, so a name with HTML in it appears as text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

__all__ = ["Bar", "Histogram", "Link", "Tick", "histogram", "render", "shown"]

_WIDTH, _HEIGHT = 420, 160
"""Size of a histogram's bars in pixels; html/parts.html has the same figures."""


@dataclass(frozen=True)
class Link:
    """Text of a table cell that links to a file; `path` is relative to the page."""

    text: str
    path: str


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
    """

    caption: str
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    most: int
    mark_x: float | None


def render(template: str, **values: Any) -> str:
    """Return the page of a template in html/.

    Examples
    --------
    >>> page = render("cohort.html", title="cohort", heading="<b>", counts="0 done",
    ...               failures=(), slides=())
    >>> "&lt;b&gt;" in page
    True
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
    environment.tests["link"] = lambda value: isinstance(value, Link)
    return environment


def shown(value: Any) -> str:
    """Return a value as text for people; None and empty text become a dash.

    Examples
    --------
    >>> shown(None), shown(12345), shown(0.123456), shown(1234.5)
    ('–', '12,345', '0.1235', '1,234')
    """
    if value is None or value == "":
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def histogram(
    values: NDArray[np.floating], caption: str, *, high: float, bins: int, mark: float | None = None
) -> Histogram:
    """Return the histogram of `values` from 0 to `high`; the last bar also counts what is above.

    Parameters
    ----------
    values
        (n,), at least one
    mark
        value with a dashed line
    """
    counts, edges = np.histogram(np.clip(values, 0, high), bins=bins, range=(0, high))
    step, most = _WIDTH / bins, int(counts.max())
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
            f"{share * high:.4g}" + ("+" if share == 1 else ""),
        )
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    mark_x = mark / high * _WIDTH if mark is not None and 0 < mark < high else None
    return Histogram(caption, bars, ticks, most, mark_x)
