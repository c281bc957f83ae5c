"""Models ready to run: the networks, opened here alone, and with them PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from wsiseg_models import registry as networks
from wsiseg_models.checkpoint import Card, read_card, weights_path
from wsiseg_models.semantic.dssnet_fast import FastDSSNet

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import CheckpointError, DeviceError, UnknownModelError
from wsi_pipeline.core.machine import usable_cores
from wsi_pipeline.segmentation.cells import InstanceModel
from wsi_pipeline.segmentation.model import Images, Instances, Model
from wsi_pipeline.segmentation.nuclei import PixelModel

__all__ = [
    "device_named",
    "has_bfloat16",
    "list_models",
    "model_for",
    "model_from_module",
    "open_model",
]


MOST_AT_ONCE = 4
"""Calls of the network that go on at a time on a CPU."""


def device_named(name: str) -> str:
    """``auto`` resolved, anything else checked.

    Raises
    ------
    DeviceError
        the device is not there, or its name means nothing
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:0") from None
    if device.type == "cuda":
        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= there:
            raise DeviceError(
                f"no device {name!r}: this machine has {there} usable GPUs; use --device cpu"
            )
    elif device.type != "cpu":
        raise DeviceError(f"device {name!r} is not supported; use auto, cpu, cuda or cuda:0")
    return name


def open_model(
    name: str,
    *,
    checkpoint: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    least_score: float = 0.0,
) -> Model:
    """The model of that name with the weights that ship, or the one in `checkpoint`.

    Parameters
    ----------
    precision
        ``float32``, ``bfloat16``, or ``auto``: the latter where the device has it in hardware and
        it is known to change nothing that counts for this architecture
    least_score
        below which nobody wants an instance, so that no mask is computed for it

    Raises
    ------
    UnknownModelError, CheckpointError, DeviceError
        with the known names, what is wrong with the file, or the devices there are
    """
    if checkpoint is None and name not in networks.MODELS:
        known = ", ".join(sorted(networks.MODELS))
        raise UnknownModelError(f"unknown model {name!r}; known: {known}, or give --checkpoint")
    where = device_named(device)
    path = checkpoint or weights_path(name)
    try:
        network, decode, card = networks.load(path, least_score=least_score)
    except (FileNotFoundError, ValueError) as error:
        raise CheckpointError(str(error)) from error
    entry = networks.MODELS[card.name]
    if precision == "auto":
        precision = "bfloat16" if entry.bfloat16 and has_bfloat16(where) else "float32"
    return _model(entry.faster(network), decode, card, where, precision, entry.tile_px)


def has_bfloat16(device: str) -> bool:
    """Whether a device computes bfloat16 in hardware, not by emulation."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # Not in every PyTorch from 2.11 on; without it float32 is safe.
    abilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16"))


def model_from_module(
    module: torch.nn.Module,
    card: Card,
    *,
    decode: Callable[[torch.Tensor], torch.Tensor] | None = None,
    device: str = "auto",
) -> Model:
    """A model from any torch module: normalised images (n, 3, h, w) → logits (n, 1 + k, h, w).

    Parameters
    ----------
    card
        classes, mpp, halo and normalisation; its `name` appears in results
    decode
        output → uint8 (n, k, h, w), by default softmax without the background
    """
    default = networks.MODELS["dssnet"].decode
    return _model(module.eval(), decode or default, card, device_named(device))


def list_models() -> list[dict[str, Any]]:
    """One row per registered model, with the card of its checkpoint where one ships."""
    rows = []
    for name, entry in networks.MODELS.items():
        path = weights_path(name)
        card = read_card(path) if path.is_file() else None
        rows.append({"name": name, "summary": entry.summary, "card": card, "path": path})
    return rows


def _model(
    network: torch.nn.Module,
    decode: Callable[[Any], Any],
    card: Card,
    device: str,
    precision: str = "float32",
    tile_px: int | None = None,
) -> Model:
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    network = network.to(device, dtype).to(memory_format=torch.channels_last)
    torch_threads = None
    if device == "cpu":
        # Threads of one call wait for the slowest of them after each layer, and so for whatever
        # else runs beside it; two calls do not wait for each other. Each takes half a gigabyte.
        cores = usable_cores()
        at_once = min(cores, MOST_AT_ONCE)
        torch_threads = cores // at_once
    else:
        at_once = 2  # one computes while the other's tiles come and its answers go
    mean, std = (
        torch.tensor(value, dtype=torch.float32, device=device).view(-1, 1, 1)
        for value in (card.mean, card.std)
    )

    def share() -> None:
        if device != "cpu":
            torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]

    def run(images: Images, *more: int) -> Any:
        x = torch.from_numpy(images)
        if device != "cpu":
            x = x.pin_memory()  # else the copy would hold up this thread, and all streams
        x = x.to(device, non_blocking=True).permute(0, 3, 1, 2).float()
        x = ((x - mean) / std).to(dtype, memory_format=torch.channels_last)
        return decode(network(x, *more))

    @torch.inference_mode()
    def probabilities(images: Images) -> NDArray[np.uint8]:
        scores: NDArray[np.uint8] = run(images).cpu().numpy()
        return scores

    @torch.inference_mode()
    def core_probabilities(images: Images) -> NDArray[np.uint8]:
        scores: NDArray[np.uint8] = run(images, card.halo_px).cpu().numpy()
        return scores

    @torch.inference_mode()
    def instances(images: Images) -> list[Instances]:
        found: list[Instances] = run(images)
        return found

    about: dict[str, Any] = {
        "name": card.name,
        "classes": card.classes,
        "mpp": card.mpp,
        "halo_px": card.halo_px,
        "stride": card.stride,
        "tile_px": tile_px or card.tile_px,
        "identity": card.sha256 or card.name,
        "device": device,
        "precision": precision,
        "at_once": at_once,
        "share": share,
        "torch_threads": torch_threads,
        "card": {k: getattr(card, k) for k in ("task", "licence", "data", "parameters", "sha256")},
    }
    if card.task == "cells":
        return InstanceModel(network=instances, **about)
    core = core_probabilities if isinstance(network, FastDSSNet) else None
    return PixelModel(network=probabilities, core_network=core, **about)


def model_for(config: RunConfig) -> Model:
    """The model that a run with these settings uses; errors as `open_model`."""
    return open_model(
        config.model,
        checkpoint=config.checkpoint,
        device=config.device,
        precision=config.precision,
        least_score=min(config.min_score, config.min_small_score),
    )
