"""The final files, written while regions are still coming in."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.records import Provenance
from wsi_pipeline.core.run_layout import GEOJSON, PARQUET
from wsi_pipeline.formats.geojson import GeoJsonWriter
from wsi_pipeline.formats.geoparquet import ParquetWriter
from wsi_pipeline.runs.overlay import Density
from wsi_pipeline.runs.run_folder import RunFolder

__all__ = ["Results"]

Bounds = tuple[float, float, float, float]


class Results:
    """What a run folder's parts become: GeoJSON, Parquet, and counts.

    Attributes
    ----------
    objects, oversized
        how many there are, and how many of them are larger than could be seen
    density
        where they are
    seconds
        spent on the files

    Parameters
    ----------
    none
        no objects, of the classes and measurements that all parts have
    """

    def __init__(
        self, folder: RunFolder, provenance: Provenance, none: Objects, density: Density
    ) -> None:
        self.folder, self.provenance, self.none = folder, provenance, none
        self.density = density
        self.objects = self.oversized = 0
        self.seconds = 0.0
        self._drop: Mapping[int, NDArray[np.bool_]] = {}
        self._bounds: dict[int, Bounds] = {}
        self._news = threading.Condition()
        self._settled: set[int] = set()
        self._stopped = False
        self._error: Exception | None = None

    @contextmanager
    def following(self, regions: Sequence[int]) -> Iterator[None]:
        """Write in a thread of its own, in this order, each region once it is settled.

        The block ends when all is written; what goes wrong in writing is raised there.
        """
        thread = threading.Thread(target=self._follow, args=(regions,), name="writer")
        thread.start()
        try:
            yield
        except BaseException:
            self._stopped = True
            raise
        finally:
            with self._news:
                self._news.notify()
            thread.join()
        if self._error is not None:
            raise self._error

    def settle(self, region: int) -> None:
        """Say that a region is done: it has a part, or never will have in this run."""
        with self._news:
            self._settled.add(region)
            self._news.notify()

    def _follow(self, regions: Sequence[int]) -> None:
        try:
            self.write(self._in_order(regions))
        except Exception as error:
            self._error = error

    def _in_order(self, regions: Sequence[int]) -> Iterator[int]:
        for region in regions:
            with self._news:
                self._news.wait_for(lambda: self._stopped or region in self._settled)  # noqa: B023
            if self._stopped:
                raise InterruptedError
            if self.folder.has(region):
                yield region

    def write(
        self, regions: Iterable[int], drop: Mapping[int, NDArray[np.bool_]] | None = None
    ) -> None:
        """Write the files from these parts, in this order; they appear when the last is in.

        `drop` says which objects of a region are another region's, bool (n,).
        """
        self._drop = drop or {}
        path, provenance = self.folder.path, self.provenance
        with (
            GeoJsonWriter(path / GEOJSON, provenance=provenance) as geojson,
            ParquetWriter(path / PARQUET, provenance=provenance) as parquet,
        ):
            geojson.write(self.none)
            parquet.write(self.none)
            for region in regions:
                began = time.perf_counter()
                objects, oversized = self._part(region)
                self.oversized += oversized
                self.objects += len(objects)
                if len(objects):
                    geojson.write(objects)
                    parquet.write(objects)
                    self.density.add(objects)
                    box = objects.bounds()
                    low, high = box[:, :2].min(axis=0), box[:, 2:].max(axis=0)
                    self._bounds[region] = (*low.tolist(), *high.tolist())
                self.seconds += time.perf_counter() - began
            self.folder.check_owner()  # the files get their names next

    def near(self, box: Bounds) -> Iterator[Objects]:
        """The objects of the regions that have some in or near a box of level-0 pixels."""
        x0, y0, x1, y1 = box
        for region, (left, top, right, bottom) in self._bounds.items():
            if left < x1 and right > x0 and top < y1 and bottom > y0:
                yield self._part(region)[0]

    def _part(self, region: int) -> tuple[Objects, int]:
        objects, oversized = self.folder.read_part(region)
        if region in self._drop:
            objects = objects.take(~self._drop[region])
        return objects, oversized
