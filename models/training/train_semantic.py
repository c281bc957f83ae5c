"""Training: resumable, deterministic, with validation on images that are held out."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import registry
from ..checkpoint import Card, save_checkpoint
from ..semantic.dssnet import DSSLoss
from .augment import Augmentation
from .coco import Split
from .crops import Crops
from .loop import Ema, Run, cosine, run_steps, start_from, stream
from .receptive_field import measure_halo
from .semantic_data import Sample, load_set

__all__ = ["TrainConfig", "predict_image", "train", "validate"]


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run.

    Attributes
    ----------
    data
        sets, ``DIR`` or ``DIR@MPP``, each with an optional weight: ``DIR=2`` is drawn twice as
        often
    options
        keywords of the network's builder
    mpp
        µm per pixel that the network will expect
    crop_px, batch, steps, lr, optimizer, weight_decay
        of the optimisation; ``adam`` is the authors' code, ``sgd`` (momentum 0.9) the paper
    hard_weight
        how many times pixels count that the network still gets wrong
    workers
        processes that make batches; 0 makes them between the steps
    ema
        decay of the running mean of the weights, which is what is saved and validated; 0 is off
    """

    model: str
    data: tuple[str, ...]
    out: Path
    classes: tuple[str, ...] = ("nucleus",)
    categories: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    mpp: float = 0.5
    split: str = "fold:0/5"
    crop_px: int = 256
    batch: int = 8
    steps: int = 4000
    lr: float = 1e-3
    optimizer: str = "adam"
    weight_decay: float = 5e-4
    hard_weight: float = 1.0
    ema: float = 0.998
    seed: int = 0
    workers: int = 1
    device: str = "cpu"
    amp: bool = True
    save_every: int = 250
    max_minutes: float = math.inf
    initial: Path | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    licence: str = ""

    def __post_init__(self) -> None:
        if self.crop_px % 8 or self.crop_px <= 0:
            raise ValueError(f"crop_px {self.crop_px} is not a multiple of 8")
        if self.optimizer not in ("adam", "sgd"):
            raise ValueError(f"unknown optimizer {self.optimizer!r}; use adam or sgd")
        if self.batch < 1 or self.steps < 1:
            raise ValueError("batch and steps are at least 1")


def _weighted(spec: str) -> tuple[str, float]:
    """``DIR@MPP=2`` → set and weight."""
    where, _, weight = spec.rpartition("=")
    return (where, float(weight)) if where else (spec, 1.0)


def _load(config: TrainConfig) -> tuple[list[Sample], NDArray[np.float64], list[Sample]]:
    """Training samples, the chance of each to be drawn, and held-out samples."""
    samples: list[Sample] = []
    chances: list[float] = []
    held: list[Sample] = []
    split = Split(config.split)
    for spec in config.data:
        where, weight = _weighted(spec)
        mine, theirs = load_set(where, mpp=config.mpp, split=split, categories=config.categories)
        area = np.array([s.labels.size for s in mine], float)
        chances += list(weight * area / area.sum()) if mine else []
        samples += mine
        held += theirs
    if not samples:
        raise ValueError(f"no image is left to train on with split {config.split!r}")
    return samples, np.array(chances) / sum(chances), held


@torch.no_grad()
def predict_image(
    network: nn.Module, decode: Callable[[Tensor], Tensor], image: NDArray[np.uint8], device: str
) -> NDArray[np.uint8]:
    """Class probabilities (k, h, w), 0 to 255, of one image (h, w, 3) of any size."""
    h, w = image.shape[:2]
    padded = np.pad(image, ((0, -h % 8), (0, -w % 8), (0, 0)), mode="reflect")
    x = torch.from_numpy(padded).to(device).permute(2, 0, 1)[None].float()
    x = ((x - 128) / 128).contiguous(memory_format=torch.channels_last)
    return decode(network(x))[0, :, :h, :w].cpu().numpy()


def validate(
    network: nn.Module,
    decode: Callable[[Tensor], Tensor],
    samples: Sequence[Sample],
    classes: int,
    device: str,
) -> dict[str, dict[str, float]]:
    """IoU per class and mean IoU over background and classes, per set; unknown pixels left out."""
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


