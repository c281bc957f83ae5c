"""Laws of `wsiseg export` and `wsiseg score`."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command_line import complaint, wsiseg
from wsiseg_models.training.coco import read_coco

from wsi_pipeline.core.geometry import Box
from wsi_pipeline.formats.geojson import read_geojson, read_header
from wsi_pipeline.formats.geoparquet import read_parquet
from wsi_pipeline.segmentation.morphometry import OD_MEAN
from wsi_pipeline.slides.slide import open_slide

pytestmark = pytest.mark.usefixtures("cheap_models")


@pytest.mark.parametrize(
    "name", ["o.geojson", "o.geojson.gz", "o.parquet", "o.coco.json", "o.ome.zarr"]
)
def test_export_by_name(name, ran, tmp_path):
    result = wsiseg("export", ran, tmp_path / name)
    assert result.exit_code == 0, result.output
    before = read_parquet(ran / "objects.parquet")
    if name.endswith(".parquet"):
        assert np.array_equal(read_parquet(tmp_path / name).coords, before.coords)
    elif "geojson" in name:
        assert np.array_equal(read_geojson(tmp_path / name).ids, before.ids)
        assert read_header(tmp_path / name)["slide"]["id"] == "a"
    elif name.endswith(".coco.json"):
        document = json.loads((tmp_path / name).read_text())
        assert len(document["annotations"]) == len(before)
        assert document["images"][0]["width"] == 768
    else:
        assert (tmp_path / name / "zarr.json").is_file()
        assert "exists" in complaint(wsiseg("export", ran, tmp_path / name), 1)


def test_export_from_a_file_and_its_faults(ran, made, tmp_path):
    source = ran / "objects.geojson.gz"
    assert wsiseg("export", source, tmp_path / "x.parquet").exit_code == 0
    assert len(read_parquet(tmp_path / "x.parquet")) == len(read_geojson(source))
    marked = wsiseg("export", source, tmp_path / "x.json", "--format", "geojson",
                    "--object-type", "annotation")  # fmt: skip
    assert marked.exit_code == 0
    assert '"annotation"' in (tmp_path / "x.json").read_text()
    assert "give --format" in complaint(wsiseg("export", source, tmp_path / "x.json"), 2)
    assert "'shp'" in complaint(wsiseg("export", source, "x", "--format", "shp"), 2)
    assert "holds no run" in complaint(wsiseg("export", tmp_path, tmp_path / "y.parquet"), 2)
    assert "does not exist" in complaint(wsiseg("export", "no", tmp_path / "y.parquet"), 2)
    (tmp_path / "bad.parquet").write_text("x")
    said = complaint(wsiseg("export", tmp_path / "bad.parquet", tmp_path / "y.geojson"), 2)
    assert "bad.parquet is not a GeoParquet file" in said


def test_export_of_one_class(ran, tmp_path):
    before = read_parquet(ran / "objects.parquet")
    assert wsiseg("export", ran, tmp_path / "n.parquet", "--class", "nucleus").exit_code == 0
    nuclei = before.class_index == before.classes.index("nucleus")
    assert np.array_equal(read_parquet(tmp_path / "n.parquet").ids, before.ids[nuclei])
    said = complaint(wsiseg("export", ran, tmp_path / "l.parquet", "--class", "leukocyte"), 2)
    assert "no class 'leukocyte'; the source has" in said and "nucleus" in said


def test_export_with_the_pixels_of_the_slide(ran, made, bare, tmp_path):
    path = tmp_path / "a.ome.zarr"
    assert wsiseg("export", ran, path, "--image", made / "a.svs").exit_code == 0
    whole = Box(0, 0, 768, 768)
    with open_slide(path) as found, open_slide(made / "a.svs") as slide:
        assert np.array_equal(found.read_region(whole), slide.read_region(whole))
        assert found.require_mpp().value == pytest.approx(slide.require_mpp().value)
    said = complaint(wsiseg("export", ran, tmp_path / "b.ome.zarr", "--image", bare), 2)
    assert "300 x 200 pixels" in said and "768 x 768" in said
    said = complaint(wsiseg("export", ran, tmp_path / "b.parquet", "--image", bare), 2)
    assert "--image is for label images" in said


def test_what_was_drawn_on_a_field_is_training_data(bare, tmp_path):
    """A QuPath export without a run: the image states its size, the file where the image is."""
    ring = [[20, 30], [40, 30], [40, 52], [20, 52], [20, 30]]
    drawn = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]},
             "properties": {"objectType": "annotation", "classification": "nucleus"}}  # fmt: skip
    path, folder = tmp_path / "drawn.geojson", tmp_path / "set"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [drawn]}))
    folder.mkdir()
    coco = folder / "annotations_field.json"
    image = ("--image", bare)
    assert wsiseg("export", path, coco, "--format", "coco", *image).exit_code == 0
    (found,) = read_coco(coco).images
    assert (found.path.resolve(), found.shape) == (bare.resolve(), (200, 300))
    window, mask = found.annotations[0].mask(found.shape)
    assert (found.annotations[0].category, window, mask.all()) == (
        "nucleus", (20, 30, 40, 52), True,
    )  # fmt: skip
    labels = wsiseg("export", path, tmp_path / "x.ome.zarr", *image)
    assert "needs the slide's mpp" in complaint(labels, 2)


def test_annotations_that_qupath_wrote_need_the_run_to_state_the_slide(ran, made, tmp_path):
    path = tmp_path / "a.geojson"
    assert wsiseg("export", ran, path, "--object-type", "annotation").exit_code == 0
    path.write_text(json.dumps(json.loads(path.read_text("utf-8"))["features"]), encoding="utf-8")
    coco = tmp_path / "a.coco.json"
    assert "needs the slide's width" in complaint(wsiseg("export", path, coco), 2)
    assert wsiseg("export", path, coco, "--run", ran).exit_code == 0
    document = json.loads(coco.read_text("utf-8"))
    assert document["images"][0]["width"] == 768
    before = read_parquet(ran / "objects.parquet")
    assert len(document["annotations"]) == len(before)
    assert "states no pixel size" in complaint(
        wsiseg("export", path, tmp_path / "a.parquet", "--measure"), 2
    )
    again = wsiseg("export", path, tmp_path / "a.parquet", "--measure", "--run", ran)
    assert again.exit_code == 0
    after = read_parquet(tmp_path / "a.parquet")
    for name, column in after.features.items():
        assert np.allclose(column, before.features[name], rtol=1e-6, equal_nan=True), name
    assert OD_MEAN not in after.features
    slide = ("--image", made / "a.svs")
    dense = wsiseg("export", path, tmp_path / "d.parquet", "--measure", "--run", ran, *slide)
    assert dense.exit_code == 0, dense.output
    density = read_parquet(tmp_path / "d.parquet").features[OD_MEAN]
    assert np.allclose(density, before.features[OD_MEAN], rtol=0.02, atol=0.002)
    assert "Nucleus: Area µm^2" in after.features and np.array_equal(after.ids, before.ids)


def test_score(made, ran, tmp_path):
    truth = made / "a.truth.geojson.gz"
    whole = json.loads(wsiseg("score", truth, truth, "--json").stdout)
    assert (whole["F1"], whole["mean IoU"], whole["difference"]) == (1, 1, 0)
    found = json.loads(wsiseg("score", ran, truth, "--json").stdout)
    assert found["truth"] == whole["truth"]
    assert 0 < found["F1"] <= 1 and found["mean IoU"] < 1
    looser = json.loads(wsiseg("score", ran, truth, "--iou", "0.2", "--json").stdout)
    assert looser["F1"] >= found["F1"]
    assert "F1" in wsiseg("score", ran, truth).stdout
    assert "--iou 2" in complaint(wsiseg("score", ran, truth, "--iou", "2"), 2)
    assert "it has nucleus" in complaint(wsiseg("score", ran, truth, "--class", "cell"), 2)
    assert "no.geojson does not exist" in complaint(wsiseg("score", ran, "no.geojson"), 2)
