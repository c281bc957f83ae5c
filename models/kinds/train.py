"""Train a KindNet on crops of several sets; minutes on one core."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..checkpoint import Card
from ..training.augment import Augmentation
from ..training.loop import Ema, seeded
from .crops import CROP_PX
from .network import KindNet, network_input

__all__ = ["SOURCE_PX", "KindSet", "fit_kinds", "kind_probabilities", "middle"]

SOURCE_PX = 96
"""Side of the crops that training turns and shifts: a turned crop of 64 px needs 91."""


@dataclass(frozen=True, eq=False)
class KindSet:
    """Crops of one set of data with their kinds.

    Attributes
    ----------
    crops
        uint8 (n, SOURCE_PX, SOURCE_PX, 4), see `nucleus_crops`
    kinds
        int64 (n,), indices of `KINDS`
    zoom
        range of the random zoom; wide where the pixel size is not known
    """

    crops: NDArray[np.uint8]
    kinds: NDArray[np.int64]
    zoom: tuple[float, float] = (0.87, 1.15)

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> KindSet:
        """Return the crops at `index`."""
        return KindSet(self.crops[index], self.kinds[index], self.zoom)


def middle(crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the middle (n, CROP_PX, CROP_PX, 4) of larger crops."""
    inset = (crops.shape[1] - CROP_PX) // 2
    return crops[:, inset : inset + CROP_PX, inset : inset + CROP_PX]


def fit_kinds(
    network: KindNet,
    card: Card,
    sets: Sequence[tuple[KindSet, float]],
    *,
    steps: int,
    batch: int = 64,
    rate: float = 2e-3,
    seed: int = 0,
) -> KindNet:
    """Train a network and return the running mean of its weights, ready for inference.

    Each set gives its share of every batch, and each of its kinds is drawn equally often: the
    probabilities are those of a world in which all kinds are equally common.

    Parameters
    ----------
    network
        changed in place
    card
        how crops are normalised
    sets
        crops and share of each set
    steps, batch, rate, seed
        number of steps, crops in each, largest learning rate, seed of all random numbers
    """
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.02)
    mean = Ema(network, 0.99)
    network.train()
    with seeded(seed, "cpu"):
        for step in range(steps):
            warm = min(1.0, (step + 1) / 40)
            for group in optimizer.param_groups:
                group["lr"] = rate * warm * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
            crops, kinds = _batch(sets, batch, rng)
            loss = F.cross_entropy(network(network_input(crops, card)), kinds, label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            mean.update(network, step)
    trained = copy.deepcopy(network)
    trained.load_state_dict(mean.state)
    return trained.eval()


def _batch(
    sets: Sequence[tuple[KindSet, float]], batch: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Draw a batch: crops uint8 (n, CROP_PX, CROP_PX, 4) and kinds int64 (n,)."""
    total = sum(share for _, share in sets)
    crops, kinds = [], []
    for data, share in sets:
        by_kind = [np.flatnonzero(data.kinds == k) for k in np.unique(data.kinds)]
        for _ in range(round(batch * share / total)):
            own = by_kind[rng.integers(len(by_kind))]
            i = int(rng.choice(own))
            crops.append(_changed(data.crops[i], data.zoom, rng))
            kinds.append(int(data.kinds[i]))
    return torch.from_numpy(np.stack(crops)), torch.tensor(kinds)


_LOOK = Augmentation(blur=0.4)
_CROSS = np.ones((3, 3), np.uint8)


def _changed(
    crop: NDArray[np.uint8], zoom: tuple[float, float], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Turn, mirror, zoom and shift a crop, change its stain, and draw its mask less exactly."""
    angle = rng.uniform(0, 2 * np.pi)
    factor = math.exp(rng.uniform(math.log(zoom[0]), math.log(zoom[1])))
    c, s = np.cos(angle) / factor, np.sin(angle) / factor
    turn = np.array([[c, -s], [s, c]]) * [1 if rng.random() < 0.5 else -1, 1]
    half = (CROP_PX - 1) / 2
    shift = (len(crop) - 1) / 2 + rng.normal(0, 1.5, 2) - turn @ [half, half]
    matrix = np.hstack([turn, shift[:, None]])
    size, way = (CROP_PX, CROP_PX), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    image = cv2.warpAffine(
        crop[..., :3], matrix, size, flags=way, borderMode=cv2.BORDER_REFLECT_101
    )
    mask = cv2.warpAffine(crop[..., 3], matrix, size, flags=way)
    mask = np.where(mask > 127, 255, 0).astype(np.uint8)
    change = rng.random()
    if change < 0.25:
        mask = cv2.dilate(mask, _CROSS)
    elif change < 0.5 and (smaller := cv2.erode(mask, _CROSS)).any():
        mask = smaller
    return np.dstack([_LOOK.colour(image.astype(np.uint8), rng), mask]).astype(np.uint8)


@torch.no_grad()
def kind_probabilities(
    network: KindNet, card: Card, crops: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Return the probability of each kind, float32 (n, kinds), of crops (n, s, s, 4)."""
    parts = [
        network(network_input(torch.from_numpy(crops[k : k + 128]), card)).softmax(1)
        for k in range(0, len(crops), 128)
    ]
    return torch.cat(parts).numpy()
