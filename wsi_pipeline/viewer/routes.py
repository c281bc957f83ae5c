"""What the server answers to which address."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.errors import DataError
from wsi_pipeline.viewer.library import Library
from wsi_pipeline.viewer.view import Layer

__all__ = ["Reply", "answer", "as_json", "problem"]

_MOST_CROP_PX = 512


@dataclass(frozen=True)
class Reply:
    """An answer of the server."""

    body: bytes
    kind: str = "application/octet-stream"
    status: int = 200


Answer = Callable[..., Reply]


def as_json(content: Any) -> Reply:
    """Return JSON."""
    return Reply(json.dumps(content).encode(), "application/json")


def problem(status: int, text: str) -> Reply:
    """Return an error that the page shows."""
    return Reply(json.dumps({"error": text}).encode(), "application/json", status)


def _library(library: Library) -> Reply:
    entries = [
        {"name": e.name, "runs": [run.name for run in e.runs], "slide": e.slide is not None}
        for e in library.entries
    ]
    return as_json({"entries": entries})


def _view(library: Library, view: int) -> Reply:
    return as_json(library.view(view).about())


def _slide_tile(library: Library, view: int, level: int, column: int, row: int) -> Reply:
    return Reply(library.view(view).picture.tile(level, column, row), "image/jpeg")


def _crop(library: Library, view: int, x: int, y: int, side: int) -> Reply:
    side = max(16, min(side, 8192))
    return Reply(library.view(view).picture.crop(x, y, side, _MOST_CROP_PX), "image/jpeg")


def _layer(library: Library, view: int, layer: int) -> Layer:
    return library.view(view).layer(layer)


def _layer_about(library: Library, view: int, layer: int) -> Reply:
    return as_json(_layer(library, view, layer).about())


def _base(library: Library, view: int, layer: int) -> Reply:
    return Reply(_layer(library, view, layer).sorted.base())


def _outlines(library: Library, view: int, layer: int, index: int, *, far: bool = False) -> Reply:
    held = _layer(library, view, layer).sorted
    if index >= held.columns * held.rows:
        raise DataError(f"tile {index} does not exist; there are {held.columns * held.rows}")
    if not held.outlines.ready:
        held.outlines.start()
        return Reply(b"", status=202)  # the page asks again
    return Reply(held.tile(index, far=far))


def _far_outlines(library: Library, view: int, layer: int, index: int) -> Reply:
    return _outlines(library, view, layer, index, far=True)


def _column(library: Library, view: int, layer: int, index: int) -> Reply:
    held = _layer(library, view, layer).sorted
    if index >= len(held.column_names):
        raise DataError(f"measurement {index} does not exist")
    return Reply(held.column(held.column_names[index]).astype("<f4").tobytes())


def _object(library: Library, view: int, layer: int, row: int) -> Reply:
    return as_json(_layer(library, view, layer).detail(row))


def _gallery(library: Library, view: int, layer: int) -> Reply:
    return as_json(_layer(library, view, layer).gallery())


def _saved(library: Library, view: int, layer: int) -> Reply:
    return as_json(_layer(library, view, layer).saved())


def _save(library: Library, view: int, layer: int, body: bytes) -> Reply:
    try:
        sent = json.loads(body)
        edits, areas = sent["edits"], sent["areas"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DataError("corrections must be JSON with edits and areas") from None
    held = _layer(library, view, layer)
    count = held.save(edits, areas)
    return as_json({"file": str(held.corrections), "objects": count})


def _rows(body: bytes) -> NDArray[np.int64]:
    if len(body) % 4:
        raise DataError("rows must be 32-bit numbers")
    return np.frombuffer(body, "<u4").astype(np.int64)


def _gated_gallery(library: Library, view: int, layer: int, body: bytes) -> Reply:
    return as_json(_layer(library, view, layer).gallery(_rows(body)))


def _export(library: Library, view: int, layer: int, body: bytes) -> Reply:
    return Reply(_layer(library, view, layer).export(_rows(body)), "application/geo+json")


_V, _L = r"/api/view/(?P<view>\d{1,6})", r"/layer/(?P<layer>\d{1,3})"
_READ: Mapping[str, Answer] = {
    r"/api/library": _library,
    _V: _view,
    _V + r"/tile/(?P<level>\d{1,2})/(?P<column>\d{1,7})/(?P<row>\d{1,7})": _slide_tile,
    _V + r"/crop/(?P<x>\d{1,8})/(?P<y>\d{1,8})/(?P<side>\d{1,5})": _crop,
    _V + _L: _layer_about,
    _V + _L + r"/base": _base,
    _V + _L + r"/outlines/(?P<index>\d{1,8})": _outlines,
    _V + _L + r"/far/(?P<index>\d{1,8})": _far_outlines,
    _V + _L + r"/measurement/(?P<index>\d{1,4})": _column,
    _V + _L + r"/object/(?P<row>\d{1,9})": _object,
    _V + _L + r"/gallery": _gallery,
    _V + _L + r"/corrections": _saved,
}
_WRITE: Mapping[str, Answer] = {
    _V + _L + r"/corrections": _save,
    _V + _L + r"/export": _export,
    _V + _L + r"/gallery": _gated_gallery,
}


def answer(library: Library, path: str, body: bytes | None) -> Reply | None:
    """Return the answer to a path, with a body for what is sent; None for an unknown path.

    Raises
    ------
    WsisegError
        what is asked for does not exist, or cannot be read or written
    """
    for pattern, function in (_READ if body is None else _WRITE).items():
        if found := re.fullmatch(pattern, path, re.ASCII):
            values: dict[str, Any] = {k: int(v) for k, v in found.groupdict().items()}
            if body is not None:
                values["body"] = body
            return function(library, **values)
    return None
