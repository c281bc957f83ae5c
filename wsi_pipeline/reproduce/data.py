"""The sets that a recipe names: below the data folder, or generated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsi_pipeline.core.errors import WsisegError
from wsi_pipeline.core.files import as_output_error, part_path, write_json
from wsi_pipeline.synthetic.fields import write_fields

__all__ = ["NotRun", "prepare_set"]

FAST: Mapping[str, Any] = {"count": 5, "size_px": 96, "mpp": 0.75}
"""Generated fields of a fast check."""
POSITIVE = ("lsil", "hsil")
"""Kinds of generated cells whose nuclei are large and deformed."""


class NotRun(WsisegError):
    """A row cannot be run here; the message is the reason."""


def prepare_set(
    name: str, entry: Mapping[str, Any], root: Path | None, out: Path, *, fast: bool
) -> tuple[str, str]:
    """Return the set as `wsiseg train` takes it, and its name in the table.

    Generated sets are written below `out`, unless they are there.

    Parameters
    ----------
    name, entry
        see `Recipe.data`
    root
        the data folder; None: there is none
    fast
        a few generated fields in place of every set

    Raises
    ------
    NotRun
        the set is not there
    """
    text = entry.get("text", name)
    if fast:
        fields = {**entry.get("generated", {}), **FAST}
        kinds = fields.pop("kinds", False)
        # All rows share the stand-in, but those that need another kind of truth.
        return _generated(out / ("fast_kinds" if kinds else "fast"), fields, kinds), (
            f"{FAST['count']} generated fields, not: {text}"
        )
    if "generated" in entry:
        fields = dict(entry["generated"])
        kinds = fields.pop("kinds", False)
        return _generated(out / name, fields, kinds), text
    if root is None:
        raise NotRun(f"{entry['path']} is not here; give its folder with --data-root")
    path, at, mpp = entry["path"].partition("@")
    if not (root / path).exists():
        raise NotRun(f"{root / path} does not exist; nothing is downloaded, see docs/papers.md")
    return f"{root / path}{at}{mpp}", text


def _generated(folder: Path, fields: Mapping[str, Any], kinds: bool) -> str:
    """Write generated fields, unless they are there; with `kinds` two categories of nuclei."""
    if not (folder / "annotations.json").is_file():
        keywords = dict(fields)
        if isinstance(keywords["mpp"], list):
            keywords["mpp"] = tuple(keywords["mpp"])
        with as_output_error(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
        with part_path(folder) as part:
            write_fields(part, **keywords)
            if kinds:
                _by_kind(part / "annotations.json")
    return str(folder)


def _by_kind(path: Path) -> None:
    """Give the nuclei of a generated set the categories ``negative`` and ``positive``."""
    document = json.loads(path.read_text(encoding="utf-8"))
    document["annotations"] = [
        a | {"category_id": 1 + (a["kind"] in POSITIVE)}
        for a in document["annotations"]
        if a["category_id"] == 1
    ]
    document["categories"] = [{"id": 1, "name": "negative"}, {"id": 2, "name": "positive"}]
    write_json(path, document)
