"""Objects to GeoJSON bytes without one Python object per nucleus, and without the GIL.

Coordinates are whole hundredths of a pixel and are written as integers with a point put in.
Measurements get the fewest digits (at least six) that read back as the same float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.formats._geojson_kernels import (
    GEOMETRY,
    HEAD,
    MANY,
    NUCLEI,
    NUCLEUS,
    Bytes,
    ObjectArrays,
    Texts,
    put_features,
    put_uuids,
)

__all__ = ["Families", "ObjectArrays", "byte_budget", "kernel_arguments", "render", "uuid_text"]

_NUMBER_BYTES = 20
"""Longest measurement: a sign, "0." and 14 places; with room for three more."""
_FEATURE_BYTES = len(HEAD) + 36 + len(GEOMETRY) + len("},}}}")
_NUCLEUS_BYTES = len(NUCLEI) + len(NUCLEUS) + 36 + len(MANY) + len(",,[]")


@dataclass(frozen=True, eq=False)
class Families:
    """Cells that are written with their nuclei: feature f is the rows ``start[f]:start[f + 1]``.

    The first row of a feature is the cell, or an object by itself; its nuclei follow.

    Attributes
    ----------
    start
        int64 (features + 1,)
    kind
        int64 (features,): position in `class_texts` of each feature
    nucleus_texts
        per class, everything in the entry of a nucleus after its id
    name_blocks
        names of all columns, end to end: of objects by themselves, of cells with nuclei, of their
        only nucleus, of the first of several, of the second …; empty where a column is left out
    """

    start: NDArray[np.int64]
    kind: NDArray[np.int64]
    nucleus_texts: Sequence[bytes]
    name_blocks: Sequence[bytes]

    @classmethod
    def single(cls, objects: ObjectArrays, column_texts: Sequence[bytes]) -> Families:
        """Return families of one object each."""
        n = len(objects.class_index)
        return cls(np.arange(n + 1), objects.class_index.astype(np.int64), (), column_texts)


def _joined(texts: Sequence[bytes]) -> Texts:
    """Return `texts` end to end."""
    starts = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    return Texts(np.frombuffer(b"".join(texts), np.uint8).copy(), starts)


def render(
    objects: ObjectArrays,
    class_texts: Sequence[bytes],
    column_texts: Sequence[bytes],
    families: Families | None = None,
) -> bytes:
    """Return comma-joined Features of n objects.

    Parameters
    ----------
    class_texts
        per class, everything between the coordinates and the first measurement
    column_texts
        per column, its quoted name and the colon
    families
        the objects that make one feature; each its own if not given
    """
    families = families or Families.single(objects, column_texts)
    out = np.empty(byte_budget(objects, class_texts, families), np.uint8)
    end = put_features(out, *kernel_arguments(objects, class_texts, families))
    return out[:end].tobytes()


def kernel_arguments(
    objects: ObjectArrays, class_texts: Sequence[bytes], families: Families
) -> tuple[Any, ...]:
    """Return the arguments of `put_features` after `out`, in the types it is compiled for."""
    return (
        _plain(families.start, np.int64),
        _plain(families.kind, np.int64),
        ObjectArrays(
            _plain(objects.ids, np.uint64),
            _plain(objects.class_index, np.uint8),
            _plain(objects.coords, np.float64),
            _plain(objects.ring_offsets, np.int64),
            _plain(objects.object_offsets, np.int64),
            _plain(objects.columns, np.float32),
        ),
        _joined(class_texts),
        _joined(families.nucleus_texts),
        _joined(families.name_blocks),
    )


def byte_budget(objects: ObjectArrays, class_texts: Sequence[bytes], families: Families) -> int:
    """Return the number of bytes that the features of `objects` take at most.

    The sum of the longest form of each part: every number, class and name counts as the longest
    that occurs.

    Raises
    ------
    ValueError
        when a coordinate is not finite
    """
    n, features, count = len(objects.class_index), len(families.kind), len(objects.columns)
    reach = float(np.abs(objects.coords).max(initial=1.0))
    if not math.isfinite(reach):
        raise ValueError("a coordinate is not finite; make the objects valid first")
    coordinate = len(f"-{reach:.2f}")
    names = np.array([len(name) for name in families.name_blocks], np.int64)
    blocks = names.reshape(-1, count).sum(axis=1) if count else names
    class_bytes, nucleus_bytes = (
        max(map(len, texts), default=0) for texts in (class_texts, families.nucleus_texts)
    )
    return int(
        features * (_FEATURE_BYTES + class_bytes)
        + (n - features) * (_NUCLEUS_BYTES + nucleus_bytes)
        + len(objects.coords) * (2 * coordinate + len("[,],"))
        + len(objects.ring_offsets) * len("[],")
        + n * (blocks.max(initial=0) + count * (_NUMBER_BYTES + len(",")))
    )


def uuid_text(ids: NDArray[np.uint64]) -> Bytes:
    """Return UUIDs as text, uint8 (n, 36), from their high and low halves, uint64 (n, 2)."""
    out = np.empty((len(ids), 36), np.uint8)
    put_uuids(out, _plain(ids, np.uint64))
    return out


def _plain(array: NDArray[Any], dtype: type) -> NDArray[Any]:
    """Return a writable and contiguous array: one compiled version serves read-only views too."""
    return np.require(array, dtype, ["C", "W"])
