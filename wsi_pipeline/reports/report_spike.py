"""The spike test of a run in its report: how many cells laid into the slide the model found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_pipeline.core.errors import DataError, one_line
from wsi_pipeline.core.numbers import percent
from wsi_pipeline.core.spike_record import SPIKE_FOLDER, SPIKE_JSON, SpikeRow, read_spike

__all__ = ["SPIKE_HEAD", "ReportSpike", "report_spike"]

SPIKE_HEAD = ("laid cells", "place", "laid", "nuclei found", "share, 95 % interval", "whole cells")


@dataclass(frozen=True)
class ReportSpike:
    """The result in a sentence, and the rows of the table."""

    text: str
    rows: Sequence[Sequence[str | int | None]]


def report_spike(folder: Path) -> ReportSpike | None:
    """Return the spike test in a run folder, None where there is none.

    Raises
    ------
    DataError
        spike.json is damaged
    """
    record = read_spike(folder)
    if record is None:
        return None
    try:
        return ReportSpike(_sentence(record["results"]), [_row(row) for row in record["results"]])
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{folder / SPIKE_FOLDER / SPIKE_JSON} cannot be used ({one_line(error)}); "
            "run `wsiseg spike` again"
        ) from error


def _sentence(rows: Sequence[SpikeRow]) -> str:
    text = "Painted cells of known shape were laid into this slide, and the model was run on it."
    whole = next((row for row in rows if row["kind"] == row["place"] == "all"), None)
    if whole is not None and whole["share"] is not None:
        found = _share(whole["share"], whole["low"], whole["high"])
        text += f" It found the nuclei of {whole['found']} of {whole['laid']} of them, {found}."
    return text


def _row(row: SpikeRow) -> tuple[str | int | None, ...]:
    return (
        row["kind"],
        row["place"],
        row["laid"],
        row["found"],
        _share(row["share"], row["low"], row["high"]),
        _share(row["cells_share"], row["cells_low"], row["cells_high"]),
    )


def _share(share: float | None, low: float | None, high: float | None) -> str | None:
    if share is None:
        return None
    return percent(share) if low is None or high is None else (
        f"{percent(share)} ({percent(low)} to {percent(high)})"
    )  # fmt: skip
