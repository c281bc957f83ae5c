"""The sets of a suite: which folders count, which of their images, and the truth of each image.

A set is an ``annotations*.json`` (COCO) with its images, or a ``boxes.json`` with marked nuclei. A
set is left out, with its reason, where no image is there, where no pixel size can be told, or where
the images are crops of single cells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from wsiseg_models.training.coco import (
    CELLS,
    NUCLEUS,
    UNSURE,
    Annotation,
    CocoFile,
    CocoImage,
    Split,
    image_mpps,
    read_coco,
)

from wsi_pipeline.core.errors import DataError, UsageError, WsisegError

__all__ = ["LeftOut", "SuiteField", "SuiteSet", "find_sets"]

LEAST_SIDE_PX = 96
"""Images with a smaller median side are crops of single cells, not fields."""

KEPT_BACK = ("cric_fields", "isbi2014/edf_tiles_nuclei", "isbi2014/edf")
"""Sets that no training and no choice of a setting may use; all their images count.

The rules for ghost cells and straight outlines were nevertheless chosen on `isbi2014/edf`, so its
ghosts judge nothing.
"""

TISSUE = ("dsb2018_subset", "nucls_samples")
"""Sets of tissue sections, which no model here is made for."""

NOTES = {
    "bttfa_lbc": "liquid-based Pap",
    "ccagt_samples": "AgNOR stain",
    "cric_fields": "conventional Pap; some nuclei are marked, not all",
    "dsb2018_subset": "mixed stains, mostly tissue",
    "isbi2014/edf": "extended focus, whole fields; ghost cells only, whose rules were chosen here",
    "isbi2014/edf_tiles_nuclei": "extended focus; nuclei are traced, not every cell has one",
    "isbi2014/train45": "synthetic overlapping cells",
    "nucls_samples": "H&E tissue",
}
"""Set → what its images are."""

UNTRACED = {"isbi2014/edf_tiles_nuclei": "edf"}
"""Set → folder beside its annotations with more images of the same pixel size, without truth."""

Areas = NDArray[np.object_]


@dataclass(frozen=True)
class LeftOut:
    """A set that is not measured, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class SuiteField:
    """One image of a set with its truth, in pixels of the image.

    Attributes
    ----------
    path, name, mpp
        the image, its name in the set, and its µm per pixel
    nuclei, cells
        shapely areas of the true nuclei and whole cells; None where the set has no such truth
    unsure
        shapely areas that are neither object nor background
    points, classes
        float64 (m, 2), x and y of marked nuclei, and the class of each; empty without marks
    """

    path: Path
    name: str
    mpp: float
    nuclei: Areas | None = None
    cells: Areas | None = None
    unsure: Areas = field(default_factory=lambda: np.zeros(0, object))
    points: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class SuiteSet:
    """The images of one set that are measured.

    Attributes
    ----------
    name
        name of the folder, with that of the file where the folder has several
    fields
        the chosen images
    images
        number of images that the set has
    kept_back
        whether no training and no choice used the set, so that all images are measured
    marked
        whether its truth is marked points, not outlines
    licence
        as the file states it
    left_out
        reason → number of images and annotations that are not used
    """

    name: str
    fields: tuple[SuiteField, ...]
    images: int
    kept_back: bool
    marked: bool
    licence: str
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def tissue(self) -> bool:
        """Whether its images are tissue sections."""
        return self.name in TISSUE

    @property
    def note(self) -> str:
        """What its images are; empty where this is not known."""
        return NOTES.get(self.name, "")


