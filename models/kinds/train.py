"""Train a KindNet on crops of several sets; minutes on one core."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..checkpoint import Card
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
    parts
        int64 (n,), finer classes: one with a quarter of the crops is drawn half as often. None:
        all crops of a kind are drawn equally often
    """

    crops: NDArray[np.uint8]
    kinds: NDArray[np.int64]
    zoom: tuple[float, float] = (0.87, 1.15)
    parts: NDArray[np.int64] | None = None

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> KindSet:
        """Return the crops at `index`."""
        parts = None if self.parts is None else self.parts[index]
        return KindSet(self.crops[index], self.kinds[index], self.zoom, parts)

    def odds(self) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Return the crops of each kind, positions, and how often each of them is drawn."""
        out = []
        for kind in np.unique(self.kinds):
            own = np.flatnonzero(self.kinds == kind)
            parts = own * 0 if self.parts is None else self.parts[own]
            odds = np.bincount(parts)[parts] ** -0.5
            out.append((own, odds / odds.sum()))
        return out


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
    ema: float = 0.99,
    seed: int = 0,
    seen: Callable[[int, Mapping[str, Tensor]], None] | None = None,
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
    steps, batch, rate, ema, seed
        number of steps, crops in each, largest learning rate, share of the running mean that each
        step keeps, seed of all random numbers
    seen
        is called after every step with the number of steps done and the mean
    """
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.02)
    mean = Ema(network, ema)
    odds = [data.odds() for data, _ in sets]
    network.train()
    with seeded(seed, "cpu"):
        for step in range(steps):
            warm = min(1.0, (step + 1) / 40)
            for group in optimizer.param_groups:
                group["lr"] = rate * warm * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
            crops, kinds = _batch(sets, odds, batch, rng)
            loss = F.cross_entropy(network(network_input(crops, card)), kinds, label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            mean.update(network, step)
            if seen is not None:
                seen(step + 1, mean.state)
    trained = copy.deepcopy(network)
    trained.load_state_dict(mean.state)
    return trained.eval()


def _batch(
    sets: Sequence[tuple[KindSet, float]],
    odds: Sequence[Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]]],
    batch: int,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Draw a batch: crops uint8 (n, CROP_PX, CROP_PX, 4) and kinds int64 (n,)."""
    total = sum(share for _, share in sets)
    crops, kinds = [], []
    for (data, share), by_kind in zip(sets, odds, strict=True):
        for _ in range(round(batch * share / total)):
            own, chance = by_kind[int(rng.integers(len(by_kind)))]
            i = int(rng.choice(own, p=chance))
            crops.append(_changed(data.crops[i], data.zoom, rng))
            kinds.append(int(data.kinds[i]))
    return torch.from_numpy(np.stack(crops)), torch.tensor(kinds)


_CROSS = np.ones((3, 3), np.uint8)
_DENSITY = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)
"""Optical density of each grey value, natural logarithm (Beer–Lambert)."""
_NOISE = np.random.default_rng(0).standard_normal(1 << 17, np.float32)


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
    return np.dstack([_coloured(image.astype(np.uint8), rng), _redrawn(mask, rng)])


def _redrawn(mask: NDArray[Any], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a mask 0 or 255 that is larger, smaller or smoother by chance; never empty."""
    change = rng.random()
    if change < 0.5:
        mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.8, 2.0))
    limit = 127 if change > 0.25 else min(127 + rng.uniform(-80, 80), float(mask.max()) - 1)
    out = np.where(mask > limit, 255, 0).astype(np.uint8)
    if 0.5 <= change < 0.65:
        out = np.asarray(cv2.dilate(out, _CROSS), np.uint8)
    elif 0.65 <= change < 0.8 and (smaller := cv2.erode(out, _CROSS)).any():
        out = np.asarray(smaller, np.uint8)
    return out


def _coloured(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Imitate another stain and camera, as `Augmentation.colour` does, in a fifth of its time."""
    if rng.random() < 0.15:
        mix = np.tile(rng.dirichlet(np.ones(3)), (3, 1))
    else:
        mix = np.eye(3) + rng.normal(0, 0.12, (3, 3))
        if rng.random() < 0.15:  # another dye altogether
            mix = mix[:, rng.permutation(3)]
    mix *= math.exp(rng.normal(0, 0.25))
    light = rng.uniform(-0.05, 0.25, 3) * (rng.random() < 0.5)
    gamma = math.exp(rng.normal(0, 0.15))
    density = cv2.transform(_DENSITY[image], np.hstack([mix, light[:, None]]) * -gamma)
    out = cv2.exp(np.minimum(density, 0)) * 255
    if rng.random() < 0.4:
        out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.4, 1.3))
    start = int(rng.integers(_NOISE.size - out.size))
    out += np.float32(rng.uniform(0, 6)) * _NOISE[start : start + out.size].reshape(out.shape)
    out8 = np.clip(out, 0, 255).astype(np.uint8)
    if rng.random() < 0.15:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 95))]
        out8 = np.asarray(cv2.imdecode(cv2.imencode(".jpg", out8, quality)[1], 1), np.uint8)
    return out8


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
