"""Crops of nuclei with their kinds, for `nucleus_kinds.py`; results/nucleus_kinds.md has the use.

    python experiments/nucleus_kinds_data.py work/real_unet.npz --fields real --outlines unet

writes crops of generated fields (with the outlines that a model draws, or with the true ones),
of herlev40, cric_fields, bttfa_lbc or isbi2014, whichever folder is given.

cric_unmarked.json says what the objects are that `unet` draws on cric_fields beside the marked
nuclei: points in pixels, by image and kind. One of the developers, no cytologist, looked at each of
the 136; 8 that stayed unclear are left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely
import torch
from numpy.typing import NDArray
from wsiseg_models.kinds.crops import CROP_MPP, nucleus_crops
from wsiseg_models.kinds.train import SOURCE_PX, KindSet
from wsiseg_models.training.coco import read_coco, read_image, resize_image

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.runs.segment_whole import segment_whole
from wsi_pipeline.segmentation.load_model import open_model
from wsi_pipeline.segmentation.model import Model
from wsi_pipeline.segmentation.score_rule import is_certain
from wsi_pipeline.slides.slide import open_slide

NORMAL, ABNORMAL, LEUKOCYTE, OTHER = range(4)
FOUND = RunConfig(foreground="all", threshold=0.4, min_score=0.4, min_small_score=0.4,
                  quiet=True, kinds=False)  # fmt: skip
CRIC_MPP, BTTFA_MPP, ISBI_MPP = 0.228, 0.82, 0.397
HERLEV_PX = 64
"""Side to which images of 40 px are enlarged: that of a common cell at `CROP_MPP`."""
UNMARKED = Path(__file__).with_name("cric_unmarked.json")
ABNORMAL_KINDS = {"lsil", "hsil", "pale_lsil", "koilocyte"}
UNCERTAIN_KINDS = {"crowded"}  # between normal and abnormal by construction
LEUKOCYTES = {"neutrophil", "lymphocyte"}

Outlines = NDArray[np.object_]


@dataclass(frozen=True, eq=False)
class Marked:
    """Crops with a name for each, for example its field or its class.

    Attributes
    ----------
    data
        crops and kinds
    group
        int64 (n,): number of the field, or in herlev40 the fold of 5
    name
        name of the class in the set
    area
        area of the nucleus: µm², or pixels where the pixel size is lost
    drawn
        bool (n,): whether a run at the model's own settings draws it
    """

    data: KindSet
    group: NDArray[np.int64]
    name: NDArray[np.str_]
    area: NDArray[np.float64]
    drawn: NDArray[np.bool_]

    def take(self, index: NDArray[np.bool_]) -> Marked:
        """Return the nuclei at `index`."""
        return Marked(self.data.take(index), self.group[index], self.name[index],
                      self.area[index], self.drawn[index])  # fmt: skip


def save(file: Path, made: Marked) -> None:
    """Write crops to a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, crops=made.data.crops, kinds=made.data.kinds, zoom=made.data.zoom,
             sized=made.data.sized, group=made.group, name=made.name, area=made.area,
             drawn=made.drawn)  # fmt: skip


def load(file: Path) -> Marked:
    """Read crops from a file that `save` wrote."""
    with np.load(file, allow_pickle=False) as arrays:  # noqa: TID251
        zoom = (float(arrays["zoom"][0]), float(arrays["zoom"][1]))
        parts = np.unique(arrays["name"], return_inverse=True)[1].astype(np.int64)
        data = KindSet(arrays["crops"], arrays["kinds"], zoom, parts, bool(arrays["sized"]))
        return Marked(data, *(arrays[name] for name in ("group", "name", "area", "drawn")))


