"""Laws of the detectors: sizes, losses, frozen stages, what is not learned, weights from a file."""

import math

import pytest
import torch
from torchvision.models.detection import retinanet_resnet50_fpn
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou
from wsiseg_models import registry
from wsiseg_models.detection.config import FROZEN, DetectorConfig, RetinaNetConfig
from wsiseg_models.detection.faster_rcnn import FasterRCNN, faster_rcnn
from wsiseg_models.detection.losses import is_neutral, retina_losses
from wsiseg_models.detection.parts import GridAnchors, is_frozen
from wsiseg_models.detection.retinanet import RetinaNet, retinanet
from wsiseg_models.instance.losses import box_loss
from wsiseg_models.training.pretrained import load_backbone, load_detector

TINY = {
    "backbone": "resnet18", "trunk_width": 8, "norm": "group", "frozen": "none", "fpn_width": 32,
    "classes": 2, "anchor_px": (8, 16, 32, 64, 128),
}  # fmt: skip
BUILDERS = {"faster_rcnn": faster_rcnn, "retinanet": retinanet}
LOSSES = ("l1", "smooth_l1", "iou", "giou", "diou", "ciou")


def tiny(name, **options):
    more = {"box_width": 16} if name == "faster_rcnn" else {"head_convs": 1}
    return BUILDERS[name](**{**TINY, **more, **options})


def target(*boxes, labels=(), ignore=(), partial=False):
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "ignore": torch.tensor(ignore, dtype=torch.float32).view(-1, 4),
        "partial": torch.tensor(partial),
    }


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def test_numbers_of_parameters_are_the_published_ones():
    """Those of the norms are parameters where they learn, as in the published counts."""
    with torch.device("meta"):
        published = {"classes": 11, "norm": "batch"}
        assert parameters(faster_rcnn(**published)) == 41_399_431  # 41.4 M
        assert parameters(faster_rcnn(backbone="resnet101", **published)) == 60_391_559  # 60.39 M
        assert round(parameters(retinanet(**published)) / 1e6, 1) == 36.5


@pytest.mark.parametrize("name", LOSSES)
def test_box_losses_have_their_closed_form(name):
    """Of (0, 0, 10, 10), to become (2, 1, 14, 9): 64 shared, 132 in either, 140 around both."""
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    box, truth = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[2.0, 1, 14, 9]])
    moves = [0.3, 0.0, math.log(1.2), math.log(0.8)]
    iou, away = 64 / 132, 9 / (14**2 + 10**2)
    v = 4 / math.pi**2 * (math.atan(12 / 8) - math.atan(1)) ** 2
    closed = {
        "l1": sum(map(abs, moves)),
        "smooth_l1": sum(0.5 * m * m for m in moves),
        "iou": 1 - iou,
        "giou": 1 - iou + 8 / 140,
        "diou": 1 - iou + away,
        "ciou": 1 - iou + away + v * v / (1 - iou + v),
    }
    loss = box_loss(name, torch.zeros(1, 4), box, truth, coder, 1.0)
    assert float(loss) == pytest.approx(closed[name], abs=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_box_losses_have_the_gradient_of_their_form(name):
    """CIoU keeps its weight alpha constant, as its authors do; so does the form here."""
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    box = torch.tensor([[0.0, 0, 10, 10], [3, 3, 9, 12]], dtype=torch.float64)
    truth = torch.tensor([[2.0, 1, 14, 9], [4, 3.5, 8, 10]], dtype=torch.float64)
    at = torch.tensor([[0.05, -0.1, 0.2, 0.1], [0.1, 0.05, -0.1, 0.15]], dtype=torch.float64)

    def loss(deltas):
        return box_loss(name, deltas, box, truth, coder, 1.0)

    if name != "ciou":
        assert torch.autograd.gradcheck(loss, at.clone().requires_grad_())
        return

    def ratio_term(deltas):
        moved = coder.decode_single(deltas, box)
        wide, high = moved[:, 2] - moved[:, 0], moved[:, 3] - moved[:, 1]
        true = (truth[:, 2] - truth[:, 0]) / (truth[:, 3] - truth[:, 1])
        v = 4 / math.pi**2 * (torch.atan(true) - torch.atan(wide / high)) ** 2
        return v, box_iou(moved, truth).diagonal()

    v, iou = ratio_term(at)
    alpha = v / (1 - iou + v)

    def form(deltas):
        distance = box_loss("diou", deltas, box, truth, coder, 1.0)
        return distance + (alpha * ratio_term(deltas)[0]).sum()

    mine, theirs = at.clone().requires_grad_(), at.clone().requires_grad_()
    loss(mine).backward()
    form(theirs).backward()
    assert torch.autograd.gradcheck(form, at.clone().requires_grad_())
    assert torch.allclose(mine.grad, theirs.grad, atol=1e-6)


@pytest.mark.parametrize("name", BUILDERS)
def test_frozen_stages_and_no_others_keep_their_weights(name):
    wanted = {
        "none": set(), "stem": {0}, "stem+1": {0, 1}, "stem+2": {0, 1, 2}, "stem+3": {0, 1, 2, 3},
        "stem+4": {0, 1, 2, 3, 4}, "stage1": {1}, "stage2": {2}, "stage3": {3}, "stage4": {4},
    }  # fmt: skip
    assert set(wanted) == set(FROZEN)
    for frozen, stages in wanted.items():
        network = tiny(name, frozen=frozen, norm="batch").train()
        body = network.backbone.body
        for k in range(5):
            parts = [getattr(body, n) for n in (("conv1", "bn1") if k == 0 else (f"layer{k}",))]
            learns = {p.requires_grad for part in parts for p in part.parameters()}
            assert learns == {k not in stages}, (frozen, k)
            # Norms of frozen stages keep their statistics too.
            assert {m.training for part in parts for m in part.modules()} == {k not in stages}
        assert all(p.requires_grad for p in network.backbone.fpn.parameters())
    lite = DetectorConfig(backbone="efficientnet_lite0", frozen="stem+1")
    named = ("stem.conv", "stages.0.1", "stages.1.0", "stages.2", "stages.10")
    assert [is_frozen(lite, n) for n in named] == [True, True, True, False, False]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", BUILDERS)
def test_every_loss_teaches_the_boxes_and_the_classes(name, loss):
    torch.manual_seed(0)
    network = tiny(name, box_loss=loss).train()
    known = target((10, 10, 26, 26), (30, 40, 60, 62), labels=(1, 2))
    terms = network(torch.randn(2, 3, 64, 96), [known, target()])
    assert all(torch.isfinite(v) and v > 0 for v in terms.values())
    sum(terms.values()).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []


def test_unmarked_places_teach_nothing_where_only_some_objects_are_marked():
    """The loss of an image does not change when what lies there changes its meaning."""
    settings = RetinaNetConfig(**TINY)
    anchors = torch.tensor([[10.0, 10, 26, 26], [60, 60, 76, 76], [12, 12, 17, 17]])
    logits, deltas = torch.full((1, 3, 2), 3.0, requires_grad=True), torch.zeros(1, 3, 4)
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))

    def pulls(**about):
        """Whether each anchor gets a gradient towards background."""
        logits.grad = None
        one = target((10, 10, 26, 26), labels=(1,), **about)
        retina_losses(settings, logits, deltas, anchors, [one], coder)["class"].backward()
        return (logits.grad[0, 1:] != 0).any(1).tolist()

    assert pulls() == [True, True]
    assert pulls(partial=True) == [False, True], "inside the mark there is no other object"
    assert pulls(ignore=(50, 50, 90, 90)) == [False, True]


