"""Training data of the networks that classify pixels: images with one number per nucleus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .coco import (
    CELLS,
    NUCLEUS,
    UNSURE,
    Annotation,
    CocoFile,
    CocoImage,
    Split,
    annotation_files,
    image_mpps,
    origin_text,
    read_coco,
    read_image,
    resize_image,
)

__all__ = ["IGNORE", "Sample", "contacts", "edge_target", "load_set"]

IGNORE = -100
"""Target value of pixels whose class is unknown."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One image at the model's mpp.

    Attributes
    ----------
    image
        uint8 (h, w, 3)
    labels
        int32 (h, w): 0 background, 1… one number per nucleus, −1 unknown
    classes
        uint8 (nuclei + 1,): class of each number, 0 for background
    group
        name of the set
    origin
        set, licence and source of its pixel size, for the card
    source
        its file, and the µm per pixel of the file
    points
        float64 (n, 2), x and y where a nucleus is known to be, where there are no outlines
    teacher
        uint8 (1 + k, h, w): 255 where a teacher's values are to be learned, else 0; then its
        probability of each class, 255 = certain; None without a teacher
    teacher_weight
        weight of these values
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.int32]
    classes: NDArray[np.uint8]
    group: str
    name: str
    mpp: float
    origin: str = ""
    source: tuple[Path, float] = (Path(), 0.0)
    points: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    teacher: NDArray[np.uint8] | None = None
    teacher_weight: float = 0.0

    @property
    def unlabelled(self) -> bool:
        """Whether no pixel has a known class."""
        return bool((self.labels < 0).all())

    def nuclei(self) -> NDArray[np.bool_]:
        """Return where nuclei are (h, w): annotated, or drawn by the teacher."""
        if self.teacher is None or not self.unlabelled:
            return np.asarray(self.labels > 0)
        return np.asarray(self.teacher[1:].sum(0, dtype=np.int32) >= 128)


def load_set(
    spec: str,
    *,
    mpp: float,
    split: Split,
    categories: Sequence[str] = (),
    unsure: Sequence[str] = UNSURE,
    left_out: Counter[str] | None = None,
) -> tuple[list[Sample], list[Sample]]:
    """Load the training samples and the held-out samples of one set, at `mpp` µm per pixel.

    Parameters
    ----------
    spec
        ``DIR``, ``FILE``, or either with ``@MPP``, which states the pixel size of the images
    categories
        COCO categories that become classes 1, 2, …; empty: all nuclei are class 1
    unsure
        COCO categories whose pixels are not learned; crowds and what nobody annotated
        (`CocoImage.unknown`) are not learned either
    left_out
        gets the number of images and annotations that are not learned, by reason

    Raises
    ------
    ValueError
        no annotation file with images, none of the categories in it, no pixel size, or an
        annotation that cannot be read; the message names file and annotation
    """
    files, stated = annotation_files(spec)
    train: list[Sample] = []
    held: list[Sample] = []
    counts: Counter[str] = Counter() if left_out is None else left_out
    for file in files:
        coco = read_coco(file)
        samples = _file_samples(coco, stated, mpp, categories, unsure, counts)
        for sample, kept in zip(samples, split.of_images(coco.images), strict=True):
            (held if kept else train).append(sample)
    if not train and not held:
        raise ValueError(f"{spec}: no annotations*.json with images beside it; see docs/models.md")
    return train, held


