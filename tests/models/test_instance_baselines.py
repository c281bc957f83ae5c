"""Laws of Mask Scoring R-CNN, Hybrid Task Cascade and Occlusion R-CNN: heads, losses, scores."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from drawn_cells import write_set
from tiny_networks import BUILDERS, TINY, scene
from wsiseg_models import registry
from wsiseg_models.instance.config import HTC, InstanceConfig
from wsiseg_models.instance.heads import MaskBranch, MaskIoUBranch, VisibleBranch
from wsiseg_models.instance.losses import invisible_bce, mask_iou_loss
from wsiseg_models.instance.network import htc, maskrcnn, ms_rcnn, orcnn
from wsiseg_models.instance.targets import iou_with_truth
from wsiseg_models.training.config import InstanceTrainConfig
from wsiseg_models.training.train_instance import train_instances

NAMES = ("ms_rcnn", "htc", "orcnn")
SMALL = InstanceConfig(fpn_width=16, mask_width=16, mask_convs=1, box_width=32)


def millions(module):
    return sum(p.numel() for p in module.parameters()) / 1e6


def test_parameters_are_what_the_documents_state():
    with torch.device("meta"):
        sizes = {n: millions(BUILDERS[n]()) for n in ("maskrcnn", "cascade", *NAMES)}
    assert {n: round(size, 1) for n, size in sizes.items()} == {
        "maskrcnn": 43.9, "cascade": 77.0, "ms_rcnn": 60.2, "htc": 77.1, "orcnn": 46.5,
    }  # fmt: skip


def test_the_iou_of_a_mask_counts_the_instance_outside_of_its_box():
    whole = torch.zeros(2, 28, 28)
    whole[:, 7:21] = 1  # half of the box, 14 of 28 rows
    logits = torch.where(whole > 0, 5.0, -5.0)
    logits[1, 14:] = -5  # half of that
    boxes = torch.tensor([[0.0, 0, 56, 28], [10, 10, 38, 38]])
    inside = torch.tensor([56 * 14.0, 28 * 14.0])
    assert iou_with_truth(logits, whole, boxes, inside).tolist() == pytest.approx([1, 0.5])
    assert iou_with_truth(logits, whole, boxes, 2 * inside).tolist() == pytest.approx([0.5, 0.25])
    nothing = torch.full((1, 28, 28), -1.0)
    assert iou_with_truth(nothing, whole[:1], boxes[:1], inside[:1]).tolist() == [0]


def test_losses_in_closed_form():
    found, wanted = torch.tensor([0.5, 1.0], requires_grad=True), torch.tensor([0.7, 0.4])
    loss = mask_iou_loss(found, wanted)
    loss.backward()
    assert float(loss.detach()) == pytest.approx((0.2**2 + 0.6**2) / 2)
    assert found.grad.tolist() == pytest.approx([-0.2, 0.6])
    p = torch.tensor([[[0.9, 0.6]]])
    q = torch.tensor([[[0.2, 0.7]]])
    hidden = invisible_bce(p.logit(), q.logit(), torch.tensor([[[1.0, 0.0]]]))
    assert float(hidden) == pytest.approx(-np.log(0.7) / 2, abs=1e-4)
    whole, seen = torch.randn(2, 4, 4).requires_grad_(), torch.randn(2, 4, 4).requires_grad_()
    invisible_bce(whole, seen, torch.ones(2, 4, 4)).backward()
    assert float(whole.grad.abs().sum()) > 0 and float(seen.grad.abs().sum()) > 0
    nothing = torch.zeros(0, 28, 28, requires_grad=True)
    (invisible_bce(nothing, nothing, nothing) + mask_iou_loss(nothing, nothing)).backward()


def test_shapes_of_the_heads():
    x = torch.randn(3, 16, 14, 14)
    assert MaskIoUBranch(SMALL)(x, torch.rand(3, 28, 28)).shape == (3, 2)
    head = VisibleBranch(SMALL).train()
    assert {k: v.shape for k, v in head(x).items()} == dict.fromkeys(
        ("mask", "visible"), (3, 2, 28, 28)
    )
    assert set(head.eval()(x)) == {"mask"}
    flow = MaskBranch(16, SMALL, flow=True)
    before = torch.randn(3, 16, 14, 14)
    with torch.no_grad():
        expected = flow.convs(x + F.conv2d(before, flow.flow.weight, flow.flow.bias))
        assert torch.allclose(flow.features(x, before), expected)
        assert not torch.allclose(flow.features(x), expected)


@pytest.mark.parametrize("name", NAMES)
def test_each_network_has_its_own_losses_and_each_weight_learns(name):
    torch.manual_seed(0)
    network = BUILDERS[name](**TINY).train()
    image, target = scene()
    losses = network(image, [target])
    own = {
        "ms_rcnn": {"mask_iou"}, "orcnn": {"visible", "invisible"},
        "htc": {f"stage{k}_mask" for k in range(3)},
    }[name]  # fmt: skip
    assert own <= set(losses) and all(bool(v.isfinite()) for v in losses.values())
    sum(losses.values()).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []


def test_the_score_is_the_class_score_times_the_predicted_iou():
    torch.manual_seed(0)
    options = {**TINY, "score": 0.0, "max_detections": 6}
    scored, plain = ms_rcnn(**options).eval(), maskrcnn(**options).eval()
    state = scored.state_dict()
    plain.load_state_dict({k: v for k, v in state.items() if ".iou." not in k})
    seen = []
    scored.roi_heads.iou.register_forward_hook(lambda _, given, out: seen.append((given, out)))
    torch.nn.init.constant_(scored.roi_heads.iou.predictor.bias, 0.5)
    with torch.no_grad():
        (a,), (b,) = scored(scene()[0]), plain(scene()[0])
    (((_, masks), ious),) = seen
    assert masks.shape[1:] == (28, 28)
    order = [int(torch.isclose(b["boxes"], box).all(1).nonzero()[0, 0]) for box in a["boxes"]]
    wanted = b["scores"] * ious[torch.arange(len(ious)), b["labels"] - 1].clamp(0, 1)
    assert torch.allclose(a["scores"], wanted[order], atol=1e-5)
    assert (a["scores"].diff() <= 0).all() and len(a["scores"]) == 6
    assert (a["scores"] <= b["scores"][order]).all()


def test_each_mask_head_of_htc_learns_on_the_boxes_that_its_stage_moved(monkeypatch):
    """With deltas that move every box by a tenth of its width, the masks' boxes have moved too."""
    torch.manual_seed(0)
    network = htc(**TINY).train()
    heads = network.roi_heads
    for branch in heads.boxes:
        torch.nn.init.zeros_(branch.bbox_pred.weight)
        with torch.no_grad():
            branch.bbox_pred.bias.zero_()[0] = 1.0  # 1/10, 1/20 and 1/30 of the width
    drawn, masked = [], []
    sample, masks = type(heads).sample, type(heads)._masks
    monkeypatch.setattr(type(heads), "sample", lambda *a: drawn.append((a[1], a[2])) or sample(*a))
    monkeypatch.setattr(
        type(heads), "_masks", lambda *a: masked.append((a[1], a[3].boxes[0])) or masks(*a)
    )
    image, target = scene()
    network(image, [target])
    assert [stage for stage, _ in drawn] == [0, 0, 1, 1, 2, 2]
    assert [head for head, _ in masked] == [0, 1, 2]
    for stage in (1, 2):  # the boxes of a stage are those that the one before moved
        assert torch.equal(drawn[2 * stage][1][0], drawn[2 * stage - 1][1][0])
    assert not torch.equal(drawn[0][1][0][:1], drawn[1][1][0][:1])


