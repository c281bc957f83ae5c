"""Train and judge `nucleus_kinds`: what kind of nucleus a segmented object is.

    wsiseg synth real --fields 72 --look real --mpp 0.25-0.45 --size 640 --seed 612
    wsiseg synth plain --fields 10 --look plain --mpp 0.25-0.45 --size 640 --seed 613
    python experiments/nucleus_kinds.py ../shared/data --fields real --fields plain --work kinds

writes kinds/nucleus_kinds.safetensors and prints the numbers of
experiments/results/nucleus_kinds.md. Run it again to resume: crops and networks that are in the
folder are used again.

Sets: herlev40 (917 cells; classes 1 to 3 normal, 4 to 7 abnormal; every fifth, from the first in
order of names, held out), cric_fields (92 marked nuclei; each field is judged by a network that
has seen the other four) and generated fields. Outlines in cric_fields and in generated fields are
those of DSSNet, with low thresholds; in herlev40 those of the set.

A herlev40 cell fills its 40 × 40 px, whatever its size: its pixel size is lost. It is enlarged to
the size of a crop, and zoomed at random by a factor of 0.6 to 1.3 in training.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely
import torch
from numpy.typing import NDArray
from wsiseg_models.checkpoint import Card, load_checkpoint, save_checkpoint
from wsiseg_models.kinds.crops import CROP_MPP, CROP_PX, nucleus_crops
from wsiseg_models.kinds.network import KINDS, TASK, KindNet, kindnet
from wsiseg_models.kinds.train import SOURCE_PX, KindSet, fit_kinds, kind_probabilities, middle
from wsiseg_models.training.coco import Split, read_coco, read_image, resize_image

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.evaluation.suite_measures import rank_auc
from wsi_pipeline.runs.segment_whole import segment_whole
from wsi_pipeline.segmentation.load_model import open_model
from wsi_pipeline.slides.slide import open_slide

NORMAL, ABNORMAL, LEUKOCYTE, OTHER = range(4)
FOUND = RunConfig(foreground="all", threshold=0.4, min_score=0.4, min_small_score=0.4, quiet=True)
CRIC_MPP = 0.228
ABNORMAL_KINDS = {"lsil", "hsil", "pale_lsil", "koilocyte"}
UNCERTAIN_KINDS = {"crowded"}  # between normal and abnormal by construction
LEUKOCYTES = {"neutrophil", "lymphocyte"}
STEPS, FIELD_STEPS = 900, 60
CARD = Card(
    name="nucleus_kinds", task=TASK, classes=KINDS, mpp=CROP_MPP, halo_px=CROP_PX // 2,
    tile_px=CROP_PX, stride=1, options={"kinds": len(KINDS), "width": 12},
    licence="research use; see data",
    data=(
        "herlev40 (licence: repository MIT; cite Jantzen et al., NiSIS 2005; pixel size lost)",
        "cric_fields (licence: CC BY 4.0; Rezende et al. 2021; 0.228 µm per px)",
        "synthetic cytology fields (licence: generated, free to use)",
    ),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Marked:
    """Crops with a name for each, for example its field or its class.

    Attributes
    ----------
    data
        crops and kinds
    group
        int64 (n,): number of the field, or 1 where the cell is held out
    name
        name of the class in the set
    area
        area of the nucleus: µm², or pixels where the pixel size is lost
    """

    data: KindSet
    group: NDArray[np.int64]
    name: NDArray[np.str_]
    area: NDArray[np.float64]


def main() -> None:
    """Gather crops, train, judge, write the checkpoint and print what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with herlev40 and cric_fields")
    parser.add_argument("--fields", type=Path, action="append", required=True,
                        help="folder of generated fields; repeatable")  # fmt: skip
    parser.add_argument("--work", type=Path, required=True, help="folder for crops and networks")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    herlev = _kept(given.work / "herlev.npz", lambda: _herlev(given.data / "herlev40"))
    cric = _kept(given.work / "cric.npz", lambda: _cric(given.data / "cric_fields"))
    generated = [_kept(given.work / f"{f.name}.npz", lambda f=f: _generated(f))
                 for f in given.fields]  # fmt: skip
    for name, one in (
        ("herlev40", herlev),
        ("cric_fields", cric),
        *zip(given.fields, generated, strict=True),
    ):
        print(name, {KINDS[k]: int((one.data.kinds == k).sum()) for k in range(len(KINDS))})
    _train_and_judge(given.work, herlev, cric, generated)


