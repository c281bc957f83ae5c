"""The table with more measurements: the same objects, more columns, for GeoPandas and CSV."""

import geopandas
import pandas as pd

from wsi_pipeline.formats.geoparquet import read_metadata, read_parquet
from wsi_pipeline.reports.extended_table import write_extended
from wsi_pipeline.segmentation.extended_features import NEAREST
from wsi_pipeline.slides.slide import open_slide


def test_both_files_have_the_objects_of_the_run_and_more_columns(folder, slide_path):
    before = (folder / "objects.parquet").read_bytes()
    with open_slide(slide_path) as slide:
        stored, table = write_extended(folder, slide)
    assert (folder / "objects.parquet").read_bytes() == before
    run, more = read_parquet(folder / "objects.parquet"), read_parquet(stored)
    assert (run.ids == more.ids).all() and (run.coords == more.coords).all()
    assert set(run.features) < set(more.features)
    about = read_metadata(stored)
    assert about["slide"]["id"] == "crowded" and about["extended"]["grid_um"] >= 0.5
    frame = geopandas.read_parquet(stored)
    assert frame.geometry.is_valid.all() and frame[NEAREST].notna().all()
    rows = pd.read_csv(table)
    assert list(rows["id"]) == list(frame["id"]) and NEAREST in rows
