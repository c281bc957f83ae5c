"""Numbers as people write them."""

from __future__ import annotations

__all__ = ["THIN_SPACE", "grouped", "percent"]

THIN_SPACE = "\u202f"
"""Between groups of three digits; a line does not break at it."""


def grouped(value: int) -> str:
    """Return a whole number, in groups of three digits from 10 000 on.

    Examples
    --------
    >>> grouped(5000), grouped(18705).replace(THIN_SPACE, " ")
    ('5000', '18 705')
    """
    text = f"{value:,}".replace(",", THIN_SPACE)
    return text if abs(value) >= 10_000 else str(value)


def percent(share: float) -> str:
    """Return a share, 0 to 1, in percent with two significant digits; from 10 % on without digits.

    Examples
    --------
    >>> [percent(share).replace(THIN_SPACE, " ") for share in (0.4261, 0.0312, 0.0004, 0.0, 1.0)]
    ['43 %', '3.1 %', '0.04 %', '0 %', '100 %']
    """
    value = 100 * share
    digits = 0 if value >= 9.95 or value == 0 else 1 if value >= 0.095 else 2
    if 0 < value < 0.01:
        return f"<{THIN_SPACE}0.01{THIN_SPACE}%"
    return f"{value:.{digits}f}{THIN_SPACE}%"
