"""Laws of the rewritten instance networks: what they find is what the plain ones find."""

import dataclasses

import pytest
import torch
from tiny_networks import TINY, scene
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign, box_iou
from wsiseg_models.instance.fast import WINDOW_PX, FastInstances, Proposals, RegionPool, faster
from wsiseg_models.instance.mask_pasting import attention, paste_sum, paste_sum_in_boxes
from wsiseg_models.instance.network import donet, for_inference, maskrcnn
from wsiseg_models.registry import MODELS

STRIDES = (4, 8, 16, 32, 64)


@pytest.fixture(scope="module")
def found_by(trained):
    """The trained network, ready for inference, with more detections than by default."""
    network, _ = trained
    loose = type(network)(dataclasses.replace(network.config, score=0.1))
    loose.load_state_dict(network.state_dict())
    return for_inference(loose)


def pyramid(n, h, w, channels=8):
    sizes = [(h // s, w // s) for s in STRIDES]
    return {
        name: torch.randn(n, channels, *size)
        for name, size in zip(("0", "1", "2", "3", "pool"), sizes, strict=True)
    }


def random_boxes(k, h, w):
    """From a fraction of a pixel to the whole image, some along its border."""
    size = torch.tensor([w, h]) * torch.rand(k, 2) ** 4
    low = (torch.rand(k, 2) * 1.2 - 0.1) * (torch.tensor([w, h]) - size)
    limit = torch.tensor([w, h])
    ends = torch.cat([low, low + size], 1).view(k, 2, 2)
    return torch.minimum(ends.clamp(min=0), limit).view(k, 4)


@pytest.mark.parametrize("side", [7, 14])
def test_regions_are_pooled_as_torchvision_pools_them(side):
    torch.manual_seed(0)
    features = pyramid(3, 448, 512)
    boxes = [random_boxes(k, 448, 512) for k in (200, 0, 60)]
    boxes[0] = torch.cat([boxes[0], torch.tensor([[0.0, 0, 512, 448]])])
    sizes = [(448, 512)] * 3
    expected = MultiScaleRoIAlign(["0", "1", "2", "3"], side, 2)(features, boxes, sizes)
    pool = RegionPool(side)
    assert set(pool.level_of(boxes).tolist()) == {0, 1, 2, 3}
    assert torch.allclose(pool(features, boxes, sizes), expected, atol=1e-4)
    assert pool(features, [b[:0] for b in boxes], sizes).shape == (0, 8, side, side)


def test_proposals_are_the_same_in_the_same_order():
    torch.manual_seed(0)
    network = maskrcnn(**TINY).eval()
    for layer in (network.rpn.head.cls_logits, network.rpn.head.bbox_pred):
        torch.nn.init.normal_(layer.weight, std=0.3)
    features = pyramid(2, 256, 320, TINY["fpn_width"])
    batch = ImageList(torch.zeros(2, 3, 256, 320), [(256, 320)] * 2)
    with torch.no_grad():
        expected, _ = network.rpn(batch, features)
        found, _ = Proposals(network.rpn, network.config)(batch, features)
    for a, b in zip(found, expected, strict=True):
        assert len(a) == TINY["rpn_post_nms"][1]
        assert torch.allclose(a, b, atol=1e-3)


def test_a_larger_window_gets_as_many_proposals_per_area():
    torch.manual_seed(0)
    network = maskrcnn(**TINY).eval()
    torch.nn.init.normal_(network.rpn.head.bbox_pred.weight, std=0.3)
    size = (WINDOW_PX, 2 * WINDOW_PX)
    batch = ImageList(torch.zeros(1, 3, *size), [size])
    with torch.no_grad():
        (found,), _ = Proposals(network.rpn, network.config)(batch, pyramid(1, *size, 16))
    assert len(found) == 2 * TINY["rpn_post_nms"][1]


@pytest.mark.parametrize("mode", ["prob", "code"])
def test_attention_in_boxes_is_attention_everywhere(mode):
    torch.manual_seed(0)
    for boxes in (random_boxes(30, 96, 160) + torch.tensor([0, 0, 0.5, 0.5]), torch.zeros(0, 4)):
        logits = 3 * torch.randn(len(boxes), 28, 28)
        everywhere, within = (
            attention(logits, boxes, (24, 40), 4, mode=mode, floor=0.25, summed=summed)
            for summed in (paste_sum, paste_sum_in_boxes)
        )
        assert torch.allclose(everywhere, within, atol=1e-4)
        assert bool(len(boxes)) == bool(everywhere.std() > 0)


def test_a_rewritten_network_finds_the_same(found_by):
    images = torch.cat([scene()[0], scene()[0].flip(2)])
    quick = faster(found_by)
    with torch.no_grad():
        for a, b in zip(found_by(images), quick(images), strict=True):
            assert len(a["scores"]) >= 4
            assert all(torch.allclose(a[k].float(), b[k].float(), atol=1e-3) for k in a)
        together, alone = quick(images), [quick(x[None])[0] for x in images]
    for a, b in zip(together, alone, strict=True):
        assert all(torch.allclose(a[k].float(), b[k].float(), atol=1e-3) for k in a)


def test_half_the_bits_find_the_same_cells(found_by):
    image, target = scene()
    if found_by.config.mask_iou:
        pytest.skip("it runs in float32; see the registry")
    quick = faster(found_by).to(torch.bfloat16)
    with torch.no_grad():
        (a,), (b,) = found_by(image), quick(image.to(torch.bfloat16))
    assert b["boxes"].dtype == b["scores"].dtype == torch.float32
    for label in (1, 2):
        mine, other = ((x["labels"] == label) & (x["scores"] > 0.4) for x in (a, b))
        overlap = box_iou(a["boxes"][mine], b["boxes"][b["labels"] == label])
        assert (overlap.amax(1) > 0.9).all()
        assert abs(int(mine.sum()) - int(other.sum())) <= 1
        true = target["boxes"][target["labels"] == label]
        assert (box_iou(true, b["boxes"][other]).amax(1) > 0.5).all()


@pytest.mark.parametrize("implementation", ["op", "grid"])
def test_deformable_trunks_run_in_half_precision(implementation):
    torch.manual_seed(0)
    options = {"norm": "frozen", "dcn_stages": (5,), "dcn": implementation}
    network = for_inference(maskrcnn(**{**TINY, **options}))
    quick, (image, _) = faster(network).to(torch.bfloat16), scene()
    with torch.no_grad():
        expected, features = network.backbone(image), quick.backbone(image.to(torch.bfloat16))
    for name, level in features.items():
        assert level.dtype == torch.bfloat16
        assert float((level - expected[name]).abs().mean()) < 0.02 * float(expected[name].std())


def test_asking_for_a_higher_score_only_leaves_out_the_rest(found_by):
    """Although cells below it weigh DoNet's second pass."""
    image, _ = scene()
    least = 0.3 if found_by.config.mask_iou else 0.8
    strict = type(found_by)(dataclasses.replace(found_by.config, score=least))
    strict = for_inference(strict)
    strict.load_state_dict(found_by.state_dict())
    with torch.no_grad():
        (everything,), (found,), (quick,) = found_by(image), strict(image), faster(strict)(image)
    kept = everything["scores"] > least
    assert 0 < kept.sum() < len(kept)
    for k in everything:
        assert torch.allclose(found[k].float(), everything[k][kept].float(), atol=1e-5)
        assert torch.allclose(quick[k].float(), found[k].float(), atol=1e-3)


def test_nothing_found_is_no_instances():
    torch.manual_seed(0)
    network = faster(for_inference(donet(**{**TINY, "score": 0.99})))
    with torch.no_grad():
        (found,) = network(torch.zeros(1, 3, 64, 64))
    assert found["masks"].shape == (0, 1, 28, 28)


def test_what_is_registered_is_rewritten():
    network = MODELS["donet"].builder(**TINY)
    assert isinstance(MODELS["donet"].faster(MODELS["donet"].for_inference(network)), FastInstances)
