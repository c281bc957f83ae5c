"""Training data: COCO folders brought to the model's mpp, cropped and augmented.

A set is a folder with ``annotations*.json`` (COCO; RLE or polygons) and its images. A set whose
pixel size is not known gets it from its nuclei: an intermediate squamous nucleus, the yardstick of
cervical cytology, is 35–50 µm² (`NUCLEUS_UM2` is the middle).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

__all__ = [
    "IGNORE",
    "Augmentation",
    "Crops",
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


@dataclass(frozen=True)
class Augmentation:
    """Random change of geometry, stain, light and focus; strong, since every lab differs."""

    scale: float = 1.3
    stain: float = 1.0
    grey: float = 0.15
    blur: float = 0.3

    def __post_init__(self) -> None:
        if self.scale < 1 or self.stain < 0 or not 0 <= self.grey <= 1:
            raise ValueError(
                f"augmentation by zoom {self.scale}, stain {self.stain} and grey {self.grey} makes "
                "no sense; zoom is at least 1, stain at least 0, grey a share"
            )

    def place(
        self,
        h: int,
        w: int,
        size: int,
        rng: np.random.Generator,
        inside: Callable[[], NDArray[np.integer]],
        *,
        zoom: float = 1.0,
    ) -> NDArray[np.float64]:
        """Where a crop of `size` lies in an image (h, w): (2, 3), crop pixel → image pixel.

        Half of the crops are laid near one of the points (row, col) that `inside` gives; `zoom`
        is what the crop is enlarged by besides the random zoom.
        """
        zoom *= self.scale ** rng.uniform(-1, 1)
        angle = rng.uniform(0, 2 * np.pi)
        flip = 1 if rng.random() < 0.5 else -1
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
        turn[:, 0] *= flip
        centre = np.array([rng.uniform(0, w), rng.uniform(0, h)])
        points = inside() if rng.random() < 0.5 else np.zeros((0, 2))
        if len(points):
            centre = points[rng.integers(len(points)), ::-1] + rng.uniform(-0.35, 0.35, 2) * size
        if size / zoom < min(h, w):  # keep the crop on the image where it fits
            reach = size / zoom / 2
            centre = np.clip(centre, reach, np.array([w, h]) - reach)
        return np.hstack([turn, (centre - turn @ np.full(2, size / 2)).reshape(2, 1)])

    def crop(
        self, sample: Sample, size: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """A turned, scaled, mirrored crop (size, size) of image and labels."""
        h, w = sample.labels.shape
        matrix = self.place(h, w, size, rng, lambda: np.argwhere(sample.labels > 0))
        way = cv2.WARP_INVERSE_MAP
        image = cv2.warpAffine(
            sample.image, matrix, (size, size), flags=cv2.INTER_LINEAR | way,
            borderMode=cv2.BORDER_REFLECT_101,
        )  # fmt: skip
        labels = cv2.warpAffine(
            sample.labels, matrix, (size, size), flags=cv2.INTER_NEAREST | way,
            borderMode=cv2.BORDER_REFLECT_101,
        )  # fmt: skip
        return image.astype(np.uint8), labels.astype(np.int32)

    def colour(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Another lab's stain and camera: densities mixed and scaled, light, focus, noise."""
        density = -np.log((image.astype(np.float32) + 1) / 256)
        if rng.random() < self.grey:
            density[:] = density @ rng.dirichlet(np.ones(3)).astype(np.float32)[:, None]
        else:
            mix = np.eye(3) + self.stain * rng.normal(0, 0.12, (3, 3))
            if rng.random() < 0.15:  # another dye altogether
                mix = mix[rng.permutation(3)]
            density = np.maximum(density @ mix.astype(np.float32), 0)
        density *= float(np.exp(self.stain * rng.normal(0, 0.25)))
        density += rng.uniform(-0.05, 0.25, 3).astype(np.float32) * (rng.random() < 0.5)
        out = 256 * np.exp(-np.maximum(density, 0)) - 1
        out = 255 * (np.clip(out, 0, 255) / 255) ** float(np.exp(rng.normal(0, 0.15)))
        if rng.random() < self.blur:
            out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.4, 1.3))
        out += rng.uniform(0, 6) * rng.standard_normal(out.shape, np.float32)
        out8 = np.clip(out, 0, 255).astype(np.uint8)
        if rng.random() < 0.3:
            _, data = cv2.imencode(
                ".jpg", out8, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 95))]
            )
            out8 = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
        return out8


class Crops(Dataset[Batch]):
    """Batches of augmented crops, one per step.

    Pixels of nuclei that touch are taught as background `GAP_PX` deep, and whatever lies around
    such a gap counts `GAP_WEIGHT` times, so that the network parts what is in contact.
    Step s draws from its own generator, so a resumed run sees what an uninterrupted one would.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        chances: NDArray[np.float64],
        *,
        size: int,
        batch: int,
        seed: int,
        augmentation: Augmentation,
    ) -> None:
        self.samples, self.chances = samples, chances
        self.size, self.batch, self.seed = size, batch, seed
        self.augmentation = augmentation

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, step))
        n, size = self.batch, self.size
        images = np.empty((n, size, size, 3), np.uint8)
        targets = np.empty((n, size, size), np.int64)
        edges = np.empty((n, 1, size // 2, size // 2), np.float32)
        weights = np.empty((n, size, size), np.float32)
        for i, k in enumerate(rng.choice(len(self.samples), n, p=self.chances)):
            sample = self.samples[k]
            image, labels = self.augmentation.crop(sample, size, rng)
            images[i] = self.augmentation.colour(image, rng)
            known = sample.classes[np.maximum(labels, 0)].astype(np.int64)
            gap = contacts(labels, GAP_PX)
            targets[i] = np.where(labels < 0, IGNORE, np.where(gap, 0, known))
            weights[i] = np.where(contacts(labels, GAP_PX + 1), GAP_WEIGHT, 1)
            edges[i, 0] = edge_target(labels)
        return images, targets, edges, weights