def herlev(folder: Path) -> Marked:
    """Return every Herlev cell, enlarged to `HERLEV_PX`.

    A cell fills its 40 × 40 px, whatever its size: the pixel size is lost, so that it is zoomed at
    random by a factor of 0.6 to 1.3 in training.
    """
    coco = read_coco(folder / "annotations.json")
    document = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    class_of = {Path(i["file_name"]).name: i["cell_class"] for i in document["images"]}
    crops, kinds, names, area = [], [], [], []
    for entry in coco.images:
        labels = np.zeros((40, 40), np.uint8)
        for annotation in entry.annotations:
            if annotation.category == "nucleus":
                (x0, y0, x1, y1), inside = annotation.mask(labels.shape)
                labels[y0:y1, x0:x1][inside] = 1
        size = (HERLEV_PX, HERLEV_PX)
        image = cv2.resize(read_image(entry.path), size, interpolation=cv2.INTER_LINEAR)
        mask = cv2.resize(labels * 255, size, interpolation=cv2.INTER_LINEAR) > 127
        place = np.full((1, 2), HERLEV_PX // 2)
        crops.append(nucleus_crops(image, mask.astype(np.uint8), np.ones(1, int), place,
                                   mpp=CROP_MPP, size=SOURCE_PX))  # fmt: skip
        names.append(class_of[entry.path.name])
        kinds.append(NORMAL if names[-1].startswith("normal") else ABNORMAL)
        area.append(float(labels.sum()))
    data = KindSet(np.concatenate(crops), np.array(kinds), (0.6, 1.3), sized=False)
    return Marked(data, np.arange(len(kinds)) % 5, np.array(names), np.array(area),
                  np.ones(len(kinds), np.bool_))  # fmt: skip


def _found(path: Path, mpp: float, model: Model) -> tuple[Outlines, NDArray[np.bool_]]:
    """Return a model's outlines in pixels of `CROP_MPP`, and which a run draws."""
    with open_slide(path, mpp=mpp) as slide:
        objects = segment_whole(slide, model, FOUND)
    rule = RunConfig(kinds=False).object_rule(model.rule)
    polygons = objects.polygons()
    drawn = is_certain(objects.score, shapely.area(polygons) * mpp**2,
                       min_score=rule.min_score, min_small_score=rule.min_small_score)  # fmt: skip
    return shapely.transform(polygons, lambda xy: xy * (mpp / CROP_MPP)), drawn


def _crops(image: NDArray[np.uint8], outlines: Sequence[shapely.Polygon]) -> NDArray[np.uint8]:
    """Cut out the nuclei of an image at `CROP_MPP`."""
    labels = np.zeros(image.shape[:2], np.int32)
    for k, outline in enumerate(outlines):
        cv2.fillPoly(labels, [np.round(np.array(outline.exterior.coords) - 0.5).astype(int)], k + 1)
    boxes = shapely.bounds(np.array(outlines, object))
    centres = np.round((boxes[:, :2] + boxes[:, 2:]) / 2).astype(int)
    numbers = np.arange(len(outlines)) + 1
    return nucleus_crops(image, labels, numbers, centres, mpp=CROP_MPP, size=SOURCE_PX)


def cric(folder: Path, model: Model) -> Marked:
    """Return the marked nuclei and those of `UNMARKED`, each with the outline at its point.

    That is the outline that holds the point, or the nearest one. A marked nucleus without an
    outline within 4 µm is a disc of 50 µm². All outlines that a run draws beside these have the
    name "unclear" and kind −1.
    """
    document = json.loads((folder / "boxes.json").read_text(encoding="utf-8"))
    bethesda = {c["id"]: c["name"] for c in document["categories"]}
    seen = json.loads(UNMARKED.read_text(encoding="utf-8"))
    rows: list[tuple[Any, ...]] = []
    for entry in document["images"]:
        path = folder / entry["file_name"]
        image = resize_image(read_image(path), CRIC_MPP / CROP_MPP)
        outlines, drawn = _found(path, CRIC_MPP, model)
        tree, used = shapely.STRtree(outlines), set()
        points = [(a["point"], bethesda[a["category_id"]]) for a in document["annotations"]
                  if a["image_id"] == entry["id"]]  # fmt: skip
        for kind, places in seen.get(entry["file_name"], {}).items():
            points += [(place, kind) for place in places]
        for place, name in points:
            point = shapely.Point(np.array(place) * CRIC_MPP / CROP_MPP)
            reach = 4.0 if name in bethesda.values() else 0.5
            nearest = tree.query_nearest(point, max_distance=reach / CROP_MPP)
            if len(nearest):
                used.add(int(nearest[0]))
                rows.append((entry["id"], name, outlines[nearest[0]], drawn[nearest[0]], image))
            elif name in bethesda.values():
                disc = point.buffer(np.sqrt(50 / np.pi) / CROP_MPP)
                rows.append((entry["id"], name, disc, False, image))
        rows += [(entry["id"], "unclear", outlines[k], True, image)
                 for k in np.flatnonzero(drawn) if int(k) not in used]  # fmt: skip
    group, names, shapes, use, images = zip(*rows, strict=True)
    kind_of = {"NILM": NORMAL, "normal": NORMAL, "leukocyte": LEUKOCYTE, "other": OTHER,
               "unclear": -1}  # fmt: skip
    kinds = np.array([kind_of.get(name, ABNORMAL) for name in names])
    # One at a time, since two marks may lie in one outline.
    crops = [_crops(image, [shape]) for image, shape in zip(images, shapes, strict=True)]
    return Marked(KindSet(np.concatenate(crops), kinds), np.array(group), np.array(names),
                  shapely.area(shapes) * CROP_MPP**2, np.array(use))  # fmt: skip


def bttfa(folder: Path, model: Model) -> Marked:
    """Return the drawn nuclei of bttfa_lbc that are true ones, normal, and what is none, other.

    Of the set's nuclei a few are abnormal and a few leukocytes; it does not say which. An object of
    which 5 to 50 % is a true nucleus is left out.
    """
    rows = []
    for number, path, image, truth in _annotated(folder / "annotations.json"):
        outlines, drawn = _found(path, BTTFA_MPP, model)
        share = np.array([_covered(outline, truth, BTTFA_MPP) for outline in outlines])
        use = (share > 0.5) | (share < 0.05)
        if use.any():
            crops = _crops(resize_image(image, BTTFA_MPP / CROP_MPP), list(outlines))[use]
            kinds = np.where(share[use] > 0.5, NORMAL, OTHER)
            rows.append((crops, kinds, np.full(use.sum(), number),
                         shapely.area(outlines[use]) * CROP_MPP**2, drawn[use]))  # fmt: skip
    crops, kinds, group, area, drawn = (np.concatenate(part) for part in zip(*rows, strict=True))
    return Marked(KindSet(crops, kinds), group, kinds.astype(str), area, drawn)


def _covered(outline: shapely.Polygon, truth: NDArray[np.uint8], mpp: float) -> float:
    """Return the share of an outline, in pixels of `CROP_MPP`, that is a true nucleus."""
    inside = np.zeros_like(truth)
    corners = np.array(outline.exterior.coords) * CROP_MPP / mpp - 0.5
    cv2.fillPoly(inside, [np.round(corners).astype(int)], 1)
    return float(truth[inside > 0].mean())


def _annotated(file: Path) -> Iterator[tuple[int, Path, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Give number, path, pixels and true nuclei (h, w), 0 or 1, of each image of a COCO file."""
    for number, entry in enumerate(read_coco(file).images):
        image = read_image(entry.path)
        truth = np.zeros(image.shape[:2], np.uint8)
        for annotation in entry.annotations:
            if annotation.category == "nucleus":
                (x0, y0, x1, y1), inside = annotation.mask(truth.shape)
                truth[y0:y1, x0:x1][inside] = 1
        yield number, entry.path, image, truth


def isbi(folder: Path, model: Model) -> Marked:
    """Return the drawn nuclei of the training images of ISBI 2014 that are true ones: normal."""
    rows = []
    for number, path, image, truth in _annotated(folder / "annotations_train45.json"):
        outlines, drawn = _found(path, ISBI_MPP, model)
        corner = shapely.get_coordinates(shapely.centroid(outlines)) * CROP_MPP / ISBI_MPP
        column, row = np.clip(corner.astype(int), 0, np.array(truth.shape)[::-1] - 1).T
        use = truth[row, column] > 0
        if use.any():
            crops = _crops(resize_image(image, ISBI_MPP / CROP_MPP), list(outlines))[use]
            rows.append((crops, np.full(use.sum(), number),
                         shapely.area(outlines[use]) * CROP_MPP**2, drawn[use]))  # fmt: skip
    crops, group, area, drawn = (np.concatenate(part) for part in zip(*rows, strict=True))
    none = np.zeros(len(crops), np.int64)
    return Marked(KindSet(crops, none), group, none.astype(str), area, drawn)


def generated(folder: Path, model: Model | None, first: int = 0, last: int = 10**6) -> Marked:
    """Return nuclei of generated fields with their kinds, with the outlines of a model or true.

    "other" is an object that covers less than 5 % of its area with nuclei of the truth. An object
    whose IoU with its nucleus is below 0.5 is left out.
    """
    rows = []
    for entry, path, truth, own in _fields(folder, first, last):
        outlines, drawn = truth, np.ones(len(truth), np.bool_)
        named = [str(one["kind"]) for one in own]
        if model is not None:
            outlines, drawn = _found(path, entry["mpp"], model)
            named = [_name(outline, truth, own) for outline in outlines]
        use = np.array([name not in ("", *UNCERTAIN_KINDS) for name in named], np.bool_)
        if use.any():
            image = resize_image(read_image(path), entry["mpp"] / CROP_MPP)
            rows.append((_crops(image, list(outlines))[use], np.full(use.sum(), entry["id"]),
                         np.array(named)[use], shapely.area(outlines[use]) * CROP_MPP**2,
                         drawn[use]))  # fmt: skip
    crops, group, names, area, drawn = (np.concatenate(part) for part in zip(*rows, strict=True))
    kinds = np.array([_kind(name) for name in names])
    return Marked(KindSet(crops, kinds), group, names, area, drawn)


def _fields(
    folder: Path, first: int, last: int
) -> Iterator[tuple[dict[str, Any], Path, Outlines, list[dict[str, Any]]]]:
    """Give each field with its true nuclei in pixels of `CROP_MPP`, and their annotations."""
    document = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    for entry in document["images"][first:last]:
        own = [a for a in document["annotations"]
               if a["image_id"] == entry["id"] and a["category_id"] != 2]  # fmt: skip
        rings = [np.reshape(a["segmentation"][0], (-1, 2)) * entry["mpp"] / CROP_MPP for a in own]
        truth = shapely.make_valid([shapely.Polygon(ring) for ring in rings])
        plain = shapely.get_type_id(truth) == shapely.GeometryType.POLYGON
        yield (entry, folder / entry["file_name"], truth[plain],
               [one for one, good in zip(own, plain, strict=True) if good])  # fmt: skip


def _name(outline: shapely.Polygon, truth: Outlines, own: Sequence[Any]) -> str:
    """Return the kind of the true nucleus that an outline is, "other", or nothing if unclear."""
    shared = shapely.area(shapely.intersection(truth, outline))
    if len(shared) == 0 or shared.sum() < 0.05 * outline.area:
        return "other"
    best = int(shared.argmax())
    iou = shared[best] / (truth[best].area + outline.area - shared[best])
    return str(own[best]["kind"]) if iou >= 0.5 else ""


def _kind(name: str) -> int:
    if name in ABNORMAL_KINDS:
        return ABNORMAL
    if name in LEUKOCYTES:
        return LEUKOCYTE
    return OTHER if name == "other" else NORMAL


def main() -> None:
    """Cut out the nuclei of one set and write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="file to write, .npz")
    for name in ("fields", "herlev", "cric", "bttfa", "isbi"):
        parser.add_argument(f"--{name}", type=Path, help="folder of this set")
    parser.add_argument("--outlines", default="true", help="model that draws outlines, or true")
    parser.add_argument("--first", type=int, default=0, help="first generated field")
    parser.add_argument("--last", type=int, default=10**6, help="the one after the last")
    given = parser.parse_args()
    model = None if given.outlines == "true" else open_model(given.outlines, device="cpu")
    if given.herlev:
        made = herlev(given.herlev)
    elif given.fields:
        made = generated(given.fields, model, given.first, given.last)
    elif model is None:
        parser.error("--cric, --bttfa and --isbi need --outlines MODEL")
    elif given.cric:
        made = cric(given.cric, model)
    else:
        made = bttfa(given.bttfa, model) if given.bttfa else isbi(given.isbi, model)
    save(given.out, made)
    print(given.out, {str(n): int((made.name == n).sum()) for n in np.unique(made.name)})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
