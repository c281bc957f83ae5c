"""Train a finished network further: few images, small rate, in minutes.

The network, its pixel size, its classes and how objects are made of its output come from the
checkpoint. Batch norms are folded in a checkpoint; each is unfolded to one that changes nothing,
and keeps its statistics, since few images would give poor ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import Card, read_card, weights_path
from ..norms import folded_pairs

__all__ = ["SHIPPED", "KeptNorm", "checkpoint_to_tune", "continued", "presets", "unfold_norms"]

SHIPPED = "shipped"
"""Stands for the checkpoint that ships."""

_SHARED = {"ema": 0.98, "save_every": 100, "start_share": 0.5}
_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "nuclei": {**_SHARED, "lr": 5e-4, "steps": 200, "batch": 4, "crop_px": 192},
    "cells": {
        **_SHARED, "lr": 1e-4, "steps": 200, "batch": 2, "crop_px": 256, "freeze": 3,
        "encoder_rate": 0.3, "warmup_steps": 20,
    },
}  # fmt: skip
"""Task → settings that differ from those of a training from the start."""
_PRESETS_OF_MODEL: Mapping[str, Mapping[str, Any]] = {
    "unet": {"pretrained": "none", "encoder_rate": 0.1},
}


def checkpoint_to_tune(source: str, model: str) -> tuple[Path, Card]:
    """Return the checkpoint that `source` names, and its card.

    Parameters
    ----------
    source
        ``shipped`` or the path of a checkpoint

    Raises
    ------
    FileNotFoundError, ValueError
        there is no such checkpoint, or it is of another model, or of boxes
    """
    path = weights_path(model) if source == SHIPPED else Path(source)
    if source == SHIPPED and not path.is_file():
        raise FileNotFoundError(f"no weights of {model} ship; give --from CHECKPOINT")
    card = read_card(path)
    if card.name != model:
        raise ValueError(f"{path} is a checkpoint of {card.name}; use `wsiseg train {card.name}`")
    if card.task not in _PRESETS:
        raise ValueError(
            f"{path} finds {card.task}; --from is for models of nuclei and cells, start others "
            "with --initial"
        )
    return path, card


def presets(card: Card) -> dict[str, Any]:
    """Return option → value of a training that goes on from a checkpoint."""
    found: dict[str, Any] = {"mpp": card.mpp, **_PRESETS[card.task]}
    if card.task == "nuclei":
        found |= {"class": card.classes}
        if categories := card.training.get("categories"):
            found["category"] = tuple(categories)
    return {**found, **_PRESETS_OF_MODEL.get(card.name, {})}


def continued(card: Card, start: Path | None) -> Card:
    """Return the card of a network that was trained further from a checkpoint.

    Its rule and tile stay, its halo does not shrink, and it names the data of both trainings.

    Parameters
    ----------
    start
        the checkpoint; None: it was trained from the start, and the card stays
    """
    if start is None:
        return card
    first = read_card(start)
    return dataclasses.replace(
        card,
        rule=first.rule,
        tile_px=first.tile_px,
        halo_px=max(card.halo_px, first.halo_px),
        data=tuple(dict.fromkeys([*first.data, *card.data])),
        licence=card.licence or first.licence,
    )


class KeptNorm(nn.BatchNorm2d):
    """A batch norm that never learns statistics: it computes as in evaluation, always."""

    def train(self, mode: bool = True) -> KeptNorm:
        """Stay in evaluation mode."""
        super().train(False)
        return self


def unfold_norms(stored: dict[str, Tensor], network: nn.Module) -> None:
    """Give each folded norm values with which it changes nothing but the bias, in place.

    Parameters
    ----------
    stored
        entries of a checkpoint, to which those of the norms are added
    network
        its norms become `KeptNorm` where the checkpoint has none
    """
    for conv, name in folded_pairs(network):
        norm = network.get_submodule(name)
        bias = stored.get(f"{conv}.bias")
        if not isinstance(norm, nn.BatchNorm2d) or f"{name}.running_mean" in stored or bias is None:
            continue
        ones, zeros = torch.ones_like(bias), torch.zeros_like(bias)
        own = getattr(network.get_submodule(conv), "bias", None)
        stored |= {
            f"{name}.weight": ones,
            f"{name}.bias": bias if own is None else zeros,
            f"{name}.running_mean": zeros,
            f"{name}.running_var": ones - norm.eps,
            f"{name}.num_batches_tracked": torch.zeros((), dtype=torch.long),
        }
        norm.__class__ = KeptNorm
        norm.train()
