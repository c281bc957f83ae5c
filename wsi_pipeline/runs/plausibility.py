"""Warn where slide, pixel size and result do not fit each other.

A warning stops nothing: it goes to the log, to run.json and to the report.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.segmentation.nucleus_size import LEAST_NUCLEI, NUCLEUS_UM2, fitting_mpp

__all__ = ["look_warnings", "size_warnings"]

LEAST_LIGHT, LEAST_MEDIAN = 140, 60
"""Grey values that the brightest twentieth and the median of a bright-field thumbnail reach: the
darkest of 260 real fields has 167 and 129, a field in interference contrast 134, an inverted one a
median below 50."""
STAINED_OD = 0.15
MOST_CYAN, LEAST_PINK, MOST_GREEN, LEAST_STAINED = 0.05, 0.65, 3.5, 0.05
"""H&E: hardly any stained pixel absorbs more red than green, most absorb clearly more green, and
all together absorb less than 3.5 times as much green as blue. Pap smears have cyan cells, or, where
all cells are pink, eosin that hardly absorbs blue. experiments/results/odd_files.md has the files
on which the limits were set, and the others on which they were tried."""


def look_warnings(thumbnail: NDArray[np.uint8], foreground: NDArray[np.bool_]) -> list[str]:
    """Return why a slide does not look like a Pap smear in bright field.

    Parameters
    ----------
    thumbnail
        uint8 (h, w, 3)
    foreground
        bool (h, w): where there are cells; pixels that could not be read may be in it

    Examples
    --------
    >>> black = np.zeros((50, 50, 3), np.uint8)
    >>> look_warnings(black, np.ones((50, 50), np.bool_))[0][:40]
    'this does not look like bright field: it'
    """
    grey = thumbnail.mean(2)
    light = float(np.percentile(grey, 95))
    if light < LEAST_LIGHT or np.median(grey) < LEAST_MEDIAN:
        return [
            "this does not look like bright field: it is dark "
            f"(median grey value {np.median(grey):.0f}, brightest twentieth from {light:.0f} of "
            "255); fluorescence, phase contrast and inverted images give wrong objects"
        ]
    return _hematoxylin_eosin(thumbnail, foreground)


def _hematoxylin_eosin(thumbnail: NDArray[np.uint8], foreground: NDArray[np.bool_]) -> list[str]:
    glass = np.percentile(thumbnail.reshape(-1, 3), 95, axis=0)
    density = -np.log((thumbnail.astype(np.float32) + 1) / (glass + 1))
    stained = (density.mean(2) > STAINED_OD) & foreground
    if stained.sum() < max(500, LEAST_STAINED * foreground.sum()):
        return []
    red, green, blue = density[stained].T
    cyan = float((red > green).mean())
    pink = float(((green > 1.15 * red) & (green > blue)).mean())
    if cyan >= MOST_CYAN or pink <= LEAST_PINK or green.sum() >= MOST_GREEN * blue.sum():
        return []
    return [
        f"its colours are those of H&E (pink in {pink:.0%} of what is stained, hardly any cyan); "
        "the models that ship are for Papanicolaou stains, their numbers do not hold here"
    ]


def size_warnings(areas_um2: NDArray[np.floating], mpp: float) -> list[str]:
    """Return a warning where the nuclei of a slide have an impossible size.

    Parameters
    ----------
    areas_um2
        (n,) areas of nuclei
    mpp
        µm per level-0 pixel that they were computed with

    Examples
    --------
    >>> size_warnings(np.full(100, 12.0), 0.25)[0][:54]
    'the median nucleus has 12 µm², nuclei have 20 to 80 µm'
    >>> size_warnings(np.full(100, 45.0), 0.25)
    []
    """
    if len(areas_um2) < LEAST_NUCLEI:
        return []
    middle = float(np.median(areas_um2))
    fits = fitting_mpp(middle, mpp)
    if fits is None:
        return []
    low, high = NUCLEUS_UM2
    return [
        f"the median nucleus has {middle:.0f} µm², nuclei have {low:.0f} to {high:.0f} µm²; if the "
        f"pixel size of {mpp:.3g} µm is wrong, about {fits:.2g} µm would fit: check it, and give "
        f"--mpp, e.g. --mpp {fits:.2g}"
    ]
