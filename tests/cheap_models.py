"""Cheap networks in place of those that ship: dark pixels are nuclei, with a cell around each.

They have the names, classes and pixel sizes of the real ones and go through the same code, except
for the networks themselves, which have no weights and take a hundredth of the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from wsiseg_models import registry
from wsiseg_models.checkpoint import Card, read_card, weights_path
from wsiseg_models.predictions import Instances

from wsi_pipeline.segmentation.load_model import model_from_module
from wsi_pipeline.segmentation.model import Model

MASK = 28


class Darkness(torch.nn.Module):
    """Dark pixels, blurred, are nuclei; whole numbers only, so no order of summing shows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        light = x.sum(1, keepdim=True)
        rows = sum(light.roll(i, 2) for i in (-2, -1, 0, 1, 2))
        return sum(rows.roll(i, 3) for i in (-2, -1, 0, 1, 2))


def darkness_bytes(light: torch.Tensor) -> torch.Tensor:
    """Light (n, 1, h, w) summed over 75 values → probability bytes, 128 at a mean of 150."""
    return ((150 * 75 - light) / 16 + 128).floor().clamp(0, 255).to(torch.uint8)


def make_darkness() -> Model:
    """The model `Darkness`: needs 2 px of context; 8 keeps windows on its stride."""
    card = Card(
        name="darkness", task="nuclei", classes=("nucleus",), mpp=0.5, halo_px=8, mean=0, std=1
    )
    return model_from_module(Darkness(), card, decode=darkness_bytes, device="cpu")


class Light(torch.nn.Module):
    """The image itself; `find_cells` does the rest. Sides are limited as those of the real ones."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] % 32 or x.shape[-2] % 32:
            raise ValueError(f"images of shape {tuple(x.shape)}; sides must be multiples of 32")
        return x


def find_cells(images: torch.Tensor) -> list[Instances]:
    """A nucleus for each dark component, and a cell around it; classes as those of `donet`."""
    return [_cells(np.ascontiguousarray(image.float().mean(0).numpy())) for image in images]


def _cells(light: np.ndarray) -> Instances:
    height, width = light.shape
    dark = (cv2.blur(light, (3, 3)) < 150).astype(np.uint8)
    count, _, stats, _ = cv2.connectedComponentsWithStats(dark)
    step = (np.arange(MASK) + 0.5) / MASK * 2 - 1
    disc = np.where(np.hypot(step[None], step[:, None]) < 1, 255, 0).astype(np.uint8)
    boxes, kinds = [], []
    for x, y, w, h, area in stats[1:count]:
        if area < 20 or max(w, h) > 60:
            continue
        for kind, grow in ((0, 8), (1, 0)):
            boxes.append((max(x - grow, 0), max(y - grow, 0),
                          min(x + w + grow, width), min(y + h + grow, height)))  # fmt: skip
            kinds.append(kind)
    return Instances(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(kinds, np.uint8),
        np.full(len(kinds), 0.9, np.float32), np.repeat(disc[None], len(kinds), 0),
    )  # fmt: skip


def _load(path: Path, **options: Any) -> tuple[torch.nn.Module, Any, Card]:
    """As `registry.load`, with a cheap network for the checkpoints that ship."""
    if not path.is_file() or path.resolve() != weights_path(path.stem).resolve():
        return _REAL_LOAD(path, **options)
    card = replace(read_card(path), mean=0, std=1)
    if card.task == "cells":
        return Light(), find_cells, replace(card, halo_px=64)
    return Darkness(), darkness_bytes, replace(card, halo_px=card.stride)


_REAL_LOAD, _REAL_MODELS = registry.load, registry.MODELS


def _cheap(entry: registry.Entry) -> registry.Entry:
    def faster(network: torch.nn.Module) -> torch.nn.Module:
        return network if isinstance(network, Darkness | Light) else entry.faster(network)

    tile_px = entry.tile_px and 256
    return replace(entry, faster=faster, bfloat16=False, tile_px=tile_px, takes_margin=False)


@contextmanager
def cheap_models() -> Iterator[None]:
    """Let every name of a model that ships open a cheap network, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "MODELS", {n: _cheap(e) for n, e in registry.MODELS.items()})
        patch.setattr(registry, "load", _load)
        yield


@contextmanager
def real_models() -> Iterator[None]:
    """Within `cheap_models`, let names open the networks that ship again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "MODELS", _REAL_MODELS)
        patch.setattr(registry, "load", _REAL_LOAD)
        yield
