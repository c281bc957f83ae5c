"""A finished network is trained further: it starts as its checkpoint computes."""

import copy
from dataclasses import replace

import pytest
import torch
from wsiseg_models import registry
from wsiseg_models.checkpoint import Card, read_card, save_checkpoint, weights_path
from wsiseg_models.training.config import SemanticTrainConfig, UNetTrainConfig
from wsiseg_models.training.fine_tuning import (
    KeptNorm,
    checkpoint_to_tune,
    continued,
    presets,
)
from wsiseg_models.training.initial_weights import start_from, take_weights
from wsiseg_models.training.loop import Ema

SMALL = {
    "unet": {"widths": (8, 8, 8)},
    "dssnet": {"width": 9, "depth": 1},
}


def finished(name, folder, **card):
    """A checkpoint of a small network whose norms have seen data; and the network, folded."""
    torch.manual_seed(1)
    entry = registry.MODELS[name]
    network = entry.builder(**SMALL[name])
    network.train()
    with torch.no_grad():
        network(torch.randn(2, 3, 64, 64))
    ready = entry.for_inference(copy.deepcopy(network))
    about = {"task": "nuclei", "classes": ("nucleus",), "mpp": 0.5, "halo_px": 32, **card}
    path = folder / f"{name}.safetensors"
    save_checkpoint(path, ready.state_dict(), Card(name=name, options=SMALL[name], **about))
    return path, ready


def output(network, x):
    with torch.no_grad():
        found = network(x)
    return found[0] if isinstance(found, tuple) else found


@pytest.mark.parametrize("name", SMALL)
def test_training_starts_with_what_the_checkpoint_computes(name, tmp_path):
    path, ready = finished(name, tmp_path)
    entry = registry.MODELS[name]
    network = entry.builder(**SMALL[name])
    start_from(network, path, keep_norms=True)
    x = torch.randn(1, 3, 64, 64)
    before = output(ready, x)
    network.train()
    learning = output(network, x)
    assert torch.allclose(learning, before, atol=1e-4)
    kept = [m for m in network.modules() if isinstance(m, KeptNorm)]
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert kept == norms and all(not m.training for m in kept)
    again = entry.builder(**SMALL[name])
    again.load_state_dict(network.state_dict())
    assert torch.allclose(output(entry.for_inference(again), x), before, atol=1e-4)


def test_statistics_of_kept_norms_stay_and_their_weights_learn(tmp_path):
    path, _ = finished("unet", tmp_path)
    network = registry.MODELS["unet"].builder(**SMALL["unet"])
    start_from(network, path, keep_norms=True)
    before = copy.deepcopy(network.state_dict())
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    network(torch.randn(2, 3, 64, 64)).square().mean().backward()
    optimizer.step()
    after = network.state_dict()
    changed = {k for k in after if not torch.equal(after[k], before[k])}
    assert any(k.endswith(".weight") for k in changed)
    assert not any("running" in k or "num_batches" in k for k in changed)


def test_the_card_of_the_checkpoint_goes_on(tmp_path):
    rule = {"threshold": 0.3, "min_score": 0.6}
    path, _ = finished("unet", tmp_path, rule=rule, data=("old (CC0)",), licence="MIT", tile_px=256)
    new = Card(name="unet", task="nuclei", classes=("nucleus",), mpp=0.5, halo_px=16, data=("new",))
    card = continued(new, path)
    assert (card.rule, card.licence, card.halo_px, card.tile_px) == (rule, "MIT", 32, 256)
    assert card.data == ("old (CC0)", "new")
    assert continued(new, None) == new
    assert continued(replace(new, halo_px=64, licence="CC0"), path).licence == "CC0"


def test_settings_of_the_checkpoint(tmp_path):
    path, card = checkpoint_to_tune("shipped", "unet")
    assert path == weights_path("unet") and card == read_card(path)
    found = presets(card)
    assert found["mpp"] == 0.4 and found["class"] == ("nucleus",) and found["pretrained"] == "none"
    assert presets(read_card(weights_path("cascade")))["freeze"] > 0
    with pytest.raises(ValueError, match="wsiseg train unet"):
        checkpoint_to_tune(str(path), "dssnet")
    with pytest.raises(FileNotFoundError, match="no weights of erfnet ship"):
        checkpoint_to_tune("shipped", "erfnet")


def test_a_run_resumes_with_the_same_checkpoint_only(tmp_path):
    path, _ = finished("dssnet", tmp_path)
    plain = SemanticTrainConfig(model="dssnet", data=("a",), out=tmp_path)
    tuned = replace(plain, tuned=path)
    assert "tuned" not in plain.fingerprint()
    assert tuned.fingerprint() == {**plain.fingerprint(), "tuned": read_card(path).sha256}


def test_no_other_weights_are_taken(tmp_path):
    path, _ = finished("unet", tmp_path)
    network = registry.MODELS["unet"].builder(**SMALL["unet"])
    config = UNetTrainConfig(model="unet", data=("a",), out=tmp_path / "out", tuned=path)
    found = take_weights(config, network, quiet=True)
    assert list(found) == ["tuned"] and found["tuned"]["fresh"] == 0


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_the_result_holds_a_share_of_the_first_weights(share):
    network = torch.nn.Linear(2, 1)
    first = copy.deepcopy(network.state_dict())
    ema = Ema(network, 0.0, start_share=share)
    for step in range(3):
        with torch.no_grad():
            network.weight.add_(1.0)
        ema.update(network, step)
    mixed = ema.weights()
    assert torch.allclose(mixed["weight"], first["weight"] + 3 * (1 - share))
    assert torch.equal(mixed["bias"], first["bias"])
    assert torch.equal(ema.state["weight"], network.weight)  # what training resumes from


def test_a_share_needs_weights_to_start_from(tmp_path):
    with pytest.raises(ValueError, match="start_share needs weights"):
        SemanticTrainConfig(model="dssnet", data=("a",), out=tmp_path, start_share=0.5)
    with pytest.raises(ValueError, match=r"start_share 1\.0"):
        SemanticTrainConfig(
            model="dssnet", data=("a",), out=tmp_path, start_share=1.0, initial=tmp_path / "x"
        )
    assert presets(read_card(weights_path("dssnet")))["start_share"] == 0.5