def test_proposals_and_regions_leave_out_what_is_not_known():
    network = tiny("faster_rcnn").train()
    boxes = torch.tensor([[10.0, 10, 26, 26], [60, 60, 76, 76]])
    known, partly = target((10, 10, 26, 26), labels=(1,)), target(
        (10, 10, 26, 26), labels=(1,), partial=True
    )  # fmt: skip
    labels, _ = network.rpn.assign_targets_to_anchors([boxes, boxes], [known, partly])
    assert [v.tolist() for v in labels] == [[1, 0], [1, -1]]
    samples = network.roi_heads.sample(0, [boxes, boxes], [known, partly])
    assert 0 in samples.labels[0] and 0 not in samples.labels[1]
    assert is_neutral(boxes, partly).tolist() == [False, True]


@pytest.mark.parametrize("name", BUILDERS)
def test_targets_that_cannot_be_learned_are_named(name):
    network, image = tiny(name).train(), torch.zeros(1, 3, 64, 64)
    for one, match in (
        (None, "one target per image: 1 images, none"),
        ([target((3, 3, 3, 9), labels=(1,))], "target 0: box .* has no area"),
        ([target((3, 3, 9, 9), labels=(3,))], r"labels \[3\], not 1 to 2"),
        ([target((3, 3, 9, 9))], "for 0 labels"),
    ):
        with pytest.raises(ValueError, match=match):
            network(image, one)
    with pytest.raises(ValueError, match="multiples of 32"):
        network(torch.zeros(1, 3, 60, 64), [target()])


def test_anchors_stand_at_the_strides_whatever_the_size():
    """At 96 px the level of stride 64 has 2 × 2 places, which are 64 px apart and not 48."""
    network = retinanet(**TINY)
    anchors = network.anchors
    assert isinstance(anchors, GridAnchors) and anchors.strides == (8, 16, 32, 64, 128)
    levels = list(network.backbone(torch.zeros(1, 3, 96, 96)).values())
    found = anchors(type("Batch", (), {"image_sizes": [(96, 96)]}), levels)[0]
    assert [tuple(level.shape[2:]) for level in levels] == [(s, s) for s in (12, 6, 3, 2, 1)]
    middle = ((found[:, :2] + found[:, 2:]) / 2).view(-1, 9, 2)[:, 0]
    assert middle[-5:-1].tolist() == [[0, 0], [64, 0], [0, 64], [64, 64]]


