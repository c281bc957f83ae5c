"""Read COCO files: images, categories, annotations and their masks.

A set is a folder with ``annotations*.json`` (COCO; polygons or RLE) and its images. Training and
evaluation read sets here, and only here. Each error names the file and the annotation.

Everything that is not annotated is background, unless the set states something else. Nothing is
known where a crowd (``iscrowd``) is, outside the ``annotated_area`` of an image (polygons or RLE,
as in ``segmentation``), and, where there is none, outside the objects of an image that has
``"exhaustive": false`` (in the image, the document or its ``info``).

An image may state whether it is held out for validation (``"held_out": true`` or ``false``).
``not_cells``, a list beside ``annotations``, has objects that a reader labelled as no cell: they
are no annotations, and are read for the network of kinds alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..pixel_size import MPP_RANGE, is_plausible_mpp
from .coco_document import (
    entry_key,
    exhaustive,
    read_document,
    require,
    show_left_out,
    stated_size,
)
from .coco_types import CELLS, NUCLEUS, UNSURE, Annotation, CocoFile, CocoImage
from .image_files import IMAGE_SUFFIXES, find_image, image_shape, read_image, resize_image
from .set_mpp import image_mpps, origin_text
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
    "show_left_out",
]

NO_CELL = "not_a_cell"
"""Category of what a reader labelled as no cell."""


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

    Annotations of images that are not there, and repetitions, are left out.

    Raises
    ------
    ValueError
        no such file, no JSON, no COCO, a broken entry, or an image of another size than stated;
        the message names file and entry
    """
    document = read_document(file)
    names = _categories(document["categories"], file)
    info = document["info"] if isinstance(document.get("info"), Mapping) else {}
    images: dict[str, CocoImage] = {}
    lacking, paths = set[str](), set[Path]()
    for number, entry in enumerate(document["images"]):
        key, image = _image(entry, number, file, (document, info))
        if key in images or key in lacking:
            raise ValueError(f"{image.where}: another image has its id {key}; give each its own")
        if image.path in paths:
            raise ValueError(f"{image.where} is listed twice; give it one entry")
        paths.add(image.path)
        if os.path.isfile(image.path):  # False also for a name that the system refuses
            images[key] = image
        else:
            lacking.add(key)
    found, repeated = _annotations(document["annotations"], names, images, lacking, file)
    none, _ = _annotations(_not_cells(document, file), {NO_CELL: NO_CELL}, images, lacking, file)
    complete = [
        replace(image, annotations=tuple(found[key]), not_cells=tuple(none[key]))
        for key, image in images.items()
    ]
    return CocoFile(
        path=file,
        categories=tuple(names.values()),
        images=tuple(sorted(complete, key=lambda image: image.name)),
        missing=len(lacking),
        licence=str(info.get("licence", "")),
        left_out={"image not there": len(lacking), "annotated twice": repeated},
    )


def _not_cells(document: Mapping[str, Any], file: Path) -> list[Any]:
    """Return the objects that are no cells, each with the category `NO_CELL`."""
    entries = document.get("not_cells", [])
    if not isinstance(entries, list) or not all(isinstance(e, Mapping) for e in entries):
        raise ValueError(f"{file}: not_cells is no list of objects; make the set again")
    return [{**entry, "category_id": NO_CELL} for entry in entries]


def _categories(entries: Sequence[Any], file: Path) -> dict[str, str]:
    """Return id → name in lower case."""
    names: dict[str, str] = {}
    for number, entry in enumerate(entries):
        where = f"{file}: category number {number}"
        require(entry, ("id", "name"), where)
        key = entry_key(entry["id"], where)
        if key in names:
            raise ValueError(f"{where}: another category has its id {key}; give each its own")
        names[key] = str(entry["name"]).strip().lower()
    return names


