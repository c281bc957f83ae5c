"""Read COCO files: images, categories, annotations and their masks.

A set is a folder with ``annotations*.json`` (COCO; polygons or RLE) and its images. Training and
evaluation read sets here, and only here. Each error names the file and the annotation.

A set without a pixel size gets one from its nuclei: an intermediate squamous nucleus, which
cervical cytology uses as its measure, has 35–50 µm² (`NUCLEUS_UM2` is the middle).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..pixel_size import MPP_RANGE, is_plausible_mpp
from .coco_masks import Bools, Window, decode_mask, extent, scaled_rle
from .split import Split

__all__ = [
    "CELLS",
    "IMAGE_SUFFIXES",
    "NUCLEUS",
    "UNSURE",
    "Annotation",
    "CocoFile",
    "CocoImage",
    "Split",
    "annotation_files",
    "image_mpps",
    "origin_text",
    "read_coco",
    "read_image",
    "resize_image",
]

NUCLEUS_UM2 = 42.0

NUCLEUS = ("nucleus", "nucleus_out_of_focus", "overlapped_nuclei", "non-viable_nucleus",
           "negative_nucleus", "positive_nucleus")  # fmt: skip
"""Categories that are one nucleus each."""
CELLS = ("cytoplasm", "cell")
"""Categories that are one whole cell each, its nucleus included."""
UNSURE = ("leukocyte_nucleus",)
"""Categories that are neither object nor background."""
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
"""Ends of the names of images, where a folder has no list of them."""


@dataclass(frozen=True)
class Annotation:
    """One annotated instance.

    Attributes
    ----------
    where
        file and id, for error messages
    category
        name in lower case
    segmentation
        polygons or RLE as they stand in the file
    stated_area
        area in pixels of the image file; 0 where the file states none
    crowd
        whether it stands for many instances (``iscrowd``)
    cell_id
        number of the cell that it is or lies in; −1 unknown
    mark
        ``point`` (x, y) or ``bbox`` (x, y, width, height) as it stands in the file
    bbox
        ``bbox`` (x, y, width, height) as it stands in the file; None where there is none
    """

    where: str
    category: str
    segmentation: Any
    stated_area: float
    crowd: bool
    cell_id: int
    mark: Any = None
    bbox: Any = None

    def mask(self, shape: tuple[int, int]) -> tuple[Window, Bools]:
        """Decode the mask in an image of `shape` (h, w); see `decode_mask`.

        Raises
        ------
        ValueError
            the segmentation is broken; the message names file and annotation
        """
        with _named(self.where):
            return decode_mask(self.segmentation, shape)

    def rle(self, image_shape: tuple[int, int], shape: tuple[int, int]) -> Any:
        """Return the mask as RLE of an image that was brought to `shape`; see `scaled_rle`.

        Raises
        ------
        ValueError
            the segmentation is broken; the message names file and annotation
        """
        with _named(self.where):
            return scaled_rle(self.segmentation, image_shape, shape)

    def box(self, shape: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return x0, y0, x1, y1: as stated, otherwise around the mask in an image (h, w).

        Raises
        ------
        ValueError
            it has neither box nor mask, or a broken one; the message names file and annotation
        """
        if self.bbox is None:
            if not self.segmentation:
                raise ValueError(f"{self.where} has neither bbox nor segmentation; give one")
            return self.mask(shape)[0]
        with _named(self.where):
            x, y, width, height = (float(v) for v in self.bbox)
            if not all(map(math.isfinite, (x, y, width, height))) or min(width, height) < 0:
                raise ValueError(f"bbox {self.bbox} is not x, y, width, height")
        return x, y, x + width, y + height

    @property
    def area(self) -> float:
        """Pixels: as stated, otherwise counted."""
        if self.stated_area:
            return self.stated_area
        with _named(self.where):
            return float(decode_mask(self.segmentation, extent(self.segmentation))[1].sum())

    @property
    def point(self) -> tuple[float, float]:
        """The marked point x, y: as stated, otherwise the centre of the box."""
        with _named(self.where):
            x, y, *size = (float(v) for v in self.mark)
            width, height = size or (0.0, 0.0)
        return x + width / 2, y + height / 2


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Put the file and the annotation in front of an error."""
    try:
        yield
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{where} cannot be read: {error}") from error


@dataclass(frozen=True)
class CocoImage:
    """One image file with its annotations; `mpp` is None where the set does not state it."""

    path: Path
    name: str
    mpp: float | None
    annotations: tuple[Annotation, ...]


@dataclass(frozen=True)
class CocoFile:
    """One annotation file.

    Attributes
    ----------
    path
        the file; the set is named after its folder
    categories
        their names in lower case, in the file's order
    images
        those whose file is there, sorted by name
    missing
        number of images whose file is not there
    licence
        licence of the set; empty where the file states none
    """

    path: Path
    categories: tuple[str, ...]
    images: tuple[CocoImage, ...]
    missing: int = 0
    licence: str = ""

    @property
    def group(self) -> str:
        """Name of the set: its folder."""
        return self.path.parent.name


def annotation_files(spec: str) -> tuple[list[Path], float | None]:
    """Split ``DIR``, ``FILE``, or either with ``@MPP`` into annotation files and stated mpp.

    Raises
    ------
    ValueError
        the text after @ is no pixel size
    """
    where, _, text = spec.partition("@")
    folder = Path(where)
    files = sorted(folder.glob("annotations*.json")) if folder.is_dir() else [folder]
    if not text:
        return files, None
    try:
        stated = float(text)
    except ValueError:
        stated = math.nan
    if not is_plausible_mpp(stated):
        raise ValueError(
            f"{spec}: {text!r} is no pixel size ({MPP_RANGE}); write DIR@MPP, e.g. DIR@0.25"
        )
    return files, stated


def read_coco(file: Path) -> CocoFile:
    """Read one annotation file and check its entries; masks are decoded later.

    Annotations of images that are not there are left out.

    Raises
    ------
    ValueError
        no such file, no JSON, no COCO, or a broken entry; the message names file and entry
    """
    document = _document(file)
    names = {}
    for number, entry in enumerate(document["categories"]):
        _require(entry, ("id", "name"), f"{file}: category number {number}")
        names[entry["id"]] = str(entry["name"]).lower()
    of_image: dict[Any, list[Annotation]] = {}
    entries = []
    for number, entry in enumerate(document["images"]):
        _require(entry, ("id", "file_name"), f"{file}: image number {number}")
        if (file.parent / entry["file_name"]).is_file():
            entries.append(entry)
            of_image[entry["id"]] = []
    for number, entry in enumerate(document["annotations"]):
        where = f"{file}: annotation {_id(entry, number)}"
        _require(entry, ("image_id", "category_id"), where)
        if entry["image_id"] in of_image:
            of_image[entry["image_id"]].append(_annotation(entry, names, where))
    info = document.get("info") or {}
    images = [
        CocoImage(
            file.parent / entry["file_name"],
            entry["file_name"],
            _mpp(entry.get("mpp", info.get("mpp")), f"{file}: image {entry['file_name']}"),
            tuple(of_image[entry["id"]]),
        )
        for entry in entries
    ]
    return CocoFile(
        path=file,
        categories=tuple(names.values()),
        images=tuple(sorted(images, key=lambda image: image.name)),
        missing=len(document["images"]) - len(images),
        licence=str(info.get("licence", "")),
    )


def _document(file: Path) -> dict[str, Any]:
    """Read a JSON file that has the three parts of COCO."""
    if not file.is_file():
        raise ValueError(f"{file} does not exist; give a folder with annotations*.json")
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}); is it cut off?") from error
    parts = ("images", "annotations", "categories")
    lacking = [k for k in parts if not isinstance(document, dict) or k not in document]
    if lacking:
        raise ValueError(f"{file} has no {', '.join(lacking)}; it must be a COCO file")
    return dict(document)


def _require(entry: Any, keys: Sequence[str], where: str) -> None:
    for key in keys:
        if not isinstance(entry, Mapping) or key not in entry:
            raise ValueError(f"{where} has no {key}; it must be a COCO file")


def _id(entry: Any, number: int) -> Any:
    default = f"number {number}"
    return entry.get("id", default) if isinstance(entry, Mapping) else default


def _annotation(entry: Mapping[str, Any], names: Mapping[Any, str], where: str) -> Annotation:
    category = entry["category_id"]
    if category not in names:
        known = ", ".join(f"{k} {name}" for k, name in names.items()) or "none"
        raise ValueError(f"{where} has the category_id {category!r}; the file has {known}")
    try:
        area = float(entry.get("area") or 0)
        cell = entry.get("cell_id")
        cell_id = -1 if cell is None else int(cell)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where} cannot be read: area or cell_id is no number: {error}") from None
    if not 0 <= area < math.inf:
        raise ValueError(f"{where} has the area {area:g}; it must be 0 or above")
    mask, bbox = entry.get("segmentation"), entry.get("bbox")
    crowd, mark = bool(entry.get("iscrowd")), entry.get("point", bbox)
    return Annotation(where, names[category], mask, area, crowd, cell_id, mark, bbox)


def _mpp(value: Any, where: str) -> float | None:
    """Check the pixel size that a file states; None and 0 state nothing."""
    if not value:
        return None
    if isinstance(value, str) or not is_plausible_mpp(value):
        raise ValueError(f"{where} states mpp {value!r}; it must be a number, {MPP_RANGE}")
    return float(value)


def image_mpps(
    coco: CocoFile, areas: Sequence[Sequence[float]], given: float | None
) -> list[float]:
    """Return µm per pixel of each image: given, stated by the set, or estimated from its nuclei.

    A set gathered from many microscopes is estimated image by image, any other as a whole. It is
    recognised by median areas that differ more than four times.

    Parameters
    ----------
    areas
        pixels of each nucleus of each image

    Raises
    ------
    ValueError
        an image has no stated pixel size and the set has no nuclei
    """
    if given is not None:
        return [given] * len(coco.images)
    everything = [area for per_image in areas for area in per_image]
    lacking = [image.name for image in coco.images if image.mpp is None]
    if lacking and not everything:
        raise ValueError(
            f"{coco.path} states no pixel size for {lacking[0]} and has no nuclei to estimate it "
            "from; give DIR@MPP"
        )
    if not everything:
        return [image.mpp or 0.0 for image in coco.images]
    overall = float((NUCLEUS_UM2 / np.median(everything)) ** 0.5)
    medians = [float(np.median(v)) if len(v) >= 3 else math.nan for v in areas]
    known = [m for m in medians if not math.isnan(m)]
    low, high = np.quantile(known, [0.1, 0.9]) if known else (1.0, 1.0)
    mixed = high > 4 * low
    each = [(NUCLEUS_UM2 / m) ** 0.5 if mixed and m == m else overall for m in medians]
    return [image.mpp or mpp for image, mpp in zip(coco.images, each, strict=True)]


def origin_text(coco: CocoFile, mpps: Sequence[float], stated: bool) -> str:
    """Describe a set in one line, for the card of what is trained on it."""
    known = stated or any(image.mpp for image in coco.images)
    size = "–".join(f"{v:.3g}" for v in sorted({min(mpps, default=0), max(mpps, default=0)}))
    how = "stated" if known else f"estimated from nuclei of {NUCLEUS_UM2:g} µm²"
    return f"{coco.group} (licence: {coco.licence or 'not stated'}; {size} µm per px, {how})"


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image file as RGB uint8 (h, w, 3).

    Raises
    ------
    ValueError
        OpenCV cannot read the file
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise ValueError(f"{path}: not an image that OpenCV reads; use PNG, TIFF or JPEG")
    return image.astype(np.uint8)


def resize_image(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """Resize an image (h, w, 3) by `scale`; changes of 2 % and less are not made."""
    if abs(scale - 1) <= 0.02:
        return image
    height, width = image.shape[:2]
    size = max(8, round(width * scale)), max(8, round(height * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, size, interpolation=way).astype(np.uint8)
