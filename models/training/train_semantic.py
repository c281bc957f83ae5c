"""Train a network that classifies pixels; a run is deterministic and can be resumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import registry
from ..checkpoint import Card
from ..precision import autocast
from .baseline_config import grow, stage_at
from .coco import Split, show_left_out
from .config import SemanticTrainConfig
from .crops import Crops
from .fine_tuning import continued
from .finish import averaged_network, learned_from, training_record, write_checkpoint
from .initial_weights import take_weights
from .loop import Ema, Run, run_steps, seeded, stream
from .normalise import Normal
from .optimizers import build_optimizer, cosine
from .receptive_field import measure_halo
from .semantic_data import Sample, load_set
from .stain_of_sets import range_of_samples
from .teacher import Teacher, add_teacher, file_hash, teacher_loss
from .unlabelled import load_unlabelled
from .weighted_sets import WeightedSets, gather_sets
from .wubineh_config import WubinehTrainConfig

__all__ = ["predict_image", "train_semantic", "validate"]

MEAN = STD = 128.0
"""The network gets (image − mean) / std."""
PADDED = 32
"""Images are padded to a multiple of this, which suits every network."""
CLIP = 1.0
"""Largest norm of the gradient."""
WARM_UP_STEPS = 100

Score = Callable[[nn.Module, Callable[[Tensor], Tensor], Sequence[Sample]], dict[str, Any]]


@torch.no_grad()
def predict_image(
    network: nn.Module, decode: Callable[[Tensor], Tensor], image: NDArray[np.uint8], device: str
) -> NDArray[np.uint8]:
    """Return class probabilities (k, h, w), 0 to 255, of an image (h, w, 3) of any size."""
    h, w = image.shape[:2]
    padded = np.pad(image, ((0, -h % PADDED), (0, -w % PADDED), (0, 0)), mode="symmetric")
    x = Normal(MEAN, STD, device)(torch.from_numpy(padded)[None])
    return decode(network(x))[0, :, :h, :w].cpu().numpy()


def validate(
    network: nn.Module,
    decode: Callable[[Tensor], Tensor],
    samples: Sequence[Sample],
    classes: int,
    device: str,
) -> dict[str, dict[str, float]]:
    """Return per set the IoU of each class and their mean, background included.

    Pixels whose class is unknown are left out.
    """
    counts: dict[str, NDArray[np.int64]] = {}
    network.eval()
    for sample in samples:
        scores = predict_image(network, decode, sample.image, device)
        predicted = np.where(scores.max(0) >= 128, scores.argmax(0) + 1, 0)
        truth = sample.classes[np.maximum(sample.labels, 0)].astype(np.int64)
        known = sample.labels >= 0
        pairs = truth[known] * (classes + 1) + predicted[known]
        table = np.bincount(pairs, minlength=(classes + 1) ** 2).reshape(classes + 1, -1)
        counts[sample.group] = counts.get(sample.group, 0) + table
    out = {}
    for group, table in counts.items():
        union = table.sum(0) + table.sum(1) - table.diagonal()
        iou = table.diagonal() / np.maximum(union, 1)
        out[group] = {f"IoU {i}": float(v) for i, v in enumerate(iou)} | {"mIoU": float(iou.mean())}
    return out


def train_semantic(
    config: SemanticTrainConfig, *, quiet: bool = False, score: Score | None = None
) -> Path:
    """Train, or resume the run in `config.out`, and write ``<model>.safetensors`` there.

    Parameters
    ----------
    score
        returns further scores of the finished network on the held-out samples, for the card

    Returns
    -------
    Path
        the checkpoint; beside it ``log.jsonl``, and ``state.pt``, from which training resumes

    Raises
    ------
    ValueError, FileNotFoundError
        data, options or initial weights cannot be used, or `config.out` holds another run
    """
    with seeded(config.seed, config.device):
        return _train(config, quiet, score)


def _train(config: SemanticTrainConfig, quiet: bool, score: Score | None) -> Path:
    data = _load(config, quiet)
    if isinstance(config, WubinehTrainConfig):
        config = replace(config, steps=config.steps_for(len(data.samples)))
    entry = registry.MODELS[config.model]
    network = entry.builder(**config.builder_options())
    started_from = take_weights(config, network, quiet)
    memory_format = _memory_format(network, config.device)
    network = network.to(config.device).to(memory_format=memory_format)
    run = Run(
        config.out, network, build_optimizer(config, network),
        Ema(network, config.ema, start_share=config.start_share),
        config.fingerprint(), config.steps, config.device, config.save_every, config.max_minutes,
    )  # fmt: skip
    run.resume()
    crops = Crops(
        data.samples, data.chances, size=config.crop_px, batch=config.batch, seed=config.seed,
        augmentation=config.augmentation, gaps=config.learns_gaps,
    )  # fmt: skip
    assert entry.loss is not None
    loss = entry.loss().to(config.device)
    normal = Normal(MEAN, STD, config.device, memory_format)

    def measure() -> dict[str, dict[str, float]]:
        options = config.builder_options() | stage_at(config, run.step - 1)
        ready = averaged_network(config.model, options, run.ema, config.device)
        return validate(ready, entry.decode, data.held, len(config.classes), config.device)

    run_steps(
        run,
        stream(crops, run.step, config.steps, workers=config.workers, device=config.device),
        update=lambda step, batch: _step(config, step, network, run.optimizer, loss, normal, batch),
        rate=lambda step: config.lr * _rate(config, step),
        validate=measure,
        shown=lambda measured: {group: m["mIoU"] for group, m in measured.items()},
        quiet=quiet,
    )
    return _finish(config, run, data, started_from, measure(), score)


def _memory_format(network: nn.Module, device: str) -> torch.memory_format:
    """Return the memory format in which a step of training takes the least time."""
    if device == "cpu" and getattr(network, "contiguous_on_cpu", False):
        return torch.contiguous_format
    return torch.channels_last


def _load(config: SemanticTrainConfig, quiet: bool) -> WeightedSets[Sample]:
    """Load all sets, and the teacher's maps where there is a teacher.

    Images that are held out, copies included, are not used without their annotations either.
    """
    settings, kept = config.distillation, set[str]()
    teacher = Teacher(settings, config.classes, config.device) if settings.teacher else None

    def labelled(spec: str) -> tuple[list[Sample], list[Sample]]:
        split, left_out = Split(config.split), Counter[str]()
        train, held = load_set(
            spec, mpp=config.mpp, split=split, categories=config.categories, left_out=left_out
        )
        show_left_out(spec, left_out, quiet=quiet)
        if settings.unlabelled:
            kept.update(file_hash(s.source[0]) for s in held)
        return train, held

    def unlabelled(spec: str) -> list[Sample]:
        samples = load_unlabelled(spec, mpp=config.mpp)
        return [s for s in samples if file_hash(s.source[0]) not in kept]

    data = gather_sets(config, labelled, settings.unlabelled, unlabelled)
    if teacher is None:
        return data
    samples = add_teacher(data.samples, teacher, config.out / "teacher", quiet=quiet)
    return WeightedSets(samples, data.chances, data.held)


def _rate(config: SemanticTrainConfig, step: int) -> float:
    """Return the share of the learning rate: a rise over 100 steps, then half a cosine to 0.

    A finished network is trained for few steps, of which the rise takes a tenth.
    """
    if isinstance(config, WubinehTrainConfig) and config.schedule == "constant":
        return 1.0
    rise = WARM_UP_STEPS if config.tuned is None else max(1, config.steps // 10)
    return min(1, (step + 1) / rise) * cosine(step, config.steps)


def _step(
    config: SemanticTrainConfig,
    step: int,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: nn.Module,
    normal: Normal,
    batch: Sequence[Tensor],
) -> dict[str, Tensor]:
    """Make one step of the optimizer; return the loss terms.

    What the network draws at random (dropout) depends on the step alone, so that a resumed run
    draws the same.
    """
    torch.manual_seed((config.seed << 32) + step)
    grow(config, network, optimizer, step)
    images, targets, edges, weights, soft = (
        a.to(config.device, non_blocking=True) for a in batch
    )  # fmt: skip
    x = normal(images)
    network.train()
    with autocast(config.device, config.amp):
        output = network(x)
    logits = output[0] if isinstance(output, tuple) else output
    if config.hard_weight != 1:
        mistaken = logits.detach().argmax(1) != targets
        weights = torch.where(mistaken, config.hard_weight * weights, weights)
    terms = loss(output, x, targets, edges, weights)
    if soft.shape[1]:
        terms["teacher"] = teacher_loss(logits, soft)
    total = sum(terms.values())
    assert isinstance(total, Tensor)
    optimizer.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), CLIP)
    optimizer.step()
    return {k: v.detach() for k, v in terms.items()}


def _grid(network: Any) -> tuple[int, int]:
    """Return a network's stride and how far its results depend on the image, in pixels."""
    return network.stride, network.context_px


