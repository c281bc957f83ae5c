"""Files for other programs hold what they were given: AnnData, SpatialData, DICOM, GeoPandas."""

import json
import sys

import anndata
import geopandas
import numpy as np
import pytest
import shapely
import zarr
from families import families, linked
from highdicom.ann import annread

from wsi_pipeline.core.errors import DataError, OutputError, UsageError
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.objects import Objects, is_cell
from wsi_pipeline.core.polygons import arranged
from wsi_pipeline.formats.anndata import id_texts, to_anndata, write_h5ad
from wsi_pipeline.formats.convert import SlideInfo, export
from wsi_pipeline.formats.dicom_ann import write_annotations
from wsi_pipeline.formats.geoparquet import ParquetWriter
from wsi_pipeline.formats.spatialdata import write_spatialdata

OBJECTS = arranged(families(3))
SIZE = {"width": 300, "height": 280, "mpp": 0.5}
ABOUT = {"slide": {"id": "a µ"}, "model": {"name": "m"}}
CENTRES = shapely.get_coordinates(shapely.centroid(OBJECTS.polygons()))
MATRIX = np.stack(list(OBJECTS.features.values()), 1)
FAMILY = [*id_texts(OBJECTS), ""]


def check_table(table):
    np.testing.assert_array_equal(table.X, MATRIX)
    assert list(table.var_names) == list(OBJECTS.features)
    assert list(table.obs_names) == id_texts(OBJECTS)
    assert list(table.obs["class"]) == [OBJECTS.classes[k] for k in OBJECTS.class_index]
    np.testing.assert_array_equal(table.obs["score"], OBJECTS.score)
    assert list(table.obs["parent_id"]) == [FAMILY[k] for k in OBJECTS.parent]
    np.testing.assert_array_equal(table.obsm["spatial"], CENTRES)
    assert json.loads(table.uns["wsiseg"]) == ABOUT


def test_anndata_holds_measurements_classes_and_places(tmp_path):
    write_h5ad(tmp_path / "a.h5ad", families(3), provenance=ABOUT)
    check_table(anndata.read_h5ad(tmp_path / "a.h5ad"))
    assert to_anndata(Objects.empty(("nucleus",), ("x",))).shape == (0, 1)


def pixels(box: Box, factor: float):
    y, x = np.mgrid[box.y0 : box.y1, box.x0 : box.x1]
    return np.stack([x % 256, y % 256, x * 0 + factor], 2).astype(np.uint8)


@pytest.fixture
def spatial(tmp_path):
    path = tmp_path / "a.zarr"
    write_spatialdata(path, families(3), **SIZE, provenance=ABOUT, pixels=pixels)
    return path


def test_spatialdata_holds_image_outlines_and_table(spatial):
    root = zarr.open_group(spatial, mode="r")
    check_table(anndata.io.read_elem(root["tables/table"]))
    for name, rows in (("cells", is_cell(OBJECTS)), ("nuclei", ~is_cell(OBJECTS))):
        frame = geopandas.read_parquet(spatial / "shapes" / name / "shapes.parquet")
        assert list(frame.index) == [FAMILY[k] for k in np.flatnonzero(rows)]
        assert (frame.geometry.to_numpy() == OBJECTS.polygons()[rows]).all()
    assert root["images/slide/0"].shape == (3, 280, 300)
    expected = pixels(Box(0, 0, 300, 280), 1).transpose(2, 0, 1)
    np.testing.assert_array_equal(root["images/slide/0"][:], expected)
    with pytest.raises(OutputError, match="exists"):
        write_spatialdata(spatial, families(3), **SIZE)


