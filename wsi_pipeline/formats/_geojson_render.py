"""Objects to GeoJSON bytes, compiled: no Python object per nucleus, and no GIL held.

Coordinates are whole hundredths of a pixel and are written as integers with a point put in.
Measurements get the fewest digits (at least six) that read back as the same float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["Bytes", "Families", "fragments", "render", "uuid_text"]

Bytes = NDArray[np.uint8]

_HEX = np.frombuffer(b"0123456789abcdef", np.uint8).copy()
_POW10 = 10.0 ** np.arange(23)  # every one of them is exact in float64
_HEAD = np.frombuffer(b'{"type":"Feature","id":"', np.uint8).copy()
_GEOMETRY = np.frombuffer(b'","geometry":{"type":"Polygon","coordinates":[', np.uint8).copy()
_NUCLEI = np.frombuffer(b']},"nuclei":[', np.uint8).copy()
_NUCLEUS = np.frombuffer(b'{"id":"', np.uint8).copy()
_ONE = np.frombuffer(b'],"nucleusGeometry":{"type":"Polygon","coordinates":[', np.uint8).copy()
_MANY = np.frombuffer(
    b'],"nucleusGeometry":{"type":"MultiPolygon","coordinates":[', np.uint8
).copy()
_INT_POW10 = 10 ** np.arange(19)
_TEN, _HUNDRED, _ZERO = np.uint64(10), np.uint64(100), np.uint64(ord("0"))
_MINUS, _POINT, _COMMA, _EXP = (ord(c) for c in "-.,e")
_OPEN, _CLOSE, _BRACE, _DASH = (ord(c) for c in "[]}-")

_NUMBER_BYTES = 25  # longest output of `_put_float`, with room to spare
_FEATURE_BYTES = len(_HEAD) + 36 + len(_GEOMETRY) + 8
_NUCLEUS_BYTES = len(_NUCLEI) + len(_NUCLEUS) + 36 + len(_MANY) + 8


@dataclass(frozen=True, eq=False)
class Families:
    """Cells that are written with their nuclei: feature f is the rows ``start[f]:start[f + 1]``.

    The first row of a feature is the cell, or an object by itself; its nuclei follow.

    Attributes
    ----------
    start
        int64 (features + 1,)
    kind
        int64 (features,), which of `class_texts` each has
    nucleus_texts
        per class, all that stands in a nucleus's entry after its id
    name_blocks
        names of all columns, end to end: of objects by themselves, of cells with nuclei, of their
        first nucleus, of their second …; empty where a column is not theirs
    """

    start: NDArray[np.int64]
    kind: NDArray[np.int64]
    nucleus_texts: list[bytes]
    name_blocks: list[bytes]


def fragments(texts: list[bytes]) -> tuple[Bytes, NDArray[np.int64]]:
    """`texts` end to end as uint8, and where each starts: int64 (len(texts) + 1,)."""
    starts = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    return np.frombuffer(b"".join(texts), np.uint8).copy(), starts


def render(
    ids: NDArray[np.uint64],
    class_index: NDArray[np.uint8],
    coords: NDArray[np.float64],
    ring_offsets: NDArray[np.int64],
    object_offsets: NDArray[np.int64],
    columns: NDArray[np.float32],
    class_texts: list[bytes],
    column_texts: list[bytes],
    families: Families | None = None,
) -> bytes:
    """Comma-joined Features of n objects.

    Parameters
    ----------
    columns
        float32 (columns, n); values that are not finite are left out
    class_texts
        per class, all that stands between the coordinates and the first measurement
    column_texts
        per column, its quoted name and the colon
    families
        which objects make one feature; each its own if not given
    """
    n = len(class_index)
    if families is None:
        families = Families(np.arange(n + 1), class_index.astype(np.int64), [], column_texts)
    classes, class_starts = fragments(class_texts)
    nuclei, nucleus_starts = fragments(families.nucleus_texts)
    names, name_starts = fragments(families.name_blocks)
    reach = 1.0 if coords.size == 0 else max(1.0, float(np.abs(coords).max()))
    coordinate_bytes = 2 * (len(str(int(reach))) + 4) + 3
    features = len(families.kind)
    longest = [max(map(len, texts), default=0) for texts in (class_texts, families.nucleus_texts)]
    count = len(column_texts)
    blocks = np.add.reduceat(np.diff(name_starts), np.arange(0, len(name_starts) - 1, count or 1))
    size = (
        features * (_FEATURE_BYTES + longest[0] + 3)
        + (n - features) * (_NUCLEUS_BYTES + longest[1])
        + len(coords) * coordinate_bytes
        + len(ring_offsets) * 3
        + n * (int(max(blocks, default=0)) + count * (_NUMBER_BYTES + 1))
    )
    out = np.empty(size, np.uint8)
    end = _render(
        out,
        _plain(families.start, np.int64),
        _plain(families.kind, np.int64),
        _plain(ids, np.uint64),
        _plain(class_index, np.uint8),
        _plain(coords, np.float64),
        _plain(ring_offsets, np.int64),
        _plain(object_offsets, np.int64),
        _plain(columns, np.float32),
        classes,
        class_starts,
        nuclei,
        nucleus_starts,
        names,
        name_starts,
    )
    return out[:end].tobytes()


def uuid_text(ids: NDArray[np.uint64]) -> Bytes:
    """UUIDs in text, uint8 (n, 36), of the high and low halves (n, 2)."""
    out = np.empty((len(ids), 36), np.uint8)
    _uuids(out, _plain(ids, np.uint64))
    return out


def _plain(array: NDArray[Any], dtype: type) -> NDArray[Any]:
    """Writable and contiguous: one compiled version serves all, Arrow's read-only views too."""
    return np.require(array, dtype, ["C", "W"])


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _put(out: Bytes, at: int, text: Bytes, start: int, stop: int) -> int:
    for i in range(start, stop):
        out[at] = text[i]
        at += 1
    return at


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _put_digits(out: Bytes, at: int, value: int, width: int) -> int:
    """Put a whole number >= 0, with zeros in front up to `width`."""
    rest = np.uint64(value)  # unsigned: division by a constant is a multiplication
    count, reach = 1, _TEN
    while rest >= reach and count < 19:
        count += 1
        reach *= _TEN
    end = at + max(count, width)
    for i in range(end - 1, at - 1, -1):
        tenth = rest // _TEN
        out[i] = np.uint8(_ZERO + rest - tenth * _TEN)
        rest = tenth
    return end


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _put_decimal(out: Bytes, at: int, value: int, places: int) -> int:
    """Put value / 10**places, whose last digit is not 0 unless `places` is 0."""
    if places == 0:
        return _put_digits(out, at, value, 1)
    unit = _INT_POW10[places]
    whole = value // unit
    at = _put_digits(out, at, whole, 1)
    out[at] = _POINT
    return _put_digits(out, at + 1, value - whole * unit, places)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _put_hundredths(out: Bytes, at: int, value: float) -> int:
    """Put a coordinate, rounded to two places, without zeros at the end."""
    hundredths = np.rint(value * 100.0)
    if hundredths < 0:
        out[at] = _MINUS
        at += 1
        hundredths = -hundredths
    whole = np.uint64(hundredths) // _HUNDRED
    at = _put_digits(out, at, whole, 1)
    part = np.uint64(hundredths) - whole * _HUNDRED
    if part == 0:
        return at
    tenth = part // _TEN
    out[at] = _POINT
    out[at + 1] = np.uint8(_ZERO + tenth)
    if part == tenth * _TEN:
        return at + 2
    out[at + 2] = np.uint8(_ZERO + part - tenth * _TEN)
    return at + 3


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _put_float(out: Bytes, at: int, value32: np.float32) -> int:
    """A finite number, in six to nine digits that read back as the same float32."""
    value = np.float64(value32)
    if value < 0:
        out[at] = _MINUS
        at += 1
        value = -value
    if value == 0:
        out[at] = np.uint8(_ZERO)
        return at + 1
    exponent = math.floor(math.log10(value))
    if exponent < -13 or exponent > 30:
        # Powers of ten are not exact out there; nine digits are enough without a check.
        places = 8 - exponent
        digits = np.int64(np.rint(value * 10.0**places))
    else:
        digits, places = _shortest(value, exponent)
    if -7 < exponent < 16:
        while places > 0 and digits % 10 == 0:
            digits //= 10
            places -= 1
        if places < 0:
            digits *= _INT_POW10[-places]
            places = 0
        return _put_decimal(out, at, digits, places)
    while digits % 10 == 0:
        digits //= 10
        places -= 1
    at = _put_digits(out, at, digits, 1)
    out[at] = _EXP
    at += 1
    if places > 0:
        out[at] = _MINUS
        at += 1
    return _put_digits(out, at, abs(places), 1)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _shortest(value: float, exponent: int) -> tuple[np.int64, int]:
    """The digits and decimal places of the shortest number that reads back as float32 `value`.

    Digits and the power of ten are both exact, so their quotient is rounded once: it is the very
    float64 that a JSON reader makes of the text.
    """
    digits, places = np.int64(0), 0
    for count in range(6, 10):
        places = count - 1 - exponent
        if places >= 0:
            digits = np.int64(np.rint(value * _POW10[places]))
            back = digits / _POW10[places]
        else:
            digits = np.int64(np.rint(value / _POW10[-places]))
            back = digits * _POW10[-places]
        if np.float32(back) == np.float32(value):
            break
    return digits, places


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _put_uuid(out: Bytes, at: int, high: np.uint64, low: np.uint64) -> int:
    for half in range(2):
        bits = high if half == 0 else low
        for nibble in range(16):
            place = half * 16 + nibble
            if place == 8 or place == 12 or place == 16 or place == 20:
                out[at] = _DASH
                at += 1
            out[at] = _HEX[np.int64((bits >> np.uint64(60 - 4 * nibble)) & np.uint64(15))]
            at += 1
    return at


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _uuids(out: Bytes, ids: NDArray[np.uint64]) -> None:
    for i in range(len(ids)):
        _put_uuid(out[i], 0, ids[i, 0], ids[i, 1])


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _put_ring(out: Bytes, at: int, coords: NDArray[np.float64], start: int, stop: int) -> int:
    out[at] = _OPEN
    at += 1
    for vertex in range(start, stop):
        if vertex > start:
            out[at] = _COMMA
            at += 1
        out[at] = _OPEN
        at = _put_hundredths(out, at + 1, coords[vertex, 0])
        out[at] = _COMMA
        at = _put_hundredths(out, at + 1, coords[vertex, 1])
        out[at] = _CLOSE
        at += 1
    out[at] = _CLOSE
    return at + 1


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _put_rings(
    out: Bytes,
    at: int,
    coords: NDArray[np.float64],
    ring_offsets: NDArray[np.int64],
    first: int,
    last: int,
) -> int:
    for ring in range(first, last):
        if ring > first:
            out[at] = _COMMA
            at += 1
        at = _put_ring(out, at, coords, ring_offsets[ring], ring_offsets[ring + 1])
    return at


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _put_nuclei(
    out: Bytes,
    at: int,
    first: int,
    last: int,
    ids: NDArray[np.uint64],
    class_index: NDArray[np.uint8],
    coords: NDArray[np.float64],
    ring_offsets: NDArray[np.int64],
    object_offsets: NDArray[np.int64],
    nuclei: Bytes,
    nucleus_starts: NDArray[np.int64],
) -> int:
    """Put what a cell's nuclei are called, and their shapes but for the closing brackets."""
    at = _put(out, at, _NUCLEI, 0, len(_NUCLEI))
    for i in range(first, last):
        if i > first:
            out[at] = _COMMA
            at += 1
        at = _put(out, at, _NUCLEUS, 0, len(_NUCLEUS))
        at = _put_uuid(out, at, ids[i, 0], ids[i, 1])
        kind = class_index[i]
        at = _put(out, at, nuclei, nucleus_starts[kind], nucleus_starts[kind + 1])
    if last - first == 1:
        at = _put(out, at, _ONE, 0, len(_ONE))
        rings = object_offsets[first], object_offsets[last]
        return _put_rings(out, at, coords, ring_offsets, rings[0], rings[1])
    at = _put(out, at, _MANY, 0, len(_MANY))
    for i in range(first, last):
        if i > first:
            out[at] = _COMMA
            at += 1
        out[at] = _OPEN
        rings = object_offsets[i], object_offsets[i + 1]
        at = _put_rings(out, at + 1, coords, ring_offsets, rings[0], rings[1])
        out[at] = _CLOSE
        at += 1
    return at


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _render(
    out: Bytes,
    start: NDArray[np.int64],
    kinds: NDArray[np.int64],
    ids: NDArray[np.uint64],
    class_index: NDArray[np.uint8],
    coords: NDArray[np.float64],
    ring_offsets: NDArray[np.int64],
    object_offsets: NDArray[np.int64],
    columns: NDArray[np.float32],
    classes: Bytes,
    class_starts: NDArray[np.int64],
    nuclei: Bytes,
    nucleus_starts: NDArray[np.int64],
    names: Bytes,
    name_starts: NDArray[np.int64],
) -> int:
    at = 0
    for feature in range(len(kinds)):
        if feature > 0:
            out[at] = _COMMA
            at += 1
        i, last = start[feature], start[feature + 1]
        at = _put(out, at, _HEAD, 0, len(_HEAD))
        at = _put_uuid(out, at, ids[i, 0], ids[i, 1])
        at = _put(out, at, _GEOMETRY, 0, len(_GEOMETRY))
        at = _put_rings(out, at, coords, ring_offsets, object_offsets[i], object_offsets[i + 1])
        if last > i + 1:
            at = _put_nuclei(
                out, at, i + 1, last, ids, class_index, coords, ring_offsets, object_offsets,
                nuclei, nucleus_starts,
            )  # fmt: skip
        kind = kinds[feature]
        at = _put(out, at, classes, class_starts[kind], class_starts[kind + 1])
        comma = False
        for row in range(i, last):
            block = (row - i + (last > i + 1)) * len(columns)
            for column in range(len(columns)):
                name = block + column
                empty = name_starts[name] == name_starts[name + 1]
                if empty or not np.isfinite(columns[column, row]):
                    continue
                if comma:
                    out[at] = _COMMA
                    at += 1
                comma = True
                at = _put(out, at, names, name_starts[name], name_starts[name + 1])
                at = _put_float(out, at, columns[column, row])
        for _ in range(3):  # measurements, properties, feature
            out[at] = _BRACE
            at += 1
    return at
