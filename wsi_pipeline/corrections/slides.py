"""Find what belongs together: slides, their corrected files, their runs and their areas."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from wsi_pipeline.core.errors import DataError, UsageError
from wsi_pipeline.core.files import write_bytes
from wsi_pipeline.core.run_layout import find_runs, one_run, read_run
from wsi_pipeline.formats.geojson import geojson_entries

__all__ = ["SlideToLearn", "pair_slides", "unpacked"]

_ENDINGS = (".geojson.gz", ".geojson", ".json.gz", ".json", ".zip")


@dataclass(frozen=True)
class SlideToLearn:
    """One slide with what a person corrected on it.

    Attributes
    ----------
    slide, corrected, run
        slide file, corrected objects, run folder
    area
        file of the areas that were checked; None: they are in `corrected`
    """

    slide: Path
    corrected: Path
    run: Path
    area: Path | None

    @property
    def record(self) -> dict[str, Any]:
        """Content of run.json; boxes are refused."""
        record: dict[str, Any] = dict(read_run(self.run))
        task = record["model"].get("classes", [])
        if _has_boxes(self.run):
            raise UsageError(
                f"{self.run} has boxes of a detector ({', '.join(task)}), which are no outlines to "
                "correct; run a model of nuclei or cells"
            )
        return record


def _has_boxes(run: Path) -> bool:
    import pyarrow.parquet as pq

    from wsi_pipeline.core.run_layout import PARQUET

    names: list[str] = pq.read_schema(run / PARQUET).names
    return any(name.startswith("Box: ") for name in names)


@contextmanager
def unpacked(file: Path | None, slide: Path) -> Iterator[Path | None]:
    """Give the folder of the files in a zip archive of several slides; another path as it is.

    The folder is removed at the end. What an archive holds for a single slide is read in one piece.

    Raises
    ------
    DataError
        the archive cannot be read, or has two files of one name
    """
    if file is None or not slide.is_dir() or not zipfile.is_zipfile(file):
        yield file
        return
    with TemporaryDirectory(prefix="wsiseg-") as name:
        for inside, content in geojson_entries(file):
            own = Path(name, Path(inside.replace("\\", "/")).name)
            own = own.with_name(own.name.removesuffix(".gz"))  # `content` is unpacked
            if own.exists():
                raise DataError(f"{file} has two files {own.name}; leave one out")
            write_bytes(own, content)
        yield Path(name)


def pair_slides(slide: Path, corrected: Path, run: Path, area: Path | None) -> list[SlideToLearn]:
    """Return the slides to learn from.

    Parameters
    ----------
    slide
        a slide file, or a folder of them
    corrected
        a file, or a folder with one file for each slide, named after it, as a script of QuPath
        exports a project: ``slide-7.geojson`` or ``slide-7.svs.geojson``
    run
        run folder, or an output folder with one run of each slide
    area
        a file, or a folder with one file for each slide

    Raises
    ------
    UsageError, DataError
        something is missing, or belongs to nothing
    """
    if not corrected.exists():
        raise DataError(f"{corrected} does not exist; give what QuPath exported")
    if not corrected.is_dir():
        if slide.is_dir():
            raise UsageError(
                f"{slide} is a folder and {corrected} a file; give one slide, or a folder with a "
                "corrected file for each, or a zip archive of them"
            )
        own = None if area is None else _file_in(area, _stem(corrected), "--area")
        return [SlideToLearn(slide, corrected, one_run(run), own)]
    found = []
    for file in sorted(corrected.iterdir()):
        if not file.name.lower().endswith(_ENDINGS) or file.name.startswith("."):
            continue
        name = _stem(file)
        own_slide = _slide_named(slide, name)
        own_area = None if area is None else _file_in(area, name, "--area")
        found.append(SlideToLearn(own_slide, file, _run_of(run, own_slide), own_area))
    if not found:
        raise DataError(f"{corrected} has no file {', '.join(_ENDINGS)}; export the project again")
    return found


def _stem(file: Path) -> str:
    name = file.name
    for ending in _ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def _slide_named(folder: Path, name: str) -> Path:
    """Return the slide of a name, with or without its ending."""
    if not folder.is_dir():
        return folder
    fits = sorted(p for p in folder.iterdir() if name in (p.name, p.stem) and p.is_file())
    if len(fits) != 1:
        known = ", ".join(sorted(p.name for p in _files(folder))[:5]) or "no files"
        raise DataError(
            f"{folder} has {len(fits)} slides named {name!r} ({known}); name each corrected file "
            "after its slide"
        )
    return fits[0]


def _file_in(place: Path, name: str, option: str) -> Path:
    """Return the file itself, or the one in a folder that has a name."""
    if not place.is_dir():
        return place
    fits = [p for p in _files(place) if _stem(p) == name]
    if len(fits) != 1:
        raise DataError(f"{option} {place} has {len(fits)} files named {name}; give it one")
    return fits[0]


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.is_file())


def _run_of(place: Path, slide: Path) -> Path:
    """Return the only run of a slide at or below a folder."""
    runs = [run for run in find_runs(place) if read_run(run)["slide"]["file"] == slide.name]
    if len(runs) != 1:
        raise DataError(
            f"{place} has {len(runs)} runs of {slide.name}; give a folder with one of each slide"
        )
    return runs[0]
