"""Text in pictures, in Pillow's own font: it is there on every machine, and has few letters."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

from PIL import ImageDraw, ImageFont

__all__ = ["Anchor", "Color", "draw_text", "text_width"]

Color = tuple[int, int, int]
Anchor = Literal["left", "middle", "right"]


def draw_text(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    size: float,
    color: Color,
    *,
    anchor: Anchor = "left",
    bold: bool = False,
) -> None:
    """Draw a line of text, its middle at the height of `at`.

    Accents and letters that the font does not have are left out or become "?"; the stem of "µ" is
    drawn.

    Parameters
    ----------
    at
        x, of the side that `anchor` names, and y
    size
        height of the letters in pixels
    """
    font = ImageFont.load_default(size)
    shown = _drawable(text)
    x = at[0] - font.getlength(shown) * {"left": 0.0, "middle": 0.5, "right": 1.0}[anchor]
    base = at[1] + size * 0.33
    draw.text((x, base), shown, color, font, "ls", stroke_width=0.4 if bold else 0)
    for found in re.finditer("[µμ]", text):
        stem = x + font.getlength(_drawable(text[: found.start()])) + size * 0.1
        draw.rectangle((stem, base - size * 0.3, stem + size / 14, base + size * 0.2), color)


def text_width(text: str, size: float) -> float:
    """Return the width in pixels that `draw_text` needs."""
    return float(ImageFont.load_default(size).getlength(_drawable(text)))


def _drawable(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).replace("\u03bc", "u")
    kept = (c for c in plain if not unicodedata.combining(c))
    return "".join(c if " " <= c <= "~" or c in "·…" else "?" for c in kept)
