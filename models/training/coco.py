"""Training data: COCO folders brought to the model's mpp, cropped and augmented.

A set is a folder with ``annotations*.json`` (COCO; RLE or polygons) and its images. A set whose
pixel size is not known gets it from its nuclei: an intermediate squamous nucleus, the yardstick of
cervical cytology, is 35–50 µm² (`NUCLEUS_UM2` is the middle).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "IGNORE",
    "Sample",
    "Split",
    "annotation_files",
    "edge_target",
    "image_mpps",
    "load_set",
    "origin_text",
    "read_image",
    "resize_image",
]

NUCLEUS_UM2 = 42.0
IGNORE = -100
"""Target value of pixels whose truth is unknown."""

GAP_PX = 2
"""How deep a nucleus that touches another is taught as background, model pixels."""
GAP_WEIGHT = 5.0
"""How much more the pixels around such a gap count."""

Bools = NDArray[np.bool_]
Batch = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]
"""Images (n, h, w, 3), targets (n, h, w), edges (n, 1, h/2, w/2), pixel weights (n, h, w)."""

# Categories that are one nucleus each; those of `UNSURE` are neither nucleus nor background.
NUCLEUS = ("nucleus", "nucleus_out_of_focus", "overlapped_nuclei", "non-viable_nucleus")
UNSURE = ("leukocyte_nucleus",)


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
        set, licence and where its pixel size comes from, for the card
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.int32]
    classes: NDArray[np.uint8]
    group: str
    name: str
    mpp: float
    origin: str = ""


@dataclass(frozen=True)
class Split:
    """Which images are held out: ``fold:K/N`` every Nth, ``time:SHARE`` the last ones, ``none``."""

    text: str

    def holds_out(self, position: int, count: int) -> bool:
        """Whether the image at `position` of `count` is for validation."""
        kind, _, value = self.text.partition(":")
        if kind == "none":
            return False
        if kind == "fold":
            fold, folds = (int(v) for v in value.split("/"))
            return position % folds == fold
        if kind == "time":
            return position >= round(count * (1 - float(value)))
        raise ValueError(f"unknown split {self.text!r}; use fold:0/5, time:0.5 or none")


def _mask(segmentation: Any, height: int, width: int) -> tuple[tuple[slice, slice], Bools]:
    """COCO polygons, compressed or uncompressed RLE → a window of the image, its bool mask."""
    from pycocotools import mask as coco

    if isinstance(segmentation, list):
        rings = [np.asarray(ring, float).reshape(-1, 2) for ring in segmentation]
        points = np.concatenate(rings)
        x0, y0 = np.maximum(np.floor(points.min(0)).astype(int) - 1, 0).tolist()
        x1, y1 = np.minimum(np.ceil(points.max(0)).astype(int) + 1, (width, height)).tolist()
        if x0 >= x1 or y0 >= y1:
            return (slice(0), slice(0)), np.zeros((0, 0), bool)
        near = [(ring - (x0, y0)).ravel().tolist() for ring in rings]
        rle = coco.merge(coco.frPyObjects(near, y1 - y0, x1 - x0))
        return (slice(y0, y1), slice(x0, x1)), coco.decode(rle).astype(bool)
    if isinstance(segmentation["counts"], list):
        rle = coco.frPyObjects(segmentation, height, width)
    else:
        rle = segmentation
    return (slice(height), slice(width)), coco.decode(rle).astype(bool)


def image_mpps(
    document: dict[str, Any], areas: dict[int, list[float]], given: float | None
) -> dict[int, float]:
    """µm per pixel of each image: given, stated by the set, or estimated from nucleus size."""
    stated = {
        i["id"]: i.get("mpp", document.get("info", {}).get("mpp")) for i in document["images"]
    }
    if given is not None:
        return dict.fromkeys(stated, given)
    everything = [a for per_image in areas.values() for a in per_image]
    if not everything:
        return {k: v or 0.0 for k, v in stated.items()}
    overall = float((NUCLEUS_UM2 / np.median(everything)) ** 0.5)
    medians = {k: float(np.median(v)) for k, v in areas.items() if len(v) >= 3}
    spread = np.quantile(list(medians.values()), [0.1, 0.9]) if medians else np.ones(2)
    # A set gathered from many microscopes has no pixel size of its own; each image has.
    mixed = spread[1] > 4 * spread[0]
    each = {k: (NUCLEUS_UM2 / m) ** 0.5 if mixed else overall for k, m in medians.items()}
    return {k: v or each.get(k, overall) for k, v in stated.items()}


def annotation_files(spec: str) -> tuple[list[Path], float | None]:
    """``DIR``, ``FILE``, or either with ``@MPP`` → its annotation files and the mpp stated."""
    where, _, stated = spec.partition("@")
    folder = Path(where)
    files = sorted(folder.glob("annotations*.json")) if folder.is_dir() else [folder]
    return files, float(stated) if stated else None


def load_set(
    spec: str,
    *,
    mpp: float,
    split: Split,
    categories: Sequence[str] = (),
    unsure: Sequence[str] = UNSURE,
) -> tuple[list[Sample], list[Sample]]:
    """Training and held-out samples of one set, at `mpp` µm per pixel.

    Parameters
    ----------
    spec
        ``DIR`` or ``DIR@MPP``, the latter stating the pixel size of its images
    categories
        names of the COCO categories that become classes 1, 2, …; empty: all that mean nucleus are 1

    Raises
    ------
    ValueError
        no annotation file with images, or none of the categories in it
    """
    files, stated = annotation_files(spec)
    train: list[Sample] = []
    held: list[Sample] = []
    for file in files:
        document = json.loads(file.read_text())
        class_of, unknown = _classes(document["categories"], categories, unsure)
        images = [i for i in document["images"] if (file.parent / i["file_name"]).is_file()]
        mine: dict[int, list[dict[str, Any]]] = {i["id"]: [] for i in images}
        for annotation in document["annotations"]:
            if annotation["image_id"] in mine and annotation["category_id"] in {
                *class_of,
                *unknown,
            }:
                mine[annotation["image_id"]].append(annotation)
        nuclei = {
            k: [a["area"] for a in v if a["category_id"] in class_of] for k, v in mine.items()
        }
        mpps = image_mpps(document, nuclei, stated)
        origin = origin_text(file.parent.name, document, list(mpps.values()), stated is not None)
        images.sort(key=lambda i: i["file_name"])
        with ThreadPoolExecutor() as pool:
            pixels = pool.map(
                _pixels,
                [file.parent / i["file_name"] for i in images],
                [mine[i["id"]] for i in images],
                [class_of] * len(images),
                [mpps[i["id"]] / mpp for i in images],
            )
            for position, (entry, found) in enumerate(zip(images, pixels, strict=True)):
                sample = Sample(*found, file.parent.name, entry["file_name"], mpp, origin)
                (held if split.holds_out(position, len(images)) else train).append(sample)
    if not train and not held:
        raise ValueError(f"{spec}: no annotations*.json with images beside it; see docs/models.md")
    return train, held


def origin_text(group: str, document: dict[str, Any], mpps: list[float], stated: bool) -> str:
    """One line on a set for the card of what is trained on it."""
    info = document.get("info") or {}
    known = stated or "mpp" in info or any("mpp" in i for i in document["images"])
    size = "–".join(f"{v:.3g}" for v in sorted({min(mpps, default=0), max(mpps, default=0)}))
    how = "stated" if known else f"estimated from nuclei of {NUCLEUS_UM2:g} µm²"
    return f"{group} (licence: {info.get('licence', 'not stated')}; {size} µm per px, {how})"


def _classes(
    table: Sequence[dict[str, Any]], categories: Sequence[str], unsure: Sequence[str]
) -> tuple[dict[int, int], set[int]]:
    """COCO category id → class number; ids whose pixels are unknown."""
    names = {c["id"]: c["name"].lower() for c in table}
    if categories:
        order = [c.lower() for c in categories]
        class_of = {k: order.index(n) + 1 for k, n in names.items() if n in order}
    else:
        class_of = {k: 1 for k, n in names.items() if n in NUCLEUS}
    if not class_of:
        raise ValueError(
            f"categories {sorted(names.values())} hold none of {categories or NUCLEUS}"
        )
    return class_of, {k for k, n in names.items() if n in unsure}


def _pixels(
    path: Path, annotations: Sequence[dict[str, Any]], class_of: dict[int, int], scale: float
) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.uint8]]:
    """Image, labels and classes of `Sample`, brought to the model's mpp."""
    image = read_image(path)
    height, width = image.shape[:2]
    labels = np.zeros((height, width), np.int32)
    classes = [0]
    for annotation in annotations:
        window, inside = _mask(annotation["segmentation"], height, width)
        view = labels[window]
        if annotation["category_id"] in class_of:
            classes.append(class_of[annotation["category_id"]])
            view[inside] = len(classes) - 1
        else:
            view[inside & (view == 0)] = -1
    image = resize_image(image, scale)
    if image.shape[:2] != labels.shape:
        size = image.shape[1::-1]
        labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return image, labels, np.array(classes, np.uint8)


