"""Laws of the settings of networks and trainings: what cannot be is refused in words."""

import dataclasses

import pytest
from wsiseg_models import registry
from wsiseg_models.detection.config import FasterRCNNConfig, RetinaNetConfig
from wsiseg_models.instance.config import LIGHT, InstanceConfig
from wsiseg_models.instance.network import donet
from wsiseg_models.registry import MODELS
from wsiseg_models.semantic.baseline_config import BaselineConfig, EncoderConfig, PGUNetConfig
from wsiseg_models.semantic.config import DSSNetConfig, UNetConfig, WubinehConfig
from wsiseg_models.semantic.dssnet import BLOCKS
from wsiseg_models.training.augment import Augmentation
from wsiseg_models.training.baseline_config import EncoderTrainConfig, GrowingTrainConfig
from wsiseg_models.training.cell_pasting import Clusters
from wsiseg_models.training.config import InstanceTrainConfig, SemanticTrainConfig, UNetTrainConfig
from wsiseg_models.training.detector_config import DetectorTrainConfig
from wsiseg_models.training.distillation import Distillation
from wsiseg_models.training.wubineh_config import WubinehTrainConfig

SETTINGS = (
    DSSNetConfig, UNetConfig, WubinehConfig, InstanceConfig, SemanticTrainConfig, UNetTrainConfig,
    WubinehTrainConfig, InstanceTrainConfig, Augmentation, Clusters, Distillation,
    FasterRCNNConfig, RetinaNetConfig, DetectorTrainConfig,
    BaselineConfig, EncoderConfig, PGUNetConfig, EncoderTrainConfig, GrowingTrainConfig,
)  # fmt: skip


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"backbone": "vgg"}, "unknown backbone 'vgg'; use resnet18"),
        ({"backbon": "resnet18"}, "unknown option 'backbon'; known: anchor_px"),
        ({"score": "0.5"}, "score '0.5' is not of type float"),
        ({"score": 1.5}, "score 1.5 must be 1 or less"),
        ({"anchor_px": [16, 32]}, "anchor_px has 2 entries; give 5"),
        ({"anchor_px": 16}, "anchor_px 16 is not a list"),
        ({"anchor_px": [16, 32, 0, 64, 128]}, "must be 1 or more"),
        ({"anchor_ratios": [0.0, 1.0]}, "must be above 0"),
        ({"fpn_width": 0}, "fpn_width 0 must be 1 or more"),
        ({"box_beta": -1.0}, "box_beta -1.0 must be 0 or more"),
        ({"crm": True, "drm": False}, "crm needs drm"),
        ({"mrp": True, "classes": 1}, "mrp needs a second class"),
        ({"dcn_stages": [2]}, "dcn_stages"),
        ({"dcn_stages": [3], "backbone": "res2net101"}, "res2net101 has none"),
        ({"stage_iou": [0.5, 0.6]}, "stage_box_weights"),
        ({"stage_iou": [], "stage_box_weights": [], "stage_weights": []}, "stage_iou is empty"),
        ({"roi_fraction": 1.5}, "roi_fraction 1.5 must be 1 or less"),
        ({"norm": "group", "trunk_width": 12}, "multiples of 8"),
        ({"trainable_layers": 6}, "must be 5"),
        ({"rpn_negative_iou": 0.8}, "rpn_negative_iou 0.8 is above"),
    ],
)
def test_options_of_an_instance_network_that_cannot_be(options, match):
    with pytest.raises(ValueError, match=match):
        donet(**options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"block": "resnet"}, "unknown block 'resnet'; use wneck, wdsr-b"),
        ({"width": 3}, "width 3 is below 4"),
        ({"depth": "ten"}, "depth 'ten' is not of type int"),
        ({"size": 3}, "unknown option 'size'; known: block"),
    ],
)
def test_options_of_dssnet_that_cannot_be(options, match):
    with pytest.raises(ValueError, match=match):
        registry.build("dssnet", **options)


