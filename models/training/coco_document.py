"""The parts of a COCO file as JSON: check what each entry must have, before it is used."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "entry_key",
    "exhaustive",
    "left_out_text",
    "read_document",
    "require",
    "show_left_out",
    "stated_size",
]

PARTS = ("images", "annotations", "categories")


def read_document(file: Path) -> dict[str, Any]:
    """Read a JSON file with the three lists of COCO, in UTF-8, UTF-16 or UTF-32.

    Raises
    ------
    ValueError
        no such file, no JSON, or no COCO
    """
    if not file.is_file():
        raise ValueError(f"{file} does not exist; give a folder with annotations*.json")
    try:
        document = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON ({error}); is it cut off?") from error
    lacking = [k for k in PARTS if not isinstance(document, dict) or k not in document]
    if lacking:
        raise ValueError(f"{file} has no {', '.join(lacking)}; it must be a COCO file")
    for part in PARTS:
        if not isinstance(document[part], list):
            raise ValueError(f"{file}: {part} is no list; it must be a COCO file")
    return dict(document)


def require(entry: Any, keys: Sequence[str], where: str) -> None:
    """Raise a ValueError where an entry lacks one of `keys`."""
    for key in keys:
        if not isinstance(entry, Mapping) or key not in entry:
            raise ValueError(f"{where} has no {key}; it must be a COCO file")


def entry_key(value: Any, where: str) -> str:
    """Return an id as text, so that 7, 7.0 and "7" are the same.

    Raises
    ------
    ValueError
        neither a whole number nor text
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).strip():
        raise ValueError(f"{where} has the id {value!r}; an id is a whole number or text")
    return str(value).strip()


def stated_size(entry: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    """Return height and width that an image entry states; None where it does not, or states 0.

    Raises
    ------
    ValueError
        a value that is no whole number
    """
    size = []
    for name in ("height", "width"):
        value = entry.get(name)
        try:
            number = float(value or 0)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not (number >= 0 and number.is_integer()):
            raise ValueError(f"{where} states the {name} {value!r}; it must be a number of pixels")
        size.append(int(number))
    return (size[0], size[1]) if all(size) else None


def exhaustive(parts: Sequence[Mapping[str, Any]], where: str) -> bool:
    """Return what the first of `parts` with the key ``exhaustive`` states; otherwise True.

    Raises
    ------
    ValueError
        it is neither true nor false
    """
    for part in parts:
        value = part.get("exhaustive")
        if isinstance(value, bool):
            return value
        if value is not None:
            raise ValueError(f"{where} states exhaustive {value!r}; it must be true or false")
    return True


def left_out_text(name: str, counts: Mapping[str, int]) -> str:
    """Return one line about what of a set is not used; empty where all of it is.

    Examples
    --------
    >>> left_out_text("herlev", {"image not there": 2, "crowd": 0})
    'herlev: left out: 2 image not there'
    """
    listed = ", ".join(f"{n} {reason}" for reason, n in sorted(Counter(counts).items()) if n)
    return f"{name}: left out: {listed}" if listed else ""


def show_left_out(name: str, counts: Mapping[str, int], *, quiet: bool) -> None:
    """Print one line about what of a set is not used, where there is something."""
    text = left_out_text(name, counts)
    if text and not quiet:
        sys.stderr.write(f"{text}\n")
