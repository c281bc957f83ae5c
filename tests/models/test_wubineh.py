"""Laws of `wubineh`: sizes, context, loss, tasks, weights from a file, resumed training."""

import dataclasses
import sys

import numpy as np
import pytest
import torch
from drawn_cells import write_set
from drawn_discs import write_discs
from wsiseg_models import registry
from wsiseg_models.checkpoint import load_checkpoint
from wsiseg_models.semantic.unet import for_inference
from wsiseg_models.semantic.wubineh import (
    CONTEXT_PX,
    LIBRARY,
    JaccardLoss,
    sees_all,
    wubineh,
)
from wsiseg_models.training.coco import Split
from wsiseg_models.training.crops import Crops
from wsiseg_models.training.pretrained_encoder import load_library_encoder
from wsiseg_models.training.semantic_data import load_set
from wsiseg_models.training.train_semantic import train_semantic
from wsiseg_models.training.wubineh_config import WubinehTrainConfig

QUICK = "mobilenet"
ENCODERS = [
    "none",
    *(pytest.param(n, marks=() if n == QUICK else pytest.mark.slow) for n in LIBRARY),
]


def fresh(encoder="none", **options):
    torch.manual_seed(3)
    small = {"width": 4} if encoder == "none" else {}
    return wubineh(encoder=encoder, **small, **options)


def config_for(tmp_path, **settings):
    settings = {"data": (str(write_discs(tmp_path / "data")),), "out": tmp_path / "run"} | settings
    return WubinehTrainConfig(
        model="wubineh", options={"width": 4, "dropout": 0.3}, split="fold:0/4", crop_px=32,
        batch=2, steps=4, save_every=2, amp=False, workers=0, **settings,
    )  # fmt: skip


def test_the_plain_network_has_the_published_channels():
    network = wubineh()
    outputs = [block[0].out_channels for block in (*network.down, network.centre)]
    assert outputs == [64, 128, 256, 512, 1024, 1024]
    assert [block[0].out_channels for block in network.merge] == [1024, 512, 256, 128, 64]
    kinds = [type(layer).__name__ for layer in network.down[0]]
    assert kinds == ["Conv2d", "BatchNorm2d", "ReLU"] * 2 + ["Dropout2d"]
    assert all(isinstance(up, torch.nn.ConvTranspose2d) for up in network.up)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_folding_keeps_the_function_and_other_sizes_are_refused(encoder):
    network = fresh(encoder, classes=3).train()
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        network(x)
    before = network.eval()(x)
    ready = for_inference(network)
    assert before.shape == (2, 3, 64, 96)
    assert torch.allclose(before, ready(x), atol=1e-3, rtol=1e-3)
    assert not any(p.requires_grad for p in ready.parameters())
    with pytest.raises(ValueError, match="multiples of 32"):
        network(torch.zeros(1, 3, 64, 80))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_context_is_what_is_stated(encoder):
    """A pixel that is not a number spoils exactly what depends on it."""
    network = fresh(encoder).eval()
    reach = CONTEXT_PX.get(encoder, 320)
    farthest = 0
    for at in (reach, reach + 31):
        x = torch.zeros(1, 3, 32, 2 * reach + 96)
        x[..., at] = torch.nan
        with torch.no_grad():
            spoilt = np.flatnonzero(network(x)[0, 0].isnan().any(0))
        farthest = max(farthest, at - spoilt[0], spoilt[-1] - at)
    if sees_all(encoder=encoder):
        assert len(spoilt) == x.shape[-1]
    else:
        assert reach - 32 < farthest <= reach == network.context_px


@pytest.mark.parametrize("encoder", [e for e in ENCODERS if "efficientnet_b2" not in str(e)])
def test_a_tile_with_its_halo_equals_the_whole_image(encoder):
    """Along x; the rows are the same in both, so few of them do."""
    network = for_inference(fresh(encoder))
    halo = network.context_px
    x = torch.randn(1, 3, 64, 32 + 2 * halo + 64)
    with torch.no_grad():
        whole, tile = network(x), network(x[..., 32:-32])
    a, b = whole[..., halo + 32 : -halo - 32], tile[..., halo:-halo]
    assert torch.allclose(a, b, atol=1e-4, rtol=1e-4) and a.std() > 1e-6


def test_dropout_leaves_out_whole_channels_in_training_alone():
    network = fresh(dropout=0.5)
    seen = []
    network.down[0].register_forward_hook(lambda _, __, out: seen.append(out.detach()))
    x = torch.randn(8, 3, 32, 32)
    network.train()(x)
    empty = (seen[0] == 0).all((2, 3))
    assert 0.1 < empty.float().mean() < 0.9
    assert torch.equal(network.eval()(x), network(x))


