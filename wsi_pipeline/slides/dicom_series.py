"""Which DICOM files belong to one slide: those of one series, in one folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["DICOM_SUFFIX", "files_of_slide", "series_of"]

DICOM_SUFFIX = ".dcm"
_SERIES = re.compile(rb"\x20\x00\x0e\x00(?:UI..|(?!UI)....)([0-9.]{1,64})", re.DOTALL)
"""DICOM's tag (0020,000E) with the id of the series, with and without a type."""
_HEAD_BYTES = 1 << 16


def series_of(path: Path) -> bytes:
    """Return the id of the series that a DICOM file belongs to; empty for other files."""
    # A pipe or a device could keep the read waiting.
    if path.suffix.lower() != DICOM_SUFFIX or not os.path.isfile(path):
        return b""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:  # the slide fails when it is opened
        return b""
    match = _SERIES.search(head) if head[128:132] == b"DICM" else None
    return match[1] if match else b""


def files_of_slide(path: Path) -> list[str]:
    """Return the names of the files that are the slide, sorted: of DICOM the series, else one."""
    series = series_of(path)
    if not series:
        return [path.name]
    beside = (p for p in path.parent.iterdir() if p.suffix.lower() == DICOM_SUFFIX)
    return sorted({path.name, *(p.name for p in beside if series_of(p) == series)})
