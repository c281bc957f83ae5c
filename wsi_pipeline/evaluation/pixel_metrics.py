"""Scores of classes of pixels: accuracy, sensitivity, precision, IoU, Dice, over all images.

The measures are those of Wubineh et al. 2024. Its table has an IoU above the Dice coefficient,
which no single class can have, so that its IoU counts the background; here both have a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from wsi_pipeline.evaluation.masks import Masks
from wsi_pipeline.evaluation.matching import ratio
from wsi_pipeline.segmentation.nuclei import CELL_NAMES, PixelModel

__all__ = [
    "PUBLISHED",
    "PixelCounts",
    "count_pixels",
    "pixel_table",
    "published_scores",
    "recorded",
    "true_classes",
]

MEASURES = ("accuracy", "sensitivity", "precision", "IoU with background", "Dice")
PUBLISHED: Mapping[tuple[str, str], tuple[float, ...]] = MappingProxyType(
    {
        ("none", "cell"): (97.03, 78.6, 93.01, 97.03, 84.77),
        ("vgg19", "cell"): (98.64, 93.91, 92.83, 97.9, 80.53),
        ("resnet50", "cell"): (97.43, 82.66, 97.28, 97.89, 87.81),
        ("mobilenet", "cell"): (97.67, 79.75, 96.61, 97.18, 78.52),
        ("efficientnet_b2", "cell"): (98.10, 83.36, 99.02, 97.98, 88.93),
        ("densenet121", "cell"): (98.59, 91.68, 94.56, 98.48, 87.5),
        ("none", "nucleus"): (99.25, 80.01, 95.10, 99.50, 84.95),
        ("vgg19", "nucleus"): (99.69, 86.23, 99.76, 99.60, 84.25),
        ("resnet50", "nucleus"): (99.85, 92.07, 95.72, 99.77, 87.20),
        ("mobilenet", "nucleus"): (99.78, 91.63, 95.17, 99.71, 90.34),
        ("efficientnet_b2", "nucleus"): (99.86, 97.75, 98.13, 99.80, 89.33),
        ("densenet121", "nucleus"): (99.82, 87.51, 98.66, 99.76, 88.09),
    }
)
"""Encoder and task → `MEASURES` in percent, on fields that are not public (Wubineh et al. 2024)."""


@dataclass
class PixelCounts:
    """Pixels of one class: rightly and wrongly found, missed, and rightly left out.

    Examples
    --------
    >>> counts = PixelCounts()
    >>> counts.add(np.array([True, True, False, False]), np.array([True, False, False, False]))
    >>> scores = counts.scores()
    >>> scores["sensitivity"], scores["precision"], round(scores["Dice"], 3)
    (1.0, 0.5, 0.667)
    >>> scores["IoU"], round(scores["IoU with background"], 3)
    (0.5, 0.583)
    """

    true_found: int = 0
    false_found: int = 0
    missed: int = 0
    true_rest: int = 0

    def add(self, found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> None:
        """Count the pixels of an image."""
        self.true_found += int((found & truth).sum())
        self.false_found += int((found & ~truth).sum())
        self.missed += int((~found & truth).sum())
        self.true_rest += int((~found & ~truth).sum())

    def scores(self) -> dict[str, float]:
        """Return the measures, 0 to 1; NaN where undefined."""
        tp, fp, fn, tn = self.true_found, self.false_found, self.missed, self.true_rest
        iou, rest = float(ratio(tp, tp + fp + fn)), float(ratio(tn, tn + fp + fn))
        return {
            "accuracy": float(ratio(tp + tn, tp + fp + fn + tn)),
            "sensitivity": float(ratio(tp, tp + fn)),
            "precision": float(ratio(tp, tp + fp)),
            "IoU": iou,
            "IoU with background": (iou + rest) / 2,
            "Dice": float(ratio(2 * tp, 2 * tp + fp + fn)),
        }


def recorded(model: PixelModel) -> tuple[PixelModel, list[Any]]:
    """Return the same model, and a list to which each of its answers is appended."""
    answers: list[Any] = []

    def network(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        answer = model.network(images)
        answers.append(answer)
        return answer

    return replace(model, network=network), answers


def true_classes(
    classes: tuple[str, ...], truth: Mapping[str, Masks]
) -> dict[str, NDArray[np.bool_]]:
    """Return class → true pixels (h, w), for the classes of which an image has the truth.

    A cell includes its nucleus, unless the nucleus is a class of its own.
    """
    named = {name: "cell" if name in CELL_NAMES else name for name in classes}
    out = {
        name: np.asarray(coco.decode(truth[kind].union), np.bool_)
        for name, kind in named.items()
        if kind in truth
    }
    for name in out:
        if name in CELL_NAMES and "nucleus" in classes and "nucleus" in truth:
            out[name] = out[name] & ~np.asarray(coco.decode(truth["nucleus"].union), np.bool_)
    return out


def found_class(probability: NDArray[np.uint8], k: int) -> NDArray[np.bool_]:
    """Return where class `k` is the most probable one, with half of the probability or more."""
    return np.asarray((probability.argmax(0) == k) & (probability.max(0) >= 128))


def count_pixels(
    counts: dict[str, PixelCounts],
    classes: tuple[str, ...],
    probability: NDArray[np.uint8],
    truth: Mapping[str, Masks],
) -> None:
    """Add the known pixels of an image to the counts of each class of which it has the truth.

    Parameters
    ----------
    probability
        uint8 (classes, at least h, at least w)
    """
    for name, true in true_classes(classes, truth).items():
        h, w = true.shape
        found = found_class(probability[:, :h, :w], classes.index(name))
        unknown = truth["cell" if name in CELL_NAMES else name].unknown
        if unknown is not None:
            known = coco.decode(unknown) == 0
            found, true = found[known], true[known]
        counts.setdefault(name, PixelCounts()).add(found, true)


def pixel_table(
    pixels: Mapping[str, Mapping[str, float | None]], published: Mapping[str, float]
) -> list[list[str]]:
    """Return the measures as rows of text, one column per class, and the published one if any."""
    rows = [["pixels", *pixels, *(["published, other images"] if published else [])]]
    for name in next(iter(pixels.values())):
        values = [column[name] for column in pixels.values()]
        if published:
            values.append(published.get(name))
        rows.append([name, *("–" if v is None else f"{v:.4f}" for v in values)])
    return rows


def published_scores(name: str, classes: tuple[str, ...], encoder: str) -> dict[str, float]:
    """Return the published measures of a network of one class, 0 to 1; empty where there are none.

    They are of fields of Pap smears that are not public, so that they are no target for a set of
    another kind, for example of cut-out cells.
    """
    if name != "wubineh" or len(classes) != 1:
        return {}
    task = "cell" if classes[0] in CELL_NAMES else classes[0]
    values = PUBLISHED.get((encoder, task), ())
    return {measure: round(v / 100, 4) for measure, v in zip(MEASURES, values, strict=False)}
