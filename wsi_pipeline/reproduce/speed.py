"""Tiles per second of several networks, timed in turns in one process."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_pipeline.benchmark.machine import synchronise
from wsi_pipeline.benchmark.published import BATCH
from wsi_pipeline.segmentation.load_model import device_named, model_from_module, open_model
from wsi_pipeline.segmentation.model import Card, Model

__all__ = ["measure_speed"]

PLAIN_UNET = "plain_unet"
"""The U-Net of 31.03 million weights, which is no model of the registry."""


def measure_speed(
    networks: Mapping[str, Mapping[str, Any]],
    folder: Path,
    *,
    device: str,
    rounds: int,
    tile_px: int,
) -> dict[str, float]:
    """Return tiles per second of each network, and how often as fast the first is as each.

    Networks have random weights, which speed does not depend on, and compute as `wsiseg run` lets
    them, in float32. Each is timed once per round; the fastest round counts. Networks that this
    version does not have are left out.

    Parameters
    ----------
    networks
        name in the table → ``model`` and the ``options`` of its builder
    folder
        gets the networks for as long as this takes

    Returns
    -------
    dict
        ``NAME tiles/s`` and ``FIRST : NAME``
    """
    from wsiseg_models.registry import MODELS

    where = device_named(device)
    size = BATCH.get(where.partition(":")[0], 1)
    images = np.random.default_rng(0).integers(0, 255, (size, tile_px, tile_px, 3), np.uint8)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        models = {
            name: _open(one["model"], one.get("options", {}), Path(scratch) / str(k), where)
            for k, (name, one) in enumerate(networks.items())
            if one["model"] in (*MODELS, PLAIN_UNET)
        }
    best = dict.fromkeys(models, float("inf"))
    for number in range(rounds + 1):
        for name, model in models.items():
            seconds = _seconds(model, images)
            if number or not rounds:  # the first round warms up
                best[name] = min(best[name], seconds)
    first = next(iter(networks))
    rates = {name: size / seconds for name, seconds in best.items()}
    ratios = {f"{first} : {name}": rates[first] / rate for name, rate in rates.items()}
    return {f"{name} tiles/s": rate for name, rate in rates.items()} | ratios


def _seconds(model: Model, images: NDArray[np.uint8]) -> float:
    """Return how long a model takes for images."""
    synchronise(model.device)
    began = time.perf_counter()
    model.infer(images)
    synchronise(model.device)
    return time.perf_counter() - began


def _open(name: str, options: Mapping[str, Any], folder: Path, device: str) -> Model:
    """Open a network with random weights as a run opens it."""
    about: dict[str, Any] = {"task": "nuclei", "classes": ("nucleus",), "mpp": 0.5, "halo_px": 0}
    torch.manual_seed(0)
    if name == PLAIN_UNET:
        from wsiseg_models.semantic.plain_unet import unet

        network = unet().eval().requires_grad_(False)
        return model_from_module(network, Card(name=name, **about), device=device)
    from wsiseg_models.checkpoint import save_checkpoint
    from wsiseg_models.registry import MODELS

    entry = MODELS[name]
    ready = entry.for_inference(entry.builder(**options))
    folder.mkdir()
    path = folder / f"{name}.safetensors"
    save_checkpoint(path, ready.state_dict(), Card(name=name, options=options, **about))
    return open_model(name, checkpoint=path, device=device, precision="float32")
