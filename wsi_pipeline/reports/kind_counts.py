"""How many nuclei of each kind a run found; no diagnosis."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa
import pyarrow.parquet as pq

from wsi_pipeline.core.errors import DataError, one_line
from wsi_pipeline.core.run_layout import PARQUET
from wsi_pipeline.formats.geoparquet import check_claims
from wsi_pipeline.segmentation.kinds import KIND_CLASSES

__all__ = ["KIND_COLUMNS", "kind_counts"]

KIND_COLUMNS: Mapping[str, str] = MappingProxyType(
    dict(zip(("abnormal_nuclei", "leukocytes", "other_objects"), KIND_CLASSES[1:], strict=True))
)
"""Column of a run's row → the class that it counts."""


def kind_counts(folder: Path) -> dict[str, int]:
    """Return the columns `KIND_COLUMNS` of a run whose nuclei were sorted.

    Raises
    ------
    DataError
        objects.parquet cannot be read
    """
    path = folder / PARQUET
    try:
        check_claims(path)
        names = pq.read_table(path, columns=["class"])["class"].cast(pa.string()).to_pylist()
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read ({one_line(error)}); run the slide again"
        ) from error
    return {column: names.count(name) for column, name in KIND_COLUMNS.items()}
