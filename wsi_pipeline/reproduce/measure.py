"""Measure what a row has trained, with the measures of `wsi_pipeline.evaluation`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsi_pipeline.reproduce.recipe import Row, is_percent

__all__ = ["measure_checkpoint", "picked"]


def measure_checkpoint(
    row: Row, checkpoint: Path, spec: str, split: str, *, device: str
) -> dict[str, Any]:
    """Return the scores of a trained network on the held-out images of a set.

    Returns
    -------
    dict
        see `evaluate_run`; besides ``parameters M``
    """
    from wsi_pipeline.evaluation.coco_evaluation import evaluate_run
    from wsi_pipeline.segmentation.model import read_card

    keywords = {"score": 0.05, "cut": 0.5, "max_dets": 100, **row.evaluate}
    result = evaluate_run(
        "", checkpoint, [spec], device=device, split=split, out=None, quiet=True, **keywords
    )
    return {**result, "parameters M": read_card(checkpoint).parameters / 1e6}


def picked(result: Mapping[str, Any], place: str) -> float | None:
    """Return one value of a result, None where it is not there or undefined.

    Parameters
    ----------
    place
        see `Recipe.measures`

    Examples
    --------
    >>> picked({"scores": {"cell": {"AP": 0.5}, "nucleus": {"AP": 0.6}}}, "scores / cell / AP")
    50.0
    >>> picked({"scores": {"cell": {"AP": 0.5}, "nucleus": {"AP": 0.6}}}, "scores / * / AP")
    55.0
    """
    found: list[Any] = [result]
    parts = place.split(" / ")
    for part in parts:
        tables = [f for f in found if isinstance(f, Mapping)]
        found = [v for t in tables for k, v in t.items() if part in ("*", k)]
    values = [float(v) for v in found if v is not None and not math.isnan(v)]
    if not values or len(values) < len(found):
        return None
    mean = sum(values) / len(values)
    return round(100 * mean if is_percent(place) else mean, 6)