@pytest.mark.parametrize(
    ("kind", "settings", "match"),
    [
        ("both", {"optimizer": "adam"}, "use adamw"),
        ("both", {"optimizer": "lion"}, "unknown optimizer 'lion'; use adamw, sgd"),
        ("both", {"crop_px": 100}, "crop_px 100 is not a multiple of (8|32)"),
        ("both", {"batch": 0}, "batch 0 must be 1 or more"),
        ("both", {"steps": -1}, "steps -1 must be 1 or more"),
        ("both", {"lr": float("nan")}, "lr nan must be 0 or more"),
        ("both", {"mpp": 0.0}, "mpp 0.0 is no pixel size"),
        ("both", {"ema": 1.0}, "ema 1.0"),
        ("both", {"split": "thirds"}, "unknown split 'thirds'"),
        ("both", {"data": ("a=0",)}, "'0' is no weight; write DIR=WEIGHT"),
        ("pixels", {"classes": ()}, "0 classes"),
        ("pixels", {"classes": ("a", "b")}, "classes a, b need their COCO categories"),
        ("pixels", {"categories": ("a", "b")}, "1 classes and 2 categories"),
        ("pixels", {"hard_weight": -1.0}, "hard_weight -1.0"),
        ("cells", {"schedule": "steps"}, "needs milestones"),
        ("cells", {"milestones": (3,)}, "milestones are for schedule 'steps'"),
        ("cells", {"momentum": 0.5}, "momentum is for optimizer 'sgd'"),
        ("cells", {"momentum": 1.0, "optimizer": "sgd"}, "must be within 0 and 1"),
        ("cells", {"scales": ()}, "scales"),
        ("cells", {"freeze": 6}, "freeze 6"),
        ("boxes", {"data": ()}, "nothing to train on; give --data"),
        ("boxes", {"partial_data": ("a",)}, "a set is given twice"),
        ("boxes", {"milestone_epochs": (3,), "schedule": "steps"}, "milestone_epochs need epochs"),
        ("boxes", {"milestone_epochs": (3,), "epochs": 4}, "milestones are for schedule 'steps'"),
        ("boxes", {"short_px": (8,)}, "must be 32 or more"),
        ("boxes", {"classes": ("a", "A")}, "classes a, A must differ"),
        ("cells", {"pretrained_as": "backbone"}, "pretrained_as needs pretrained"),
    ],
)
def test_settings_of_a_training_that_cannot_be(kind, settings, match, tmp_path):
    kinds = {
        "pixels": SemanticTrainConfig, "unet": UNetTrainConfig, "cells": InstanceTrainConfig,
        "boxes": DetectorTrainConfig,
    }  # fmt: skip
    for config in kinds.values() if kind == "both" else [kinds[kind]]:
        with pytest.raises(ValueError, match=match):
            config(**{"model": "dssnet", "data": ("a",), "out": tmp_path, **settings})


@pytest.mark.parametrize(
    ("part", "settings", "match"),
    [
        (Augmentation, {"scale": 0.9}, "zoom must be 1 or more"),
        (Augmentation, {"blur": 2}, "grey and blur within 0 and 1"),
        (Clusters, {"overlap": (0.6, 0.1)}, "no range"),
        (Clusters, {"alpha": (-1, 1)}, "no range above 0"),
        (Clusters, {"chance": 2}, "within 0 and 1"),
        (Clusters, {"scale": 0.5}, "must be 1 or more"),
        (Clusters, {"feather_px": -1}, "must be 0 or more"),
    ],
)
def test_parts_that_cannot_be(part, settings, match):
    with pytest.raises(ValueError, match=match):
        part(**settings)


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_setting_has_one_help_sentence_that_starts_with_a_verb(settings):
    verbs = {
        "Average", "Blur", "Build", "Choose", "Compute", "Draw", "Drop", "Enlarge", "Fade",
        "Hold", "Keep", "Learn", "Leave", "Lower", "Make", "Mix", "Multiply", "Name", "Normalise",
        "Paste", "Predict", "Raise", "Resize", "Save", "Set", "Show", "Start", "Stop", "Train",
        "Use", "Validate", "Weigh", "Write", "Zoom",
    }  # fmt: skip
    for field in dataclasses.fields(settings):
        if field.name in (
            "model",
            "options",
            "device",
            "augmentation",
            "clusters",
            "distillation",
            "tuned",
        ):
            continue
        text = field.metadata["help"]
        assert text.split()[0] in verbs, f"{field.name}: {text}"
        assert text.endswith("."), f"{field.name}: {text}"


def test_choices_are_what_the_networks_have():
    (block,) = (f for f in dataclasses.fields(DSSNetConfig) if f.name == "block")
    assert block.metadata["choices"] == tuple(BLOCKS)
    for name, entry in MODELS.items():
        kinds = {
            "dssnet": DSSNetConfig, "unet": UNetConfig, "wubineh": WubinehConfig,
            "faster_rcnn": FasterRCNNConfig, "retinanet": RetinaNetConfig,
        }  # fmt: skip
        other = InstanceConfig if entry.task == "cells" else BaselineConfig
        assert isinstance(entry.config, kinds.get(name, other))
    dataclasses.replace(MODELS["donet"].config, **LIGHT)
