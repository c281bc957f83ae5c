"""Mpp: the pixel size of a slide, and the rule for which sizes are plausible."""

from __future__ import annotations

from dataclasses import dataclass

from wsiseg_models.pixel_size import MAX_MPP, MIN_MPP, MPP_RANGE, is_plausible_mpp

__all__ = ["MAX_MPP", "MIN_MPP", "MPP_RANGE", "Mpp", "is_plausible_mpp"]

_SQUARE = 0.02
"""Largest difference between width and height of a square pixel, as a share of their mean."""


@dataclass(frozen=True)
class Mpp:
    """Pixel size, and where it comes from.

    Attributes
    ----------
    x, y
        width and height of a level-0 pixel, µm
    source
        "metadata", "slide sheet" or "--mpp"

    Examples
    --------
    >>> size = Mpp(0.25, 0.252, "metadata")
    >>> round(size.value, 3), size.plausible, size.square
    (0.251, True, True)
    """

    x: float
    y: float
    source: str

    @property
    def value(self) -> float:
        """Mean of width and height, µm."""
        return (self.x + self.y) / 2

    @property
    def plausible(self) -> bool:
        """Whether a microscope can give such pixels: both sides in `MPP_RANGE`."""
        return all(is_plausible_mpp(size) for size in (self.x, self.y))

    @property
    def square(self) -> bool:
        """Whether width and height differ by at most 2 %."""
        return abs(self.x - self.y) <= _SQUARE * self.value
