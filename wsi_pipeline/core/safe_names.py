"""Names of slides and models that become names of folders and files."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path

from wsi_pipeline.core.errors import SlideFormatError

__all__ = ["NameRefused", "check_name", "folder_name", "shown", "slide_id_of"]

MAX_BYTES = 200
"""Longest name in UTF-8; file systems take 255, and endings are added to it."""
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of text, so that a name looks like another one."""
_RESERVED = frozenset(
    ("CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(10)))
)
"""Names that Windows keeps for devices."""


class NameRefused(SlideFormatError):
    """A name that cannot be the name of a folder or file."""


def check_name(name: str) -> str:
    """Return the name, if it names a file or folder directly inside the folder it is used in.

    Raises
    ------
    NameRefused
        the name is empty, ``.`` or ``..``; it has a separator, a control or direction character
        or an undecodable byte; or it is longer than `MAX_BYTES`
    """
    why = _fault(name)
    if why:
        raise NameRefused(f"{name[:80]!a} cannot name a slide's results: {why}; rename the file")
    return name


def slide_id_of(path: Path) -> str:
    """Return the id of a slide: the name of its file without ending.

    Raises
    ------
    NameRefused
        the id cannot be the name of a folder

    Examples
    --------
    >>> [slide_id_of(Path(name)) for name in ("slides/a.svs", "b.ome.tiff", "c.ome.zarr")]
    ['a', 'b', 'c']
    """
    ome = path.name.lower().endswith((".ome.tif", ".ome.tiff", ".ome.zarr"))
    return check_name(Path(path.stem).stem if ome else path.stem)


def folder_name(name: str) -> str:
    """Return `name` as a folder name that every operating system takes.

    Other characters than letters, digits and ``._+-`` become ``_``. A changed name gets 8 digits
    of its SHA-256 at its end, so that two names never share a folder.

    Examples
    --------
    >>> folder_name("dssnet"), folder_name("my model/2")
    ('dssnet', 'my_model_2-6431f286')
    """
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "._+-") else "_" for c in name)
    reserved = safe.split(".")[0].upper() in _RESERVED
    dots = safe.startswith(".") or safe.endswith(".")
    if safe == name and 0 < len(safe) <= 64 and not dots and not reserved:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{'_' * reserved}{safe[:55].strip('.')}-{digest}"


def shown(name: object) -> str:
    r"""Return a name as one line of a message: what cannot be printed is escaped, with quotes.

    Examples
    --------
    >>> shown("größe.svs"), shown("a\nb.svs")
    ('größe.svs', "'a\\nb.svs'")
    """
    return str(name) if str(name).isprintable() else ascii(str(name))


def _fault(name: str) -> str:
    if name in ("", ".", ".."):
        return "it is not the name of a folder"
    if "/" in name or "\\" in name:
        return "it has a path separator"
    if any(unicodedata.category(c) in ("Cc", "Cs") or c in _TURNING for c in name):
        return "it has control characters or undecodable bytes"
    length = len(name.encode())
    return f"it has {length} bytes, more than {MAX_BYTES}" if length > MAX_BYTES else ""
