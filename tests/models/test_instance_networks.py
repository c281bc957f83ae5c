"""Laws of the instance networks: published sizes, exact parts, learning, the output's contract."""

import copy
import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_networks import BUILDERS, TINY, empty, learned, scene
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou
from wsiseg_models.instance.backbone import ModulatedDeformConv2d, build_backbone
from wsiseg_models.instance.config import DONET, LIGHT, InstanceConfig
from wsiseg_models.instance.losses import box_loss, consistency, mask_bce, soft_xor
from wsiseg_models.instance.mask_pasting import attention, paste
from wsiseg_models.instance.network import (
    donet,
    for_inference,
    imbmdcr,
    instances,
    maskrcnn,
)
from wsiseg_models.instance.roi_heads import Detections
from wsiseg_models.instance.targets import decompose, project
from wsiseg_models.settings import configure

ROWS = [
    {"drm": False, "crm": False, "mrp": False},
    {"drm": True, "crm": False, "mrp": False},
    {"drm": True, "crm": True, "mrp": False},
    {"drm": True, "crm": True, "mrp": True},
]


def millions(module):
    return sum(p.numel() for p in module.parameters()) / 1e6


def test_sizes_are_the_published_ones():
    with torch.device("meta"):
        assert millions(donet()) == pytest.approx(101, abs=0.5)
        assert millions(imbmdcr()) == pytest.approx(137, abs=0.5)
        pyramids = {"resnet50": 26.8, "resnet101": 45.7, "resnext101_64x4d": 84.6}
        for name, size in pyramids.items():
            assert millions(build_backbone(InstanceConfig(backbone=name))) == pytest.approx(
                size, abs=0.1
            )
        # Gao et al.: 45.21 M with the classifier, which is 2.05 M; the pyramid has 3.34 M.
        res2net = millions(build_backbone(InstanceConfig(backbone="res2net101")).body)
        assert res2net == pytest.approx(45.21 - 2.05, abs=0.15)
        for build in BUILDERS.values():
            assert millions(build(**LIGHT)) < 10
    assert configure(DONET, json.loads(json.dumps(dict(LIGHT)))) == configure(DONET, LIGHT)


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (1, 4), (2, 1), (2, 4)])
def test_deformable_convolutions_agree(stride, groups):
    """Also for taps far outside the image, and in the gradients."""
    torch.manual_seed(0)
    conv = ModulatedDeformConv2d(8, 12, stride, groups, mask_scale=2.0)
    torch.nn.init.normal_(conv.offset.weight, std=0.4)
    torch.nn.init.normal_(conv.offset.bias, std=2)
    x = torch.randn(2, 8, 9, 7, requires_grad=True)
    assert float(conv.offset(x).detach()[:, :18].abs().max()) > 5
    y = conv(x)
    (grad,) = torch.autograd.grad(y.square().sum(), x)
    conv.implementation = "grid"
    z = conv(x)
    (other,) = torch.autograd.grad(z.square().sum(), x)
    assert y.shape == (2, 12, -(-9 // stride), -(-7 // stride))
    assert torch.allclose(y, z, atol=1e-4)
    assert torch.allclose(grad, other, atol=1e-2, rtol=1e-3)


def test_an_untrained_deformable_convolution_is_the_plain_one():
    torch.manual_seed(0)
    conv, x = ModulatedDeformConv2d(4, 6, 2, 2, mask_scale=2.0), torch.randn(1, 4, 8, 8)
    assert torch.allclose(conv(x), F.conv2d(x, conv.weight, None, 2, 1, groups=2), atol=1e-5)


def test_decomposition_is_what_counting_says():
    rng = np.random.default_rng(0)
    masks = torch.from_numpy((rng.random((6, 20, 20)) < 0.4).astype(np.uint8))
    labels = torch.tensor([1, 2, 1, 1, 2, 1])
    shared, rest = decompose(masks, labels)
    assert torch.equal(shared | rest, masks)
    assert not (shared & rest).any()
    for i, label in enumerate(labels):
        others = [masks[j] for j in range(6) if j != i and labels[j] == 1]
        expected = masks[i] & torch.stack(others).amax(0) if label == 1 else torch.zeros(20, 20)
        assert torch.equal(shared[i], expected.to(torch.uint8))
    assert decompose(masks[:0], labels[:0])[0].shape == (0, 20, 20)


def test_projection_sees_the_mask_in_its_box():
    """A box of 28 px on whole pixels: the grid is the crop itself."""
    _, target = scene()
    masks = target["masks"][:, None]
    boxes = torch.tensor([[20.0, 30.0, 48.0, 58.0]] * 2)
    got = project(masks, boxes, torch.tensor([0, 2]), 28)[:, 0]
    assert torch.equal(got, target["masks"][[0, 2], 30:58, 20:48].float())


def test_soft_xor_is_xor_at_the_corners_and_teaches_all_three():
    a, b = torch.tensor([0.0, 0, 1, 1]), torch.tensor([0.0, 1, 0, 1])
    assert soft_xor(a, b).tolist() == [0, 1, 1, 0]
    logits = [torch.randn(2, 28, 28).requires_grad_() for _ in range(3)]
    consistency(*logits, "soft").backward()
    assert all(float(x.grad.abs().sum()) > 0 for x in logits)
    published = consistency(*logits, "code")
    assert not published.requires_grad
    assert 0 < float(published) <= 100
    sure = [20 * (2 * v.view(1, 2, 2) - 1) for v in (soft_xor(a, b), a, b)]
    assert float(consistency(*sure, "soft")) < 1e-6 > float(consistency(*sure, "code"))


@pytest.mark.parametrize("name", ["l1", "smooth_l1", "iou", "giou", "diou", "ciou"])
def test_box_losses_vanish_only_on_the_truth(name):
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    boxes, truth = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[2.0, 1, 14, 9]])
    deltas = coder.encode_single(truth, boxes)
    assert float(box_loss(name, deltas, boxes, truth, coder, 1.0)) == pytest.approx(0, abs=1e-5)
    wrong = torch.zeros(1, 4, requires_grad=True)
    loss = box_loss(name, wrong, boxes, truth, coder, 1.0)
    loss.backward()
    assert float(loss.detach()) > 0.1
    assert float(wrong.grad.abs().sum()) > 0
    if name == "iou":  # 8 × 8 shared of 100 + 96 − 64
        assert float(loss.detach()) == pytest.approx(1 - 64 / 132, abs=1e-5)


