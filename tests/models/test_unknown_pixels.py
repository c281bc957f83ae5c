"""Crowds and what nobody annotated: neither learned as background nor counted against a model."""

from collections import Counter

import numpy as np
import pytest
import torch
from drawn_cells import RADIUS, centres, change, disc
from set_readers import (
    NONE,
    every_reader,
    instances,
    outside,
    pixels,
    suite,
    twice,
)
from tiny_networks import BUILDERS, TINY, empty, scene
from wsiseg_models.training.coco_document import left_out_text
from wsiseg_models.training.dense_pretraining import Dense
from wsiseg_models.training.instance_data import load_instance_set, warp
from wsiseg_models.training.semantic_data import IGNORE, edge_target, load_set

from wsi_pipeline.evaluation.coco_fields import read_set
from wsi_pipeline.evaluation.suite_sets import find_sets


def crowd(document):
    document["annotations"][1]["iscrowd"] = 1  # the first nucleus of the first field


@every_reader
def test_a_crowd_is_unknown_not_a_nucleus_and_not_background(data, read):
    true = read(data)[0]
    change(data, crowd)
    image, target, unknown = read(data)[0]
    assert np.array_equal(image, true[0])
    x, y = centres()[0][0]
    if read is suite:
        assert len(target) == len(true[1]) - 1
        assert unknown == pytest.approx(np.pi * RADIUS[1] ** 2, rel=0.2)
        return
    seen = disc(96, x, y, RADIUS[1] - 1) & (target == 0)
    assert (np.asarray(unknown)[seen] == 1).all()
    assert target.sum() < true[1].sum()
    assert not (np.asarray(unknown)[~disc(96, x, y, RADIUS[1] + 1)]).any()


AREA = [10, 20, 60, 20, 60, 80, 10, 80]


@every_reader
@pytest.mark.parametrize(
    ("edit", "known"),
    [
        (lambda d: d.update(exhaustive=False), 0),
        (lambda d: d.update(info={"exhaustive": False}), 0),
        (lambda d: [i.update(exhaustive=False) for i in d["images"]], 0),
        (lambda d: [i.update(annotated_area=AREA) for i in d["images"]], 50 * 60),
        (lambda d: d.update(exhaustive=False, annotated_area=[AREA]), 50 * 60),
    ],
)
def test_what_nobody_annotated_is_unknown(data, read, edit, known):
    true = read(data)
    change(data, edit)
    mine = read(data)
    for (_, target, unknown), (_, nuclei, _) in zip(mine, true, strict=True):
        assert np.array_equal(target, nuclei)
        if read is suite:
            assert unknown == 96 * 96 - known
        elif read is instances:
            assert (unknown == 0).sum() == known
        else:
            area = np.zeros((96, 96), bool)
            area[20:80, 10:60] = known
            assert np.array_equal(np.asarray(unknown) > 0, ~area & (nuclei == 0))


def test_an_image_may_be_exhaustive_in_a_set_that_is_not(data):
    change(data, lambda d: d.update(exhaustive=False))
    change(data, lambda d: d["images"][1].update(exhaustive=True))
    assert [bool(np.any(unknown)) for *_, unknown in pixels(data)] == [
        True,
        False,
        True,
        True,
        True,
    ]


def test_edges_of_unknown_pixels_are_unknown(data):
    change(data, lambda d: d.update(exhaustive=False))
    (sample, *_), _ = load_set(f"{data}@0.5", mpp=0.5, split=NONE, categories=("nucleus",))
    edges = edge_target(sample.labels)
    inside = (sample.labels > 0).reshape(48, 2, 48, 2).all((1, 3))
    assert (edges[inside] >= 0).all()
    assert (edges[(sample.labels < 0).reshape(48, 2, 48, 2).all((1, 3))] == IGNORE).all()
    assert (edges == 1).any()


def test_what_is_unknown_turns_with_its_image(data):
    change(data, lambda d: [i.update(annotated_area=AREA) for i in d["images"]])
    whole = load_instance_set(f"{data}@0.5", mpp=0.5, split=NONE).train[0]
    half = load_instance_set(f"{data}@0.5", mpp=1.0, split=NONE).train[0]
    assert np.array_equal(half.unknown, whole.unknown[::2, ::2])
    turned = warp(whole, np.array([[0.0, 1, 0], [-1, 0, 95]]), 96)
    assert np.array_equal(turned.unknown, np.rot90(whole.unknown, -1))


@pytest.mark.parametrize("name", [n for n in BUILDERS if n != "lite"])
def test_networks_do_not_learn_unknown_pixels_as_background(name):
    torch.manual_seed(0)
    network = BUILDERS[name](**TINY).train()
    image, target = scene()
    for known in (target, empty()):
        losses = network(image, [{**known, "unknown": torch.ones(96, 96, dtype=torch.uint8)}])
        assert all(torch.isfinite(v) for v in losses.values())
    # Without any instance there is nothing to learn, and with background there is.
    assert all(float(v.detach()) == 0 for v in losses.values())
    taught = network(image, [empty()])
    assert float(taught["rpn_class"].detach()) > 0
    sum(losses.values()).backward()
    assert not any(p.grad is not None and p.grad.any() for p in network.parameters())


def test_maps_are_not_learned_where_they_are_unknown():
    torch.manual_seed(0)
    network = Dense(BUILDERS["maskrcnn"](**TINY), TINY["fpn_width"]).train()
    image, _ = scene()
    taught = network(image, [empty()])
    unknown = network(image, [{**empty(), "unknown": torch.ones(96, 96, dtype=torch.uint8)}])
    assert all(float(taught[k].detach()) > 0 for k in taught)
    assert all(float(unknown[k].detach()) == 0 for k in unknown)


# --- what is left out


def test_what_is_left_out_is_counted(data):
    def edit(document):
        twice(document)
        outside(document)
        crowd(document)
        document["images"].append({"id": 9, "file_name": "images\\lost.png"})
        document["categories"].append({"id": 3, "name": "debris"})
        document["annotations"].append(
            {**document["annotations"][1], "id": 5000, "category_id": 3, "iscrowd": 0}
        )

    change(data, edit)
    counts = {"image not there": 1, "annotated twice": 24, "crowd": 1, "debris": 1}
    found = Counter()
    load_set(f"{data}@0.5", mpp=0.5, split=NONE, categories=("nucleus",), left_out=found)
    assert +found == {**counts, "without a pixel": 2, "cytoplasm": 12}
    found.clear()
    list(read_set(f"{data}@0.5", mpp=0.5, left_out=found))
    assert +found == {**counts, "without a pixel": 2}
    change(data, lambda d: d.update(info={"mpp": 0.5}))
    (one,), _ = find_sets(data.parent, "all")
    assert one.left_out == counts
    assert left_out_text("a", one.left_out) == (
        "a: left out: 24 annotated twice, 1 crowd, 1 debris, 1 image not there"
    )
