"""Training data of the instance networks: cells and nuclei that overlap, each with its own mask.

Each mask is stored in its own window, so that many cells of a large image need little memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, SupportsIndex

import cv2
import numpy as np
from numpy.typing import NDArray

from .coco import (
    CELLS,
    NUCLEUS,
    UNSURE,
    Annotation,
    CocoFile,
    Split,
    annotation_files,
    image_mpps,
    origin_text,
    read_coco,
    read_image,
    resize_image,
)
from .coco_masks import Bools, Window

__all__ = [
    "CELL",
    "NUCLEUS_LABEL",
    "InstanceSample",
    "InstanceSet",
    "load_instance_set",
    "warp",
    "warp_masks",
]

CELL, NUCLEUS_LABEL = 1, 2
"""Labels; 0 is the background."""

MIN_AREA_PX = 4


@dataclass(frozen=True, eq=False)
class InstanceSample:
    """One image at the model's mpp, with `k` instances that may overlap.

    Attributes
    ----------
    image
        uint8 (h, w, 3)
    windows
        int32 (k, 4): x0, y0, x1, y1 of each mask in the image
    masks
        bool (y1 − y0, x1 − x0) each
    labels
        uint8 (k,): 1 cell, 2 nucleus
    cell_id
        int64 (k,): number of the cell that it is or lies in, −1 unknown
    unknown
        bool (h, w), where it is not known whether there are other instances; None: it is known
        everywhere
    group, name, mpp, origin
        as in `wsiseg_models.training.semantic_data.Sample`
    """

    image: NDArray[np.uint8]
    windows: NDArray[np.int32]
    masks: tuple[Bools, ...]
    labels: NDArray[np.uint8]
    cell_id: NDArray[np.int64]
    group: str = ""
    name: str = ""
    mpp: float = 0.5
    origin: str = ""
    unknown: Bools | None = None

    def __len__(self) -> int:
        return len(self.masks)

    def view(self, canvas: NDArray[Any], i: SupportsIndex) -> NDArray[Any]:
        """Return the part of an array (h, w, …) in the window of instance `i`."""
        x0, y0, x1, y1 = self.windows[i]
        return canvas[y0:y1, x0:x1]

    def count(self, label: int) -> NDArray[np.uint8]:
        """Count the instances of `label` over each pixel: uint8 (h, w)."""
        counts = np.zeros(self.image.shape[:2], np.uint8)
        for i in np.flatnonzero(self.labels == label):
            self.view(counts, i)[self.masks[i]] += 1
        return counts


@dataclass(frozen=True)
class InstanceSet:
    """Samples to train on, held-out samples, and the number of skipped annotations by reason."""

    train: list[InstanceSample]
    held: list[InstanceSample]
    skipped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Found:
    """One annotation: its mask in a window of the image file, its label and its cell."""

    window: Window
    mask: Bools
    label: int
    cell_id: int


def load_instance_set(spec: str, *, mpp: float, split: Split) -> InstanceSet:
    """Load the training samples and the held-out samples of one set, at `mpp` µm per pixel.

    Images without annotations stay, as examples of background. Annotations of leukocytes, crowds
    and specks, and images that are not there, are left out and counted. Under leukocytes and
    crowds, and where nobody annotated (`CocoImage.unknown`), nothing is learned.

    Parameters
    ----------
    spec
        ``DIR``, ``FILE``, or either with ``@MPP``, which states the pixel size of the images

    Raises
    ------
    ValueError
        no annotation file with images, no pixel size, nuclei but no cell, a category that is
        neither, or an annotation that cannot be read; the message names file and annotation
    """
    files, stated = annotation_files(spec)
    skipped: Counter[str] = Counter()
    found = InstanceSet([], [])
    for file in files:
        coco = read_coco(file)
        samples = _file_samples(coco, stated, mpp, skipped)
        for sample, held in zip(samples, split.of_images(coco.images), strict=True):
            (found.held if held else found.train).append(sample)
    if not found.train and not found.held:
        raise ValueError(f"{spec}: no annotations*.json with images beside it; see docs/models.md")
    labels = [label for sample in (*found.train, *found.held) for label in sample.labels]
    if labels and CELL not in labels:
        raise ValueError(
            f"{spec}: {len(labels)} nuclei and no cell; a network would learn that there are no "
            "cells. Leave the set out, or annotate its cells"
        )
    return replace(found, skipped={k: n for k, n in skipped.items() if n})


def _file_samples(
    coco: CocoFile, stated: float | None, mpp: float, skipped: Counter[str]
) -> list[InstanceSample]:
    """Load the samples of one annotation file, in order of their names."""
    skipped.update(coco.left_out)
    with ThreadPoolExecutor() as pool:
        pixels = list(pool.map(read_image, [image.path for image in coco.images]))
    masks, areas = [], []
    for image in coco.images:
        found, nuclei = _image_masks(image.annotations, image.shape, skipped)
        masks.append(found)
        areas.append(nuclei)
    mpps = image_mpps(coco, areas, stated)
    origin = origin_text(coco, mpps, stated is not None)
    samples = []
    for image, array, found, image_mpp in zip(coco.images, pixels, masks, mpps, strict=True):
        sample = _sample(array, found, image.unknown(UNSURE), image_mpp / mpp, skipped)
        samples.append(replace(sample, group=coco.group, name=image.name, mpp=mpp, origin=origin))
    return samples


def _image_masks(
    annotations: Sequence[Annotation], shape: tuple[int, int], skipped: Counter[str]
) -> tuple[list[_Found], list[float]]:
    """Return the masks of one image (h, w), and the areas of its nuclei in pixels."""
    masks: list[_Found] = []
    areas: list[float] = []
    for annotation in annotations:
        name = annotation.category
        if name not in (*CELLS, *NUCLEUS, *UNSURE):
            known = ", ".join((*CELLS, *NUCLEUS, *UNSURE))
            raise ValueError(f"{annotation.where} is of the category {name!r}; known: {known}")
        if annotation.crowd or name in UNSURE:
            skipped["crowd" if annotation.crowd else name] += 1
            continue
        window, mask = annotation.mask(shape)
        if mask.sum() < MIN_AREA_PX:
            skipped["under 4 px"] += 1
            continue
        label = CELL if name in CELLS else NUCLEUS_LABEL
        masks.append(_Found(window, mask, label, annotation.cell_id))
        if label == NUCLEUS_LABEL:
            areas.append(annotation.stated_area or float(mask.sum()))
    return masks, areas


def _sample(
    image: NDArray[np.uint8],
    found: Sequence[_Found],
    unknown: Bools | None,
    scale: float,
    skipped: Counter[str],
) -> InstanceSample:
    """Make a sample of an image and its instances, resized by `scale`."""
    sample = InstanceSample(
        image,
        np.array([f.window for f in found], np.int32).reshape(-1, 4),
        tuple(f.mask for f in found),
        np.array([f.label for f in found], np.uint8),
        np.array([f.cell_id for f in found], np.int64),
        unknown=unknown,
    )
    smaller = resize_image(image, scale)
    if smaller.shape == image.shape:
        return sample
    fy, fx = (a / b for a, b in zip(image.shape[:2], smaller.shape[:2], strict=True))
    # Pixel centres are at whole numbers for OpenCV, and at halves for `resize_image`.
    matrix = np.array([[fx, 0, fx / 2 - 0.5], [0, fy, fy / 2 - 0.5]])
    shape = smaller.shape[:2]
    kept, windows, masks = warp_masks(sample, matrix, shape)
    large = np.array([m.sum() >= MIN_AREA_PX for m in masks], bool)
    skipped["under 4 px"] += len(sample) - int(large.sum())
    if unknown is not None:
        way = cv2.INTER_NEAREST_EXACT
        unknown = cv2.resize(unknown.astype(np.uint8), shape[::-1], interpolation=way) > 0
    changed = replace(sample, image=smaller, windows=windows, masks=masks, unknown=unknown)
    return _take(changed, kept, large)


def _take(sample: InstanceSample, kept: NDArray[np.integer], wanted: Bools) -> InstanceSample:
    """Keep the wanted instances of `sample`, whose masks are those of instances `kept`."""
    return replace(
        sample,
        windows=sample.windows[wanted],
        masks=tuple(m for m, w in zip(sample.masks, wanted, strict=True) if w),
        labels=sample.labels[kept[wanted]],
        cell_id=sample.cell_id[kept[wanted]],
    )


def warp_masks(
    sample: InstanceSample, matrix: NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[NDArray[np.intp], NDArray[np.int32], tuple[Bools, ...]]:
    """Warp the masks of a sample into a frame (h, w), each in its own window.

    Parameters
    ----------
    matrix
        (2, 3), from pixel centres of the frame to pixel centres of the sample's image
    shape
        height and width of the frame

    Returns
    -------
    kept, windows, masks
        the instances that the frame shows, their windows in it, and their masks
    """
    turn, shift = matrix[:, :2], matrix[:, 2]
    x0, y0, x1, y1 = (sample.windows[:, i].astype(float) for i in range(4))
    corners = np.stack([(x, y) for x in (x0 - 1, x1) for y in (y0 - 1, y1)])  # (4, 2, k)
    mapped = np.einsum("ij,cjk->cik", np.linalg.inv(turn), corners - shift[:, None])
    low = np.maximum(np.floor(mapped.min(0)).astype(int), 0)
    high = np.minimum(np.ceil(mapped.max(0)).astype(int) + 1, np.array(shape[1::-1])[:, None])
    kept, windows, masks = [], [], []
    for i in np.flatnonzero((high > low).all(0)):
        corner, size = low[:, i], high[:, i] - low[:, i]
        local = np.hstack([turn, (turn @ corner + shift - sample.windows[i, :2])[:, None]])
        soft = cv2.warpAffine(
            255 * sample.masks[i].astype(np.uint8), local, size.tolist(),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        )  # fmt: skip
        inside = soft >= 128
        if inside.any():
            rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
            (top, bottom), (left, right) = ((v[0], v[-1] + 1) for v in (rows, columns))
            kept.append(i)
            windows.append(np.tile(corner, 2) + np.array((left, top, right, bottom)))
            masks.append(inside[top:bottom, left:right])
    return (
        np.array(kept, np.intp), np.array(windows, np.int32).reshape(-1, 4), tuple(masks)
    )  # fmt: skip


def warp(
    sample: InstanceSample, matrix: NDArray[np.float64], size: int, *, visible: float = 0.2,
    min_px: int = 8,
) -> InstanceSample:  # fmt: skip
    """Return a turned, scaled crop (size, size) of a sample; outside its image is background.

    The crop keeps an instance if at least the share `visible` of its area and at least `min_px`
    pixels are inside.
    """
    # Bright as glass. Reflection, as for a `Sample`, would show instances without a mask.
    fill = np.quantile(sample.image[::4, ::4].reshape(-1, 3), 0.9, axis=0)
    image = cv2.warpAffine(
        sample.image, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT, borderValue=fill.tolist(),
    ).astype(np.uint8)  # fmt: skip
    kept, windows, masks = warp_masks(sample, matrix, (size, size))
    zoom = 1 / abs(np.linalg.det(matrix[:, :2]))
    area = np.array([m.sum() for m in masks])
    whole = np.array([sample.masks[i].sum() for i in kept]) * zoom
    wanted = np.asarray((area >= min_px) & (area >= visible * whole), bool)
    unknown = sample.unknown
    if unknown is not None:
        unknown = cv2.warpAffine(
            unknown.astype(np.uint8), matrix, (size, size),
            flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
        ) > 0  # fmt: skip
    changed = replace(sample, image=image, windows=windows, masks=masks, unknown=unknown)
    return _take(changed, kept, wanted)