def test_losses_of_nothing_are_zero_with_a_gradient():
    x = torch.zeros(0, 28, 28, requires_grad=True)
    loss = mask_bce(x, torch.zeros(0, 28, 28)) + consistency(x, x, x, "soft")
    loss.backward()
    assert float(loss.detach()) == 0


def looked_up(mask, box, y, x):
    """Value of one mask (m, m) over its box at a point: bilinear between cell centres."""
    m = len(mask)
    v, u = (y - box[1]) / (box[3] - box[1]) * m - 0.5, (x - box[0]) / (box[2] - box[0]) * m - 0.5
    value = 0.0
    for i, j in itertools.product(range(m), repeat=2):
        value += float(mask[i, j]) * max(0, 1 - abs(v - i)) * max(0, 1 - abs(u - j))
    return value


def test_attention_is_the_pasted_masks_put_together():
    torch.manual_seed(0)
    logits = 3 * torch.randn(3, 6, 6)
    boxes = torch.tensor([[3.0, 5, 25, 30], [10, 8, 38, 20], [-6, 30, 12, 50]])
    size, stride = (12, 10), 4
    centres = list(itertools.product(range(12), range(10)))

    def brute(masks):
        out = torch.zeros(3, *size)
        for k, (r, c) in itertools.product(range(3), centres):
            out[k, r, c] = looked_up(masks[k], boxes[k].tolist(), 4 * r + 2, 4 * c + 2)
        return out

    p = brute(logits.sigmoid())
    assert torch.allclose(paste(logits.sigmoid(), boxes, size, stride), p, atol=1e-4)
    prob = attention(logits, boxes, size, stride)
    assert torch.allclose(prob, 1 - (1 - p).prod(0), atol=1e-4)
    code = attention(logits, boxes, size, stride, mode="code")
    assert torch.allclose(code, brute(logits).clamp(min=0).sum(0).sigmoid(), atol=1e-4)
    assert float(prob.min()) == 0 and float(prob.max()) <= 1
    assert float(code.min()) == 0.5
    lifted = attention(logits, boxes, size, stride, floor=0.25)
    assert torch.allclose(lifted, 0.25 + 0.75 * prob)
    assert not attention(logits[:0], boxes[:0], size, stride).any()


