"""The networks that there are: a literal table, and the way from a checkpoint to a network.

A network's module is imported when the network is used, since PyTorch and torchvision's detection
parts take seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .checkpoint import Card, load_checkpoint, weights_path
from .detection.config import DetectorConfig, FasterRCNNConfig, RetinaNetConfig
from .instance.config import CASCADE, DONET, HTC, MASKRCNN, MS_RCNN, ORCNN, InstanceConfig
from .semantic.baseline_config import BaselineConfig, EncoderConfig, PGUNetConfig
from .semantic.config import DSSNetConfig, UNetConfig, WubinehConfig

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MODELS", "Entry", "build", "load", "weights_path"]


def _no(**options: Any) -> bool:
    return False


@dataclass(frozen=True)
class Entry:
    """One architecture. Builder, loss and decoding are three separate things.

    Attributes
    ----------
    summary
        what it finds, with its source
    task
        as in `Card`
    config
        the builder's keywords with their defaults, a settings dataclass
    builder
        keywords → network with fresh weights
    loss
        makes the loss; None where the network returns its losses in training mode, as
        torchvision's detectors do
    for_inference
        makes the weights of a network ready, the same before saving and before loading
    decode
        output of the network → class probabilities per pixel, or `Instances` of each image
    faster
        network ready for inference → one that computes the same in less time
    bfloat16
        whether that precision changes nothing that counts (Dice of the masks at least 0.999)
    inference_options
        builder's keywords that leave out what only training needs and no checkpoint holds, or
        that suit a window of a slide better than an image of a training set
    tile_px
        default tile on a slide, if not the card's
    takes_margin
        whether that faster network takes a margin, without which it returns its output
    sees_all
        builder's keywords → whether a result depends on the whole image, however large
    """

    summary: str
    task: str
    config: Any
    builder: Callable[..., nn.Module]
    loss: Callable[[], nn.Module] | None
    for_inference: Callable[[Any], nn.Module]
    decode: Callable[[Any], Any]
    faster: Callable[[Any], nn.Module]
    bfloat16: bool = False
    inference_options: Mapping[str, Any] = field(default_factory=dict)
    tile_px: int | None = None
    takes_margin: bool = False
    sees_all: Callable[..., bool] = _no


def _lazy(module: str, name: str) -> Callable[..., Any]:
    """Return a function that imports `module` of this package when it is called."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        return getattr(import_module(module, __package__), name)(*arguments, **keywords)

    return call


def _instance(name: str, config: InstanceConfig, summary: str) -> Entry:
    """Make the entry of an instance network; class 0 is the cell, 1 the nucleus."""
    return Entry(
        summary=summary,
        task="cells",
        config=config,
        builder=_lazy(".instance.network", name),
        loss=None,
        for_inference=_lazy(".instance.network", "for_inference"),
        decode=_lazy(".instance.network", "instances"),
        faster=_lazy(".instance.fast", "faster"),
        # What a predicted IoU of a mask loses in bfloat16 was not measured.
        bfloat16=not config.mask_iou,
        # More than any window holds: a limit that is reached drops cells.
        # A box that is too small cuts a straight edge: 16 of 652 cells of the extended-focus fields
        # without a margin, 6 with 5 %, 4 with 10 %; PQ of held-out ISBI cells 0.850, 0.848, 0.831.
        inference_options={"max_detections": 4000, "mask_margin": 0.05},
        tile_px=960,
    )


def _detector(name: str, config: DetectorConfig, summary: str, faster: Any, **more: Any) -> Entry:
    """Make the entry of a detector."""
    return Entry(
        summary=summary,
        task="boxes",
        config=config,
        builder=_lazy(f".detection.{name}", name),
        loss=None,
        for_inference=_lazy(".instance.network", "for_inference"),
        decode=_lazy(".detection.parts", "boxes_of"),
        faster=faster,
        **more,
    )


def _baseline(
    module: str,
    name: str,
    config: BaselineConfig,
    summary: str,
    *,
    sees_all: str = "",
    for_inference: str = "",
) -> Entry:
    """Make the entry of a network that DSSNet was compared with.

    Parameters
    ----------
    module
        file in `semantic` that has the builder `name`
    sees_all, for_inference
        functions of that file for these fields of the entry, where it has its own
    """
    file = f".semantic.{module}"
    ready = (file, for_inference) if for_inference else (".semantic.unet", "for_inference")
    return Entry(
        summary=f"nuclei, {summary}",
        task="nuclei",
        config=config,
        builder=_lazy(file, name),
        loss=_lazy(".semantic.layers", "CrossEntropy"),
        for_inference=_lazy(*ready),
        decode=_lazy(".semantic.dssnet", "decode"),
        faster=_lazy(".semantic.unet", "unchanged"),
        sees_all=_lazy(file, sees_all) if sees_all else _no,
    )


