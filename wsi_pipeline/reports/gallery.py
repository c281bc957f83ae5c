"""The gallery of a slide: its most atypical cells as pictures, numbers and a list for QuPath."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.errors import DataError, UsageError, one_line
from wsi_pipeline.core.files import as_output_error, write_bytes, write_text
from wsi_pipeline.core.json_files import read_json
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.run_layout import PARQUET, RUN_JSON, read_run
from wsi_pipeline.formats._geojson_render import uuid_text
from wsi_pipeline.formats.geojson import annotation_document
from wsi_pipeline.formats.parquet_rows import read_boxes, read_rows
from wsi_pipeline.reports.atypia import RANKING, Ranking, rank_atypical, rankable
from wsi_pipeline.reports.chromatin import looked_at
from wsi_pipeline.reports.crops import Ring, cut_out, jpeg, padded, png, window
from wsi_pipeline.reports.object_table import holds_boxes
from wsi_pipeline.reports.review_page import review_page
from wsi_pipeline.segmentation.cell_features import NUCLEUS_RATIO
from wsi_pipeline.segmentation.kinds import ABNORMAL
from wsi_pipeline.segmentation.morphometry import MORPHOMETRY, NUCLEUS_AREA, OD_MEAN
from wsi_pipeline.slides.slide import Slide

__all__ = [
    "COUNT", "GALLERY", "GALLERY_JSON", "REVIEW_CLASS", "REVIEW_GEOJSON", "REVIEW_HTML",
    "GalleryCell", "gallery_cells", "ranked", "read_gallery", "write_gallery",
]  # fmt: skip

COUNT = 40
"""Cells of a gallery."""
GALLERY, GALLERY_JSON = "gallery", "gallery.json"
"""Folder of the gallery in a run folder, and the file that states its content."""
REVIEW_GEOJSON, REVIEW_HTML = "review.geojson", "review.html"
REVIEW_CLASS = "Review"
"""Class of the annotations of review.geojson."""
SCHEMA_VERSION = 1
CANDIDATES = 5
"""Nuclei whose pixels are measured, per place in the gallery."""
USUAL = 300
"""Nuclei whose pixels stand for those of the slide."""
MARGIN_UM = 3.0
"""What is cut out around a nucleus without a cell, µm."""
_RANKED_BY = (
    NUCLEUS_AREA, OD_MEAN, NUCLEUS_RATIO, ABNORMAL, *(f"Nucleus: {name}" for name in MORPHOMETRY),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class GalleryCell:
    """One cell of the gallery.

    Attributes
    ----------
    rank
        place in the list, from 1
    id, cell_id
        UUIDs of the nucleus, and of the cell that holds it, else ""
    class_name
        class of the nucleus
    x, y
        middle of the nucleus, level-0 pixels
    score
        weighted mean of the z-scores, see `RANKING`
    reasons
        measurement → robust z-score, the ones that decided first
    measurements
        measurements of the nucleus and of its cell
    plain, outlined
        JPEG of the surroundings with a scale bar, without and with outlines
    cut_out
        PNG of the whole cell, transparent outside; of the nucleus with a margin without a cell
    mpp, width_px, height_px
        µm per pixel and size of `plain` and `outlined`
    polygon
        outline of the cell, else of the nucleus, level-0 pixels
    outlines
        outlines in pixels of `plain`: ("cell" or "nucleus", vertices (n, 2))
    """

    rank: int
    id: str
    cell_id: str
    class_name: str
    x: float
    y: float
    score: float
    reasons: Mapping[str, float]
    measurements: Mapping[str, float]
    plain: bytes = field(repr=False)
    outlined: bytes = field(repr=False)
    cut_out: bytes = field(repr=False)
    mpp: float
    width_px: int
    height_px: int
    polygon: shapely.Polygon = field(repr=False)
    outlines: tuple[tuple[str, Ring], ...] = field(repr=False)

    @property
    def files(self) -> dict[str, str]:
        """Names of the pictures: plain, outlined and cut_out."""
        stem = f"{self.rank:04}-{self.id}"
        return {
            "plain": f"{stem}.jpg",
            "outlined": f"{stem}.outlined.jpg",
            "cut_out": f"{stem}.cut-out.png",
        }


def gallery_cells(
    folder: Path, slide: Slide, count: int = COUNT, *, among: NDArray[np.bool_] | None = None
) -> list[GalleryCell]:
    """Return the `count` most atypical cells of a run, the most atypical first.

    Parameters
    ----------
    folder
        the run folder
    slide
        its slide, open
    among
        bool (n,): objects of the run to choose from; by default all

    Raises
    ------
    DataError
        the run cannot be read
    UsageError
        `count` is not positive, or the run found boxes, which have no area
    """
    if count < 1:
        raise UsageError(f"count must be 1 or more, got {count}")
    mpp = read_run(folder)["slide"]["mpp"]
    path = folder / PARQUET
    if holds_boxes(path):
        raise UsageError(
            f"{folder} has boxes of a detector, which have no area; use a run with outlines"
        )
    light = read_boxes(path, _RANKED_BY)
    size = (mpp["x"] + mpp["y"]) / 2
    ranking = ranked(path, slide, light, count, size, among)
    rows = _with_family(ranking.order, light.parent)
    objects = read_rows(path, rows, light.parent)
    place = {int(row): i for i, row in enumerate(rows)}
    return [
        _cell(slide, objects, place[int(row)], size, ranking, k)
        for k, row in enumerate(ranking.order)
    ]


def ranked(
    path: Path,
    slide: Slide,
    light: Objects,
    count: int,
    mpp: float,
    only: NDArray[np.bool_] | None = None,
) -> Ranking:
    """Rank by measurements, then look at the pixels of the first ones and rank these again.

    Parameters
    ----------
    light
        objects of the file, with their bounding boxes as outlines
    mpp
        µm per level-0 pixel
    only
        bool (n,): objects to choose from; by default all
    """
    box = light.bounds()
    whole = np.all((box > 0) & (box < [slide.width, slide.height] * 2), axis=1)
    allowed = whole if only is None else whole & only
    first = rank_atypical(light, CANDIDATES * count, among=allowed).order
    usual = np.flatnonzero(rankable(light) & whole)
    usual = np.sort(usual[np.lexsort(light.ids[usual].T)[:USUAL]])  # ids are random numbers
    rows = np.union1d(first, usual)
    nuclei = read_rows(path, rows, None)
    looked = looked_at(slide, nuclei, rows, np.isin(rows, usual), n=len(light), mpp=mpp)
    among = np.zeros(len(light), bool)
    among[first] = True
    return rank_atypical(light, count, looked=looked, among=among)


def _with_family(order: NDArray[np.int64], parent: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Return the nuclei, the cells that hold them, and the other nuclei of these cells."""
    if parent is None:
        return order
    cells = parent[order]
    cells = np.unique(cells[cells >= 0])
    return np.unique(np.concatenate([order, cells, np.flatnonzero(np.isin(parent, cells))]))


