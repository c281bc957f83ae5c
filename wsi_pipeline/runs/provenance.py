"""The records of a run: what decides its result, and where its objects come from."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.records import SCHEMA_VERSION, ModelRecord, PlanRecord, Provenance
from wsi_pipeline.runs.run_folder import RESULT_VERSION
from wsi_pipeline.segmentation.kinds import has_kinds, kinds_identity
from wsi_pipeline.segmentation.model import Model
from wsi_pipeline.slides.dicom_series import files_of_slide
from wsi_pipeline.slides.foreground import Foreground
from wsi_pipeline.slides.slide import Slide

__all__ = ["plan_record", "provenance_record"]

_PACKAGES = ("torch", "numpy", "openslide-python", "opencv-python-headless", "dask")
_NOT_RECORDED = ("out", "quiet", "overwrite", "scheduler")


def plan_record(slide: Slide, model: Model, config: RunConfig) -> PlanRecord:
    """Return everything that decides the result of a run; two runs with it give the same objects.

    Raises
    ------
    MppError
        the slide has no pixel size
    """
    mpp, stat = slide.require_mpp(), slide.path.stat()
    rule = config.object_rule(model.rule)
    return {
        "schema_version": SCHEMA_VERSION,
        "result_version": RESULT_VERSION,
        "slide": {"name": slide.path.name, "bytes": stat.st_size},
        "mpp": [mpp.x, mpp.y],
        "series": config.series,
        "plane": config.plane,
        "time": config.time,
        "model": {
            "name": model.name,
            "identity": model.identity,
            "precision": model.precision,
        },
        "foreground": config.foreground,
        "roi_sha256": hashlib.sha256(config.roi.read_bytes()).hexdigest() if config.roi else None,
        "threshold": rule.threshold,
        "min_area_um2": config.min_area_um2,
        "min_score": rule.min_score,
        "min_small_score": rule.min_small_score,
        "min_cell_score": rule.cell_score,
        "split": config.split,
        "kinds": kinds_identity(config.kinds_checkpoint) if has_kinds(model.classes) else None,
        "adapt": config.adapt,
        "crop": config.crop,
    }


def provenance_record(
    slide: Slide, model: Model, config: RunConfig, foreground: Foreground
) -> Provenance:
    """Return where a run's objects come from, for run.json and for every file of objects."""
    mpp = slide.require_mpp()
    return {
        "schema_version": SCHEMA_VERSION,
        "wsiseg": version("wsiseg"),
        "slide": {
            "id": slide.slide_id,
            "file": slide.path.name,
            "files": files_of_slide(slide.path),
            "reader": slide.reader,
            "decoder": slide.decoder,
            "vendor": slide.vendor,
            "width": slide.width,
            "height": slide.height,
            "bounds": list(asdict(slide.bounds).values()),
            "mpp": {"x": mpp.x, "y": mpp.y, "source": mpp.source},
            "notes": list(slide.notes),
        },
        "model": _model_record(model),
        "foreground": {"rule": foreground.rule, "share": round(foreground.share, 4)},
        "settings": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(config).items()
            if name not in _NOT_RECORDED
        },
        "versions": {name: version(name) for name in _PACKAGES},
        "device": model.device,
        "python": platform.python_version(),
    }


def _model_record(model: Model) -> ModelRecord:
    record: ModelRecord = {
        "name": model.name,
        "classes": list(model.classes),
        "mpp": model.mpp,
        "halo_px": model.halo_px,
        "identity": model.identity,
        "precision": model.precision,
    }
    if "licence" in model.card:
        record["licence"] = model.card["licence"]
    if "data" in model.card:
        record["data"] = list(model.card["data"])
    return record
