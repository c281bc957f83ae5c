"""The options of `wsiseg train MODEL`, made from the settings of the training and the network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import click
from click.core import ParameterSource

from wsi_pipeline.cli.fine_tune import (
    before_and_after,
    from_options,
    require_pycocotools,
    tuned_settings,
    with_replay,
)
from wsi_pipeline.cli.options import FILE, NEW_FOLDER, device_option, quiet_option
from wsi_pipeline.cli.train_yaml import numbers, read_yaml
from wsi_pipeline.core.errors import DataError, UsageError, one_line
from wsi_pipeline.core.json_files import parse_json

__all__ = ["Target", "build_config", "model_command", "network_defaults", "targets", "train_model"]

NETWORK = "options"
"""Part of the settings that holds the keywords of the network's builder."""

SECTIONS = {
    "": "Training",
    "augmentation": "Augmentation",
    "clusters": "Pasted cells",
    "distillation": "Learning from a teacher",
    NETWORK: "Network",
}
"""Part of the settings → heading of its options in the help text."""


@dataclass(frozen=True)
class Target:
    """Where the value of an option goes.

    Attributes
    ----------
    part
        ``""`` the settings themselves, otherwise the name of a part of them
    field
        the dataclass field; its metadata holds the help text
    hint
        type of the field
    default
        default value; `dataclasses.MISSING` where one must be given
    """

    part: str
    field: dataclasses.Field[Any]
    hint: Any
    default: Any

    @property
    def flags(self) -> tuple[str, ...]:
        """Names of the option on the command line."""
        own = self.field.metadata.get("flags") or (f"--{self.field.name.replace('_', '-')}",)
        if self.hint is bool:
            return (f"{own[0]}/--no-{own[0].removeprefix('--')}",)
        return tuple(own)

    @property
    def name(self) -> str:
        """Name of the option in Python and in a YAML file."""
        return self.flags[0].split("/")[0].removeprefix("--").replace("-", "_")


def _config_class(model: str) -> Any:
    """Return the class of the settings with which a model is trained."""
    from wsiseg_models.registry import MODELS
    from wsiseg_models.training import baseline_config, config
    from wsiseg_models.training.detector_config import DetectorTrainConfig
    from wsiseg_models.training.wubineh_config import WubinehTrainConfig

    by_task = {"cells": config.InstanceTrainConfig, "boxes": DetectorTrainConfig}
    if MODELS[model].task in by_task:
        return by_task[MODELS[model].task]
    own = {
        "unet": config.UNetTrainConfig,
        "wubineh": WubinehTrainConfig,
        "unetpp": baseline_config.EncoderTrainConfig,
        "pspnet": baseline_config.EncoderTrainConfig,
        "pgunet": baseline_config.GrowingTrainConfig,
        "erfnet": baseline_config.BaselineTrainConfig,
        "dfanet": baseline_config.BaselineTrainConfig,
    }
    return own.get(model, config.SemanticTrainConfig)


def network_defaults(model: str) -> Any:
    """Return the settings of a network, with its published values."""
    from wsiseg_models.registry import MODELS

    return MODELS[model].config


@cache
def targets(model: str) -> Mapping[str, Target]:
    """Return name → `Target` of every option of a model, in the order of the help text."""
    config = _config_class(model)
    found: list[Target] = []
    parts: list[tuple[str, Any]] = []
    hints = get_type_hints(config)
    for f in fields(config):
        default = f.default if f.default_factory is MISSING else f.default_factory()
        if dataclasses.is_dataclass(default):
            parts.append((f.name, default))
        elif f.name not in ("model", "options", "device", "tuned"):
            found.append(Target("", f, hints[f.name], default))
    parts.append((NETWORK, network_defaults(model)))
    for part, defaults in parts:
        hints = get_type_hints(type(defaults))
        for f in fields(defaults):
            if (part, f.name) != (NETWORK, "classes"):  # computed from the training's classes
                found.append(Target(part, f, hints[f.name], getattr(defaults, f.name)))
    return {target.name: target for target in found}


def _option(target: Target) -> click.Option:
    """Make the click option of one setting."""
    metadata, hint, default = target.field.metadata, target.hint, target.default
    keywords: dict[str, Any] = {"help": metadata["help"], "metavar": metadata["metavar"]}
    if metadata["choices"]:  # the settings check them, so that a YAML file is checked too
        keywords["metavar"] = "|".join(metadata["choices"])
    if get_origin(hint) is UnionType:
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is tuple:
        item, *rest = get_args(hint)
        if rest != [...]:  # two numbers
            keywords |= {"type": item, "nargs": 1 + len(rest)}
        elif target.part == NETWORK:
            keywords |= {"type": click.UNPROCESSED, "callback": numbers, "metavar": "LIST"}
        else:
            keywords |= {"type": item, "multiple": True}
    elif hint is not bool:
        path = NEW_FOLDER if target.name == "out" else FILE
        keywords["type"] = path if hint is Path else hint
    if default is MISSING:
        keywords["required"] = True
    else:
        keywords["default"] = default
    if default == float("inf"):
        keywords["show_default"] = "no limit"
    return click.Option([*target.flags, target.name], **keywords)