def _image(
    entry: Any, number: int, file: Path, above: Sequence[Mapping[str, Any]]
) -> tuple[str, CocoImage]:
    """Return id and image of an entry, without its annotations.

    Parameters
    ----------
    above
        document and its ``info``, which may state what the entry does not
    """
    where = f"{file}: image number {number}"
    require(entry, ("id", "file_name"), where)
    if not isinstance(entry["file_name"], str):
        raise ValueError(f"{where} has the file_name {entry['file_name']!r}; it must be text")
    path = find_image(file.parent, entry["file_name"])
    name = entry["file_name"].replace("\\", "/")
    key, where = entry_key(entry["id"], where), f"{file}: image {name}"
    there = os.path.isfile(path)  # False also for a name that the system refuses
    shape = image_shape(path) if there else (0, 0)
    stated = stated_size(entry, where)
    if there and stated is not None and stated != shape:
        raise ValueError(
            f"{where} has {shape[1]} x {shape[0]} pixels, and the file states {stated[1]} x "
            f"{stated[0]}, so its outlines belong to another image; export them again"
        )
    area = entry.get("annotated_area", above[0].get("annotated_area"))
    if isinstance(area, list) and area and not isinstance(area[0], list):
        area = [area]  # one polygon
    held_out = entry.get("held_out")
    if held_out is not None and not isinstance(held_out, bool):
        raise ValueError(f"{where} states held_out {held_out!r}; it must be true or false")
    return key, CocoImage(
        path, name, _mpp(entry.get("mpp", above[1].get("mpp")), where), (), shape,
        exhaustive((entry, *above), where), area, where, held_out,
    )  # fmt: skip


def _annotations(
    entries: Sequence[Any],
    names: Mapping[str, str],
    images: Mapping[str, CocoImage],
    lacking: Collection[str],
    file: Path,
) -> tuple[dict[str, list[Annotation]], int]:
    """Return the annotations of each image that is there, and how many are repetitions."""
    found: dict[str, list[Annotation]] = {key: [] for key in images}
    seen: set[int] = set()
    repeated = 0
    for number, entry in enumerate(entries):
        default = f"number {number}"
        name = entry.get("id", default) if isinstance(entry, Mapping) else default
        where = f"{file}: annotation {name}"
        require(entry, ("image_id", "category_id"), where)
        key = entry_key(entry["image_id"], f"{where}: its image")
        if key not in images:
            if key not in lacking:
                raise ValueError(
                    f"{where} has the image_id {entry['image_id']!r}, which no image of the file "
                    "has; list the image, or remove the annotation"
                )
            continue
        made = _annotation(entry, names, where, images[key].shape)
        mark = hash((key, made.category, made.cell_id, repr(made.segmentation)))
        if made.segmentation and mark in seen:
            repeated += 1
            continue
        seen.add(mark)
        found[key].append(made)
    return found, repeated


def _annotation(
    entry: Mapping[str, Any], names: Mapping[str, str], where: str, shape: tuple[int, int]
) -> Annotation:
    category = entry_key(entry["category_id"], f"{where}: its category")
    if category not in names:
        known = ", ".join(f"{k} {name}" for k, name in names.items()) or "none"
        raise ValueError(f"{where} has the category_id {category}; the file has {known}")
    try:
        area = float(entry.get("area") or 0)
        cell = entry.get("cell_id")
        cell_id = -1 if cell is None else int(cell)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{where} cannot be read: area or cell_id is no number: {error}") from None
    if not 0 <= area < math.inf:
        raise ValueError(f"{where} has the area {area:g}; it must be 0 or above")
    mask, bbox = entry.get("segmentation"), entry.get("bbox")
    crowd, mark = _crowd(entry.get("iscrowd"), where), entry.get("point", bbox)
    told = (str(entry.get(name) or "") for name in ("label", "kind", "object_id"))
    return Annotation(where, names[category], mask, area, crowd, cell_id, mark, bbox, shape, *told)


def _crowd(value: Any, where: str) -> bool:
    """Return whether ``iscrowd`` states a crowd; null states none."""
    if value not in (None, 0, 1, "0", "1", ""):
        raise ValueError(f"{where} has iscrowd {value!r}; it must be 0 or 1")
    return value in (1, "1")


def _mpp(value: Any, where: str) -> float | None:
    """Check the pixel size that a file states; None and 0 state nothing."""
    if not value:
        return None
    if not isinstance(value, int | float) or not is_plausible_mpp(value):
        raise ValueError(f"{where} states mpp {value!r}; it must be a number, {MPP_RANGE}")
    return float(value)
