"""Laws of the networks that DSSNet was compared with: sizes, context, weights, growing."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from drawn_discs import write_discs
from wsiseg_models import registry
from wsiseg_models.checkpoint import load_checkpoint
from wsiseg_models.registry import MODELS
from wsiseg_models.semantic import encoder_baselines, plain_unet
from wsiseg_models.semantic.baseline_config import PGUNetConfig
from wsiseg_models.semantic.layers import CrossEntropy
from wsiseg_models.semantic.pgunet import STAGES
from wsiseg_models.training.baseline_config import (
    BaselineTrainConfig,
    EncoderTrainConfig,
    GrowingTrainConfig,
    grow,
    stage_at,
)
from wsiseg_models.training.optimizers import build_optimizer
from wsiseg_models.training.train_semantic import train_semantic

TINY = {
    "unetpp": {"width": 2}, "erfnet": {"width": 4}, "dfanet": {}, "pgunet": {"width": 2},
    "pspnet": {"encoder": "mobilenet"},
}  # fmt: skip
SLOW = ("pspnet", "dfanet")
NAMES = [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in TINY]
CONFIGS = {"unetpp": EncoderTrainConfig, "pspnet": EncoderTrainConfig, "pgunet": GrowingTrainConfig}
CONTEXTS = [
    ("unetpp", TINY["unetpp"]), ("erfnet", TINY["erfnet"]),
    *(("pgunet", {"width": 2, "stage": k}) for k in range(1, STAGES + 1)),
    *(
        pytest.param("unetpp", {"encoder": e}, marks=pytest.mark.slow)
        for e in encoder_baselines.CONTEXT_PX
        if e != "none"
    ),
]  # fmt: skip


def fresh(name, **options):
    torch.manual_seed(3)
    return MODELS[name].builder(**{**TINY[name], **options})


def config_for(name, folder, **settings):
    given = {
        "data": (str(write_discs(folder / "data")),), "out": folder / "run", "options": TINY[name],
        "split": "fold:0/4", "crop_px": 32, "batch": 2, "steps": 2, "save_every": 2, "amp": False,
        "workers": 0,
    }  # fmt: skip
    return CONFIGS.get(name, BaselineTrainConfig)(model=name, **{**given, **settings})


@pytest.mark.parametrize(
    ("name", "millions", "within"),
    [
        ("unet", 31.03, 0.005), ("unetpp", 36.63, 0.005), ("pgunet", 14.84, 0.06),
        ("erfnet", 2.06, 0.005), ("dfanet", 2.02, 0.21),
    ],
)  # fmt: skip
def test_parameters_are_those_of_the_paper_or_differ_as_the_docstring_states(
    name, millions, within
):
    with torch.device("meta"):
        network = plain_unet.unet() if name == "unet" else MODELS[name].builder()
    count = sum(p.numel() for p in network.parameters())
    if name == "pgunet":  # the entries of earlier stages are for training
        count -= sum(p.numel() for entry in network.entries[:-1] for p in entry.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=within)


@pytest.mark.parametrize("name", NAMES)
def test_folding_keeps_the_function_and_other_sizes_are_refused(name):
    network = fresh(name, classes=3).train()
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        network(x)
        before = network.eval()(x)
        ready = MODELS[name].for_inference(network)
        assert before.shape == (2, 3, 64, 96)
        assert torch.allclose(before, ready(x), atol=1e-3, rtol=1e-3)
    assert not any(p.requires_grad for p in ready.parameters())
    with pytest.raises(ValueError, match=f"multiples of {network.stride}"):
        network(torch.zeros(1, 3, 64, 64 + network.stride // 2))


@pytest.mark.parametrize(("name", "options"), CONTEXTS)
def test_the_context_is_what_is_stated(name, options):
    """A pixel that is not a number spoils exactly what depends on it."""
    network = MODELS[name].builder(**options).eval()
    reach, step = network.context_px, network.stride
    if MODELS[name].sees_all(**options):
        reach = 160
    width = -(-(2 * reach + 96) // 32) * 32
    farthest = 0
    for at in (reach, reach + step - 1):
        x = torch.zeros(1, 3, 32, width)
        x[..., at] = torch.nan
        with torch.no_grad():
            spoilt = np.flatnonzero(network(x)[0, 0].isnan().any(0))
        farthest = max(farthest, at - spoilt[0], spoilt[-1] - at)
    if MODELS[name].sees_all(**options):
        assert len(spoilt) == width
    else:
        assert farthest <= reach
        assert options.get("stage", 4) < 4 or reach - 32 < farthest


@pytest.mark.parametrize("name", ["dfanet", pytest.param("pspnet", marks=pytest.mark.slow)])
def test_a_network_that_takes_means_sees_the_whole_image(name):
    assert MODELS[name].sees_all(**TINY[name])
    network = fresh(name).eval()
    x = torch.randn(1, 3, 32, 512)
    other = x.clone()
    other[..., -32:] += 3
    with torch.no_grad():
        assert not torch.equal(network(x)[..., :32], network(other)[..., :32])


@pytest.mark.parametrize("name", ["unetpp", "erfnet", "pgunet"])
def test_a_tile_with_its_halo_equals_the_whole_image(name):
    network = MODELS[name].for_inference(fresh(name))
    halo = network.context_px
    x = torch.randn(1, 3, 32, 2 * halo + 128)
    with torch.no_grad():
        whole, tile = network(x), network(x[..., 32:-32])
    a, b = whole[..., halo + 32 : -halo - 32], tile[..., halo:-halo]
    assert torch.allclose(a, b, atol=1e-4, rtol=1e-4) and a.std() > 1e-6


def test_cross_entropy_is_that_of_torch_over_the_known_pixels():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    target[0] = -100
    (term,) = CrossEntropy()(logits, None, target, None).values()
    assert float(term) == pytest.approx(float(F.cross_entropy(logits, target)), rel=1e-5)


def test_each_scale_adds_to_the_logits_of_the_coarser_ones():
    network, seen = fresh("pgunet").eval(), []
    for head in network.heads:
        head.register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad():
        result = network(torch.randn(1, 3, 64, 32))
    total = torch.zeros_like(seen[0])
    for own in seen:
        if own.shape != total.shape:
            total = F.interpolate(total, scale_factor=2.0, mode="bilinear")
        total = total + own
    assert torch.allclose(result, total, atol=1e-5)
    assert [own.shape[-1] for own in seen] == [4, 8, 16, 32]


def test_stages_share_the_steps_and_coarser_parts_learn_slowly(tmp_path):
    config = config_for("pgunet", tmp_path, steps=20, growth=0.2, coarse_rate=0.5)
    assert [stage_at(config, s)["stage"] for s in (0, 3, 4, 8, 12, 19)] == [1, 1, 2, 3, 4, 4]
    still = dataclasses.replace(config, growth=0.0)
    assert stage_at(still, 0)["stage"] == 4
    network = fresh("pgunet")
    optimizer = build_optimizer(config, network)
    listed = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in listed} == {id(p) for p in network.parameters()}
    assert len(listed) == len(set(map(id, listed)))
    for step, rates in ((0, [1, 1, 1, 1]), (8, [0.5, 0.5, 1, 1]), (12, [1, 1, 1, 1])):
        for group in optimizer.param_groups:
            group["lr"] = 1.0
        grow(config, network, optimizer, step)
        assert [group["lr"] for group in optimizer.param_groups] == rates
    assert network.stage == 4


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_stage_changes_no_finer_part(stage):
    network = fresh("pgunet", stage=stage).train()
    network(torch.randn(1, 3, 64, 64)).sum().backward()
    used = [[p.grad is not None for p in part] for part in network.parts()]
    assert all(any(part) for part in used[:stage]) and not any(map(any, used[stage:]))


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_and_its_checkpoint_gives_the_same_function(name, tmp_path):
    path = train_semantic(config_for(name, tmp_path), quiet=True)
    network, decode, card = registry.load(path)
    assert (card.name, card.stride) == (name, network.stride)
    plain = MODELS[name].builder(**TINY[name]).eval()
    plain.load_state_dict(torch.load(tmp_path / "run" / "state.pt", weights_only=True)["ema"])
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        a, b = (decode(n(x)).numpy().astype(int) for n in (network, plain))
    assert np.abs(a - b).max() <= 1


@pytest.mark.parametrize("name", ["pgunet", pytest.param("erfnet", marks=pytest.mark.slow)])
def test_resumed_training_equals_uninterrupted(name, tmp_path):
    """Over the steps at which a part is added, and with dropout."""
    own = {"growth": 0.2} if name == "pgunet" else {}
    config = config_for(name, tmp_path, steps=6, **own)
    whole, _ = load_checkpoint(train_semantic(config, quiet=True))
    halves = dataclasses.replace(config, out=tmp_path / "halves")
    stopped = train_semantic(dataclasses.replace(halves, max_minutes=0), quiet=True)
    network, _, card = registry.load(stopped)
    assert card.training["steps done"] == 1 and network(torch.zeros(1, 3, 32, 32)).shape[1] == 2
    assert card.options.get("stage", 1) == 1
    resumed, card = load_checkpoint(train_semantic(halves, quiet=True))
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    assert card.options.get("stage", 4) == 4


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("pgunet", {"growth": 0.4}, "growth 0.4 must be"),
        ("pgunet", {"coarse_rate": 2.0}, "coarse_rate 2 must be"),
        ("unetpp", {"pretrained": "x.pth"}, "with an encoder"),
        ("dfanet", {"batch": 1}, "leave a batch norm one value"),
        ("erfnet", {"crop_px": 40}, "multiple of 32"),
    ],
)
def test_settings_that_cannot_be_are_refused(name, settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        config_for(name, tmp_path, **settings)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unetpp", {"encoder": "vgg16"}, "vgg19"),
        ("unetpp", {"encoder": "vgg19", "width": 8}, "for encoder none"),
        ("pspnet", {"encoder": "none"}, "no form without encoder"),
        ("erfnet", {"width": 3}, "below 4"),
        ("dfanet", {"classes": 1}, "below 2"),
        ("dfanet", {"width": 4}, "below 8"),
        ("pgunet", {"stage": 5}, "stage 5 is not"),
    ],
)
def test_options_that_cannot_be_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        MODELS[name].builder(**options)
    assert PGUNetConfig().stage == STAGES
