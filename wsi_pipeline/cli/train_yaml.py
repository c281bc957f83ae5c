"""`wsiseg train --config`: options from a YAML file, and lists of numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from wsi_pipeline.core.errors import one_line
from wsi_pipeline.core.json_files import check_values, parse_json

__all__ = ["numbers", "read_yaml"]


def numbers(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Read a list, 12,24,48 or JSON; the settings that it belongs to check its values."""
    if not isinstance(value, str):
        return _as_tuple(value)
    try:
        return _as_tuple(parse_json(value if value.startswith("[") else f"[{value}]"))
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of numbers; write e.g. 12,24,48") from None


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value


def read_yaml(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Make the settings of a YAML file the defaults of the command."""
    if path is None:
        return
    try:
        import yaml
    except ModuleNotFoundError:
        raise click.UsageError(
            "--config reads YAML with PyYAML, which is not installed; pip install -e '.[train]'"
        ) from None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        check_values(content)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise click.UsageError(f"{path} cannot be read as YAML ({one_line(error)})") from None
    if not isinstance(content, dict) or not content:
        raise click.UsageError(f"{path} has no settings; write e.g. crop_px: 128")
    known = {str(p.name): p for p in ctx.command.params}
    for name in ("config", "option"):
        del known[name]
    ctx.default_map = {
        name: _as_given(known, name, value, path)
        for name, value in ((str(k).replace("-", "_"), v) for k, v in content.items())
    }


def _as_given(known: Mapping[str, click.Parameter], name: str, value: Any, path: Path) -> Any:
    """Return a value of a YAML file as the command line would give it: as text."""
    if name not in known:
        names = ", ".join(sorted(known))
        raise click.UsageError(f"{path}: unknown setting {name!r}; known: {names}")
    param = known[name]
    if value is None or (isinstance(value, bool) and param.type is click.STRING):
        raise click.UsageError(
            f"{path}: {name} is read as {value}; give a value, in quotes if it is a word"
        )
    if param.callback is numbers:
        return json.dumps(value)
    if param.multiple or param.nargs != 1:
        return [str(v) for v in (value if isinstance(value, list) else [value])]
    return str(value)
