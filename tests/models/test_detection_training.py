"""Laws of training detectors: what is read, what is cropped, resumed equals uninterrupted."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
import torch
from wsiseg_models import registry
from wsiseg_models.checkpoint import load_checkpoint
from wsiseg_models.training.augment import Augmentation
from wsiseg_models.training.detection_crops import (
    BoxCrops,
    WholeImages,
    place_boxes,
    resize_factor,
    warp_boxes,
)
from wsiseg_models.training.detection_data import BoxSample, class_names, load_box_set
from wsiseg_models.training.detection_validation import compare, on_known_ground, validate_boxes
from wsiseg_models.training.detector_config import DetectorTrainConfig
from wsiseg_models.training.normalise import Normal
from wsiseg_models.training.split import Split
from wsiseg_models.training.train_detection import train_detector
from wsiseg_models.training.validation import run_padded

TINY = {
    "backbone": "resnet18", "trunk_width": 8, "norm": "group", "frozen": "none", "fpn_width": 32,
    "anchor_px": (16, 32, 64, 128, 256),
}  # fmt: skip
MORE = {"faster_rcnn": {"box_width": 32}, "retinanet": {"head_convs": 1}}
COLOURS = {"ASC-US": (150, 60, 60), "HSIL": (60, 60, 150)}


def draw(folder, count=3, seed=0, *, mpp=0.5, size=(96, 128)):
    """Fields with discs of two colours, each with its box: images of `size` (h, w), COCO."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for k in range(count):
        image = np.full((*size, 3), 225, np.uint8)
        for j, (x, y) in enumerate([(25, 25), (80, 30), (40, 70), (100, 72)]):
            x, y = x + int(rng.integers(-6, 7)), y + int(rng.integers(-6, 7))
            cv2.circle(image, (x, y), 12, list(COLOURS.values())[j % 2], -1)
            annotations.append(
                {"id": len(annotations), "image_id": k, "category_id": 1 + j % 2,
                 "bbox": [x - 12, y - 12, 25, 25]}
            )  # fmt: skip
        cv2.imwrite(str(folder / f"{k}.png"), image)
        images.append({"id": k, "file_name": f"{k}.png"})
    categories = [{"id": i, "name": n} for i, n in enumerate((*COLOURS, "SCC"), 1)]
    document = {"info": {"mpp": mpp}, "images": images, "annotations": annotations,
                "categories": categories}  # fmt: skip
    (folder / "annotations.json").write_text(json.dumps(document))
    return document


