"""Writers and readers of all formats, with one signature each for the table in `convert`.

Each imports the library of its format when it is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_pipeline.formats.slide_info import SlideInfo

if TYPE_CHECKING:
    from wsi_pipeline.core.objects import Objects


def write_geojson(objects: Objects, path: Path, slide: SlideInfo) -> None:
    """Write GeoJSON for QuPath."""
    from wsi_pipeline.formats.geojson import GeoJsonWriter

    with GeoJsonWriter(
        path,
        object_type=slide.object_type,
        colors=slide.colors,
        provenance=slide.provenance,
    ) as writer:
        writer.write(objects)


def write_parquet(objects: Objects, path: Path, slide: SlideInfo) -> None:
    """Write GeoParquet."""
    from wsi_pipeline.formats.geoparquet import ParquetWriter

    with ParquetWriter(path, provenance=slide.provenance) as writer:
        writer.write(objects)


def write_coco(objects: Objects, path: Path, slide: SlideInfo) -> None:
    """Write COCO."""
    from wsi_pipeline.formats.coco import write_coco as write

    assert slide.width is not None and slide.height is not None
    write(
        path,
        objects,
        width=slide.width,
        height=slide.height,
        file_name=slide.file_name,
        mpp=slide.mpp,
    )


def write_labels(objects: Objects, path: Path, slide: SlideInfo) -> None:
    """Write label images as OME-Zarr."""
    from wsi_pipeline.formats.ome_zarr import write_label_image

    assert slide.width is not None and slide.height is not None and slide.mpp is not None
    write_label_image(
        path,
        objects,
        width=slide.width,
        height=slide.height,
        mpp=slide.mpp,
        scale=slide.scale,
        pixels=slide.pixels,
        colors=slide.colors,
    )


def read_geojson(path: Path) -> Objects:
    """Read GeoJSON."""
    from wsi_pipeline.formats.geojson import read_geojson as read

    return read(path)


def read_geojson_provenance(path: Path) -> dict[str, Any]:
    """Read what GeoJSON states about its origin."""
    from wsi_pipeline.formats.geojson import read_header

    return read_header(path)


def read_parquet(path: Path) -> Objects:
    """Read GeoParquet."""
    from wsi_pipeline.formats.geoparquet import read_parquet as read

    return read(path)


def read_parquet_provenance(path: Path) -> dict[str, Any]:
    """Read what GeoParquet states about its origin."""
    from wsi_pipeline.formats.geoparquet import read_metadata

    return read_metadata(path)


def write_h5ad(objects: Objects, path: Path, slide: SlideInfo) -> None:
    """Write AnnData."""
    from wsi_pipeline.formats.anndata import write_h5ad as write

    write(path, objects, provenance=slide.provenance)


def write_spatialdata(objects: Objects, path: Path, slide: SlideInfo) -> None:
    """Write SpatialData."""
    from wsi_pipeline.formats.spatialdata import write_spatialdata as write

    assert slide.width is not None and slide.height is not None and slide.mpp is not None
    write(
        path,
        objects,
        width=slide.width,
        height=slide.height,
        mpp=slide.mpp,
        scale=slide.scale,
        provenance=slide.provenance,
        pixels=slide.pixels,
    )


def write_dicom(objects: Objects, path: Path, slide: SlideInfo) -> None:
    """Write DICOM annotations."""
    from wsi_pipeline.formats.dicom_ann import write_annotations

    assert slide.width is not None and slide.height is not None and slide.mpp is not None
    write_annotations(
        path,
        objects,
        width=slide.width,
        height=slide.height,
        mpp=slide.mpp,
        provenance=slide.provenance,
        image=slide.image,
    )