def read_image(path: Path) -> NDArray[np.uint8]:
    """RGB (h, w, 3) of an image file; `ValueError` where it is none."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise ValueError(f"{path}: not an image that OpenCV reads")
    return image.astype(np.uint8)


def resize_image(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """An image (h, w, 3) `scale` times as large, itself where that is hardly a change."""
    if abs(scale - 1) <= 0.02:
        return image
    height, width = image.shape[:2]
    size = max(8, round(width * scale)), max(8, round(height * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, size, interpolation=way).astype(np.uint8)


def edge_target(labels: NDArray[np.int32]) -> NDArray[np.float32]:
    """Contour of every nucleus at 1/2 scale (paper, section 2.4): float32 (h/2, w/2), 0 or 1."""
    shown = np.maximum(labels, 0).astype(np.float32)
    kernel = np.ones((3, 3), np.uint8)
    contour = (cv2.dilate(shown, kernel) != cv2.erode(shown, kernel)) & (shown > 0)
    h, w = contour.shape
    return contour.reshape(h // 2, 2, w // 2, 2).any((1, 3)).astype(np.float32)


def contacts(labels: NDArray[np.int32], reach: int) -> NDArray[np.bool_]:
    """Pixels (h, w) within `reach` of two different nuclei, diagonals included."""
    shown = np.maximum(labels, 0).astype(np.float32)
    kernel = np.ones((2 * reach + 1,) * 2, np.uint8)
    highest = cv2.dilate(shown, kernel)
    lowest = cv2.erode(np.where(shown > 0, shown, np.float32(2**24)), kernel)
    return np.asarray((highest > 0) & (lowest != highest))