@pytest.fixture
def config(tmp_path):
    draw(tmp_path / "data")
    return DetectorTrainConfig(
        model="faster_rcnn", data=(str(tmp_path / "data"),), out=tmp_path / "whole",
        options=TINY | MORE["faster_rcnn"], split="fold:0/3", crop_px=64, batch=1, steps=2,
        save_every=1, amp=False, workers=0, warmup_steps=1, normalise="dataset",
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_resumed_training_equals_uninterrupted(config, tmp_path, name):
    config = dataclasses.replace(config, model=name, options=TINY | MORE[name])
    path = train_detector(config, quiet=True)
    whole, card = load_checkpoint(path)
    halves = dataclasses.replace(config, out=tmp_path / "halves")
    train_detector(dataclasses.replace(halves, max_minutes=0), quiet=True)
    assert len((halves.out / "log.jsonl").read_text().splitlines()) == 1
    resumed, _ = load_checkpoint(train_detector(halves, quiet=True))
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    with pytest.raises(ValueError, match="another lr"):
        train_detector(dataclasses.replace(halves, lr=1), quiet=True)

    assert (card.name, card.task, card.classes) == (name, "boxes", ("asc-us", "hsil"))
    stride = {"faster_rcnn": 64, "retinanet": 128}[name]
    assert card.stride == stride and card.halo_px == {64: 192, 128: 256}[stride]
    assert card.rule["min_score"] == card.rule["min_small_score"]
    assert card.training["objects"] == {"asc-us": 4, "hsil": 4} and card.training["images"] == 2
    assert card.options["classes"] == 2 and len(card.mean) == len(card.std) == 3
    assert set(card.metrics["data"]) == {"asc-us AP50", "hsil AP50", "AP50"}
    assert str(tmp_path) not in json.dumps(dataclasses.asdict(card))
    network, decode, _ = registry.load(path)
    assert len(decode(network(torch.zeros(2, 3, 128, 128)))) == 2
    assert sum(p.numel() for p in network.parameters()) == card.parameters


@pytest.mark.heavy  # a minute each
@pytest.mark.parametrize("name", MORE)
def test_a_detector_learns_two_images_by_heart(tmp_path, name):
    draw(tmp_path / "data", 3)
    steps = {"faster_rcnn": 150, "retinanet": 350}[name]
    config = DetectorTrainConfig(
        model=name, data=(str(tmp_path / "data"),), out=tmp_path / "out",
        options=TINY | MORE[name] | {"trunk_width": 16}, split="fold:0/3", crop_px=128, batch=2,
        steps=steps, save_every=steps, workers=0, warmup_steps=10, optimizer="adamw", lr=2e-3,
        ema=0.9, augmentation=Augmentation(scale=1, stain=0, grey=0, blur=0),
    )  # fmt: skip
    network, decode, card = registry.load(train_detector(config, quiet=True))
    seen = load_box_set(config.data[0], mpp=0.5, split=Split("fold:0/3"), classes=card.classes)

    def detect(image):
        return decode(run_padded(network, image, Normal(128.0, 128.0, "cpu"), card.stride))[0]

    learned = validate_boxes(list(compare(detect, seen.train, 2)), card.classes)["data"]
    assert learned["AP50"] > 0.85, learned
    assert 0.05 < card.rule["min_score"] < 0.95


def test_boxes_are_read_from_boxes_polygons_and_masks_alike(tmp_path):
    document = draw(tmp_path / "a")
    one, two, three = document["annotations"][:3]
    x, y, w, h = two.pop("bbox")
    two["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    x, y, w, h = three.pop("bbox")
    runs = np.zeros((96, 128), np.uint8)
    runs[y : y + h, x : x + w] = 1
    flat = runs.T.ravel()
    cuts = np.flatnonzero(np.diff(flat)) + 1
    three["segmentation"] = {"size": [96, 128],
                             "counts": np.diff([0, *cuts, flat.size]).tolist()}  # fmt: skip
    (tmp_path / "a" / "annotations.json").write_text(json.dumps(document))
    draw(tmp_path / "b")
    a, b = (load_box_set(str(tmp_path / n), mpp=0.5, split=Split("none"),
                         classes=("asc-us", "hsil")) for n in "ab")  # fmt: skip
    for mine, theirs in zip(a.train, b.train, strict=True):
        assert np.allclose(mine.boxes, theirs.boxes, atol=1)
        assert mine.labels.tolist() == theirs.labels.tolist()
    del one["bbox"]
    (tmp_path / "a" / "annotations.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"annotations.json: annotation 0 has neither bbox"):
        load_box_set(str(tmp_path / "a"), mpp=0.5, split=Split("none"), classes=("asc-us",))


def test_classes_are_those_that_occur_and_others_are_ignored_not_background(tmp_path):
    document = draw(tmp_path / "a")
    document["annotations"][0]["iscrowd"] = 1
    (tmp_path / "a" / "annotations.json").write_text(json.dumps(document))
    spec = str(tmp_path / "a")
    assert class_names([spec]) == ("asc-us", "hsil"), "no object is SCC"
    found = load_box_set(spec, mpp=1.0, split=Split("none"), classes=("HSIL",))
    sample = found.train[0]
    assert sample.image.shape == (48, 64, 3) and sample.labels.tolist() == [1, 1]
    assert len(sample.ignore) == 2 and found.skipped["ignored"] == 6
    assert np.allclose(sample.boxes[0], np.array([68, 18, 93, 43]) / 2, atol=4)


@pytest.mark.parametrize("seed", range(4))
def test_a_box_stays_on_its_object_in_every_crop(seed):
    """A dark rectangle; what is dark in the crop is the box of the target."""
    image = np.full((120, 160, 3), 240, np.uint8)
    image[40:70, 60:110] = 20
    sample = BoxSample(image, np.array([[60, 40, 110, 70]], np.float32), np.ones(1, np.uint8),
                       np.zeros((0, 4), np.float32), partial=True)  # fmt: skip
    plain = Augmentation(scale=1.3, stain=0, grey=0, blur=0)
    crops = BoxCrops([sample], np.ones(1), size=96, batch=3, seed=seed, augmentation=plain,
                     scales=(0.67, 1.0))  # fmt: skip
    images, targets = crops[0]
    assert images.shape[1:3] in ((64, 64), (96, 96))
    again = crops[0]
    assert np.array_equal(images, again[0])
    for shown, about in zip(images, targets, strict=True):
        rows, columns = np.nonzero(shown[..., 0] < 130)
        boxes = np.vstack([about["boxes"], about["ignore"]])
        if not len(rows):
            assert not len(about["boxes"])
            continue
        dark = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert len(boxes) == 1 and np.abs(boxes[0] - dark).max() <= 1.01


def test_an_object_that_the_crop_hardly_shows_is_ignored():
    sample = BoxSample(np.full((100, 100, 3), 200, np.uint8),
                       np.array([[10, 10, 30, 30], [60, 60, 80, 80]], np.float32),
                       np.array([1, 2], np.uint8), np.zeros((0, 4), np.float32))  # fmt: skip
    crop = warp_boxes(sample, np.array([[1.0, 0, 24], [0, 1, 8]]), 64, 64)
    assert crop.labels.tolist() == [2] and crop.boxes.tolist() == [[36, 52, 56, 64]]
    assert crop.ignore.tolist() == [[0, 2, 6, 22]]
    moved = place_boxes(sample.boxes, np.array([[0.0, -2, 99], [2, 0, 1]]))
    assert moved[0, 2] - moved[0, 0] == 10, "half the size, and turned"


def test_whole_images_are_resized_by_the_rule_of_the_paper():
    assert resize_factor(1020, 1376, 800, 1333) == pytest.approx(800 / 1020)
    assert resize_factor(600, 2000, 800, 1333) == pytest.approx(1333 / 2000)
    image = np.full((60, 90, 3), 200, np.uint8)
    sample = BoxSample(image, np.array([[30, 20, 60, 40]], np.float32), np.ones(1, np.uint8),
                       np.zeros((0, 4), np.float32))  # fmt: skip
    plain = Augmentation(scale=1, stain=0, grey=0, blur=0)
    seen = set()
    for step in range(8):
        crops = BoxCrops([sample], np.ones(1), size=64, batch=2, seed=0, augmentation=plain,
                         whole=WholeImages((48, 66), 100))  # fmt: skip
        images, targets = crops[step]
        seen.add(images.shape[1:3])
        for about in targets:
            x0, y0, x1, y1 = about["boxes"][0]
            assert (x1 - x0) / (y1 - y0) == pytest.approx(1.5, abs=0.05)
    assert seen == {(64, 96), (96, 128)}, "sides 48 × 72 and 66 × 99, padded to 32"


def test_whole_images_at_another_pixel_size_than_that_of_slides_are_refused(config):
    far = dataclasses.replace(config, short_px=(640, 800))
    with pytest.raises(ValueError, match=r"enlarges the images 8\.33 times .* give --mpp 0\.06"):
        train_detector(far, quiet=True)
    assert not (far.out / "state.pt").exists()


def test_epochs_become_steps(config):
    timed = dataclasses.replace(
        config, batch=2, epochs=24, schedule="steps", milestone_epochs=(8, 11)
    ).in_steps(45)
    assert (timed.steps, timed.milestones) == (540, (180, 248))
    assert config.in_steps(45) is config


def test_what_is_found_in_unmarked_places_does_not_count_in_partly_marked_images():
    sample = BoxSample(
        np.zeros((99, 99, 3), np.uint8), np.array([[10, 10, 30, 30]], np.float32),
        np.ones(1, np.uint8), np.zeros((0, 4), np.float32), partial=True,
    )  # fmt: skip
    boxes = np.array([[9, 9, 31, 31], [12, 12, 20, 20], [60, 60, 80, 80]], np.float32)
    assert on_known_ground(boxes, sample).tolist() == [True, True, False]
    marked = dataclasses.replace(sample, partial=False, ignore=boxes[2:])
    assert on_known_ground(boxes, marked).tolist() == [True, True, False]
    assert on_known_ground(boxes, dataclasses.replace(sample, partial=False)).all()
