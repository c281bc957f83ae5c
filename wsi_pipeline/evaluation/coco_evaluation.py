"""A model over COCO sets with truth: what it finds, how well, and the numbers as a table.

Images are brought to the model's µm per pixel and the truth with them, so that all areas and
pixels of the scores are the model's.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco
from scipy.ndimage import find_objects

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import DataError, OutputError, UsageError, WsisegError
from wsi_pipeline.core.progress import progress
from wsi_pipeline.evaluation.mask_metrics import COUNTS, Masks, score_instances
from wsi_pipeline.evaluation.nucleus_metrics import instances_of
from wsi_pipeline.segmentation.components import from_label_image
from wsi_pipeline.segmentation.model import Model, Window, paste

__all__ = [
    "Field",
    "classes_of",
    "evaluate_model",
    "find_in",
    "read_set",
    "score_rows",
    "write_scores",
]

CELL = ("cell", "cytoplasm")
"""COCO categories that are one cell each; a cytoplasm's mask includes its nucleus."""

Images = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Field:
    """One image with its true instances, at the model's mpp.

    Attributes
    ----------
    image
        uint8 (h, w, 3)
    truth
        class → true instances, of those classes that the set has
    """

    name: str
    image: Images
    truth: Mapping[str, Masks]


def read_set(spec: str, *, mpp: float, split: str = "all") -> Iterator[Field]:
    """The images of one COCO set, at `mpp` µm per pixel, in order of their names.

    Instances whose ``iscrowd`` is set and categories that are neither nucleus nor cell are left
    out.

    Parameters
    ----------
    spec
        ``DIR`` or ``DIR@MPP``, the latter stating the pixel size of its images
    split
        ``all``, or ``fold:K/N`` or ``time:SHARE`` for the images that training held out

    Raises
    ------
    UsageError, DataError
        the split makes no sense; no annotations, images or pixel size, or broken ones
    """
    where, _, stated = spec.partition("@")
    given = _positive(stated, spec) if stated else None
    folder = Path(where)
    files = sorted(folder.glob("annotations*.json")) if folder.is_dir() else [folder]
    count = 0
    for file in files:
        if not file.is_file():
            break
        try:
            for field in _fields(file, given, mpp, split):
                count += 1
                yield field
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, WsisegError):
                raise
            raise DataError(f"{file} is not COCO ({error!r}); see docs/models.md") from error
    if not count:
        raise DataError(
            f"{spec}: no annotations*.json with images beside it that split {split} takes; "
            "see docs/models.md"
        )


