"""Check the values of a row before they go into a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsi_pipeline.core.errors import DataError
from wsi_pipeline.core.json_files import mismatch

__all__ = ["check_row"]

_TYPES = {"text": str, "count": int, "number": float}


def check_row(row: Mapping[str, Any], columns: Mapping[str, str], path: Path) -> None:
    """Refuse values that a table cannot hold; None is always possible.

    Parameters
    ----------
    columns
        name → ``text``, ``count`` (a whole number, 0 to 2⁶³) or ``number`` (finite, not negative)
    path
        file of the row, for the message

    Raises
    ------
    DataError
        a value of another kind, or text that UTF-8 cannot hold
    """
    for name, value in row.items():
        kind = columns[name]
        if value is None:
            continue
        wrong = mismatch(value, _TYPES[kind]) or not _is_text(value)
        if wrong or (kind != "text" and value < 0):
            raise DataError(f"{path}: {name} {_short(value)} is no {kind}; write it again")


def _is_text(value: Any) -> bool:
    """Return whether text can be written as UTF-8; True for what is no text."""
    return not isinstance(value, str) or value == value.encode("utf-8", "replace").decode()


def _short(value: Any) -> str:
    huge = isinstance(value, int) and abs(value) >= 2**63
    return "of 2⁶³ or more" if huge else f"{value!a:.60}"
