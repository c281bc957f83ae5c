"""Steps of the trainings of networks with a trunk and a pyramid: instances and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..precision import autocast
from .config import RegionTrainConfig
from .normalise import Normal
from .optimizers import cosine, milestones, warm_up
from .weighted_sets import HasImage

__all__ = ["learning_rate", "spread", "statistics", "train_step"]

IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Mean and deviation of ImageNet's images, 0 … 255, as torchvision's weights expect them."""

Sample = TypeVar("Sample")


def learning_rate(config: RegionTrainConfig, step: int) -> float:
    """Return the learning rate of a step: a rise in a line, then as `config.schedule` has it."""
    if config.schedule == "cosine":
        share = cosine(step, config.steps)
    else:
        share = milestones(step, config.milestones)
    return config.lr * warm_up(step, config.warmup_steps, config.warmup_factor) * share


def statistics(
    config: RegionTrainConfig, samples: Sequence[HasImage]
) -> tuple[float | tuple[float, ...], float | tuple[float, ...]]:
    """Return mean and deviation: fixed ones, ImageNet's, or those of all training pixels."""
    if config.normalise == "fixed":
        return 128.0, 128.0
    if config.normalise == "imagenet":
        return IMAGENET
    count = sum(s.image[..., 0].size for s in samples)
    mean = sum(s.image.sum((0, 1), dtype=np.float64) for s in samples) / count
    square = sum(((s.image - mean) ** 2).sum((0, 1)) for s in samples) / count
    std = np.maximum(np.sqrt(square), 1)
    return tuple(np.round(mean, 3).tolist()), tuple(np.round(std, 3).tolist())


def train_step(
    config: RegionTrainConfig,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    normal: Normal,
    step: int,
    batch: tuple[Tensor, list[dict[str, Tensor]]],
) -> dict[str, Tensor]:
    """Make one step of the optimizer; return the loss terms."""
    # Regions to train on are drawn at random. The step seeds them, so that a resumed run draws
    # the same ones; `seeded` restores the state of the random numbers at the end.
    torch.manual_seed(config.seed * 1_000_003 + step)
    images, targets = batch
    targets = [{k: v.to(config.device, non_blocking=True) for k, v in t.items()} for t in targets]
    network.train()
    with autocast(config.device, config.amp):
        terms = network(normal(images), targets)
    total = torch.stack([v.float() for v in terms.values()]).sum()
    if not torch.isfinite(total):
        raise ValueError(f"the loss became {float(total)} at step {step}; lower --lr")
    optimizer.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    if config.clip:
        nn.utils.clip_grad_norm_(network.parameters(), config.clip)
    optimizer.step()
    return {k: v.detach() for k, v in terms.items()}


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Pick at most `count` samples, evenly spread."""
    count = min(count, len(samples))
    return [samples[i * len(samples) // count] for i in range(count)]
