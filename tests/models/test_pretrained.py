"""Laws of starting from weights of torchvision: local files, each entry accounted for."""

from types import SimpleNamespace

import pytest
import torch
from tiny_networks import TINY, scene
from torchvision.models import resnet18
from torchvision.models.detection import maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2
from wsiseg_models.instance.network import donet, maskrcnn
from wsiseg_models.training.finish import learned_from
from wsiseg_models.training.pretrained import load_backbone, load_detector


def test_a_detector_starts_every_head_that_it_can(tmp_path):
    path = tmp_path / "coco.pth"
    stock = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    state = stock.state_dict()
    torch.save(state, path)
    with torch.device("meta"):
        network = donet()
    network = network.to_empty(device="cpu")
    report = load_detector(network, path, eps=1e-5)
    mine = network.state_dict()
    fc6 = state["roi_heads.box_head.fc6.weight"]
    third = state["roi_heads.mask_head.3.0.weight"]
    for heads in ("roi_heads", "second_heads"):
        assert torch.equal(mine[f"{heads}.boxes.0.fc6.weight"], fc6)
        for head in ("whole", "shared", "rest"):
            assert torch.equal(mine[f"{heads}.masks.0.{head}.convs.6.weight"], third)
    conv = state["rpn.head.conv.0.0.weight"]
    assert torch.equal(mine["second_rpn.head.conv.0.0.weight"], conv)
    assert "shape (91, 1024)" in report.skipped["roi_heads.box_predictor.cls_score.weight"]
    assert "roi_heads.masks.0.fusion.convs.0.weight" in report.fresh
    assert set(report.copied) | set(report.fresh) == set(mine)
    stock, network = stock.eval(), network.eval()
    image, _ = scene()
    with torch.no_grad():
        a, b = stock.backbone(image), network.backbone(image)
    assert all(torch.allclose(a[k], b[k], atol=1e-4) for k in a)


def test_older_names_and_other_eps_are_understood(tmp_path):
    """Names of 2019, and a variance that makes up for eps 0 where ours is 1e-5."""
    network = maskrcnn(**{**TINY, "norm": "frozen"})
    width = network.state_dict()["rpn.head.conv.0.0.weight"].shape
    state = {
        "backbone.body.bn1.running_var": torch.full((8,), 2e-5),
        "backbone.fpn.layer_blocks.0.bias": torch.ones(16),
        "rpn.head.conv.weight": torch.ones(width),
        "roi_heads.mask_head.mask_fcn1.bias": torch.ones(16),
    }
    path = tmp_path / "old.pth"
    torch.save(state, path)
    report = load_detector(network, path)
    mine = network.state_dict()
    assert torch.allclose(mine["backbone.body.bn1.running_var"], torch.full((8,), 1e-5))
    for name in ("backbone.fpn.layer_blocks.0.0.bias", "rpn.head.conv.0.0.weight"):
        assert (mine[name] == 1).all()
    assert (mine["roi_heads.masks.0.convs.0.bias"] == 1).all()
    assert len(report.copied) == 4 and not report.skipped


def test_a_classifier_starts_the_trunk(tmp_path):
    path = tmp_path / "resnet18.pth"
    stock = resnet18(weights=None)
    torch.save(stock.state_dict(), path)
    options = {**TINY, "trunk_width": 64, "norm": "frozen"}
    network = maskrcnn(**options).eval()
    report = load_backbone(network, path)
    assert report.skipped["fc.weight"] == "no counterpart"
    image, _ = scene()
    with torch.no_grad():
        x = stock.eval().maxpool(stock.relu(stock.bn1(stock.conv1(image))))
        expected = stock.layer4(stock.layer3(stock.layer2(stock.layer1(x))))
        assert torch.allclose(network.backbone.body(image)["3"], expected, atol=1e-4)


def test_weights_that_do_not_serve_are_refused(tmp_path):
    network = maskrcnn(**{**TINY, "norm": "frozen"})
    path = tmp_path / "x.pth"
    with pytest.raises(FileNotFoundError, match="nothing is downloaded"):
        load_backbone(network, path)
    path.write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"x\.pth"):
        load_backbone(network, path)
    with torch.device("meta"):
        names = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).state_dict()
    torch.save({k: torch.zeros(1) for k in names}, path)
    with pytest.raises(ValueError, match="version 2"):
        load_detector(network, path)
    torch.save({"conv1.weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="nothing in it fits"):
        load_backbone(network, path)
    with pytest.raises(ValueError, match="group norm"):
        load_backbone(maskrcnn(**TINY), path)


def test_a_card_names_the_weights_that_a_training_started_from():
    sets = [SimpleNamespace(origin=name) for name in ("b", "a", "b")]
    assert learned_from(sets, {}) == ("a", "b")
    assert learned_from(sets, {"initial": {"file": "x"}}) == ("a", "b")
    (first, *rest) = learned_from(sets, {"pretrained": {"file": "w.pth (ImageNet)"}})
    assert "w.pth (ImageNet)" in first and rest == ["a", "b"]
