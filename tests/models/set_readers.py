"""Readers of annotated sets: both trainings, `evaluate` and its suite; what each makes of a set."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco
from wsiseg_models.training.coco import Split, read_image
from wsiseg_models.training.crops import targets_of
from wsiseg_models.training.instance_data import load_instance_set
from wsiseg_models.training.semantic_data import load_set

from wsi_pipeline.evaluation.coco_fields import read_set
from wsi_pipeline.evaluation.suite_sets import find_sets

NONE = Split("none")


def pixels(folder):
    samples, _ = load_set(f"{folder}@0.5", mpp=0.5, split=NONE, categories=("nucleus",))
    return [(s.image, s.labels > 0, s.labels < 0) for s in samples]


def instances(folder):
    found = []
    for sample in load_instance_set(f"{folder}@0.5", mpp=0.5, split=NONE).train:
        target = targets_of(sample)
        target.setdefault("unknown", np.zeros(sample.image.shape[:2], np.uint8))
        found.append((sample.image, target["masks"][sample.labels == 2].any(0), target["unknown"]))
    return found


def evaluation(folder):
    return [
        (f.image, coco.decode(truth.union), coco.decode(truth.unknown) if truth.unknown else 0)
        for f in read_set(f"{folder}@0.5", mpp=0.5)
        for truth in [f.truth["nucleus"]]
    ]


def suite(folder):
    document = json.loads((folder / "annotations.json").read_bytes())
    document["info"] = {**document.get("info", {}), "mpp": 0.5}
    (folder / "annotations.json").write_text(json.dumps(document))
    found, _ = find_sets(folder.parent, "all")
    return [
        (read_image(f.path), np.array([a.area for a in f.nuclei]), sum(a.area for a in f.unsure))
        for f in found[0].fields
    ]


READERS = {"pixels": pixels, "instances": instances, "evaluation": evaluation, "suite": suite}
every_reader = pytest.mark.parametrize("read", READERS.values(), ids=READERS)


def twice(document):
    document["annotations"] += [{**a, "id": 1000 + a["id"]} for a in document["annotations"]]


def outside(document):
    away = {"id": 77, "segmentation": [[200, 200, 260, 200, 230, 260]]}
    flat = {"id": 78, "segmentation": [[5, 5, 5, 5, 5, 5]]}
    document["annotations"] += [{**document["annotations"][1], **e} for e in (away, flat)]
