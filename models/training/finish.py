"""The end of a training: averaged weights, checkpoint and card."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from .. import registry
from ..checkpoint import Card, save_checkpoint
from .config import TrainConfig
from .loop import Ema, Run

__all__ = ["averaged_network", "learned_from", "training_record", "write_checkpoint"]


def averaged_network(model: str, options: Mapping[str, Any], ema: Ema, device: str) -> nn.Module:
    """Build the network with the running mean of the weights, ready for inference."""
    entry = registry.MODELS[model]
    network = entry.builder(**options)
    network.load_state_dict(ema.weights())
    network = entry.for_inference(network)
    network = network.to(device).to(memory_format=torch.channels_last)
    return network


class _HasOrigin(Protocol):
    @property
    def origin(self) -> str: ...


def learned_from(samples: Iterable[_HasOrigin], started_from: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what the card states as data: the sets, and pretrained weights that it started from.

    Parameters
    ----------
    started_from
        as `take_weights` returns it
    """
    sets = sorted({sample.origin for sample in samples})
    if "pretrained" not in started_from:
        return tuple(sets)
    return (
        f"through the weights that it started from: {started_from['pretrained']['file']}",
        *sets,
    )


def training_record(
    config: TrainConfig, run: Run, started_from: Mapping[str, Any], **more: Any
) -> dict[str, Any]:
    """Return what the card states about the training; the network's options have their own entry.

    Parameters
    ----------
    started_from
        as `take_weights` returns it
    more
        further entries
    """
    settings = {k: v for k, v in config.fingerprint().items() if k != "options"}
    return {
        **settings,
        "data": [Path(d).name for d in config.data],
        "started from": dict(started_from) or "nothing",
        "device": config.device,
        **more,
        "steps done": run.step,
        "minutes": round(run.minutes, 1),
    }


def write_checkpoint(folder: Path, network: nn.Module, card: Card, *, half: bool = False) -> Path:
    """Write ``<model>.safetensors`` and card.json.

    Parameters
    ----------
    half
        as in `save_checkpoint`
    """
    card = dataclasses.replace(card, parameters=sum(p.numel() for p in network.parameters()))
    path = folder / f"{card.name}.safetensors"
    save_checkpoint(path, network.state_dict(), card, half=half)
    text = json.dumps(dataclasses.asdict(card), indent=1)
    (folder / "card.json").write_text(text, encoding="utf-8")
    return path
