"""Change files: bytes, tags of TIFF, values of JSON, cells of tables."""

from __future__ import annotations

import copy
import json
import random
import struct
from typing import Any

__all__ = ["json_text", "noise", "slide", "table"]

SIZES = (0, 1, 2, 3, 7, 255, 256, 65535, 65536, 10**6, 2**24, 2**28, 10**9, 2**31 - 1, 2**31,
         2**32 - 1)  # fmt: skip
TAGS = (254, 256, 257, 258, 259, 262, 270, 277, 322, 323, 324, 325, 347, 530, 65535)
TABLES = (273, 324, 279, 325)
"""Tags of offsets of strips and tiles, and of their byte counts."""
NUMBERS = {3: 2, 4: 4, 16: 8}
"""Type of an entry → bytes of one number."""
STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e-300, 1e300, 9e15, 2**31, 2**53, 2**63, 2**64,
    10**30,
    10**400, "", " ", "x", "\0", "\ud800", "é" * 300, "../../x", "/etc/passwd", "=1+1", "1e5",
    "NaN", [], {}, [[]], [None], [1], [1, 2], [[1, 2], [3, 4]], {"a": 1}, {"type": "Polygon"},
)  # fmt: skip


def noise(rng: random.Random, data: bytes) -> bytes:
    """Cut bytes off, or change, insert, remove or double some."""
    out = bytearray(data)
    way = rng.randrange(5)
    if way == 0:
        return data[: rng.randrange(len(data) + 1)]
    for _ in range(rng.choice((1, 1, 4, 30))):
        at = rng.randrange(len(out) or 1)
        size = rng.choice((1, 2, 4, 8, 100))
        if way == 1:
            out[at : at + 1] = bytes([rng.randrange(256)])
        elif way == 2:
            out[at : at + 4] = struct.pack("<I", rng.choice(SIZES))
        elif way == 3:
            del out[at : at + size]
        else:
            out[at:at] = out[at : at + size]
    return bytes(out)


def slide(rng: random.Random, data: bytes) -> bytes:
    """Change entries of a TIFF's directories; of other files any bytes."""
    if data[:2] not in (b"II", b"MM") or rng.random() < 0.2:
        return noise(rng, data)
    out = bytearray(data)
    places = _entries(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at, big = rng.choice(places)
        if rng.random() < 0.25:
            _change_tile(rng, out, places)
            continue
        width = 8 if big else 4
        part = rng.choice((0, 1, 2, 2, 2, 2, 3))
        if part == 0:
            struct.pack_into("<H", out, at, rng.choice(TAGS))
        elif part == 1:
            struct.pack_into("<H", out, at + 2, rng.randrange(20))
        elif part == 2:
            value = rng.choice((*SIZES, rng.randrange(len(data)), rng.randrange(2048)))
            struct.pack_into("<Q" if big else "<I", out, at + 4 + width, value)
        else:
            struct.pack_into("<Q" if big else "<I", out, at + 4, rng.choice(SIZES))
    text = bytes(out)
    if rng.random() < 0.3:
        for name in (b'SizeC="', b'SizeZ="', b'SizeX="', b'SizeT="', b"MPP = ", b"PhysicalSizeX="):
            if name in text and rng.random() < 0.5:
                at = text.index(name) + len(name)
                text = text[:at] + str(rng.choice((0, 9))).encode() * 1 + text[at + 1 :]
    return text


def _change_tile(rng: random.Random, out: bytearray, places: list[tuple[int, bool]]) -> None:
    """Change where a tile or strip is said to begin, or its length, or bytes of it."""
    tables = [place for place in places if struct.unpack_from("<H", out, place[0])[0] in TABLES]
    if not tables:
        return
    at, big = rng.choice(tables)
    width, number = (8, "<Q") if big else (4, "<I")
    tag, kind = struct.unpack_from("<HH", out, at)
    size, count = NUMBERS.get(kind, 0), struct.unpack_from(number, out, at + 4)[0]
    start = at + 4 + width
    if size * count > width:
        start = struct.unpack_from(number, out, start)[0]
    if not 0 < size * count <= len(out) - start:
        return  # an entry that was changed before
    place = start + size * rng.randrange(count)
    value = int.from_bytes(out[place : place + size], "little")
    if tag in TABLES[:2] and rng.random() < 0.5:
        for _ in range(rng.choice((1, 4, 30))):
            out[min(value + rng.randrange(1000), len(out) - 1)] = rng.randrange(256)
        return
    value = rng.choice((*SIZES, value + 1, value * 2, value // 2, rng.randrange(len(out))))
    out[place : place + size] = (value % 256**size).to_bytes(size, "little")


def _entries(data: bytes) -> list[tuple[int, bool]]:
    """Return where the entries of all directories of a little-endian TIFF are, and BigTIFF."""
    big = data[2] == 43
    count, entry, width = ("<Q", 20, 8) if big else ("<H", 12, 4)
    at = struct.unpack_from("<Q" if big else "<I", data, 8 if big else 4)[0]
    found: list[tuple[int, bool]] = []
    while at and len(found) < 500:
        number = struct.unpack_from(count, data, at)[0]
        start = at + struct.calcsize(count)
        found += [(start + i * entry, big) for i in range(number)]
        at = int.from_bytes(data[start + number * entry :][:width], "little")
    return found


def json_text(rng: random.Random, data: bytes) -> bytes:
    """Change values of JSON, or its text."""
    way = rng.random()
    if way < 0.1:
        return noise(rng, data)
    if way < 0.13:
        return data.replace(b":", b":" + b"[" * rng.choice((50, 500, 990, 100_000)), 1)
    document = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        document = _changed(rng, document)
    return json.dumps(document).encode()


def _changed(rng: random.Random, value: Any) -> Any:
    """Change one value within a document, mostly far inside."""
    if isinstance(value, dict | list) and value and rng.random() < 0.9:
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        way = rng.random()
        if way < 0.06:
            del value[key]
        elif way < 0.1 and isinstance(value, list):
            value += copy.deepcopy([value[key]] * rng.choice((1, 100)))
        elif way < 0.1:
            value[str(rng.choice(STRANGE))[:50]] = value.pop(key)
        else:
            value[key] = _changed(rng, value[key])
        return value
    new = copy.deepcopy(rng.choice(STRANGE))
    if isinstance(value, int | float) and abs(value) < 1e99 and rng.random() < 0.3:
        new = value * rng.choice((-1, 0, 1e6, 1e-6))
    for _ in range(rng.choice((0, 0, 0, 1, 40))):
        new = [new]
    return new


CELLS = ("", '"', '""', "\0", "\n", ";", ",", "\t", "=1+1", "1,5", "1e400", "nan", "-1", "../..",
         "*", "[", "é" * 300, "\ud800", "/", "~", "a.svs", "mpp", "slide", "roi", "model",
         "0.25 µm", "\ufeff", "\u202e", "x" * 140_000)  # fmt: skip


def table(rng: random.Random, data: bytes) -> bytes:
    """Change cells and delimiters of a table, or its bytes."""
    if rng.random() < 0.3:
        return noise(rng, data)
    text = data.decode("utf-8", "replace")
    for _ in range(rng.choice((1, 2, 5))):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(CELLS) + text[at + rng.choice((0, 0, 1, 5)) :]
    encoding = rng.choice(("utf-8", "utf-8", "utf-8", "utf-16", "latin-1", "utf-8-sig"))
    return text.encode(encoding, "surrogatepass" if "utf" in encoding else "replace")
