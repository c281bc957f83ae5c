"""One open slide: its picture and a layer of objects for each run."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.errors import DataError, one_line
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.formats.geojson import (
    GeoJsonWriter,
    class_color,
    read_geojson,
    read_regions,
    write_annotations,
)
from wsi_pipeline.reports.atypia import RANKING, rank_atypical
from wsi_pipeline.reports.gallery import COUNT, GALLERY, GALLERY_JSON, read_gallery
from wsi_pipeline.slides.slide import Slide
from wsi_pipeline.viewer.edits import (
    corrected,
    edits_between,
    id_text,
    parse_edits,
    parse_polygon,
    rings_of,
)
from wsi_pipeline.viewer.object_tiles import SortedObjects, sort_into_tiles
from wsi_pipeline.viewer.picture import TILE_PX, Picture

__all__ = ["Layer", "View"]

_AREA_CLASS = "Region*"
"""Class that QuPath uses for areas."""
_MOST_AREAS = 1000


@dataclass(frozen=True, eq=False)
class Layer:
    """The objects of one run, and where corrections of them are saved.

    Attributes
    ----------
    name
        name of the model
    corrections
        GeoJSON file with all objects after corrections; the areas in which a person has checked
        every object are in a file beside it, see `areas_file`
    provenance
        content of run.json
    folder
        run folder; None for a slide without a run
    """

    name: str
    sorted: SortedObjects
    corrections: Path
    provenance: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def drawn(cls, corrections: Path, width: int, height: int) -> Layer:
        """Return a layer without objects, to draw on a slide that has no run."""
        empty = Objects.empty(("nucleus", "cell"))
        linked = replace(empty, parent=np.zeros(0, np.int64))
        return cls("drawn", sort_into_tiles(linked, width, height), corrections)

    @property
    def areas_file(self) -> Path:
        """File of the checked areas, ``corrections.area.geojson``, beside `corrections`."""
        name = self.corrections.name
        stem = name.removesuffix(".gz").rsplit(".", 1)[0]
        return self.corrections.with_name(f"{stem}.area.geojson")

    def about(self) -> dict[str, Any]:
        """Return what the page must have before it draws."""
        held = self.sorted
        counts = np.bincount(held.objects.class_index, minlength=len(held.objects.classes))
        classes = [
            {"name": name, "color": class_color(name), "count": int(count)}
            for name, count in zip(held.objects.classes, counts, strict=True)
        ]
        size = held.objects.bounds()[:: max(1, len(held.objects) // 10_000)]
        return {
            "name": self.name, "count": len(held.objects), "classes": classes,
            "tile_px": held.tile_px, "columns": held.columns, "rows": held.rows,
            "measurements": held.column_names, "plotted_class": held.plotted_class(),
            "median_px": float(np.median(size[:, 2] - size[:, 0])) if len(size) else 0.0,
            "file": self.corrections.name,
        }  # fmt: skip

    def detail(self, row: int) -> dict[str, Any]:
        """Return one object with its outline and measurements.

        Raises
        ------
        DataError
            there is no such row
        """
        objects = self.sorted.objects
        if not 0 <= row < len(objects):
            raise DataError(f"object {row} does not exist; the layer has {len(objects)}")
        (polygon,) = self.sorted.outlines.get().take(np.array([row])).polygons()
        measured = {
            name: round(float(column[row]), 4)
            for name, column in objects.features.items()
            if np.isfinite(column[row])
        }
        return {
            "row": row, "id": id_text(objects.ids[row]),
            "class": objects.classes[objects.class_index[row]],
            "score": round(float(objects.score[row]), 4),
            "x": float(self.sorted.centres[row, 0]), "y": float(self.sorted.centres[row, 1]),
            "measurements": measured, "rings": rings_of(polygon), **self._family(row),
        }  # fmt: skip

    def _family(self, row: int) -> dict[str, Any]:
        parent = self.sorted.objects.parent
        if parent is None:
            return {"cell": None, "nuclei": []}
        cell = int(parent[row])
        return {
            "cell": cell if cell >= 0 else None,
            "nuclei": np.flatnonzero(parent == row).tolist(),
        }

    def gallery(self, among: NDArray[np.integer] | None = None) -> dict[str, Any]:
        """Return the most atypical cells: of the run's gallery, else ranked now without pixels.

        Parameters
        ----------
        among
            rows of the objects to rank, cells with their nuclei; by default all

        Raises
        ------
        DataError
            gallery.json is damaged, or a row does not exist
        """
        if (
            among is None
            and self.folder is not None
            and (self.folder / GALLERY / GALLERY_JSON).is_file()
        ):
            found = read_gallery(self.folder)
            text, listed = str(found.get("ranking", "")), _listed(found["cells"])
            rows = self.sorted.rows_of(np.array([i for i, _ in listed], np.uint64).reshape(-1, 2))
            pairs = [(int(r), reasons) for r, (_, reasons) in zip(rows, listed, strict=True)]
        else:
            chosen = None if among is None else self._with_nuclei(among)
            ranking = rank_atypical(self.sorted.objects, COUNT, among=chosen)
            text, rows = RANKING, ranking.order
            pairs = [(int(r), reasons) for r, reasons in zip(rows, ranking.reasons, strict=True)]
        cells = [
            self._gallery_cell(rank, row, reasons)
            for rank, (row, reasons) in enumerate(pairs, 1)
            if row >= 0
        ]
        return {"ranking": text, "cells": cells}

    def _gallery_cell(self, rank: int, row: int, reasons: Mapping[str, Any]) -> dict[str, Any]:
        objects = self.sorted.objects
        parent = -1 if objects.parent is None else int(objects.parent[row])
        box = objects.take(np.array([row if parent < 0 else parent])).bounds()[0]
        side = 1.25 * max(box[2] - box[0], box[3] - box[1])
        return {
            "rank": rank, "row": row, "class": objects.classes[objects.class_index[row]],
            "x": float(box[0] + box[2]) / 2, "y": float(box[1] + box[3]) / 2,
            "side": float(side if parent >= 0 else 2.5 * side),
            "reasons": [f"{name} {float(z):+.1f}" for name, z in list(reasons.items())[:2]],
        }  # fmt: skip

    def saved(self) -> dict[str, Any]:
        """Return the corrections that were saved earlier, as the page has them.

        Raises
        ------
        DataError
            the file is damaged, or belongs to another run
        """
        found: dict[str, Any] = {"edits": [], "areas": []}
        if self.corrections.is_file():
            found["edits"] = edits_between(self.sorted, read_geojson(self.corrections))
        if self.areas_file.is_file():
            inside = read_regions(self.areas_file).inside.values()
            polygons = [p for shape in inside for p in getattr(shape, "geoms", (shape,))]
            found["areas"] = [rings_of(p)[0] for p in polygons]
        return found

    def save(self, edits: Any, areas: Any) -> int:
        """Write all objects after edits, and the checked areas; return the number of objects.

        Raises
        ------
        DataError
            see `parse_edits`
        OutputError
            a file cannot be written
        """
        if not isinstance(areas, list) or len(areas) > _MOST_AREAS:
            raise DataError(f"areas must be a list of at most {_MOST_AREAS} outlines")
        polygons = [parse_polygon([area]) for area in areas]
        objects = corrected(self.sorted, parse_edits(edits))
        with self._lock:
            with GeoJsonWriter(self.corrections, provenance=self.provenance) as writer:
                writer.write(objects)
            if not polygons:
                self.areas_file.unlink(missing_ok=True)
            else:
                names = [f"Area {k}" for k in range(1, len(polygons) + 1)]
                classes = [_AREA_CLASS] * len(names)
                write_annotations(self.areas_file, polygons, names, classes=classes)
        return len(objects)

    def export(self, rows: NDArray[np.integer]) -> bytes:
        """Return GeoJSON of some objects; a cell brings its nuclei.

        Raises
        ------
        DataError
            a row does not exist
        """
        wanted, objects = self._with_nuclei(rows), self.sorted.outlines.get()
        with TemporaryDirectory() as folder:
            path = Path(folder) / "selected.geojson"
            with GeoJsonWriter(path, provenance=self.provenance) as writer:
                writer.write(objects.take(wanted))
            return path.read_bytes()

    def _with_nuclei(self, rows: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Return which objects are in `rows`, or nuclei of cells there, bool (n,)."""
        objects = self.sorted.objects
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(objects):
            raise DataError(f"rows must be 0 to {len(objects) - 1}")
        wanted = np.zeros(len(objects), np.bool_)
        wanted[rows] = True
        if objects.parent is not None:
            held = objects.parent >= 0
            wanted[held] |= wanted[objects.parent[held]]
        return wanted


