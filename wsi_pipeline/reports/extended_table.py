"""Tables of a run with more measurements: stain, texture and neighbours of each object."""

from __future__ import annotations

from pathlib import Path

from wsi_pipeline.core.files import as_output_error, open_part
from wsi_pipeline.core.run_layout import PARQUET, read_run
from wsi_pipeline.core.safe_names import folder_name
from wsi_pipeline.formats.geoparquet import ParquetWriter, read_metadata, read_parquet
from wsi_pipeline.reports.object_table import write_object_table
from wsi_pipeline.segmentation.extended_features import extended_features, extended_settings
from wsi_pipeline.slides.slide import Slide

__all__ = ["EXTENDED_PARQUET", "write_extended"]

EXTENDED_PARQUET = "extended.parquet"
"""End of the name of the GeoParquet file with more measurements."""


def write_extended(folder: Path, slide: Slide, out: Path | None = None) -> list[Path]:
    """Write the objects of a run with the measurements of `extended_features`.

    <slide_id>.extended.parquet is objects.parquet with more columns, for GeoPandas; its metadata
    state what they depend on. <slide_id>.objects.csv.gz gets the same columns. In `out` the names
    hold the model too, as in `write_features`. The objects are in memory, the pixels are read in
    blocks.

    Parameters
    ----------
    folder
        a run folder; its objects.parquet stays as it is
    slide
        the slide of that run, opened with its settings
    out
        folder for the files; by default the run folder

    Returns
    -------
    GeoParquet file and table

    Raises
    ------
    DataError, SlideReadError, OutputError
        the objects are boxes or cannot be read, pixels cannot be read, `out` cannot be written
    """
    run = read_run(folder)
    name, mpp = run["slide"]["id"], run["slide"]["mpp"]
    if out is not None:
        name += f".{folder_name(run['model']['name'])}"
        with as_output_error(out):
            out.mkdir(parents=True, exist_ok=True)
    size = (mpp["x"] + mpp["y"]) / 2
    stored, table = ((out or folder) / f"{name}.{e}" for e in (EXTENDED_PARQUET, "objects.csv.gz"))
    objects = extended_features(read_parquet(folder / PARQUET), slide, size)
    stated = {**read_metadata(folder / PARQUET), "extended": dict(extended_settings(size))}
    with ParquetWriter(stored, provenance=stated) as writer:
        writer.write(objects)
    with open_part(table) as file:
        write_object_table(file, stored, run)
    return [stored, table]
