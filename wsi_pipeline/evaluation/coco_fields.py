"""Images with true instances from COCO folders, brought to a model's µm per pixel.

The truth is scaled with its image, so that all areas and pixels of the scores are the model's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco
from wsiseg_models.training.coco import (
    CELLS,
    NUCLEUS,
    UNSURE,
    Annotation,
    CocoFile,
    CocoImage,
    Split,
    annotation_files,
    image_mpps,
    read_coco,
    read_image,
    resize_image,
)

from wsi_pipeline.core.errors import DataError, UsageError, WsisegError
from wsi_pipeline.evaluation.masks import Masks

__all__ = ["Field", "read_set"]

Images = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Field:
    """One image with its true instances, at the model's mpp.

    Attributes
    ----------
    image
        uint8 (h, w, 3)
    truth
        class → true instances, for each class that the set has, with what is unknown
    nuclei
        COCO category → its true nuclei, for each category of nuclei that the set has
    """

    name: str
    image: Images
    truth: Mapping[str, Masks]
    nuclei: Mapping[str, Masks]


def read_set(
    spec: str,
    *,
    mpp: float,
    split: str = "all",
    nuclei: Sequence[str] = (),
    left_out: Counter[str] | None = None,
) -> Iterator[Field]:
    """Yield the images of one COCO set, resampled to `mpp` µm per pixel, in order of their names.

    Categories other than nuclei and cells are left out. Crowds, leukocytes and what nobody
    annotated (`CocoImage.unknown`) are unknown.

    Parameters
    ----------
    spec
        ``DIR``, or ``DIR@MPP`` with the pixel size of its images
    split
        ``all``, or ``fold:K/N`` or ``time:SHARE`` for the images that training held out
    nuclei
        further categories that are one nucleus each
    left_out
        gets the number of images and annotations that are not used, by reason

    Raises
    ------
    UsageError
        the split or the pixel size in `spec` is not valid
    DataError
        annotations, images or pixel size are missing or damaged
    """
    try:
        files, given = annotation_files(spec)
    except ValueError as error:
        raise UsageError(str(error)) from error
    count = 0
    counts: Counter[str] = Counter() if left_out is None else left_out
    for file in files:
        try:
            for field in _fields(read_coco(file), given, mpp, split, nuclei, counts):
                count += 1
                yield field
        except ValueError as error:
            if isinstance(error, WsisegError):
                raise
            raise DataError(str(error)) from error
    if not count:
        raise DataError(
            f"{spec}: no annotations*.json with images beside it that split {split} takes; "
            "see docs/models.md"
        )


def _fields(
    document: CocoFile,
    given: float | None,
    mpp: float,
    split: str,
    nuclei: Sequence[str],
    left_out: Counter[str],
) -> Iterator[Field]:
    """Return the images of one annotation file that `split` takes."""
    class_of = dict.fromkeys([*NUCLEUS, *(name.lower() for name in nuclei)], "nucleus")
    class_of |= dict.fromkeys(CELLS, "cell")
    wanted = [
        [a for a in image.annotations if a.category in class_of and not a.crowd]
        for image in document.images
    ]
    areas = [[a.area for a in found if class_of[a.category] == "nucleus"] for found in wanted]
    used = {a.category: class_of[a.category] for found in wanted for a in found}
    mpps = image_mpps(document, areas, given)
    left_out.update(document.left_out)
    for k in _held_out(document.images, split):
        for annotation in document.images[k].annotations:
            if annotation.crowd or annotation.category not in class_of:
                left_out["crowd" if annotation.crowd else annotation.category] += 1
        yield _field(document.images[k], wanted[k], used, mpps[k] / mpp, left_out)


def _held_out(images: Sequence[CocoImage], split: str) -> list[int]:
    """Return the positions of those images that the split takes."""
    if split == "all":
        return list(range(len(images)))
    try:
        rule = Split(split)
    except ValueError:
        raise UsageError(f"unknown split {split!r}; use fold:0/5, time:0.5 or all") from None
    return [k for k, held in enumerate(rule.of_images(images)) if held]


def _field(
    entry: CocoImage,
    annotations: Sequence[Annotation],
    class_of: Mapping[str, str],
    scale: float,
    left_out: Counter[str],
) -> Field:
    """Read an image and bring it and its instances, category → class, to a scale."""
    image = resize_image(read_image(entry.path), scale)
    shape = image.shape[:2]
    rles: dict[str, list[Any]] = {name: [] for name in class_of}
    for annotation in annotations:
        rle = annotation.rle(entry.shape, shape)
        if coco.area(rle):
            rles[annotation.category].append(rle)
        else:
            left_out["without a pixel"] += 1
    unknown = _encoded(entry.unknown(UNSURE), shape)

    def masks(categories: Sequence[str]) -> Masks:
        joined = [rle for name in categories for rle in rles[name]]
        return Masks(joined, np.ones(len(joined)), shape).with_unknown(unknown)

    truth = {
        name: masks([c for c in class_of if class_of[c] == name])
        for name in sorted(set(class_of.values()))
    }
    nuclei = {c: masks([c]) for c, name in class_of.items() if name == "nucleus"}
    return Field(entry.path.name, image, truth, nuclei)


def _encoded(mask: NDArray[np.bool_] | None, shape: tuple[int, int]) -> Any:
    """Return a mask of the whole image as RLE of `shape` (h, w); None for None."""
    if mask is None:
        return None
    way = cv2.INTER_NEAREST_EXACT
    return coco.encode(
        np.asfortranarray(cv2.resize(mask.astype(np.uint8), shape[::-1], interpolation=way))
    )
