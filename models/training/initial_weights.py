"""Start a training from other weights: a run's, a checkpoint's, torchvision's, ImageNet's."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import load_checkpoint, load_torch_file, state_of
from ..instance.config import LITE
from .baseline_config import EncoderTrainConfig
from .config import RegionTrainConfig, TrainConfig, UNetTrainConfig
from .fine_tuning import unfold_norms
from .wubineh_config import WubinehTrainConfig

__all__ = ["start_from", "take_weights"]


def take_weights(config: TrainConfig, network: nn.Module, quiet: bool) -> dict[str, Any]:
    """Copy the weights that `config` names into the network, and report what was copied.

    The whole report is written to weights.json in `config.out`; its counts are printed to stderr
    and returned.

    Returns
    -------
    dict
        ``pretrained``, ``tuned`` and ``initial``, each only where the setting is given: the file,
        and how many entries were ``copied``, ``skipped`` or ``fresh``

    Raises
    ------
    FileNotFoundError, ValueError
        as `start_from`, `load_detector`, `load_backbone`, `load_encoder` and
        `load_library_encoder`
    """
    reports: dict[str, dict[str, Any]] = {}
    if isinstance(config, UNetTrainConfig):
        if config.pretrained != "none" and config.initial is None and config.tuned is None:
            reports["pretrained"] = _encoder_weights(network, config.pretrained)
    elif isinstance(config, WubinehTrainConfig | EncoderTrainConfig):
        if config.pretrained is not None and config.initial is None:
            from .pretrained_encoder import load_library_encoder

            reports["pretrained"] = load_library_encoder(network, config.pretrained)
    elif isinstance(config, RegionTrainConfig) and config.pretrained is not None:
        reports["pretrained"] = _trunk_weights(config, network)
    if config.tuned is not None:
        name = "/".join(config.tuned.parts[-2:])
        reports["tuned"] = {"file": name, **start_from(network, config.tuned, keep_norms=True)}
    if config.initial is not None:
        name = "/".join(config.initial.parts[-2:])
        reports["initial"] = {"file": name, **start_from(network, config.initial)}
    if not reports:
        return {}
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "weights.json").write_text(json.dumps(reports, indent=1), encoding="utf-8")
    counts = {kind: _counted(report) for kind, report in reports.items()}
    if not quiet:
        for kind, numbers in counts.items():
            listed = ", ".join(f"{v} {k}" for k, v in numbers.items() if k != "file")
            sys.stderr.write(f"{kind} {numbers['file']}: {listed}; see weights.json\n")
    return counts


def _encoder_weights(network: nn.Module, source: str) -> dict[str, Any]:
    from .pretrained_encoder import load_encoder

    return load_encoder(network, source)


def _trunk_weights(config: RegionTrainConfig, network: Any) -> dict[str, Any]:
    """Copy the weights that an instance network starts from; return the report."""
    assert config.pretrained is not None
    if str(config.pretrained) == "imagenet" or network.config.backbone.startswith(LITE):
        return _encoder_weights(network, str(config.pretrained))
    from . import pretrained as torchvision_weights

    take = getattr(torchvision_weights, f"load_{config.pretrained_as}")
    report = dataclasses.asdict(take(network, config.pretrained))
    return {"file": config.pretrained.name, **report}


def _counted(report: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the lists of a report by their lengths."""
    return {
        k: len(v) if isinstance(v, Mapping | Sequence) and k != "file" else v
        for k, v in report.items()
    }


def start_from(network: nn.Module, path: Path, *, keep_norms: bool = False) -> dict[str, Any]:
    """Copy what fits from the state of another run, or from a checkpoint.

    Parameters
    ----------
    keep_norms
        unfold the norms of a checkpoint, see `unfold_norms`

    Returns
    -------
    dict
        ``copied``: number of entries; ``fresh``: names of the entries that keep their values

    Raises
    ------
    FileNotFoundError
        no such file
    ValueError
        neither a state nor a checkpoint; nothing in it fits; or a checkpoint of a network with
        batch norm that learns, which is folded there, so that only the state of its run can be
        trained on
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a checkpoint, or a run's state.pt")
    mine = network.state_dict()
    if path.suffix == ".safetensors":
        stored = _unfolded(load_checkpoint(path)[0], mine)
        _unfold_frozen(stored, network)
        if keep_norms:
            unfold_norms(stored, network)
        # An encoder that is not in the file at all keeps the weights that it has.
        parts = {part for k in stored for part in _parents(k)}
        norms = [k for k in mine if k.endswith("running_mean") and k not in stored]
        if any(_parents(k)[1] in parts for k in norms):
            raise ValueError(f"{path}: batch norms are folded; start from the run's state.pt")
    else:
        stored = _state(path)
    fits = {
        k for k, v in mine.items()
        if isinstance(stored.get(k), Tensor) and _plain(stored[k]) and stored[k].shape == v.shape
    }  # fmt: skip
    if not fits:
        raise ValueError(f"{path}: nothing in it fits the network; is it of another architecture?")
    network.load_state_dict({k: stored[k] if k in fits else v for k, v in mine.items()})
    return {"copied": len(fits), "fresh": sorted(set(mine) - fits)}


def _plain(value: Tensor) -> bool:
    """Return whether a weight is an array of real numbers with values, not sparse or quantized."""
    real = not (value.is_complex() or value.is_quantized)
    return real and value.layout == torch.strided and not value.is_meta


def _unfold_frozen(stored: dict[str, Tensor], network: nn.Module) -> None:
    """Move the bias of a folded convolution into its frozen norm, which then does nothing else."""
    if not hasattr(network, "backbone"):
        return
    from torchvision.ops import FrozenBatchNorm2d

    from ..instance.network import norms_after_convolutions

    for conv, name in norms_after_convolutions(network):
        norm = network.get_submodule(name)
        bias = stored.get(f"{conv}.bias")
        if isinstance(norm, FrozenBatchNorm2d) and bias is not None:
            ones = torch.ones_like(bias)
            stored |= {f"{name}.weight": ones, f"{name}.bias": bias}
            stored |= {f"{name}.running_mean": 0 * ones, f"{name}.running_var": ones - norm.eps}


def _parents(name: str) -> list[str]:
    """Return the modules that hold an entry, the nearest first."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(len(parts) - 1, -1, -1)]


def _state(path: Path) -> dict[str, Tensor]:
    """Read the averaged weights of a run's state, or a state dict."""
    state = load_torch_file(path)
    if isinstance(state, dict) and isinstance(state.get("ema"), dict):
        return dict(state["ema"])
    found = state_of(state)
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError(
            f"{path}: no state of a training and no state dict; give a run's state.pt, a "
            "checkpoint, or what model.state_dict() returns"
        )
    return found


def _unfolded(stored: dict[str, Tensor], mine: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split the weights that `mine` has as length and direction (weight norm) the same way."""
    parts = ".parametrizations.weight.original"
    for name in [k.removesuffix(f"{parts}1") for k in mine if k.endswith(f"{parts}1")]:
        weight = stored.pop(f"{name}.weight", None)
        if weight is not None and weight.ndim == 4:
            stored[f"{name}{parts}0"] = weight.norm(2, (1, 2, 3), keepdim=True)
            stored[f"{name}{parts}1"] = weight
    return stored