def _kept(file: Path, make: Any) -> Marked:
    """Return crops from a file, or make and keep them."""
    if not file.is_file():
        made = make()
        np.savez_compressed(
            file, crops=made.data.crops, kinds=made.data.kinds, zoom=made.data.zoom,
            group=made.group, name=made.name, area=made.area,
        )  # fmt: skip
    with np.load(file, allow_pickle=False) as arrays:  # noqa: TID251
        zoom = (float(arrays["zoom"][0]), float(arrays["zoom"][1]))
        data = KindSet(arrays["crops"], arrays["kinds"], zoom)
        return Marked(data, arrays["group"], arrays["name"], arrays["area"])


def _herlev(folder: Path) -> Marked:
    """Return every Herlev cell, enlarged so that its image fills a crop."""
    coco, split = read_coco(folder / "annotations.json"), Split("fold:0/5")
    document = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    class_of = {Path(i["file_name"]).name: i["cell_class"] for i in document["images"]}
    crops, kinds, group, names, area = [], [], [], [], []
    for position, entry in enumerate(coco.images):
        labels = np.zeros((40, 40), np.uint8)
        for annotation in entry.annotations:
            if annotation.category == "nucleus":
                (x0, y0, x1, y1), inside = annotation.mask(labels.shape)
                labels[y0:y1, x0:x1][inside] = 1
        size = (CROP_PX, CROP_PX)
        image = cv2.resize(read_image(entry.path), size, interpolation=cv2.INTER_LINEAR)
        mask = cv2.resize(labels * 255, size, interpolation=cv2.INTER_LINEAR) > 127
        place = np.full((1, 2), CROP_PX // 2)
        crops.append(nucleus_crops(image, mask.astype(np.uint8), np.ones(1, int), place,
                                   mpp=CROP_MPP, size=SOURCE_PX))  # fmt: skip
        names.append(class_of[entry.path.name])
        kinds.append(NORMAL if names[-1].startswith("normal") else ABNORMAL)
        group.append(int(split.holds_out(position, len(coco.images))))
        area.append(float(labels.sum()))
    data = KindSet(np.concatenate(crops), np.array(kinds), (0.6, 1.3))
    return Marked(data, np.array(group), np.array(names), np.array(area))


def _found(path: Path, mpp: float, model: Any) -> tuple[NDArray[np.uint8], NDArray[np.object_]]:
    """Return a field at `CROP_MPP` and DSSNet's outlines in its pixels."""
    with open_slide(path, mpp=mpp) as slide:
        objects = segment_whole(slide, model, FOUND)
    scale = mpp / CROP_MPP
    image = resize_image(read_image(path), scale)
    return image, shapely.transform(objects.polygons(), lambda xy: xy * scale)


def _crops(image: NDArray[np.uint8], outlines: Sequence[shapely.Polygon]) -> NDArray[np.uint8]:
    """Cut out the nuclei of an image at `CROP_MPP`."""
    labels = np.zeros(image.shape[:2], np.int32)
    for k, outline in enumerate(outlines):
        cv2.fillPoly(labels, [np.round(np.array(outline.exterior.coords) - 0.5).astype(int)], k + 1)
    centres = np.array([[round(o.centroid.x), round(o.centroid.y)] for o in outlines])
    numbers = np.arange(len(outlines)) + 1
    return nucleus_crops(image, labels, numbers, centres, mpp=CROP_MPP, size=SOURCE_PX)


def _cric(folder: Path) -> Marked:
    """Return the marked nuclei, each with the outline that holds its point, or the nearest one.

    Without an outline within 4 µm the nucleus is a disc of 50 µm².
    """
    model = open_model("dssnet", device="cpu")
    document = json.loads((folder / "boxes.json").read_text(encoding="utf-8"))
    bethesda = {c["id"]: c["name"] for c in document["categories"]}
    crops, group, names, area = [], [], [], []
    discs = 0
    for entry in document["images"]:
        image, outlines = _found(folder / entry["file_name"], CRIC_MPP, model)
        tree = shapely.STRtree(outlines)
        marks = [a for a in document["annotations"] if a["image_id"] == entry["id"]]
        chosen = []
        for mark in marks:
            point = shapely.Point(np.array(mark["point"]) * CRIC_MPP / CROP_MPP)
            nearest = tree.query_nearest(point, max_distance=4 / CROP_MPP)
            discs += len(nearest) == 0
            disc = point.buffer(np.sqrt(50 / np.pi) / CROP_MPP)
            chosen.append(outlines[nearest[0]] if len(nearest) else disc)
            names.append(bethesda[mark["category_id"]])
        # One at a time, since two marks may lie in one outline.
        crops += [_crops(image, [outline]) for outline in chosen]
        area += [outline.area * CROP_MPP**2 for outline in chosen]
        group += [entry["id"]] * len(marks)
    print(f"cric_fields: {discs} of {len(names)} marks have no outline within 4 µm")
    kinds = np.where(np.array(names) == "NILM", NORMAL, ABNORMAL)
    return Marked(KindSet(np.concatenate(crops), kinds), np.array(group), np.array(names),
                  np.array(area))  # fmt: skip


def _generated(folder: Path) -> Marked:
    """Return what DSSNet finds in generated fields, with the kind of the nucleus that it covers.

    "other" is an object that covers less than 5 % of its area with nuclei of the truth.
    """
    model = open_model("dssnet", device="cpu")
    document = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    crops, kinds, group, names, area = [], [], [], [], []
    for entry in document["images"]:
        image, outlines = _found(folder / entry["file_name"], entry["mpp"], model)
        own = [a for a in document["annotations"]
               if a["image_id"] == entry["id"] and a["category_id"] != 2]  # fmt: skip
        rings = [np.reshape(a["segmentation"][0], (-1, 2)) * entry["mpp"] / CROP_MPP for a in own]
        truth = shapely.make_valid([shapely.Polygon(ring) for ring in rings])
        named = [_name(outline, truth, own) for outline in outlines]
        use = [k for k, name in enumerate(named) if name not in ("", *UNCERTAIN_KINDS)]
        if use:
            found = _crops(image, outlines)[use]
            crops.append(found)
            names += [named[k] for k in use]
            area += [outlines[k].area * CROP_MPP**2 for k in use]
            group += [entry["id"]] * len(use)
    kinds = [_kind(name) for name in names]
    return Marked(KindSet(np.concatenate(crops), np.array(kinds)), np.array(group),
                  np.array(names), np.array(area))  # fmt: skip


def _name(outline: shapely.Polygon, truth: NDArray[np.object_], own: Sequence[Any]) -> str:
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


def _train_and_judge(work: Path, herlev: Marked, cric: Marked, generated: Sequence[Marked]) -> None:
    """Train the networks, print what they reach on crops that they have not seen, write the last.

    All start from one network that has seen no mark of cric_fields. The last eighth of the
    generated fields is held out.
    """
    began = time.process_time()
    learned = [one.data.take(one.group <= _last(one)) for one in generated]
    all_crops = sum(len(one.kinds) for one in learned)
    common = [(herlev.data.take(herlev.group == 0), 3.0)]
    common += [(one, len(one.kinds) / all_crops * 6.0) for one in learned]
    start = _fitted(work / "common.safetensors", kindnet(**CARD.options), common, STEPS)
    probability = np.zeros(len(cric.group))
    for field in np.unique(cric.group):
        seen = [*common, (cric.data.take(cric.group != field), 2.0)]
        network = _fitted(work / f"without_{field}.safetensors", start, seen, FIELD_STEPS)
        judged = cric.group == field
        probability[judged] = _abnormal(network, cric.data.take(judged))
    metrics = {"cric_fields": _judge("cric_fields, leave one field out", cric, probability)}
    seen = [*common, (cric.data, 2.0)]
    last = _fitted(work / "last.safetensors", start, seen, FIELD_STEPS)
    for title, network in (("before cric_fields", start), ("as shipped", last)):
        held = replace(herlev, data=herlev.data.take(herlev.group == 1),
                       name=herlev.name[herlev.group == 1],
                       area=herlev.area[herlev.group == 1])  # fmt: skip
        result = _judge(f"herlev40 fold 0, {title}", held, _abnormal(network, held.data))
        print(f"cric_fields, {title}: {_judge('', cric, _abnormal(network, cric.data))}")
    metrics["herlev40"] = result
    metrics["generated"] = _confusion(last, generated)
    minutes = round((time.process_time() - began) / 60, 1)
    training = {"steps": STEPS + FIELD_STEPS, "CPU minutes of all networks": minutes,
                "crops": int(sum(len(d.kinds) for d, _ in seen))}  # fmt: skip
    count = sum(p.numel() for p in last.parameters())
    card = replace(CARD, metrics=metrics, training=training, parameters=count)
    save_checkpoint(work / "nucleus_kinds.safetensors", last.state_dict(), card)
    print(f"{count} parameters, {minutes} CPU minutes")


def _last(one: Marked) -> int:
    """Return the number of the last generated field that is learned from."""
    return int(one.group.max() * 7 // 8)


def _fitted(
    file: Path, start: KindNet, sets: Sequence[tuple[KindSet, float]], steps: int
) -> KindNet:
    """Return a network from a file, or train a copy of `start` and keep it."""
    network = kindnet(**CARD.options)
    if not file.is_file():
        network.load_state_dict(start.state_dict())
        rate = 4e-3 if steps == STEPS else 1e-3
        save_checkpoint(file, fit_kinds(network, CARD, sets, steps=steps, rate=rate).state_dict(),
                        CARD)  # fmt: skip
    network.load_state_dict(load_checkpoint(file)[0])
    return network.eval()


def _abnormal(network: KindNet, data: KindSet) -> NDArray[np.float32]:
    return kind_probabilities(network, CARD, middle(data.crops))[:, ABNORMAL]


def _judge(title: str, one: Marked, probability: NDArray[np.floating]) -> dict[str, Any]:
    """Return, and print under a title, how well abnormal is told from normal."""
    abnormal = one.data.kinds == ABNORMAL
    result: dict[str, Any] = {
        "AUC": round(rank_auc(probability, abnormal), 4),
        "AUC of area": round(rank_auc(one.area, abnormal), 4),
        "abnormal above 0.5": round(float((probability[abnormal] > 0.5).mean()), 3),
        "normal above 0.5": round(float((probability[~abnormal] > 0.5).mean()), 3),
        "nuclei": len(abnormal),
    }
    if title:
        print(f"{title}: {result}")
        for name in np.unique(one.name):
            own = probability[one.name == name]
            print(f"    {name}: {len(own)}, median {np.median(own):.2f}, "
                  f"above 0.5 {np.mean(own > 0.5):.2f}")  # fmt: skip
    return result


def _confusion(network: KindNet, generated: Sequence[Marked]) -> dict[str, dict[str, float]]:
    """Print and return the share of each kind of held-out generated nuclei that goes to each."""
    kinds = np.concatenate([one.data.kinds[one.group > _last(one)] for one in generated])
    crops = np.concatenate([one.data.crops[one.group > _last(one)] for one in generated])
    called = kind_probabilities(network, CARD, middle(crops)).argmax(1)
    table = {}
    for k, name in enumerate(KINDS):
        own = called[kinds == k]
        shares = np.bincount(own, minlength=len(KINDS)) / max(len(own), 1)
        table[name] = dict(zip(KINDS, shares.round(3).tolist(), strict=True))
        print(f"generated, held out: {name} ({len(own)}): {table[name]}")
    return table


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
