"""Laws of what instance models learn from: masks that overlap, crops, clusters, resuming."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
import torch
from drawn_cells import GLASS, change, disc, sample_of, two_cells
from wsiseg_models import registry
from wsiseg_models.checkpoint import Card, load_checkpoint, read_card, save_checkpoint
from wsiseg_models.metrics import average_precision
from wsiseg_models.predictions import Instances
from wsiseg_models.training.augment import Augmentation
from wsiseg_models.training.cell_pasting import (
    Clusters,
    CutCell,
    add_cell,
    cut,
    free_cells,
    overlap,
    shine_through,
)
from wsiseg_models.training.config import InstanceTrainConfig
from wsiseg_models.training.crops import InstanceCrops, targets_of
from wsiseg_models.training.dense_pretraining import dense_maps
from wsiseg_models.training.instance_data import warp
from wsiseg_models.training.optimizers import milestones, warm_up
from wsiseg_models.training.train_instance import train_instances
from wsiseg_models.training.validation import validate_instances


def test_masks_warped_in_their_windows_are_masks_warped_whole():
    sample = two_cells()
    rng = np.random.default_rng(0)
    for _ in range(10):
        matrix = Augmentation().place(160, 160, 128, rng, lambda: np.array([[50, 50]]))
        crop = warp(sample, matrix, 128, visible=0, min_px=1)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        whole = [
            cv2.warpAffine(255 * m, matrix, (128, 128), flags=flags) >= 128
            for m in targets_of(sample)["masks"]
        ]
        whole = [m for m in whole if m.any()]
        mine = targets_of(crop)
        assert len(whole) == len(crop)
        for mask, box, true in zip(mine["masks"], mine["boxes"], whole, strict=True):
            # OpenCV rounds places to 1/32 px, from another origin here than there.
            assert (mask.astype(bool) ^ true).sum() <= 0.02 * true.sum() + 2
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_a_crop_drops_what_it_hardly_shows():
    sample = sample_of([disc(64, 32, 32, 20), disc(64, 32, 32, 6)], (1, 2), (1, 1))
    shifted = [np.array([[1, 0, dx], [0, 1, 0]], float) for dx in (0, 40, 47, 60)]
    assert [len(warp(sample, m, 64)) for m in shifted] == [2, 1, 0, 0]
    assert len(warp(sample, shifted[2], 64, visible=0.01)) == 1
    kept = warp(sample, shifted[1], 64)
    assert kept.labels.tolist() == [1] and (kept.image[:, 30:] == GLASS).all()


def crops(samples, **options):
    share = np.full(len(samples), 1 / len(samples))
    settings = {"size": 64, "batch": 2, "seed": 3, "augmentation": Augmentation()} | options
    return InstanceCrops(samples, share, **settings)


def test_every_step_has_crops_of_its_own():
    options = {"clusters": Clusters(chance=0.5), "scales": (1.0, 1.5)}
    first, again = (crops([two_cells(), two_cells()], **options) for _ in range(2))
    again[0], again[4]
    sides = set()
    for step in range(6):
        (images, targets), (images2, targets2) = first[step], again[step]
        assert np.array_equal(images, images2)
        for t, t2 in zip(targets, targets2, strict=True):
            assert all(np.array_equal(t[k], t2[k]) for k in t)
            assert len(t["boxes"]) == len(t["labels"]) == len(t["masks"])
            assert (t["boxes"].dtype, t["labels"].dtype, t["masks"].dtype) == (
                np.float32, np.int64, np.uint8
            )  # fmt: skip
        sides.add(images.shape[1])
    assert sides == {64, 96}
    assert not np.array_equal(first[0][0], crops([two_cells()] * 2, seed=4, **options)[0][0])


@pytest.mark.parametrize("colour", [(0.5, 0.5, 0.5), (0.9, 0.4, 0.6)])
def test_light_through_a_cluster_is_the_product_of_what_its_cells_let_through(colour):
    side = 96
    cells = [disc(side, x, 48, 24) for x in (36, 60)]
    through = [np.where(c[..., None], np.float32(colour), 1).astype(np.float32) for c in cells]
    image = np.full((side, side, 3), 240, np.uint8)
    seen = image
    for cell, t, alpha in zip(cells, through, (0.7, 1.1), strict=True):
        seen = shine_through(seen, t, cell, alpha=alpha, feather_px=3)
    law = image * through[0] ** 0.7 * through[1] ** 1.1
    kernel = np.ones((7, 7))
    bytes_ = [c.astype(np.uint8) for c in cells]
    ring = np.any([cv2.dilate(c, kernel) != cv2.erode(c, kernel) for c in bytes_], axis=0)
    assert np.abs(seen - law)[~ring].max() <= 1.01
    assert (seen <= image).all() and (np.ptp(seen, axis=2) == 0).all() == (len(set(colour)) == 1)
    # Across the edge the light falls, and nowhere faster than over the feather.
    profile = np.diff(seen[48, 4:20, 1].astype(int))
    assert (profile <= 0).all() and profile.min() > 240 * (law[48, 30, 1] / 240 - 1)


def test_added_cells_overlap_as_asked_and_bring_their_nucleus():
    settings = Clusters(chance=1, overlap=(0.2, 0.4), alpha=(1, 1), scale=1.0)
    rng = np.random.default_rng(1)
    sample, added = two_cells(), 0
    for _ in range(25):
        patch = cut(sample, int(rng.choice(free_cells(sample))), rng, settings)
        scene = add_cell(sample, patch, rng, settings)
        if len(scene) == len(sample):
            assert scene is sample
            continue
        added += 1
        assert scene.labels[4] == 1 and (scene.cell_id[4:] == 3).all()
        mask = targets_of(scene)["masks"].astype(bool)
        assert 0.2 <= overlap(sample, mask[4]) <= 0.4
        outside = ~cv2.dilate(mask[4].astype(np.uint8), np.ones((5, 5))).astype(bool)
        assert np.array_equal(scene.image[outside], sample.image[outside])
        if len(scene) == 6:
            assert scene.labels[5] == 2 and (mask[5] <= mask[4]).all()
            alone = mask[5] & ~mask[:4].any(0)
            assert not alone.any() or np.abs(scene.image[alone].mean() / GLASS - 0.32) < 0.05
    assert added > 15


def test_a_cut_cell_lets_through_what_it_was_drawn_with():
    rng = np.random.default_rng(2)
    patch = cut(two_cells(), 0, rng, Clusters(scale=1.0))
    assert len(patch.nuclei) == 1 and patch.cell.sum() == pytest.approx(np.pi * 26**2, rel=0.02)
    inner = cv2.erode((patch.cell & ~patch.nuclei[0]).astype(np.uint8), np.ones((5, 5))) > 0
    assert np.abs(patch.transmittance[inner] - 0.8).max() < 0.01
    unnumbered = dataclasses.replace(two_cells(), cell_id=np.full(4, -1))
    assert len(cut(unnumbered, 2, rng, Clusters()).nuclei) == 1


def test_cells_that_cannot_be_cut_or_placed_are_left():
    half = sample_of([disc(96, 40, 48, 24), disc(96, 60, 48, 24), disc(96, 0, 10, 9)],
                     (1, 1, 1), (1, 2, 3))  # fmt: skip
    assert not len(free_cells(half))  # two overlap, one is cut off
    full = sample_of([np.ones((32, 32), bool), disc(32, 16, 16, 9)], (1, 1), (1, 2))
    rng = np.random.default_rng(0)
    assert cut(full, 1, rng, Clusters(scale=1.0)) is None
    nuclei = sample_of([disc(32, 16, 16, 5)], (2,), (-1,))
    patch = CutCell(np.ones((9, 9, 3), np.float32), np.ones((9, 9), bool), ())
    assert add_cell(nuclei, patch, rng, Clusters()) is nuclei


def test_dense_maps_say_where_cells_overlap():
    sample = sample_of([disc(64, 26, 32, 12), disc(64, 38, 32, 12), disc(64, 26, 32, 4)],
                       (1, 1, 2), (1, 2, 1))  # fmt: skip
    target = {k: torch.from_numpy(v) for k, v in targets_of(sample).items()}
    nucleus, cell, both = dense_maps(target, (64, 64)).bool().numpy()
    a, b, n = (disc(64, *v) for v in ((26, 32, 12), (38, 32, 12), (26, 32, 4)))
    assert (nucleus == n).all() and (cell == (a | b)).all() and (both == (a & b)).all()
    empty = {k: v[:0] for k, v in target.items()}
    assert not dense_maps(empty, (64, 64)).any()


def perfect(sample, labels=(1, 2), grid=28):
    """What a network would find that finds everything."""
    kept = np.flatnonzero(np.isin(sample.labels, labels))
    masks = [cv2.resize(255 * sample.masks[i].astype(np.uint8), (grid, grid)) for i in kept]
    return Instances(
        sample.windows[kept].astype(np.float32), sample.labels[kept] - 1,
        np.linspace(1, 0.5, len(kept), dtype=np.float32),
        np.array(masks, np.uint8).reshape(-1, grid, grid),
    )  # fmt: skip


def test_validation_counts_what_was_found():
    # One true of two, then a false one, then the other: precision 1 up to recall 1/2, then 2/3.
    hits = np.array([True, False, True])
    expected = (51 + 50 * 2 / 3) / 101
    assert average_precision(np.array([0.9, 0.8, 0.7]), hits, 2) == pytest.approx(expected)
    assert average_precision(np.zeros(0), np.zeros(0, bool), 3) == 0
    samples = [two_cells(), dataclasses.replace(two_cells(), group="other")]
    full = validate_instances(lambda _: perfect(samples[0]), samples, ("cell", "nucleus"))
    assert set(full) == {"drawn", "other"} and set(full["drawn"].values()) == {1.0}
    cells = validate_instances(
        lambda _: perfect(samples[0], (1,)), samples[:1], ("cell", "nucleus")
    )
    assert cells["drawn"]["cell mask AP50"] == 1 and cells["drawn"]["nucleus mask AP50"] == 0
    assert cells["drawn"]["mask AP50"] == 0.5

    def doubled(_):
        found = perfect(samples[0], (1,))
        return found.take(np.array([0, 0, 1]))

    double = validate_instances(doubled, samples[:1], ("cell", "nucleus"))["drawn"]
    assert double["cell box AP50"] == pytest.approx(expected)


@pytest.mark.filterwarnings("error")
def test_what_lies_in_the_padding_of_an_image_counts_nowhere():
    sample = dataclasses.replace(two_cells(), unknown=np.zeros((160, 160), bool))

    def found_and_beyond(_):
        found = perfect(sample, (1,))
        boxes = found.boxes.copy()
        boxes[0] = 162, 20, 190, 60
        scores = np.array([1, *found.scores], np.float32)
        return dataclasses.replace(
            found.take(np.array([0, 0, 1])), boxes=np.concatenate([boxes[:1], found.boxes]),
            scores=scores,
        )  # fmt: skip

    measured = validate_instances(found_and_beyond, [sample], ("cell", "nucleus"))["drawn"]
    assert measured["cell box AP50"] == measured["cell mask AP50"] == 1


def test_learning_rates_rise_and_fall_as_set():
    assert [warm_up(s, 10, 0.001) for s in (0, 5, 10, 99)] == pytest.approx([0.001, 0.5005, 1, 1])
    assert [milestones(s, (4, 8)) for s in (3, 4, 8)] == pytest.approx([1, 0.1, 0.01])


@pytest.mark.parametrize("value", [128.0, (140.5, 120.0, 130.25)])
def test_half_weights_and_card_come_back(tmp_path, value):
    path = tmp_path / "x.safetensors"
    torch.manual_seed(0)
    state = {"a": torch.randn(64, 64), "large": torch.tensor([1e6]), "n": torch.tensor(3)}
    card = Card("donet", "cells", ("cell", "nucleus"), 0.5, 160, stride=32, mean=value, std=value)
    save_checkpoint(path, state, card)
    whole = path.stat().st_size
    save_checkpoint(path, state, card, half=True)
    assert whole - path.stat().st_size > 64 * 64 * 2 - 200
    again, read = load_checkpoint(path)
    assert dataclasses.replace(read, sha256="") == card
    assert again["a"].dtype == torch.float32 and torch.equal(again["a"], state["a"].half().float())
    assert again["large"] == 1e6 and again["n"] == 3
    for wrong in ({"mean": (1.0, 2.0)}, {"std": 0.0}, {"std": (1.0, 1.0, 0.0)}):
        with pytest.raises(ValueError, match=r"neither one number|must be above 0"):
            dataclasses.replace(card, **wrong)


TINY = {
    "backbone": "resnet18", "trunk_width": 8, "norm": "group", "trainable_layers": 5,
    "fpn_width": 8, "anchor_px": (8, 16, 32, 64, 128), "rpn_samples": 32, "roi_samples": 16,
    "rpn_pre_nms": (60, 40), "rpn_post_nms": (30, 20), "box_width": 16, "mask_width": 8,
    "mask_convs": 1, "score": 0.05,
}  # fmt: skip


@pytest.fixture
def config(data, tmp_path):
    torch.set_num_threads(1)
    return InstanceTrainConfig(
        model="maskrcnn", data=(f"{data}@0.5",), out=tmp_path / "whole", options=TINY,
        split="fold:0/5", crop_px=64, batch=2, steps=4, save_every=2, amp=False, workers=0,
        warmup_steps=2, clusters=Clusters(chance=0.5), normalise="dataset",
    )  # fmt: skip


def test_resumed_training_equals_uninterrupted(config, tmp_path):
    path = train_instances(config, quiet=True)
    whole, card = load_checkpoint(path)
    halves = dataclasses.replace(config, out=tmp_path / "halves")
    train_instances(dataclasses.replace(halves, max_minutes=0), quiet=True)
    assert len((halves.out / "log.jsonl").read_text().splitlines()) == 1
    resumed, _ = load_checkpoint(train_instances(halves, quiet=True))
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    states = [torch.load(f / "state.pt", weights_only=True) for f in (config.out, halves.out)]
    for part in ("network", "ema"):
        assert all(torch.equal(v, states[1][part][k]) for k, v in states[0][part].items())
    assert set(states[0]) == {"network", "optimizer", "ema", "step", "minutes", "config"}
    with pytest.raises(ValueError, match="another lr"):
        train_instances(dataclasses.replace(halves, lr=1), quiet=True)

    assert card.task == "cells" and card.classes == ("cell", "nucleus") and card.halo_px == 160
    assert 150 < card.mean[0] < GLASS and card.std[0] > 10
    assert card.training["steps done"] == 4 and "mask AP50" in card.metrics["data"]
    network, decode, _ = registry.load(path)
    found = decode(network(torch.zeros(2, 3, 64, 64)))
    assert len(found) == 2 and all(isinstance(f, Instances) for f in found)
    assert sum(p.numel() for p in network.parameters()) == card.parameters


def test_training_starts_from_dense_pretraining(config, tmp_path, capsys):
    dense = dataclasses.replace(config, pretrain="dense", steps=2, amp=True)
    state = train_instances(dense, quiet=True)
    assert state.name == "state.pt" and not (config.out / "maskrcnn.safetensors").exists()
    logged = json.loads((config.out / "log.jsonl").read_text())
    assert set(logged["loss"]) == set(logged["held out"]["data"]) == {"nucleus", "cell", "overlap"}
    after = dataclasses.replace(
        config, out=tmp_path / "after", initial=state, steps=1, lr=0.0, ema=0.0, freeze=2,
        optimizer="sgd", schedule="steps", milestones=(1,),
    )  # fmt: skip
    card = read_card(train_instances(after))
    taken = card.training["started from"]["initial"]
    assert taken["copied"] > 40 and taken["fresh"] > 10
    assert f"{taken['copied']} copied" in capsys.readouterr().err
    report = json.loads((after.out / "weights.json").read_text())["initial"]
    assert len(report["fresh"]) == taken["fresh"]
    assert all(k.startswith(("rpn", "roi_heads")) for k in report["fresh"])
    before, now = (torch.load(f, weights_only=True)["ema"] for f in (state, after.out / "state.pt"))
    trunk = [k for k in before if k.startswith("backbone")]
    assert len(trunk) == taken["copied"] and all(torch.equal(before[k], now[k]) for k in trunk)
    assert card.options["trainable_layers"] == 3


def test_training_starts_from_a_local_detector(config, tmp_path):
    torch.manual_seed(9)
    options = {**TINY, "norm": "frozen"}
    other = registry.build("maskrcnn", **options).state_dict()
    torch.save({k: v for k, v in other.items() if k.startswith("backbone.")}, tmp_path / "w.pth")
    after = dataclasses.replace(
        config, pretrained=tmp_path / "w.pth", options=options, steps=1, lr=0.0, ema=0.0
    )
    taken = read_card(train_instances(after, quiet=True)).training["started from"]["pretrained"]
    assert taken["file"] == "w.pth" and taken["copied"] > 0
    now = torch.load(after.out / "state.pt", weights_only=True)["ema"]
    copied = json.loads((after.out / "weights.json").read_text())["pretrained"]["copied"]
    exact = [k for k in copied if not k.endswith("running_var")]  # those make up for eps
    assert len(exact) > 40 and all(torch.equal(other[k], now[k]) for k in exact)


def test_data_without_anything_to_learn_are_refused(config, data):
    change(data, lambda document: document["annotations"].clear())
    with pytest.raises(ValueError, match="no cell and no nucleus"):
        train_instances(config, quiet=True)
