"""Which networks there are: a literal table, and the way from a checkpoint to a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from . import dssnet as _dssnet
from .checkpoint import Card, load_checkpoint

__all__ = ["MODELS", "Entry", "build", "load", "weights_path"]


@dataclass(frozen=True)
class Entry:
    """One architecture: its builder, how its weights are made ready, how its output is read."""

    builder: Callable[..., nn.Module]
    for_inference: Callable[[Any], nn.Module]
    decode: Callable[[Tensor], Tensor]
    summary: str


MODELS: Mapping[str, Entry] = MappingProxyType(
    {
        "dssnet": Entry(
            _dssnet.dssnet,
            _dssnet.for_inference,
            _dssnet.decode,
            "nuclei, real time (Luo et al. 2022)",
        ),
    }
)


def weights_path(name: str) -> Path:
    """Where the checkpoint that ships for `name` lies."""
    return Path(__file__).parent / "weights" / f"{name}.safetensors"


def _entry(name: str) -> Entry:
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(sorted(MODELS))}")
    return MODELS[name]


def build(name: str, **options: Any) -> nn.Module:
    """A network with fresh weights.

    Raises
    ------
    ValueError
        no such model; the message names those there are
    """
    return _entry(name).builder(**options)


def load(path: Path) -> tuple[nn.Module, Callable[[Tensor], Tensor], Card]:
    """Network ready for inference, its decoder and card, from a checkpoint.

    Raises
    ------
    FileNotFoundError, ValueError
        as `read_card`, or the weights do not fit the architecture that the card names
    """
    state, card = load_checkpoint(path)
    entry = _entry(card.name)
    # Training heads are not in checkpoints.
    network = entry.builder(**{**card.options, "sr_head": False, "edge_head": False})
    try:
        network = entry.for_inference(network)
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{path}: weights do not fit {card.name}: {reason}") from error
    if any(not torch.isfinite(v).all() for v in state.values()):
        raise ValueError(f"{path}: weights hold values that are not finite")
    return network, entry.decode, card