def _cell(
    slide: Slide, objects: Objects, i: int, mpp: float, ranking: Ranking, k: int
) -> GalleryCell:
    """Return the k-th cell of the ranking, the nucleus `i` of `objects`."""
    shapes = objects.polygons()
    nucleus, cell = shapes[i], -1 if objects.parent is None else int(objects.parent[i])
    nuclei = [i] if cell < 0 else np.flatnonzero(objects.parent == cell).tolist()
    middle = nucleus.centroid
    crop = window(slide, middle.x, middle.y, mpp)
    inner = [crop.ring(shapes[j]) for j in nuclei]
    outer = [] if cell < 0 else [crop.ring(shapes[cell])]
    whole = shapes[cell] if cell >= 0 else nucleus
    wanted = shapely.Polygon(whole.exterior) if cell >= 0 else padded(nucleus, MARGIN_UM / mpp)
    ids = [uuid_text(objects.ids[[j]]).tobytes().decode() for j in (i, cell)]
    values = {
        name: float(column[j])
        for j in ((i, cell) if cell >= 0 else (i,))
        for name, column in objects.features.items()
        if np.isfinite(column[j])
    }
    return GalleryCell(
        rank=k + 1,
        id=ids[0],
        cell_id=ids[1] if cell >= 0 else "",
        class_name=objects.classes[objects.class_index[i]],
        x=round(middle.x, 2),
        y=round(middle.y, 2),
        score=round(float(ranking.score[ranking.order[k]]), 3),
        reasons=ranking.reasons[k],
        measurements=values,
        plain=jpeg(crop.pixels, crop.mpp),
        outlined=jpeg(crop.outlined(outer, inner), crop.mpp),
        cut_out=png(cut_out(slide, wanted, mpp)),
        mpp=crop.mpp,
        width_px=crop.pixels.shape[1],
        height_px=crop.pixels.shape[0],
        polygon=whole,
        outlines=(*(("cell", r) for r in outer), *(("nucleus", r) for r in inner)),
    )


