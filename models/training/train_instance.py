"""Training of the instance models: cells and nuclei that overlap."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections import Counter
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
from ..predictions import Instances
from .augment import Augmentation
from .cell_pasting import Clusters
from .coco import Split
from .crops import InstanceCrops
from .dense_pretraining import Dense, validate_dense
from .instance_data import CELL, InstanceSample, load_instance_set
from .loop import Ema, Run, cosine, milestones, run_steps, start_from, stream, warm_up
from .validation import Normal, detect_image, validate_instances

__all__ = ["CLASSES", "InstanceTrainConfig", "train_instances"]

CLASSES = ("cell", "nucleus")
STRIDE = 32
CONTEXT_PX = 96
"""What a box needs to see around it, on top of half the largest cell."""
LEAST_HALO_PX = 160

_PASSING = ("out", "workers", "device", "amp", "save_every", "max_minutes", "initial",
            "pretrained", "pretrained_as", "licence", "validate_images")  # fmt: skip
"""Settings that may change when a run is continued."""


@dataclass(frozen=True)
class InstanceTrainConfig:
    """Everything that decides a training run.

    Attributes
    ----------
    data
        sets, ``DIR`` or ``DIR@MPP``, each with an optional weight: ``DIR=2`` is drawn twice as
        often
    options
        keywords of the network's builder, fields of `InstanceConfig`
    mpp
        µm per pixel that the network will expect
    crop_px, scales
        side of a crop; factors by which crop and content grow, of which each step draws one
    optimizer, lr, momentum, weight_decay, clip
        ``adamw`` or ``sgd``; largest norm of the gradient, 0 is off
    warmup_steps, warmup_factor, schedule, milestones
        a rise in a line, then ``cosine``, or ``steps``: a tenth after each milestone
    ema
        decay of the running mean of the weights, which is what is saved and validated; 0 is off
    initial
        ``state.pt`` of another run or a checkpoint, from which all that fits is taken
    pretrained, pretrained_as
        a file of torchvision's weights, of a whole ``detector`` or of its ``backbone``
    freeze
        stages of the trunk that keep their weights, the stem being the first; None: the option
        ``trainable_layers`` says it
    normalise
        ``fixed``: (image − 128) / 128; ``dataset``: mean and deviation of the training images
    pretrain
        ``dense`` trains trunk and pyramid alone, on maps; the run's state is an `initial`
    validate_images
        held-out images looked at during training; at the end all are
    """

    model: str
    data: tuple[str, ...]
    out: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    mpp: float = 0.5
    split: str = "fold:0/5"
    crop_px: int = 256
    scales: tuple[float, ...] = (1.0,)
    batch: int = 4
    steps: int = 4000
    optimizer: str = "adamw"
    lr: float = 3e-4
    momentum: float = 0.9
    weight_decay: float = 1e-4
    clip: float = 5.0
    warmup_steps: int = 200
    warmup_factor: float = 0.001
    schedule: str = "cosine"
    milestones: tuple[int, ...] = ()
    ema: float = 0.998
    seed: int = 0
    workers: int = 1
    device: str = "cpu"
    amp: bool = True
    save_every: int = 250
    max_minutes: float = math.inf
    initial: Path | None = None
    pretrained: Path | None = None
    pretrained_as: str = "detector"
    freeze: int | None = None
    normalise: str = "fixed"
    pretrain: str = "none"
    validate_images: int = 32
    augmentation: Augmentation = field(default_factory=Augmentation)
    clusters: Clusters = field(default_factory=Clusters)
    licence: str = ""

    def __post_init__(self) -> None:
        for name, known in (
            ("optimizer", ("adamw", "sgd")),
            ("schedule", ("cosine", "steps")),
            ("pretrained_as", ("detector", "backbone")),
            ("normalise", ("fixed", "dataset")),
            ("pretrain", ("none", "dense")),
        ):
            if getattr(self, name) not in known:
                value = getattr(self, name)
                raise ValueError(f"unknown {name} {value!r}; use {' or '.join(known)}")
        if self.crop_px % STRIDE or self.crop_px <= 0:
            raise ValueError(f"crop_px {self.crop_px} is not a multiple of {STRIDE}")
        if self.batch < 1 or self.steps < 1:
            raise ValueError("batch and steps are at least 1")
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales {self.scales} are not one or more numbers above 0")
        if self.schedule == "steps" and not self.milestones:
            raise ValueError("the schedule 'steps' needs milestones; give the steps of its drops")
        if self.freeze is not None and not 0 <= self.freeze <= 5:
            raise ValueError(f"freeze {self.freeze} is not 0 (nothing) to 5 (the whole trunk)")

    def builder_options(self) -> dict[str, Any]:
        """`options` with what `freeze` says."""
        frozen = {} if self.freeze is None else {"trainable_layers": 5 - self.freeze}
        return {**self.options, **frozen}

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        down = (
            cosine(step, self.steps)
            if self.schedule == "cosine"
            else milestones(step, self.milestones)
        )
        return self.lr * warm_up(step, self.warmup_steps, self.warmup_factor) * down

    def fingerprint(self) -> dict[str, Any]:
        """What must agree for a run to be continued."""
        settings = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name not in _PASSING
        }
        parts = {k: dataclasses.asdict(settings[k]) for k in ("augmentation", "clusters")}
        return dict(json.loads(json.dumps({**settings, **parts}, default=dict)))


@dataclass(frozen=True)
class _Data:
    """Samples, the chance of each to be drawn, held-out samples, annotations skipped by reason."""

    samples: list[InstanceSample]
    chances: NDArray[np.float64]
    held: list[InstanceSample]
    skipped: Mapping[str, int]


def train_instances(config: InstanceTrainConfig, *, quiet: bool = False) -> Path:
    """Train, or continue where `config.out` stopped.

    Returns
    -------
    Path
        ``<model>.safetensors`` in `config.out`; after pretraining ``state.pt``, from which
        training starts. Beside it ``log.jsonl`` and, where weights were taken from elsewhere,
        ``weights.json`` with what was taken.

    Raises
    ------
    ValueError
        data, options or device cannot be used, or `config.out` holds another run
    """
    torch.manual_seed(config.seed)
    data = _load(config)
    mean, std = _statistics(config, data.samples)
    normal = Normal(mean, std, config.device)
    entry = registry.MODELS[config.model]
    network = entry.builder(**config.builder_options())
    options = dataclasses.asdict(network.config)  # type: ignore[call-overload]
    taken = _take_weights(config, network, quiet)
    if config.pretrain == "dense":
        network = Dense(network, options["fpn_width"])
    network = network.to(config.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = Run(
        config.out, network, _optimizer(config, network), Ema(network, config.ema),
        config.fingerprint(), config.steps, config.device, config.save_every, config.max_minutes,
    )  # fmt: skip
    run.resume()
    crops = InstanceCrops(
        data.samples, data.chances, size=config.crop_px, batch=config.batch, seed=config.seed,
        augmentation=config.augmentation, clusters=config.clusters, scales=config.scales,
    )  # fmt: skip

    def measure(samples: Sequence[InstanceSample]) -> dict[str, dict[str, float]]:
        return _measure(_averaged(config, options, run.ema), entry.decode, samples, normal)

    run_steps(
        run,
        stream(crops, run.step, config.steps, workers=config.workers, device=config.device),
        update=lambda step, batch: _step(config, network, run.optimizer, normal, step, batch),
        rate=config.rate,
        validate=lambda: measure(_spread(data.held, config.validate_images)),
        shown=lambda measured: {k: m.get("mask AP50", m.get("cell")) for k, m in measured.items()},
        quiet=quiet,
    )
    if config.pretrain == "dense":
        return config.out / "state.pt"
    training = {**_told(config, data, taken), "steps done": run.step,
                "minutes": round(run.minutes, 1)}  # fmt: skip
    card = Card(
        name=config.model,
        task="cells",
        classes=CLASSES,
        mpp=config.mpp,
        halo_px=_halo(data.samples),
        stride=STRIDE,
        mean=mean,
        std=std,
        options=options,
        data=tuple(sorted({s.origin for s in data.samples})),
        licence=config.licence,
        training=training,
        metrics=measure(data.held),
    )
    return _write(config.out, _averaged(config, options, run.ema), card)


def _averaged(config: InstanceTrainConfig, options: Mapping[str, Any], ema: Ema) -> nn.Module:
    """The averaged network, ready for inference."""
    entry = registry.MODELS[config.model]
    network = entry.builder(**options)
    if config.pretrain == "dense":
        network = Dense(network, options["fpn_width"])
    network.load_state_dict(ema.state)
    network = network.eval() if isinstance(network, Dense) else entry.for_inference(network)
    network = network.to(config.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _measure(
    network: nn.Module,
    decode: Callable[[Any], list[Instances]],
    samples: Sequence[InstanceSample],
    normal: Normal,
) -> dict[str, dict[str, float]]:
    if isinstance(network, Dense):
        return validate_dense(network, samples, normal)
    return validate_instances(
        lambda image: detect_image(network, decode, image, normal), samples, CLASSES
    )


def _write(folder: Path, network: nn.Module, card: Card) -> Path:
    """The checkpoint, and its card beside it."""
    card = dataclasses.replace(card, parameters=sum(p.numel() for p in network.parameters()))
    path = folder / f"{card.name}.safetensors"
    save_checkpoint(path, network.state_dict(), card, half=True)
    (folder / "card.json").write_text(json.dumps(dataclasses.asdict(card), indent=1))
    return path


def _load(config: InstanceTrainConfig) -> _Data:
    samples: list[InstanceSample] = []
    chances: list[float] = []
    held: list[InstanceSample] = []
    skipped: Counter[str] = Counter()
    for spec in config.data:
        where, _, weight = spec.rpartition("=")
        found = load_instance_set(where or weight, mpp=config.mpp, split=Split(config.split))
        area = np.array([s.image[..., 0].size for s in found.train], float)
        chances += list((float(weight) if where else 1.0) * area / max(area.sum(), 1))
        samples += found.train
        held += found.held
        skipped.update(found.skipped)
    if not samples:
        raise ValueError(f"no image is left to train on with split {config.split!r}")
    if not any(len(s) for s in samples):
        raise ValueError(f"{', '.join(config.data)}: no cell and no nucleus to learn from")
    return _Data(samples, np.array(chances) / sum(chances), held, skipped)


def _statistics(
    config: InstanceTrainConfig, samples: Sequence[InstanceSample]
) -> tuple[float, float] | tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation, one number or one per channel, over all training pixels."""
    if config.normalise == "fixed":
        return 128.0, 128.0
    count = sum(s.image[..., 0].size for s in samples)
    mean = sum(s.image.sum((0, 1), dtype=np.float64) for s in samples) / count
    square = sum(((s.image - mean) ** 2).sum((0, 1)) for s in samples) / count
    std = np.maximum(np.sqrt(square), 1)
    return tuple(np.round(mean, 3).tolist()), tuple(np.round(std, 3).tolist())


