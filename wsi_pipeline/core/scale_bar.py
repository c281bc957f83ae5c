"""The length of a scale bar, in round numbers."""

from __future__ import annotations

import math

__all__ = ["length_text", "round_length"]


def round_length(most_um: float) -> float:
    """Return the longest of 1, 2 and 5 times a power of ten that is not above `most_um`.

    Examples
    --------
    >>> round_length(430.0), round_length(0.07), round_length(1000.0)
    (200.0, 0.05, 1000.0)
    """
    power = 10.0 ** math.floor(math.log10(most_um * (1 + 1e-9)))
    return float(next(f * power for f in (5, 2, 1) if f * power <= most_um * (1 + 1e-9)))


def length_text(um: float) -> str:
    """Return a length with its unit; from 1000 µm on in mm.

    Examples
    --------
    >>> length_text(50.0), length_text(2000.0)
    ('50 µm', '2 mm')
    """
    return f"{um / 1000:g} mm" if um >= 1000 else f"{um:g} µm"
