"""Kinds of cells and debris in fields that look like real ones, see `CellKind`.

Sizes after The Bethesda System for Reporting Cervical Cytology, 3rd ed. (2015), as in
`cell_kinds.py`. Thickness and chromatin are shares of the densities in `stains.MEASURED`.
"""

from __future__ import annotations

from wsi_pipeline.synthetic.cell_kinds import CELL_KINDS, CellKind

__all__ = ["GROUP_KINDS", "LEUKOCYTES", "REAL_DEBRIS", "REAL_KINDS"]

REAL_KINDS: dict[str, CellKind] = {
    "superficial": CELL_KINDS["superficial"]._replace(
        share=0.24, width_um=(44, 68), fold=0.45, nucleus_um2=(20, 32), chromatin=(0.9, 1.4)
    ),
    "intermediate": CELL_KINDS["intermediate"]._replace(
        share=0.30, width_um=(36, 64), fold=0.5
    ),
    "parabasal": CELL_KINDS["parabasal"]._replace(share=0.08),
    "metaplastic": CELL_KINDS["metaplastic"]._replace(share=0.07),
    "columnar": CELL_KINDS["columnar"]._replace(share=0.04),
    "lsil": CELL_KINDS["lsil"]._replace(share=0.03),
    "hsil": CELL_KINDS["hsil"]._replace(share=0.03),
    "dark_parabasal": CellKind(
        0.05, (11, 19), (1.0, 1.35), 0, (32, 60), 1.25, 0.04,
        (0.7, 1.5), (0.35, 0.8), 0.20, 0.20, 0.0, 0.3,
    ),
    "pale_lsil": CellKind(
        0.05, (38, 60), (1.0, 1.5), 7, (120, 235), 1.45, 0.11,
        (0.07, 0.20), (0.24, 0.55), 0.35, 0.25, 0.15, 0.0,
    ),
    "koilocyte": CellKind(
        0.04, (34, 56), (1.0, 1.5), 7, (75, 165), 1.6, 0.13,
        (0.16, 0.34), (0.45, 1.0), 0.45, 0.22, 0.10, 0.0,
    ),
    "crumpled": CellKind(
        0.05, (16, 28), (1.6, 3.6), 5, (22, 40), 1.6, 0.07,
        (0.4, 0.9), (0.8, 1.3), 0.40, 0.25, 0.5, 0.0,
    ),
    "crowded": CellKind(
        0.01, (8.5, 13), (1.0, 1.6), 0, (38, 95), 1.6, 0.09,
        (0.12, 0.35), (0.40, 0.80), 0.10, 0.10, 0.0, 0.3,
    ),
    "bare": CellKind(
        0.01, (7.5, 10), (1.0, 1.3), 0, (28, 50), 1.3, 0.05,
        (0.10, 0.25), (0.6, 1.1), 0.10, 0.05, 0.0, 0.3,
    ),
}  # fmt: skip
"""Kind of cell → its appearance. "crowded" are the cells of hyperchromatic crowded groups."""

GROUP_KINDS: dict[str, float] = {
    "crowded": 0.45,
    "hsil": 0.1,
    "parabasal": 0.12,
    "dark_parabasal": 0.1,
    "metaplastic": 0.08,
    "columnar": 0.1,
    "bare": 0.05,
}
"""Kind of the cells of a dense group → how often."""

LEUKOCYTES = ("neutrophil", "lymphocyte")
"""Kinds of debris whose nuclei are in the truth as leukocytes."""

REAL_DEBRIS: dict[str, float] = {
    "neutrophil": 0.35,
    "lymphocyte": 0.06,
    "erythrocyte": 0.12,
    "keratin": 0.03,
    "rolled": 0.02,
    "smear": 0.015,
    "bacteria": 0.03,
    "strand": 0.01,
    "specks": 0.05,
    "mucus": 0.01,
    "smudge": 0.03,
    "precipitate": 0.02,
    "fragment": 0.06,
}
"""Kind of debris → its usual number per cell."""
