"""Scores of a network's nuclei in images with truth, decoded as `wsiseg run` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.config import ObjectRule
from wsi_pipeline.evaluation.matching import Match, match_labels
from wsi_pipeline.segmentation.components import find_components
from wsi_pipeline.segmentation.score_rule import is_certain
from wsi_pipeline.segmentation.split_touching import SADDLE_RATIO, split_touching
from wsi_pipeline.segmentation.votes import foreground

if TYPE_CHECKING:
    from wsiseg_models.training.semantic_data import Sample

__all__ = ["instances_of", "nucleus_f1", "nucleus_match"]

Images = NDArray[np.uint8]


def nucleus_f1(
    predict: Callable[[Images], NDArray[np.uint8]],
    samples: Sequence[Sample],
    *,
    threshold: float = ObjectRule.threshold,
    min_area_um2: float = 8.0,
    min_score: float = ObjectRule.min_score,
    min_small_score: float = ObjectRule.min_small_score,
    split: bool = True,
    saddle_ratio: float = SADDLE_RATIO,
    iou: float = 0.5,
) -> dict[str, dict[str, float]]:
    """Return F1, precision, recall and mean IoU of nuclei, for each set of samples.

    Each is computed over all nuclei of the set, whatever their class; NaN where a set has no
    nuclei and none were predicted.

    Parameters
    ----------
    predict
        image uint8 (h, w, 3) → class probabilities uint8 (classes, h, w), 255 = certain
    samples
        images with truth; `Sample.group` is the set
    threshold, min_area_um2, min_score, min_small_score, split
        see `RunConfig`
    saddle_ratio
        see `split_touching`
    iou
        smallest IoU at which a predicted and a true nucleus are the same
    """
    groups: dict[str, list[Match]] = {}
    for sample in samples:
        found = instances_of(
            predict(sample.image),
            threshold=threshold,
            mpp=sample.mpp,
            min_area_um2=min_area_um2,
            min_score=min_score,
            min_small_score=min_small_score,
            split=split,
            saddle_ratio=saddle_ratio,
        )
        match = nucleus_match(found, sample.labels, min_px=min_area_um2 / sample.mpp**2, iou=iou)
        groups.setdefault(sample.group, []).append(match)
    out = {}
    for group, parts in groups.items():
        match = Match.pool(parts)
        out[group] = {
            "nucleus F1": match.f1,
            "nucleus precision": match.precision,
            "nucleus recall": match.recall,
            "nucleus mean IoU": match.sq,
            "nuclei": float(match.true),
        }
    return out


def instances_of(
    probability: NDArray[np.uint8],
    *,
    mpp: float,
    threshold: float,
    min_area_um2: float,
    min_score: float,
    min_small_score: float,
    split: bool,
    saddle_ratio: float = SADDLE_RATIO,
) -> NDArray[np.int32]:
    """Return the nuclei in class probabilities (classes, h, w) as a label image (h, w).

    See `RunConfig` and `split_touching` for the parameters.
    """
    strongest = foreground(probability)
    components = find_components(strongest, threshold)
    wanted = np.ones(len(components) + 1, np.bool_)
    wanted[0] = False
    pieces = split_touching(
        components, wanted, min_px=min_area_um2 / mpp**2, split=split, saddle_ratio=saddle_ratio
    )
    sums = np.bincount(pieces.labels.ravel(), strongest.ravel(), minlength=len(pieces) + 1)
    wanted = np.ones(len(pieces) + 1, np.bool_)
    wanted[1:] = is_certain(
        sums[1:] / (255 * pieces.area_px), pieces.area_px * mpp**2,
        min_score=min_score, min_small_score=min_small_score,
    )  # fmt: skip
    return np.where(wanted[pieces.labels], pieces.labels, 0).astype(np.int32)


def nucleus_match(
    found: NDArray[np.integer], truth: NDArray[np.integer], *, min_px: float, iou: float = 0.5
) -> Match:
    """Match label images (h, w) of found and true nuclei; −1 in the truth means unknown.

    True nuclei below `min_px` pixels, such as those cut by the image border, count as unknown. A
    found nucleus with more than half of its pixels in unknown ones is ignored.
    """
    numbers, position, area = np.unique(truth, return_inverse=True, return_counts=True)
    small = (numbers > 0) & (area < min_px)
    unknown = ((numbers < 0) | small)[position].reshape(truth.shape)
    known = np.where(unknown, 0, truth)
    size = np.bincount(found.ravel())
    share = np.bincount(found.ravel(), unknown.ravel()) / np.maximum(size, 1)
    counted = share <= 0.5
    counted[0] = False
    return match_labels(np.where(counted[found], found, 0), known, iou)
