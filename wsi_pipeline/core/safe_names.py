"""Names that become folders and files: what a slide may be called so that nothing escapes."""

from __future__ import annotations

import unicodedata

from wsi_pipeline.core.errors import SlideFormatError

__all__ = ["NameRefused", "check_name"]

MAX_BYTES = 200
"""Longest name in UTF-8; file systems take 255, and suffixes are put behind it."""
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Change the direction of what follows, so that a name is shown as another."""


class NameRefused(SlideFormatError):
    """A name that must not become a folder or a file."""


def check_name(name: str) -> str:
    """The name, if a folder or file of that name lies where it is made and nowhere else.

    Raises
    ------
    NameRefused
        empty, ``.`` or ``..``, with a separator, a control or direction character or an
        undecodable byte, or longer than `MAX_BYTES`
    """
    why = _fault(name)
    if why:
        raise NameRefused(f"{name[:80]!a} cannot name a slide's results: {why}; rename it")
    return name


def _fault(name: str) -> str:
    if name in ("", ".", ".."):
        return "it stands for no folder of its own"
    if "/" in name or "\\" in name:
        return "it has a path separator"
    if any(unicodedata.category(c) in ("Cc", "Cs") or c in _TURNING for c in name):
        return "it has characters that cannot be shown"
    length = len(name.encode())
    return f"it has {length} bytes, more than {MAX_BYTES}" if length > MAX_BYTES else ""
