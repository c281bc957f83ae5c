"""The messages between a run and the workers of a Dask cluster.

They are made of builtin types, so that a worker with another version of wsiseg can read the
versions in them and refuse in words.
"""

from __future__ import annotations

import pickle
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.records import RegionFailure
from wsi_pipeline.segmentation.ownership import ObjectFilter
from wsi_pipeline.segmentation.stain_map import StainMap
from wsi_pipeline.slides.foreground import Foreground

__all__ = [
    "Answer",
    "ErrorMessage",
    "ModelAnswer",
    "ModelRequest",
    "RegionAnswer",
    "RegionRequest",
    "Request",
    "SlideTask",
]


class Request(TypedDict):
    """What every request holds: the version of the messages, and of wsiseg."""

    schema_version: int
    wsiseg: str


class ModelRequest(Request):
    """Open the network that a pickled `RunConfig` names, and describe it."""

    config: bytes


class RegionRequest(Request):
    """Segment one region.

    `slide_key` identifies the slide and its settings on a worker; `slide_task` is a packed
    `SlideTask`; `core` is x0, y0, x1, y1 of the region's core in model pixels.
    """

    slide_key: str
    slide_task: bytes
    region: int
    core: list[int]


class ErrorMessage(TypedDict):
    """An error that a worker raised on purpose: the name of its class, and its message."""

    name: str
    message: str


class Answer(TypedDict):
    """What every answer holds: the worker, and the error if it refused the request."""

    worker: str
    error: ErrorMessage | None


class ModelAnswer(Answer):
    """Class of the opened model, and its fields by name."""

    kind: str
    fields: dict[str, Any]


class RegionAnswer(Answer):
    """Result of a region.

    Either `part`, the content of its file, with `incomplete`, the record of what could not be
    read; or `failure`, the reason why nothing could be read. `seconds` by stage are those since
    the worker's last answer; `batch` is the batch size that fits into its memory.
    """

    part: bytes | None
    incomplete: RegionFailure | None
    failure: str | None
    seconds: dict[str, float]
    batch: int


@dataclass(frozen=True, eq=False)
class SlideTask:
    """Everything that a worker needs of a slide; it goes with each region.

    So a worker needs nothing from other workers, and any of them may end at any time.

    Attributes
    ----------
    path, size_bytes
        the slide: absolute path, and size of the file
    identity
        of the model's weights, and of those that sort nuclei; see `weights_of`
    scale, tile_px, search_area, object_filter, stain_map
        as in `WorkPlan`
    """

    path: Path
    size_bytes: int
    config: RunConfig
    identity: tuple[str, ...]
    scale: float
    tile_px: int
    search_area: Foreground
    object_filter: ObjectFilter
    stain_map: StainMap | None

    def pack(self) -> bytes:
        """Return the task in compressed form; a mask of 4 MB takes some kB."""
        # `replace` leaves out the tables that a mask has computed for itself.
        object_filter = replace(
            self.object_filter, foreground=replace(self.object_filter.foreground)
        )
        task = replace(self, search_area=replace(self.search_area), object_filter=object_filter)
        return zlib.compress(pickle.dumps(task))

    @staticmethod
    def unpack(packed: bytes) -> SlideTask:
        """Return the task that `pack` packed."""
        task: SlideTask = pickle.loads(zlib.decompress(packed))  # noqa: TID251
        return task
