"""The slides of a viewer with their runs, opened when they are chosen."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wsi_pipeline.core.errors import DataError, UsageError, WsisegError
from wsi_pipeline.core.records import RunRecord
from wsi_pipeline.core.run_layout import PARQUET, THUMBNAIL, read_run
from wsi_pipeline.core.safe_names import slide_id_of
from wsi_pipeline.formats.geoparquet import read_parquet
from wsi_pipeline.formats.parquet_rows import read_boxes
from wsi_pipeline.runs.slide_of_run import slide_of_run
from wsi_pipeline.slides.slide import Slide, open_slide
from wsi_pipeline.viewer.object_tiles import sort_into_tiles
from wsi_pipeline.viewer.picture import Picture, SlidePixels, ThumbnailPixels, read_thumbnail
from wsi_pipeline.viewer.view import Layer, View

__all__ = ["CORRECTIONS", "Entry", "Library", "match_runs"]

CORRECTIONS = "corrections.geojson"
"""File in a run folder that the viewer saves corrections to."""
_OPEN_VIEWS = 2
"""Slides that are held open with their objects."""
_READ_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Entry:
    """One slide to choose: its file, None where only the thumbnails of runs are there."""

    name: str
    slide: Path | None
    runs: tuple[Path, ...]


def match_runs(slides: Sequence[Path], runs: Sequence[Path]) -> list[Entry]:
    """Return one entry for each slide with its runs, and for runs whose slide is not there.

    A run belongs to the slide whose file name it states, or to the only slide that is given.

    Raises
    ------
    DataError
        a run.json cannot be read
    """
    of_slide: dict[Path, list[Path]] = {slide: [] for slide in slides}
    alone: dict[str, list[Path]] = {}
    for run in runs:
        about = read_run(run)["slide"]
        names = {about["file"], *about.get("files", ())}
        found = [s for s in slides if s.name in names or s.resolve().name in names]
        found = found or [s for s in slides if slide_id_of(s) == about["id"]]
        if len(slides) == 1:
            found = list(slides)
        if found:
            of_slide[found[0]].append(run)
        else:
            alone.setdefault(about["id"], []).append(run)
    entries = [Entry(slide.name, slide, tuple(of_slide[slide])) for slide in slides]
    entries += [Entry(name, None, tuple(found)) for name, found in alone.items()]
    # What has results comes first.
    return sorted(entries, key=lambda e: (not e.runs, e.name))


class Library:
    """The entries of a viewer, of which the last ones are open; any thread may use it.

    Parameters
    ----------
    corrections
        file for corrections, instead of the one in the run folder
    mpp
        µm per level-0 pixel, used instead of that of the files
    """

    def __init__(
        self, entries: Sequence[Entry], *, corrections: Path | None = None, mpp: float | None = None
    ) -> None:
        if not entries:
            raise UsageError("there is nothing to show; give a slide, a run folder, or a folder")
        layers = sum(max(1, len(e.runs)) for e in entries)
        if corrections is not None and layers > 1:
            raise UsageError(
                f"--corrections {corrections} is one file for {layers} runs; give one slide and run"
            )
        if corrections is not None:
            _check_file(corrections)
        self.entries = list(entries)
        self._corrections, self._mpp = corrections, mpp
        self._views: OrderedDict[int, View] = OrderedDict()
        self._lock = threading.Lock()

    def view(self, index: int) -> View:
        """Return an open slide with its objects.

        Raises
        ------
        DataError
            there is no such entry, or its files cannot be read
        SlideError, UsageError
            see `slide_of_run`
        """
        if not 0 <= index < len(self.entries):
            raise DataError(f"slide {index} is not in the list of {len(self.entries)}")
        with self._lock:
            if index not in self._views:
                self._views[index] = self._open(self.entries[index])
            self._views.move_to_end(index)
            while len(self._views) > _OPEN_VIEWS:
                # Another thread may still read: the file is closed when nothing refers to it.
                self._views.popitem(last=False)
            return self._views[index]

    def read_ahead(self) -> None:
        """Open the first slide and its objects, so that the page need not wait for them.

        What fails here fails again, and is reported, when the page asks for it.
        """
        with suppress(WsisegError):
            view = self.view(0)
            for index in range(len(view.loaders)):
                view.layer(index).sorted.outlines.start()

    def _open(self, entry: Entry) -> View:
        records = [read_run(run) for run in entry.runs]
        picture, slide = self._picture(entry, records)
        mpp = self._mpp
        if mpp is None and records:
            mpp = (records[0]["slide"]["mpp"]["x"] + records[0]["slide"]["mpp"]["y"]) / 2
        if mpp is None and slide is not None and slide.mpp is not None and slide.mpp.plausible:
            mpp = slide.mpp.value
        loaders = [
            partial(self._layer, run, record, picture)
            for run, record in zip(entry.runs, records, strict=True)
        ]
        if not loaders and self._corrections is not None:
            loaders = [partial(Layer.drawn, self._corrections, picture.width, picture.height)]
        return View(entry.name, picture, slide, mpp, loaders)

    def _picture(self, entry: Entry, records: Sequence[RunRecord]) -> tuple[Picture, Slide | None]:
        thumbnail = entry.runs[0] / THUMBNAIL if entry.runs else None
        if entry.slide is None:
            assert thumbnail is not None
            about = records[0]["slide"]
            pixels = read_thumbnail(thumbnail)
            return Picture(ThumbnailPixels(pixels, about["width"], about["height"])), None
        if entry.runs:
            slide = slide_of_run(
                entry.runs[0], records[0], entry.slide, read_timeout_s=_READ_TIMEOUT_S,
                mpp=self._mpp,
            )  # fmt: skip
        else:
            slide = open_slide(entry.slide, read_timeout_s=_READ_TIMEOUT_S, mpp=self._mpp)
        return Picture(SlidePixels(slide, thumbnail)), slide

    def _layer(self, run: Path, record: RunRecord, picture: Picture) -> Layer:
        about = record["slide"]
        if (about["width"], about["height"]) != (picture.width, picture.height):
            raise UsageError(
                f"the slide of {run} has {about['width']} x {about['height']} pixels, this one "
                f"{picture.width} x {picture.height}; give runs of one slide"
            )
        path = run / PARQUET
        objects = sort_into_tiles(
            read_boxes(path), picture.width, picture.height, partial(read_parquet, path)
        )
        corrections = self._corrections or run / CORRECTIONS
        return Layer(record["model"]["name"], objects, corrections, dict(record), run)

    def close(self) -> None:
        """Close the slides."""
        with self._lock:
            for view in self._views.values():
                if view.slide is not None:
                    view.slide.close()
            self._views.clear()


def _check_file(path: Path) -> None:
    """Refuse a file for corrections before a person has made any.

    Raises
    ------
    UsageError
        the name is not that of GeoJSON, or the folder does not exist
    """
    if not path.name.lower().endswith((".geojson", ".geojson.gz", ".json", ".json.gz")):
        raise UsageError(f"--corrections {path} is GeoJSON; end it in .geojson")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"the folder of --corrections {path} does not exist; make it first")