def _used(config: SemanticTrainConfig, data: WeightedSets[Sample]) -> dict[str, Any]:
    """Return what the card states about images and teacher; of paths only the names."""
    used: dict[str, Any] = {"images": len(data.samples)}
    settings = config.distillation
    if settings.teacher:
        unlabelled = [Path(spec).name for spec in settings.unlabelled]
        record = Teacher(settings, config.classes, config.device).record()
        used["distillation"] = {**record, "weight": settings.weight, "unlabelled": unlabelled}
    return used


def _finish(
    config: SemanticTrainConfig,
    run: Run,
    data: WeightedSets[Sample],
    started_from: Mapping[str, Any],
    metrics: dict[str, Any],
    score: Score | None,
) -> Path:
    """Write the averaged weights with their card."""
    entry = registry.MODELS[config.model]
    options = config.builder_options() | stage_at(config, run.step - 1)
    network = averaged_network(config.model, options, run.ema, config.device)
    if score is not None and data.held:
        for group, more in score(network, entry.decode, data.held).items():
            metrics.setdefault(group, {}).update(more)
    stride, context_px = _grid(network)
    by_size = sorted([*data.held, *data.samples], key=lambda s: -min(s.labels.shape))

    # On a GPU results of crops of other sizes differ in the last bits, so no halo would suffice.
    on_cpu = averaged_network(config.model, options, run.ema, "cpu")

    def predict(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return predict_image(on_cpu, entry.decode, image, "cpu")

    card = Card(
        name=config.model,
        task=entry.task,
        classes=config.classes,
        mpp=config.mpp,
        halo_px=measure_halo(
            predict, [s.image for s in by_size[:4]], context_px=context_px, stride=stride
        ),
        tile_px=1024,
        stride=stride,
        mean=MEAN,
        std=STD,
        options=options,
        stain=range_of_samples(data.samples, data.chances),
        data=learned_from(data.samples, started_from),
        licence=config.licence,
        training=training_record(config, run, started_from, **_used(config, data)),
        metrics=metrics,
    )
    return write_checkpoint(config.out, network, continued(card, config.tuned))