def _file_samples(
    coco: CocoFile,
    stated: float | None,
    mpp: float,
    categories: Sequence[str],
    unsure: Sequence[str],
    left_out: Counter[str],
) -> list[Sample]:
    """Load the samples of one annotation file, in order of their names."""
    class_of = _classes(coco, categories)
    wanted = [
        [a for a in image.annotations if a.category in class_of and not a.crowd]
        for image in coco.images
    ]
    areas = [[a.area for a in found] for found in wanted]
    left_out.update(coco.left_out)
    for annotation in (a for image in coco.images for a in image.annotations):
        if annotation.crowd or annotation.category not in class_of:
            left_out["crowd" if annotation.crowd else annotation.category] += 1
    mpps = image_mpps(coco, areas, stated)
    origin = origin_text(coco, mpps, stated is not None)

    def load(image: CocoImage, found: Sequence[Annotation], image_mpp: float) -> Sample:
        pixels = _pixels(image, found, class_of, unsure, image_mpp / mpp)
        source = image.path, image_mpp
        return Sample(*pixels, coco.group, image.name, mpp, origin, source)

    with ThreadPoolExecutor() as pool:
        samples = list(pool.map(load, coco.images, wanted, mpps))
    drawn = sum(len(sample.classes) - 1 for sample in samples)
    left_out["without a pixel"] += sum(map(len, wanted)) - drawn
    return samples


def _classes(coco: CocoFile, categories: Sequence[str]) -> dict[str, int]:
    """Return the class number of each category of the file that has one."""
    if categories:
        order = [c.lower() for c in categories]
        class_of = {name: order.index(name) + 1 for name in coco.categories if name in order}
    else:
        class_of = {name: 1 for name in coco.categories if name in NUCLEUS}
    if not class_of:
        wanted = ", ".join(categories or NUCLEUS)
        raise ValueError(
            f"{coco.path} has the categories {', '.join(sorted(coco.categories)) or 'none'}, and "
            f"none of {wanted}; name yours with --category"
        )
    return class_of


def _pixels(
    entry: CocoImage,
    annotations: Sequence[Annotation],
    class_of: Mapping[str, int],
    unsure: Sequence[str],
    scale: float,
) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.uint8]]:
    """Return image, labels and classes of a `Sample`, resized by `scale`.

    Whole cells are drawn first, so that their nuclei lie on them.
    """
    image = read_image(entry.path)
    labels = np.zeros(image.shape[:2], np.int32)
    if (unknown := entry.unknown(unsure)) is not None:
        labels[unknown] = -1
    classes = [0]
    for annotation in sorted(annotations, key=lambda a: a.category not in CELLS):
        (x0, y0, x1, y1), inside = annotation.mask(entry.shape)
        if inside.size:
            classes.append(class_of[annotation.category])
            labels[y0:y1, x0:x1][inside] = len(classes) - 1
    image = resize_image(image, scale)
    if image.shape[:2] != labels.shape:
        size = image.shape[1::-1]
        labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return image, labels, np.array(classes, np.uint8)


def edge_target(labels: NDArray[np.int32]) -> NDArray[np.float32]:
    """Draw the contour of every nucleus at 1/2 scale: float32 (h/2, w/2), 0 or 1.

    It is `IGNORE` where a pixel is unknown, but for the contour of a nucleus there.

    Source: Luo et al. 2022 (DSSNet), section 2.4.
    """
    shown = np.maximum(labels, 0).astype(np.float32)
    kernel = np.ones((3, 3), np.uint8)
    contour = (cv2.dilate(shown, kernel) != cv2.erode(shown, kernel)) & (shown > 0)
    h, w = contour.shape
    drawn, unknown = (m.reshape(h // 2, 2, w // 2, 2).any((1, 3)) for m in (contour, labels < 0))
    return np.where(drawn, 1, np.where(unknown, IGNORE, 0)).astype(np.float32)


def contacts(labels: NDArray[np.int32], reach: int) -> NDArray[np.bool_]:
    """Mark pixels (h, w) within `reach` of two different nuclei, diagonals included."""
    shown = np.maximum(labels, 0).astype(np.float32)
    kernel = np.ones((2 * reach + 1,) * 2, np.uint8)
    highest = cv2.dilate(shown, kernel)
    lowest = cv2.erode(np.where(shown > 0, shown, np.float32(2**24)), kernel)
    return np.asarray((highest > 0) & (lowest != highest))
