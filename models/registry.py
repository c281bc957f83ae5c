"""Which networks there are: a literal table, and the way from a checkpoint to a network.

The instance models are imported when one is used: torchvision's detection parts take a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoint import Card, load_checkpoint, weights_path
from .predictions import Instances
from .semantic import dssnet as _dssnet
from .semantic.dssnet_fast import rewrite

__all__ = ["MODELS", "Entry", "build", "load", "weights_path"]


@dataclass(frozen=True)
class Entry:
    """One architecture.

    Attributes
    ----------
    builder
        options → network with fresh weights
    for_inference
        makes its weights ready, the same before saving and before loading
    decode
        what the network puts out → class probabilities per pixel, or `Instances` of each image
    task
        as in `Card`
    faster
        makes of a network ready for inference one that computes the same in less time
    bfloat16
        whether that precision changes nothing that counts (Dice of the masks at least 0.999)
    inference_options
        builder's keywords that leave out what only training needs and no checkpoint holds, or
        that suit a window of a slide better than an image of a training set
    tile_px
        default tile on a slide, if not the card's
    """

    builder: Callable[..., nn.Module]
    for_inference: Callable[[Any], nn.Module]
    decode: Callable[[Any], Any]
    summary: str
    task: str = "nuclei"
    faster: Callable[[Any], nn.Module] = lambda network: network
    bfloat16: bool = False
    inference_options: Mapping[str, Any] = field(default_factory=dict)
    tile_px: int | None = None


def _instance(name: str, summary: str) -> Entry:
    """An instance model; class 0 is the cell, 1 the nucleus."""

    def builder(**options: Any) -> nn.Module:
        network: nn.Module = getattr(_instance_models(), name)(**options)
        return network

    def for_inference(network: nn.Module) -> nn.Module:
        ready: nn.Module = _instance_models().for_inference(network)
        return ready

    def decode(output: list[dict[str, Tensor]]) -> list[Instances]:
        found: list[Instances] = _instance_models().instances(output)
        return found

    def faster(network: nn.Module) -> nn.Module:
        quick: nn.Module = import_module(".instance.fast", __package__).faster(network)
        return quick

    # More than any window holds: a limit that is reached drops cells.
    options = {"max_detections": 4000}
    return Entry(
        builder, for_inference, decode, summary, task="cells", faster=faster, bfloat16=True,
        inference_options=options, tile_px=960,
    )  # fmt: skip


def _instance_models() -> ModuleType:
    return import_module(".instance.network", __package__)


MODELS: Mapping[str, Entry] = MappingProxyType(
    {
        "dssnet": Entry(
            _dssnet.dssnet,
            _dssnet.for_inference,
            _dssnet.decode,
            "nuclei, real time (Luo et al. 2022)",
            faster=rewrite,
            bfloat16=True,
            inference_options={"sr_head": False, "edge_head": False},
        ),
        "donet": _instance("donet", "overlapping cells and nuclei (Jiang et al. 2023)"),
        "cascade": _instance("cascade", "overlapping cells and nuclei, cascade (IMBMDCR-Net)"),
        "maskrcnn": _instance("maskrcnn", "overlapping cells and nuclei (He et al. 2017)"),
    }
)


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


def load(path: Path, *, least_score: float = 0.0) -> tuple[nn.Module, Callable[[Any], Any], Card]:
    """Network ready for inference, its decoder and card, from a checkpoint.

    An instance model need not find what is below `least_score`.

    Raises
    ------
    FileNotFoundError, ValueError
        as `read_card`, or the weights do not fit the architecture that the card names
    """
    state, card = load_checkpoint(path)
    entry = _entry(card.name)
    options = {**card.options, **entry.inference_options}
    if "score" in options and least_score > options["score"]:
        options["score"] = math.nextafter(least_score, 0)  # the network's bound is exclusive
    network = entry.builder(**options)
    try:
        network = entry.for_inference(network)
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{path}: weights do not fit {card.name}: {reason}") from error
    if any(not torch.isfinite(v).all() for v in state.values()):
        raise ValueError(f"{path}: weights hold values that are not finite")
    return network, entry.decode, card