def _positive(text: str, spec: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError(f"{spec}: {text!r} is no pixel size; write DIR@MPP, e.g. DIR@0.25")
    return value


def _fields(file: Path, given: float | None, mpp: float, split: str) -> Iterator[Field]:
    """The images that one annotation file knows and that are there."""
    from wsiseg_models.training.coco import image_mpps

    document = json.loads(file.read_text())
    names = {c["id"]: _class_of(c["name"].lower()) for c in document["categories"]}
    images = [i for i in document["images"] if (file.parent / i["file_name"]).is_file()]
    images.sort(key=lambda i: i["file_name"])
    mine: dict[int, list[dict[str, Any]]] = {i["id"]: [] for i in images}
    for one in document["annotations"]:
        if one["image_id"] in mine and names[one["category_id"]] and not one.get("iscrowd"):
            mine[one["image_id"]].append(one)
    nuclei = {
        k: [a["area"] for a in v if names[a["category_id"]] == "nucleus"] for k, v in mine.items()
    }
    mpps = image_mpps(document, nuclei, given)
    classes = {names[a["category_id"]] for v in mine.values() for a in v}
    for image in _held_out(images, split):
        if not mpps[image["id"]]:
            raise DataError(f"{file} states no pixel size and has no nuclei to tell; give DIR@MPP")
        entries = [(names[a["category_id"]], a["segmentation"]) for a in mine[image["id"]]]
        path = file.parent / image["file_name"]
        yield _field(path, entries, sorted(classes), mpps[image["id"]] / mpp)


def _class_of(category: str) -> str:
    """``cell``, ``nucleus`` or nothing."""
    from wsiseg_models.training.coco import NUCLEUS

    return "cell" if category in CELL else "nucleus" if category in NUCLEUS else ""


def _held_out(images: Sequence[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    from wsiseg_models.training.coco import Split

    if split == "all":
        return list(images)
    try:
        rule, count = Split(split), len(images)
        return [image for k, image in enumerate(images) if rule.holds_out(k, count)]
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"unknown split {split!r}; use fold:0/5, time:0.5 or all") from None


def _field(
    path: Path, entries: Sequence[tuple[str, Any]], classes: Sequence[str], scale: float
) -> Field:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise DataError(f"{path}: not an image that OpenCV reads")
    before = image.shape[:2]
    if abs(scale - 1) > 0.02:
        size = max(8, round(before[1] * scale)), max(8, round(before[0] * scale))
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        image = cv2.resize(image, size, interpolation=way)
    shape = image.shape[:2]
    rles: dict[str, list[Any]] = {name: [] for name in classes}
    for name, segmentation in entries:
        rle = _rle(segmentation, before, shape)
        if coco.area(rle):  # an object under half a pixel is none any more
            rles[name].append(rle)
    truth = {k: Masks(v, np.ones(len(v)), shape) for k, v in rles.items()}
    return Field(path.name, image.astype(np.uint8), truth)


def _rle(segmentation: Any, before: tuple[int, int], shape: tuple[int, int]) -> Any:
    """A COCO polygon or run lengths of an image of size `before`, as run lengths of `shape`."""
    if isinstance(segmentation, list):
        scale = np.array([shape[1] / before[1], shape[0] / before[0]])
        rings = [(np.reshape(r, (-1, 2)) * scale).ravel().tolist() for r in segmentation]
        return coco.merge(coco.frPyObjects(rings, *shape))
    rle = segmentation
    if isinstance(rle["counts"], list):
        rle = coco.frPyObjects(rle, *before)
    if shape == before:
        return rle
    way = cv2.INTER_NEAREST_EXACT
    mask = cv2.resize(coco.decode(rle), shape[::-1], interpolation=way)
    return coco.encode(np.asfortranarray(mask))


def find_in(model: Model, image: Images, *, score: float = 0.05) -> dict[str, Masks]:
    """Class → what `model` finds in an image (h, w, 3) of its own mpp, from `score` on.

    The image is seen whole, padded to the model's stride by reflection. Class probabilities and
    label images give nuclei, decoded as `wsiseg run` does by default.
    """
    shape = image.shape[:2]
    pad = ((0, -shape[0] % model.stride), (0, -shape[1] % model.stride), (0, 0))
    padded = np.pad(image, pad, mode="reflect")
    if model.detect is not None:
        found = model.detect(padded[None])[0]
        found = found.take(found.scores >= score)
        windows, scores, index = paste(found, shape), found.scores, found.class_index
    else:
        windows, scores = _labelled(model, padded, shape)
        index = np.zeros(len(scores), np.uint8)
    out: dict[str, Masks] = {}
    names = classes_of(model)
    rles = _encoded(windows, shape)
    for k, name in enumerate(names):
        mine = [i for i in np.flatnonzero(index == k) if rles[i] is not None and scores[i] >= score]
        out[name] = Masks([rles[i] for i in mine], scores[mine].astype(np.float64), shape)
    return out


def classes_of(model: Model) -> tuple[str, ...]:
    """The classes that `find_in` gives.

    Raises
    ------
    UsageError
        for a class that no truth is read for
    """
    names = ("nucleus",) if model.predict is not None else model.classes
    for name in names:
        if name not in ("cell", "nucleus"):
            raise UsageError(
                f"{model.name} finds {name!r}; only classes cell and nucleus have truth to compare"
            )
    return names


def _labelled(
    model: Model, padded: Images, shape: tuple[int, int]
) -> tuple[list[tuple[Window, NDArray[np.bool_]]], NDArray[np.float64]]:
    """Windows with masks, and scores, of what a network of pixels or a function finds."""
    h, w = shape
    if model.predict is not None:
        probability = model.predict(padded[None])[0, :, :h, :w]
        strongest = probability.max(0)
        labels = instances_of(
            probability, mpp=model.mpp, threshold=RunConfig.threshold,
            min_area_um2=RunConfig.min_area_um2, min_score=RunConfig.min_score,
            min_small_score=RunConfig.min_small_score, split=RunConfig.split,
        )  # fmt: skip
    else:
        assert model.label is not None
        labels = from_label_image(model.label(padded)[:h, :w]).labels
        strongest = np.full((h, w), 255, np.uint8)
    windows, scores = [], []
    for number, window in enumerate(find_objects(labels), 1):
        if window is not None:
            mask = labels[window] == number
            windows.append((window, mask))
            scores.append(strongest[window][mask].mean() / 255)
    return windows, np.array(scores, np.float64)


def _encoded(windows: Sequence[tuple[Window, NDArray[np.bool_]]], shape: tuple[int, int]) -> Any:
    """Run lengths of each mask in an image of `shape`; None where it has no pixel."""
    canvas = np.zeros(shape, np.uint8, order="F")
    out = []
    for window, mask in windows:
        canvas[window] = mask
        out.append(coco.encode(canvas) if mask.any() else None)
        canvas[window] = 0
    return out


def evaluate_model(
    model: Model,
    specs: Sequence[str],
    *,
    split: str = "all",
    score: float = 0.05,
    cut: float = 0.5,
    max_dets: int | None = 100,
    quiet: bool = True,
) -> dict[str, dict[str, float]]:
    """The scores of `instance_metrics.score_instances`, over all images of the sets.

    Parameters
    ----------
    specs, split
        see `read_set`
    score
        what is found with less does not count anywhere
    cut, max_dets
        see `score_class`

    Raises
    ------
    UsageError, DataError
        see `read_set`; or a set has none of the model's classes
    """
    classes = classes_of(model)
    found, truth = [], []
    for spec in specs:
        bar = progress(0, desc=f"{model.name} on {spec}", unit="image", quiet=quiet)
        for field in read_set(spec, mpp=model.mpp, split=split):
            if not set(classes) & set(field.truth):
                known = ", ".join(field.truth) or "nothing"
                raise DataError(f"{spec} has truth for {known}, not for {' or '.join(classes)}")
            found.append(find_in(model, field.image, score=score))
            truth.append(field.truth)
            bar.update()
        bar.close()
    return score_instances(found, truth, classes, cut=cut, max_dets=max_dets)


def score_rows(scores: Mapping[str, Mapping[str, float | None]]) -> list[list[str]]:
    """The scores of `evaluate_model`, None where undefined, for a table: a column per class."""
    rows = [["", *scores]]
    for name in scores["all"]:
        values = [column.get(name) for column in scores.values()]
        digits = 0 if name in COUNTS else 6 if name == "FPp" else 4
        rows.append([name, *("–" if v is None else f"{v:.{digits}f}" for v in values)])
    return rows


def write_scores(
    folder: Path, scores: Mapping[str, Mapping[str, float | None]], about: Mapping[str, Any]
) -> None:
    """Write results.json, with `about` in front, and results.csv; what is undefined stays empty."""
    from wsi_pipeline.core.files import part_path

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made ({error.strerror}); try another") from error
    with part_path(folder / "results.json") as part:
        text = json.dumps({**about, "scores": scores}, indent=1, ensure_ascii=False)
        part.write_text(text + "\n", encoding="utf-8")
    with part_path(folder / "results.csv") as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["score", *scores])
        writer.writerows([k, *(column.get(k) for column in scores.values())] for k in scores["all"])
