"""What commands print: tables, JSON and errors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

__all__ = ["as_json", "print_error", "table"]


def as_json(content: Any) -> str:
    """Return indented JSON that people and programs can read."""
    return json.dumps(content, indent=1, ensure_ascii=False, default=str)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of equal length as text with aligned columns."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def print_error(text: str) -> None:
    """Write one line, ``wsiseg: text``, to standard error."""
    click.echo(f"wsiseg: {' '.join(text.split())}", err=True)
