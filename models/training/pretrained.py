"""Start from torchvision's weights in a local file, and report what was copied."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..checkpoint import load_torch_file, state_of
from ..detection.retinanet import RetinaNet
from ..instance.network import InstanceNetwork

__all__ = ["Report", "load_backbone", "load_detector"]

Detector = InstanceNetwork | RetinaNet

_LEGACY = (
    (r"(fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2"),
    (r"(rpn\.head\.conv)\.(weight|bias)$", r"\1.0.0.\2"),
    *(
        # RetinaNet's branches; a ReLU followed each convolution.
        (rf"(head\.\w+\.conv)\.{2 * i}\.(weight|bias)$", rf"\1.{i}.0.\2")
        for i in range(4)
    ),
)
"""Names in torchvision's older files → present names."""

_SECOND_VERSION = r"roi_heads\.box_head\.\d|rpn\.head\.conv\.1\.|head\.\w+\.conv\.\d\.1\."
"""Entries that only torchvision's detectors of version 2 have: more layers, other norms."""


@dataclass(frozen=True)
class Report:
    """Report on the weights of a file.

    Attributes
    ----------
    copied
        entries of the network that were filled
    skipped
        entries of the file that were not used, with the reason
    fresh
        entries of the network that are not in the file
    """

    copied: tuple[str, ...]
    skipped: Mapping[str, str]
    fresh: tuple[str, ...]


def _read(path: Path) -> dict[str, Tensor]:
    """Read the state of a safetensors or torch file; nothing in it is run."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; nothing is downloaded")
    if path.suffix == ".safetensors":
        try:
            return dict(state_of(load_file(path)))
        except SafetensorError as error:
            raise ValueError(f"{path}: not a file of weights alone ({error})") from error
    state = state_of(load_torch_file(path))
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path}: holds no state dict; save model.state_dict()")
    return dict(state)


def _pattern(name: str) -> str:
    """Return the pattern of our entries that start from torchvision's entry; "" for none."""
    for old, new in _LEGACY:
        name = re.sub(old, new, name)
    heads = r"(?:roi|second)_heads\."
    mask = heads + r"masks\.\d+\.(?:(?:whole|shared|rest)\.)?"
    if name.startswith(("backbone.", "head.")):
        return re.escape(name)
    if name.startswith("rpn."):
        return "(?:second_)?" + re.escape(name)
    if m := re.fullmatch(r"roi_heads\.box_(?:head|predictor)\.(\w+\.\w+)", name):
        return rf"{heads}boxes\.\d+\.{re.escape(m[1])}"
    if m := re.fullmatch(r"roi_heads\.mask_head\.(\d+)\.0\.(\w+)", name):
        # A ReLU follows each of our convolutions.
        return rf"{mask}convs\.{2 * int(m[1])}\.{m[2]}"
    if m := re.fullmatch(r"roi_heads\.mask_predictor\.conv5_mask\.(\w+)", name):
        return rf"{mask}deconv\.{m[1]}"
    if m := re.fullmatch(r"roi_heads\.mask_predictor\.mask_fcn_logits\.(\w+)", name):
        return rf"{mask}predictor\.{m[1]}"
    return ""


def _legacy_mask(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename mask heads of older files, which count from one and do not name the layer."""

    def new(match: re.Match[str]) -> str:
        return f"{match[1]}{int(match[2]) - 1}.0."

    return {re.sub(r"(roi_heads\.mask_head\.)mask_fcn(\d+)\.", new, k): v for k, v in state.items()}


@torch.no_grad()
def _copy(network: Detector, state: Mapping[str, Tensor], patterns: list[str]) -> Report:
    """Copy each entry of `state` to our entries that match its pattern and have its shape."""
    mine = network.state_dict()
    copied, skipped = [], {}
    for (name, value), pattern in zip(state.items(), patterns, strict=True):
        fits = [k for k in mine if re.fullmatch(pattern, k)]
        for k in fits:
            if mine[k].shape == value.shape:
                mine[k].copy_(value)
                copied.append(k)
            else:
                skipped[name] = f"shape {tuple(value.shape)}, {k} has {tuple(mine[k].shape)}"
        if not fits:
            skipped[name] = "no counterpart"
    fresh = tuple(k for k in mine if k not in set(copied))
    return Report(tuple(copied), skipped, fresh)


def _check(network: Detector, path: Path, report: Report) -> Report:
    if not report.copied:
        backbone = network.config.backbone
        raise ValueError(f"{path}: nothing in it fits {backbone}; is it another architecture?")
    return report


def _refuse_group(network: Detector) -> None:
    if network.config.norm == "group":
        raise ValueError(
            "weights that were trained with batch norm do not fit a network with group norm; build "
            'it with norm="frozen"'
        )


def load_detector(network: Detector, path: Path, *, eps: float = 0.0) -> Report:
    """Start from a Mask R-CNN, Faster R-CNN or RetinaNet of torchvision (first version).

    `path` is a local file. Its mask head is copied to all mask heads of DoNet, its proposals and
    boxes to both passes, its boxes to all stages of a cascade.

    Parameters
    ----------
    eps
        epsilon of the file's frozen norms: 0 in torchvision's COCO files, 1e-5 in newer ones

    Raises
    ------
    FileNotFoundError
        no such file
    ValueError
        no weights, those of a second-version detector, or none that fit
    """
    _refuse_group(network)
    state = _legacy_mask(_read(path))
    if any(re.match(_SECOND_VERSION, k) for k in state):
        raise ValueError(f"{path}: a version 2 detector, whose heads differ; use a version 1 file")
    report = _copy(network, state, [_pattern(name) for name in state])
    _shift_variance(network, report, eps)
    return _check(network, path, report)


@torch.no_grad()
def _shift_variance(network: Detector, report: Report, eps: float) -> None:
    """Correct running variances for another epsilon, which a state dict does not hold."""
    copied = set(report.copied)
    for name, module in network.named_modules():
        if f"{name}.running_var" in copied:
            module.running_var += eps - module.eps


def load_backbone(network: Detector, path: Path) -> Report:
    """Start the trunk from a classifier of torchvision, a local file; raises as `load_detector`."""
    _refuse_group(network)
    state = _read(path)
    patterns = [re.escape(f"backbone.body.{name}") for name in state]
    return _check(network, path, _copy(network, state, patterns))
