"""Train a network that finds boxes of any classes; deterministic, can be resumed."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import registry
from ..checkpoint import Card
from .coco import show_left_out
from .config import weighted
from .detection_crops import BoxCrops, WholeImages, resize_factor
from .detection_data import BoxSample, class_names, load_box_set
from .detection_validation import Found, best_score, compare, validate_boxes
from .detector_config import DetectorTrainConfig
from .finish import averaged_network, learned_from, training_record, write_checkpoint
from .initial_weights import take_weights
from .loop import Ema, Run, run_steps, seeded, stream
from .normalise import Normal
from .optimizers import build_optimizer
from .split import Split
from .stain_of_sets import range_of_samples
from .steps import learning_rate, spread, statistics, train_step
from .validation import run_padded
from .weighted_sets import WeightedSets, gather_sets

__all__ = ["train_detector"]

CONTEXT_PX = 96
"""Context that a box needs around it, on top of half the largest object, as for instances."""
LEAST_HALO_PX = 160

MOST_APART = 0.1
"""Largest share by which the rule for whole images may change the pixel size of the test."""


@dataclass(frozen=True, eq=False)
class _Data:
    """Classes, sets, and the number of annotations that were skipped, by reason."""

    classes: tuple[str, ...]
    sets: WeightedSets[BoxSample]
    skipped: Mapping[str, int]


def train_detector(config: DetectorTrainConfig, *, quiet: bool = False) -> Path:
    """Train, or resume the run in `config.out`.

    Returns
    -------
    Path
        ``<model>.safetensors`` in `config.out`. Beside it ``log.jsonl`` and, where the run started
        from other weights, ``weights.json`` with what was copied.

    Raises
    ------
    ValueError, FileNotFoundError
        data, options or initial weights cannot be used, or `config.out` holds another run
    """
    with seeded(config.seed, config.device):
        return _train(config, quiet)


def _train(config: DetectorTrainConfig, quiet: bool) -> Path:
    data = _load(config, quiet)
    samples = data.sets.samples
    timed = config.in_steps(len(samples))
    normal = Normal(*statistics(config, samples), config.device)
    options = {**config.options, "classes": len(data.classes)}
    network = registry.MODELS[config.model].builder(**options)
    options = dataclasses.asdict(network.settings)  # type: ignore[call-overload]
    started_from = take_weights(config, network, quiet)
    network = network.to(config.device).to(memory_format=torch.channels_last)
    run = Run(
        config.out, network, build_optimizer(config, network, momentum=config.momentum),
        Ema(network, config.ema, start_share=config.start_share),
        config.fingerprint(), timed.steps, config.device,
        config.save_every, config.max_minutes,
    )  # fmt: skip
    run.resume()
    crops = BoxCrops(
        samples, data.sets.chances, size=config.crop_px, batch=config.batch, seed=config.seed,
        augmentation=config.augmentation, scales=config.scales, whole=_whole(config, samples),
    )  # fmt: skip
    run_steps(
        run,
        stream(crops, run.step, timed.steps, workers=config.workers, device=config.device),
        update=lambda step, batch: train_step(config, network, run.optimizer, normal, step, batch),
        rate=lambda step: learning_rate(timed, step),
        validate=lambda: validate_boxes(
            _compared(config, options, run.ema, spread(data.sets.held, config.validate_images),
                      normal),
            data.classes,
        ),
        shown=lambda measured: {k: m.get("AP50") for k, m in measured.items()},
        quiet=quiet,
    )  # fmt: skip
    return _finish(config, run, data, options, started_from, normal)


def _load(config: DetectorTrainConfig, quiet: bool) -> _Data:
    """Load all sets; the classes are those of the settings, otherwise those of the sets."""
    specs = (*config.data, *config.partial_data)
    sets = [weighted(spec)[0] for spec in specs]
    classes = config.classes or class_names(sets)
    partial = {weighted(spec)[0] for spec in config.partial_data}
    skipped: Counter[str] = Counter()

    def load(spec: str) -> tuple[list[BoxSample], list[BoxSample]]:
        found = load_box_set(
            spec, mpp=config.mpp, split=Split(config.split), classes=classes,
            partial=spec in partial,
        )  # fmt: skip
        skipped.update(found.skipped)
        show_left_out(spec, found.skipped, quiet=quiet)
        return found.train, found.held

    everything = dataclasses.replace(config, data=specs, partial_data=())
    loaded = gather_sets(everything, load)
    counts = _counts(loaded.samples, classes)
    if not any(counts.values()):
        raise ValueError(
            f"{', '.join(specs)}: no object of the classes {', '.join(classes)} to learn from"
        )
    return _Data(classes, loaded, {k: n for k, n in skipped.items() if n})


def _counts(samples: Sequence[BoxSample], classes: Sequence[str]) -> dict[str, int]:
    """Return how many objects each class has."""
    labels = np.concatenate([s.labels for s in samples] or [np.zeros(0, np.uint8)])
    return {name: int((labels == k).sum()) for k, name in enumerate(classes, 1)}


def _whole(config: DetectorTrainConfig, samples: Sequence[BoxSample]) -> WholeImages | None:
    """Return the rule for whole images, None for crops.

    Raises
    ------
    ValueError
        the largest of the sides would show the images at another pixel size than --mpp, at which
        slides are read
    """
    if not config.short_px:
        return None
    shapes = [s.image.shape for s in samples]
    short_px, long_px = max(config.short_px), config.long_px
    factors = [resize_factor(s[0], s[1], short_px, long_px) for s in shapes]
    factor = float(np.median(factors))
    if abs(factor - 1) > MOST_APART:
        raise ValueError(
            f"short_px {max(config.short_px)} enlarges the images {factor:.2f} times at mpp "
            f"{config.mpp:g}, and a slide would be read at that mpp; give --mpp "
            f"{config.mpp / factor:.3g}"
        )
    return WholeImages(config.short_px, config.long_px)


def _compared(
    config: DetectorTrainConfig,
    options: Mapping[str, Any],
    ema: Ema,
    samples: Sequence[BoxSample],
    normal: Normal,
) -> list[Found]:
    """Return what the averaged network finds in samples, compared with the truth."""
    network = averaged_network(config.model, options, ema, config.device)
    decode = registry.MODELS[config.model].decode
    stride: Any = network.stride

    def detect(image: Any) -> Any:
        return decode(run_padded(network, image, normal, stride))[0]

    return list(compare(detect, samples, options["classes"]))


def _halo(samples: Sequence[BoxSample], stride: int) -> int:
    """Return the halo: half of nearly the largest object and the context of a box, model pixels."""
    boxes = np.concatenate([s.boxes for s in samples])
    largest = float(np.quantile((boxes[:, 2:] - boxes[:, :2]).max(1), 0.99)) if len(boxes) else 0.0
    return math.ceil(max(LEAST_HALO_PX, largest / 2 + CONTEXT_PX) / stride) * stride


def _finish(
    config: DetectorTrainConfig,
    run: Run,
    data: _Data,
    options: Mapping[str, Any],
    started_from: Mapping[str, Any],
    normal: Normal,
) -> Path:
    """Write the averaged weights with their card."""
    samples = data.sets.samples
    mean, std = statistics(config, samples)
    network: nn.Module = averaged_network(config.model, options, run.ema, config.device)
    compared = _compared(config, options, run.ema, data.sets.held, normal)
    least = best_score(compared)
    record = training_record(
        config, run, started_from, partial_data=[Path(d).name for d in config.partial_data],
        images=len(samples), objects=_counts(samples, data.classes), skipped=dict(data.skipped),
    )  # fmt: skip
    stride: Any = network.stride
    card = Card(
        name=config.model,
        task=registry.MODELS[config.model].task,
        classes=data.classes,
        mpp=config.mpp,
        halo_px=_halo(samples, stride),
        stride=stride,
        mean=mean,
        std=std,
        rule={"min_score": least, "min_small_score": least},
        options=options,
        stain=range_of_samples(samples, data.sets.chances),
        data=learned_from(samples, started_from),
        licence=config.licence,
        training=record,
        metrics=validate_boxes(compared, data.classes),
    )
    return write_checkpoint(config.out, network, card, half=True)