def find_sets(folder: Path, split: str) -> tuple[list[SuiteSet], list[LeftOut]]:
    """Return the sets below `folder` that are measured, with their truth, and those left out.

    Parameters
    ----------
    split
        ``all``, or the held-out images of training, ``fold:K/N`` or ``time:SHARE``. Marked sets and
        those in `KEPT_BACK` are used whole.

    Raises
    ------
    UsageError
        the split is unknown
    DataError
        the folder does not exist, no set can be measured, or a file is broken
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give one that holds a folder for each set")
    held_out = _rule(split)
    sets: list[SuiteSet] = []
    left_out: list[LeftOut] = []
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(place.glob("annotations*.json")) + sorted(place.glob("boxes.json"))
        try:
            documents = [read_coco(file) for file in files]
            many = sum(bool(document.images) for document in documents) > 1
            for document in documents:
                name = _set_name(document, many)
                reason = _reason_to_leave_out(document)
                if reason:
                    left_out.append(LeftOut(name, reason))
                else:
                    sets.extend(_sets_of(document, name, held_out))
        except ValueError as error:
            if isinstance(error, WsisegError):
                raise
            raise DataError(str(error)) from error
        if not files:
            left_out.append(LeftOut(place.name, "has no annotations*.json and no boxes.json"))
    if not sets:
        found = "; ".join(f"{one.name} {one.reason}" for one in left_out) or "it has no folders"
        raise DataError(f"{folder} has no set that can be measured: {found}; see docs/models.md")
    return sets, left_out


def _rule(split: str) -> Callable[[Sequence[CocoImage]], list[bool]]:
    """Return a function that tells which images of a file are taken."""
    if split == "all":
        return lambda images: [True] * len(images)
    try:
        rule = Split(split)
    except ValueError:
        rule = Split("none")
    if rule.text == "none":
        raise UsageError(f"unknown split {split!r}; use fold:0/5, time:0.5 or all")
    return rule.of_images


def _set_name(document: CocoFile, many: bool) -> str:
    part = document.path.stem.removeprefix("annotations").strip("_")
    return f"{document.group}/{part}" if many and part else document.group


def _reason_to_leave_out(document: CocoFile) -> str:
    """Return why a set cannot be measured; empty if it can."""
    if not document.images:
        return "has no images"
    sides = [min(image.shape) for image in document.images]
    if np.median(sides) < LEAST_SIDE_PX:
        return f"has crops of single cells ({np.median(sides):.0f} px), not fields"
    if _marked(document):
        return "" if document.images[0].mpp else "states no mpp, and marks give no pixel size"
    categories = {a.category for image in document.images for a in image.annotations}
    if not categories & {*NUCLEUS, *CELLS}:
        return f"has neither nuclei nor cells, but {', '.join(sorted(categories)) or 'nothing'}"
    if not categories & {*NUCLEUS} and any(image.mpp is None for image in document.images):
        return "states no mpp and has no nuclei to estimate it from"
    return ""


def _marked(document: CocoFile) -> bool:
    return document.path.name == "boxes.json"


def _sets_of(
    document: CocoFile, name: str, held_out: Callable[[Sequence[CocoImage]], list[bool]]
) -> Iterator[SuiteSet]:
    """Yield the set of one file, and the images without truth that belong to it."""
    kept_back = _marked(document) or name in KEPT_BACK
    count = len(document.images)
    chosen = [k for k, held in enumerate(held_out(document.images)) if kept_back or held]
    mpps = image_mpps(document, [_areas(image) for image in document.images], None)
    categories = {a.category for image in document.images for a in image.annotations}
    read = _marked_field if _marked(document) else _traced_field
    fields = [read(document.images[k], mpps[k], categories) for k in chosen]
    whole = SuiteSet(
        name, tuple(fields), count, kept_back, _marked(document), document.licence,
        _left_out(document, chosen),
    )  # fmt: skip
    if fields:
        yield whole
    if name in UNTRACED:
        folder = UNTRACED[name]
        paths = sorted((document.path.parent / folder).glob("*.*"))
        blank = [SuiteField(path, path.name, float(np.median(mpps))) for path in paths]
        own = f"{document.group}/{folder}"
        if blank:
            yield replace(
                whole, name=own, fields=tuple(blank), images=len(blank), kept_back=True, left_out={}
            )


def _left_out(document: CocoFile, chosen: Sequence[int]) -> dict[str, int]:
    """Count what of the chosen images is not used, by reason."""
    counts = Counter(document.left_out)
    for annotation in (a for k in chosen for a in document.images[k].annotations):
        if annotation.crowd:
            counts["crowd"] += 1
        elif not _marked(document) and annotation.category not in (*NUCLEUS, *CELLS):
            counts[annotation.category] += 1
    return {reason: n for reason, n in sorted(counts.items()) if n}


def _areas(image: CocoImage) -> list[float]:
    """Return the pixels of each nucleus of an image, as training takes them for its pixel size."""
    return [a.area for a in image.annotations if a.category in NUCLEUS and not a.crowd]


def _marked_field(image: CocoImage, mpp: float, categories: set[str]) -> SuiteField:
    """Read the marks of an image."""
    marks = image.annotations
    points = np.array([a.point for a in marks], np.float64).reshape(-1, 2)
    classes = tuple(a.category.upper() for a in marks)
    return SuiteField(image.path, image.name, mpp, points=points, classes=classes)


def _traced_field(image: CocoImage, mpp: float, categories: set[str]) -> SuiteField:
    """Decode the truth of an image."""

    def areas(wanted: Sequence[str]) -> Areas | None:
        if not categories & {*wanted}:
            return None
        taken = [a for a in image.annotations if a.category in wanted and not a.crowd]
        return _outlined(taken, image.shape)

    unknown = image.unknown(UNSURE)
    unsure = np.zeros(0, object)
    if unknown is not None:
        unsure = np.array([mask_area((0, 0, *image.shape[::-1]), unknown)], object)
    return SuiteField(
        image.path, image.name, mpp, nuclei=areas(NUCLEUS), cells=areas(CELLS), unsure=unsure
    )


def _outlined(annotations: Sequence[Annotation], shape: tuple[int, int]) -> Areas:
    """Return the areas (n,) of masks; empty masks are left out."""
    areas = (mask_area(*annotation.mask(shape)) for annotation in annotations)
    kept = [area for area in areas if not area.is_empty]
    return np.array(kept, object) if kept else np.zeros(0, object)


def mask_area(
    window: tuple[int, int, int, int], mask: NDArray[np.bool_]
) -> shapely.Polygon | shapely.MultiPolygon:
    """Return the area of a mask's pixels, whose edges are pixel edges.

    Parameters
    ----------
    window
        x0, y0, x1, y1 of the mask in its image
    mask
        bool (y1 − y0, x1 − x0)
    """
    padded = np.pad(mask, ((0, 0), (1, 1))).astype(np.int8)
    rows, starts = np.nonzero(np.diff(padded) > 0)
    _, ends = np.nonzero(np.diff(padded) < 0)
    x0, y0 = window[:2]
    return shapely.union_all(shapely.box(x0 + starts, y0 + rows, x0 + ends, y0 + rows + 1))
