"""The table of file formats for objects: which endings, which reader, which writer.

Importing this module is cheap, so that the command line can list `FORMATS`; the libraries of a
format are imported when it is read or written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from wsi_pipeline.core.errors import DataError, UsageError
from wsi_pipeline.core.run_layout import PARQUET, one_run
from wsi_pipeline.formats import _handlers
from wsi_pipeline.formats.slide_info import SlideInfo

if TYPE_CHECKING:
    from wsi_pipeline.core.objects import Objects

__all__ = [
    "FORMATS",
    "Format",
    "SlideInfo",
    "export",
    "format_of",
    "objects_file",
    "read_objects",
    "read_provenance",
]


@dataclass(frozen=True)
class Format:
    """One file format.

    Attributes
    ----------
    name
        key in `FORMATS`, and value of ``--format``
    endings
        a file name with one of these endings has this format
    write
        called with objects, path and `SlideInfo`
    shared_endings
        endings that are accepted too where the format is given, but do not decide it
    read
        returns the objects of a file; None where the format cannot be read
    read_provenance
        returns what the file states about its origin
    needs
        attributes of `SlideInfo` that must not be None
    """

    name: str
    endings: tuple[str, ...]
    write: Callable[[Objects, Path, SlideInfo], None]
    shared_endings: tuple[str, ...] = ()
    read: Callable[[Path], Objects] | None = None
    read_provenance: Callable[[Path], dict[str, Any]] | None = None
    needs: tuple[str, ...] = ()

    def fits(self, path: Path) -> bool:
        """Return whether a file of this format may have that name."""
        return path.name.lower().endswith(self.endings + self.shared_endings)


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        format.name: format
        for format in (
            Format(
                "geojson",
                endings=(".geojson",),
                shared_endings=(".json",),
                write=_handlers.write_geojson,
                read=_handlers.read_geojson,
                read_provenance=_handlers.read_geojson_provenance,
            ),
            Format(
                "geojson.gz",
                endings=(".geojson.gz",),
                shared_endings=(".json.gz",),
                write=_handlers.write_geojson,
                read=_handlers.read_geojson,
                read_provenance=_handlers.read_geojson_provenance,
            ),
            Format(
                "parquet",
                endings=(".parquet",),
                write=_handlers.write_parquet,
                read=_handlers.read_parquet,
                read_provenance=_handlers.read_parquet_provenance,
            ),
            Format(
                "coco",
                endings=(".coco.json", ".coco.json.gz"),
                shared_endings=(".json", ".json.gz"),
                write=_handlers.write_coco,
                needs=("width", "height"),
            ),
            Format(
                "labels",
                endings=(".ome.zarr",),
                shared_endings=(".zarr",),
                write=_handlers.write_labels,
                needs=("width", "height", "mpp"),
            ),
            Format(
                "spatialdata",
                endings=(".zarr",),
                write=_handlers.write_spatialdata,
                needs=("width", "height", "mpp"),
            ),
            Format("h5ad", endings=(".h5ad",), write=_handlers.write_h5ad),
            Format(
                "dicom",
                endings=(".dcm",),
                write=_handlers.write_dicom,
                needs=("width", "height", "mpp"),
            ),
        )
    }
)


def format_of(path: Path | str) -> str:
    """Return the format that a file name states, a key of `FORMATS`.

    Raises
    ------
    UsageError
        when the name has none of the endings

    Examples
    --------
    >>> format_of("nuclei.geojson.gz"), format_of("nuclei.coco.json"), format_of("a.ome.zarr")
    ('geojson.gz', 'coco', 'labels')
    """
    name = Path(path).name
    for format in FORMATS.values():
        if name.lower().endswith(format.endings):
            return format.name
    endings = ", ".join(format.endings[0] for format in FORMATS.values())
    raise UsageError(f"{name!r} has no ending that states a format ({endings}); give --format")


def objects_file(source: Path | str) -> Path:
    """Return the file of objects of the run in a folder, or `source` itself if it is a file.

    A slide's folder or an output folder will do where it holds one run only.

    Raises
    ------
    DataError
        when `source` does not exist, or is a folder that holds no finished run or several
    """
    source = Path(source)
    if not source.is_dir():
        if not source.exists():
            raise DataError(f"{source} does not exist; give a run folder or a file of objects")
        return source
    return one_run(source) / PARQUET


def read_objects(source: Path | str) -> Objects:
    """Return the objects of a run folder or of a GeoJSON or GeoParquet file.

    Raises
    ------
    DataError
        when `source` does not exist, is damaged or has a format that cannot be read
    """
    file = objects_file(source)
    read = _format_to_read(file).read
    assert read is not None
    return read(file)


def read_provenance(source: Path | str) -> dict[str, Any]:
    """Return what the files of a run, or an exported file, state about their origin.

    The dictionary has the JSON values that the writer stored: among others ``slide`` and
    ``model`` for results of a run. It is empty for GeoJSON of other software.

    Raises
    ------
    DataError
        see `read_objects`
    """
    file = objects_file(source)
    read = _format_to_read(file).read_provenance
    assert read is not None
    return read(file)


def _format_to_read(file: Path) -> Format:
    """Return the format of a file: GeoJSON where the ending states no other one."""
    try:
        format = FORMATS[format_of(file)]
    except UsageError:
        return FORMATS["geojson"]
    if format.read is None:
        raise DataError(
            f"{file} cannot be read: {format.name} is for other software; "
            "give the run folder, GeoJSON or GeoParquet"
        )
    return format


def export(
    source: Objects | Path | str,
    destination: Path | str,
    *,
    format: str | None = None,
    slide: SlideInfo | None = None,
    classes: Sequence[str] = (),
    run: Path | str | None = None,
) -> str:
    """Write objects in one of `FORMATS` and return the name of that format.

    Parameters
    ----------
    source
        objects, or a run folder or file as in `read_objects`; what that states about its slide
        and origin is used where `slide` states nothing
    destination
        the file (for labels the folder) to write; its name must have an ending of the format
    format
        a key of `FORMATS`; taken from the name of `destination` if not given
    slide
        the slide, and how to write
    classes
        names of the classes to write; empty: all
    run
        run folder that states slide and origin, for files of other software that do not: GeoJSON
        that QuPath wrote after outlines of a run were corrected

    Raises
    ------
    UsageError
        for an unknown format or class, a name that does not fit it, or a slide size that is missing
    DataError
        when the source cannot be read
    OutputError
        when the destination cannot be written
    """
    destination = Path(destination)
    wanted = _format_to_write(destination, format)
    slide = slide or SlideInfo()
    if run is not None:
        slide = _with_provenance(slide, read_provenance(run))
    if isinstance(source, Path | str):
        slide = _with_provenance(slide, read_provenance(source))
    missing = [name for name in wanted.needs if getattr(slide, name) is None]
    if missing:
        raise UsageError(
            f"format {wanted.name} needs the slide's {' and '.join(missing)}; export from the "
            "run folder, which states them, give --run or --image, or set them in SlideInfo"
        )
    objects = read_objects(source) if isinstance(source, Path | str) else source
    wanted.write(_of_classes(objects, classes) if classes else objects, destination, slide)
    return wanted.name


def _of_classes(objects: Objects, names: Sequence[str]) -> Objects:
    """Return the objects of some classes; a nucleus may lose its cell."""
    import numpy as np

    for name in names:
        if name not in objects.classes:
            known = ", ".join(objects.classes) or "none"
            raise UsageError(f"there is no class {name!r}; the source has {known}")
    wanted = np.isin(np.array(objects.classes), names)
    return objects.take(wanted[objects.class_index])


def _format_to_write(destination: Path, name: str | None) -> Format:
    if name is None:
        name = format_of(destination)
    if name not in FORMATS:
        raise UsageError(f"format {name!r} is unknown; known are {', '.join(FORMATS)}")
    format = FORMATS[name]
    if not format.fits(destination):
        raise UsageError(f"{destination} does not fit format {name}; end it in {format.endings[0]}")
    return format


def _with_provenance(slide: SlideInfo, stored: Mapping[str, Any]) -> SlideInfo:
    """Return `slide`, completed by what a file states about its slide."""
    about = stored.get("slide") or {}
    mpp = about.get("mpp") or {}
    stated = {
        "width": about.get("width"),
        "height": about.get("height"),
        "mpp": (mpp["x"] + mpp["y"]) / 2 if mpp else None,
        "file_name": about.get("file", ""),
    }
    missing = {name: value for name, value in stated.items() if not getattr(slide, name)}
    return replace(slide, provenance={**stored, **slide.provenance}, **missing)
