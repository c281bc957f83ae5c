"""Load models: networks with their weights, on a device. Only this module imports PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from wsiseg_models import registry as networks
from wsiseg_models.checkpoint import Card, read_card, weights_path
from wsiseg_models.kinds.network import KindNet, load_kinds, network_input
from wsiseg_models.precision import has_bfloat16

from wsi_pipeline.core.config import ObjectRule, RunConfig
from wsi_pipeline.core.errors import CheckpointError, ConfigError, DeviceError, UnknownModelError
from wsi_pipeline.core.machine import usable_cores
from wsi_pipeline.segmentation.boxes import BoxModel
from wsi_pipeline.segmentation.cells import InstanceModel
from wsi_pipeline.segmentation.kinds import KIND_CLASSES, KINDS_NAME, KindSorter, reach_of_kinds
from wsi_pipeline.segmentation.model import Images, Instances, Model
from wsi_pipeline.segmentation.nuclei import PixelModel, nuclei_only
from wsi_pipeline.segmentation.ownership import OBJECT_HALO_PX

__all__ = [
    "device_named",
    "list_models",
    "model_for",
    "model_from_module",
    "open_model",
]

MOST_AT_ONCE = 4
"""Largest number of threads that call the network at the same time on a CPU."""

_DEVICES = "use auto, cpu, cuda, cuda:0 or mps"


def device_named(name: str) -> str:
    """Return the device with this name; for ``auto`` cuda where there is one, otherwise cpu.

    A CPU has one name: PyTorch takes ``cpu:0`` and any other number for it. An Apple GPU has to be
    named, ``mps``, since the networks were never run on one.

    Raises
    ------
    DeviceError
        this machine has no such device, or the name is unknown

    Examples
    --------
    >>> device_named("cpu")
    'cpu'
    >>> device_named("gpu")
    Traceback (most recent call last):
    ...
    wsi_pipeline.core.errors.DeviceError: unknown device 'gpu'; use auto, cpu, cuda, cuda:0 or mps
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"unknown device {name!r}; {_DEVICES}") from None
    if device.type == "cpu":
        return "cpu"
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        # PyTorch keeps the last 8 bits of a number: 256 is 0, and 128 is -128.
        if int(name.partition(":")[2] or 0) >= count:
            raise DeviceError(
                f"no device {name!r}: this machine has {count} usable GPUs; use --device cpu"
            )
    elif device.type == "mps":
        if device.index or not torch.backends.mps.is_available():
            raise DeviceError(
                f"no device {name!r}: this machine has no Apple GPU that PyTorch can use; "
                "use --device cpu"
            )
    else:
        raise DeviceError(f"device {name!r} is not supported; {_DEVICES}")
    return name


def open_model(
    name: str,
    *,
    checkpoint: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    least_score: float | Callable[[ObjectRule], float] = 0.0,
    kinds: bool = False,
    kinds_checkpoint: Path | None = None,
) -> Model:
    """Open a model with the weights that ship with the package, or with those of a checkpoint.

    Parameters
    ----------
    name
        of a registered model; ignored if there is a checkpoint
    device
        see `device_named`
    precision
        ``float32``, ``bfloat16``, or ``auto``: bfloat16 where the device computes it in hardware
        and the masks of this architecture stay the same (Dice at least 0.999), otherwise float32
    least_score
        instances with a lower score may be left out, so that no mask is computed for them; or a
        function that computes this score from the model's rule
    kinds
        also sort nuclei, see `wsi_pipeline.segmentation.kinds`; only for models whose one class is
        "nucleus"
    kinds_checkpoint
        file of the weights that sort them; those that ship if not given

    Raises
    ------
    UnknownModelError
        no registered model has this name
    CheckpointError
        the checkpoint cannot be read, or its weights do not fit
    DeviceError
        the device does not exist or cannot compute bfloat16
    """
    if checkpoint is None and name not in networks.MODELS:
        known = ", ".join(sorted(networks.MODELS))
        raise UnknownModelError(f"unknown model {name!r}; known: {known}, or give --checkpoint")
    where = device_named(device)
    path = checkpoint or weights_path(name)
    try:
        if callable(least_score):
            least_score = least_score(_rule(read_card(path)))
        network, decode, card = networks.load(path, least_score=least_score)
    except (FileNotFoundError, ValueError) as error:
        raise CheckpointError(str(error)) from error
    entry = networks.MODELS[card.name]
    if precision == "auto":
        precision = "bfloat16" if entry.bfloat16 and has_bfloat16(where) else "float32"
    elif precision == "bfloat16":
        _check_bfloat16(where)
    model = _model(entry.faster(network), decode, card, where, precision, entry)
    return _with_kinds(model, kinds_checkpoint or weights_path(KINDS_NAME)) if kinds else model


