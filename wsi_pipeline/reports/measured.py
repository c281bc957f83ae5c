"""What a run measured: areas of nuclei and of cells, and N/C ratios."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wsi_pipeline.core.errors import DataError, one_line
from wsi_pipeline.core.objects import CELL_CLASS, CYTOPLASM
from wsi_pipeline.core.run_layout import PARQUET
from wsi_pipeline.formats.geoparquet import check_claims
from wsi_pipeline.reports.cell_check import CellCheck, check_cells
from wsi_pipeline.segmentation.cell_features import NUCLEUS_RATIO
from wsi_pipeline.segmentation.kinds import NOT_CELLS
from wsi_pipeline.segmentation.morphometry import NUCLEUS_AREA

__all__ = ["CELL_AREA", "measured"]

CELL_AREA = "Cell: Area µm^2"


def measured(folder: Path, faults: CellCheck | None = None) -> dict[str, NDArray[np.float32]]:
    """Return areas of nuclei and of cells in µm², and N/C ratios, of a run; NaN is left out.

    Keys: ``nucleus_area_um2``, ``cell_area_um2``, ``nc_ratio``. Cytoplasm, leukocytes and what is
    no nucleus count as neither. A cell that does not count (`check_cells`) has no ratio.

    Parameters
    ----------
    folder
        the run folder
    faults
        which cells do not count; by default those that outlines show

    Raises
    ------
    DataError
        objects.parquet cannot be read
    """
    path = folder / PARQUET
    try:
        check_claims(path)
        file = pq.ParquetFile(path)
        present = set(file.schema_arrow.names)
        table = file.read(
            [n for n in ("class", NUCLEUS_AREA, CELL_AREA, NUCLEUS_RATIO) if n in present]
        )
        kinds = table["class"].cast(pa.string()).to_numpy()
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read ({one_line(error)}); run the slide again"
        ) from error

    def column(name: str) -> NDArray[np.float32]:
        if name not in present:
            return np.full(len(table), np.nan, np.float32)
        values: NDArray[np.float32] = table[name].to_numpy()
        return values

    nucleus, cell, ratio = (column(n) for n in (NUCLEUS_AREA, CELL_AREA, NUCLEUS_RATIO))
    faults = faults or check_cells(folder)
    if faults is not None:
        ratio = np.where(faults.faulty, np.float32(np.nan), ratio)
    # A model of class probabilities stores the areas of all classes as areas of nuclei.
    cell = np.where(np.isnan(cell) & (kinds == CELL_CLASS), nucleus, cell)
    nucleus = nucleus[~np.isin(kinds, [CELL_CLASS, CYTOPLASM, *NOT_CELLS])]
    found = {"nucleus_area_um2": nucleus, "cell_area_um2": cell, "nc_ratio": ratio}
    return {name: values[np.isfinite(values)] for name, values in found.items()}
