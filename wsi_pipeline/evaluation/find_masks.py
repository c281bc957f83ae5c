"""The instances that a model finds in one image, as masks to compare with the truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco
from scipy.ndimage import find_objects

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import UsageError
from wsi_pipeline.evaluation.masks import Masks
from wsi_pipeline.evaluation.nucleus_metrics import instances_of
from wsi_pipeline.segmentation.cells import InstanceModel
from wsi_pipeline.segmentation.components import from_label_image
from wsi_pipeline.segmentation.model import Model, Window, paste
from wsi_pipeline.segmentation.nuclei import CELL_NAMES, PixelModel
from wsi_pipeline.segmentation.votes import foreground, vote

__all__ = ["classes_of", "find_in", "nucleus_classes"]

Images = NDArray[np.uint8]


def find_in(model: Model, image: Images, *, score: float = 0.05) -> dict[str, Masks]:
    """Return class → instances of at least that score that a model finds in an image.

    Of a network with several classes of nuclei the classes are `nucleus`, which has them all, and
    those of the model.

    The network gets the whole image at once, padded to the model's stride by reflection. Class
    probabilities and label images become nuclei as in `wsiseg run` with default settings.

    Parameters
    ----------
    image
        uint8 (h, w, 3) at the model's mpp
    """
    shape = image.shape[:2]
    voted: NDArray[np.uint8] | None = None
    pad = ((0, -shape[0] % model.stride), (0, -shape[1] % model.stride), (0, 0))
    padded = np.pad(image, pad, mode="reflect")
    if isinstance(model, InstanceModel):
        (found,) = model.infer(padded[None])
        found = found.take(found.scores >= score)
        windows, scores, index = paste(found, shape), found.scores, found.class_index
    else:
        windows, scores, voted = _labelled(model, padded, shape)
        index = np.zeros(len(scores), np.uint8)
    out: dict[str, Masks] = {}
    names = classes_of(model)
    rles = _encoded(windows, shape)
    groups = [(name, index == k) for k, name in enumerate(names)]
    if voted is not None and nucleus_classes(model):
        groups += [(name, voted == k) for k, name in enumerate(model.classes)]
    for name, member in groups:
        mine = [i for i in np.flatnonzero(member) if rles[i] is not None and scores[i] >= score]
        out[name] = Masks([rles[i] for i in mine], scores[mine].astype(np.float64), shape)
    return out


def nucleus_classes(model: Model) -> tuple[str, ...]:
    """Return the names of several classes of nuclei, among which pixels vote; else nothing."""
    several = isinstance(model, PixelModel) and model.votes
    return model.classes if several and not set(model.classes) & set(CELL_NAMES) else ()


def classes_of(model: Model) -> tuple[str, ...]:
    """Return the classes that `find_in` returns for a model.

    Raises
    ------
    UsageError
        there is no truth for one of the classes
    """
    names = model.classes
    if isinstance(model, PixelModel):
        names = ("cell",) if set(names) <= set(CELL_NAMES) else ("nucleus",)
    for name in names:
        if name not in ("cell", "nucleus"):
            raise UsageError(
                f"{model.name} finds {name!r}; only classes cell and nucleus have truth to compare"
            )
    return names


def _labelled(
    model: Model, padded: Images, shape: tuple[int, int]
) -> tuple[list[tuple[Window, NDArray[np.bool_]]], NDArray[np.float64], NDArray[np.uint8]]:
    """Return windows with masks, scores and classes of the nuclei; one class of a `LabelModel`."""
    h, w = shape
    (answer,) = model.infer(padded[None])
    if isinstance(model, PixelModel):
        probability = answer[:, :h, :w]
        labels = instances_of(
            probability, mpp=model.mpp, min_area_um2=RunConfig.min_area_um2,
            split=RunConfig.split, threshold=model.rule.threshold,
            min_score=model.rule.min_score, min_small_score=model.rule.min_small_score,
        )  # fmt: skip
    else:
        labels = from_label_image(answer[:h, :w]).labels
        probability = np.full((1, h, w), 255, np.uint8)
    strongest = foreground(probability)
    windows, scores, classes = [], [], []
    for number, window in enumerate(find_objects(labels), 1):
        if window is not None:
            mask = labels[window] == number
            windows.append((window, mask))
            scores.append(strongest[window][mask].mean() / 255)
            planes = probability[:, *window]
            voted = vote(mask.astype(np.int32), planes, np.array([mask.sum()]))
            classes.append(voted.classes[0])
    return windows, np.array(scores, np.float64), np.array(classes, np.uint8)


def _encoded(windows: Sequence[tuple[Window, NDArray[np.bool_]]], shape: tuple[int, int]) -> Any:
    """Return the run lengths of each mask in an image of `shape`; None where it has no pixel."""
    canvas = np.zeros(shape, np.uint8, order="F")
    out = []
    for window, mask in windows:
        canvas[window] = mask
        out.append(coco.encode(canvas) if mask.any() else None)
        canvas[window] = 0
    return out
