"""Object ids that are the same in every run."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

__all__ = ["object_ids", "uuids"]


def object_ids(
    slide_id: str,
    model: str,
    position: NDArray[np.int64],
    kind: NDArray[np.uint64] | None = None,
) -> NDArray[np.uint64]:
    """Return UUIDs of version 8 (RFC 9562) made from slide, model and position.

    Parameters
    ----------
    position
        (n, 2): x and y of each object's first pixel
    kind
        (n,): a number that differs between objects with the same first pixel, where objects may
        overlap

    Returns
    -------
    uint64 (n, 2): high and low half of each UUID
    """
    digest = hashlib.blake2b(f"{slide_id}\0{model}".encode(), digest_size=16).digest()
    place = (position[:, 1].astype(np.uint64) << np.uint64(32)) | position[:, 0].astype(np.uint64)
    if kind is not None:
        place ^= _mixed(kind)
    return uuids(
        np.stack([place ^ np.uint64(int.from_bytes(digest[i : i + 8], "big")) for i in (0, 8)], 1)
    )


def uuids(halves: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return UUIDs of version 8 (RFC 9562), uint64 (n, 2), from any numbers, uint64 (n, 2).

    The high half comes from the first number and the low half from the second. Different numbers
    give different halves, up to the six bits that state version and variant.
    """
    mixed = _mixed(halves)
    high = (mixed[:, 0] & np.uint64(0xFFFFFFFFFFFF0FFF)) | np.uint64(0x8000)
    low = (mixed[:, 1] & np.uint64(0x3FFFFFFFFFFFFFFF)) | np.uint64(1 << 63)
    return np.stack([high, low], 1)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix the bits of x (n,) with the last step of SplitMix64, a bijection of 64-bit numbers.

    Different positions therefore differ in each half before the version bits are set. Source:
    Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators", OOPSLA, figure 16.
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
