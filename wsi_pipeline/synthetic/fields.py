"""Write microscope fields of synthetic cytology with their truth, to train networks on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely
import shapely.affinity
from numpy.typing import NDArray

from wsi_pipeline.core.errors import ConfigError, OutputError
from wsi_pipeline.core.files import as_output_error, write_text
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.synthetic.cell_kinds import CELL_KINDS
from wsi_pipeline.synthetic.placement import plan_slide
from wsi_pipeline.synthetic.render import render, truth_objects
from wsi_pipeline.synthetic.sprites import Bank
from wsi_pipeline.synthetic.stains import Stain, Style, draw_style

__all__ = ["write_fields"]


def write_fields(
    folder: Path | str,
    *,
    count: int,
    size_px: int = 512,
    mpp: float | tuple[float, float] = 0.25,
    seed: int = 0,
    per_bank: int = 8,
) -> None:
    """Write `count` fields as PNG with their truth in COCO's format, to train networks on.

    The files are ``folder/images/field_0000.png`` … and ``folder/annotations.json``. Category 1 is
    the nucleus, 2 the cytoplasm (the whole cell); both have the `cell_id` of their cell in that
    image. Polygons include parts under other cells and end at the border of the field. Stain,
    density, mixture, light, focus and mpp vary between fields.

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

    Raises
    ------
    ConfigError
        a number is not possible
    OutputError
        a file cannot be written
    """
    low, high = mpp if isinstance(mpp, tuple) else (mpp, mpp)
    for name, value, least in (
        ("number of fields", count, 1),
        ("size_px", size_px, 64),
        ("per_bank", per_bank, 1),
    ):
        if value < least:
            raise ConfigError(f"the {name} must be at least {least}, got {value}")
    if not 0.05 <= low <= high <= 2:
        raise ConfigError(f"mpp must be between 0.05 and 2, got {low:g} to {high:g}")
    folder = Path(folder)
    with as_output_error(folder):
        (folder / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(count):
        if i % per_bank == 0:
            rng = np.random.default_rng([seed, 5, i // per_bank])
            bank_mpp = round(float(rng.uniform(low, high)), 4)
            stain: Stain = rng.choice(["pap", "pale", "grey", "brown"], p=[0.62, 0.14, 0.16, 0.08])
            style = draw_style(rng, stain)
            bank = Bank.paint(bank_mpp, style, count=128, seed=seed * 100_003 + i)
        pixels, nuclei, cells, links = _field(style, bank, size_px, seed * 1_000_003 + i)
        name = f"images/field_{i:04d}.png"
        if not cv2.imwrite(str(folder / name), pixels[..., ::-1]):
            raise OutputError(f"{folder / name} cannot be written; check the free space")
        size = {"width": size_px, "height": size_px, "mpp": bank_mpp}
        images.append({"id": i + 1, "file_name": name, **size})
        for category, polygons, owner in ((2, cells, range(len(cells))), (1, nuclei, links)):
            for polygon, cell in zip(polygons, owner, strict=True):
                if polygon is not None:
                    key = {"id": len(annotations) + 1, "image_id": i + 1, "cell_id": int(cell) + 1}
                    annotations.append({**key, "category_id": category, **_shape(polygon)})
    names = [{"id": 1, "name": "nucleus"}, {"id": 2, "name": "cytoplasm"}]
    info = {"description": "synthetic cytology fields", "licence": "generated, free to use"}
    document = {"info": info, "categories": names, "images": images, "annotations": annotations}
    write_text(folder / "annotations.json", json.dumps(document, separators=(",", ":")))


def _field(
    style: Style, bank: Bank, size_px: int, seed: int
) -> tuple[NDArray[np.uint8], list[Any], list[Any], NDArray[np.int64]]:
    """Return a field's pixels, nuclei and cells cut at its border (None: outside), and links."""
    rng = np.random.default_rng([seed, 11])
    margin = int(bank.shape.max())
    side = size_px + 2 * margin
    weights = np.array([k.share for k in CELL_KINDS.values()]) * rng.lognormal(
        0, 1.0, len(CELL_KINDS)
    )
    plan = plan_slide(
        side, side,
        mpp=bank.mpp, seed=seed, tissue=float(rng.choice([1.0, 0.8, 0.6], p=[0.7, 0.2, 0.1])),
        density=float(np.exp(rng.uniform(math.log(25), math.log(170)))),
        clustering=float(rng.uniform(0, 0.8)),
        mix=dict(zip(CELL_KINDS, weights.tolist(), strict=True)), style=style, bank=bank,
    )  # fmt: skip
    box = Box(margin, margin, margin + size_px, margin + size_px)
    pixels = _photograph(rng, render(plan, box), style)
    frame = shapely.box(box.x0, box.y0, box.x1, box.y1)
    cut = []
    for objects in truth_objects(plan):
        parts: list[Any] = []
        for whole in objects.polygons():
            part = whole if frame.contains(whole) else shapely.make_valid(whole).intersection(frame)
            if part.geom_type != "Polygon":
                part = max(shapely.get_parts(part), key=lambda g: g.area)
            seen = part.geom_type == "Polygon" and part.area >= 6
            parts.append(shapely.affinity.translate(part, -box.x0, -box.y0) if seen else None)
        cut.append(parts)
    return pixels, cut[0], cut[1], plan.nucleus_cell


def _photograph(
    rng: np.random.Generator, pixels: NDArray[np.uint8], style: Style
) -> NDArray[np.uint8]:
    """Add the effects of microscope and camera: vignette, focus, contrast, tint, JPEG."""
    h, w = pixels.shape[:2]
    fy, fx = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    tilt = rng.normal(0, 0.03, 2)
    light = 1 + tilt[0] * fx + tilt[1] * fy
    light -= rng.choice([0, 0.06, 0.18], p=[0.5, 0.35, 0.15]) * (fx**2 + fy**2) / 2
    image = pixels.astype(np.float32) * light[..., None].astype(np.float32)
    sigma = rng.choice([0.0, rng.uniform(0.4, 1.0), rng.uniform(1.0, 2.0)], p=[0.5, 0.35, 0.15])
    if sigma > 0:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
        image += rng.normal(0, style.noise * 0.7, image.shape)
    gamma, gain = rng.lognormal(0, 0.12), rng.uniform(0.88, 1.05)
    image = 255 * gain * np.clip(image / 255, 0, None) ** gamma
    if style.monochrome:
        image = np.repeat(image.mean(2, keepdims=True), 3, 2)
    else:
        image *= rng.normal(1, 0.015, 3)
    result = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        quality = int(rng.integers(55, 95))
        _, code = cv2.imencode(".jpg", result, [cv2.IMWRITE_JPEG_QUALITY, quality])
        result = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8)
    return result


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
