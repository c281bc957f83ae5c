"""Weights and names from elsewhere: taken, or refused in one line."""

import json
import math
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from wsiseg_models import building
from wsiseg_models.checkpoint import Card, load_checkpoint, read_card, save_checkpoint, state_of
from wsiseg_models.class_names import normal_class
from wsiseg_models.registry import MODELS, load
from wsiseg_models.semantic.wubineh import LIBRARY
from wsiseg_models.training.initial_weights import start_from

CARD = Card(name="dssnet", task="nuclei", classes=("nucleus",), mpp=0.5, halo_px=0)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.",
                                    "_orig_mod.module."])  # fmt: skip
@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model"])
def test_prefixes_of_wrappers_are_left_out(tmp_path, prefix, key):
    state = network().state_dict()
    named = {prefix + name: value for name, value in state.items()}
    path = tmp_path / "weights.pt"
    torch.save(named if key is None else {key: named, "epoch": 3}, path)
    fresh = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1))
    assert start_from(fresh, path)["fresh"] == []
    assert all(torch.equal(a, b) for a, b in zip(state.values(), fresh.state_dict().values(),
                                                 strict=True))  # fmt: skip
    save_checkpoint(tmp_path / "weights.safetensors", named, CARD)
    assert list(load_checkpoint(tmp_path / "weights.safetensors")[0]) == sorted(state)


def test_a_name_that_only_looks_like_a_prefix_stays():
    state = {"module.a": 1, "b": 2}
    assert state_of(state) == state


@pytest.mark.parametrize("content", [network(), {"model": network()}, {"x": print}])
def test_a_pickled_model_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "model.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"whole model.*state_dict") as error:
        start_from(network(), path)
    assert "\n" not in str(error.value)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ValueError, match=r"plain\.pt") as error:
        start_from(network(), tmp_path / "plain.pt")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "entry",
    [
        {"classes": "nucleus"}, {"classes": [1]}, {"classes": None}, {"classes": []},
        {"mpp": "0.5"}, {"mpp": None}, {"mpp": math.nan}, {"stride": 0}, {"stride": 8.0},
        {"tile_px": 0}, {"halo_px": -8}, {"halo_px": True}, {"mean": "a"}, {"mean": [1, 2]},
        {"mean": [1, 2, None]}, {"std": 0}, {"options": [1]}, {"rule": []}, {"name": 1},
        {"mpp": True}, {"mpp": 10**400}, {"std": True}, {"std": math.nan}, {"std": math.inf},
        {"std": 1e-300}, {"std": 10**400}, {"mean": 1e300}, {"mean": [0, 0, math.nan]},
        {"stride": 2**40}, {"tile_px": 8 * 10**9}, {"halo_px": 8 * 10**9}, {"halo_px": 8e9},
        {"rule": {"threshold": math.nan}}, {"options": {"a": [1, {"b": -math.inf}]}},
        {"data": [1]}, {"licence": 5}, {"parameters": "x"}, {"training": 3}, {"metrics": None},
    ],
)  # fmt: skip
def test_a_card_of_other_kinds_is_refused_with_the_file(tmp_path, entry):
    stored = {**asdict(CARD), **entry}
    del stored["sha256"]
    path = tmp_path / "x.safetensors"
    save_file(network().state_dict(), path, {"card": json.dumps(stored)})
    with pytest.raises(ValueError, match=r"x\.safetensors: ") as error:
        read_card(path)
    assert "not supported" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["{", "[]", "null", "1", "[" * 100_000, '{"a":' * 100_000,
                                  r'{"name": "a\ud800"}'])  # fmt: skip
def test_a_card_that_is_no_mapping_is_refused(tmp_path, text):
    path = tmp_path / "x.safetensors"
    save_file(network().state_dict(), path, {"card": text})
    with pytest.raises(ValueError, match=r"x\.safetensors: its card is no.*save it again"):
        read_card(path)


@pytest.mark.parametrize(
    ("change", "why"),
    [({"classes": ("a", "b")}, "names 2 classes, its network has 1"),
     ({"task": "cells"}, "states the task 'cells'; dssnet is for nuclei")],
)  # fmt: skip
def test_classes_and_task_are_those_of_the_network(tmp_path, change, why):
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, network().state_dict(), replace(CARD, options={"classes": 2}, **change))
    with pytest.raises(ValueError, match=why):
        load(path)


@pytest.mark.parametrize(
    ("options", "why"),
    [({"depth": 10**9}, "far larger than the weights"), ({"width": 2000}, "far larger"),
     ({"depth": -1}, "depth -1"), ({"width": 0}, "width 0 is below 4"), ({"width": -4}, "below 4"),
     ({"width": "a"}, "not of type int"), ({"width": [1]}, "not of type int"),
     ({"nope": 1}, "unknown option 'nope'"), ({"classes": "2"}, "give a whole number"),
     ({"classes": [2]}, "give a whole number"), ({"classes": 2.0}, "give a whole number")],
)  # fmt: skip
def test_options_make_no_network_that_is_larger_than_the_weights(
    tmp_path, monkeypatch, options, why
):
    monkeypatch.setattr(building, "SPARE_VALUES", 10**5)
    monkeypatch.setattr(building, "SPARE_TENSORS", 50)
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, network().state_dict(), replace(CARD, options=options))
    with pytest.raises(ValueError, match=why) as error:
        load(path)
    assert "x.safetensors: " in str(error.value) and "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["wubineh", "unetpp", "pspnet"])
@pytest.mark.parametrize("encoder", sorted(LIBRARY))
def test_every_encoder_is_as_large_as_its_weights_allow(model, encoder):
    """Encoders are built with a head that is thrown away."""
    builder = MODELS[model].builder
    state = builder(encoder=encoder).state_dict()
    with building.limited_to(state):
        builder(encoder=encoder)


def test_a_network_is_limited_in_its_own_thread_and_block_alone(monkeypatch):
    monkeypatch.setattr(building, "SPARE_VALUES", 0)
    small, large = nn.Linear(2, 2), (200, 200)
    with building.limited_to(small.state_dict()):
        nn.Linear(2, 2)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(nn.Linear, *large).result()
        with pytest.raises(RuntimeError, match="far larger than the weights"):
            nn.Linear(*large)
    nn.Linear(*large)


@pytest.mark.parametrize("name", ["", " ", ":", "Tumor:", ": Positive", "A: : B", "A\nB", "A:\t"])
def test_names_that_break_qupath_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="QuPath cannot read it"):
        normal_class(name)
    with pytest.raises(ValueError, match="QuPath cannot read it"):
        replace(CARD, classes=("nucleus", name))


def test_names_are_written_as_qupath_writes_them(tmp_path):
    card = replace(CARD, classes=(" nucleus", "Tumor:Positive", "A :B: C"))
    assert card.classes == ("nucleus", "Tumor: Positive", "A: B: C")
    save_checkpoint(tmp_path / "x.safetensors", network().state_dict(), card)
    assert read_card(tmp_path / "x.safetensors").classes == card.classes
    with pytest.raises(ValueError, match="twice"):
        replace(CARD, classes=("A:B", "A: B"))
