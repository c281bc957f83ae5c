"""Write a training set: images and one COCO file, which appears when all is written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.errors import OutputError
from wsi_pipeline.core.files import as_output_error, write_bytes, write_text
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.polygons import polygon_parts
from wsi_pipeline.corrections.objects import CELL, LEUKOCYTE, NUCLEUS
from wsi_pipeline.formats.ome_zarr import rasterize

__all__ = ["ANNOTATIONS", "SetObject", "SetWriter", "run_lengths", "segmentation"]

ANNOTATIONS = "annotations.json"
_CATEGORIES = {NUCLEUS: (1, "nucleus"), CELL: (2, "cytoplasm"), LEUKOCYTE: (3, "leukocyte_nucleus")}
"""Role → id and name of its category, as training reads them."""


@dataclass(frozen=True)
class SetObject:
    """One object of an image.

    Attributes
    ----------
    segmentation
        COCO polygons or run lengths, pixels of the image
    role
        `NUCLEUS`, `CELL` or `LEUKOCYTE`
    area, box
        pixels; x, y, width, height
    cell_id
        number of the cell that it is or lies in; None: it lies in none
    unknown
        whether it is neither learned as an object nor as background
    more
        further JSON values: id, class
    """

    segmentation: Any
    role: int
    area: float
    box: tuple[float, float, float, float]
    cell_id: int | None = None
    unknown: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)


class SetWriter:
    """A training set that is being written.

    Raises
    ------
    OutputError
        the folder holds a set already, or cannot be written
    """

    def __init__(self, folder: Path) -> None:
        if (folder / ANNOTATIONS).exists():
            raise OutputError(f"{folder} holds a set already; remove it, or give another --out")
        with as_output_error(folder):
            (folder / "images").mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.not_cells: list[dict[str, Any]] = []

    def add(
        self, name: str, pixels: NDArray[np.uint8], objects: Sequence[SetObject],
        not_cells: Sequence[SetObject] = (), /, **about: Any,
    ) -> None:  # fmt: skip
        """Write an image, uint8 (h, w, 3), with its objects.

        Parameters
        ----------
        name
            of the image, without an ending
        not_cells
            objects that a reader labelled as no cell: no annotations, but a list of their own,
            which the training of `nucleus_kinds` reads and no other
        about
            further JSON values of the image; None is left out
        """
        height, width = pixels.shape[:2]
        done, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        assert done
        write_bytes(self.folder / "images" / f"{name}.png", data.tobytes())
        number = len(self.images) + 1
        stated = {key: value for key, value in about.items() if value is not None}
        size = {"file_name": f"images/{name}.png", "width": width, "height": height}
        self.images.append({"id": number, **size, **stated})
        for one in objects:
            entry = {"id": len(self.annotations) + 1, "image_id": number}
            entry |= {"category_id": _CATEGORIES[one.role][0], **_shape(one)}
            entry |= {"iscrowd": int(one.unknown), **one.more}
            if one.cell_id is not None:
                entry["cell_id"] = one.cell_id
            self.annotations.append(entry)
        self.not_cells += [{"image_id": number, **_shape(one), **one.more} for one in not_cells]

    def finish(self, *, cells: bool, **info: Any) -> None:
        """Write the COCO file.

        Parameters
        ----------
        cells
            whether whole cells are a category
        info
            JSON values for ``info``
        """
        used = {a["category_id"] for a in self.annotations} | {1} | ({2} if cells else set())
        document = {
            "info": info,
            "categories": [{"id": k, "name": v} for k, v in _CATEGORIES.values() if k in used],
            "images": self.images,
            "annotations": self.annotations,
        } | ({"not_cells": self.not_cells} if self.not_cells else {})
        text = json.dumps(document, separators=(",", ":")) + "\n"
        write_text(self.folder / ANNOTATIONS, text)


def _shape(one: SetObject) -> dict[str, Any]:
    """Return outline, area and box in COCO's form."""
    box = [round(v, 2) for v in one.box]
    return {"segmentation": one.segmentation, "area": round(one.area, 2), "bbox": box}


def segmentation(area: shapely.Geometry, shape: tuple[int, int]) -> Any:
    """Return the polygons of an area in an image (h, w), or run lengths where it has holes.

    It is None where the image does not show it.
    """
    height, width = shape
    parts = polygon_parts(shapely.intersection(area, shapely.box(0, 0, width, height)))
    if not parts:
        return None
    if not any(len(part.interiors) for part in parts):
        return [np.round(shapely.get_coordinates(p.exterior)[:-1], 2).ravel().tolist()
                for p in parts]  # fmt: skip
    count = len(parts)
    shapes = Objects.from_polygons(
        parts,
        classes=("",),
        ids=np.zeros((count, 2), np.uint64),
        class_index=np.zeros(count, np.uint8),
        score=np.ones(count, np.float32),
    )
    mask = np.zeros(shape, np.uint32)
    rasterize(mask, shapes, np.arange(count))
    return run_lengths(mask > 0, (0, 0), shape) if mask.any() else None


def run_lengths(
    mask: NDArray[np.bool_], corner: tuple[int, int], shape: tuple[int, ...]
) -> dict[str, Any]:
    """Return COCO's run lengths of a mask: of 0 and 1 in turn, down the columns of the image.

    Parameters
    ----------
    mask
        bool, the part of the image from `corner` (row, column) on
    shape
        height and width of the image

    Examples
    --------
    >>> run_lengths(np.array([[True], [True]]), (0, 1), (2, 2))
    {'size': [2, 2], 'counts': [2, 2, 0]}
    """
    height, width = shape
    column, row = np.nonzero(mask.T)
    at = (column + corner[1]) * height + row + corner[0]
    starts = at[np.diff(at, prepend=-2) != 1]
    ends = at[np.diff(at, append=height * width + 1) != 1] + 1
    edges = np.concatenate([[0], np.stack([starts, ends], 1).ravel(), [height * width]])
    return {"size": [height, width], "counts": np.diff(edges).tolist()}