def _with_kinds(model: Model, path: Path) -> Model:
    """Return a model that also sorts its nuclei, or the same one if that cannot be."""
    try:
        network, card = load_kinds(path)
    except (FileNotFoundError, ValueError) as error:
        raise CheckpointError(str(error)) from error
    # Farther from a nucleus than this, a window may be blank or end.
    reaches = reach_of_kinds(model.mpp) <= min(model.halo_px, OBJECT_HALO_PX)
    if not (isinstance(model, PixelModel) and model.classes == KIND_CLASSES[:1] and reaches):
        return model
    sort = _LoadedKinds(network.to(model.device), card, model.device)
    limits = tuple(card.rule.get(kind, 0.5) for kind in card.classes)
    sorter = KindSorter(sort.probabilities, model.mpp, limits)
    return replace(model, classes=KIND_CLASSES, sorter=sorter)


def _check_bfloat16(device: str) -> None:
    """Raise a DeviceError if PyTorch refuses bfloat16 on a device, as on macOS before 14."""
    try:
        torch.ones(1, dtype=torch.bfloat16, device=device) + 1
    except (RuntimeError, TypeError) as error:
        raise DeviceError(
            f"{device} cannot compute bfloat16 ({error}); use --precision float32"
        ) from error


def model_from_module(
    module: torch.nn.Module,
    card: Card,
    *,
    decode: Callable[[torch.Tensor], torch.Tensor] | None = None,
    device: str = "auto",
) -> Model:
    """Make a model of any torch module: normalised images (n, 3, h, w) → logits (n, 1 + k, h, w).

    Parameters
    ----------
    card
        classes, mpp, halo, stride and normalisation; its `name` appears in results
    decode
        output → uint8 (n, k, h, w); by default softmax without the background

    Raises
    ------
    DeviceError
        see `device_named`

    Examples
    --------
    >>> card = Card(name="grey", task="nuclei", classes=("nucleus",), mpp=0.5, halo_px=0)
    >>> module = torch.nn.Conv2d(3, 2, kernel_size=1)
    >>> model = model_from_module(module, card, device="cpu")
    >>> model.infer(np.zeros((1, 64, 64, 3), np.uint8))[0].shape
    (1, 64, 64)
    """
    default = networks.MODELS["dssnet"].decode
    return _model(module.eval(), decode or default, card, device_named(device))


def list_models() -> list[dict[str, Any]]:
    """List the registered models: name, summary, path, and card where weights ship."""
    rows = []
    for name, entry in networks.MODELS.items():
        path = weights_path(name)
        card = read_card(path) if path.is_file() else None
        rows.append({"name": name, "summary": entry.summary, "card": card, "path": path})
    return rows


def _model(
    network: torch.nn.Module,
    decode: Callable[[Any], Any],
    card: Card,
    device: str,
    precision: str = "float32",
    entry: networks.Entry | None = None,
) -> Model:
    """Move a network to its device and make a `Model` of it, of the kind that its card states."""
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    network = network.to(device, dtype).to(memory_format=torch.channels_last)
    mean, std = (
        torch.tensor(value, dtype=torch.float32, device=device).view(-1, 1, 1)
        for value in (card.mean, card.std)
    )
    loaded = _LoadedNetwork(network, decode, mean, std, card.halo_px, device, dtype)
    at_once, torch_threads = _threads(device)
    about: dict[str, Any] = {
        "name": card.name,
        "classes": card.classes,
        "mpp": card.mpp,
        "halo_px": card.halo_px,
        "stride": card.stride,
        "tile_px": (entry and entry.tile_px) or card.tile_px,
        "identity": card.sha256 or card.name,
        "device": device,
        "precision": precision,
        "at_once": at_once,
        "share": loaded.start_thread,
        "torch_threads": torch_threads,
        "rule": _rule(card),
        "sees_all": entry is not None and entry.sees_all(**card.options),
        "card": {
            k: getattr(card, k)
            for k in ("task", "licence", "data", "parameters", "sha256", "stain")
        },
    }
    if card.task == "cells":
        return InstanceModel(network=loaded.instances, **about)
    if card.task == "boxes":
        apart = not card.options.get("exclusive", False)
        return BoxModel(network=loaded.instances, by_class=apart, **about)
    core = loaded.core_probabilities if entry and entry.takes_margin else None
    return PixelModel(network=loaded.probabilities, core_network=core, **about)


