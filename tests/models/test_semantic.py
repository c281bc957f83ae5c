"""Laws of the networks: sizes as published, exact folding, checkpoints, resumed training."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from drawn_discs import write_discs
from wsiseg_models import registry
from wsiseg_models.checkpoint import Card, load_checkpoint, read_card, save_checkpoint
from wsiseg_models.semantic.dssnet import BLOCKS, DSSLoss, dssnet, for_inference, ssim
from wsiseg_models.semantic.dssnet_fast import rewrite
from wsiseg_models.training.coco import Split
from wsiseg_models.training.config import SemanticTrainConfig
from wsiseg_models.training.initial_weights import start_from
from wsiseg_models.training.receptive_field import CORE_PX, measure_halo
from wsiseg_models.training.semantic_data import IGNORE, contacts, edge_target, load_set
from wsiseg_models.training.train_semantic import train_semantic


def folded(module):
    """Parameters once weight norm is folded."""
    return sum(p.numel() for p in for_inference(module).parameters())


def test_sizes_are_the_published_ones():
    network = dssnet(classes=3)
    edge, sr = (sum(p.numel() for p in m.parameters()) for m in (network.edge, network.sr))
    assert edge == pytest.approx(0.128e6, rel=0.01)
    assert sr == pytest.approx(2.07e6, rel=0.01)
    assert folded(network) == pytest.approx(1.50e6, rel=0.01)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_option_builds_and_keeps_the_shape(block):
    torch.manual_seed(0)
    network = dssnet(classes=3, width=12, depth=2, block=block)
    x = torch.randn(2, 3, 64, 40)
    logits, edge, image = network.train()(x)
    assert logits.shape == (2, 3, 64, 40)
    assert edge.shape == (2, 1, 32, 20)
    assert image.shape == x.shape
    lone = dssnet(width=12, depth=1, block=block, sr_head=False, edge_head=False).train()(x)
    assert lone[1] is None and lone[2] is None


def test_folding_and_dropping_heads_change_nothing():
    torch.manual_seed(1)
    network = dssnet(width=12, depth=2).eval()
    x = torch.randn(1, 3, 64, 64)
    before = network(x)
    assert torch.allclose(before, for_inference(network)(x), atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"classes": 3, "width": 12, "depth": 2, "block": "basic"}])
@pytest.mark.parametrize("size", [(8, 8), (72, 104)])
def test_the_rewritten_network_is_the_plain_one(options, size):
    torch.manual_seed(4)
    network = for_inference(dssnet(**options))
    x = torch.randn(2, 3, *size)
    assert torch.allclose(rewrite(network)(x), network(x), atol=1e-6)


def test_the_shipped_weights_are_rewritten_exactly():
    network, decode, _ = registry.load(registry.weights_path("dssnet"))
    x = torch.randn(1, 3, 64, 96)
    assert torch.allclose(rewrite(network)(x), network(x), atol=2e-5)
    assert torch.equal(decode(rewrite(network)(x)), decode(network(x)))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("margin", [0, 5, 8, 24, 72, 96, 101])
def test_a_margin_changes_nothing_of_the_rest(block, margin):
    torch.manual_seed(5)
    network = rewrite(for_inference(dssnet(width=12, depth=4, block=block)))
    x = torch.randn(2, 3, 232, 256)
    whole = network(x)
    core = network(x, margin)
    inner = whole[:, :, margin : 232 - margin, margin : 256 - margin]
    assert core.shape == inner.shape
    assert torch.allclose(core, inner, atol=1e-6)


def test_the_fusion_is_the_published_one():
    """Mixing before the up-sampling equals mixing after it, as printed, borders included."""
    torch.manual_seed(2)
    fusion = dssnet(width=12, depth=1).eval().fusion
    x = torch.randn(1, 32, 6, 5)
    late = fusion.act(fusion.mix(F.interpolate(x, scale_factor=4.0)))
    assert torch.allclose(fusion(x), fusion.out(fusion.smooth(late)), atol=1e-5)


def test_ssim_is_one_for_equal_images_and_less_otherwise():
    a = torch.rand(2, 3, 32, 32)
    assert float(ssim(a, a, data_range=1.0)) == pytest.approx(1)
    assert float(ssim(a, 1 - a, data_range=1.0)) < 0.2


def test_loss_weighs_its_terms_as_published():
    x = torch.zeros(1, 3, 32, 32)
    target, edge = torch.zeros(1, 32, 32, dtype=torch.long), torch.ones(1, 1, 16, 16)
    output = torch.zeros(1, 2, 32, 32), torch.zeros(1, 1, 16, 16), x
    terms = DSSLoss()(output, x, target, edge)
    assert float(terms["segmentation"]) == pytest.approx(np.log(2))
    assert float(terms["edge"]) == pytest.approx(0.4)
    assert float(terms["sr"]) == pytest.approx(0, abs=1e-6)


def card(**changes):
    fields = {"name": "dssnet", "task": "nuclei", "classes": ("nucleus",), "mpp": 0.5}
    return Card(**{**fields, "halo_px": 96, "options": {"width": 12, "depth": 1}, **changes})


def test_a_loaded_checkpoint_gives_the_output_it_was_saved_with(tmp_path):
    torch.manual_seed(3)
    network = for_inference(dssnet(width=12, depth=1))
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, network.state_dict(), card())
    again, decode, read = registry.load(path)
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(network(x), again(x))
    assert decode(again(x)).dtype == torch.uint8
    assert dataclasses.replace(read, sha256="") == card()
    assert len(read.sha256) == 64


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"options": {"width": 15, "depth": 1}}, "do not fit"),
        ({"name": "other"}, "unknown model 'other'; known: .*dssnet"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(tmp_path, change, match):
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, for_inference(dssnet(width=12, depth=1)).state_dict(), card(**change))
    with pytest.raises(ValueError, match=match):
        registry.load(path)


def test_training_starts_from_a_checkpoint(tmp_path):
    torch.manual_seed(2)
    network = dssnet(width=12, depth=1, sr_head=False, edge_head=False).eval()
    fresh = dssnet(width=12, depth=1).eval()
    x = torch.randn(1, 3, 64, 64)
    before = network(x)
    path = tmp_path / "dssnet.safetensors"
    card = Card(name="dssnet", task="nuclei", classes=("nucleus",), mpp=0.5, halo_px=64)
    save_checkpoint(path, for_inference(network).state_dict(), card)
    report = start_from(fresh, path)
    assert torch.allclose(before, fresh(x), atol=1e-5)
    assert all(k.startswith(("sr", "edge")) for k in report["fresh"])
    other = registry.build("maskrcnn", backbone="resnet18", trunk_width=8, fpn_width=8)
    card = dataclasses.replace(card, name="maskrcnn", task="cells", classes=("cell", "nucleus"))
    save_checkpoint(path, registry.MODELS["maskrcnn"].for_inference(other).state_dict(), card)
    with pytest.raises(ValueError, match="folded"):
        start_from(registry.build("maskrcnn", backbone="resnet18", norm="batch"), path)


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="wsiseg models"):
        read_card(tmp_path / "none.safetensors")
    text = tmp_path / "text.safetensors"
    text.write_text("no weights here")
    with pytest.raises(ValueError, match="not a safetensors file"):
        read_card(text)
    for wrong in ({"mpp": 0}, {"classes": ()}, {"halo_px": 97}):
        with pytest.raises(ValueError):
            card(**wrong)


def test_not_finite_weights_are_refused(tmp_path):
    state = for_inference(dssnet(width=12, depth=1)).state_dict()
    state["entry.bias"] = torch.full_like(state["entry.bias"], float("nan"))
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, state, card())
    with pytest.raises(ValueError, match="not finite"):
        registry.load(path)


def test_shipped_checkpoints_load():
    shipped = [name for name in registry.MODELS if registry.weights_path(name).is_file()]
    assert "dssnet" in shipped
    for name in shipped:
        _, stored = load_checkpoint(registry.weights_path(name))
        assert stored.data and stored.licence and stored.metrics and stored.training
        assert registry.weights_path(name).stat().st_size < 40e6
        registry.load(registry.weights_path(name))


@pytest.fixture
def data(tmp_path):
    return write_discs(tmp_path / "data")


def test_a_set_without_pixel_size_gets_it_from_its_nuclei(data):
    train_, held = load_set(str(data), mpp=0.5, split=Split("fold:1/4"))
    assert [s.name for s in held] == ["images/1.png"] and len(train_) == 3
    expected = 96 * (42 / 196) ** 0.5 / 0.5
    assert train_[0].image.shape[0] == pytest.approx(expected, abs=1)
    assert set(np.unique(train_[0].labels)) <= {-1, 0, 1, 2, 3, 4}
    assert (train_[0].labels == -1).any()
    assert "licence: not stated" in train_[0].origin and "estimated" in train_[0].origin
    stated, _ = load_set(f"{data}@0.5", mpp=0.5, split=Split("none"))
    assert stated[0].image.shape == (96, 96, 3) and len(stated) == 4


@pytest.mark.parametrize(
    ("spec", "split", "match"),
    [("", "none", "no annotations"), ("data", "thirds", "unknown split")],
)
def test_bad_sets_say_what_is_wrong(data, spec, split, match):
    with pytest.raises(ValueError, match=match):
        load_set(str(data.parent / spec), mpp=0.5, split=Split(split))


def test_targets_part_touching_nuclei_and_draw_their_edges():
    labels = np.zeros((8, 8), np.int32)
    labels[2:6, 1:4], labels[2:6, 4:7] = 1, 2
    touching = contacts(labels, 1)
    assert touching[1:7, 3:5].all() and touching.sum() == 12
    edge = edge_target(labels)
    assert edge.shape == (4, 4) and edge[1, 0] == 1 and edge[0].sum() == 0
    assert not contacts(np.where(labels == 2, -1, labels), 1).any()
    assert IGNORE == -100


def test_the_measured_halo_is_the_context_that_counts():
    def predict(image):
        """Looks 40 px to the right."""
        return np.roll(image[None, :, :, 0], -40, axis=2)

    side = CORE_PX + 2 * 288
    image = np.random.default_rng(0).integers(0, 255, (side, side + 9, 3)).astype(np.uint8)
    assert measure_halo(predict, [image], context_px=288, stride=8) == 48
    assert measure_halo(predict, [image[:400]], context_px=288, stride=8) == 288


def test_resumed_training_equals_uninterrupted(data, tmp_path):
    torch.set_num_threads(1)
    options = {"width": 9, "depth": 1}
    config = SemanticTrainConfig(
        model="dssnet", data=(str(data),), out=tmp_path / "whole", options=options,
        split="fold:0/4", crop_px=32, batch=2, steps=4, save_every=2, amp=False,
    )  # fmt: skip
    whole, _ = load_checkpoint(train_semantic(config, quiet=True))
    halves = dataclasses.replace(config, out=tmp_path / "halves")
    train_semantic(dataclasses.replace(halves, max_minutes=0), quiet=True)
    assert len((halves.out / "log.jsonl").read_text().splitlines()) == 1
    resumed, card = load_checkpoint(train_semantic(halves, quiet=True))
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    assert card.training["steps done"] == 4 and card.metrics["data"]["mIoU"] >= 0
    with pytest.raises(ValueError, match="another steps"):
        train_semantic(dataclasses.replace(halves, steps=5), quiet=True)