def write_gallery(
    folder: Path,
    slide: Slide,
    count: int = COUNT,
    *,
    out: Path | None = None,
    among: NDArray[np.bool_] | None = None,
) -> list[GalleryCell]:
    """Write the gallery of a run: pictures, gallery.json, review page and list; return its cells.

    Pictures of an earlier gallery are removed, gallery.json goes first and comes last: a folder
    with it is complete.

    Parameters
    ----------
    out
        folder to write; by default ``gallery`` in the run folder
    among
        see `gallery_cells`

    Raises
    ------
    DataError, UsageError
        see `gallery_cells`
    OutputError
        the folder cannot be written
    """
    out = out or folder / GALLERY
    cells = gallery_cells(folder, slide, count, among=among)
    with as_output_error(out):
        out.mkdir(parents=True, exist_ok=True)
        _remove_old(out)
    for cell in cells:
        for kind, name in cell.files.items():
            write_bytes(out / name, getattr(cell, kind))
    write_bytes(out / REVIEW_GEOJSON, review_document(cells))
    run = read_run(folder)
    page = review_page(
        cells, slide=run["slide"]["id"], model=run["model"]["name"],
        run=hashlib.sha256((folder / RUN_JSON).read_bytes()).hexdigest(),
    )  # fmt: skip
    write_text(out / REVIEW_HTML, page)
    about = {
        "schema_version": SCHEMA_VERSION,
        "slide": run["slide"]["id"],
        "model": run["model"]["name"],
        "ranking": RANKING,
        "cells": [_record(cell) for cell in cells],
    }
    write_text(out / GALLERY_JSON, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    return cells


def read_gallery(folder: Path) -> dict[str, Any]:
    """Return the content of gallery.json in a gallery's folder, or in that of its run.

    Raises
    ------
    DataError
        there is none, or it is damaged
    """
    path = folder / GALLERY_JSON
    if not path.is_file():
        path = folder / GALLERY / GALLERY_JSON
    try:
        found = read_json(path)
        if found["schema_version"] != SCHEMA_VERSION or not isinstance(found["cells"], list):
            raise ValueError(f"schema_version {found['schema_version']}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be used ({one_line(error)}); write it with `wsiseg gallery`"
        ) from error
    return dict(found)


def review_document(cells: Sequence[GalleryCell]) -> bytes:
    """Return the cells as annotations for QuPath, named "001 z=5.2" in the order of the list."""
    return annotation_document(
        [cell.polygon for cell in cells],
        [f"{cell.rank:03} z={cell.score:.1f}" for cell in cells],
        classes=[REVIEW_CLASS] * len(cells),
        measurements=[_numbers(cell) for cell in cells],
        locked=False,
    )


def _numbers(cell: GalleryCell) -> dict[str, float]:
    """Return score, z-scores and measurements of a cell, for QuPath's table."""
    z = {f"Atypia: {name} z": value for name, value in cell.reasons.items()}
    return {"Atypia: score": cell.score, **z, **_short(cell.measurements)}


def _short(measurements: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.6g}") for name, value in measurements.items()}


def _record(cell: GalleryCell) -> dict[str, Any]:
    return {
        "rank": cell.rank,
        "id": cell.id,
        "cell_id": cell.cell_id,
        "class": cell.class_name,
        "x": cell.x,
        "y": cell.y,
        "score": cell.score,
        "reasons": dict(cell.reasons),
        "measurements": _short(cell.measurements),
        "mpp": cell.mpp,
        "files": cell.files,
    }


def _remove_old(out: Path) -> None:
    """Remove the files of an earlier gallery, and nothing else."""
    (out / GALLERY_JSON).unlink(missing_ok=True)
    name = "[0-9]" * 4 + "-*-*-*-*-*"
    for path in [*out.glob(f"{name}.jpg"), *out.glob(f"{name}.cut-out.png")]:
        path.unlink()
