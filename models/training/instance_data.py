"""Training data of the instance models: cells and nuclei that overlap, each with its own mask.

Every mask is kept in a window of its own, so sixty cells of a large image take little room.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, SupportsIndex

import cv2
import numpy as np
from numpy.typing import NDArray

from .coco import (
    NUCLEUS,
    UNSURE,
    Split,
    annotation_files,
    image_mpps,
    origin_text,
    read_image,
    resize_image,
)

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

CELLS = ("cytoplasm", "cell")
"""Categories that are one whole cell each, its nucleus included."""

MIN_AREA_PX = 4

Bools = NDArray[np.bool_]


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
        int64 (k,): which cell it is or lies in, −1 unknown
    group, name, mpp, origin
        as in `wsiseg_models.training.coco.Sample`
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

    def __len__(self) -> int:
        return len(self.masks)

    def view(self, canvas: NDArray[Any], i: SupportsIndex) -> NDArray[Any]:
        """The part of an array (h, w, …) that lies under the mask of instance `i`."""
        x0, y0, x1, y1 = self.windows[i]
        return canvas[y0:y1, x0:x1]

    def count(self, label: int) -> NDArray[np.uint8]:
        """How many instances of `label` lie over each pixel, uint8 (h, w)."""
        counts = np.zeros(self.image.shape[:2], np.uint8)
        for i in np.flatnonzero(self.labels == label):
            self.view(counts, i)[self.masks[i]] += 1
        return counts


@dataclass(frozen=True)
class InstanceSet:
    """Samples to train on, samples held out, and how many annotations were skipped, by reason."""

    train: list[InstanceSample]
    held: list[InstanceSample]
    skipped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Found:
    """One annotation: its mask in a window (x0, y0, x1, y1) of the image as it lies on the disk."""

    window: tuple[int, int, int, int]
    mask: Bools
    label: int
    cell_id: int


def load_instance_set(spec: str, *, mpp: float, split: Split) -> InstanceSet:
    """Training and held-out samples of one set, at `mpp` µm per pixel.

    Images without annotations stay, as examples of background. Annotations of leukocytes, crowds
    and specks, and images that are not there, are left out and counted.

    Parameters
    ----------
    spec
        ``DIR``, ``FILE``, or either with ``@MPP``, which states the pixel size of the images

    Raises
    ------
    ValueError
        no annotation file with images, a category that is neither cell nor nucleus, or an
        annotation that cannot be read; the message names file and annotation
    """
    files, stated = annotation_files(spec)
    skipped: Counter[str] = Counter()
    found = InstanceSet([], [])
    for file in files:
        document = _document(file)
        names = {c["id"]: c["name"].lower() for c in document["categories"]}
        images = [i for i in document["images"] if (file.parent / i["file_name"]).is_file()]
        skipped["image not there"] += len(document["images"]) - len(images)
        images.sort(key=lambda i: i["file_name"])
        with ThreadPoolExecutor() as pool:
            paths = [file.parent / i["file_name"] for i in images]
            pixels = list(pool.map(read_image, paths))
        sizes = {i["id"]: p.shape[:2] for i, p in zip(images, pixels, strict=True)}
        mine, areas = _annotations(file, document["annotations"], names, sizes, skipped)
        mpps = image_mpps(document, areas, stated)
        origin = origin_text(
            file.parent.name, document, [mpps[i["id"]] for i in images], stated is not None
        )
        for position, (entry, image) in enumerate(zip(images, pixels, strict=True)):
            # An image without nuclei in a set without pixel size is taken to be at the model's.
            scale = (mpps[entry["id"]] or mpp) / mpp
            sample = _sample(image, mine[entry["id"]], scale, skipped)
            sample = replace(
                sample, group=file.parent.name, name=entry["file_name"], mpp=mpp, origin=origin
            )
            held = split.holds_out(position, len(images))
            (found.held if held else found.train).append(sample)
    if not found.train and not found.held:
        raise ValueError(f"{spec}: no annotations*.json with images beside it; see docs/models.md")
    return replace(found, skipped={k: n for k, n in skipped.items() if n})


def _document(file: Path) -> dict[str, Any]:
    """A COCO file whose parts are there."""
    if not file.is_file():
        raise ValueError(f"{file} does not exist; give a folder with annotations*.json")
    try:
        document = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}); is it cut off?") from error
    parts = ("images", "annotations", "categories")
    lacking = [k for k in parts if not isinstance(document, dict) or k not in document]
    if lacking:
        raise ValueError(f"{file} has no {', '.join(lacking)}; it must be a COCO file")
    return dict(document)


def _annotations(
    file: Path,
    annotations: Sequence[Mapping[str, Any]],
    names: Mapping[int, str],
    sizes: Mapping[int, tuple[int, ...]],
    skipped: Counter[str],
) -> tuple[dict[int, list[_Found]], dict[int, list[float]]]:
    """Masks of each image, and the areas of its nuclei, from which its pixel size is estimated."""
    masks: dict[int, list[_Found]] = {k: [] for k in sizes}
    areas: dict[int, list[float]] = {k: [] for k in sizes}
    for number, annotation in enumerate(annotations):
        where = f"{file}: annotation {annotation.get('id', f'number {number}')}"
        lacking = [k for k in ("image_id", "category_id") if k not in annotation]
        if lacking:
            raise ValueError(f"{where} has no {lacking[0]}; it must be a COCO file")
        image, category = annotation["image_id"], annotation["category_id"]
        if image not in masks:
            continue
        name = names.get(category, str(category))
        if name not in (*CELLS, *NUCLEUS, *UNSURE):
            known = ", ".join((*CELLS, *NUCLEUS, *UNSURE))
            raise ValueError(f"{where} is of the category {name!r}; known: {known}")
        if annotation.get("iscrowd") or name in UNSURE:
            skipped["crowd" if annotation.get("iscrowd") else name] += 1
            continue
        h, w = sizes[image][:2]
        try:
            window, mask = _decode(annotation.get("segmentation"), h, w)
            cell = int(annotation.get("cell_id", -1))
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            raise ValueError(f"{where} cannot be read: {error}") from error
        if mask.sum() < MIN_AREA_PX:
            skipped["under 4 px"] += 1
            continue
        label = CELL if name in CELLS else NUCLEUS_LABEL
        masks[image].append(_Found(window, mask, label, cell))
        if label == NUCLEUS_LABEL:
            areas[image].append(annotation.get("area") or float(mask.sum()))
    return masks, areas


def _decode(segmentation: Any, h: int, w: int) -> tuple[tuple[int, int, int, int], Bools]:
    """Polygons, compressed or uncompressed RLE → window (x0, y0, x1, y1) in the image, its mask."""
    if isinstance(segmentation, list):
        x0, y0, mask = _polygons(segmentation, h, w)
    elif isinstance(segmentation, dict):
        size = tuple(segmentation.get("size", (h, w)))
        if size != (h, w):
            raise ValueError(f"its mask is of {size} and its image of {(h, w)} rows and columns")
        counts = segmentation["counts"]
        runs = np.asarray(counts if isinstance(counts, list) else _runs(counts), np.int64)
        if (runs < 0).any() or runs.sum() != h * w:
            raise ValueError(f"its runs cover {runs.sum()} of {h * w} pixels")
        values = np.arange(len(runs)) % 2 == 1
        x0, y0, mask = 0, 0, np.repeat(values, runs).reshape(w, h).T
    else:
        raise ValueError("its segmentation is neither polygons nor RLE")
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return (0, 0, 0, 0), np.zeros((0, 0), bool)
    (top, bottom), (left, right) = ((v[0], v[-1] + 1) for v in (rows, columns))
    window = int(x0 + left), int(y0 + top), int(x0 + right), int(y0 + bottom)
    return window, mask[top:bottom, left:right].copy()


def _polygons(rings: Sequence[Any], h: int, w: int) -> tuple[int, int, Bools]:
    """x0, y0 and the mask of polygons' union, cut at the image's border."""
    from pycocotools import mask as coco

    points = [np.asarray(ring, float).reshape(-1, 2) for ring in rings]
    if not points or any(len(p) < 3 or not np.isfinite(p).all() for p in points):
        raise ValueError("a polygon has three or more points, all of them numbers")
    everything = np.concatenate(points)
    x0, y0 = np.maximum(np.floor(everything.min(0)).astype(int) - 1, 0).tolist()
    x1, y1 = np.minimum(np.ceil(everything.max(0)).astype(int) + 1, (w, h)).tolist()
    if x0 >= x1 or y0 >= y1:
        return 0, 0, np.zeros((0, 0), bool)
    near = [(p - (x0, y0)).ravel().tolist() for p in points]
    rle = coco.merge(coco.frPyObjects(near, y1 - y0, x1 - x0))
    return x0, y0, coco.decode(rle).astype(bool)


def _runs(text: str | bytes) -> list[int]:
    """Run lengths of COCO's compressed RLE.

    Each number is written in digits of five bits, lowest first, a sixth saying that more follow;
    from the fourth number on it is the difference from the one two before. pycocotools reads
    beyond the end of a broken one.
    """
    runs: list[int] = []
    value = shift = 0
    for code in text.encode() if isinstance(text, str) else text:
        digit = code - 48
        if not 0 <= digit < 64:
            raise ValueError(f"{chr(code)!r} is no digit of a compressed RLE")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("a compressed RLE ends within a number")
    return runs


def _sample(
    image: NDArray[np.uint8], found: Sequence[_Found], scale: float, skipped: Counter[str]
) -> InstanceSample:
    """Image and instances, brought to the model's mpp."""
    sample = InstanceSample(
        image,
        np.array([f.window for f in found], np.int32).reshape(-1, 4),
        tuple(f.mask for f in found),
        np.array([f.label for f in found], np.uint8),
        np.array([f.cell_id for f in found], np.int64),
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
    return _take(replace(sample, image=smaller, windows=windows, masks=masks), kept, large)


def _take(sample: InstanceSample, kept: NDArray[np.integer], wanted: Bools) -> InstanceSample:
    """`sample`, whose masks are those of instances `kept` already, without those not wanted."""
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
    """Which instances a warped frame (h, w) shows, their windows in it, and their masks.

    `matrix` (2, 3) takes pixel centres of the frame to pixel centres of the sample's image. Each
    mask is warped in its own window.
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
    """A turned, scaled crop (size, size) of a sample; beyond its image there is background.

    Instances of which less than the share `visible`, or less than `min_px` pixels, is in the crop
    are not among those of the crop.
    """
    # Bright, as glass is; mirrored instances, as at the border of a `Sample`, would have no truth.
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
    return _take(replace(sample, image=image, windows=windows, masks=masks), kept, wanted)
