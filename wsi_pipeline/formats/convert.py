"""Objects out of wsiseg: GeoJSON for QuPath, GeoParquet, COCO and label images.

Importing this package is cheap, so that a command line can list `FORMATS`; the libraries of a
format are loaded when it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from wsi_pipeline.core.errors import UsageError

if TYPE_CHECKING:
    from wsi_pipeline.core.objects import Objects

__all__ = ["FORMATS", "SlideInfo", "export"]


@dataclass(frozen=True)
class SlideInfo:
    """What the formats want to know about the slide and about how to write.

    Attributes
    ----------
    width, height
        level-0 pixels; COCO and label images need them
    mpp
        µm per level-0 pixel; label images need it
    file_name
        the slide's file, for COCO
    provenance
        JSON values that go into GeoJSON and GeoParquet
    object_type
        QuPath's: detection, cell, annotation or tile
    colors
        class name → red, green, blue
    scale
        level-0 pixels per pixel of a label image
    """

    width: int | None = None
    height: int | None = None
    mpp: float | None = None
    file_name: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    object_type: str = "detection"
    colors: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    scale: float = 1.0


def _geojson(objects: Objects, path: Path, slide: SlideInfo) -> None:
    from wsi_pipeline.formats.geojson import GeoJsonWriter

    with GeoJsonWriter(
        path,
        object_type=slide.object_type,
        colors=slide.colors,
        provenance=slide.provenance,
    ) as writer:
        writer.write(objects)


def _parquet(objects: Objects, path: Path, slide: SlideInfo) -> None:
    from wsi_pipeline.formats.geoparquet import ParquetWriter

    with ParquetWriter(path, provenance=slide.provenance) as writer:
        writer.write(objects)


def _coco(objects: Objects, path: Path, slide: SlideInfo) -> None:
    from wsi_pipeline.formats.coco import write_coco

    width, height = _size(slide, "coco")
    write_coco(path, objects, width=width, height=height, file_name=slide.file_name, mpp=slide.mpp)


def _labels(objects: Objects, path: Path, slide: SlideInfo) -> None:
    from wsi_pipeline.formats.ome_zarr import write_label_image

    width, height = _size(slide, "labels")
    if slide.mpp is None:
        raise UsageError("format labels needs the slide's pixel size; give mpp")
    write_label_image(path, objects, width=width, height=height, mpp=slide.mpp, scale=slide.scale)


Exporter = Callable[["Objects", Path, SlideInfo], None]

FORMATS: Mapping[str, Exporter] = MappingProxyType(
    {
        "geojson": _geojson,
        "geojson.gz": _geojson,
        "parquet": _parquet,
        "coco": _coco,
        "labels": _labels,
    }
)
_SUFFIXES = MappingProxyType(
    {
        "geojson": (".geojson", ".json"),
        "geojson.gz": (".geojson.gz", ".json.gz"),
        "parquet": (".parquet",),
        "coco": (".json", ".json.gz"),
        "labels": (".zarr",),
    }
)


def export(
    objects: Objects | Path | str, destination: Path | str, *, format: str, slide: SlideInfo
) -> None:
    """Write objects in one of `FORMATS`.

    Parameters
    ----------
    objects
        objects, or a GeoParquet or GeoJSON file of them, whose provenance is kept
    destination
        the file, or for labels the folder, to make; its name ends as the format demands
    format
        a key of `FORMATS`
    slide
        what the formats want to know besides

    Raises
    ------
    UsageError
        for an unknown format, a name that does not fit it, or slide data that it lacks
    DataError
        when the objects' file cannot be read
    OutputError
        when the destination cannot be written
    """
    destination = Path(destination)
    if format not in FORMATS:
        raise UsageError(f"no format is called {format!r}; known are {', '.join(FORMATS)}")
    endings = _SUFFIXES[format]
    if not destination.name.lower().endswith(endings):
        raise UsageError(f"{destination} does not fit format {format}; end it in {endings[0]}")
    if isinstance(objects, Path | str):
        objects, noted = _load(Path(objects))
        slide = replace(slide, provenance={**noted, **slide.provenance})
    FORMATS[format](objects, destination, slide)


def _load(path: Path) -> tuple[Objects, dict[str, Any]]:
    if path.suffix == ".parquet":
        from wsi_pipeline.formats.geoparquet import read_metadata, read_parquet

        return read_parquet(path), read_metadata(path)
    from wsi_pipeline.formats.geojson import read_geojson, read_header

    return read_geojson(path), read_header(path)


def _size(slide: SlideInfo, name: str) -> tuple[int, int]:
    if slide.width is None or slide.height is None:
        raise UsageError(f"format {name} needs the slide's size; give width and height")
    return slide.width, slide.height
