"""The final files of a run: objects, thumbnail and overlay."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.objects import CYTOPLASM, Objects
from wsi_pipeline.core.records import Provenance
from wsi_pipeline.core.run_layout import GEOJSON, OVERLAY, PARQUET, THUMBNAIL
from wsi_pipeline.formats.geojson import GeoJsonWriter
from wsi_pipeline.formats.geoparquet import ParquetWriter
from wsi_pipeline.runs.overlay import Density, draw_overlay, to_png
from wsi_pipeline.runs.run_folder import RunFolder
from wsi_pipeline.runs.work_plan import WorkPlan
from wsi_pipeline.segmentation.cell_features import renewed
from wsi_pipeline.segmentation.kinds import NOT_CELLS
from wsi_pipeline.segmentation.morphometry import NUCLEUS_AREA
from wsi_pipeline.segmentation.stitch import BorderCells
from wsi_pipeline.slides.slide import Slide

__all__ = ["FinalFiles"]


Bounds = tuple[float, float, float, float]


class FinalFiles:
    """Writes the parts of a run folder as GeoJSON and GeoParquet, and draws the pictures.

    Parameters
    ----------
    provenance
        goes into both files
    empty
        no objects, with the classes and measurements that all parts have

    Attributes
    ----------
    objects, oversized
        number of objects written, and of those that were larger than the largest window
    nucleus_areas
        areas in µm² of the nuclei written, region by region
    seconds
        time spent on the two files
    """

    def __init__(
        self, folder: RunFolder, slide: Slide, provenance: Provenance, empty: Objects
    ) -> None:
        self.folder, self.slide, self.provenance = folder, slide, provenance
        self.objects = self.oversized = 0
        self.nucleus_areas: list[NDArray[np.float32]] = []
        self.seconds = 0.0
        self._empty = empty
        self._density = Density(slide.width, slide.height)
        self._duplicates: Mapping[int, NDArray[np.bool_]] = {}
        self._bounds: dict[int, Bounds] = {}
        self._changed = threading.Condition()
        self._done: set[int] = set()
        self._stopped = False
        self._error: Exception | None = None

    @contextmanager
    def written_in_background(self, regions: Sequence[int]) -> Iterator[None]:
        """Write regions in a thread, in this order, each once it is marked as done.

        The block ends when all regions are written. An error of the thread is raised there.
        """
        thread = threading.Thread(target=self._write_in_order, args=(regions,), name="writer")
        thread.start()
        try:
            yield
        except BaseException:
            self._stopped = True
            raise
        finally:
            with self._changed:
                self._changed.notify()
            thread.join()
        if self._error is not None:
            raise self._error

    def mark_done(self, region: int) -> None:
        """Mark a region as done: it has a part, or failed and gets none in this run."""
        with self._changed:
            self._done.add(region)
            self._changed.notify()

    def _write_in_order(self, regions: Sequence[int]) -> None:
        try:
            self.write(self._once_done(regions))
        except Exception as error:
            self._error = error

    def _once_done(self, regions: Sequence[int]) -> Iterator[int]:
        for region in regions:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or region in self._done)  # noqa: B023
            if self._stopped:
                raise InterruptedError
            if self.folder.has(region):
                yield region

    def write(
        self,
        regions: Iterable[int],
        duplicates: Mapping[int, NDArray[np.bool_]] | None = None,
        neighbours: BorderCells | None = None,
    ) -> None:
        """Write the parts of `regions`, in this order; the files appear when all are written.

        Parameters
        ----------
        duplicates
            by region, bool (n,): objects to leave out, since another region has them too
        neighbours
            cells of all regions near the borders; with them what depends on neighbours is measured
            again, since it was measured before copies were removed
        """
        self._duplicates = duplicates or {}
        path = self.folder.path
        with (
            GeoJsonWriter(path / GEOJSON, provenance=self.provenance) as geojson,
            ParquetWriter(path / PARQUET, provenance=self.provenance) as parquet,
        ):
            geojson.write(self._empty)
            parquet.write(self._empty)
            for region in regions:
                began = time.perf_counter()
                objects, oversized = self._read(region)
                self.oversized += oversized
                self.objects += len(objects)
                if len(objects):
                    if neighbours is not None:
                        objects = renewed(objects, neighbours.near(region, objects))
                    geojson.write(objects)
                    parquet.write(objects)
                    self._density.add(objects)
                    self.nucleus_areas.append(_nucleus_areas(objects))
                    box = objects.bounds()
                    low, high = box[:, :2].min(axis=0), box[:, 2:].max(axis=0)
                    self._bounds[region] = (*low.tolist(), *high.tolist())
                self.seconds += time.perf_counter() - began
            self.folder.check_owner()  # the files get their names next

    def write_pictures(self, plan: WorkPlan) -> None:
        """Write thumbnail and overlay; call it after `write`."""
        self.folder.write_bytes(THUMBNAIL, to_png(plan.overview.thumbnail))
        about = self.provenance
        overlay = draw_overlay(
            self.slide,
            plan.overview,
            self._density,
            self._objects_near,
            scale=plan.scale,
            title=f"{about['slide']['id']} · {about['model']['name']}",
        )
        self.folder.write_bytes(OVERLAY, to_png(overlay))

    def _objects_near(self, box: Bounds) -> Iterator[Objects]:
        """Yield the objects of each region that has some in or near a box of level-0 pixels."""
        x0, y0, x1, y1 = box
        for region, (left, top, right, bottom) in self._bounds.items():
            if left < x1 and right > x0 and top < y1 and bottom > y0:
                yield self._read(region)[0]

    def without_copies(
        self, duplicates: Mapping[int, NDArray[np.bool_]]
    ) -> Iterator[tuple[int, Objects]]:
        """Yield each region with its objects but for `duplicates`."""
        self._duplicates = duplicates
        for region in self.folder.regions():
            yield region, self._read(region)[0]

    def _read(self, region: int) -> tuple[Objects, int]:
        objects, oversized = self.folder.read_part(region)
        if region in self._duplicates:
            objects = objects.take(~self._duplicates[region])
        return objects, oversized


def _nucleus_areas(objects: Objects) -> NDArray[np.float32]:
    """Return the areas of the nuclei of cells, in µm²."""
    areas = objects.features.get(NUCLEUS_AREA)
    if areas is None:
        return np.zeros(0, np.float32)
    others = [objects.classes.index(c) for c in {CYTOPLASM, *NOT_CELLS} & set(objects.classes)]
    return areas[np.isfinite(areas) & ~np.isin(objects.class_index, others)]
