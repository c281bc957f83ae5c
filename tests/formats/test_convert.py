"""The table of formats: endings, readers, writers, and what an export needs."""

import json

import numpy as np
import pytest
import shapely

from wsi_pipeline.core.errors import DataError, UsageError
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.run_layout import PARQUET, RUN_JSON
from wsi_pipeline.formats.convert import (
    FORMATS,
    SlideInfo,
    export,
    format_of,
    read_objects,
    read_provenance,
)

SLIDE = SlideInfo(width=300, height=200, mpp=0.5, file_name="a.svs", provenance={"model": "µ"})


def squares(*bounds) -> Objects:
    n = len(bounds)
    return Objects.from_polygons(
        [shapely.box(*b) for b in bounds],
        classes=("nucleus",),
        ids=np.arange(2 * n, dtype=np.uint64).reshape(n, 2),
        class_index=np.zeros(n, np.uint8),
        score=np.linspace(0.1, 1, n, dtype=np.float32),
    )


ENDINGS = {"coco": "json", "labels": "ome.zarr", "spatialdata": "zarr", "dicom": "dcm"}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_can_be_exported_from_objects_and_from_files(tmp_path, name):
    objects = squares((0, 0, 20, 10), (30, 5, 50, 25))
    source = tmp_path / "source.parquet"
    export(objects, source, format="parquet", slide=SLIDE)
    for k, given_objects in enumerate((objects, source, str(source))):
        destination = tmp_path / f"{k}.{ENDINGS.get(name, name)}"
        export(given_objects, destination, format=name, slide=SLIDE)
        assert destination.exists()
        if FORMATS[name].read:
            assert np.array_equal(read_objects(destination).coords, objects.coords)


def test_provenance_survives_from_file_to_file(tmp_path):
    export(squares((0, 0, 9, 9)), tmp_path / "a.parquet", format="parquet", slide=SLIDE)
    export(tmp_path / "a.parquet", tmp_path / "b.geojson", format="geojson", slide=SlideInfo())
    export(tmp_path / "b.geojson", tmp_path / "c.parquet", format="parquet", slide=SlideInfo())
    noted = {"model": "µ", "classes": ["nucleus"], "measurements": []}
    for name in ("b.geojson", "c.parquet"):
        assert read_provenance(tmp_path / name) == noted


def test_export_says_what_is_wrong(tmp_path):
    objects = squares((0, 0, 9, 9))
    for name, path, slide, message in [
        ("shapefile", "a.shp", SLIDE, "known are geojson"),
        ("geojson.gz", "a.geojson", SLIDE, r"\.geojson\.gz"),
        ("coco", "a.json", SlideInfo(), "width and height; export"),
        ("labels", "a.zarr", SlideInfo(width=9, height=9), "slide's mpp; "),
    ]:
        with pytest.raises(UsageError, match=message):
            export(objects, tmp_path / path, format=name, slide=slide)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FORMATS)
def test_the_endings_of_a_format_state_it_and_fit_it(tmp_path, name):
    for ending in FORMATS[name].endings:
        for file in (f"a{ending}", f"A{ending.upper()}", f"a.b{ending}"):
            assert format_of(file) == name
            assert FORMATS[name].fits(tmp_path / file)


@pytest.mark.parametrize("name", ["a.json", "a.txt", "parquet", "a.geojson.zip"])
def test_other_endings_state_no_format(name):
    with pytest.raises(UsageError, match="give --format"):
        format_of(name)


def test_a_file_that_states_its_slide_needs_no_more_to_become_coco(tmp_path):
    slide = {"width": 300, "height": 200, "mpp": {"x": 0.5, "y": 0.5}, "file": "a.svs"}
    stated = SlideInfo(provenance={"slide": slide})
    export(squares((0, 0, 9, 9)), tmp_path / "a.geojson", slide=stated)
    assert export(tmp_path / "a.geojson", tmp_path / "a.coco.json") == "coco"
    (image,) = json.loads((tmp_path / "a.coco.json").read_text())["images"]
    assert image == {"id": 1, "file_name": "a.svs", "width": 300, "height": 200, "mpp": 0.5}


def test_objects_are_read_from_files_and_from_folders_with_one_run(tmp_path):
    run = tmp_path / "a" / "dssnet"
    run.mkdir(parents=True)
    objects = squares((0, 0, 9, 9))
    export(objects, run / PARQUET, slide=SLIDE)
    with pytest.raises(DataError, match="run"):
        read_objects(tmp_path)
    (run / RUN_JSON).write_text("{}")
    for source in (run / PARQUET, run, run.parent, tmp_path):
        assert np.array_equal(read_objects(source).coords, objects.coords)
        assert read_provenance(source)["model"] == "µ"


def test_what_cannot_be_read_is_refused_with_a_remedy(tmp_path):
    export(squares((0, 0, 9, 9)), tmp_path / "a.coco.json", slide=SLIDE)
    with pytest.raises(DataError, match=r"coco.*give the run folder, GeoJSON or GeoParquet"):
        read_objects(tmp_path / "a.coco.json")
    with pytest.raises(DataError, match="does not exist"):
        read_objects(tmp_path / "none.parquet")
    for name in ("a.parquet", "a.geojson"):
        (tmp_path / name).write_text("PAR1")
        for read in (read_objects, read_provenance):
            with pytest.raises(DataError, match=name):
                read(tmp_path / name)
