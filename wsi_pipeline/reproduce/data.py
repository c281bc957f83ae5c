"""The sets that a recipe names: below the data folder, or generated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsi_pipeline.core.files import as_output_error, part_path
from wsi_pipeline.synthetic.fields import write_fields

__all__ = ["NotRun", "prepare_set"]

FAST: Mapping[str, Any] = {"count": 5, "size_px": 96, "mpp": 0.75}
"""Generated fields of a fast check."""


class NotRun(Exception):
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
    fields = dict(entry.get("generated", {}))
    if fast:
        # All rows share the stand-in, but those that need another kind of truth.
        folder = out / ("fast_two_classes" if fields.get("two_classes") else "fast")
        return _generated(folder, {**fields, **FAST}), (
            f"{FAST['count']} generated fields, not: {text}"
        )
    if fields:
        return _generated(out / name, fields), text
    if root is None:
        raise NotRun(f"{entry['path']} is not here; give its folder with --data-root")
    path, at, mpp = entry["path"].partition("@")
    if not (root / path).exists():
        raise NotRun(f"{root / path} does not exist; nothing is downloaded, see docs/papers.md")
    return f"{root / path}{at}{mpp}", text


def _generated(folder: Path, fields: Mapping[str, Any]) -> str:
    """Write generated fields, unless they are there."""
    if not (folder / "annotations.json").is_file():
        mpp = fields["mpp"]
        keywords = {**fields, "mpp": tuple(mpp) if isinstance(mpp, list) else mpp}
        with as_output_error(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
        with part_path(folder) as part:
            write_fields(part, **keywords)
    return str(folder)
