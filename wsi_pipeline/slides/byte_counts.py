"""The byte counts that the directories of a TIFF state, as libtiff reads them."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

__all__ = ["HARMLESS_BYTES", "largest_byte_count"]

HARMLESS_BYTES = 2**26
"""Memory that any computer has; no tile or strip of a slide needs more."""
_COUNTS = (279, 325)
"""Tags: bytes of each strip, and of each tile."""
_SIZES = {1: 1, 3: 2, 4: 4, 6: 1, 8: 2, 9: 4, 13: 4, 16: 8, 17: 8, 18: 8}
"""Type of a whole number → bytes."""
_MOST_DIRECTORIES = 10_000


def largest_byte_count(path: Path) -> int:
    """Return the most bytes that a strip or tile of a TIFF states; 0 for other files.

    tifffile leaves a damaged entry out, where libtiff takes what stands at its place: OpenSlide
    asks for as much memory, and ends the process where there is none.
    """
    with path.open("rb") as file:
        head = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None or len(head) < 16:
            return 0
        big = struct.unpack(f"{order}H", head[2:4])[0] == 43
        return max(_counts(file, order, big, head), default=0)


def _counts(file: IO[bytes], order: str, big: bool, head: bytes) -> Iterator[int]:
    """Yield the largest byte count of each entry that states some."""
    end = os.fstat(file.fileno()).st_size
    word, width, number_width = ("Q", 8, 8) if big else ("I", 4, 2)
    entry = np.dtype([("tag", f"{order}u2"), ("type", f"{order}u2"), ("count", f"{order}u{width}"),
                      ("value", f"V{width}")])  # fmt: skip
    (at,) = struct.unpack(f"{order}{word}", head[width : 2 * width])
    seen: set[int] = set()
    while 0 < at < end and at not in seen and len(seen) < _MOST_DIRECTORIES:
        seen.add(at)
        file.seek(at)
        number = int.from_bytes(file.read(number_width), "little" if order == "<" else "big")
        entries = file.read(min(number, 2**16) * entry.itemsize)
        after = file.read(width)
        for one in np.frombuffer(entries[: len(entries) // entry.itemsize * entry.itemsize], entry):
            size = _SIZES.get(int(one["type"]), 0)
            if one["tag"] not in _COUNTS or not size:
                continue
            stored = one["value"].tobytes()
            if int(one["count"]) * size > width:
                (place,) = struct.unpack(f"{order}{word}", stored)
                if place >= end:
                    continue
                file.seek(place)
                stored = file.read(min(int(one["count"]) * size, end - place))
            else:
                stored = stored[: int(one["count"]) * size]
            values = np.frombuffer(stored[: len(stored) // size * size], f"{order}u{size}")
            yield int(values.max(initial=0))
        if len(after) < width:
            return
        (at,) = struct.unpack(f"{order}{word}", after)
