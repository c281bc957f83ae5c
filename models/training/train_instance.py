"""Train a network that finds overlapping cells and nuclei; deterministic, can be resumed."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import registry
from ..checkpoint import Card
from .coco import Split, show_left_out
from .config import InstanceTrainConfig
from .crops import InstanceCrops
from .dense_pretraining import Dense, validate_dense
from .fine_tuning import continued
from .finish import averaged_network, learned_from, training_record, write_checkpoint
from .initial_weights import take_weights
from .instance_data import CELL, InstanceSample, load_instance_set
from .loop import Ema, Run, run_steps, seeded, stream
from .normalise import Normal
from .optimizers import build_optimizer
from .steps import learning_rate, spread, statistics, train_step
from .validation import detect_image, validate_instances
from .weighted_sets import WeightedSets, gather_sets

__all__ = ["CLASSES", "train_instances"]

CLASSES = ("cell", "nucleus")
STRIDE = 32
CONTEXT_PX = 96
"""Context that a box needs around it, on top of half the largest cell."""
LEAST_HALO_PX = 160

Measure = Callable[[Sequence[InstanceSample]], dict[str, dict[str, float]]]


def train_instances(config: InstanceTrainConfig, *, quiet: bool = False) -> Path:
    """Train, or resume the run in `config.out`.

    Returns
    -------
    Path
        ``<model>.safetensors`` in `config.out`; after dense pretraining ``state.pt``, from which
        training starts. Beside it ``log.jsonl`` and, where the run started from other weights,
        ``weights.json`` with what was copied.

    Raises
    ------
    ValueError, FileNotFoundError
        data, options or initial weights cannot be used, or `config.out` holds another run
    """
    with seeded(config.seed, config.device):
        return _train(config, quiet)


def _train(config: InstanceTrainConfig, quiet: bool) -> Path:
    skipped: Counter[str] = Counter()
    data = gather_sets(config, lambda spec: _load(config, spec, skipped, quiet))
    if not any(len(s) for s in data.samples):
        raise ValueError(f"{', '.join(config.data)}: no cell and no nucleus to learn from")
    normal = Normal(*statistics(config, data.samples), config.device)
    network = registry.MODELS[config.model].builder(**config.builder_options())
    options = dataclasses.asdict(network.config)  # type: ignore[call-overload]
    started_from = take_weights(config, network, quiet)
    if config.pretrain == "dense":
        network = Dense(network, options["fpn_width"])
    network = network.to(config.device).to(memory_format=torch.channels_last)
    run = Run(
        config.out, network, build_optimizer(config, network, momentum=config.momentum),
        Ema(network, config.ema, start_share=config.start_share),
        config.fingerprint(), config.steps, config.device,
        config.save_every, config.max_minutes,
    )  # fmt: skip
    run.resume()
    crops = InstanceCrops(
        data.samples, data.chances, size=config.crop_px, batch=config.batch, seed=config.seed,
        augmentation=config.augmentation, clusters=config.clusters, scales=config.scales,
    )  # fmt: skip
    measure = _measure_dense if config.pretrain == "dense" else _measure_instances

    run_steps(
        run,
        stream(crops, run.step, config.steps, workers=config.workers, device=config.device),
        update=lambda step, batch: train_step(config, network, run.optimizer, normal, step, batch),
        rate=lambda step: learning_rate(config, step),
        validate=lambda: measure(
            config, options, run.ema, spread(data.held, config.validate_images), normal
        ),
        shown=lambda measured: {k: m.get("mask AP50", m.get("cell")) for k, m in measured.items()},
        quiet=quiet,
    )
    if config.pretrain == "dense":
        return config.out / "state.pt"
    return _finish(config, run, data, options, started_from, skipped, normal)


def _load(
    config: InstanceTrainConfig, spec: str, skipped: Counter[str], quiet: bool
) -> tuple[list[InstanceSample], list[InstanceSample]]:
    found = load_instance_set(spec, mpp=config.mpp, split=Split(config.split))
    skipped.update(found.skipped)
    show_left_out(spec, found.skipped, quiet=quiet)
    return found.train, found.held


def _measure_instances(
    config: InstanceTrainConfig,
    options: Mapping[str, Any],
    ema: Ema,
    samples: Sequence[InstanceSample],
    normal: Normal,
) -> dict[str, dict[str, float]]:
    """Return AP of the averaged network; see `validate_instances`."""
    network = averaged_network(config.model, options, ema, config.device)
    decode = registry.MODELS[config.model].decode
    return validate_instances(
        lambda image: detect_image(network, decode, image, normal), samples, CLASSES
    )


def _measure_dense(
    config: InstanceTrainConfig,
    options: Mapping[str, Any],
    ema: Ema,
    samples: Sequence[InstanceSample],
    normal: Normal,
) -> dict[str, dict[str, float]]:
    """Return IoU of the averaged network's maps; see `validate_dense`."""
    network = Dense(registry.MODELS[config.model].builder(**options), options["fpn_width"])
    network.load_state_dict(ema.weights())
    network = network.eval().to(config.device).to(memory_format=torch.channels_last)
    return validate_dense(network, samples, normal)


def _halo(samples: Sequence[InstanceSample]) -> int:
    """Return the halo: half of nearly the largest cell and the context of a box, model pixels."""
    sides = [
        max(x1 - x0, y1 - y0)
        for s in samples
        for (x0, y0, x1, y1), label in zip(s.windows.tolist(), s.labels, strict=True)
        if label == CELL
    ]
    largest = float(np.quantile(sides, 0.99)) if sides else 0.0
    return max(LEAST_HALO_PX, math.ceil((largest / 2 + CONTEXT_PX) / STRIDE) * STRIDE)


def _finish(
    config: InstanceTrainConfig,
    run: Run,
    data: WeightedSets[InstanceSample],
    options: Mapping[str, Any],
    started_from: Mapping[str, Any],
    skipped: Mapping[str, int],
    normal: Normal,
) -> Path:
    """Write the averaged weights with their card."""
    mean, std = statistics(config, data.samples)
    instances = sum(len(s) for s in data.samples)
    record = training_record(
        config, run, started_from, images=len(data.samples), instances=instances,
        skipped=dict(skipped),
    )  # fmt: skip
    card = Card(
        name=config.model,
        task=registry.MODELS[config.model].task,
        classes=CLASSES,
        mpp=config.mpp,
        halo_px=_halo(data.samples),
        stride=STRIDE,
        mean=mean,
        std=std,
        options=options,
        data=learned_from(data.samples, started_from),
        licence=config.licence,
        training=record,
        metrics=_measure_instances(config, options, run.ema, data.held, normal),
    )
    network = averaged_network(config.model, options, run.ema, config.device)
    return write_checkpoint(config.out, network, continued(card, config.tuned), half=True)
