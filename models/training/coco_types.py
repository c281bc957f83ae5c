"""What a COCO file holds: images with their annotations, and where nothing is known."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .coco_masks import FARTHEST_PX, Bools, Window, decode_mask, scaled_rle

__all__ = ["CELLS", "NUCLEUS", "UNSURE", "Annotation", "CocoFile", "CocoImage"]

NUCLEUS = ("nucleus", "nucleus_out_of_focus", "overlapped_nuclei", "non-viable_nucleus",
           "negative_nucleus", "positive_nucleus")  # fmt: skip
"""Categories that are one nucleus each."""
CELLS = ("cytoplasm", "cell")
"""Categories that are one whole cell each, its nucleus included."""
UNSURE = ("leukocyte_nucleus",)
"""Categories that are neither object nor background."""


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
    shape
        height and width of its image
    label, kind
        what a reader called it, and the kind of cell of a generated field; empty where not stated
    object_id
        id of the object of which it was made; empty where not stated
    """

    where: str
    category: str
    segmentation: Any
    stated_area: float
    crowd: bool
    cell_id: int
    mark: Any = None
    bbox: Any = None
    shape: tuple[int, int] = (0, 0)
    label: str = ""
    kind: str = ""
    object_id: str = ""

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
            return float(decode_mask(self.segmentation, self.shape)[1].sum())

    @property
    def point(self) -> tuple[float, float]:
        """The marked point x, y: as stated, otherwise the centre of the box."""
        with _named(self.where):
            x, y, *size = (float(v) for v in self.mark)
            width, height = size or (0.0, 0.0)
            if not all(map(math.isfinite, (x, y, width, height))):
                raise ValueError(f"its point or bbox {self.mark} is not all numbers")
            if max(map(abs, (x, y, width, height))) > max(FARTHEST_PX, 2 * max(self.shape)):
                raise ValueError(f"its point or bbox {self.mark} is far outside the image")
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
    """One image file with its annotations.

    Attributes
    ----------
    path, name
        the file, and its name in the set
    mpp
        µm per pixel; None where the set does not state it
    annotations
        those of this image, crowds included
    shape
        height and width
    exhaustive
        whether all objects are annotated, in `annotated_area` where it has one
    annotated_area
        polygons or RLE outside of which nothing is known; None: the whole image
    where
        file and image, for error messages
    held_out
        whether the set keeps it for validation; None: the split of the training decides
    not_cells
        objects that a reader labelled as no cell; only the training of kinds reads them
    """

    path: Path
    name: str
    mpp: float | None
    annotations: tuple[Annotation, ...]
    shape: tuple[int, int] = (0, 0)
    exhaustive: bool = True
    annotated_area: Any = None
    where: str = ""
    held_out: bool | None = None
    not_cells: tuple[Annotation, ...] = ()

    def unknown(self, unsure: Collection[str] = ()) -> Bools | None:
        """Return where nothing is known, bool (h, w), objects included; None where there is none.

        Parameters
        ----------
        unsure
            categories whose pixels are neither object nor background

        Raises
        ------
        ValueError
            the annotated area, a crowd or an unsure object is broken
        """
        out = np.zeros(self.shape, np.bool_)
        if self.annotated_area is not None:
            with _named(f"{self.where}: annotated_area"):
                (x0, y0, x1, y1), inside = decode_mask(self.annotated_area, self.shape)
                if not inside.any():
                    raise ValueError("it covers no pixel of the image; draw it on the image")
            out[:] = True
            out[y0:y1, x0:x1] = ~inside
        elif not self.exhaustive:
            out[:] = True
        for annotation in self.annotations:
            if annotation.crowd or annotation.category in unsure:
                (x0, y0, x1, y1), inside = annotation.mask(self.shape)
                out[y0:y1, x0:x1] |= inside
        return out if out.any() else None


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
    left_out
        reason → number of images and annotations that are not used
    """

    path: Path
    categories: tuple[str, ...]
    images: tuple[CocoImage, ...]
    missing: int = 0
    licence: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """Name of the set: its folder."""
        return self.path.parent.name