def _optimizer(config: TrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(), config.lr, momentum=0.9, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(network.parameters(), config.lr, weight_decay=config.weight_decay)


def _rate(step: int, steps: int) -> float:
    """Warm-up over 100 steps, then cosine to zero."""
    return min(1, (step + 1) / 100) * cosine(step, steps)


def train(
    config: TrainConfig,
    *,
    quiet: bool = False,
    score: Callable[[nn.Module, Callable[[Tensor], Tensor], Sequence[Sample]], dict[str, Any]]
    | None = None,
) -> Path:
    """Train, or continue where `config.out` stopped, and write ``<model>.safetensors`` there.

    Parameters
    ----------
    score
        further metrics of the finished network on the held-out samples, for the card

    Returns
    -------
    Path
        the checkpoint; beside it ``log.jsonl`` and ``state.pt``, from which training resumes

    Raises
    ------
    ValueError
        data, options or device cannot be used, or `config.out` holds another run
    """
    torch.manual_seed(config.seed)
    samples, chances, held = _load(config)
    network = registry.build(config.model, classes=len(config.classes) + 1, **config.options)
    entry = registry.MODELS[config.model]
    network = network.to(config.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.initial is not None:
        start_from(network, config.initial)
    run = Run(
        config.out, network, _optimizer(config, network), Ema(network, config.ema),
        _fingerprint(config), config.steps, config.device, config.save_every, config.max_minutes,
    )  # fmt: skip
    run.resume()
    crops = Crops(
        samples, chances, size=config.crop_px, batch=config.batch, seed=config.seed,
        augmentation=config.augmentation,
    )  # fmt: skip
    loss = DSSLoss().to(config.device)

    def measure() -> dict[str, dict[str, float]]:
        ready = _evaluated(config, entry, run.ema)
        return validate(ready, entry.decode, held, len(config.classes), config.device)

    run_steps(
        run,
        stream(crops, run.step, config.steps, workers=config.workers, device=config.device),
        update=lambda _, batch: _step(config, network, run.optimizer, loss, batch),
        rate=lambda step: config.lr * _rate(step, config.steps),
        validate=measure,
        shown=lambda measured: {group: m["mIoU"] for group, m in measured.items()},
        quiet=quiet,
    )
    return _finish(config, entry, run, samples, held, measure(), score)


def _step(
    config: TrainConfig,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: nn.Module,
    batch: Sequence[Tensor],
) -> dict[str, Tensor]:
    """One optimisation step; the loss terms."""
    images, targets, edges, weights = (a.to(config.device, non_blocking=True) for a in batch)
    x = ((images.permute(0, 3, 1, 2).float() - 128) / 128).contiguous(
        memory_format=torch.channels_last
    )
    network.train()
    kind = torch.device(config.device).type
    with torch.autocast(kind, torch.bfloat16, enabled=config.amp):
        output = network(x)
    if config.hard_weight != 1:
        mistaken = output[0].detach().argmax(1) != targets
        weights = torch.where(mistaken, config.hard_weight * weights, weights)
    terms = loss(output, x, targets, edges, weights)
    total = sum(terms.values())
    assert isinstance(total, Tensor)
    optimizer.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    return {k: v.detach() for k, v in terms.items()}


def _fingerprint(config: TrainConfig) -> dict[str, Any]:
    """What must agree for a run to be continued."""
    kept = ("model", "data", "classes", "categories", "options", "mpp", "split", "crop_px",
            "batch", "steps", "lr", "optimizer", "weight_decay", "ema", "hard_weight",
            "seed")  # fmt: skip
    settings = {k: getattr(config, k) for k in kept}
    settings["augmentation"] = dataclasses.asdict(config.augmentation)
    return json.loads(json.dumps(settings, default=dict))


def _evaluated(config: TrainConfig, entry: registry.Entry, ema: Ema) -> nn.Module:
    """The averaged network, ready for inference."""
    network = entry.builder(classes=len(config.classes) + 1, **config.options)
    network.load_state_dict(ema.state)
    ready = entry.for_inference(network).to(config.device)
    return ready.to(memory_format=torch.channels_last)


def _finish(
    config: TrainConfig,
    entry: registry.Entry,
    run: Run,
    samples: Sequence[Sample],
    held: Sequence[Sample],
    metrics: dict[str, Any],
    score: Callable[..., dict[str, Any]] | None,
) -> Path:
    """Write the averaged weights with their card."""
    network = _evaluated(config, entry, run.ema)
    if score is not None and held:
        for group, more in score(network, entry.decode, held).items():
            metrics.setdefault(group, {}).update(more)
    by_size = sorted([*held, *samples], key=lambda s: -min(s.labels.shape))

    def predict(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return predict_image(network, entry.decode, image, config.device)

    card = Card(
        name=config.model,
        task="nuclei",
        classes=config.classes,
        mpp=config.mpp,
        halo_px=measure_halo(predict, [s.image for s in by_size[:4]]),
        tile_px=1024,
        options={"classes": len(config.classes) + 1, **config.options},
        data=tuple(sorted({s.origin for s in samples})),
        licence=config.licence,
        training={
            **_fingerprint(config),
            "data": [Path(d).name for d in config.data],
            "started from": "/".join(config.initial.parts[-2:]) if config.initial else "nothing",
            "steps done": run.step,
            "minutes": round(run.minutes, 1),
            "device": config.device,
            "images": len(samples),
        },
        metrics=metrics,
        parameters=sum(p.numel() for p in network.parameters()),
    )
    path = config.out / f"{config.model}.safetensors"
    save_checkpoint(path, network.state_dict(), card)
    (config.out / "card.json").write_text(json.dumps(dataclasses.asdict(card), indent=1))
    return path
