"""Measure what a row has trained, with the measures of `wsi_pipeline.evaluation`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wsi_pipeline.core.errors import DataError
from wsi_pipeline.reproduce.recipe import Row, is_percent

__all__ = ["measure_checkpoint", "picked", "positive_nuclei"]


def measure_checkpoint(
    row: Row, checkpoint: Path, spec: str, split: str, *, device: str
) -> dict[str, Any]:
    """Return the scores of a trained network on the held-out images of a set.

    Returns
    -------
    dict
        see `evaluate_run`; besides ``parameters M``, and ``positive`` where the row asks for it
    """
    from wsi_pipeline.evaluation.coco_evaluation import evaluate_run
    from wsi_pipeline.segmentation.model import read_card

    more = dict(row.evaluate)
    positive = more.pop("positive", "")
    result: dict[str, Any] = {}
    if positive:
        result["positive"] = positive_nuclei(
            checkpoint, spec, split, str(positive), row.train["category"], device=device
        )
    else:
        keywords = {"score": 0.05, "cut": 0.5, "max_dets": 100, **more}
        result |= evaluate_run(
            "", checkpoint, [spec], device=device, split=split, out=None, quiet=True, **keywords
        )
    return {**result, "parameters M": read_card(checkpoint).parameters / 1e6}


def positive_nuclei(
    checkpoint: Path, spec: str, split: str, name: str, categories: Any, *, device: str
) -> dict[str, float]:
    """Return precision and recall of the nuclei of one class, as table 6 of Luo et al. 2022.

    A nucleus has the class that is the most probable over its pixels. Returned and true nuclei of
    this class are matched one to one at an IoU of 0.5 or more; the paper does not state its rule.

    Parameters
    ----------
    name
        the class
    categories
        COCO category of each class of the network
    """
    from wsiseg_models.training.coco import Split
    from wsiseg_models.training.semantic_data import load_set

    from wsi_pipeline.core.config import RunConfig
    from wsi_pipeline.evaluation.matching import Match
    from wsi_pipeline.evaluation.nucleus_metrics import instances_of, nucleus_match
    from wsi_pipeline.segmentation.load_model import open_model

    model = open_model("", checkpoint=checkpoint, device=device)
    wanted = model.classes.index(name)
    _, held = load_set(spec, mpp=model.mpp, split=Split(split), categories=categories)
    if not held:
        raise DataError(f"{spec}: split {split} holds out no image")
    matches = []
    for sample in held:
        h, w = sample.labels.shape
        pad = ((0, -h % model.stride), (0, -w % model.stride), (0, 0))
        (answer,) = model.infer(np.pad(sample.image, pad, mode="reflect")[None])
        probability = np.ascontiguousarray(answer[:, :h, :w])
        found = instances_of(
            probability, mpp=model.mpp, min_area_um2=RunConfig.min_area_um2, split=RunConfig.split,
            threshold=model.rule.threshold, min_score=model.rule.min_score,
            min_small_score=model.rule.min_small_score,
        )  # fmt: skip
        sums = [np.bincount(found.ravel(), p.ravel(), found.max() + 1) for p in probability]
        mine = np.argmax(sums, 0) == wanted
        mine[0] = False
        true = (sample.classes == wanted + 1)[np.maximum(sample.labels, 0)]
        matches.append(
            nucleus_match(
                np.where(mine[found], found, 0), np.where(true, sample.labels, 0),
                min_px=RunConfig.min_area_um2 / model.mpp**2,
            )
        )  # fmt: skip
    match = Match.pool(matches)
    return {"precision": match.precision, "recall": match.recall, "true": float(match.true)}


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
