"""Masks made from images alone: Otsu's threshold, opening, closing (`wsiseg masks`).

Source: Wubineh, Rusiecki and Halawa 2024, who made the masks of their training set in this way, one
threshold per task; here two thresholds are found at once (multi-Otsu). Such masks are no truth
that a person drew: look at them before you train on them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from wsiseg_models.training.coco import IMAGE_SUFFIXES, read_image

from wsi_pipeline.core.errors import DataError, UsageError
from wsi_pipeline.core.files import as_output_error, write_bytes, write_json

__all__ = ["MaskSettings", "image_files", "otsu_masks", "write_masks"]

Images = NDArray[np.uint8]
Mask = NDArray[np.bool_]
CATEGORIES = {"nucleus": 1, "cytoplasm": 2}


@dataclass(frozen=True)
class MaskSettings:
    """How masks are cleaned.

    Attributes
    ----------
    opening_px, closing_px
        radius of the disc; 0: not done
    min_area_px
        smaller components are left out

    Raises
    ------
    UsageError
        a value below 0
    """

    opening_px: int = 2
    closing_px: int = 2
    min_area_px: int = 50

    def __post_init__(self) -> None:
        for name in ("opening_px", "closing_px", "min_area_px"):
            if getattr(self, name) < 0:
                option = "--" + name.replace("_", "-")
                raise UsageError(f"{option} {getattr(self, name)} must be 0 or more; try 2")


def otsu_masks(image: Images, settings: MaskSettings | None = None) -> dict[str, Mask]:
    """Return ``cytoplasm`` (whole cells) and ``nucleus`` of an image (h, w, 3), bool (h, w).

    Otsu's two thresholds divide the grey values into glass, cytoplasm and nuclei. With one, which
    divides them into two, dark nuclei would draw the threshold below pale cytoplasm.

    Raises
    ------
    UsageError
        scikit-image is not installed
    DataError
        all pixels have one grey value, so that no threshold divides them
    """
    settings = settings or MaskSettings()
    filters = _scikit_image().filters
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    values = len(np.unique(grey))
    if values == 1:
        raise DataError(
            f"all pixels have the grey value {grey.min()}, so that no threshold divides them; "
            "leave the image out"
        )
    if values == 2:  # cells and glass, or nuclei and glass: it cannot be told
        low, high = -1, filters.threshold_otsu(grey)
    else:
        low, high = filters.threshold_multiotsu(grey, 3)
    cytoplasm = _clean(grey <= high, settings)
    return {"cytoplasm": cytoplasm, "nucleus": _clean(grey <= low, settings) & cytoplasm}


def _scikit_image() -> Any:
    """Import the parts of scikit-image that are used."""
    try:
        for part in ("filters", "measure", "morphology"):
            import_module(f"skimage.{part}")
        return import_module("skimage")
    except ModuleNotFoundError:
        raise UsageError(
            "masks are made with scikit-image, which is not installed; pip install -e '.[train]'"
        ) from None


def _clean(mask: Mask, settings: MaskSettings) -> Mask:
    """Open, close, and drop small components."""
    skimage = _scikit_image()
    disk = skimage.morphology.disk
    if settings.opening_px:
        mask = skimage.morphology.opening(mask, disk(settings.opening_px))
    if settings.closing_px:
        mask = skimage.morphology.closing(mask, disk(settings.closing_px))
    labels = skimage.measure.label(mask, connectivity=1)
    large = np.bincount(labels.ravel()) >= settings.min_area_px
    large[0] = False
    return np.asarray(large[labels])


def image_files(paths: Sequence[Path]) -> list[Path]:
    """Return the images among files and folders, in order.

    Raises
    ------
    UsageError
        a path that does not exist, a folder without images, or two images of one name
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
            if not inside:
                raise UsageError(f"{path}: no images in it; give {', '.join(IMAGE_SUFFIXES)} files")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise UsageError(f"{path}: no such file or folder")
    names = [path.stem for path in found]
    for path in found:
        if names.count(path.stem) > 1:
            raise UsageError(f"two images are called {path.stem}; make masks of them apart")
    return found


def write_masks(
    files: Sequence[Path],
    out: Path,
    settings: MaskSettings,
    *,
    mpp: float | None = None,
    done: Callable[[], object] = lambda: None,
) -> dict[str, int]:
    """Write a set for training: images, masks and annotations.json; return objects per category.

    ``masks/NAME.cytoplasm.png`` and ``masks/NAME.nucleus.png`` are 255 inside. Each connected part
    is one annotation, as run lengths.

    Parameters
    ----------
    mpp
        µm per pixel of the images, for annotations.json; None: not known
    done
        called after each image

    Raises
    ------
    UsageError, DataError, OutputError
        scikit-image or pycocotools is missing; an image cannot be used; `out` cannot be written
    """
    with as_output_error(out):
        for name in ("images", "masks"):
            (out / name).mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, file in enumerate(files, 1):
        try:
            image = read_image(file)
            masks = otsu_masks(image, settings)
        except DataError as error:
            raise DataError(f"{file}: {error}") from error
        except ValueError as error:
            raise error if isinstance(error, UsageError) else DataError(str(error)) from error
        with as_output_error(out):
            if file.resolve() != (out / "images" / file.name).resolve():
                shutil.copyfile(file, out / "images" / file.name)
        height, width = image.shape[:2]
        entry = {"id": number, "file_name": f"images/{file.name}", "width": width, "height": height}
        entries.append(entry if mpp is None else {**entry, "mpp": mpp})
        for name, mask in masks.items():
            png = cv2.imencode(".png", mask.astype(np.uint8) * 255)[1].tobytes()
            write_bytes(out / "masks" / f"{file.stem}.{name}.png", png)
        annotations += _annotations(masks, number, len(annotations))
        done()
    document = {
        "info": {"description": "masks by Otsu's threshold (wsiseg masks), not drawn by a person"},
        "images": entries,
        "categories": [{"id": k, "name": name} for name, k in CATEGORIES.items()],
        "annotations": annotations,
    }
    write_json(out / "annotations.json", document)
    counts = [a["category_id"] for a in annotations]
    return {name: counts.count(k) for name, k in CATEGORIES.items()}


def _annotations(masks: Mapping[str, Mask], image_id: int, before: int) -> list[dict[str, Any]]:
    """Return an annotation of each connected part of each mask."""
    try:
        from pycocotools import mask as coco
    except ModuleNotFoundError:
        raise UsageError(
            "masks are stored with pycocotools, which is not installed; pip install -e '.[train]'"
        ) from None
    out: list[dict[str, Any]] = []
    for name, mask in masks.items():
        labels = _scikit_image().measure.label(mask, connectivity=1)
        for k in range(1, int(labels.max()) + 1):
            rle = coco.encode(np.asfortranarray(labels == k, np.uint8))
            out.append(
                {
                    "id": before + len(out) + 1,
                    "image_id": image_id,
                    "category_id": CATEGORIES[name],
                    "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()},
                    "area": int(coco.area(rle)),
                    "bbox": [float(v) for v in coco.toBbox(rle)],
                    "iscrowd": 0,
                }
            )
    return out
