"""Bring corrected objects back as a run folder, so that every report shows what was corrected."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from wsi_pipeline.core.errors import DataError, OutputError, one_line
from wsi_pipeline.core.files import as_output_error, write_bytes, write_json
from wsi_pipeline.core.machine import peak_bytes
from wsi_pipeline.core.objects import CELL_CLASS, CYTOPLASM, Objects, is_cell
from wsi_pipeline.core.polygons import arranged, chunks
from wsi_pipeline.core.records import CorrectionRecord
from wsi_pipeline.core.run_layout import (
    FOREGROUND,
    GEOJSON,
    IMPORT_SCRIPT,
    OVERLAY,
    PARQUET,
    PLAN_JSON,
    RUN_JSON,
    THUMBNAIL,
    remove_run,
    run_folder_path,
)
from wsi_pipeline.corrections.compare import Changes, compare
from wsi_pipeline.corrections.objects import CELL, NUCLEUS, Corrected
from wsi_pipeline.corrections.read import read_objects_of
from wsi_pipeline.corrections.slides import SlideToLearn
from wsi_pipeline.formats.convert import read_objects
from wsi_pipeline.formats.geojson import GeoJsonWriter, stays
from wsi_pipeline.formats.geoparquet import ParquetWriter
from wsi_pipeline.runs.overlay import Density, draw_overlay, objects_in, to_png
from wsi_pipeline.runs.qupath_files import import_script
from wsi_pipeline.runs.slide_of_run import slide_of_run
from wsi_pipeline.runs.work_plan import read_overview
from wsi_pipeline.segmentation.measure_again import measure_again
from wsi_pipeline.slides.slide import Slide

__all__ = ["ENDING", "import_corrected"]

ENDING = "-corrected"
"""End of the name of a model whose objects were corrected."""
_CHUNK = 50_000
_OF_ONE_RUN = ("batch_reduced_to", "cluster")


def import_corrected(
    one: SlideToLearn, out: Path, *, ignored: str | None = None, overwrite: bool = False
) -> tuple[Path, Changes]:
    """Write the corrected objects of a slide as a run folder, measured again.

    Ids, outlines, classes, probabilities and the cells of nuclei are those of the file. Objects
    without a class get that of their kind.

    Parameters
    ----------
    one
        slide, corrected objects and run
    out
        gets ``<slide_id>/<model>-corrected/``
    ignored
        class of annotations that are no objects: the areas that were checked
    overwrite
        replace the files of an earlier import

    Returns
    -------
    the run folder, and what was changed on the whole slide

    Raises
    ------
    UsageError, DataError, SlideError, OutputError
        a file cannot be used, or the folder holds a run
    """
    began = time.perf_counter()
    stated = one.record
    run = read_objects(one.run)
    corrected = Corrected.from_objects(read_objects_of(one.corrected, ignored), run)
    objects = arranged(_with_classes(corrected, run))
    changes = compare(run, objects, shapely.box(-np.inf, -np.inf, np.inf, np.inf))
    model = stated["model"]
    name = model["name"].removesuffix(ENDING) + ENDING
    folder = run_folder_path(out, stated["slide"]["id"], name)
    if (folder / RUN_JSON).exists() and not overwrite:
        raise OutputError(f"{folder} holds a run already; use --overwrite or give another --out")
    kept = _kept_files(one.run)  # read before they are removed, if the run lies in that folder
    with as_output_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        remove_run(folder)
    about = {
        **stated,
        "model": {**model, "name": name, "classes": list(objects.classes)},
        "corrected": _correction(one, model["name"], changes),
    }
    with slide_of_run(one.run, stated, one.slide) as slide:
        objects = _measured(objects, run, slide, stated)
        _write_objects(folder, objects, about)
        _draw(folder, objects, slide, stated, f"{slide.slide_id} · {name}")
    for file, content in kept.items():
        write_bytes(folder / file, content)
    write_bytes(folder / IMPORT_SCRIPT, import_script(folder.parent.parent, folder.name))
    counts = {"objects": len(objects), "objects_larger_than_seen": 0, "stage_seconds": {}}
    seconds = {
        "seconds": round(time.perf_counter() - began, 2),
        "peak_memory_mb": round(peak_bytes() / 2**20),
    }
    write_json(folder / RUN_JSON, {**about, **counts, **seconds, **dict.fromkeys(_OF_ONE_RUN)})
    return folder, changes


def _kept_files(run: Path) -> dict[str, bytes]:
    """Return the files that stay as they are: name → content."""
    try:
        return {name: (run / name).read_bytes() for name in (FOREGROUND, PLAN_JSON)}
    except OSError as error:
        raise DataError(
            f"{run} is not whole ({one_line(error)}); run the slide again with --overwrite"
        ) from error


def _correction(one: SlideToLearn, model: str, changes: Changes) -> CorrectionRecord:
    return {
        "file": one.corrected.name,
        "sha256": hashlib.sha256(one.corrected.read_bytes()).hexdigest(),
        "model": model,
        "wsiseg": version("wsiseg"),
        "unchanged": changes.unchanged,
        "added": len(changes.added),
        "removed": len(changes.removed),
        "reshaped": len(changes.reshaped),
        "reclassified": len(changes.reclassified),
    }


def _with_classes(corrected: Corrected, run: Objects) -> Objects:
    """Return the objects with the run's classes first; those without a class get one."""
    objects, names = corrected.objects, corrected.names()
    plain = np.isin(names, ("Unclassified",))
    names = np.where(plain & (corrected.role == NUCLEUS), "nucleus", names)
    lone = (corrected.role == CELL) & ~is_cell(objects) & (names != CYTOPLASM)
    names = np.where(lone | (plain & (corrected.role == CELL)), CELL_CLASS, names)
    classes = tuple(dict.fromkeys([*run.classes, *names.tolist()]))
    index = np.array([classes.index(name) for name in names], np.uint8)
    return replace(objects, classes=classes, class_index=index)


