"""From a GeoJSON file to its features: unpack, decode, parse, flatten."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wsi_pipeline.core.errors import DataError, one_line
from wsi_pipeline.core.json_files import parse_json
from wsi_pipeline.formats._geojson_grammar import SUFFIXES
from wsi_pipeline.formats._unpack_limit import MAX_GROWTH, most_plain_bytes

__all__ = ["MOST_LISTS", "documents", "features", "geojson_entries", "header", "texts"]

MOST_LISTS = 20
"""Most lists in lists around features."""
_PIECE = 2**20
_GEOMETRIES = ("Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon")


def texts(path: Path) -> Iterator[str]:
    """Yield the GeoJSON text of a file, or those in a zip archive."""
    for _, plain in geojson_entries(path):
        try:
            yield plain.decode(json.detect_encoding(plain))
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path} is neither UTF-8 nor UTF-16 ({one_line(error)}); save it as UTF-8"
            ) from error


def geojson_entries(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and unpacked content of a file, or of the GeoJSON files in a zip archive."""
    try:
        raw = path.read_bytes()
        found = [(path.name, raw)]
        if raw[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(path) as archive:
                infos = [i for i in archive.infolist() if _is_content(i.filename)]
                _check_growth(path, sum(info.file_size for info in infos), len(raw))
                found = [(info.filename, archive.read(info)) for info in infos]
            if not found:
                raise DataError(f"{path} holds no file {' or '.join(SUFFIXES)}; add one")
        for name, entry in found:
            packed = entry[:2] == b"\x1f\x8b"
            yield name, _gunzip(path, entry, len(raw)) if packed else entry
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read: {one_line(error)}") from error


def _is_content(name: str) -> bool:
    """Return whether a file of an archive holds GeoJSON; macOS adds others of the same names."""
    parts = name.replace("\\", "/").split("/")
    added = "__MACOSX" in parts or parts[-1].startswith("._")
    return name.lower().endswith(SUFFIXES) and not added


def _gunzip(path: Path, packed: bytes, file_bytes: int) -> bytes:
    """Return the content of gzip data, unless it is too large for its file."""
    limit, plain = most_plain_bytes(file_bytes), io.BytesIO()
    with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
        # Piece by piece: a read takes the memory for all that it may return.
        while plain.tell() <= limit and (piece := file.read(_PIECE)):
            plain.write(piece)
    _check_growth(path, plain.tell(), file_bytes)
    return plain.getvalue()


def _check_growth(path: Path, plain: int, packed: int) -> None:
    if plain > most_plain_bytes(packed):
        raise DataError(
            f"{path} of {packed} bytes unpacks to {plain} or more, over {MAX_GROWTH} times as "
            "much; if you trust it, unpack it yourself"
        )


def documents(path: Path) -> Iterator[Any]:
    """Yield the parsed JSON documents of a file."""
    for text in texts(path):
        try:
            yield parse_json(text)
        except ValueError as error:
            raise DataError(f"{path} is not JSON: {one_line(error)}") from error


def features(path: Path, document: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the features of a collection, a feature, a geometry, or a list of these.

    `depth` is the number of lists around the document.
    """
    if isinstance(document, list):
        if depth == MOST_LISTS:
            raise DataError(f"{path} is not GeoJSON: more than {MOST_LISTS} lists in lists")
        for part in document:
            yield from features(path, part, depth + 1)
        return
    kind = document.get("type") if isinstance(document, dict) else None
    if kind == "FeatureCollection" and isinstance(document.get("features"), list):
        for feature in document["features"]:
            yield feature if isinstance(feature, dict) else {}
    elif kind == "Feature":
        yield document
    elif kind in _GEOMETRIES:
        yield {"type": "Feature", "geometry": document}
    else:
        raise DataError(
            f"{path} is not GeoJSON: type {kind!r} is not FeatureCollection, Feature or a geometry"
        )


def header(document: Any) -> dict[str, Any]:
    """Return the member ``wsiseg`` of a document, {} where it has none."""
    header = document.get("wsiseg") if isinstance(document, dict) else None
    return header if isinstance(header, dict) else {}