@pytest.mark.filterwarnings("ignore")  # those of the library
def test_spatialdata_is_read_by_its_library(spatial):
    """By hand, in an environment of its own: the library pins a version of Dask."""
    spatialdata = pytest.importorskip("spatialdata")
    whole = spatialdata.read_zarr(spatial)
    assert set(whole.shapes) == {"cells", "nuclei"} and set(whole.images) == {"slide"}
    assert set(whole.coordinate_systems) == {"global", "um"}
    _, table = spatialdata.join_spatialelement_table(
        sdata=whole, spatial_element_names=["nuclei"], table_name="table"
    )
    assert table.n_obs == (~is_cell(OBJECTS)).sum()
    moved = spatialdata.transform(whole["nuclei"], to_coordinate_system="um")
    own = shapely.area(OBJECTS.polygons()[~is_cell(OBJECTS)])
    np.testing.assert_allclose(moved.area, own * 0.25)


def test_dicom_annotations_hold_outlines_and_measurements(tmp_path):
    write_annotations(tmp_path / "a.dcm", families(3), **SIZE, provenance=ABOUT)
    groups = annread(tmp_path / "a.dcm").get_annotation_groups()
    assert [g.label for g in groups] == [OBJECTS.classes[k] for k in np.unique(OBJECTS.class_index)]
    for group in groups:
        own = OBJECTS.take(OBJECTS.class_index == OBJECTS.classes.index(group.label))
        shells = [np.asarray(p.exterior.coords)[:-1] for p in own.polygons()]
        found = group.get_graphic_data("2D")
        assert all((a == b).all() for a, b in zip(found, shells, strict=True))
        names, values, units = group.get_measurements()
        kept = {n: v for n, v in {"score": own.score, **own.features}.items()
                if np.isfinite(v).any()}  # fmt: skip
        assert [n.meaning for n in names] == list(kept)
        np.testing.assert_array_equal(values, np.stack(list(kept.values()), 1))
        areas = [u.value for n, u in zip(names, units, strict=True) if n.meaning.endswith("µm^2")]
        assert set(areas) <= {"um2"}
    write_annotations(tmp_path / "b.dcm", families(3), **SIZE, provenance=ABOUT)
    a, b = (annread(tmp_path / name) for name in ("a.dcm", "b.dcm"))
    assert a.SOPInstanceUID == b.SOPInstanceUID
    with pytest.raises(DataError, match="no object"):
        write_annotations(tmp_path / "c.dcm", Objects.empty(("nucleus",)), **SIZE)
    (tmp_path / "x.svs").write_bytes(b"x")
    with pytest.raises(DataError, match="no DICOM slide"):
        write_annotations(tmp_path / "c.dcm", OBJECTS, **SIZE, image=tmp_path / "x.svs")


def test_geopandas_gets_what_the_parquet_file_holds(tmp_path):
    with ParquetWriter(tmp_path / "a.parquet") as writer:
        writer.write(OBJECTS)
    frame = OBJECTS.to_geopandas()
    stored = geopandas.read_parquet(tmp_path / "a.parquet").set_index("id")
    assert list(frame.columns) == [c for c in stored.columns if c != "bbox"]
    for name in frame.columns.drop("parent_id"):
        assert (frame[name].eq(stored[name]) | (frame[name].isna() & stored[name].isna())).all()
    assert (frame["parent_id"].fillna("") == stored["parent_id"].fillna("")).all()
    assert len(Objects.empty(("nucleus",)).to_geopandas()) == 0


@pytest.mark.parametrize(
    ("name", "module"),
    [("a.h5ad", "anndata"), ("a.zarr", "anndata"), ("a.zarr", "geopandas"), ("a.dcm", "highdicom")],
)
def test_a_missing_library_is_named_with_its_remedy(tmp_path, monkeypatch, name, module):
    for loaded in [m for m in sys.modules if m.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=f"{module}, which is not installed; pip install"):
        export(linked([shapely.box(0, 0, 9, 9)], ["nucleus"], [-1]), tmp_path / name,
               slide=SlideInfo(**SIZE))  # fmt: skip
    assert list(tmp_path.iterdir()) == []