def _take_weights(
    config: InstanceTrainConfig, network: nn.Module, quiet: bool
) -> dict[str, dict[str, Any]]:
    """Weights of another run or of torchvision; what was taken is told, kept and counted."""
    reports: dict[str, dict[str, Any]] = {}
    if config.pretrained is not None:
        from . import pretrained as weights

        take = getattr(weights, f"load_{config.pretrained_as}")
        report = dataclasses.asdict(take(network, config.pretrained))
        reports["pretrained"] = {"file": config.pretrained.name, **report}
    if config.initial is not None:
        report = start_from(network, config.initial)
        reports["initial"] = {"file": f"{config.initial.parent.name}/{config.initial.name}",
                              **report}  # fmt: skip
    if not reports:
        return {}
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "weights.json").write_text(json.dumps(reports, indent=1))
    counts = {
        kind: {k: len(v) if isinstance(v, Mapping | Sequence) and k != "file" else v
               for k, v in report.items()}
        for kind, report in reports.items()
    }  # fmt: skip
    if not quiet:
        for kind, numbers in counts.items():
            told = ", ".join(f"{v} {k}" for k, v in numbers.items() if k != "file")
            sys.stderr.write(f"{kind} {numbers['file']}: {told}; see weights.json\n")
    return counts


def _optimizer(config: InstanceTrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    learning = [p for p in network.parameters() if p.requires_grad]
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            learning, config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(learning, config.lr, weight_decay=config.weight_decay)


def _step(
    config: InstanceTrainConfig,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    normal: Normal,
    step: int,
    batch: tuple[Tensor, list[dict[str, Tensor]]],
) -> dict[str, Tensor]:
    """One optimisation step; the loss terms."""
    # Regions to train on are drawn at random: from the step, so that a resumed run draws the same.
    torch.manual_seed(config.seed * 1_000_003 + step)
    images, targets = batch
    targets = [{k: v.to(config.device, non_blocking=True) for k, v in t.items()} for t in targets]
    network.train()
    with torch.autocast(torch.device(config.device).type, torch.bfloat16, enabled=config.amp):
        terms = network(normal(images), targets)
    total = torch.stack([v.float() for v in terms.values()]).sum()
    if not torch.isfinite(total):
        raise ValueError(f"the loss became {float(total)} at step {step}; lower --lr")
    optimizer.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    if config.clip:
        nn.utils.clip_grad_norm_(network.parameters(), config.clip)
    optimizer.step()
    return {k: v.detach() for k, v in terms.items()}


def _spread(samples: Sequence[InstanceSample], count: int) -> list[InstanceSample]:
    """At most `count` samples, evenly spread."""
    count = min(count, len(samples))
    return [samples[i * len(samples) // count] for i in range(count)]


def _halo(samples: Sequence[InstanceSample]) -> int:
    """Half of nearly the largest cell and what a box needs to see around it, model pixels."""
    sides = [
        max(x1 - x0, y1 - y0)
        for s in samples
        for (x0, y0, x1, y1), label in zip(s.windows.tolist(), s.labels, strict=True)
        if label == CELL
    ]
    largest = float(np.quantile(sides, 0.99)) if sides else 0.0
    return max(LEAST_HALO_PX, math.ceil((largest / 2 + CONTEXT_PX) / STRIDE) * STRIDE)


def _told(config: InstanceTrainConfig, data: _Data, taken: Mapping[str, Any]) -> dict[str, Any]:
    """What the card says about the training; the network's options are elsewhere in it."""
    return {
        **{k: v for k, v in config.fingerprint().items() if k != "options"},
        "data": [Path(d).name for d in config.data],
        "started from": dict(taken) or "nothing",
        "device": config.device,
        "images": len(data.samples),
        "instances": sum(len(s) for s in data.samples),
        "skipped": dict(data.skipped),
    }
