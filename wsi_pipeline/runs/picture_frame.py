"""Pictures with title, legend and scale bar."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from wsi_pipeline.core.scale_bar import length_text, round_length

__all__ = ["Key", "Panel", "framed"]

Color = tuple[int, int, int]
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
    font = ImageFont.load_default(size)
    gap = size // 2
    widths = [max(p.image.shape[1], LEAST_WIDTH) for p in panels]
    legends = [_rows(p.keys, width, font) for p, width in zip(panels, widths, strict=True)]
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
        _scale_bar(draw, (x, head, x + panel.image.shape[1], head + height), panel.mpp, font)
        for k, row in enumerate(rows):
            _legend(draw, row, (x, head + height + gap // 2 + k * line), font)
        x += width + gap
    return np.asarray(canvas).copy()


def _title(draw: ImageDraw.ImageDraw, title: str, facts: str, size: int, width: int) -> None:
    """Write the title; cut it where the facts would not fit, and leave them out if need be."""
    large, font = ImageFont.load_default(round(size * 1.25)), ImageFont.load_default(size)
    title, facts = _drawable(title), _drawable(facts)
    middle, room = round(size * 1.1), width - size
    if font.getlength(facts) > 0.7 * room:
        facts = ""
    title_room = room - font.getlength(facts) - size
    if large.getlength(title) > title_room:
        while title and large.getlength(f"{title}…") > title_room:
            title = title[:-1]
        title += "…"
    draw.text((size // 2, middle), title, INK, large, "lm", stroke_width=0.4)
    x = size // 2 + large.getlength(title) + size
    draw.text((x, middle), facts, DIM, font, "lm")


def _drawable(text: str) -> str:
    """Return text in the letters that Pillow's own font has: no accents, "?" for the unknown."""
    plain = unicodedata.normalize("NFKD", text).replace("\u03bc", "u")
    kept = (c for c in plain if not unicodedata.combining(c))
    return "".join(c if " " <= c <= "~" or c in "·…" else "?" for c in kept)


Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def _key_width(key: Key, font: Font) -> float:
    size = getattr(font, "size", 14)
    return float(size * 2.8 + font.getlength(_drawable(key.text)))


def _rows(keys: Sequence[Key], width: int, font: Font) -> list[list[Key]]:
    """Return the entries of a legend in rows that fit into `width`."""
    rows: list[list[Key]] = []
    x = 0.0
    for key in keys:
        if not rows or x + _key_width(key, font) > width:
            rows.append([])
            x = 0.0
        rows[-1].append(key)
        x += _key_width(key, font)
    return rows


def _legend(
    draw: ImageDraw.ImageDraw, row: Sequence[Key], at: tuple[float, float], font: Font
) -> None:
    size = getattr(font, "size", 14)
    x, y = at[0] + size // 2, at[1] + size * 0.8
    for key in row:
        box = (x, y - size * 0.42, x + size * 1.2, y + size * 0.42)
        draw.rounded_rectangle(box, size * 0.2, key.color, INK, 1)
        draw.text((x + size * 1.6, y), _drawable(key.text), INK, font, "lm")
        x += _key_width(key, font)


def _scale_bar(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], mpp: float, font: Font
) -> None:
    """Draw a bar of a round length into the lower left corner of a picture."""
    x0, _, x1, y1 = box
    size = getattr(font, "size", 14)
    um = round_length((x1 - x0) / 5 * mpp)
    length, text = um / mpp, length_text(um)
    wide = max(length, font.getlength(text))
    left, low = x0 + size * 0.6, y1 - size * 0.6
    plate = (left, low - size * 2.1, left + wide + size, low)
    draw.rounded_rectangle(plate, size * 0.25, PAPER, DIM, 1)
    middle = left + size / 2 + wide / 2
    begin, base = middle - font.getlength(_drawable(text)) / 2, low - size
    draw.text((begin, base), _drawable(text), INK, font, "ls")
    if "µ" in text:  # the font has none: a "u" gets its stem
        stem = begin + font.getlength(text.split("µ")[0]) + size * 0.1
        draw.rectangle((stem, base - size * 0.3, stem + size / 14, base + size * 0.2), INK)
    bar = (middle - length / 2, low - size * 0.62, middle + length / 2, low - size * 0.38)
    draw.rectangle(bar, INK)
