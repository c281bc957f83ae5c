"""RunConfig: every setting of a run, checked when it is made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from wsi_pipeline.core.errors import ConfigError
from wsi_pipeline.core.pixel_size import MAX_MPP, MIN_MPP

__all__ = ["ObjectRule", "RunConfig"]


@dataclass(frozen=True)
class ObjectRule:
    """How objects are made of a network's output; `RunConfig` says what the fields mean.

    Each model has its own, chosen on held-out images of real slides; its card holds it. Without
    `min_cell_score`, `min_score` is for cells too.
    """

    threshold: float = 0.5
    min_score: float = 0.55
    min_small_score: float = 0.65
    min_cell_score: float | None = None

    def __post_init__(self) -> None:
        _within("threshold", self.threshold, 0.02, 0.98)
        _within("min_score", self.min_score, 0, 1)
        _within("min_small_score", self.min_small_score, 0, 1)
        _within("min_cell_score", self.cell_score, 0, 1)

    @property
    def cell_score(self) -> float:
        """Score below which a whole cell is discarded."""
        return self.min_score if self.min_cell_score is None else self.min_cell_score

    @property
    def least_score(self) -> float:
        """Score below which every object is discarded."""
        return min(self.min_score, self.min_small_score, self.cell_score)


@dataclass(frozen=True)
class RunConfig:
    """Settings of `run_slide`.

    Attributes
    ----------
    model
        registered name of the model
    checkpoint
        file with other weights; it names its model, and `model` is then ignored
    out
        folder for the results: ``out/<slide_id>/<model>``
    device
        where the network runs: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``
    precision
        arithmetic of the network: ``float32``, ``bfloat16``, or ``auto``: bfloat16 where the
        hardware has it and the model was measured with it, else float32
    mpp
        µm per level-0 pixel, for slides that have no pixel size of their own in a slide sheet; it
        replaces the one in the file
    series, plane, time
        number of the image in a file with several, of the focal plane, and of the time point,
        from 0; None: the largest image, its middle plane and first time point
    foreground
        area to segment: ``auto``, where there are cells, or ``all``, the whole slide
    roi
        GeoJSON file of regions of interest; only objects whose centroid lies in one are
        kept; areas of a class ``Ignore*`` are left out
    tile_px
        side of the network's tiles, model pixels; None: that of the model
    batch
        tiles per call of the network
    workers
        regions that are processed at the same time
    scheduler
        Dask cluster that processes the regions, ``tcp://host:8786`` or its scheduler file;
        `workers` is then ignored
    read_timeout_s
        seconds to wait for a read before the slide counts as unreadable
    threshold
        class probability at or above which a pixel belongs to an object; None: that of the model
    min_area_um2
        smaller objects are discarded, µm²
    min_score, min_small_score
        objects with a lower mean probability are discarded; the second value is for objects
        smaller than `SMALL_UM2`, most of which are leukocytes and debris; None: that of the model
    min_cell_score
        whole cells with a lower score are discarded; None: `min_score` where that is given, else
        that of the model
    split
        split touching nuclei
    kinds
        sort nuclei by appearance into normal, abnormal, leukocyte and other; no diagnosis. Only
        for models whose one class is "nucleus"
    kinds_checkpoint
        file with other weights that sort nuclei; it implies `kinds`
    adapt
        bring the pixels that the network gets to the range of stains in which it was trained;
        measurements stay those of the slide. Only for models whose card has this range
    crop
        use only the scanned area that the file declares (``openslide.bounds-*``), as QuPath does
    overwrite
        start again where there are results already
    quiet
        show no progress

    `tile_px`, `batch`, `workers` and `scheduler` change speed and memory, but not the result,
    except for floating-point rounding.

    Raises
    ------
    ConfigError
        a value is unknown or out of range

    Examples
    --------
    >>> RunConfig(model="donet", mpp=0.25).mpp
    0.25
    >>> RunConfig(threshold=3)
    Traceback (most recent call last):
    wsi_pipeline.core.errors.ConfigError: threshold must be 0.02 to 0.98, got 3
    """

    model: str = "dssnet"
    checkpoint: Path | None = None
    out: Path = Path("out")
    device: str = "auto"
    precision: str = "auto"
    mpp: float | None = None
    series: int | None = None
    plane: int | None = None
    time: int | None = None
    foreground: str = "auto"
    roi: Path | None = None
    tile_px: int | None = None
    batch: int = 1
    workers: int = 2
    scheduler: str | None = None
    read_timeout_s: float = 300.0
    threshold: float | None = None
    min_area_um2: float = 8.0
    min_score: float | None = None
    min_small_score: float | None = None
    min_cell_score: float | None = None
    split: bool = True
    kinds: bool = False
    kinds_checkpoint: Path | None = None
    adapt: bool = False
    crop: bool = True
    overwrite: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        for name in ("checkpoint", "out", "roi", "kinds_checkpoint"):  # may be given as text
            if isinstance(path := getattr(self, name), str):
                object.__setattr__(self, name, Path(path))
        if self.kinds_checkpoint is not None:
            object.__setattr__(self, "kinds", True)
        if self.foreground not in ("auto", "all"):
            raise ConfigError(f"foreground must be auto or all, got {self.foreground!r}")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ConfigError(
                f"precision must be auto, float32 or bfloat16, got {self.precision!r}"
            )
        self.object_rule(ObjectRule())
        _within("min_area_um2", self.min_area_um2, 0, 1e6)
        _within("batch", self.batch, 1, 4096)
        _within("workers", self.workers, 1, 1024)
        _within("read_timeout_s", self.read_timeout_s, 0.01, 1e6)
        if self.mpp is not None:
            _within("mpp", self.mpp, MIN_MPP, MAX_MPP)
        for name in ("series", "plane", "time"):
            if (number := getattr(self, name)) is not None:
                _within(name, number, 0, 10**6)
        if self.tile_px is not None:
            _within("tile_px", self.tile_px, 64, 8192)

    def object_rule(self, of_model: ObjectRule) -> ObjectRule:
        """Return a model's rule with the values that are set here."""
        names = ("threshold", "min_score", "min_small_score", "min_cell_score")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        if "min_score" in given:
            given.setdefault("min_cell_score", given["min_score"])
        return replace(of_model, **given)

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> RunConfig:
        """Return the settings of a mapping, for example from a YAML file.

        Raises
        ------
        ConfigError
            a name is unknown, or a value is out of range
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(settings) - known)
        if unknown:
            raise ConfigError(
                f"unknown settings {', '.join(unknown)}; known: {', '.join(sorted(known))}"
            )
        return cls(**settings)


def _within(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise ConfigError(f"{name} must be {low:.9g} to {high:.9g}, got {value:.9g}")