class _Command(click.Command):
    """The command of a model, named after it; its options are listed under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        known = targets(str(self.name))
        for part, heading in SECTIONS.items():
            records = [
                record
                for param in self.get_params(ctx)
                if param.name in known and known[param.name].part == part
                and (record := param.get_help_record(ctx))
            ]  # fmt: skip
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)
        others = [
            record
            for param in self.get_params(ctx)
            if param.name not in known and (record := param.get_help_record(ctx))
        ]
        with formatter.section("Other"):
            formatter.write_dl(others)


def model_command(model: str) -> click.Command:
    """Make the command that trains one model."""
    from wsiseg_models.registry import MODELS

    entry = MODELS[model]
    params = [_option(target) for target in targets(model).values()]
    params += _further_options(light=entry.task == "cells")

    @quiet_option
    @device_option
    def run(device: str, quiet: bool, **settings: Any) -> None:
        ctx = click.get_current_context()
        given = {
            name: value
            for name, value in settings.items()
            if ctx.get_parameter_source(name)
            in (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)
        }
        path = train_model(model, given, device=device, quiet=quiet)
        if not quiet:
            click.echo(f"{path}  (log: {path.with_name('log.jsonl')})")

    make = click.command(
        model, cls=_Command, params=params, short_help=entry.summary,
        help=f"Train {model}: {entry.summary}. Run the same command again to resume.",
    )  # fmt: skip
    command: click.Command = make(run)
    return command


def _further_options(*, light: bool) -> list[click.Option]:
    """Make the options that are no settings; --light only for the instance networks."""
    small = click.Option(
        ["--light"], is_flag=True,
        help="Build the small network that ships instead of the published one. The options of "
        "the network then change the small one.",
    )  # fmt: skip
    config = click.Option(
        ["--config"], type=FILE, is_eager=True, expose_value=False, callback=read_yaml,
        metavar="FILE.yaml",
        help="Read options from this YAML file, e.g. `crop_px: 128`. Options on the command line "
        "win over the file.",
    )  # fmt: skip
    named = click.Option(
        ["--option"], multiple=True, metavar="NAME=VALUE", hidden=True,
        help="Set an option of the network, VALUE as JSON. Each has a flag of its own now.",
    )  # fmt: skip
    return [*from_options(), *([small] if light else []), config, named]


def build_config(model: str, given: Mapping[str, Any], device: str) -> Any:
    """Make the settings of a training from what was given, the rest from their defaults.

    Parameters
    ----------
    given
        option name → value; besides `targets` also ``light`` and ``option``, and what
        `tuned_settings` adds

    Raises
    ------
    UsageError
        a value that cannot be, or values that do not fit together
    """
    from wsiseg_models.instance.config import LIGHT
    from wsiseg_models.settings import configure

    known = targets(model)
    values: dict[str, dict[str, Any]] = {part: {} for part in SECTIONS}
    values[NETWORK].update(given.get("tuned_options", {}))
    if given.get("light"):
        values[NETWORK].update(LIGHT)
    values[NETWORK].update(_named_options(model, given.get("option", ())))
    for name, value in given.items():
        if name in known:
            values[known[name].part][known[name].field.name] = value
    config = _config_class(model)
    try:
        configure(network_defaults(model), values[NETWORK])
        for f in fields(config):
            if f.name in SECTIONS and f.name != NETWORK and f.default_factory is not MISSING:
                values[""][f.name] = configure(f.default_factory(), values[f.name])
        return config(
            model=model, device=device, options=values[NETWORK], tuned=given.get("tuned"),
            **values[""],
        )  # fmt: skip
    except ValueError as error:
        raise UsageError(one_line(error)) from error


def _named_options(model: str, texts: Sequence[str]) -> dict[str, Any]:
    """Read ``NAME=VALUE`` options of the network, VALUE as JSON or plain text."""
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--option {text!r} is not NAME=VALUE")
        known = [t.field.name for t in targets(model).values() if t.part == NETWORK]
        if name not in known:
            raise UsageError(f"{model} has no option {name!r}; it has {', '.join(known)}")
        try:
            options[name] = parse_json(value)
        except ValueError:
            options[name] = value
    return options


def train_model(model: str, given: Mapping[str, Any], *, device: str, quiet: bool) -> Path:
    """Train a model.

    Parameters
    ----------
    given
        as in `build_config`

    Returns
    -------
    Path
        the checkpoint; after pretraining the run's state

    Raises
    ------
    UsageError, DeviceError, DataError
        pycocotools is missing, or settings, device or data cannot be used
    """
    require_pycocotools()
    from wsi_pipeline.segmentation.load_model import device_named

    network = [name for name, target in targets(model).items() if target.part == NETWORK]
    given = tuned_settings(model, given, network)
    device = device_named(device)
    build_config(model, given, device)  # a wrong value is refused before fields are generated
    config = build_config(model, with_replay(given, quiet=quiet), device)
    try:
        path = _start(config, quiet)
    except (ValueError, OSError) as error:
        raise DataError(one_line(error)) from error
    if config.tuned is not None:
        before_and_after(config, path, quiet=quiet)
    return path


def _start(config: Any, quiet: bool) -> Path:
    """Start the training that the settings are for."""
    from wsiseg_models.training.config import InstanceTrainConfig
    from wsiseg_models.training.detector_config import DetectorTrainConfig

    if isinstance(config, InstanceTrainConfig):
        from wsiseg_models.training.train_instance import train_instances

        return train_instances(config, quiet=quiet)
    if isinstance(config, DetectorTrainConfig):
        from wsiseg_models.training.train_detection import train_detector

        return train_detector(config, quiet=quiet)
    from wsiseg_models.training.coco import CELLS
    from wsiseg_models.training.train_semantic import predict_image, train_semantic

    from wsi_pipeline.evaluation.nucleus_metrics import nucleus_f1

    def score(network: Any, decode: Any, held: Any) -> dict[str, Any]:
        if set(config.categories) & set(CELLS):
            return {}
        return nucleus_f1(lambda image: predict_image(network, decode, image, config.device), held)

    return train_semantic(config, quiet=quiet, score=score)
