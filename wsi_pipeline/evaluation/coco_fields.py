"""Images with true instances from COCO folders, brought to a model's µm per pixel.

The truth is scaled with its image, so that all areas and pixels of the scores are the model's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from wsi_pipeline.core.errors import DataError, UsageError, WsisegError
from wsi_pipeline.evaluation.mask_metrics import Masks

__all__ = ["Field", "read_set"]

CELL = ("cell", "cytoplasm")
"""COCO categories that are one cell each; a cytoplasm's mask includes its nucleus."""

Images = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Field:
    """One image with its true instances, at the model's mpp.

    Attributes
    ----------
    image
        uint8 (h, w, 3)
    truth
        class → true instances, of those classes that the set has
    """

    name: str
    image: Images
    truth: Mapping[str, Masks]


def read_set(spec: str, *, mpp: float, split: str = "all") -> Iterator[Field]:
    """The images of one COCO set, at `mpp` µm per pixel, in order of their names.

    Instances whose ``iscrowd`` is set and categories that are neither nucleus nor cell are left
    out.

    Parameters
    ----------
    spec
        ``DIR`` or ``DIR@MPP``, the latter stating the pixel size of its images
    split
        ``all``, or ``fold:K/N`` or ``time:SHARE`` for the images that training held out

    Raises
    ------
    UsageError, DataError
        the split makes no sense; no annotations, images or pixel size, or broken ones
    """
    where, _, stated = spec.partition("@")
    given = _positive(stated, spec) if stated else None
    folder = Path(where)
    files = sorted(folder.glob("annotations*.json")) if folder.is_dir() else [folder]
    count = 0
    for file in files:
        if not file.is_file():
            break
        try:
            for field in _fields(file, given, mpp, split):
                count += 1
                yield field
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, WsisegError):
                raise
            raise DataError(f"{file} is not COCO ({error!r}); see docs/models.md") from error
    if not count:
        raise DataError(
            f"{spec}: no annotations*.json with images beside it that split {split} takes; "
            "see docs/models.md"
        )


def _positive(text: str, spec: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError(f"{spec}: {text!r} is no pixel size; write DIR@MPP, e.g. DIR@0.25")
    return value


def _fields(file: Path, given: float | None, mpp: float, split: str) -> Iterator[Field]:
    """The images that one annotation file knows and that are there."""
    from wsiseg_models.training.coco import image_mpps

    document = json.loads(file.read_text())
    names = {c["id"]: _class_of(c["name"].lower()) for c in document["categories"]}
    images = [i for i in document["images"] if (file.parent / i["file_name"]).is_file()]
    images.sort(key=lambda i: i["file_name"])
    mine: dict[int, list[dict[str, Any]]] = {i["id"]: [] for i in images}
    for one in document["annotations"]:
        if one["image_id"] in mine and names[one["category_id"]] and not one.get("iscrowd"):
            mine[one["image_id"]].append(one)
    nuclei = {
        k: [a["area"] for a in v if names[a["category_id"]] == "nucleus"] for k, v in mine.items()
    }
    mpps = image_mpps(document, nuclei, given)
    classes = {names[a["category_id"]] for v in mine.values() for a in v}
    for image in _held_out(images, split):
        if not mpps[image["id"]]:
            raise DataError(f"{file} states no pixel size and has no nuclei to tell; give DIR@MPP")
        entries = [(names[a["category_id"]], a["segmentation"]) for a in mine[image["id"]]]
        path = file.parent / image["file_name"]
        yield _field(path, entries, sorted(classes), mpps[image["id"]] / mpp)


def _class_of(category: str) -> str:
    """``cell``, ``nucleus`` or nothing."""
    from wsiseg_models.training.coco import NUCLEUS

    return "cell" if category in CELL else "nucleus" if category in NUCLEUS else ""


def _held_out(images: Sequence[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    from wsiseg_models.training.coco import Split

    if split == "all":
        return list(images)
    try:
        rule, count = Split(split), len(images)
        return [image for k, image in enumerate(images) if rule.holds_out(k, count)]
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"unknown split {split!r}; use fold:0/5, time:0.5 or all") from None


def _field(
    path: Path, entries: Sequence[tuple[str, Any]], classes: Sequence[str], scale: float
) -> Field:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise DataError(f"{path}: not an image that OpenCV reads")
    before = image.shape[:2]
    if abs(scale - 1) > 0.02:
        size = max(8, round(before[1] * scale)), max(8, round(before[0] * scale))
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        image = cv2.resize(image, size, interpolation=way)
    shape = image.shape[:2]
    rles: dict[str, list[Any]] = {name: [] for name in classes}
    for name, segmentation in entries:
        rle = _rle(segmentation, before, shape)
        if coco.area(rle):  # an object under half a pixel is none any more
            rles[name].append(rle)
    truth = {k: Masks(v, np.ones(len(v)), shape) for k, v in rles.items()}
    return Field(path.name, image.astype(np.uint8), truth)


def _rle(segmentation: Any, before: tuple[int, int], shape: tuple[int, int]) -> Any:
    """A COCO polygon or run lengths of an image of size `before`, as run lengths of `shape`."""
    if isinstance(segmentation, list):
        scale = np.array([shape[1] / before[1], shape[0] / before[0]])
        rings = [(np.reshape(r, (-1, 2)) * scale).ravel().tolist() for r in segmentation]
        return coco.merge(coco.frPyObjects(rings, *shape))
    rle = segmentation
    if isinstance(rle["counts"], list):
        rle = coco.frPyObjects(rle, *before)
    if shape == before:
        return rle
    way = cv2.INTER_NEAREST_EXACT
    mask = cv2.resize(coco.decode(rle), shape[::-1], interpolation=way)
    return coco.encode(np.asfortranarray(mask))
