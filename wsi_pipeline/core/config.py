"""RunConfig: every setting of a run, checked once where it comes in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from wsi_pipeline.core.errors import ConfigError

__all__ = ["RunConfig"]


@dataclass(frozen=True)
class RunConfig:
    """Settings of `run_slide`.

    Attributes
    ----------
    model, checkpoint
        registered name, or a checkpoint file of one's own, which then decides
    out
        folder that gets one run folder per slide
    device
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``
    precision
        of the network: ``float32``, ``bfloat16``, or ``auto``, which takes the latter where the
        device has it in hardware and the model was measured with it
    mpp
        µm per level-0 pixel; overrides what the file says
    foreground
        ``auto`` looks where there are cells, ``all`` everywhere
    roi
        GeoJSON of regions of interest; objects whose centroid lies in them are kept
    tile_px, batch, workers
        how the work is cut up; they change speed and memory, never the result
    scheduler
        of a Dask cluster whose workers do the regions: ``tcp://host:8786``, or its scheduler file;
        `workers` then has no meaning
    read_timeout_s
        how long a read of the slide may take, in seconds, before its drive counts as gone
    threshold
        class probability from which a pixel belongs to an object
    min_area_um2
        smaller objects are debris
    min_score, min_small_score
        objects of a lower mean probability are left out; the latter holds below `SMALL_UM2`, where
        leukocytes and debris are most of what looks like a nucleus
    split
        part touching nuclei
    crop
        honour ``openslide.bounds-*`` as QuPath does
    overwrite
        start again where results of other settings, or finished ones, lie
    """

    model: str = "dssnet"
    checkpoint: Path | None = None
    out: Path = Path("out")
    device: str = "auto"
    precision: str = "auto"
    mpp: float | None = None
    foreground: str = "auto"
    roi: Path | None = None
    tile_px: int | None = None
    batch: int = 1
    workers: int = 2
    scheduler: str | None = None
    read_timeout_s: float = 300.0
    threshold: float = 0.5
    min_area_um2: float = 8.0
    min_score: float = 0.55
    min_small_score: float = 0.65
    split: bool = True
    crop: bool = True
    overwrite: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        for name in ("checkpoint", "out", "roi"):  # text will do for a path
            if isinstance(path := getattr(self, name), str):
                object.__setattr__(self, name, Path(path))
        if self.foreground not in ("auto", "all"):
            raise ConfigError(f"foreground {self.foreground!r} is unknown; use auto or all")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ConfigError(
                f"precision {self.precision!r} is unknown; use auto, float32 or bfloat16"
            )
        _within("threshold", self.threshold, 0.02, 0.98)
        _within("min_area_um2", self.min_area_um2, 0, 1e6)
        _within("min_score", self.min_score, 0, 1)
        _within("min_small_score", self.min_small_score, 0, 1)
        _within("batch", self.batch, 1, 4096)
        _within("workers", self.workers, 1, 1024)
        _within("read_timeout_s", self.read_timeout_s, 0.01, 1e6)
        if self.mpp is not None:
            _within("mpp", self.mpp, 0.02, 20)
        if self.tile_px is not None:
            _within("tile_px", self.tile_px, 64, 8192)

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> RunConfig:
        """Settings by name, as read from a file; unknown names are errors."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(settings) - known)
        if unknown:
            raise ConfigError(f"unknown settings {unknown}; known: {', '.join(sorted(known))}")
        return cls(**settings)


def _within(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise ConfigError(f"{name} {value} is out of range; it lies between {low} and {high}")