MODELS: Mapping[str, Entry] = MappingProxyType(
    {
        "dssnet": Entry(
            summary="nuclei, real time (Luo et al. 2022)",
            task="nuclei",
            config=DSSNetConfig(),
            builder=_lazy(".semantic.dssnet", "dssnet"),
            loss=_lazy(".semantic.dssnet", "DSSLoss"),
            for_inference=_lazy(".semantic.dssnet", "for_inference"),
            decode=_lazy(".semantic.dssnet", "decode"),
            faster=_lazy(".semantic.dssnet_fast", "rewrite"),
            bfloat16=True,
            inference_options={"sr_head": False, "edge_head": False},
            takes_margin=True,
        ),
        "unet": Entry(
            summary="nuclei, U-Net on an EfficientNet-Lite encoder",
            task="nuclei",
            config=UNetConfig(),
            builder=_lazy(".semantic.unet", "unet"),
            loss=_lazy(".semantic.unet", "UNetLoss"),
            for_inference=_lazy(".semantic.unet", "for_inference"),
            decode=_lazy(".semantic.dssnet", "decode"),
            faster=_lazy(".semantic.unet", "unchanged"),
            takes_margin=True,
        ),
        "wubineh": Entry(
            summary="nuclei or cytoplasm, U-Net on one of five encoders (Wubineh et al. 2024)",
            task="nuclei",
            config=WubinehConfig(),
            builder=_lazy(".semantic.wubineh", "wubineh"),
            loss=_lazy(".semantic.wubineh", "JaccardLoss"),
            for_inference=_lazy(".semantic.unet", "for_inference"),
            decode=_lazy(".semantic.dssnet", "decode"),
            faster=_lazy(".semantic.unet", "unchanged"),
            sees_all=_lazy(".semantic.wubineh", "sees_all"),
        ),
        "unetpp": _baseline(
            "encoder_baselines",
            "unetpp",
            EncoderConfig(),
            "U-Net++ (Zhou et al. 2018)",
            sees_all="unetpp_sees_all",
        ),
        "pspnet": _baseline(
            "encoder_baselines",
            "pspnet",
            EncoderConfig(encoder="resnet50"),
            "PSPNet (Zhao et al. 2017); whole images only",
            sees_all="pspnet_sees_all",
        ),
        "pgunet": _baseline(
            "pgunet",
            "pgunet",
            PGUNetConfig(),
            "PGU-Net+, which grows (Zhao et al. 2019)",
            for_inference="for_inference",
        ),
        "erfnet": _baseline("erfnet", "erfnet", BaselineConfig(), "ERFNet (Romera et al. 2018)"),
        "dfanet": _baseline(
            "dfanet",
            "dfanet",
            BaselineConfig(width=8),
            "DFANet (Li et al. 2019); whole images only",
            sees_all="sees_all",
        ),
        "donet": _instance("donet", DONET, "overlapping cells and nuclei (Jiang et al. 2023)"),
        "cascade": _instance(
            "cascade", CASCADE, "overlapping cells and nuclei, cascade (IMBMDCR-Net)"
        ),
        "maskrcnn": _instance(
            "maskrcnn", MASKRCNN, "overlapping cells and nuclei (He et al. 2017)"
        ),
        "faster_rcnn": _detector(
            "faster_rcnn",
            FasterRCNNConfig(),
            "boxes of any classes, Faster R-CNN (Xu et al. 2022)",
            _lazy(".instance.fast", "faster"),
            inference_options={"max_detections": 4000},
            tile_px=960,
        ),
        "retinanet": _detector(
            "retinanet",
            RetinaNetConfig(),
            "boxes of any classes, RetinaNet (Xu et al. 2022)",
            _lazy(".semantic.unet", "unchanged"),
            # As many nuclei as a window of a slide holds.
            inference_options={"max_detections": 4000, "candidates": 4000},
            tile_px=1024,
        ),
        "ms_rcnn": _instance(
            "ms_rcnn", MS_RCNN, "overlapping cells and nuclei, scored masks (Huang et al. 2019)"
        ),
        "htc": _instance(
            "htc", HTC, "overlapping cells and nuclei, hybrid task cascade (Chen et al. 2019)"
        ),
        "orcnn": _instance(
            "orcnn", ORCNN, "overlapping cells and nuclei, visible parts (Follmann et al. 2019)"
        ),
    }
)


def _entry(name: str) -> Entry:
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(sorted(MODELS))}")
    return MODELS[name]


def build(name: str, **options: Any) -> nn.Module:
    """Build a network with fresh weights.

    Raises
    ------
    ValueError
        no such model or option; the message names those there are
    """
    return _entry(name).builder(**options)


def _check_card(path: Path, card: Card, entry: Entry) -> None:
    """Refuse a card whose task or number of classes is not that of its network."""
    if card.task != entry.task:
        raise ValueError(f"{path}: its card states the task {card.task!r}; {card.name} is for "
                         f"{entry.task}")  # fmt: skip
    channels = card.options.get("classes")
    background = int(entry.task == "nuclei")  # pixels have a class for what is no nucleus
    if channels is not None and type(channels) is not int:
        raise ValueError(f"{path}: classes of its network are {channels!r}; give a whole number")
    if channels is not None and channels != len(card.classes) + background:
        raise ValueError(
            f"{path}: its card names {len(card.classes)} classes, its network has "
            f"{channels - background}; name as many"
        )


def load(path: Path, *, least_score: float = 0.0) -> tuple[nn.Module, Callable[[Any], Any], Card]:
    """Load a checkpoint: the network ready for inference, its decoder and its card.

    Parameters
    ----------
    least_score
        an instance network need not return detections below this score

    Raises
    ------
    FileNotFoundError, ValueError
        as `read_card`, or the weights do not fit the architecture that the card names
    """
    import torch

    from .building import limited_to

    state, card = load_checkpoint(path)
    entry = _entry(card.name)
    _check_card(path, card, entry)
    options = {**card.options, **entry.inference_options}
    if "score" in options and least_score > options["score"]:
        options["score"] = math.nextafter(least_score, 0)  # the network's bound is exclusive
    try:
        with limited_to(state):
            network = entry.builder(**options)
        network = entry.for_inference(network)
        network.load_state_dict(state)
    except ValueError as error:
        raise ValueError(f"{path}: options of its card: {error}") from error
    except (RuntimeError, TypeError, ArithmeticError, LookupError, AssertionError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[-1].strip()
        raise ValueError(f"{path}: weights do not fit {card.name}: {reason}") from error
    if any(not torch.isfinite(v).all() for v in state.values()):
        raise ValueError(
            f"{path}: weights hold values that are not finite; train or copy them anew"
        )
    return network, entry.decode, card
