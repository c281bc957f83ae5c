"""Write microscope fields of synthetic cytology with their truth, to train networks on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import cv2
import numpy as np
import shapely
import shapely.affinity
from numpy.typing import NDArray

from wsi_pipeline.core.errors import ConfigError, OutputError
from wsi_pipeline.core.files import as_output_error, write_text
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.synthetic.clutter import add_clutter
from wsi_pipeline.synthetic.field_camera import photograph, photograph_as_real
from wsi_pipeline.synthetic.looks import LOOKS, POSITIVE_KINDS, Scene, draw_scene
from wsi_pipeline.synthetic.placement import SlidePlan, check_seed, plan_slide
from wsi_pipeline.synthetic.render import (
    densities,
    expose,
    render,
    truth_kinds,
    truth_leukocytes,
    truth_objects,
)
from wsi_pipeline.synthetic.sprites import Bank
from wsi_pipeline.synthetic.stains import Stain, Style, draw_real_style, draw_style

__all__ = ["POSITIVE_KINDS", "FieldLook", "write_fields"]

FieldLook = Literal["plain", "real", "mixed"]

_CATEGORIES = {1: "nucleus", 2: "cytoplasm", 3: "leukocyte_nucleus"}
_TWO_CLASSES = {1: "negative_nucleus", 4: "positive_nucleus"}
"""Names that replace and follow those of `_CATEGORIES` where nuclei have two classes."""
MOST_FIELD_PX = 16_384
"""Longest side of a field, which is drawn in memory."""


_Entry = tuple[float, list[dict[str, Any]]]
"""µm per pixel of a field, and its annotations without their ids."""


@dataclass(frozen=True)
class _Fields:
    """What all fields share."""

    folder: Path
    count: int
    size_px: int
    mpp: tuple[float, float]
    seed: int
    per_bank: int
    look: FieldLook
    two_classes: bool

    def write_bank(self, number: int) -> list[_Entry]:
        """Write the images of the fields that share stain and sprites, and return their truth."""
        first = number * self.per_bank
        style, bank = _draw_bank(self.mpp, self.look, self.seed, first, number)
        draw = _field if bank.look.name == "plain" else _real_field
        entries = []
        for i in range(first, min(first + self.per_bank, self.count)):
            field = draw(style, bank, self.size_px, self.seed * 1_000_003 + i)
            path = self.folder / _file_name(i)
            if not cv2.imwrite(str(path), field.pixels[..., ::-1]):
                raise OutputError(f"{path} cannot be written; check the free space")
            truth = _truth(field, self.two_classes)
            entries.append((bank.mpp, [keys | _shape(polygon) for polygon, keys in truth]))
        return entries

    def write_all(self, workers: int) -> list[_Entry]:
        """Write the images of all fields, in this many processes."""
        numbers = range(-(-self.count // self.per_bank))
        workers = min(workers, len(numbers))
        if workers == 1:
            return [entry for number in numbers for entry in self.write_bank(number)]
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            return [entry for bank in pool.map(self.write_bank, numbers) for entry in bank]


def _file_name(i: int) -> str:
    return f"images/field_{i:04d}.png"


class _Field(NamedTuple):
    """Pixels, outlines cut at the field's border (None for what lies outside), and kinds."""

    pixels: NDArray[np.uint8]
    nuclei: list[Any]
    cells: list[Any]
    nucleus_cell: NDArray[np.int64]
    cell_kinds: list[str]
    leukocytes: list[Any]
    leukocyte_kinds: list[str]


