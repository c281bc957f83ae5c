"""The file that `wsiseg spike` leaves: how many laid cells a model found in a slide."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

from wsi_pipeline.core.errors import DataError, one_line
from wsi_pipeline.core.json_files import read_json

__all__ = ["SPIKE_FOLDER", "SPIKE_JSON", "SPIKE_VERSION", "SpikeRecord", "SpikeRow", "read_spike"]

SPIKE_FOLDER, SPIKE_JSON = "spike", "spike.json"
"""Folder in the run folder of the same slide and model, and the file in it."""
SPIKE_VERSION = 1


class SpikeRow(TypedDict):
    """The laid cells of one kind at one kind of place; `kind` or `place` may be "all".

    `low` and `high` are the limits of the 95 % interval of `share`, `cells_*` those of whole
    cells. A share is None where no cell was laid, `cells_*` where the model finds no cells.
    """

    kind: str
    place: str
    laid: int
    found: int
    share: float | None
    low: float | None
    high: float | None
    cells_found: int | None
    cells_share: float | None
    cells_low: float | None
    cells_high: float | None


class SpikeRecord(TypedDict):
    """Content of spike.json; docs/outputs.md describes it."""

    schema_version: int
    wsiseg: str
    slide: dict[str, Any]
    model: dict[str, Any]
    settings: dict[str, Any]
    iou: float
    stain: dict[str, Any]
    fields: int
    results: list[SpikeRow]
    false_objects: int
    lost_objects: int
    objects_before: int
    spikes: list[dict[str, Any]]
    pictures: list[str]


def read_spike(folder: Path) -> SpikeRecord | None:
    """Return what `wsiseg spike` measured; None where it was not run.

    Parameters
    ----------
    folder
        the run folder, or the folder that `wsiseg spike --out` wrote

    Raises
    ------
    DataError
        the file is damaged, or another version wrote it
    """
    for path in (folder / SPIKE_FOLDER / SPIKE_JSON, folder / SPIKE_JSON):
        if path.is_file():
            break
    else:
        return None
    try:
        found: SpikeRecord = read_json(path)
        version = found.get("schema_version")
        rows = found["results"] if version == SPIKE_VERSION else []
        if any(set(row) != set(SpikeRow.__annotations__) for row in rows):
            raise ValueError("its rows have other entries")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} cannot be used ({one_line(error)}); run `wsiseg spike` again"
        ) from error
    if version != SPIKE_VERSION:
        raise DataError(f"{path} has schema_version {version}; run `wsiseg spike` again")
    return found
