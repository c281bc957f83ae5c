"""Laws of `wsiseg features`: the object table and the row of a run."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import shapely
from run_folders import change_run, nuclei, put_objects, squares

from wsi_pipeline.core.errors import DataError
from wsi_pipeline.core.objects import CELL_CLASS, Objects
from wsi_pipeline.formats.geoparquet import read_parquet
from wsi_pipeline.reports.cell_check import FAULT_COLUMNS
from wsi_pipeline.reports.slide_report import write_report
from wsi_pipeline.reports.slide_summary import (
    COLUMNS,
    LARGE_NUCLEUS_UM2,
    summarise,
    write_features,
)
from wsi_pipeline.segmentation.cell_features import NUCLEUS_RATIO, cell_features


def rows_of(path):
    return list(csv.DictReader(io.StringIO(gzip.decompress(path.read_bytes()).decode())))


def test_the_object_table_is_the_run_s_objects(run_folder, tmp_path):
    table, _ = write_features(run_folder, tmp_path)
    objects, rows = read_parquet(run_folder / "objects.parquet"), rows_of(table)
    assert len(rows) == len(objects) > 50
    middle = shapely.centroid(objects.polygons())
    for axis, of in (("x", shapely.get_x), ("y", shapely.get_y)):
        stored = [float(row[f"centroid_{axis}_um"]) for row in rows]
        np.testing.assert_allclose(stored, of(middle) * 0.5, atol=6e-4)
    for name, column in objects.features.items():
        stored = [float(row[name] or "nan") for row in rows]
        np.testing.assert_array_equal(np.float32(stored), column)
    assert len({row["id"] for row in rows}) == len(rows)


def test_features_are_the_same_bytes_each_time(run_folder, tmp_path):
    files = [write_features(run_folder, tmp_path / name) for name in "ab"]
    for one, other in zip(*files, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert one.name == other.name


def test_each_model_of_a_slide_gets_its_tables(slide_folder, tmp_path):
    write_features(slide_folder)
    at_home = sorted(p.relative_to(slide_folder).as_posix() for p in slide_folder.glob("*/*.*.*"))
    assert [name for name in at_home if "geojson" not in name] == [
        "darkness/crowded.objects.csv.gz", "darkness/crowded.summary.json",
        "other/crowded.objects.csv.gz", "other/crowded.summary.json",
    ]  # fmt: skip
    files = write_features(slide_folder, tmp_path / "out")
    assert [path.name for path in files] == [
        "crowded.darkness.objects.csv.gz", "crowded.darkness.summary.json",
        "crowded.other.objects.csv.gz", "crowded.other.summary.json",
    ]  # fmt: skip
    assert [json.loads(p.read_text())["model"] for p in files[1::2]] == ["darkness", "other"]


@pytest.mark.parametrize("write", [write_features, write_report], ids=["features", "report"])
def test_a_folder_of_several_slides_lists_their_runs(write, slide_folder, tmp_path):
    out = slide_folder.parent
    shutil.copytree(slide_folder / "other", out / "second" / "other")
    with pytest.raises(DataError) as refusal:
        write(out, tmp_path / "x")
    for words in ("2 slides", "crowded/darkness, crowded/other, second/other", "e.g. "):
        assert words in str(refusal.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no run.*wsiseg run"):
        write(tmp_path / "empty", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_table_without_objects_keeps_its_columns(folder, tmp_path):
    full = write_features(folder, tmp_path / "full")[0]
    put_objects(folder, read_parquet(folder / "objects.parquet").take(np.zeros(0, np.int64)))
    change_run(folder, objects=0)
    table, summary = write_features(folder, tmp_path / "none")
    head = gzip.decompress(full.read_bytes()).splitlines()[0]
    assert gzip.decompress(table.read_bytes()).splitlines() == [head]
    row = json.loads(summary.read_text())
    assert row["nuclei"] == 0
    assert row["nucleus_area_um2_median"] is row["large_nuclei_share"] is None


def test_the_row_says_what_the_objects_do(run_folder):
    row, objects = summarise(run_folder), read_parquet(run_folder / "objects.parquet")
    areas = objects.features["Nucleus: Area µm^2"].astype(float)
    assert list(row) == list(COLUMNS)
    assert row["status"] == "done"
    assert row["nuclei"] == row["objects"] == len(objects)
    assert row["nuclei_per_mm2"] * row["foreground_area_mm2"] == pytest.approx(len(objects), 1e-4)
    assert row["slide_area_mm2"] == pytest.approx(1003 * 811 * 0.25e-6, 1e-5)
    for share, name in ((10, "p10"), (50, "median"), (90, "p90")):
        found = row[f"nucleus_area_um2_{name}"]
        assert found == pytest.approx(np.percentile(areas, share), 1e-5)
    assert row["large_nuclei"] == int((areas >= LARGE_NUCLEUS_UM2).sum())


def test_a_nucleus_is_large_from_two_and_a_half_normal_ones_on(folder):
    put_objects(folder, nuclei([4 * 87.4, 4 * 87.6, 4 * 35, 4 * 300]))
    row = summarise(folder)
    assert (row["large_nuclei"], row["large_nuclei_share"]) == (2, 0.5)


@pytest.mark.parametrize(
    ("count", "preparation", "failed", "expected"),
    [
        (4999, "liquid", [], "too few"),
        (5000, "liquid", [], "enough"),
        (7999, "conventional", [], "too few"),
        (8000, "conventional", [], "enough"),
        (4999, "liquid", [{"region": 1, "level0_box": [0, 0, 1, 1], "cause": "c"}], "undecided"),
        (5000, "liquid", [{"region": 1, "level0_box": [0, 0, 1, 1], "cause": "c"}], "enough"),
    ],
)
def test_adequacy_is_bethesda_s(folder, count, preparation, failed, expected):
    put_objects(folder, nuclei(np.full(count, 200)))
    change_run(folder, objects=count, failed_regions=failed)
    row = summarise(folder, preparation=preparation)
    assert row["adequacy"] == expected
    assert row["adequacy_by"] == "nuclei, one per cell"
    assert row["adequacy_count"] == count


def test_cells_are_counted_where_cells_were_found(folder):
    objects = replace(
        squares([40_000, 400, 10_000, 90_000], step=0, classes=(CELL_CLASS, "nucleus")),
        class_index=np.array([0, 1, 0, 0], np.uint8),
        parent=np.array([-1, 0, -1, -1]),
    )
    octagons = shapely.buffer(objects.polygons(), 3, quad_segs=2)
    objects = Objects.from_polygons(
        octagons, classes=objects.classes, ids=objects.ids, score=objects.score,
        class_index=objects.class_index, parent=objects.parent,
    )  # fmt: skip
    put_objects(folder, cell_features(objects, 0.5))
    run = json.loads((folder / "run.json").read_text())
    change_run(folder, model=run["model"] | {"classes": [CELL_CLASS, "nucleus"]})
    row = summarise(folder)
    assert (row["nuclei"], row["cells"]) == (1, 3)
    assert row["cells_with_nucleus"] + sum(row[name] or 0 for name in FAULT_COLUMNS) == 3
    assert row["adequacy_by"] == "cells"
    assert row["adequacy_count"] == row["cells_with_nucleus"]
    assert row["cells_per_mm2"] == pytest.approx(
        row["adequacy_count"] / row["foreground_area_mm2"], rel=1e-5
    )
    assert NUCLEUS_RATIO in read_parquet(folder / "objects.parquet").features


def test_failed_regions_are_in_the_row(folder):
    causes = ["x", "y", "x"]
    failed = [{"region": i, "level0_box": [0] * 4, "cause": c} for i, c in enumerate(causes)]
    change_run(folder, failed_regions=failed)
    row = summarise(folder)
    found = [row[k] for k in ("status", "cause", "failed_regions", "failed_causes")]
    assert found == ["incomplete", "x", 3, "x | y"]


def test_what_was_not_looked_for_is_unknown_and_not_none(folder):
    run = json.loads((folder / "run.json").read_text())
    change_run(folder, model=run["model"] | {"classes": [CELL_CLASS]})
    row = summarise(folder)
    assert (row["nuclei"], row["large_nuclei"], row["cells"]) == (None, None, 0)
    change_run(folder, model=run["model"])
    row = summarise(folder)
    assert row["nuclei"] > 0
    assert (row["cells"], row["cells_per_mm2"], row["cells_with_nucleus"]) == (None, None, None)
