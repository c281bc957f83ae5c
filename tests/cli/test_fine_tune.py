"""`wsiseg train MODEL --from`: options, replayed fields, scores before and after, resuming."""

import json

import pytest
import torch
from command_line import complaint, succeed, wsiseg
from safetensors.torch import load_file
from wsiseg_models.checkpoint import read_card, weights_path

from wsi_pipeline.cli.fine_tune import COMPARED
from wsi_pipeline.cli.train_options import build_config, tuned_settings

TINY = ("--crop-px", 64, "--batch", 1, "--workers", 0, "--device", "cpu")


def test_options_that_do_not_go_with_it(tmp_path):
    call = ("train", "dssnet", "--data", tmp_path, "--out", tmp_path / "t", "--device", "cpu")
    told = complaint(wsiseg(*call, "--from", "shipped", "--width", 9), 2)
    assert "--width does not go with --from" in told
    assert "--replay goes with --from" in complaint(wsiseg(*call, "--replay", 3), 2)
    told = complaint(wsiseg(*call, "--from", weights_path("unet")), 2)
    assert "wsiseg train unet" in told
    call = ("train", "faster_rcnn", *call[2:])
    assert "no weights of faster_rcnn ship" in complaint(wsiseg(*call, "--from", "shipped"), 2)
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("model", ["dssnet", "unet", "donet", "cascade"])
def test_network_and_settings_are_those_of_the_checkpoint(model, tmp_path):
    given = {"from": "shipped", "data": ("a",), "out": tmp_path, "steps": 7}
    config = build_config(model, tuned_settings(model, given, ()), "cpu")
    card = read_card(weights_path(model))
    assert (config.mpp, config.steps, config.tuned) == (card.mpp, 7, weights_path(model))
    options = config.builder_options()
    frozen = {"trainable_layers"}  # the trunk's first stages keep their weights
    assert all(options[k] == v for k, v in card.options.items() if k not in {"classes", *frozen})
    plain = build_config(model, {"data": ("a",), "out": tmp_path}, "cpu")
    assert config.lr < plain.lr or config.steps < plain.steps


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "model",
    ["unet", *(pytest.param(m, marks=pytest.mark.heavy) for m in ("dssnet", "donet", "cascade"))],
)
def test_a_shipped_network_goes_on_and_resumes(model, tmp_path):
    succeed("synth", tmp_path / "data", "--fields", 5, "--size", 256, "--mpp", 0.5, "--quiet")
    call = ("train", model, "--from", "shipped", "--data", tmp_path / "data", "--replay", 5,
            "--steps", 3, *TINY)  # fmt: skip
    shown = succeed(*call, "--out", tmp_path / "whole")
    sets = json.loads((tmp_path / "whole" / COMPARED).read_text("utf-8"))["sets"]
    assert len(sets) == 2  # the data, and the generated fields
    for measured in sets.values():
        assert set(measured["before"]) == set(measured["after"]) != set()
    assert "data: nucleus" in shown and "replay: nucleus" in shown and "→" in shown
    card, first = read_card(tmp_path / "whole" / f"{model}.safetensors"), weights_path(model)
    assert card.rule == read_card(first).rule and set(read_card(first).data) < set(card.data)
    succeed(*call, "--out", tmp_path / "parts", "--max-minutes", 0)  # stops after a step
    fields = tmp_path / "parts" / "replay" / "annotations.json"
    made = fields.stat().st_mtime_ns
    succeed(*call, "--out", tmp_path / "parts")
    assert fields.stat().st_mtime_ns == made
    a, b = (load_file(tmp_path / part / f"{model}.safetensors") for part in ("whole", "parts"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    succeed(*call, "--out", tmp_path / "parts", "--start-share", 0)  # of a finished training
    c = load_file(tmp_path / "parts" / f"{model}.safetensors")
    assert not all(torch.equal(a[k], c[k]) for k in a)
    told = complaint(wsiseg(*call, "--out", tmp_path / "parts", "--lr", 0.1, "--quiet"), 2)
    assert "another lr" in told