def test_a_tiny_network_learns_a_scene_by_heart(trained):
    network, totals = trained
    assert np.mean(totals[-5:]) < 0.65 * totals[0]
    image, target = scene()
    with torch.no_grad():
        (found,) = network(image)
    overlaps, drawn = [], []
    for box, label, mask in zip(*target.values(), strict=True):
        boxes, masks = (found[k][found["labels"] == label] for k in ("boxes", "masks"))
        overlap = box_iou(box[None], boxes)[0]
        best = overlap.argmax()
        overlaps.append(float(overlap[best]))
        shape = paste(masks[best], boxes[best][None], (96, 96))[0] >= 0.5
        drawn.append(float((shape & (mask > 0)).sum() / (shape | (mask > 0)).sum()))
    assert np.mean(overlaps) > 0.6
    assert np.mean(drawn[::2]) > 0.6  # the cells


def test_output_obeys_the_contract(trained):
    network, _ = trained
    image, _ = scene()
    with torch.no_grad():
        output = network(image)
    for found, same in zip(output, instances(output), strict=True):
        k = len(found["scores"])
        assert k > 0
        assert found["boxes"].shape == (k, 4) and found["masks"].shape == (k, 1, 28, 28)
        assert found["labels"].dtype == torch.int64
        assert set(found["labels"].tolist()) <= {1, 2}
        assert (found["scores"].diff() <= 0).all()
        assert float(found["scores"].min()) > network.config.score
        assert float(found["boxes"].min()) >= 0 and float(found["boxes"].max()) <= 96
        assert len(same) == k and same.masks.dtype == np.uint8 and same.boxes.dtype == np.float32
        assert np.array_equal(same.class_index, found["labels"].numpy() - 1)
        assert np.allclose(same.masks / 255, found["masks"][:, 0].numpy(), atol=0.003)


@pytest.mark.parametrize("margin", [0.05, 0.2])
def test_the_mask_of_a_cell_lies_over_its_enlarged_box(trained, margin):
    """Boxes, labels and scores are those without it; the mask is that of the enlarged box."""
    network, _ = trained
    if network.config.mrp:
        pytest.skip("the second pass sees the masks of the first")
    if network.config.mask_iou:
        pytest.skip("the score is that of the mask, which is another one")
    wide = type(network)(dataclasses.replace(network.config, mask_margin=margin))
    wide.load_state_dict(network.state_dict())
    image, _ = scene()
    with torch.no_grad():
        (plain,), (grown,) = network(image), wide.eval()(image)
    assert torch.equal(plain["scores"], grown["scores"])
    assert torch.equal(plain["labels"], grown["labels"])
    low, high = plain["boxes"][:, :2], plain["boxes"][:, 2:]
    side = (high - low) * margin * (plain["labels"] == 1)[:, None]
    assert torch.allclose(grown["boxes"][:, :2], (low - side).clamp(0, 96), atol=1e-3)
    assert torch.allclose(grown["boxes"][:, 2:], (high + side).clamp(0, 96), atol=1e-3)
    over = Detections([grown["boxes"]], [grown["labels"]], [grown["scores"]], [])
    with torch.no_grad():
        drawn = network.roi_heads.draw(network.backbone(image), over, (96, 96))
    assert torch.allclose(drawn.logits[0].sigmoid(), grown["masks"][:, 0], atol=1e-4)
    assert not torch.allclose(plain["masks"], grown["masks"], atol=1e-2)


@pytest.mark.parametrize("build", list(BUILDERS.values()), ids=list(BUILDERS))
def test_nothing_found_is_no_instances(build):
    torch.manual_seed(0)
    with torch.no_grad():
        (found,) = instances(build(**{**TINY, "score": 0.99}).eval()(torch.zeros(1, 3, 64, 64)))
    assert len(found) == 0
    assert found.boxes.shape == (0, 4) and found.masks.shape == (0, 28, 28)


