"""The state of a training, and weights to start from, cut short or damaged: one line, no crash."""

import io
import json
import random

import pytest
import torch
from torch import nn
from wsiseg_models.checkpoint import load_torch_file
from wsiseg_models.stain import StainRange
from wsiseg_models.training.initial_weights import start_from
from wsiseg_models.training.loop import Ema, Run

SETTINGS = {"seed": 1}


def run_in(folder):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1))
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 3, 4, 4)).sum().backward()
    optimizer.step()
    return Run(folder, network, optimizer, Ema(network, 0.9), SETTINGS, 10, "cpu")


@pytest.fixture
def state(tmp_path):
    run_in(tmp_path).save()
    return torch.load(tmp_path / "state.pt", weights_only=True)


def test_a_whole_state_is_resumed(tmp_path, state):
    run = run_in(tmp_path)
    run.resume()
    assert run.step == state["step"]


@pytest.mark.parametrize("kind", ["cut", "bytes"])
def test_a_state_that_is_cut_short_or_corrupt_is_refused_or_read(tmp_path, state, kind):
    path, rng = tmp_path / "state.pt", random.Random(7)
    whole = path.read_bytes()
    refused = 0
    for _ in range(40):
        if kind == "cut":
            damaged = whole[: rng.randrange(len(whole))]
        else:
            changed = bytearray(whole)
            for _ in range(20):
                changed[rng.randrange(len(whole))] = rng.randrange(256)
            damaged = bytes(changed)
        path.write_bytes(damaged)
        for read in (
            lambda: run_in(tmp_path).resume(),
            lambda: start_from(nn.Conv2d(3, 2, 1), path),
        ):
            try:
                read()
            except ValueError as error:
                refused += 1
                assert "\n" not in str(error)
                assert "state.pt" in str(error)
    assert refused >= 40


def test_every_entry_of_another_kind_is_refused(tmp_path, state):
    path = tmp_path / "state.pt"
    weight = torch.zeros(2, 3, 1, 1)
    strange = [None, "x", -1, [], {}, {"0.weight": 1}, {"0.weight": weight.double()}, 1e400, [[1]]]
    for name in state:
        for value in strange:
            same = (name == "minutes" and value == []) or (name == "step" and value == 1)
            if same or (name in ("step", "minutes") and isinstance(value, str) and value.isdigit()):
                continue
            torch.save({**state, name: value}, path)
            with pytest.raises(ValueError, match=r"state\.pt") as error:
                run_in(tmp_path).resume()
            assert "\n" not in str(error.value)
        without = {k: v for k, v in state.items() if k != name}
        torch.save(without, path)
        with pytest.raises(ValueError, match=r"state\.pt"):
            run_in(tmp_path).resume()
    for config in ("[" * 100_000, "7", "{", json.dumps(None)):
        torch.save({**state, "config": config}, path)
        with pytest.raises(ValueError, match="no state of a training"):
            run_in(tmp_path).resume()


def odd_tensors():
    weight = torch.zeros(2, 3, 1, 1)
    return {
        "sparse": weight.to_sparse(),
        "complex": weight.to(torch.complex64),
        "meta": weight.to("meta"),
        "no tensor": "x",
    }


@pytest.mark.parametrize("kind", odd_tensors())
def test_weights_of_other_kinds_do_not_start_a_network(tmp_path, kind):
    path = tmp_path / "weights.pt"
    for content in ({"weight": odd_tensors()[kind]}, {"ema": {"weight": odd_tensors()[kind]}}):
        torch.save(content, path)
        with pytest.raises(ValueError, match=r"weights\.pt"):
            start_from(nn.Conv2d(3, 2, 1, bias=False), path)


def test_no_file_and_an_empty_file_are_refused(tmp_path):
    (tmp_path / "empty.pt").touch()
    buffer = io.BytesIO()
    torch.save({"a": 1}, buffer, _use_new_zipfile_serialization=False)
    (tmp_path / "old.pt").write_bytes(buffer.getvalue()[:-5])
    for path in (tmp_path, tmp_path / "empty.pt", tmp_path / "old.pt"):
        with pytest.raises(ValueError, match=path.name):
            load_torch_file(path)


@pytest.mark.parametrize(
    "value",
    [None, 5, "x", [], [[1]], {}, {"a": 1}, [["a", 1, 2], [1, 2, 3]], [[1, 2, 3], [4, 5]],
     [[1, 2, float("nan")], [4, 5, 6]], [[1, 2, 3], [4, 5, float("inf")]], [10**400, 10**401],
     [None, None], [[1, None, 3], [4, 5, 6]], [{"a": 1}, 2], "\ud800"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["glass", "density"])
def test_an_odd_range_of_stains_is_refused(name, value):
    entry = {"glass": [[200, 200, 200], [250, 250, 250]], "density": [0.1, 0.4]}
    assert StainRange.from_card(entry).density == (0.1, 0.4)
    with pytest.raises(ValueError, match=f"stain range with {name}"):
        StainRange.from_card({**entry, name: value})