def write_fields(
    folder: Path | str,
    *,
    count: int,
    size_px: int = 512,
    mpp: float | tuple[float, float] = 0.25,
    seed: int = 0,
    per_bank: int = 8,
    look: FieldLook = "plain",
    two_classes: bool = False,
    workers: int = 1,
) -> None:
    """Write `count` fields as PNG with their truth in COCO's format, to train networks on.

    The files are ``folder/images/field_0000.png`` … and ``folder/annotations.json``. Category 1 is
    the nucleus, 2 the cytoplasm (the whole cell); both have the `cell_id` of their cell in that
    image. Category 3, in the look "real", is the nucleus of a leukocyte, which training leaves out
    unless it is asked for. Each has the `kind` of its cell, for example "lsil" or "neutrophil".
    With `two_classes` category 1 is the negative nucleus, and 4 the positive one: large, deformed.
    Polygons include parts under other cells and end at the border of the field. Stain, density,
    mixture, light, focus and mpp vary between fields.

    Parameters
    ----------
    folder
        folder to write; it is made if needed, and files in it are replaced
    count
        number of fields
    size_px
        side in pixels
    mpp
        µm per pixel, or the range from which that of each bank is drawn
    seed
        seed of all random numbers; field i does not depend on `count`
    per_bank
        number of fields with the same stain and sprites
    look
        ``plain``: clean liquid-based slides. ``real``: stains of real fields, dense groups, folds,
        leukocytes, keratin, mucus, blood, smears and drying. ``mixed``: each stain is plain or real
    two_classes
        give the nuclei of `POSITIVE_KINDS` a category of their own; images stay the same
    workers
        draw in this many processes; the files are the same

    Raises
    ------
    ConfigError
        a number is not possible, or there is no such look
    OutputError
        a file cannot be written
    """
    low, high = mpp if isinstance(mpp, tuple) else (mpp, mpp)
    _check(count, size_px, per_bank, workers, (low, high), look)
    check_seed(seed)
    folder = Path(folder)
    with as_output_error(folder):
        (folder / "images").mkdir(parents=True, exist_ok=True)
    fields = _Fields(folder, count, size_px, (low, high), seed, per_bank, look, two_classes)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, (own_mpp, found) in enumerate(fields.write_all(workers)):
        size = {"width": size_px, "height": size_px, "mpp": own_mpp}
        images.append({"id": i + 1, "file_name": _file_name(i), **size})
        for entry in found:
            annotations.append({"id": len(annotations) + 1, "image_id": i + 1, **entry})
    called = _CATEGORIES | (_TWO_CLASSES if two_classes else {})
    names = [{"id": k, "name": v} for k, v in called.items() if k != 3 or look != "plain"]
    info = {"description": "synthetic cytology fields", "licence": "generated, free to use"}
    document = {"info": info, "categories": names, "images": images, "annotations": annotations}
    write_text(folder / "annotations.json", json.dumps(document, separators=(",", ":")))


def _check(
    count: int, size_px: int, per_bank: int, workers: int, mpp: tuple[float, float],
    look: FieldLook,
) -> None:  # fmt: skip
    for name, value, least in (
        ("number of fields", count, 1),
        ("size_px", size_px, 64),
        ("per_bank", per_bank, 1),
        ("number of workers", workers, 1),
    ):
        if value < least:
            raise ConfigError(f"the {name} must be at least {least}, got {value}")
    if size_px > MOST_FIELD_PX:
        raise ConfigError(f"size_px must be at most {MOST_FIELD_PX}, got {size_px}")
    low, high = mpp
    if not 0.05 <= low <= high <= 2:
        raise ConfigError(f"mpp must be between 0.05 and 2, got {low:g} to {high:g}")
    if look not in get_args(FieldLook):
        raise ConfigError(f"unknown look {look!r}; use {', '.join(get_args(FieldLook))}")


def _draw_bank(
    mpp: tuple[float, float], look: FieldLook, seed: int, first: int, number: int
) -> tuple[Style, Bank]:
    """Draw stain and sprites of a few fields, from number `first` on."""
    rng = np.random.default_rng([seed, 5, number])
    bank_mpp = round(float(rng.uniform(*mpp)), 4)
    own = seed * 100_003 + first
    if look == "real" or (look == "mixed" and number % 2 == 1):
        style = draw_real_style(rng)
        return style, Bank.paint(bank_mpp, style, count=192, seed=own, look=LOOKS["real"])
    stain: Stain = rng.choice(["pap", "pale", "grey", "brown"], p=[0.62, 0.14, 0.16, 0.08])
    style = draw_style(rng, stain)
    return style, Bank.paint(bank_mpp, style, count=128, seed=own)


def _field(style: Style, bank: Bank, size_px: int, seed: int) -> _Field:
    """Draw a field of the look "plain"."""
    rng = np.random.default_rng([seed, 11])
    plan, box = _plan(rng, style, bank, size_px, seed, bank.look.scene)
    pixels = photograph(rng, render(plan, box), style)
    nuclei, cells = (_cut(objects, box) for objects in truth_objects(plan))
    return _Field(pixels, nuclei, cells, plan.nucleus_cell, truth_kinds(plan)[0], [], [])


