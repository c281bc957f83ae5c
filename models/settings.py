"""Dataclass fields that carry their help text, and checks of their values.

The settings of networks and of training are frozen dataclasses whose fields are made by `setting`.
The command line makes its options from them, so each text stands once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import field, fields
from typing import Any, TypeVar

__all__ = ["changed", "check_choices", "configure", "setting", "typed"]

Settings = TypeVar("Settings")


def setting(
    default: Any,
    help: str,
    *,
    flags: Sequence[str] = (),
    metavar: str | None = None,
    choices: Sequence[str] = (),
    may_change: bool = False,
) -> Any:
    """Make a field of a settings dataclass.

    Parameters
    ----------
    default
        default value; `dataclasses.MISSING` where one must be given
    help
        one sentence that starts with a verb
    flags
        names on the command line; by default the field's name
    metavar
        placeholder of the value in the help text
    choices
        the allowed values
    may_change
        whether a training run can be resumed with another value
    """
    metadata = {
        "help": help,
        "flags": tuple(flags),
        "metavar": metavar,
        "choices": tuple(choices),
        "may_change": may_change,
    }
    if default is dataclasses.MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


def changed(base: type[Any], name: str, default: Any) -> Any:
    """Make a field as `base` has it under `name`, with another default."""
    (original,) = (f for f in fields(base) if f.name == name)
    return field(default=default, metadata=original.metadata)


def check_choices(settings: Any) -> None:
    """Refuse values that are not among the choices of their field.

    Raises
    ------
    ValueError
        the first such value; the message names field, value and choices
    """
    for f in fields(settings):
        known, value = f.metadata.get("choices", ()), getattr(settings, f.name)
        if known and value not in known:
            raise ValueError(f"unknown {f.name} {value!r}; use {', '.join(known)}")


def typed(name: str, value: Any, default: Any) -> Any:
    """Return `value` in the type of `default`: JSON has lists for tuples and 1 for 1.0.

    Raises
    ------
    ValueError
        another type; the message names the field
    """
    if isinstance(default, tuple):
        if not isinstance(value, list | tuple):
            raise ValueError(f"{name} {value!r} is not a list; use e.g. {list(default) or [3]}")
        # An empty default is one of whole numbers.
        return tuple(typed(name, v, default[0] if default else 0) for v in value)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if type(value) is not type(default):
        kind = type(default).__name__
        raise ValueError(f"{name} {value!r} is not of type {kind}; use e.g. {default!r}")
    return value


def configure(base: Settings, options: Mapping[str, Any]) -> Settings:
    """Return `base`, a settings dataclass, with `options` in place of its fields.

    Raises
    ------
    ValueError
        a field that does not exist or cannot have that value; the message names it
    """
    known = [f.name for f in fields(base)]  # type: ignore[arg-type]
    for name in options:
        if name not in known:
            raise ValueError(f"unknown option {name!r}; known: {', '.join(sorted(known))}")
    return dataclasses.replace(base, **options)  # type: ignore[type-var]
