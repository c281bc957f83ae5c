"""What `wsiseg train` does: from options to a training run."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any

from wsi_pipeline.core.errors import DataError, UsageError, one_line

__all__ = ["train_model"]


def train_model(model: str, given: Mapping[str, Any], *, device: str, quiet: bool) -> Path:
    """Train a model with what was `given`, everything else as its configuration has it.

    Parameters
    ----------
    given
        keywords of `TrainConfig` or `InstanceTrainConfig` and of their parts: zoom, stain and grey
        of `Augmentation`; cluster_chance, cluster_overlap and cluster_alpha of `Clusters`;
        ``further`` ``NAME=VALUE`` options of the network, ``light``, and those with a name of
        their own

    Returns
    -------
    Path
        the checkpoint; the state after pretraining

    Raises
    ------
    UsageError, DataError
        pycocotools is missing, or settings or data cannot be used
    """
    try:
        import pycocotools  # noqa: F401
    except ModuleNotFoundError:
        raise UsageError(
            "training reads its masks with pycocotools, which is not installed; "
            "pip install -e '.[train]'"
        ) from None
    from wsiseg_models.registry import MODELS

    from wsi_pipeline.cli.describe import describe_model
    from wsi_pipeline.segmentation.load_model import device_named

    describe_model(model)
    prepare = _cell_training if MODELS[model].task == "cells" else _nucleus_training
    try:
        start = prepare({**given, "model": model}, device_named(device))
    except ValueError as error:
        raise UsageError(one_line(error)) from error
    try:
        return start(quiet)
    except KeyError as error:
        raise DataError(f"training data lack the entry {error}; see docs/models.md") from error
    except (ValueError, OSError, pickle.UnpicklingError) as error:
        raise DataError(one_line(error)) from error


def _nucleus_training(settings: dict[str, Any], device: str) -> Callable[[bool], Path]:
    """Training of a network that classifies pixels; its argument is whether it is quiet."""
    from wsiseg_models.registry import MODELS
    from wsiseg_models.training.train_semantic import TrainConfig, predict_image, train

    from wsi_pipeline.evaluation.nucleus_metrics import nucleus_f1

    known = signature(MODELS[settings["model"]].builder).parameters
    options = _network_options(settings, known)
    _part(settings, "augmentation")
    _refuse_unknown(settings, TrainConfig)
    config = TrainConfig(**settings, options=options, device=device)

    def score(network: Any, decode: Any, held: Any) -> dict[str, Any]:
        return nucleus_f1(lambda image: predict_image(network, decode, image, device), held)

    return lambda quiet: train(config, quiet=quiet, score=score)


def _cell_training(settings: dict[str, Any], device: str) -> Callable[[bool], Path]:
    """Training of an instance model; its argument is whether it is quiet."""
    from wsiseg_models.instance.config import LIGHT, InstanceConfig
    from wsiseg_models.training.train_instance import InstanceTrainConfig, train_instances

    known = [f.name for f in fields(InstanceConfig)]
    light = LIGHT if settings.pop("light", False) else {}
    options = {**light, **_network_options(settings, known)}
    _part(settings, "augmentation")
    _part(settings, "clusters")
    _refuse_unknown(settings, InstanceTrainConfig)
    config = InstanceTrainConfig(**settings, options=options, device=device)
    return lambda quiet: train_instances(config, quiet=quiet)


_NETWORK = ("width", "depth", "block", "sr_head", "edge_head")
"""Options of networks with a name of their own on the command line."""

_PARTS = {
    "augmentation": {"zoom": "scale", "stain": "stain", "grey": "grey"},
    "clusters": {
        "cluster_chance": "chance",
        "cluster_overlap": "overlap",
        "cluster_alpha": "alpha",
    },
}
"""Parts of a configuration: keyword of the command line → theirs."""


def _network_options(settings: dict[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Take the options of the network out of `settings`; they must be among the `known`."""
    options = {name: settings.pop(name) for name in _NETWORK if name in settings}
    for text in settings.pop("further", ()):
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--option {text!r} is not NAME=VALUE")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    for name in options:
        if name not in known:
            raise UsageError(f"{settings['model']} has no {name}; it has {', '.join(known)}")
    return options


def _part(settings: dict[str, Any], name: str) -> None:
    """Put the keywords of one part of the configuration together."""
    from wsiseg_models.training.augment import Augmentation
    from wsiseg_models.training.cell_pasting import Clusters

    part = {"augmentation": Augmentation, "clusters": Clusters}[name]
    keywords = {new: settings.pop(k) for k, new in _PARTS[name].items() if k in settings}
    settings[name] = part(**keywords)


def _refuse_unknown(settings: Mapping[str, Any], config: Any) -> None:
    """Refuse what was given and the configuration of this model does not have."""
    for name in set(settings) - {f.name for f in fields(config)}:
        raise UsageError(
            f"--{name.replace('_', '-')} is no option of {settings['model']}; leave it out"
        )