@pytest.mark.parametrize("name", BUILDERS)
def test_the_network_that_runs_is_the_one_that_was_trained(name):
    torch.manual_seed(1)
    entry = registry.MODELS[name]
    network = tiny(name, norm="frozen", score=0.0, max_detections=500).eval()
    image = torch.randn(2, 3, 128, 192)
    with torch.no_grad():
        plain = network(image)
        fast = entry.faster(entry.for_inference(network))(image)
    for a, b in zip(plain, fast, strict=True):
        assert len(a["scores"]) > 5
        # Scores of an untrained network are nearly equal, so that their order may change.
        away = torch.cdist(a["boxes"], b["boxes"], p=float("inf")).min(1)
        assert (away.values < 0.05).float().mean() > 0.9
        assert (a["scores"] - b["scores"][away.indices]).abs().median() < 1e-3
    for found in entry.decode(fast):
        assert found.masks.shape == (len(found), 0, 0) and found.class_index.max() <= 1


@pytest.mark.parametrize("name", BUILDERS)
def test_exclusive_classes_leave_one_box_per_object(name):
    torch.manual_seed(2)
    network = tiny(name, score=0.0, max_detections=5000).eval()
    other = tiny(name, score=0.0, max_detections=5000, exclusive=True).eval()
    other.load_state_dict(network.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        (all_classes,), (one,) = network(image), other(image)
    iou = box_iou(one["boxes"], one["boxes"]).fill_diagonal_(0)
    assert 0 < len(one["boxes"]) < len(all_classes["boxes"]) and iou.max() <= 0.5


def test_options_that_cannot_be_are_refused():
    for options, match in (
        ({"frozen": "stem+5"}, r"unknown frozen 'stem\+5'; use none, stem"),
        ({"box_loss": "l2"}, "unknown box_loss 'l2'"),
        ({"anchor_px": (8, 16)}, "anchor_px has 2 entries; give 5"),
    ):
        for build in BUILDERS.values():
            with pytest.raises(ValueError, match=match):
                build(**options)
    with pytest.raises(ValueError, match="head_convs 5 is not 1 to 4"):
        retinanet(head_convs=5)
    with pytest.raises(ValueError, match=r"rpn_negative_iou 0\.8 is above"):
        faster_rcnn(rpn_negative_iou=0.8)


@pytest.mark.slow
def test_a_retinanet_of_torchvision_is_taken_but_for_what_differs(tmp_path):
    """Its P6 is made from P5 and its classes are COCO's; all else is copied."""
    stock = retinanet_resnet50_fpn(weights=None, weights_backbone=None)
    torch.save(stock.state_dict(), tmp_path / "coco.pth")
    with torch.device("meta"):
        network = retinanet(classes=3)
    network = network.to_empty(device="cpu")
    report = load_detector(network, tmp_path / "coco.pth", eps=1e-5)
    assert set(report.skipped) <= {
        "backbone.fpn.extra_blocks.p6.weight",
        "head.classification_head.cls_logits.weight", "head.classification_head.cls_logits.bias",
        *(k for k in stock.state_dict() if k.endswith("num_batches_tracked")),
    }  # fmt: skip
    mine = network.state_dict()
    for k in ("head.regression_head.conv.3.0.weight", "backbone.fpn.inner_blocks.2.0.weight"):
        assert torch.equal(mine[k], stock.state_dict()[k])
    state = {f"head.regression_head.conv.{2 * i}.bias": torch.full((256,), 1.0 + i)
             for i in range(4)}  # fmt: skip
    torch.save(state, tmp_path / "old.pth")
    load_detector(network, tmp_path / "old.pth")
    assert [float(mine[f"head.regression_head.conv.{i}.0.bias"][0]) for i in range(4)] == [
        1, 2, 3, 4
    ]  # fmt: skip
    torch.save({"head.regression_head.conv.0.1.weight": torch.ones(256)}, tmp_path / "v2.pth")
    with pytest.raises(ValueError, match="version 2"):
        load_detector(network, tmp_path / "v2.pth")


@pytest.mark.parametrize("name", BUILDERS)
def test_a_backbone_of_imagenet_starts_the_trunk_alone(name, tmp_path):
    network = tiny(name, norm="frozen")
    assert isinstance(network, FasterRCNN | RetinaNet)
    state = {k: torch.ones_like(v) for k, v in network.backbone.body.state_dict().items()}
    torch.save({**state, "fc.weight": torch.zeros(3)}, tmp_path / "imagenet.pth")
    report = load_backbone(network, tmp_path / "imagenet.pth")
    assert set(report.copied) == {f"backbone.body.{k}" for k in state}
    assert set(report.skipped) == {"fc.weight"}
