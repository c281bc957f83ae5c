"""Read the labelled nuclei of training sets, as crops with the kinds that their labels allow.

What has a label of the review page counts, in annotations and in ``not_cells``; so do leukocytes
that someone marked as such, and the kinds of generated fields. All other nuclei have no label.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..training.coco import (
    CELLS,
    UNSURE,
    Annotation,
    CocoFile,
    CocoImage,
    Split,
    annotation_files,
    read_coco,
    read_image,
    resize_image,
)
from ..training.coco_masks import decode_mask
from .crops import CROP_MPP, nucleus_crops
from .labels import GENERATED, KINDS_OF_LABEL, LEUKOCYTE, label_named
from .network import KINDS
from .train import SOURCE_PX

__all__ = ["COARSEST_MPP", "Labelled", "read_labelled"]

COARSEST_MPP = 1.0
"""Images with larger pixels do not show what crops of `CROP_MPP` show."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """Crops of labelled nuclei.

    Attributes
    ----------
    crops
        uint8 (n, SOURCE_PX, SOURCE_PX, 4), see `nucleus_crops`
    allowed
        bool (n, kinds): the kinds that the label leaves open
    labels
        label of each, or the kind of a generated nucleus
    held
        bool (n,): whether the image is held out
    origin
        sets with their licences, for the card
    """

    crops: NDArray[np.uint8]
    allowed: NDArray[np.bool_]
    labels: tuple[str, ...]
    held: NDArray[np.bool_]
    origin: tuple[str, ...]


@dataclass(frozen=True)
class _Found:
    """A labelled nucleus: its annotation, what it is called, and the kinds it may be."""

    image: CocoImage
    annotation: Annotation
    name: str
    kinds: Sequence[str]
    held: bool
    mpp: float


def read_labelled(spec: str, split: Split) -> Labelled:
    """Return the labelled nuclei of a set; a nucleus that several fields show counts once.

    Parameters
    ----------
    spec
        ``DIR``, ``FILE``, or either with ``@MPP``, which states the pixel size of the images
    split
        which images are held out where the set does not state it

    Raises
    ------
    ValueError
        the set cannot be read, has no pixel size or one that is too coarse, or an unknown label
    """
    files, stated = annotation_files(spec)
    if not files:
        raise ValueError(f"{spec}: no annotations*.json in it; give a set of `wsiseg dataset`")
    parts: list[tuple[_Found, NDArray[np.uint8]]] = []
    origin = []
    for file in files:
        coco = read_coco(file)
        found = _once(list(_labelled(coco, split, stated)))
        for _, group in groupby(found, key=lambda one: one.image.path):
            parts += _cut(list(group))
        origin.append(f"{coco.group} (licence: {coco.licence or 'not stated'}; labels of nuclei)")
    crops = np.array([crop for _, crop in parts], np.uint8)
    allowed = [[kind in one.kinds for kind in KINDS] for one, _ in parts]
    return Labelled(
        crops.reshape(-1, SOURCE_PX, SOURCE_PX, 4),
        np.array(allowed, np.bool_).reshape(-1, len(KINDS)),
        tuple(one.name for one, _ in parts),
        np.array([one.held for one, _ in parts], np.bool_),
        tuple(origin),
    )


def _labelled(coco: CocoFile, split: Split, stated: float | None) -> Iterator[_Found]:
    """Yield what has a label in one file."""
    for image, held in zip(coco.images, split.of_images(coco.images), strict=True):
        for annotation in (*image.annotations, *image.not_cells):
            name, kinds = _called(annotation)
            if kinds:
                mpp = stated or image.mpp
                _check_mpp(mpp, image, coco.path)
                yield _Found(image, annotation, name, kinds, held, mpp or 0.0)


def _called(annotation: Annotation) -> tuple[str, Sequence[str]]:
    """Return what an annotation is called and the kinds it may be; none without a label."""
    if annotation.category in CELLS:
        return "", ()
    if annotation.label:
        try:
            label = label_named(annotation.label)
        except ValueError as error:
            raise ValueError(f"{annotation.where}: {error}") from error
        return label, KINDS_OF_LABEL[label]
    if annotation.kind:
        kind = GENERATED.get(annotation.kind)
        return annotation.kind, (kind,) if kind else ()
    if annotation.category in UNSURE and not annotation.crowd:
        return LEUKOCYTE, KINDS_OF_LABEL[LEUKOCYTE]
    return "", ()


def _check_mpp(mpp: float | None, image: CocoImage, file: Path) -> None:
    if mpp is None:
        raise ValueError(f"{image.where} states no pixel size; give it: {file.parent}@MPP")
    if mpp > COARSEST_MPP:
        raise ValueError(
            f"{image.where} has {mpp:g} µm per pixel; nuclei are sorted at {CROP_MPP:g}, so "
            f"{COARSEST_MPP:g} is the most; make the set with --mpp {CROP_MPP:g}"
        )


def _once(found: Sequence[_Found]) -> list[_Found]:
    """Return each object once, from the field that shows most around it."""
    best: dict[str, _Found] = {}
    for k, one in enumerate(found):
        key = one.annotation.object_id or str(k)
        if key not in best or _margin(one) > _margin(best[key]):
            best[key] = one
    return sorted(best.values(), key=lambda one: one.image.name)


def _margin(one: _Found) -> float:
    """Return how far an object is from the border of its field, pixels."""
    x0, y0, x1, y1 = one.annotation.box(one.image.shape)
    height, width = one.image.shape
    return min(x0, y0, width - x1, height - y1)


def _cut(found: Sequence[_Found]) -> Iterator[tuple[_Found, NDArray[np.uint8]]]:
    """Cut the nuclei out of their image; those without a pixel at `CROP_MPP` are left out."""
    first = found[0]
    pixels = resize_image(read_image(first.image.path), first.mpp / CROP_MPP)
    shape = pixels.shape[0], pixels.shape[1]
    own = np.zeros(shape, np.uint8)
    for one in found:
        (x0, y0, x1, y1), inside = decode_mask(one.annotation.rle(one.image.shape, shape), shape)
        if not inside.any():
            continue
        own[:] = 0
        own[y0:y1, x0:x1] = inside
        middle = np.array([[(x0 + x1) // 2, (y0 + y1) // 2]])
        (crop,) = nucleus_crops(pixels, own, np.ones(1, int), middle, mpp=CROP_MPP, size=SOURCE_PX)
        yield one, crop
