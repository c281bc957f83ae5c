"""The JSON records of a run folder: keys, types and units.

Every key is snake_case, and every record has a ``schema_version``.
docs/outputs.md describes each key for the readers of these files.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

__all__ = [
    "SCHEMA_VERSION",
    "AdaptationRecord",
    "ClusterRecord",
    "CorrectedRunRecord",
    "CorrectionRecord",
    "FailureRecord",
    "ForegroundRecord",
    "ModelRecord",
    "MppRecord",
    "PlanModelRecord",
    "PlanRecord",
    "PlanSlideRecord",
    "Provenance",
    "RegionFailure",
    "RunRecord",
    "Setting",
    "SlideRecord",
]

SCHEMA_VERSION = 1
"""Raised when a key of a record is renamed or removed, or gets another meaning."""

Setting = str | float | bool | None
"""Value of one field of `RunConfig`; paths are text."""


class PlanSlideRecord(TypedDict):
    """The slide's file: name and size in bytes."""

    name: str
    bytes: int


class PlanModelRecord(TypedDict):
    """The model: name, SHA-256 of its weights or its name, and its arithmetic."""

    name: str
    identity: str
    precision: str


class PlanRecord(TypedDict):
    """Content of plan.json: everything that decides the result of a run.

    Tile size, batch size and number of workers are not in it: the result does not depend on them.
    `kinds` is the SHA-256 of the weights that sort nuclei, or None.
    """

    schema_version: int
    result_version: int
    slide: PlanSlideRecord
    mpp: list[float]
    series: int | None
    plane: int | None
    time: int | None
    model: PlanModelRecord
    foreground: str
    roi_sha256: str | None
    threshold: float
    min_area_um2: float
    min_score: float
    min_small_score: float
    min_cell_score: float
    split: bool
    kinds: str | None
    adapt: bool
    crop: bool


class MppRecord(TypedDict):
    """Pixel size of level 0, µm per pixel, and where it comes from."""

    x: float
    y: float
    source: str


class SlideRecord(TypedDict):
    """The slide as it was opened; `bounds` is x0, y0, x1, y1 in level-0 pixels of the file."""

    id: str
    file: str
    files: NotRequired[list[str]]
    reader: str
    decoder: str
    vendor: str
    width: int
    height: int
    bounds: list[int]
    mpp: MppRecord
    notes: list[str]


class ModelRecord(PlanModelRecord):
    """The model with its classes, pixel size (µm), context (pixels), licence and training data."""

    classes: list[str]
    mpp: float
    halo_px: int
    licence: NotRequired[str]
    data: NotRequired[list[str]]


class ForegroundRecord(TypedDict):
    """The rule that found the foreground, and the foreground's share of the slide, 0 to 1."""

    rule: str
    share: float


class Provenance(TypedDict):
    """Where objects come from; part of run.json and of every file of objects."""

    schema_version: int
    wsiseg: str
    slide: SlideRecord
    model: ModelRecord
    foreground: ForegroundRecord
    settings: dict[str, Setting]
    versions: dict[str, str]
    device: str
    python: str


class RegionFailure(TypedDict):
    """A region that could not be read completely.

    `level0_box` is the region, or the box around its unreadable parts, x0, y0, x1, y1 in level-0
    pixels. `missing` lists the unreadable boxes; without it, nothing of the region could be read.
    """

    region: int
    level0_box: list[int]
    cause: str
    missing: NotRequired[list[list[int]]]


class FailureRecord(RegionFailure):
    """Content of parts/<region>.failed.json."""

    schema_version: int


class ClusterRecord(TypedDict):
    """The Dask scheduler of a run, and the workers that answered."""

    scheduler: str
    workers: list[str]


class AdaptationRecord(TypedDict):
    """The stain of a slide, and what the network got instead; see `RunConfig.adapt`.

    Channels are red, green and blue. `density` is None where too little is stained, `new_glass`
    and `gain` are None where the pixels stay as they are.
    """

    fields: int
    glass: list[float] | None
    density: list[float] | None
    stained_share: float | None
    new_glass: list[float] | None
    gain: float | None
    note: str


class CorrectionRecord(TypedDict):
    """Where corrected objects come from: the file, the model of the run, and what was changed.

    `unchanged` to `reclassified` are numbers of objects on the whole slide.
    """

    file: str
    sha256: str
    model: str
    wsiseg: str
    unchanged: int
    added: int
    removed: int
    reshaped: int
    reclassified: int


class RunRecord(Provenance):
    """Content of run.json: the provenance, and the counts and times of the run.

    `warnings` state what does not fit: pixel size, illumination or stain of the slide, or regions
    of interest beside it.
    `batch_reduced_to` is the batch size that fitted into memory where `settings` asked for a
    larger one, else None. `cluster` is None for a run on one machine, `adaptation` without
    `RunConfig.adapt`.
    """

    warnings: NotRequired[list[str]]
    objects: int
    objects_larger_than_seen: int
    regions: int
    failed_regions: list[RegionFailure]
    seconds: float
    stage_seconds: dict[str, float]
    peak_memory_mb: int
    batch_reduced_to: int | None
    cluster: ClusterRecord | None
    adaptation: AdaptationRecord | None


class CorrectedRunRecord(RunRecord):
    """Content of run.json of objects that a person corrected; see `wsiseg import`."""

    corrected: CorrectionRecord