def _real_field(style: Style, bank: Bank, size_px: int, seed: int) -> _Field:
    """Draw a field of the look "real"."""
    rng = np.random.default_rng([seed, 13])
    scene = draw_scene(rng, bank.look, style.preparation == "conventional")
    plan, box = _plan(rng, style, bank, size_px, seed, scene)
    canvas = densities(plan, box)
    if canvas is None:
        canvas = np.zeros((size_px, size_px, 3), np.uint16)
    canvas = add_clutter(rng, canvas, style, scene, bank.mpp)
    pixels = photograph_as_real(rng, expose(plan, canvas, box), style, bank.mpp)
    nuclei, cells = (_cut(objects, box) for objects in truth_objects(plan))
    leukocytes = _cut(truth_leukocytes(plan), box)
    kinds, leukocyte_kinds = truth_kinds(plan)
    return _Field(pixels, nuclei, cells, plan.nucleus_cell, kinds, leukocytes, leukocyte_kinds)


def _plan(
    rng: np.random.Generator, style: Style, bank: Bank, size_px: int, seed: int, scene: Scene
) -> tuple[SlidePlan, Box]:
    """Plan a small slide with a margin, and return it with the box of the field in it."""
    margin = int(bank.shape.max())
    side = size_px + 2 * margin
    kinds = bank.look.cells
    least, most = (25, 170) if bank.look.name == "plain" else (15, 90)
    weights = np.array([k.share for k in kinds.values()]) * rng.lognormal(0, 1.0, len(kinds))
    plan = plan_slide(
        side, side,
        mpp=bank.mpp, seed=seed, tissue=float(rng.choice([1.0, 0.8, 0.6], p=[0.7, 0.2, 0.1])),
        density=float(np.exp(rng.uniform(math.log(least), math.log(most)))),
        clustering=float(rng.uniform(0, 0.8)),
        mix=dict(zip(kinds, weights.tolist(), strict=True)), style=style, bank=bank, scene=scene,
    )  # fmt: skip
    return plan, Box(margin, margin, margin + size_px, margin + size_px)


def _cut(objects: Objects, box: Box) -> list[Any]:
    """Return outlines in pixels of the box, cut at its border; None where too little is inside."""
    frame = shapely.box(box.x0, box.y0, box.x1, box.y1)
    parts: list[Any] = []
    for whole in objects.polygons():
        part = whole if frame.contains(whole) else shapely.make_valid(whole).intersection(frame)
        if part.geom_type != "Polygon":
            part = max(shapely.get_parts(part), key=lambda g: g.area)
        seen = part.geom_type == "Polygon" and part.area >= 6
        parts.append(shapely.affinity.translate(part, -box.x0, -box.y0) if seen else None)
    return parts


def _truth(
    field: _Field, two_classes: bool
) -> Iterable[tuple[shapely.Polygon, dict[str, int | str]]]:
    """Yield the outlines inside a field, each with category, kind and number of its cell."""
    groups = (
        (2, field.cells, range(len(field.cells)), field.cell_kinds),
        (1, field.nuclei, field.nucleus_cell, [field.cell_kinds[c] for c in field.nucleus_cell]),
        (3, field.leukocytes, None, field.leukocyte_kinds),
    )
    for category, polygons, owner, kinds in groups:
        for k, polygon in enumerate(polygons):
            if polygon is not None:
                link = {} if owner is None else {"cell_id": int(owner[k]) + 1}
                positive = two_classes and category == 1 and kinds[k] in POSITIVE_KINDS
                yield polygon, {**link, "category_id": 4 if positive else category,
                                "kind": kinds[k]}  # fmt: skip


def _shape(polygon: shapely.Polygon) -> dict[str, Any]:
    """Return outline, area and box in COCO's form."""
    x0, y0, x1, y1 = polygon.bounds
    ring = np.round(np.asarray(polygon.exterior.coords)[:-1], 2)
    return {
        "segmentation": [ring.ravel().tolist()],
        "area": round(polygon.area, 2),
        "bbox": [round(v, 2) for v in (x0, y0, x1 - x0, y1 - y0)],
        "iscrowd": 0,
    }
