"""The pixel sizes that a microscope can give."""

from __future__ import annotations

__all__ = ["MAX_MPP", "MIN_MPP", "MPP_RANGE", "is_plausible_mpp"]

MIN_MPP, MAX_MPP = 0.02, 20.0
"""Smallest and largest plausible pixel size, µm."""
MPP_RANGE = f"{MIN_MPP:g} to {MAX_MPP:g} µm"
"""The same in words, for messages."""


def is_plausible_mpp(mpp: float) -> bool:
    """Whether `mpp`, µm per pixel, is a pixel size of a microscope; False for NaN.

    Examples
    --------
    >>> is_plausible_mpp(0.25), is_plausible_mpp(250)
    (True, False)
    """
    return MIN_MPP <= mpp <= MAX_MPP