def test_mask_features_pass_through_all_stages():
    torch.manual_seed(0)
    network = htc(**TINY).eval()
    heads = network.roi_heads
    x, own = torch.randn(2, 16, 14, 14), torch.tensor([0, 1])
    with torch.no_grad():
        before = heads._head(2, x, own)["mask"]
        heads.masks[0].convs[0].weight.mul_(2)
        assert not torch.allclose(before, heads._head(2, x, own)["mask"])
        assert heads.masks[0].flow is None


def test_the_visible_part_is_what_no_other_cell_covers():
    """A head that draws only the visible part has no loss for it, and pays for the rest."""
    from wsiseg_models.instance.mask_losses import mask_losses
    from wsiseg_models.instance.roi_heads import Samples
    from wsiseg_models.instance.targets import decompose, project

    _, target = scene()
    boxes = target["boxes"][:1]
    rest = decompose(target["masks"], target["labels"])[1]
    index = torch.tensor([0])
    samples = Samples([boxes], [target["labels"][:1]], [index], [boxes], [index > 0])
    seen, whole = (
        project(m[:, None], boxes, index, 28)[:, 0] for m in (rest, target["masks"])
    )  # fmt: skip
    assert 0 < float((whole - seen).sum()) < float(whole.sum())
    logits = {"mask": 20 * (2 * whole - 1), "visible": 20 * (2 * seen - 1)}
    config = orcnn(**TINY).config
    right = mask_losses(config, (1, 2), logits, samples, [target])
    assert all(float(v) < 1e-4 for v in right.values()), right
    wrong = mask_losses(config, (1, 2), logits | {"visible": logits["mask"]}, samples, [target])
    assert float(wrong["visible"]) > 0.1 and float(wrong["invisible"]) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_resumed_training_equals_uninterrupted_and_the_checkpoint_runs(name, tmp_path):
    data = (f"{write_set(tmp_path / 'data')}@0.5",)
    config = InstanceTrainConfig(
        model=name, data=data, out=tmp_path / "whole", options=TINY, crop_px=64, batch=1, steps=3,
        save_every=3, workers=0, amp=False, mpp=0.5,
    )  # fmt: skip
    whole = train_instances(config, quiet=True).read_bytes()
    halves = dataclasses.replace(config, out=tmp_path / "halves")
    train_instances(dataclasses.replace(halves, max_minutes=0), quiet=True)
    path = train_instances(halves, quiet=True)
    network, decode, card = registry.load(path)
    again, _, _ = registry.load(tmp_path / "whole" / f"{name}.safetensors")
    for k, v in network.state_dict().items():
        assert torch.equal(v, again.state_dict()[k]), k
    assert card.name == name and len(whole) > 0
    with torch.no_grad():
        (found,) = decode(registry.MODELS[name].faster(network)(torch.zeros(1, 3, 64, 64)))
    assert found.masks.shape[1:] == (28, 28)


@pytest.mark.parametrize(
    ("base", "options", "message"),
    [
        (InstanceConfig(), {"interleaved": True}, "interleaved needs several box stages"),
        (HTC, {"mask_every_stage": False}, "interleaved needs several box stages"),
        (HTC, {"mask_iou": True}, "mask_iou needs one mask head"),
        (InstanceConfig(), {"visible": True, "drm": True}, "switch drm off"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(base, options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(base, **options)
