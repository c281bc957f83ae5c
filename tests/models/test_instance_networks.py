"""Laws of the instance networks: published sizes, exact parts, learning, the output's contract."""

import copy
import itertools
import json

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.models import resnet18
from torchvision.models.detection import maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou
from wsiseg_models.instance.backbone import ModulatedDeformConv2d, build_backbone
from wsiseg_models.instance.config import DONET, LIGHT, InstanceConfig
from wsiseg_models.instance.losses import box_loss, consistency, mask_bce, soft_xor
from wsiseg_models.instance.mask_pasting import attention, paste
from wsiseg_models.instance.network import (
    cascade,
    donet,
    for_inference,
    imbmdcr,
    instances,
    maskrcnn,
)
from wsiseg_models.instance.targets import decompose, project
from wsiseg_models.settings import configure
from wsiseg_models.training.optimizers import cosine
from wsiseg_models.training.pretrained import load_backbone, load_detector

TINY = {
    **LIGHT,
    "trunk_width": 16,
    "fpn_width": 16,
    "mask_width": 16,
    "mask_convs": 2,
    "fusion_width": 16,
    "box_width": 64,
    "roi_samples": 32,
    "rpn_pre_nms": (100, 100),
    "rpn_post_nms": (60, 60),
}
BUILDERS = {"maskrcnn": maskrcnn, "cascade": cascade, "donet": donet}
ROWS = [
    {"drm": False, "crm": False, "mrp": False},
    {"drm": True, "crm": False, "mrp": False},
    {"drm": True, "crm": True, "mrp": False},
    {"drm": True, "crm": True, "mrp": True},
]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks this small only wait for further threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def scene(px=96, cells=(((34, 40), (26, 20)), ((62, 54), (22, 25)))):
    """Cells as ellipses (centre, half axes) that overlap, each with its nucleus: image, target."""
    image = np.full((px, px, 3), 210, np.uint8)
    labels, masks = [], []
    for centre, axes in cells:
        for label, size, shade in ((1, 1.0, 0.75), (2, 0.35, 0.5)):
            mask = np.zeros((px, px), np.uint8)
            half = tuple(int(a * size) for a in axes)
            cv2.ellipse(mask, centre, half, 20, 0, 360, 1, -1)
            image[mask > 0] = image[mask > 0] * shade
            labels.append(label)
            masks.append(mask)
    where = [np.nonzero(m) for m in masks]
    boxes = [[x.min(), y.min(), x.max() + 1, y.max() + 1] for y, x in where]
    target = {
        "boxes": torch.tensor(np.array(boxes), dtype=torch.float32),
        "labels": torch.tensor(labels),
        "masks": torch.from_numpy(np.stack(masks)),
    }
    return (torch.from_numpy(image).permute(2, 0, 1)[None].float() - 128) / 128, target


def empty(h=96, w=96):
    return {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, h, w, dtype=torch.uint8),
    }


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


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"backbone": "vgg"}, "backbone: unknown 'vgg'; known: resnet18"),
        ({"backbon": "resnet18"}, "unknown option 'backbon'"),
        ({"score": "0.5"}, "score: '0.5' is not of type float"),
        ({"anchor_px": [16, 32]}, "anchor_px: 2 entries, 5"),
        ({"fpn_width": 0}, "fpn_width: 0"),
        ({"crm": True, "drm": False}, "crm: .*drm"),
        ({"dcn_stages": [2]}, "dcn_stages"),
        ({"stage_iou": [0.5, 0.6]}, "stage_box_weights"),
        ({"roi_fraction": 1.5}, "roi_fraction: 1.5"),
    ],
)
def test_errors_of_options_name_the_field(options, match):
    with pytest.raises(ValueError, match=match):
        donet(**options)


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


def learned(build, steps, **options):
    """A tiny network after `steps` on one scene; its first and last total loss."""
    torch.manual_seed(0)
    network = build(**{**TINY, **options}).train()
    optimizer = torch.optim.Adam(network.parameters(), 4e-3)
    image, target = scene()
    totals = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 4e-3 * cosine(step, steps)
        loss = sum(network(image, [target]).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        totals.append(float(loss.detach()))
    return network.eval(), totals


@pytest.fixture(scope="module", params=list(BUILDERS))
def trained(request):
    return learned(BUILDERS[request.param], 90)


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
        "backbone.body.bn1.running_var": torch.full((16,), 2e-5),
        "backbone.fpn.layer_blocks.0.bias": torch.ones(16),
        "rpn.head.conv.weight": torch.ones(width),
        "roi_heads.mask_head.mask_fcn2.bias": torch.ones(16),
    }
    path = tmp_path / "old.pth"
    torch.save(state, path)
    report = load_detector(network, path)
    mine = network.state_dict()
    assert torch.allclose(mine["backbone.body.bn1.running_var"], torch.full((16,), 1e-5))
    for name in ("backbone.fpn.layer_blocks.0.0.bias", "rpn.head.conv.0.0.weight"):
        assert (mine[name] == 1).all()
    assert (mine["roi_heads.masks.0.convs.2.bias"] == 1).all()
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