def _listed(cells: Sequence[Any]) -> list[tuple[tuple[int, int], Mapping[str, Any]]]:
    """Return id and reasons of the cells of a gallery.json.

    Raises
    ------
    DataError
        a cell has no id
    """
    try:
        ids = [uuid.UUID(str(cell["id"])).int for cell in cells]
        reasons = [{str(k): float(v) for k, v in cell["reasons"].items()} for cell in cells]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{GALLERY_JSON} cannot be used ({one_line(error)}); write it with `wsiseg gallery`"
        ) from error
    return [((i >> 64, i & (2**64 - 1)), why) for i, why in zip(ids, reasons, strict=True)]


@dataclass(frozen=True, eq=False)
class View:
    """One open slide.

    Attributes
    ----------
    slide
        None where the thumbnail of a run is shown instead
    mpp
        µm per level-0 pixel, None where it is not known
    loaders
        for each layer a function that reads it, called when the layer is first asked for: the
        picture is there before a million objects are
    """

    name: str
    picture: Picture
    slide: Slide | None
    mpp: float | None
    loaders: Sequence[Callable[[], Layer]]
    _layers: dict[int, Layer] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def layer(self, index: int) -> Layer:
        """Return a layer.

        Raises
        ------
        DataError
            there is no such layer, or its files cannot be read
        """
        if not 0 <= index < len(self.loaders):
            raise DataError(f"layer {index} does not exist; the slide has {len(self.loaders)}")
        with self._lock:
            if index not in self._layers:
                self._layers[index] = self.loaders[index]()
            return self._layers[index]

    def about(self) -> dict[str, Any]:
        """Return what the page must have before it draws."""
        return {
            "name": self.name, "width": self.picture.width, "height": self.picture.height,
            "mpp": self.mpp, "tile_px": TILE_PX, "levels": self.picture.levels,
            "whole_slide": self.slide is not None, "layers": len(self.loaders),
        }  # fmt: skip
