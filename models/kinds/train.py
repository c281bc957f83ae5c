"""Train a KindNet on crops of several sets: minutes for the features, seconds for the head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..checkpoint import Card
from ..training.loop import seeded
from .crops import CROP_PX
from .network import SIZES, KindNet, network_input

__all__ = [
    "SOURCE_PX",
    "Embedded",
    "KindSet",
    "embed",
    "fit_head",
    "kind_probabilities",
    "middle",
]

SOURCE_PX = 96
"""Side of the crops that training turns, zooms and shifts: a turned crop of 48 px needs 68."""


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
    sized
        whether the pixel size is known, so that the nucleus's size may count
    """

    crops: NDArray[np.uint8]
    kinds: NDArray[np.int64]
    zoom: tuple[float, float] = (0.87, 1.15)
    parts: NDArray[np.int64] | None = None
    sized: bool = True

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> KindSet:
        """Return the crops at `index`."""
        parts = None if self.parts is None else self.parts[index]
        return KindSet(self.crops[index], self.kinds[index], self.zoom, parts, self.sized)

    def odds(self) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Return the crops of each kind, positions, and how often each of them is drawn."""
        out = []
        for kind in np.unique(self.kinds):
            own = np.flatnonzero(self.kinds == kind)
            parts = own * 0 if self.parts is None else self.parts[own]
            odds = np.bincount(parts)[parts] ** -0.5
            out.append((own, odds / odds.sum()))
        return out


@dataclass(frozen=True, eq=False)
class Embedded:
    """Crops and their features, float32 (views, n, features); the first view is unchanged."""

    features: NDArray[np.float32]
    data: KindSet

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> Embedded:
        """Return the crops at `index`."""
        return Embedded(self.features[:, index], self.data.take(index))


def middle(crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the middle (n, CROP_PX, CROP_PX, 4) of larger crops."""
    inset = (crops.shape[1] - CROP_PX) // 2
    return crops[:, inset : inset + CROP_PX, inset : inset + CROP_PX]


def embed(
    network: KindNet, card: Card, data: KindSet, *, views: int = 4, seed: int = 0
) -> Embedded:
    """Compute the features of all crops, as they are and as `views` changed copies of each.

    A changed copy is turned, mirrored, zoomed and shifted, has another stain, and its mask is drawn
    less exactly. Takes some 5 ms per crop on one core.
    """
    rng = np.random.default_rng(seed)
    shown = [middle(data.crops)]
    for _ in range(views):
        shown.append(np.stack([_changed(crop, data.zoom, rng) for crop in data.crops]))
    features = np.stack([_features(network, card, crops) for crops in shown])
    return Embedded(features, data)


def fit_head(
    network: KindNet,
    sets: Sequence[tuple[Embedded, float]],
    *,
    steps: int = 800,
    batch: int = 256,
    rate: float = 2e-3,
    seed: int = 0,
) -> KindNet:
    """Train the head of a network anew, in place; seconds. Returns it, ready for inference.

    Each set gives its share of every batch, and each of its kinds is drawn equally often: the
    probabilities are those of a world in which all kinds are equally common.

    Parameters
    ----------
    network
        its encoder made the features
    sets
        features and share of each set
    steps, batch, rate, seed
        number of steps, crops in each, largest learning rate, seed of all random numbers
    """
    rng = np.random.default_rng(seed)
    sets = _sized(sets)
    every = np.concatenate([one.features[0] for one, _ in sets])
    network.shift.copy_(torch.from_numpy(every.mean(0)))
    network.scale.copy_(torch.from_numpy(1 / (every.std(0) + 1e-3)))
    odds = [one.data.odds() for one, _ in sets]
    with seeded(seed, "cpu"):
        for layer in network.head:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        optimizer = torch.optim.AdamW(network.head.parameters(), lr=rate, weight_decay=0.05)
        network.train()
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            features, kinds = _batch(sets, odds, batch, rng)
            logits = network.head((features - network.shift) * network.scale)
            loss = F.cross_entropy(logits, kinds, label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return network.eval()


def _sized(sets: Sequence[tuple[Embedded, float]]) -> list[tuple[Embedded, float]]:
    """Give nuclei of unknown size the mean size of the others, so that nothing is learned of it."""
    known = [one.features[0, :, -SIZES:] for one, _ in sets if one.data.sized]
    if not known:
        return list(sets)
    mean = np.concatenate(known).mean(0)
    out = []
    for one, share in sets:
        if not one.data.sized:
            features = one.features.copy()
            features[..., -SIZES:] = mean
            one = replace(one, features=features)
        out.append((one, share))
    return out


def _batch(
    sets: Sequence[tuple[Embedded, float]],
    odds: Sequence[Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]]],
    batch: int,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Draw a batch: features float32 (n, features) and kinds int64 (n,)."""
    total = sum(share for _, share in sets)
    features, kinds = [], []
    for (one, share), by_kind in zip(sets, odds, strict=True):
        count = max(1, round(batch * share / total))
        for which, times in enumerate(np.bincount(rng.integers(len(by_kind), size=count))):
            own, chance = by_kind[which]
            drawn = rng.choice(own, size=times, p=chance)
            features.append(one.features[rng.integers(len(one.features), size=times), drawn])
            kinds.append(one.data.kinds[drawn])
    return torch.from_numpy(np.concatenate(features)), torch.from_numpy(np.concatenate(kinds))


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


@torch.inference_mode()
def _features(network: KindNet, card: Card, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the features of crops (n, CROP_PX, CROP_PX, 4)."""
    parts = [
        network.features(network_input(torch.from_numpy(crops[k : k + 64]), card))
        for k in range(0, len(crops), 64)
    ]
    return torch.cat(parts).numpy()


@torch.inference_mode()
def kind_probabilities(network: KindNet, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probability of each kind, float32 (n, kinds), for features (n, features)."""
    normal = (torch.from_numpy(features) - network.shift) * network.scale
    probability: NDArray[np.float32] = network.head(normal).softmax(1).numpy()
    return probability
