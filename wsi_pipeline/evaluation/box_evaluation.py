"""Scores of a detector on COCO sets: read the boxes, find, compare."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from wsiseg_models.predictions import Instances
from wsiseg_models.training.detection_data import BoxSample, load_box_set
from wsiseg_models.training.split import Split

from wsi_pipeline.core.errors import DataError, UsageError
from wsi_pipeline.core.progress import progress
from wsi_pipeline.evaluation.box_metrics import judge_boxes, score_boxes
from wsi_pipeline.segmentation.boxes import BoxModel

__all__ = ["evaluate_boxes", "find_boxes", "read_boxes"]


def read_boxes(
    spec: str,
    classes: Sequence[str],
    *,
    mpp: float,
    split: str = "all",
    partial: bool = False,
    left_out: dict[str, dict[str, int]] | None = None,
) -> list[BoxSample]:
    """Return the images of one COCO set with their true boxes, at `mpp` µm per pixel.

    Parameters
    ----------
    spec
        ``DIR`` or ``FILE``, or either with ``@MPP``, the pixel size of its images
    split
        ``all``, or ``fold:K/N`` or ``time:SHARE`` for the images that training held out
    partial
        whether only some objects are marked
    left_out
        gets for `spec` the number of images and annotations that are not used, by reason

    Raises
    ------
    UsageError
        the split is not valid
    DataError
        annotations, images or pixel size are missing or damaged, or no object has one of the
        classes
    """
    try:
        rule = Split("none" if split == "all" else split)
    except ValueError:
        raise UsageError(f"unknown split {split!r}; use fold:0/5, time:0.5 or all") from None
    try:
        found = load_box_set(spec, mpp=mpp, split=rule, classes=classes, partial=partial)
    except ValueError as error:
        raise DataError(str(error)) from error
    if left_out is not None:
        left_out[spec] = {reason: n for reason, n in sorted(found.skipped.items()) if n}
    samples = found.train if split == "all" else found.held
    if not any(len(sample) for sample in samples):
        raise DataError(
            f"{spec}: no object of the classes {', '.join(classes)} in images that split {split} "
            "takes"
        )
    return samples


def find_boxes(model: BoxModel, image: NDArray[np.uint8], *, score: float = 0.05) -> Instances:
    """Return the boxes of at least that score that a detector finds in an image (h, w, 3).

    The network gets the whole image at once, padded to the model's stride by reflection. Boxes are
    cut at the border of the image; those with their centre beyond it are left out.
    """
    height, width = image.shape[:2]
    pad = ((0, -height % model.stride), (0, -width % model.stride), (0, 0))
    (found,) = model.infer(np.pad(image, pad, mode="reflect")[None])
    limit = np.array([width, height], np.float32)
    inside = ((found.boxes[:, :2] + found.boxes[:, 2:]) / 2 < limit).all(1)
    kept = found.take(inside & (found.scores >= score))
    boxes = np.minimum(kept.boxes, np.tile(limit, 2))
    return Instances(boxes, kept.class_index, kept.scores, kept.masks)


def evaluate_boxes(
    model: BoxModel,
    specs: Sequence[str],
    *,
    split: str = "all",
    score: float = 0.05,
    cut: float = 0.5,
    max_dets: int | None = 100,
    partial: bool = False,
    quiet: bool = True,
    left_out: dict[str, dict[str, int]] | None = None,
) -> dict[str, dict[str, float]]:
    """Return the scores of a detector over all images of the sets; see `score_boxes`.

    Parameters
    ----------
    specs, split, partial, left_out
        see `read_boxes`
    score
        boxes below this score are ignored
    cut, max_dets
        see `score_boxes`

    Raises
    ------
    UsageError, DataError
        see `read_boxes`
    """
    judged = []
    for spec in specs:
        samples = read_boxes(
            spec, model.classes, mpp=model.mpp, split=split, partial=partial, left_out=left_out
        )
        bar = progress(len(samples), desc=f"{model.name} on {spec}", unit="image", quiet=quiet)

        def find(image: NDArray[np.uint8]) -> Instances:
            bar.update()  # noqa: B023
            return find_boxes(model, image, score=score)

        judged += judge_boxes(find, samples, len(model.classes))
        bar.close()
    return score_boxes(judged, model.classes, cut=cut, max_dets=max_dets)