def _rule(card: Card) -> ObjectRule:
    """Return the rule that a card holds, the rest by default.

    Raises
    ------
    CheckpointError
        the card holds a rule that cannot be used
    """
    try:
        return ObjectRule(**card.rule)
    except (TypeError, ConfigError) as error:
        raise CheckpointError(f"the card of {card.name} has no usable rule ({error})") from error


def _threads(device: str) -> tuple[int, int | None]:
    """Return how many threads call the network at the same time, and PyTorch's threads in each.

    On a CPU the threads of one call wait for each other after every layer, while two calls do not
    wait for each other; each call takes half a gigabyte. On a CUDA GPU one call computes while
    the other copies. Elsewhere one call at a time, since there are no streams.
    """
    if device == "cpu":
        cores = usable_cores()
        at_once = min(cores, MOST_AT_ONCE)
        return at_once, cores // at_once
    return (2 if device.startswith("cuda") else 1), None


@dataclass(frozen=True, eq=False)
class _LoadedNetwork:
    """A network on its device, with what turns images into its input and its output into answers.

    Attributes
    ----------
    network
        normalised images (n, 3, h, w) → output
    decode
        output → class probabilities uint8 (n, classes, h, w), or `Instances` of each image
    mean, std
        float32 (1 or 3, 1, 1) on the device: the input is ``(image − mean) / std``
    halo_px, device, dtype
        the model's halo; where and in which type the network computes
    """

    network: torch.nn.Module
    decode: Callable[[Any], Any]
    mean: torch.Tensor
    std: torch.Tensor
    halo_px: int
    device: str
    dtype: torch.dtype

    @property
    def on_cuda(self) -> bool:
        """Whether the device is a CUDA GPU, with pinned memory and streams."""
        return self.device.startswith("cuda")

    def start_thread(self) -> None:
        """Give the calling thread a CUDA stream of its own."""
        if self.on_cuda:
            torch.cuda.set_stream(torch.cuda.Stream(self.device))  # type: ignore[no-untyped-call]

    def _run(self, images: Images, *margin: int) -> Any:
        """Decode the network's output for images uint8 (n, h, w, 3)."""
        x = torch.from_numpy(images)
        if self.on_cuda:
            x = x.pin_memory()  # a copy from other memory would block this thread and all streams
        x = x.to(self.device, non_blocking=self.on_cuda).permute(0, 3, 1, 2).float()
        x = ((x - self.mean) / self.std).to(self.dtype, memory_format=torch.channels_last)
        return self.decode(self.network(x, *margin))

    @torch.inference_mode()
    def probabilities(self, images: Images) -> NDArray[np.uint8]:
        """Compute class probabilities uint8 (n, classes, h, w)."""
        scores: NDArray[np.uint8] = self._run(images).cpu().numpy()
        return scores

    @torch.inference_mode()
    def core_probabilities(self, images: Images) -> NDArray[np.uint8]:
        """Compute the same without the halo on each side, by a network that takes a margin."""
        scores: NDArray[np.uint8] = self._run(images, self.halo_px).cpu().numpy()
        return scores

    @torch.inference_mode()
    def instances(self, images: Images) -> list[Instances]:
        """Find the instances in each image."""
        found: list[Instances] = self._run(images)
        return found


@dataclass(frozen=True, eq=False)
class _LoadedKinds:
    """A KindNet on its device, with its card."""

    network: KindNet
    card: Card
    device: str

    @torch.inference_mode()
    def probabilities(self, crops: Images) -> NDArray[np.float32]:
        """Compute the probability of each kind, float32 (n, kinds), of crops (n, s, s, 4)."""
        x = network_input(torch.from_numpy(crops).to(self.device), self.card)
        found: NDArray[np.float32] = self.network(x).softmax(1).cpu().numpy()
        return found


def model_for(config: RunConfig) -> Model:
    """Open the model that a run with these settings uses; see `open_model` for errors.

    Of a network with whole cells and the nuclei in them it keeps the nuclei.
    """
    model = open_model(
        config.model,
        checkpoint=config.checkpoint,
        device=config.device,
        precision=config.precision,
        least_score=lambda rule: config.object_rule(rule).least_score,
        kinds=config.kinds,
        kinds_checkpoint=config.kinds_checkpoint,
    )
    return nuclei_only(model)
