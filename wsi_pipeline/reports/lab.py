"""The laboratory's other slides, from a cohort table: what is usual for this model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wsi_pipeline.core.errors import DataError, one_line
from wsi_pipeline.reports.robust import robust_z
from wsi_pipeline.reports.slide_summary import COLUMNS, Row

__all__ = ["Lab", "Usual", "read_lab"]

_LEAST_ROWS = 3
"""With fewer slides, nothing is called usual."""
_AT = (0.1, 0.25, 0.5, 0.75, 0.9)
_PARTS = ("p10", "p25", "median", "p75", "p90")


@dataclass(frozen=True)
class Usual:
    """Middle half and median of a column over the laboratory's slides, and a slide's z-score."""

    low: float
    median: float
    high: float
    z: float | None


@dataclass(frozen=True)
class Lab:
    """Rows of other slides with the same model.

    Attributes
    ----------
    rows
        rows of the table, see `COLUMNS`
    """

    rows: tuple[Row, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> NDArray[np.float64]:
        """Return the known values of a column."""
        return np.array([r[name] for r in self.rows if r[name] is not None], np.float64)

    def usual(self, name: str, value: float | None) -> Usual | None:
        """Return what is usual for a column; None with fewer than three slides."""
        known = self.column(name)
        if len(known) < _LEAST_ROWS:
            return None
        low, median, high = np.quantile(known, (0.25, 0.5, 0.75)).tolist()
        return Usual(low, median, high, None if value is None else robust_z(value, known))

    def shape(self, stem: str, edges: NDArray[np.floating]) -> NDArray[np.float64] | None:
        """Return the mean share of objects per bin over the slides, between their p10 and p90.

        Every slide counts the same. Its quantiles are joined by straight lines, so that each piece
        between two of them is flat.

        Parameters
        ----------
        stem
            e.g. ``nucleus_area_um2``
        edges
            (bins + 1,) of the bins
        """
        shares = [
            np.diff(np.interp(edges, [row[f"{stem}_{part}"] for part in _PARTS], _AT))
            for row in self.rows
            if all(row[f"{stem}_{part}"] is not None for part in _PARTS)
        ]
        return np.mean(shares, axis=0) if len(shares) >= _LEAST_ROWS else None


def read_lab(path: Path, *, slide: str, model: str) -> Lab:
    """Return the rows of the other slides of a cohort table that have the same model.

    Slides that failed are left out.

    Raises
    ------
    DataError
        the file is not a table of `wsiseg cohort`
    """
    try:
        table = pq.read_table(path)
        names = [n for n in table.column_names if n in COLUMNS]
        rows = table.select(names).to_pylist()
        missing = {"slide", "model", "status"} - set(names)
        wrong = [
            name
            for name in names
            if COLUMNS[name] != "text" and any(_is_no_number(row[name]) for row in rows)
        ]
        if missing or wrong:
            raise ValueError(f"no column {', '.join(missing)}" if missing else f"text in {wrong}")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(
            f"{path} is not a table of wsiseg ({one_line(error)}); give a cohort.parquet that "
            "`wsiseg cohort` wrote"
        ) from error
    blank = dict.fromkeys(COLUMNS)
    return Lab(
        tuple(
            blank | row
            for row in rows
            if row["slide"] != slide and row["model"] == model and row["status"] != "failed"
        )
    )


def _is_no_number(value: object) -> bool:
    return value is not None and (not isinstance(value, int | float) or not np.isfinite(value))