@pytest.mark.parametrize("classes", [2, 3])
def test_the_loss_is_zero_for_the_truth_and_one_minus_iou_else(classes):
    torch.manual_seed(1)
    target = torch.randint(0, classes, (2, 32, 32))
    one_hot = torch.nn.functional.one_hot(target, classes).permute(0, 3, 1, 2)
    loss = JaccardLoss()
    assert loss(100.0 * one_hot, None, target, None)["jaccard"] < 1e-4
    shifted = target.roll(5, 2)
    logits = 100.0 * torch.nn.functional.one_hot(shifted, classes).permute(0, 3, 1, 2)
    true = np.mean([
        1 - ((shifted == k) & (target == k)).sum() / ((shifted == k) | (target == k)).sum()
        for k in range(1, classes)
    ])  # fmt: skip
    assert float(loss(logits, None, target, None)["jaccard"]) == pytest.approx(true, abs=0.01)
    hidden = torch.where(target == shifted, target, -100)
    assert loss(logits, None, hidden, None)["jaccard"] < 1e-4
    nothing = torch.zeros_like(target)
    assert torch.isfinite(loss(logits, None, nothing, None)["jaccard"])


def test_a_missing_library_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(ValueError, match=r"segmentation-models-pytorch.*pip install -e"):
        wubineh(encoder=QUICK)
    wubineh(width=4)


def test_weights_come_from_a_local_file_that_fits(tmp_path):
    from torchvision.models import mobilenet_v2

    torch.manual_seed(8)
    theirs = mobilenet_v2(weights=None).state_dict()
    torch.save(theirs, tmp_path / "mobilenet.pth")
    network = fresh(QUICK)
    report = load_library_encoder(network, tmp_path / "mobilenet.pth")
    assert report["skipped"] == ["classifier.1.bias", "classifier.1.weight"]
    assert all(torch.equal(v, theirs[k]) for k, v in network.encoder.state_dict().items())
    torch.save({"features.0.0.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: not the weights of a network on mobilenet"):
        load_library_encoder(network, tmp_path / "other.pth")
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list\.pth: not the weights"):
        load_library_encoder(network, tmp_path / "list.pth")
    with pytest.raises(FileNotFoundError, match="nothing is downloaded"):
        load_library_encoder(network, tmp_path / "none.pth")


def test_resumed_training_equals_uninterrupted(tmp_path):
    """With dropout, whose draws depend on the step alone."""
    config = config_for(tmp_path, epochs=2)
    whole, card = load_checkpoint(train_semantic(config, quiet=True))
    assert card.training["steps done"] == 3  # 2 epochs of 3 images in batches of 2
    assert (card.stride, card.halo_px) == (32, 192)
    halves = dataclasses.replace(config, out=tmp_path / "halves")
    train_semantic(dataclasses.replace(halves, max_minutes=0), quiet=True)
    resumed, _ = load_checkpoint(train_semantic(halves, quiet=True))
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_a_checkpoint_gives_the_same_function(tmp_path):
    config = dataclasses.replace(config_for(tmp_path), steps=1)
    network, decode, _ = registry.load(train_semantic(config, quiet=True))
    plain = wubineh(width=4)
    plain.load_state_dict(torch.load(tmp_path / "run" / "state.pt", weights_only=True)["ema"])
    x = torch.randn(1, 3, 64, 64)
    a, b = (decode(n(x)).numpy().astype(int) for n in (network, plain.eval()))
    assert np.abs(a - b).max() <= 1


def test_a_nucleus_lies_on_its_cell_and_no_gap_is_learned(tmp_path):
    train, _ = load_set(
        f"{write_set(tmp_path / 'cells')}@0.5", mpp=0.5, split=Split("none"),
        categories=("cytoplasm", "nucleus"),
    )  # fmt: skip
    train = [s for s in train if (s.labels > 0).any()]
    for sample in train:
        classes = sample.classes[np.maximum(sample.labels, 0)]
        assert (classes == 1).any() and (classes == 2).any()
    config = config_for(tmp_path, classes=("cytoplasm", "nucleus"),
                        categories=("cytoplasm", "nucleus"))  # fmt: skip
    crops = Crops(train, np.full(len(train), 1 / len(train)), size=96, batch=2, seed=0,
                  augmentation=config.augmentation, gaps=config.learns_gaps)  # fmt: skip
    _, targets, _, weights, _ = crops[0]
    assert (weights == 1).all() and {0, 1, 2} <= set(np.unique(targets))
    ring = np.zeros_like(targets, bool)
    for i, target in enumerate(targets):  # beside a nucleus lies its cell
        inside = target == 2
        near = np.roll(inside, 1, 0) | np.roll(inside, -1, 0)
        ring[i] = near & ~inside
    assert (targets[ring] == 1).mean() > 0.9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": ("cytoplasm",)}, "needs its COCO category"),
        ({"classes": ("a", "nucleus"), "categories": ("cell", "nucleus")}, "must be called"),
        ({"pretrained": "x.pth"}, "with an encoder"),
        ({"epochs": -1}, "epochs -1"),
        ({"schedule": "steps"}, "use constant, cosine"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        config_for(tmp_path, **settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "vgg16"}, "vgg19"),
        ({"classes": 1}, "below 2"),
        ({"dropout": 1.0}, "dropout 1 is not"),
        ({"encoder": "vgg19", "width": 8}, "for encoder none"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        wubineh(**options)
