"""Kinds of cells in a synthetic slide: how many, how large, how dark.

Sizes after The Bethesda System for Reporting Cervical Cytology, 3rd ed. (2015): the nucleus of an
intermediate cell, 35 to 50 µm², is the reference; in LSIL it is more than three times as large.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CELL_KINDS", "CellKind"]


class CellKind(NamedTuple):
    """Appearance of one kind of cells; ranges are (low, high).

    Attributes
    ----------
    share
        share among the cells of a slide
    width_um
        width of the cell, µm
    aspect
        length ÷ width of the cell
    corners
        number of corners of the outline; 0: round
    nucleus_um2
        area of the nucleus, µm²
    nucleus_aspect
        largest length ÷ width of the nucleus
    irregular
        roughness of the nucleus's outline
    thickness
        optical density of the cytoplasm
    chromatin
        optical density of the nucleus
    eosin
        share of cells with a pink cytoplasm
    offcentre
        distance of the nucleus from the middle, as a share of the cell's radius
    fold
        share of cells with a folded border
    dome
        0: flat like a leaf, 1: thickest in the middle
    """

    share: float
    width_um: tuple[float, float]
    aspect: tuple[float, float]
    corners: int
    nucleus_um2: tuple[float, float]
    nucleus_aspect: float
    irregular: float
    thickness: tuple[float, float]
    chromatin: tuple[float, float]
    eosin: float
    offcentre: float
    fold: float
    dome: float


CELL_KINDS: dict[str, CellKind] = {
    "superficial": CellKind(
        0.11, (45, 60), (1.0, 1.35), 6, (20, 28), 1.15, 0.02,
        (0.16, 0.34), (1.0, 1.5), 0.85, 0.25, 0.30, 0.0,
    ),
    "intermediate": CellKind(
        0.26, (35, 58), (1.0, 1.6), 7, (35, 50), 1.25, 0.03,
        (0.12, 0.34), (0.55, 1.0), 0.25, 0.35, 0.40, 0.0,
    ),
    "parabasal": CellKind(
        0.28, (15, 25), (1.0, 1.3), 0, (42, 60), 1.2, 0.03,
        (0.22, 0.42), (0.55, 0.95), 0.08, 0.20, 0.0, 0.5,
    ),
    "metaplastic": CellKind(
        0.17, (18, 30), (1.0, 1.5), 8, (45, 65), 1.25, 0.05,
        (0.25, 0.48), (0.55, 0.95), 0.12, 0.30, 0.05, 0.4,
    ),
    "columnar": CellKind(
        0.09, (14, 20), (1.9, 3.0), 0, (35, 55), 1.4, 0.04,
        (0.14, 0.30), (0.55, 0.95), 0.10, 0.50, 0.0, 0.3,
    ),
    "lsil": CellKind(
        0.04, (36, 55), (1.0, 1.4), 7, (115, 170), 1.4, 0.10,
        (0.14, 0.34), (0.75, 1.25), 0.40, 0.25, 0.15, 0.0,
    ),
    "hsil": CellKind(
        0.05, (13, 20), (1.0, 1.5), 0, (75, 130), 1.4, 0.13,
        (0.24, 0.45), (0.85, 1.40), 0.15, 0.10, 0.0, 0.4,
    ),
}  # fmt: skip
