"""What the streamed formats share: one layout, checked polygons, all or nothing."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from wsi_pipeline.export._geometry import clean_objects
from wsi_pipeline.objects import Objects

__all__ = ["ObjectWriter"]

_CHUNK = 50_000  # objects that are formatted at once: some 50 MB

_log = logging.getLogger(__name__)


class ObjectWriter(ABC):
    """A file of one slide's objects that gets its name when the `with` block ends well."""

    def __init__(self, path: Path | str, provenance: Mapping[str, Any] | None) -> None:
        self.path = Path(path)
        self.provenance = dict(provenance or {})
        self.count = 0
        self._layout: tuple[tuple[str, ...], tuple[str, ...]] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def write(self, objects: Objects) -> None:
        """Append `objects`; their classes and measurements are the same in every call.

        Polygons are rounded to 0.01 px; what is then invalid is repaired and, if less than 1 px²
        of it is left, dropped with a logged warning. `count` says how many the file holds.

        Raises
        ------
        ValueError
            when classes or measurements are not those of the first call
        DataError
            when a class or a measurement has a name that the format cannot hold
        OutputError
            when the file cannot be written
        """
        if self._layout is None:
            self._start((objects.classes, tuple(objects.features)))
        classes, names = self._layout or ((), ())
        if objects.classes != classes or set(objects.features) != set(names):
            raise ValueError(f"objects differ from {classes} in classes or from {names}")
        objects = replace(objects, features={name: objects.features[name] for name in names})
        for start in range(0, len(objects), _CHUNK):
            chunk = objects.take(np.arange(start, min(start + _CHUNK, len(objects))))
            clean = clean_objects(chunk)
            if len(clean) < len(chunk):
                lost = len(chunk) - len(clean)
                _log.warning("%s: dropped %d polygons without an area", self.path, lost)
            if len(clean):
                self._append(clean)
                self.count += len(clean)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stack:
            if kind is not None:
                self._stack.__exit__(kind, error, trace)
                return
            if self._layout is None:
                self._start(((), ()))
            self._end()

    def _start(self, layout: tuple[tuple[str, ...], tuple[str, ...]]) -> None:
        self._layout = layout
        self._begin({**self.provenance, "classes": layout[0], "measurements": layout[1]})

    @abstractmethod
    def _begin(self, header: Mapping[str, Any]) -> None:
        """Open the file on `self._stack`."""

    @abstractmethod
    def _append(self, objects: Objects) -> None:
        """Write clean objects, at least one."""

    @abstractmethod
    def _end(self) -> None:
        """Write what comes last."""
