"""Train the head of a finished KindNet further on a few labelled nuclei: seconds.

The encoder stays as it is. Against forgetting, the loss keeps the probabilities of replayed nuclei
and holds the weights near those of the start. A label whose probability is high enough adds no
loss, so that forty labels of one kind do not change the probabilities of all others.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..training.loop import seeded
from .network import KindNet

__all__ = ["Examples", "tune_head"]

PER_STEP, REPLAYED_PER_STEP = 64, 256
"""Labelled and replayed nuclei of a step."""
REPLAY_SHARE = 0.5
"""Share of the loss that replayed nuclei have; where there are any."""
TRUE_SHARE = 0.2
"""Of that, the share of their true kinds; the rest is for the answers of the start."""
PULL = 0.5
"""Loss per squared distance of the weights from those of the start."""
ENOUGH = 0.7
"""Probability at which a label is learned."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Features of nuclei with labels.

    Attributes
    ----------
    features
        float32 (views, n, features), see `embed`
    allowed
        bool (n, kinds), the kinds that the label of each leaves open
    weight
        float32 (n,), how much each counts
    """

    features: NDArray[np.float32]
    allowed: NDArray[np.bool_]
    weight: NDArray[np.float32]

    @classmethod
    def joined(cls, parts: Sequence[Examples]) -> Examples:
        """Return all nuclei of several, which have equally many views."""
        return cls(
            np.concatenate([one.features for one in parts], 1),
            np.concatenate([one.allowed for one in parts]),
            np.concatenate([one.weight for one in parts]),
        )

    def chances(self, prior: Sequence[float]) -> NDArray[np.float64]:
        """Return how often each is drawn (n,): its kinds as often as in `prior`."""
        group = self.allowed @ (1 << np.arange(self.allowed.shape[1]))
        total = np.bincount(group, self.weight)
        chance = self.weight * (self.allowed @ np.asarray(prior)) / total[group]
        return np.asarray(chance / chance.sum())


def tune_head(
    network: KindNet,
    labelled: Examples,
    replayed: Examples | None,
    *,
    prior: Sequence[float],
    steps: int = 200,
    rate: float = 1e-3,
    seed: int = 0,
) -> list[float]:
    """Train the head of a network further, in place, and return the loss of each step.

    Afterwards the network is ready for inference, and its probabilities are still those of a world
    in which the kinds are as common as in `prior`.

    Parameters
    ----------
    network
        its encoder made the features
    labelled, replayed
        nuclei to learn, and nuclei on which the answers should stay
    prior
        how common each kind is
    steps, rate, seed
        number of steps, largest learning rate, seed of all random numbers
    """
    rng = np.random.default_rng(seed)
    start = copy.deepcopy(network.head).eval()
    own = replayed if replayed is not None and len(replayed.weight) else None
    chances = [None if one is None else one.chances(prior) for one in (labelled, own)]
    losses = []
    with seeded(seed, "cpu"):
        optimizer = torch.optim.Adam(network.head.parameters(), lr=rate)
        network.train()
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            x, allowed = _draw(network, labelled, chances[0], PER_STEP, rng)
            loss = _label_loss(network.head(x), allowed, ENOUGH)
            if own is not None:
                kept = _replay_loss(
                    network.head, start, *_draw(network, own, chances[1], REPLAYED_PER_STEP, rng)
                )
                loss = (1 - REPLAY_SHARE) * loss + REPLAY_SHARE * kept
            loss = loss + PULL * _distance(network.head, start)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
    network.eval()
    return losses


def _draw(
    network: KindNet, one: Examples, chances: NDArray[np.float64] | None, count: int,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Draw nuclei: what the head gets of each, float32 (n, features), and the allowed kinds."""
    rows = rng.choice(len(one.weight), count, p=chances)
    views = rng.integers(len(one.features), size=count)
    x = torch.from_numpy(one.features[views, rows])
    return (x - network.shift) * network.scale, torch.from_numpy(one.allowed[rows])


def _label_loss(logits: Tensor, allowed: Tensor, enough: float = 1.0) -> Tensor:
    """Return the mean of -log of the probability of the allowed kinds ÷ `enough`, 0 at least."""
    inside = logits.masked_fill(~allowed, -torch.inf).logsumexp(1)
    return (logits.logsumexp(1) - inside + math.log(enough)).clamp(min=0).mean()


def _replay_loss(head: nn.Module, start: nn.Module, x: Tensor, allowed: Tensor) -> Tensor:
    """Return how far the answers are from those of the start, and a little from the truth."""
    with torch.no_grad():
        before = start(x).softmax(1)
    logits = head(x)
    kept = F.kl_div(logits.log_softmax(1), before, reduction="batchmean")
    return (1 - TRUE_SHARE) * kept + TRUE_SHARE * _label_loss(logits, allowed)


def _distance(head: nn.Module, start: nn.Module) -> Tensor:
    """Return the squared distance of the weights from those of the start."""
    pairs = zip(head.parameters(), start.parameters(), strict=True)
    return torch.stack([(now - first.detach()).square().sum() for now, first in pairs]).sum()
