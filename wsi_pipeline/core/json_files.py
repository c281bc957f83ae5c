"""Read JSON that somebody else may have written: its size, its depth and the shape of records."""

from __future__ import annotations

import json
import types
import typing
from pathlib import Path
from typing import Any

__all__ = ["MAX_JSON_BYTES", "check_values", "mismatch", "parse_json", "parse_record", "read_json"]

MAX_JSON_BYTES = 2**24
"""Largest file that is read as a record or as a list of settings."""
MAX_VALUES = 100_000
"""Most values of a file of settings."""
LARGEST = 2**63
"""Numbers are below this in size, as in the tables that are made of them."""


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises
    ------
    ValueError
        no JSON, or values in values without end

    Examples
    --------
    >>> parse_json("[" * 100_000)
    Traceback (most recent call last):
    ValueError: its values are nested too deeply
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def parse_record(text: str) -> Any:
    r"""Parse JSON whose texts go into other files.

    Raises
    ------
    ValueError
        no JSON, values in values without end, or half of a character, as ``"\ud800"``
    """
    value = parse_json(text)
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a text of it has half of a character") from None
    return value


def read_json(path: Path) -> Any:
    """Read a file of JSON in UTF-8, as `parse_record` does.

    Raises
    ------
    OSError
        it cannot be read
    ValueError
        no file (but a folder, a pipe or a device), over `MAX_JSON_BYTES`, or no JSON
    """
    size = path.stat().st_size
    if not path.is_file():
        raise ValueError("it is no file")
    if size > MAX_JSON_BYTES:
        raise ValueError(f"its {size} bytes are more than the {MAX_JSON_BYTES} of a record")
    return parse_record(path.read_text("utf-8"))


def check_values(value: Any) -> None:
    """Refuse a value of a YAML file that is too large when it is written out.

    In YAML one value can be used many times, so that ten lines hold 10⁹ values, or a value holds
    itself.

    Raises
    ------
    ValueError
        it has more than `MAX_VALUES` values
    """
    waiting, count = [value], 0
    while waiting:
        one = waiting.pop()
        count += 1
        if count > MAX_VALUES:
            raise ValueError(f"it has more than {MAX_VALUES} values")
        if isinstance(one, dict):
            waiting += [*one, *one.values()]
        elif isinstance(one, list | tuple):
            waiting += one


def mismatch(value: Any, kind: Any, name: str = "it") -> str:
    """Return what in a value from JSON does not fit a type; empty where all of it fits.

    Parameters
    ----------
    kind
        a `TypedDict`, a list or dict of a type, a union, or str, int, float, bool or None;
        numbers are finite and below 2⁶³

    Examples
    --------
    >>> mismatch({"a": [1, "b"]}, dict[str, list[int]])
    "a[1] is 'b'"
    """
    arguments = typing.get_args(kind)
    if typing.is_typeddict(kind):
        return _missing_or_wrong(value, kind, name)
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        found = [mismatch(value, one, name) for one in arguments]
        return "" if "" in found else found[0]
    if typing.get_origin(kind) is list and isinstance(value, list):
        parts = (mismatch(v, arguments[0], f"{name}[{i}]") for i, v in enumerate(value))
        return next(filter(None, parts), "")
    if typing.get_origin(kind) is dict and isinstance(value, dict):
        return next(filter(None, (mismatch(v, arguments[1], k) for k, v in value.items())), "")
    if isinstance(value, bool | str | None):
        fits = kind is type(value)
    else:
        number = isinstance(value, int | float) and abs(value) < LARGEST
        fits = number and (kind is float or (kind is int and isinstance(value, int)))
    return "" if fits else f"{name} is {_short(value)}"


def _missing_or_wrong(value: Any, kind: Any, name: str) -> str:
    if not isinstance(value, dict):
        return f"{name} is {_short(value)}"
    for key, wanted in typing.get_type_hints(kind, include_extras=True).items():
        optional = typing.get_origin(wanted) is typing.NotRequired
        if key not in value and not optional:
            return f"{name} has no {key}"
        inner = typing.get_args(wanted)[0] if optional else wanted
        if key in value and (fault := mismatch(value[key], inner, key)):
            return fault
    return ""


def _short(value: Any) -> str:
    text = ascii(value) if isinstance(value, str | float | bool | None) else type(value).__name__
    if type(value) is int:
        text = str(value) if abs(value) < LARGEST else "a number of 2⁶³ or more"
    return text if len(text) <= 40 else f"{text[:40]}…"