def test_images_of_a_batch_do_not_touch_each_other(trained):
    network, _ = trained
    image, _ = scene()
    two = torch.cat([image, image.flip(3)])
    with torch.no_grad():
        together, alone = network(two), [network(x[None])[0] for x in two]
    for a, b in zip(together, alone, strict=True):
        assert all(torch.allclose(a[k].float(), b[k].float(), atol=1e-3) for k in a)


def test_state_dict_and_inference_keep_the_function(trained):
    network, _ = trained
    image, _ = scene()
    again = for_inference(type(network)(network.config))
    again.load_state_dict(for_inference(copy.deepcopy(network)).state_dict())
    with torch.no_grad():
        before, after = network(image)[0], again(image)[0]
    assert all(torch.allclose(before[k].float(), after[k].float(), atol=1e-4) for k in before)
    assert not any(p.requires_grad for p in again.parameters())


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_folding_norms_changes_nothing(norm):
    torch.manual_seed(0)
    options = {"norm": norm, "dcn_stages": (5,), "score": 0.0}
    network = maskrcnn(**{**TINY, **options}).eval()
    for name, value in network.backbone.body.state_dict().items():
        if name.rsplit(".")[-1] in ("running_var", "running_mean"):
            value.copy_(torch.rand_like(value) + 0.5)
    image, _ = scene()
    with torch.no_grad():
        before = network.backbone(image)
        names = set(for_inference(network).state_dict())
        after = network.backbone(image)
    assert not any("running" in n for n in names)
    assert all(torch.allclose(before[k], after[k], atol=1e-4) for k in before)


@pytest.mark.parametrize("row", ROWS)
def test_every_row_of_the_ablation_trains_and_finds(row):
    torch.manual_seed(0)
    network = donet(**{**TINY, **row, "score": 0.0, "max_detections": 5}).train()
    image, target = scene()
    with torch.autocast("cpu", torch.bfloat16):
        losses = network(torch.cat([image, image]), [target, empty()])
    assert all(v.dtype == torch.float32 and bool(v.isfinite()) for v in losses.values())
    assert ("intersection" in losses) == row["drm"]
    assert ("consistency" in losses) == row["crm"]
    assert ("second_class" in losses) == row["mrp"]
    sum(losses.values()).backward()
    dead = [n for n, p in network.named_parameters() if p.grad is None]
    assert not dead
    with torch.no_grad():
        (found,) = network.eval()(image)
    assert len(found["scores"]) == (10 if row["mrp"] else 5)


@pytest.mark.parametrize("build", list(BUILDERS.values()), ids=list(BUILDERS))
def test_an_image_with_nothing_in_it_trains(build):
    network = build(**TINY).train()
    losses = network(torch.zeros(1, 3, 64, 96), [empty(64, 96)])
    total = sum(losses.values())
    total.backward()
    assert bool(total.isfinite())
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())


def test_each_pass_of_donet_finds_its_own_class():
    """Cells come from the first, nuclei from the second; each sees the others as background."""
    network, _ = learned(donet, 1)
    _, target = scene()
    for heads, label in ((network.roi_heads, 1), (network.second_heads, 2)):
        samples = heads.sample(0, [torch.zeros(0, 4)], [target])
        assert samples.labels[0].tolist().count(label) == 2
        assert set(samples.labels[0].tolist()) == {0, label}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"boxes": torch.tensor([[5.0, 5, 5, 9]] * 4)}, r"target 0: box \[5.0, 5.0, 5.0, 9.0\]"),
        ({"labels": torch.tensor([0, 1, 2, 1])}, "labels"),
        ({"masks": torch.zeros(4, 64, 64)}, "does not fit"),
    ],
)
def test_targets_that_cannot_teach_are_refused(change, match):
    image, target = scene()
    with pytest.raises(ValueError, match=match):
        maskrcnn(**TINY).train()(image, [{**target, **change}])


def test_images_of_other_sizes_and_lost_targets_are_refused():
    with pytest.raises(ValueError, match="multiples of 32"):
        maskrcnn(**TINY).eval()(torch.zeros(1, 3, 50, 64))
    with pytest.raises(ValueError, match="one target per image"):
        maskrcnn(**TINY).train()(torch.zeros(1, 3, 64, 64))
