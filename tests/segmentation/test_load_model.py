"""Laws of opening models: sizes that a model states really run; the process stays as it was."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from marked_models import marked_models
from wsiseg_models import precision
from wsiseg_models.checkpoint import (
    Card,
    load_checkpoint,
    read_card,
    save_checkpoint,
    weights_path,
)
from wsiseg_models.instance.config import LIGHT
from wsiseg_models.registry import MODELS

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import CheckpointError, DeviceError
from wsi_pipeline.segmentation import load_model
from wsi_pipeline.segmentation.boxes import BoxModel
from wsi_pipeline.segmentation.cells import InstanceModel
from wsi_pipeline.segmentation.kinds import KINDS_NAME, kinds_identity
from wsi_pipeline.segmentation.load_model import (
    device_named,
    model_for,
    model_from_module,
    open_model,
)
from wsi_pipeline.segmentation.model import shipped_cards
from wsi_pipeline.segmentation.nuclei import PixelModel

SIDES = {"dssnet": 8, "erfnet": 8, "unet": 16, "unetpp": 16, "pgunet": 16}
"""Multiple that the sides of each network's images need, where it is not 32."""
SMALL = {"unet": {"widths": (16, 8, 8)}, "dfanet": {}, "pspnet": {"encoder": "mobilenet"}}
TINY_INSTANCES = {**LIGHT, "trunk_width": 16, "fpn_width": 16, "box_width": 32}
TINY_DETECTOR = {
    "backbone": "resnet18", "trunk_width": 8, "norm": "group", "frozen": "none", "fpn_width": 32,
}  # fmt: skip


@pytest.fixture(scope="module", params=marked_models())
def model(request, tmp_path_factory):
    """Every registered model, with random weights where none ship."""
    name, path = request.param, None
    if name not in shipped_cards():
        torch.manual_seed(0)
        task, options, classes = "cells", TINY_INSTANCES, ("cell", "nucleus")
        if MODELS[name].task == "nuclei":
            task, options, classes = "nuclei", SMALL.get(name, {"width": 4}), ("nucleus",)
        if MODELS[name].task == "boxes":
            task, options, classes = "boxes", TINY_DETECTOR, ("nucleus",)
        network = MODELS[name].for_inference(MODELS[name].builder(**options))
        card = Card(
            name=name, task=task, classes=classes, mpp=0.5, halo_px=32, stride=SIDES.get(name, 32),
            options=options,
        )  # fmt: skip
        path = tmp_path_factory.mktemp("checkpoints") / f"{name}.safetensors"
        save_checkpoint(path, network.state_dict(), card)
    return open_model(name, checkpoint=path, device="cpu", precision="float32", least_score=0.9)


@pytest.mark.parametrize("tile_px", [64, 96, 160])
def test_every_size_that_the_stride_allows_runs(model, tile_px):
    assert model.stride == SIDES.get(model.name, 32) and model.halo_px % model.stride == 0
    height, width = tile_px, tile_px + model.stride
    image = np.random.default_rng(0).integers(0, 255, (1, height, width, 3)).astype(np.uint8)
    (answer,) = model.infer(image)
    if isinstance(model, InstanceModel | BoxModel):
        assert len(answer.masks) == len(answer.boxes) == len(answer)
        return
    assert answer.shape == (len(model.classes), height, width)
    around = np.pad(image, ((0, 0), *[(model.halo_px,) * 2] * 2, (0, 0)), mode="symmetric")
    (core,) = model.infer_core(around)
    assert core.shape == answer.shape


def test_other_sizes_are_refused_or_wrong(model):
    side = 64 + model.stride // 2
    with pytest.raises((ValueError, RuntimeError)):
        model.infer(np.zeros((1, side, side, 3), np.uint8))


def test_a_model_without_a_faster_core_cuts_the_halo():
    card = Card(name="grey", task="nuclei", classes=("nucleus",), mpp=0.5, halo_px=8)
    model = model_from_module(torch.nn.Conv2d(3, 2, 1), card, device="cpu")
    assert isinstance(model, PixelModel) and model.core_network is None
    image = np.random.default_rng(0).integers(0, 255, (2, 40, 48, 3)).astype(np.uint8)
    for whole, core in zip(model.infer(image), model.infer_core(image), strict=True):
        assert np.array_equal(core, whole[:, 8:-8, 8:-8])


def test_opening_a_model_leaves_the_process_as_it_was():
    torch.set_num_threads(1)
    model = open_model("dssnet", device="cpu")
    model.share()
    model.infer(np.zeros((1, 64, 64, 3), np.uint8))
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpu", "unknown device 'gpu'; use auto, cpu"),
        ("xpu", "'xpu' is not supported; use auto, cpu"),
        ("mps", "no Apple GPU that PyTorch can use; use --device cpu"),
        ("cuda:99", "usable GPUs; use --device cpu"),
        ("cuda:128", "usable GPUs; use --device cpu"),
        ("cuda:65536", "usable GPUs; use --device cpu"),
        ("cpu:-1", "unknown device"),
        ("", "unknown device"),
    ],
)
def test_a_device_that_is_not_there_is_refused_with_a_remedy(name, words):
    with pytest.raises(DeviceError, match=words):
        device_named(name)


@pytest.mark.parametrize("name", ["cpu", "cpu:0", "cpu:1", "cpu:99999"])
def test_a_cpu_has_one_name(name):
    assert device_named(name) == "cpu"


def test_an_apple_gpu_is_taken_when_named_and_not_otherwise(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_named("mps") == "mps" and device_named("auto") == "cpu"
    assert not precision.has_bfloat16("mps")
    with pytest.raises(DeviceError, match="no device 'mps:1'"):
        device_named("mps:1")


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_streams_and_pinned_memory_are_for_cuda_alone(device, monkeypatch):
    def refuse(*given):
        raise AssertionError("for CUDA only")

    monkeypatch.setattr(torch.cuda, "set_stream", refuse)
    monkeypatch.setattr(torch.Tensor, "pin_memory", refuse)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *given, **named: tensor)
    one = torch.ones(1, 1, 1)
    network = load_model._LoadedNetwork(
        torch.nn.Identity(), lambda x: x, one, one, 0, device, torch.float32
    )
    network.start_thread()
    assert network.probabilities(np.ones((1, 4, 4, 3), np.uint8)).shape == (1, 3, 4, 4)
    assert device == "cpu" or load_model._threads(device) == (1, None)


def test_a_device_without_bfloat16_is_refused(monkeypatch):
    def refuse(*given, **named):
        raise TypeError("BFloat16 is not supported on MPS")

    monkeypatch.setattr(torch, "ones", refuse)
    with pytest.raises(DeviceError, match=r"cannot compute bfloat16 .* use --precision float32"):
        load_model._check_bfloat16("mps")


def test_weights_that_sort_nuclei_may_be_others(tmp_path):
    """Those of a file are used, and are named in the plan; another network is refused."""
    path = tmp_path / "own.safetensors"
    state, card = load_checkpoint(weights_path(KINDS_NAME))
    save_checkpoint(path, state, replace(card, rule={"abnormal": 0.7}))
    config = RunConfig(model="unet", kinds_checkpoint=str(path), device="cpu")
    assert config.kinds
    assert model_for(config).sorter.limits == (0.5, 0.7, 0.5, 0.5)
    assert kinds_identity(path) == read_card(path).sha256 != kinds_identity()
    for wrong in (weights_path("dssnet"), tmp_path / "no.safetensors"):
        with pytest.raises(CheckpointError, match=r"not for kinds|no such checkpoint"):
            model_for(replace(config, kinds_checkpoint=wrong))
