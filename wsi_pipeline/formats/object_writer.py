"""Base class of the writers that stream objects into a file, part by part."""

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

from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.polygons import as_written, chunks

__all__ = ["ObjectWriter"]

_CHUNK = 50_000
"""Objects that are formatted at once: about 50 MB."""

_log = logging.getLogger(__name__)


class ObjectWriter(ABC):
    """Write the objects of one slide to a file that appears at the end of the `with` block.

    Parameters
    ----------
    path
        the file to write
    provenance
        JSON values that are stored in the file

    Attributes
    ----------
    count
        number of objects written so far
    """

    def __init__(self, path: Path | str, provenance: Mapping[str, Any] | None) -> None:
        self.path = Path(path)
        self.provenance = dict(provenance or {})
        self.count = 0
        self._layout: tuple[tuple[str, ...], tuple[str, ...]] | None = None
        self._linked: bool | None = None  # whether objects have parents; unknown before the first
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def write(self, objects: Objects) -> None:
        """Append objects. All calls must have the same classes and measurements.

        Objects that are not `valid` are made so, and nuclei of a cell that overlap are cut, see
        `wsi_pipeline.core.polygons`; what that drops is counted in a logged warning. Each nucleus
        is written right after its cell.
        `count` is the number of objects in the file.

        Raises
        ------
        ValueError
            classes or measurements differ from those of the first call, or these objects have
            parents and the first ones had not
        DataError
            the format does not allow the name of a class or measurement
        OutputError
            the file cannot be written
        """
        if self._layout is None:
            self._layout = objects.classes, tuple(objects.features)
        classes, names = self._layout
        if objects.classes != classes or set(objects.features) != set(names):
            raise ValueError(
                f"classes {objects.classes} and measurements {tuple(objects.features)} differ from "
                f"{classes} and {names} of the first objects"
            )
        if self._linked is None and (len(objects) or objects.parent is not None):
            self._start(linked=objects.parent is not None)
        if objects.parent is not None and not self._linked:
            raise ValueError("these objects have parents, the first ones had not; give all parents")
        objects = replace(objects, features={name: objects.features[name] for name in names})
        if self._linked and objects.parent is None:
            objects = replace(objects, parent=np.full(len(objects), -1, np.int64))
        for chunk in chunks(objects, _CHUNK):
            kept = as_written(chunk)
            if len(kept) < len(chunk):
                lost = len(chunk) - len(kept)
                _log.warning("%s: dropped %d polygons without an area", self.path, lost)
            if len(kept):
                self._append(kept)
                self.count += len(kept)

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
            if self._linked is None:
                self._start(linked=False)
            self._end()

    def _start(self, *, linked: bool) -> None:
        self._linked = linked
        classes, names = self._layout or ((), ())
        noted = {"classes": classes, "measurements": names, "parents": True}
        header = {**self.provenance, **noted}
        if not linked:
            del header["parents"]
        self._begin(header)

    @abstractmethod
    def _begin(self, header: Mapping[str, Any]) -> None:
        """Open the file on `self._stack`."""

    @abstractmethod
    def _append(self, objects: Objects) -> None:
        """Write valid objects, at least one."""

    @abstractmethod
    def _end(self) -> None:
        """Write the end of the file."""
