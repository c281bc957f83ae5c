"""Optimizers, and how the learning rate rises and falls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .config import TrainConfig

__all__ = ["build_optimizer", "cosine", "milestones", "warm_up"]


def build_optimizer(
    config: TrainConfig, network: nn.Module, *, momentum: float = 0.9
) -> torch.optim.Optimizer:
    """Build the optimizer that `config` names, over the weights that are not frozen.

    Its groups of weights state the ``share`` of the learning rate that they get: 1, or
    `config.encoder_rate` for the encoder of `unet` and the trunk of an instance network.

    Parameters
    ----------
    momentum
        momentum of SGD
    """
    learning = _groups(network, getattr(config, "encoder_rate", 1.0))
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            learning, config.lr, momentum=momentum, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(learning, config.lr, weight_decay=config.weight_decay)


def _groups(network: Any, encoder_rate: float) -> list[dict[str, Any]]:
    """Return the weights that are not frozen, those of a pretrained encoder apart.

    Those of a network that grows are in one group for each of its parts, with their number.
    """
    if hasattr(network, "parts"):
        return [{"params": p, "share": 1.0, "part": k} for k, p in enumerate(network.parts())]
    trunk = getattr(getattr(network, "backbone", None), "body", None)
    encoder = getattr(network, "encoder", trunk)
    slow = {id(p) for p in encoder.parameters()} if encoder is not None else set()
    learning = [p for p in network.parameters() if p.requires_grad]
    parts = (([p for p in learning if id(p) in slow], encoder_rate),
             ([p for p in learning if id(p) not in slow], 1.0))  # fmt: skip
    return [{"params": params, "share": share} for params, share in parts if params]


def cosine(step: int, steps: int) -> float:
    """Return the share of the highest learning rate: half a cosine from 1 to 0.

    Examples
    --------
    >>> [round(cosine(step, 4), 2) for step in range(5)]
    [1.0, 0.85, 0.5, 0.15, 0.0]
    """
    return 0.5 * (1 + math.cos(math.pi * min(1, step / steps)))


def milestones(step: int, at: Sequence[int], gamma: float = 0.1) -> float:
    """Return the share of the highest learning rate: lowered by `gamma` at each step of `at`."""
    return gamma ** sum(step >= m for m in at)


def warm_up(step: int, steps: int, factor: float) -> float:
    """Return the share of the learning rate, which rises in a line from `factor` over `steps`."""
    return min(1.0, factor + (1 - factor) * step / max(steps, 1))
