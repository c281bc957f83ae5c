"""Pictures with title, legend and scale bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw

from wsi_pipeline.core.drawn_text import Color, draw_text, text_width
from wsi_pipeline.core.scale_bar import length_text, round_length

__all__ = ["Key", "Panel", "framed"]

INK, PAPER, DIM = (27, 31, 36), (255, 255, 255), (87, 96, 106)
LEAST_WIDTH = 480
"""A picture of a small field is as wide as this, so that its legend has a place."""


@dataclass(frozen=True)
class Key:
    """One entry of a legend: a colour, and what it means."""

    color: Color
    text: str


@dataclass(frozen=True, eq=False)
class Panel:
    """One of the pictures that stand side by side.

    Attributes
    ----------
    image
        uint8 (h, w, 3)
    mpp
        µm per pixel of the image
    keys
        what the colours mean
    """

    image: NDArray[np.uint8]
    mpp: float
    keys: Sequence[Key]


def framed(panels: Sequence[Panel], title: str, facts: str) -> NDArray[np.uint8]:
    """Return panels side by side, a title above them, scale bars in them and legends below.

    Panels have one height. Letters are a fortieth of the first panel's width, 14 to 26 pixels.

    Parameters
    ----------
    title, facts
        in bold letters, and what follows them on the line; a long title is cut

    Examples
    --------
    >>> white = np.full((300, 600, 3), 255, np.uint8)
    >>> framed([Panel(white, 0.5, [Key((255, 0, 0), "nucleus")])], "slide", "12 nuclei").shape
    (364, 600, 3)
    """
    size = int(np.clip(panels[0].image.shape[1] / 40, 14, 26))
    gap = size // 2
    widths = [max(p.image.shape[1], LEAST_WIDTH) for p in panels]
    legends = [_rows(p.keys, width, size) for p, width in zip(panels, widths, strict=True)]
    head, line = round(size * 2.2), round(size * 1.6)
    height = panels[0].image.shape[0]
    foot = line * max(map(len, legends), default=0) + gap
    whole = (sum(widths) + gap * (len(panels) - 1), head + height + foot)
    canvas = Pillow.new("RGB", whole, PAPER)
    draw = ImageDraw.Draw(canvas)
    _title(draw, title, facts, size, whole[0])
    x = 0
    for panel, width, rows in zip(panels, widths, legends, strict=True):
        canvas.paste(Pillow.fromarray(panel.image), (x, head))
        _scale_bar(draw, (x, head, x + panel.image.shape[1], head + height), panel.mpp, size)
        for k, row in enumerate(rows):
            _legend(draw, row, (x, head + height + gap // 2 + k * line), size)
        x += width + gap
    return np.asarray(canvas).copy()


def _title(draw: ImageDraw.ImageDraw, title: str, facts: str, size: int, width: int) -> None:
    """Write the title; cut it where the facts would not fit, and leave them out if need be."""
    large, middle, room = size * 1.25, round(size * 1.1), width - size
    if text_width(facts, size) > 0.7 * room:
        facts = ""
    title_room = room - text_width(facts, size) - size
    if text_width(title, large) > title_room:
        while title and text_width(f"{title}…", large) > title_room:
            title = title[:-1]
        title += "…"
    draw_text(draw, (size // 2, middle), title, large, INK, bold=True)
    x = size // 2 + text_width(title, large) + size
    draw_text(draw, (x, middle), facts, size, DIM)


def _key_width(key: Key, size: int) -> float:
    return size * 2.8 + text_width(key.text, size)


def _rows(keys: Sequence[Key], width: int, size: int) -> list[list[Key]]:
    """Return the entries of a legend in rows that fit into `width`."""
    rows: list[list[Key]] = []
    x = 0.0
    for key in keys:
        if not rows or x + _key_width(key, size) > width:
            rows.append([])
            x = 0.0
        rows[-1].append(key)
        x += _key_width(key, size)
    return rows


def _legend(
    draw: ImageDraw.ImageDraw, row: Sequence[Key], at: tuple[float, float], size: int
) -> None:
    x, y = at[0] + size // 2, at[1] + size * 0.8
    for key in row:
        box = (x, y - size * 0.42, x + size * 1.2, y + size * 0.42)
        draw.rounded_rectangle(box, size * 0.2, key.color, INK, 1)
        draw_text(draw, (x + size * 1.6, y), key.text, size, INK)
        x += _key_width(key, size)


def _scale_bar(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], mpp: float, size: int
) -> None:
    """Draw a bar of a round length into the lower left corner of a picture."""
    x0, _, x1, y1 = box
    um = round_length((x1 - x0) / 5 * mpp)
    length, text = um / mpp, length_text(um)
    wide = max(length, text_width(text, size))
    left, low = x0 + size * 0.6, y1 - size * 0.6
    plate = (left, low - size * 2.1, left + wide + size, low)
    draw.rounded_rectangle(plate, size * 0.25, PAPER, DIM, 1)
    middle = left + size / 2 + wide / 2
    draw_text(draw, (middle, low - size * 1.33), text, size, INK, anchor="middle")
    bar = (middle - length / 2, low - size * 0.62, middle + length / 2, low - size * 0.38)
    draw.rectangle(bar, INK)
