"""Precision and recall of each class of nuclei, instance by instance (Luo et al. 2022, table 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from wsi_pipeline.core.errors import DataError
from wsi_pipeline.evaluation.mask_metrics import Masks, mask_overlaps
from wsi_pipeline.evaluation.matching import Match, match_overlaps

__all__ = ["PUBLISHED", "class_rows", "score_classes", "truth_of_classes"]

IOU = 0.5
"""Least IoU of a found and a true nucleus that are the same; the paper does not state its rule."""
PUBLISHED: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {"dssnet": MappingProxyType({"precision": 0.9663, "recall": 0.9816})}
)
"""Model → measures of positive nuclei on 8000 fields that are not public (Luo et al. 2022)."""


def truth_of_classes(
    nuclei: Mapping[str, Masks], classes: Sequence[str], categories: Sequence[str], where: str
) -> dict[str, Masks]:
    """Return class → true nuclei, from nuclei by COCO category.

    Parameters
    ----------
    categories
        category of each class, as it was trained; empty: the classes' own names
    where
        the set, for the message

    Raises
    ------
    DataError
        the set has none of these categories
    """
    wanted = [name.lower() for name in categories or classes]
    if not set(wanted) & set(nuclei):
        raise DataError(
            f"{where} has nuclei of {', '.join(sorted(nuclei)) or 'no category'}, not of "
            f"{' or '.join(wanted)}; measure on a set with these categories"
        )
    some = next(iter(nuclei.values()))
    empty = Masks([], some.scores[:0], some.shape, some.unknown)
    return {name: nuclei.get(kind, empty) for name, kind in zip(classes, wanted, strict=True)}


def score_classes(
    found: Sequence[Mapping[str, Masks]],
    truth: Sequence[Mapping[str, Masks]],
    classes: Sequence[str],
    *,
    cut: float,
) -> dict[str, dict[str, float]]:
    """Return class → precision, recall, F1 and counts of nuclei over all images.

    A found nucleus is right where a true one of the same class has an IoU of at least `IOU` with
    it, one to one. A nucleus that is found with the wrong class counts as wrong in the class that
    it got and as missed in its own.

    Parameters
    ----------
    found, truth
        class → nuclei, one entry per image
    cut
        least score of a found nucleus
    """
    out = {}
    for name in classes:
        match = Match.pool(
            [
                match_overlaps(mask_overlaps(f[name].above(cut), t[name]), IOU)
                for f, t in zip(found, truth, strict=True)
            ]
        )
        out[name] = {
            "precision": match.precision,
            "recall": match.recall,
            "F1": match.f1,
            "right": float(match.tp),
            "found": float(match.tp + match.fp),
            "true": float(match.true),
        }
    return out


def class_rows(scores: Mapping[str, Mapping[str, float | None]], model: str) -> list[list[str]]:
    """Return `score_classes` as rows of text, with what the model's paper reports, if anything."""
    published = PUBLISHED.get(model, {})
    rows = [["nuclei", *scores, *(["published, other images: positive"] if published else [])]]
    for name in next(iter(scores.values())):
        values = [column[name] for column in scores.values()]
        digits = 0 if name in ("right", "found", "true") else 4
        if published:
            values.append(published.get(name))
        rows.append([name, *("–" if v is None else f"{v:.{digits}f}" for v in values)])
    return rows
