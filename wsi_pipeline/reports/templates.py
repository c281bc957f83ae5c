"""HTML pages that need nothing but themselves: no script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

__all__ = ["Link", "histogram_svg", "page", "shown", "table_html"]

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem;
  padding: 0 1rem; color: #1b1f24; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .55rem; border-bottom: 1px solid #d9dee3;
  vertical-align: top; }
td.number { text-align: right; }
td:first-child { white-space: nowrap; } td:last-child { overflow-wrap: anywhere; }
tr.failed td, tr.incomplete td { background: #fdf0ee; }
img { max-width: 100%; height: auto; border: 1px solid #d9dee3; }
figure { display: inline-block; margin: 0 1.5rem 1rem 0; }
figcaption { color: #57606a; }
"""
# Nothing is fetched and nothing runs, even if a name in the page should have got past escaping.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_WIDTH, _HEIGHT, _BELOW = 420, 160, 34


@dataclass(frozen=True)
class Link:
    """Text of a table that leads to a file beside the page; `path` is relative to it."""

    text: str
    path: str


def page(title: str, body: str) -> str:
    """A whole page; `body` is HTML, `title` is text."""
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def shown(value: Any) -> str:
    """A value as people read it; what is not known is a dash."""
    if value is None or value == "":
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def table_html(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table with a head; rows with "failed" or "incomplete" in them stand out."""
    lines = ['<div class="wide"><table>', "<thead><tr>"]
    lines += [f"<th>{escape(name)}</th>" for name in head]
    lines.append("</tr></thead>\n<tbody>")
    for row in rows:
        marks = [mark for mark in ("failed", "incomplete") if mark in row]
        lines.append(f'<tr class="{marks[0]}">' if marks else "<tr>")
        for value in row:
            kind = ' class="number"' if isinstance(value, int | float) else ""
            lines.append(f"<td{kind}>{_cell(value)}</td>")
        lines.append("</tr>")
    lines.append("</tbody></table></div>")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, Link):
        return f'<a href="{quote(value.path)}">{escape(value.text)}</a>'
    return escape(shown(value))


def histogram_svg(
    values: NDArray[np.floating], *, low: float, high: float, bins: int, mark: float | None = None
) -> str:
    """A histogram from `low` to `high` as SVG; what lies beyond is in the outermost bars.

    Parameters
    ----------
    values
        (n,), at least one
    mark
        where a line is drawn
    """
    counts, _ = np.histogram(np.clip(values, low, high), bins=bins, range=(low, high))
    step = _WIDTH / bins
    most = int(counts.max())
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{_WIDTH}" '
        f'height="{_HEIGHT + _BELOW}" viewBox="0 -14 {_WIDTH} {_HEIGHT + _BELOW + 14}" '
        'font-size="11" fill="#57606a">'
    ]
    for index, count in enumerate(counts.tolist()):
        height = _HEIGHT * count / most
        parts.append(
            f'<rect x="{index * step:.2f}" y="{_HEIGHT - height:.2f}" width="{step - 1:.2f}" '
            f'height="{height:.2f}" fill="#3b6ea8"><title>{_edges(low, high, bins, index)}: '
            f"{count:,}</title></rect>"
        )
    parts.append(f'<path d="M0 {_HEIGHT}H{_WIDTH}" stroke="#57606a"/>')
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        text = f"{low + share * (high - low):.4g}" + ("+" if share == 1 else "")
        place = f'x="{share * _WIDTH:.0f}" y="{_HEIGHT + 16}" text-anchor="{anchor}"'
        parts.append(f"<text {place}>{text}</text>")
    parts.append(f'<text x="0" y="-3">{most:,}</text>')
    if mark is not None and low < mark < high:
        x = (mark - low) / (high - low) * _WIDTH
        parts.append(f'<path d="M{x:.2f} 0V{_HEIGHT}" stroke="#b3261e" stroke-dasharray="4 3"/>')
    return "".join([*parts, "</svg>"])


def _edges(low: float, high: float, bins: int, index: int) -> str:
    left, right = (low + (high - low) * k / bins for k in (index, index + 1))
    return f"{left:.4g}–{right:.4g}"
