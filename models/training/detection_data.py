"""Training data of the detectors: boxes of any classes, from COCO boxes, polygons or RLE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .coco import (
    CELLS,
    NUCLEUS,
    UNSURE,
    Annotation,
    CocoFile,
    annotation_files,
    image_mpps,
    origin_text,
    read_coco,
    read_image,
    resize_image,
)
from .split import Split

__all__ = ["BoxSample", "BoxSet", "class_names", "load_box_set"]

Floats = NDArray[np.float32]

MIN_SIDE_PX = 2.0
"""Boxes with a shorter side, in model pixels, are not learned."""


@dataclass(frozen=True, eq=False)
class BoxSample:
    """One image at the model's mpp, with `k` boxes.

    Attributes
    ----------
    image
        uint8 (h, w, 3)
    boxes
        float32 (k, 4): x0, y0, x1, y1 in pixel edges, inside the image
    labels
        uint8 (k,): class, from 1
    ignore
        float32 (m, 4): regions that are neither object nor background
    partial
        whether only some objects are marked, in the set or by its own statement (`CocoImage`):
        nothing is known outside `boxes`
    group, name, mpp, origin
        as in `wsiseg_models.training.semantic_data.Sample`
    """

    image: NDArray[np.uint8]
    boxes: Floats
    labels: NDArray[np.uint8]
    ignore: Floats
    partial: bool = False
    group: str = ""
    name: str = ""
    mpp: float = 0.5
    origin: str = ""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class BoxSet:
    """Samples to train on, held-out samples, and the number of skipped annotations by reason."""

    train: list[BoxSample]
    held: list[BoxSample]
    skipped: Mapping[str, int] = field(default_factory=dict)


def _class_of(category: str) -> str:
    """Return the class of a COCO category; empty for one that is not sure.

    Examples
    --------
    >>> [_class_of(name) for name in ("cytoplasm", "overlapped_nuclei", "lsil")]
    ['cell', 'nucleus', 'lsil']
    """
    if category in UNSURE:
        return ""
    return "cell" if category in CELLS else "nucleus" if category in NUCLEUS else category


def class_names(specs: Sequence[str]) -> tuple[str, ...]:
    """Return the classes of all sets that have at least one object, in the order of the files.

    Raises
    ------
    ValueError
        a set cannot be read, or the sets have no object
    """
    names: dict[str, None] = {}
    for spec in specs:
        for file in annotation_files(spec)[0]:
            coco = read_coco(file)
            used = {a.category for image in coco.images for a in image.annotations if not a.crowd}
            names |= dict.fromkeys(_class_of(c) for c in coco.categories if c in used)
    found = tuple(name for name in names if name)
    if not found:
        raise ValueError(f"{', '.join(specs)}: no annotated object in an image that is there")
    return found


def load_box_set(
    spec: str, *, mpp: float, split: Split, classes: Sequence[str], partial: bool = False
) -> BoxSet:
    """Load the training samples and the held-out samples of one set, at `mpp` µm per pixel.

    Images without annotations stay, as examples of background, unless the set is `partial`.
    Crowds, objects of categories that are not sure, and those of no class become regions to
    ignore. Specks and images that are not there are left out. All are counted.

    Parameters
    ----------
    spec
        ``DIR``, ``FILE``, or either with ``@MPP``, which states the pixel size of the images
    classes
        names of the classes; case does not count
    partial
        whether only some objects are marked

    Raises
    ------
    ValueError
        no annotation file with images, no pixel size, or an annotation that cannot be read; the
        message names file and annotation
    """
    files, stated = annotation_files(spec)
    skipped: Counter[str] = Counter()
    numbers = {name.lower(): k for k, name in enumerate(classes, 1)}
    found = BoxSet([], [], skipped)
    for file in files:
        coco = read_coco(file)
        samples = _file_samples(coco, stated, mpp, numbers, partial, skipped)
        for sample, held in zip(samples, split.of_images(coco.images), strict=True):
            if len(sample) or not sample.partial:
                (found.held if held else found.train).append(sample)
    if not found.train and not found.held:
        raise ValueError(
            f"{spec}: no annotations*.json with images beside it, or no object of the classes "
            f"{', '.join(classes)}; see docs/models.md"
        )
    return found


def _file_samples(
    coco: CocoFile,
    stated: float | None,
    mpp: float,
    numbers: Mapping[str, int],
    partial: bool,
    skipped: Counter[str],
) -> list[BoxSample]:
    """Load the samples of one annotation file, in order of their names."""
    skipped.update(coco.left_out)
    nuclei = [
        [a.area for a in image.annotations if a.category in NUCLEUS and _has_area(a)]
        for image in coco.images
    ]
    mpps = image_mpps(coco, nuclei, stated)
    origin = origin_text(coco, mpps, stated is not None)
    with ThreadPoolExecutor() as pool:
        pixels = list(pool.map(read_image, [image.path for image in coco.images]))
    samples = []
    for image, array, image_mpp in zip(coco.images, pixels, mpps, strict=True):
        smaller = resize_image(array, image_mpp / mpp)
        boxes, labels = _boxes(image.annotations, array.shape[:2], smaller.shape[:2], numbers)
        small = (labels > 0) & ((boxes[:, 2:] - boxes[:, :2]).min(1, initial=np.inf) < MIN_SIDE_PX)
        skipped["under 2 px"] += int(small.sum())
        skipped["ignored"] += int((labels == 0).sum())
        known = (labels > 0) & ~small
        some = partial or not image.exhaustive or image.annotated_area is not None
        samples.append(
            BoxSample(
                smaller, boxes[known], labels[known], boxes[labels == 0], some,
                group=coco.group, name=image.name, mpp=mpp, origin=origin,
            )
        )  # fmt: skip
    return samples


def _has_area(annotation: Annotation) -> bool:
    """Return whether the area of an object is known; that of its box is not its area."""
    return bool(annotation.stated_area or annotation.segmentation) and not annotation.crowd


def _boxes(
    annotations: Sequence[Annotation],
    shape: tuple[int, ...],
    smaller: tuple[int, ...],
    numbers: Mapping[str, int],
) -> tuple[Floats, NDArray[np.uint8]]:
    """Return boxes of an image (h, w) brought to another size, and labels: 0 is to be ignored."""
    rows, labels = [], []
    for annotation in annotations:
        rows.append(annotation.box((shape[0], shape[1])))
        known = 0 if annotation.crowd else numbers.get(_class_of(annotation.category), 0)
        labels.append(known)
    scale = np.array([smaller[1] / shape[1], smaller[0] / shape[0]] * 2)
    limit = np.array([smaller[1], smaller[0]] * 2)
    boxes = np.clip(np.array(rows, float).reshape(-1, 4) * scale, 0, limit)
    return boxes.astype(np.float32), np.array(labels, np.uint8)
