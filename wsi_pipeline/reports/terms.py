"""Columns of a run's row as a report shows them: a label, and a definition one click away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["FACTS", "MEASURED", "ORIGIN", "TERMS", "Term"]


@dataclass(frozen=True)
class Term:
    """A label, and what it means."""

    label: str
    means: str = ""


TERMS: Mapping[str, Term] = MappingProxyType(
    {
        "status": Term("status", "Incomplete: some regions could not be read."),
        "slide_area_mm2": Term("slide, mm²", "Scanned area."),
        "foreground_area_mm2": Term(
            "foreground, mm²",
            "The part of the slide that was segmented: where there are cells, with a margin.",
        ),
        "foreground_share": Term("foreground, share of the slide"),
        "objects": Term("objects", "Everything that was outlined, cells and nuclei together."),
        "nuclei": Term("nuclei", "Leukocytes count as nuclei unless the run had --kinds."),
        "nuclei_per_mm2": Term(
            "nuclei per mm² of foreground",
            "The foreground has a margin, so the density among the cells is higher.",
        ),
        "nucleus_area_um2_median": Term(
            "nucleus area, median, µm²", "Half of the nuclei have less."
        ),
        "large_nuclei": Term(
            "large nuclei",
            "Nuclei of 87.5 µm² or more, 2½ times a normal intermediate one (Bethesda). Two nuclei "
            "that were not split count as one large nucleus; size alone is no lesion.",
        ),
        "large_nuclei_share": Term("large nuclei, share of the nuclei"),
        "abnormal_nuclei": Term(
            "nuclei that look abnormal (no diagnosis)", "Sorted by a network, see docs/models.md."
        ),
        "leukocytes": Term("leukocytes, not counted as nuclei"),
        "other_objects": Term("other objects, not counted as nuclei"),
        "cells": Term("cells", "Whole cells, also where others cover them."),
        "cells_per_mm2": Term("cells per mm² of foreground"),
        "cells_with_nucleus": Term(
            "cells with a nucleus",
            "Drawn once and whole. Only these count in adequacy, cells per mm² and N/C.",
        ),
        "doubled_cells": Term(
            "doubled cells, not counted", "A better cell is the same one (IoU of 0.7 or more)."
        ),
        "cells_without_nucleus": Term("cells without a nucleus, not counted"),
        "cut_cells": Term(
            "cut cells, not counted",
            "A box of the network cuts the outline: more than half of one side is straight.",
        ),
        "cells_on_glass": Term(
            "cells on empty glass, not counted", "Looked for by `wsiseg features --extended`."
        ),
        "cell_area_um2_median": Term("cell area, median, µm²"),
        "nc_ratio_median": Term(
            "N/C ratio, median", "Area of a cell's nuclei divided by the area of the cell."
        ),
        "objects_larger_than_seen": Term(
            "objects cut by the largest window", "Their outlines end at a window of the network."
        ),
        "adequacy": Term(
            "adequacy",
            "Bethesda 2014 asks for 5000 well-preserved squamous cells (liquid-based) or 8000 "
            "(conventional). The count does not tell well-preserved cells from others, so enough "
            "is necessary and not sufficient. Undecided: too few, and parts were not segmented.",
        ),
        "adequacy_count": Term("adequacy: count"),
        "adequacy_by": Term("adequacy: what was counted"),
        "adequacy_least": Term("adequacy: enough from"),
        "preparation": Term("preparation"),
        "focus_score": Term(
            "focus score",
            "Median over fields of 128 µm: 1 sharp edges, 0.5 blurred by 0.6 µm, 0.25 no edges. "
            "Compare slides of one scanner and stain.",
        ),
        "focus_blurred_share": Term("blurred fields, share", "Fields with a score below 0.5."),
        "focus_fields": Term("fields measured for focus"),
        "regions": Term("regions", "Blocks of the slide that are read and segmented as one task."),
        "failed_regions": Term("regions failed or incomplete"),
    }
)
"""Rows of the table of numbers, in order."""

FACTS: Mapping[str, str] = MappingProxyType(
    {
        "nuclei": "nuclei",
        "cells_with_nucleus": "cells with nucleus",
        "nuclei_per_mm2": "nuclei per mm²",
        "nucleus_area_um2_median": "median nucleus, µm²",
        "large_nuclei_share": "large nuclei",
        "nc_ratio_median": "median N/C",
        "focus_score": "focus, 1 is sharp",
        "foreground_area_mm2": "mm² segmented",
    }
)
"""The numbers in large letters, and the words below them."""

ORIGIN = (
    "file", "mpp_um", "mpp_source", "width_px", "height_px", "model", "model_sha256", "precision",
    "device", "wsiseg", "versions", "settings", "run_sha256", "seconds",
)  # fmt: skip
"""Columns that state where the numbers come from."""

MEASURED: Mapping[str, str] = MappingProxyType(
    {
        "nucleus_area_um2": "Nucleus area, µm²",
        "cell_area_um2": "Cell area, µm²",
        "nc_ratio": "Nucleus/cell area ratio",
    }
)
"""Measurements with a histogram, and their titles."""