def _measured(objects: Objects, run: Objects, slide: Slide, stated: Mapping[str, Any]) -> Objects:
    """Return the objects with fresh measurements, named and ordered as in the run."""
    size = stated["slide"]["mpp"]
    kept = {name: column for name, column in objects.features.items() if stays(name)}
    if run.parent is not None and objects.parent is None:
        objects = replace(objects, parent=np.full(len(objects), -1))
    again = measure_again(
        replace(objects, features=kept), (size["x"] + size["y"]) / 2, slide=slide,
        model_mpp=stated["model"]["mpp"],
    )  # fmt: skip
    order = [n for n in run.features if n in again.features]
    order += [n for n in again.features if n not in run.features]
    return replace(again, features={name: again.features[name] for name in order})


def _write_objects(folder: Path, objects: Objects, about: Mapping[str, Any]) -> None:
    empty = objects.take(np.zeros(0, np.int64))
    with (
        GeoJsonWriter(folder / GEOJSON, provenance=about) as geojson,
        ParquetWriter(folder / PARQUET, provenance=about) as parquet,
    ):
        for part in (empty, *chunks(objects, _CHUNK)):
            geojson.write(part)
            parquet.write(part)


def _draw(
    folder: Path, objects: Objects, slide: Slide, stated: Mapping[str, Any], title: str
) -> None:
    """Write thumbnail and overlay."""
    overview = read_overview(slide, stated["settings"].get("foreground", "auto"))
    density = Density(slide.width, slide.height)
    if len(objects):
        density.add(objects)
    size = stated["slide"]["mpp"]
    overlay = draw_overlay(
        slide, overview, density, lambda box: objects_in([objects], box),
        scale=stated["model"]["mpp"] / ((size["x"] + size["y"]) / 2), title=title,
    )  # fmt: skip
    write_bytes(folder / THUMBNAIL, to_png(overview.thumbnail))
    write_bytes(folder / OVERLAY, to_png(overlay))
