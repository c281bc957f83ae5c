"""Laws of learning from a teacher: what is averaged, what is learned, and what is refused."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
import torch
from drawn_discs import write_discs
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wsiseg_models import registry
from wsiseg_models.checkpoint import Card, load_checkpoint, save_checkpoint
from wsiseg_models.semantic.dssnet import dssnet, for_inference
from wsiseg_models.training.augment import Augmentation
from wsiseg_models.training.config import SemanticTrainConfig
from wsiseg_models.training.crops import Crops
from wsiseg_models.training.distillation import Distillation
from wsiseg_models.training.teacher import Teacher, Views, add_teacher, teacher_loss
from wsiseg_models.training.train_semantic import predict_image, train_semantic
from wsiseg_models.training.unlabelled import RING_UM, SURE, load_unlabelled, raise_at_points

SMALL = {"width": 9, "depth": 1}
PLAIN = {"views": 1, "scales": (1.0,)}


def write_teacher(path, seed=3, **changes):
    """Save a small network with random weights as a checkpoint; return its path."""
    torch.manual_seed(seed)
    options = {**SMALL, "classes": 1 + len(changes.get("classes", "1"))}
    network = for_inference(dssnet(**options))
    network.segmentation.fine[-1].weight.mul_(20)  # so that probabilities differ clearly
    fields = {"name": "dssnet", "task": "nuclei", "classes": ("nucleus",), "mpp": 0.5}
    card = Card(**{**fields, "halo_px": 96, "options": options, **changes})
    save_checkpoint(path, network.state_dict(), card)
    return str(path)


def write_images(folder, sizes=((96, 80), (64, 120)), **boxes):
    """Write photographs of noise; with `boxes` a boxes.json with these entries."""
    rng = np.random.default_rng(8)
    folder.mkdir(parents=True, exist_ok=True)
    for i, size in enumerate(sizes):
        smooth = cv2.GaussianBlur(rng.integers(0, 255, (*size, 3)).astype(np.uint8), (0, 0), 2)
        cv2.imwrite(str(folder / f"{i}.png"), smooth)
    if boxes:
        images = [{"id": i, "file_name": f"{i}.png"} for i in range(len(sizes))]
        names = [{"id": 1, "name": "LSIL"}]
        (folder / "boxes.json").write_text(
            json.dumps({"images": images, "categories": names, "annotations": [], **boxes})
        )
    return folder


def tiny(data, out, **changes):
    """Settings of a training of a few steps."""
    return SemanticTrainConfig(
        model="dssnet", data=(f"{data}@0.5",), out=out, options=SMALL, split="fold:0/4",
        crop_px=32, batch=2, steps=4, save_every=2, amp=False, workers=0, **changes,
    )  # fmt: skip


def test_the_loss_is_zero_with_no_gradient_where_the_network_is_its_teacher():
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 8, 8, requires_grad=True)
    q = logits.detach().softmax(1)
    soft = torch.cat([torch.ones(2, 1, 8, 8), q[:, 1:]], 1)
    loss = teacher_loss(logits, soft)
    loss.backward()
    assert abs(loss.item()) < 1e-6 and float(logits.grad.abs().max()) < 1e-8
    for _ in range(5):
        assert teacher_loss(logits + torch.randn(2, 4, 8, 8), soft).item() > 0.01


def test_the_gradient_is_the_difference_of_probabilities_times_the_weight():
    torch.manual_seed(1)
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    q, weight = torch.randn(1, 3, 4, 4).softmax(1), torch.rand(1, 1, 4, 4)
    weight[..., 0] = 0
    teacher_loss(logits, torch.cat([weight, q[:, 1:]], 1)).backward()
    expected = weight * (logits.detach().softmax(1) - q) / 12
    assert torch.allclose(logits.grad, expected, atol=1e-6)
    assert teacher_loss(logits, torch.zeros(1, 3, 4, 4)).item() == 0


@pytest.mark.parametrize("count", [4, 8])
def test_the_average_of_a_turned_image_is_the_turned_average(count):
    def predict(image):
        """Depends on direction: a shear of the brightness."""
        grey = image.astype(np.float32).mean(2)
        return np.stack([np.roll(grey, 3, 0) + 2 * np.roll(grey, 1, 1), np.sqrt(grey)])

    image = np.random.default_rng(2).integers(0, 255, (40, 56, 3)).astype(np.uint8)
    mean = Views(predict, count)
    assert np.allclose(mean(np.rot90(image)), np.rot90(mean(image), 1, (1, 2)), atol=1e-3)
    assert np.allclose(Views(predict, 1)(image), predict(image))
    if count == 8:
        assert np.allclose(mean(image[:, ::-1]), mean(image)[:, :, ::-1], atol=1e-3)


def test_one_view_at_its_own_scale_is_the_network(tmp_path):
    path = write_teacher(tmp_path / "t.safetensors")
    samples = load_unlabelled(f"{write_images(tmp_path / 'photos')}@0.5", mpp=0.5)
    teacher = Teacher(Distillation(teacher=(path,), **PLAIN), ("nucleus",), "cpu")
    made = add_teacher(samples, teacher, tmp_path / "maps", quiet=True)
    network, decode, _ = registry.load(tmp_path / "t.safetensors")
    for before, after in zip(samples, made, strict=True):
        expected = predict_image(network, decode, before.image, "cpu").astype(int)
        assert after.teacher.shape == (2, *before.labels.shape)
        assert np.abs(after.teacher[1:] - expected).max() <= 1 and (after.teacher[0] == 255).all()
        assert expected.std() > 0 and after.unlabelled and after.teacher_weight == 1


def test_several_checkpoints_are_averaged(tmp_path):
    paths = [write_teacher(tmp_path / f"{i}.safetensors", seed=i) for i in range(3)]
    samples = load_unlabelled(f"{write_images(tmp_path / 'photos')}@0.25", mpp=0.5)
    assert samples[0].image.shape == (48, 40, 3)

    def maps(*chosen):
        settings = Distillation(teacher=chosen, views=4, scales=(0.8, 1.25))
        teacher = Teacher(settings, ("nucleus",), "cpu")
        return [m.astype(float) for m in teacher.of(samples, lambda: None)]

    alone = [maps(path) for path in paths]
    for i, together in enumerate(maps(*paths)):
        assert np.abs(together - np.mean([a[i] for a in alone], 0)).max() <= 1
        assert np.abs(together - alone[0][i]).max() > 3


@pytest.mark.slow
def test_tiles_of_a_large_image_change_nothing(tmp_path, monkeypatch):
    from wsiseg_models.training import teacher as module

    path = write_teacher(tmp_path / "t.safetensors", halo_px=288)
    photo = write_images(tmp_path / "photo", [(300, 900)])
    samples = load_unlabelled(f"{photo}@0.5", mpp=0.5)
    teacher = Teacher(Distillation(teacher=(path,), **PLAIN), ("nucleus",), "cpu")
    (whole,) = teacher.of(samples, lambda: None)
    monkeypatch.setattr(module, "TILE_PX", 256)
    (tiled,) = teacher.of(samples, lambda: None)
    assert np.abs(whole.astype(int) - tiled).max() <= 1


def test_maps_are_computed_once_and_those_of_another_teacher_are_refused(tmp_path, monkeypatch):
    path = write_teacher(tmp_path / "t.safetensors")
    samples = load_unlabelled(f"{write_images(tmp_path / 'photos')}@0.5", mpp=0.5)
    settings = Distillation(teacher=(path,), **PLAIN)
    first = add_teacher(samples, Teacher(settings, ("nucleus",), "cpu"), tmp_path / "m", quiet=True)
    maps = sorted((tmp_path / "m").glob("*.png"))
    maps[0].unlink()
    computed = []
    inner = Teacher.of

    def counted(self, samples, shown):
        computed.extend(samples)
        return inner(self, samples, shown)

    monkeypatch.setattr(Teacher, "of", counted)
    again = add_teacher(samples, Teacher(settings, ("nucleus",), "cpu"), tmp_path / "m", quiet=True)
    assert len(computed) == 1
    assert all(np.array_equal(a.teacher, b.teacher) for a, b in zip(first, again, strict=True))
    write_teacher(tmp_path / "t.safetensors", seed=9)
    for changed, name in [(settings, "teacher"), (dataclasses.replace(settings, views=4), "views")]:
        with pytest.raises(ValueError, match=f"maps with another .*{name}.*another --out"):
            add_teacher(samples, Teacher(changed, ("nucleus",), "cpu"), tmp_path / "m", quiet=True)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"classes": ("cell",)}, "has the classes cell, and the training has nucleus"),
        ({"classes": ("nucleus", "other")}, "a teacher must have the same"),
        ({"task": "cells", "name": "donet"}, "donet gives no class per pixel"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(tmp_path, changes, match):
    path = write_teacher(tmp_path / "t.safetensors", **changes)
    with pytest.raises(ValueError, match=match):
        Teacher(Distillation(teacher=(path,)), ("nucleus",), "cpu")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"unlabelled": ("a",)}, "a has no annotations to learn from; give a --teacher"),
        ({"teacher": ("a",), "weight": 0.0}, "nothing is learned from the teacher"),
        ({"teacher": ("a",), "weight": float("nan")}, "distil_weight nan"),
        ({"teacher": ("a",), "views": 2}, "teacher_views 2 is none of 1, 4, 8"),
        ({"teacher": ("a",), "scales": ()}, "teacher_scale"),
        ({"teacher": ("a",), "scales": (1.0, 0.0)}, "teacher_scale"),
    ],
)
def test_settings_that_cannot_be(settings, match):
    with pytest.raises(ValueError, match=match):
        Distillation(**settings)


def test_folders_that_cannot_be_used_say_why(tmp_path):
    photos = write_images(tmp_path / "photos")
    with pytest.raises(ValueError, match=r"photos states no pixel size for 0\.png; give DIR@MPP"):
        load_unlabelled(str(photos), mpp=0.5)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty has no images \(\.png"):
        load_unlabelled(f"{tmp_path / 'empty'}@0.5", mpp=0.5)
    with pytest.raises(ValueError, match="nowhere is no folder"):
        load_unlabelled(f"{tmp_path / 'nowhere'}@0.5", mpp=0.5)
    with pytest.raises(ValueError, match="'x' is no pixel size"):
        load_unlabelled(f"{photos}@x", mpp=0.5)
    (photos / "2.png").write_text("no image")
    with pytest.raises(ValueError, match=r"2\.png: not an image"):
        load_unlabelled(f"{photos}@0.5", mpp=0.5)


def test_points_and_pixel_size_come_from_boxes(tmp_path):
    marks = [
        {"id": 1, "image_id": 0, "category_id": 1, "point": [40, 30]},
        {"id": 2, "image_id": 0, "category_id": 1, "bbox": [10, 60, 20, 8]},
    ]
    info = {"mpp": 0.25, "licence": "CC0"}
    folder = write_images(tmp_path / "photos", annotations=marks, info=info)
    first, second = load_unlabelled(str(folder), mpp=0.5)
    assert np.allclose(first.points, [[20, 15], [10, 32]]) and len(second.points) == 0
    assert first.image.shape == (48, 40, 3) and (first.labels == -1).all()
    assert first.origin == "photos (unlabelled; licence: CC0; 0.25 µm per px, stated)"


@settings(deadline=None, max_examples=40)
@example(x=28.0, y=22.0, peak=234, classes=1)
@given(x=st.floats(2, 78), y=st.floats(2, 58), peak=st.integers(0, 255), classes=st.integers(1, 3))
def test_a_nucleus_is_drawn_at_a_point_and_nothing_else_changes(x, y, peak, classes):
    rows, cols = np.indices((60, 80))
    blob = np.exp(-((rows - 30) ** 2 + (cols - 40) ** 2) / 60)
    before = np.zeros((classes, 60, 80), np.uint8)
    before[-1] = peak * blob
    after, learned = raise_at_points(before, np.array([[x, y]]), 0.5)
    changed = (after != before).any(0)
    total = after.sum(0, dtype=int)
    row, col = int(y), int(x)
    distance = 0.5 * np.hypot(rows + 0.5 - y, cols + 0.5 - x)
    assert total.max() <= 256 and (total >= before.sum(0, dtype=int) - 1).all()
    assert not changed[distance > 8.5].any()
    if changed.any():
        assert (total[changed] >= 255 * SURE - 1).all()
        assert distance[changed].min() <= 2.5
        near, beside = (
            cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, 5) * 0.5
            # A pixel of the region that had its value before is not among the changed ones.
            for inside in (changed, total >= 255 * SURE - 1)
        )
        assert learned[changed].all() and learned[beside > RING_UM + 0.1].all()
        assert not learned[(near > 0) & (near < RING_UM - 0.1) & (total < 127)].any()
    else:
        assert learned.all() and (before.sum(0)[distance <= 2.0] >= 127).any(), (row, col)


def test_a_point_grows_the_region_that_the_teacher_shows_weakly():
    rows, cols = np.indices((60, 80))
    inside = np.hypot(rows - 30, cols - 40) <= 8
    before = np.where(inside, 80, 5).astype(np.uint8)[None]
    after, _ = raise_at_points(before, np.array([[42.5, 31.5]]), 0.5)
    assert np.array_equal(after[0] >= 128, inside)
    disc, _ = raise_at_points(np.zeros((1, 60, 80), np.uint8), np.array([[40.5, 30.5]]), 0.5)
    assert (disc[0] > 0).sum() * 0.25 == pytest.approx(np.pi * 2.5**2, rel=0.1)


def test_crops_hold_the_teacher_at_the_same_place_and_draw_as_without_one(tmp_path):
    photos = load_unlabelled(f"{write_images(tmp_path / 'photos')}@0.5", mpp=0.5)
    bright = [
        dataclasses.replace(
            s, teacher_weight=0.25,
            teacher=np.stack([np.full(s.labels.shape, 255, np.uint8), s.image[..., 1]]),
        )
        for s in photos
    ]  # fmt: skip
    still = Augmentation(scale=1.0, stain=0, grey=0, blur=0)
    kept = {"size": 32, "batch": 4, "seed": 1, "augmentation": _NoColour(still)}
    chances = np.full(2, 0.5)
    images, targets, edges, _, soft = Crops(bright, chances, **kept)[3]
    assert soft.shape == (4, 2, 32, 32) and set(np.unique(soft[:, 0])) == {0.25}
    assert np.abs(255 * soft[:, 1] - images[..., 1]).max() <= 1
    assert (targets < 0).all() and (edges < 0).all()
    assert Crops(photos, chances, **kept)[3][4].shape == (4, 0, 32, 32)


class _NoColour:
    """Geometry alone."""

    def __init__(self, augmentation):
        self.crop = augmentation.crop

    def colour(self, image, rng):
        return image


def test_resumed_training_equals_uninterrupted(tmp_path):
    data = write_discs(tmp_path / "data")
    photos = write_images(tmp_path / "photos")
    teacher = write_teacher(tmp_path / "t.safetensors")
    learn = Distillation(teacher=(teacher,), unlabelled=(f"{photos}@0.5=2",), views=4)
    config = tiny(data, tmp_path / "whole", distillation=learn)
    whole, card = load_checkpoint(train_semantic(config, quiet=True))
    halves = dataclasses.replace(config, out=tmp_path / "halves")
    train_semantic(dataclasses.replace(halves, max_minutes=0), quiet=True)
    resumed, _ = load_checkpoint(train_semantic(halves, quiet=True))
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    alone, _ = load_checkpoint(train_semantic(tiny(data, tmp_path / "alone"), quiet=True))
    assert any(not torch.equal(whole[k], alone[k]) for k in whole)
    line = json.loads((config.out / "log.jsonl").read_text().splitlines()[-1])
    assert line["loss"]["teacher"] > 0
    used = card.training["distillation"]
    assert used["unlabelled"] == ["photos@0.5=2"] and used["teacher"][0].startswith("dssnet ")
    assert str(tmp_path) not in json.dumps(dataclasses.asdict(card))
    assert any(line.startswith("photos (unlabelled;") for line in card.data)
    with pytest.raises(ValueError, match="another distillation"):
        less = dataclasses.replace(learn, weight=0.1)
        train_semantic(dataclasses.replace(halves, distillation=less), quiet=True)


def test_held_out_images_are_not_learned_without_their_truth_either(tmp_path):
    """Of four fields one is held out; its copy in the unlabelled folder is not used."""
    data = write_discs(tmp_path / "data")
    learn = Distillation(
        teacher=(write_teacher(tmp_path / "t.safetensors"),),
        unlabelled=(f"{data / 'images'}@0.5",), **PLAIN,
    )  # fmt: skip
    config = dataclasses.replace(tiny(data, tmp_path / "out", distillation=learn), steps=1)
    _, card = load_checkpoint(train_semantic(config, quiet=True))
    assert card.training["images"] == 3 + 3
