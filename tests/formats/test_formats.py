"""Export and import are inverse, whatever the format; a file that exists is finished."""

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import shapely
import zarr
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.core.errors import DataError, OutputError, UsageError
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.polygons import make_valid
from wsi_pipeline.formats.coco import write_coco
from wsi_pipeline.formats.geojson import (
    GeoJsonWriter,
    format_features,
    read_geojson,
)
from wsi_pipeline.formats.geoparquet import ParquetWriter, read_parquet
from wsi_pipeline.formats.ome_zarr import write_label_image

WRITERS = {"geojson": GeoJsonWriter, "geojson.gz": GeoJsonWriter, "parquet": ParquetWriter}
READERS = {"geojson": read_geojson, "geojson.gz": read_geojson, "parquet": read_parquet}
FIELDS = ("ids", "class_index", "score", "coords", "ring_offsets", "object_offsets")


def random_objects(seed: int, n: int = 20, extent: int = 60_000) -> Objects:
    """Stars, some with a hole, of three classes (one may stay unused) and three measurements."""
    rng = np.random.default_rng(seed)
    shapes = []
    for centre in rng.uniform(-50, extent, (n, 2)):
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(4, 30)))
        star = np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(5, 9, (len(angles), 1))
        holes = [centre + star * 0.3] * int(rng.integers(2))
        shapes.append(shapely.Polygon(centre + star, holes))
    ratio = rng.random(n, dtype=np.float32)
    ratio[rng.random(n) < 0.3] = np.nan
    return make_valid(
        Objects.from_polygons(
            shapes,
            classes=("nucleus", "HSIL", "Tumor: Positive"),
            ids=rng.integers(0, 2**64, (n, 2), np.uint64),
            class_index=rng.integers(0, 2, n).astype(np.uint8),
            score=rng.random(n, dtype=np.float32),
            features={
                "Nucleus: Area µm^2": (rng.lognormal(3, 3, n)).astype(np.float32),
                'ratio "N/C"': ratio,
                "nowhere": np.full(n, np.nan, np.float32),
            },
        )
    )


def assert_same(a: Objects, b: Objects) -> None:
    assert a.classes == b.classes
    assert list(a.features) == list(b.features)
    for name in FIELDS:
        assert getattr(a, name).dtype == getattr(b, name).dtype
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    for name, column in a.features.items():
        assert column.dtype == b.features[name].dtype
        assert np.array_equal(column, b.features[name], equal_nan=True), name


@pytest.mark.parametrize("kind", WRITERS)
@given(seed=st.integers(0, 2**32), pieces=st.integers(1, 4))
def test_export_then_import_is_identity(tmp_path_factory, kind, seed, pieces):
    objects = random_objects(seed)
    path = tmp_path_factory.getbasetemp() / f"objects.{kind}"
    with WRITERS[kind](path, provenance={"slide": "a"}) as writer:
        for part in np.array_split(np.arange(len(objects)), pieces):
            writer.write(objects.take(part))
    assert writer.count == len(objects)
    assert_same(READERS[kind](path), objects)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("classes", [(), ("nucleus", "cell")])
def test_no_objects_make_a_good_file(tmp_path, kind, classes):
    path = tmp_path / f"objects.{kind}"
    empty = Objects.empty(classes, ("area",) if classes else ())
    with WRITERS[kind](path) as writer:
        if classes:
            writer.write(empty)
    assert_same(READERS[kind](path), empty)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_crash_in_the_middle_leaves_the_folder_as_it_was(tmp_path, kind):
    path = tmp_path / f"objects.{kind}"
    objects = random_objects(1)

    def crash(writer):
        with writer:
            writer.write(objects)
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        crash(WRITERS[kind](path))
    assert list(tmp_path.iterdir()) == []
    with WRITERS[kind](path) as writer:
        writer.write(objects)
        assert not path.exists()
    finished = path.read_bytes()
    with pytest.raises(RuntimeError, match="crash"):
        crash(WRITERS[kind](path))
    assert path.read_bytes() == finished and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_that_cannot_be_written_is_an_output_error(tmp_path, kind):
    path = tmp_path / "no folder" / f"objects.{kind}"
    with pytest.raises(OutputError, match="no folder"), WRITERS[kind](path) as writer:
        writer.write(random_objects(1))


@pytest.mark.parametrize("kind", WRITERS)
def test_an_error_of_another_file_does_not_name_this_file(tmp_path, kind):
    with pytest.raises(FileNotFoundError), WRITERS[kind](tmp_path / f"objects.{kind}") as writer:
        writer.write(random_objects(1))
        (tmp_path / "slide").read_bytes()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", WRITERS)
def test_parts_agree_in_classes_and_measurements_but_not_in_their_order(tmp_path, kind):
    objects = random_objects(1)
    turned = replace(objects, features=dict(reversed(objects.features.items())))
    path = tmp_path / f"objects.{kind}"
    with WRITERS[kind](path) as writer:
        writer.write(objects)
        writer.write(turned.take(np.arange(0)))
        for other in (replace(objects, features={}), replace(objects, classes=("a", "b", "c"))):
            with pytest.raises(ValueError, match="differ"):
                writer.write(other)
    assert_same(READERS[kind](path), objects)


@pytest.mark.parametrize("kind", WRITERS)
def test_the_same_objects_make_the_same_bytes(tmp_path, kind):
    paths = [tmp_path / f"{k}.{kind}" for k in "ab"]
    for path in paths:
        with WRITERS[kind](path) as writer:
            writer.write(random_objects(5))
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_gzipped_files_have_the_bytes_of_plain_ones(tmp_path):
    for name in ("a.geojson", "a.geojson.gz"):
        with GeoJsonWriter(tmp_path / name, provenance={"slide": "µ"}) as writer:
            writer.write(random_objects(3))
    plain = (tmp_path / "a.geojson").read_bytes()
    assert gzip.decompress((tmp_path / "a.geojson.gz").read_bytes()) == plain
    assert json.loads(plain)["wsiseg"]["slide"] == "µ"


def test_features_may_be_formatted_in_threads():
    parts = [random_objects(seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(format_features, parts)) == [format_features(p) for p in parts]


def test_geopandas_opens_the_parquet_file(tmp_path):
    geopandas = pytest.importorskip("geopandas")
    objects = random_objects(4)
    path = tmp_path / "objects.parquet"
    with ParquetWriter(path) as writer:
        writer.write(objects)
        writer.write(objects)
    frame = geopandas.read_parquet(path)
    assert frame.crs is None and len(frame) == 2 * len(objects)
    assert (frame.geometry.to_numpy()[: len(objects)] == objects.polygons()).all()
    assert frame["class"].tolist() == [objects.classes[k] for k in objects.class_index] * 2
    assert np.array_equal(frame["score"], np.tile(objects.score, 2))
    x0, y0, x1, y1 = objects.bounds()[0]
    found = geopandas.read_parquet(path, bbox=(x0, y0, x1, y1))
    assert 2 <= len(found) < len(frame)


def test_parquet_refuses_what_it_cannot_hold(tmp_path):
    objects = replace(random_objects(1), features={"bbox": random_objects(1).score})
    with pytest.raises(DataError, match="bbox"), ParquetWriter(tmp_path / "a.parquet") as writer:
        writer.write(objects)
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    for name in ("b.parquet", "missing.parquet"):
        with pytest.raises(DataError, match=name):
            read_parquet(tmp_path / name)


# --- label images ---


def boxes(*bounds, hole=()) -> Objects:
    shapes = [shapely.box(*b) for b in bounds]
    if hole:
        shapes[0] = shapes[0].difference(shapely.box(*hole))
    return outlines(shapes)


def outlines(shapes) -> Objects:
    n = len(shapes)
    return Objects.from_polygons(
        shapes,
        classes=("nucleus",),
        ids=np.arange(2 * n, dtype=np.uint64).reshape(n, 2),
        class_index=np.zeros(n, np.uint8),
        score=np.linspace(0.1, 1, n, dtype=np.float32),
    )


@st.composite
def pixel_shapes(draw) -> tuple[shapely.Polygon, ...]:
    """Disjoint outlines of whole pixels, some with a hole, that may reach over the border."""
    shapes = []
    for column in range(4):
        x0 = column * 16 - 4
        low, high = sorted(draw(st.tuples(st.integers(0, 15), st.integers(0, 15))))
        y0 = draw(st.integers(-9, 50))
        steps = [
            shapely.box(x0 + low, y0, x0 + high + 1, y0 + draw(st.integers(1, 20))),
            shapely.box(x0 + low, y0 + 1, x0 + draw(st.integers(low, 15)) + 1, y0 + 5),
        ]
        shape = shapely.union_all(steps)
        if draw(st.booleans()) and high - low > 3:
            shape = shape.difference(shapely.box(x0 + low + 1, y0 + 2, x0 + low + 2, y0 + 4))
        shapes.append(max(shapely.get_parts(shape), key=shapely.area))
    return tuple(shapes)


@given(pixel_shapes(), st.sampled_from([8, 32, 1024]))
def test_label_pixels_are_the_area_of_outlines_of_pixels(tmp_path_factory, shapes, chunk):
    n = len(shapes)
    objects = outlines(shapes)
    path = tmp_path_factory.mktemp("labels", numbered=True) / "a.zarr"
    write_label_image(path, objects, width=60, height=50, mpp=0.25, chunk=chunk)
    image = zarr.open_group(path, mode="r")["labels/nuclei/0"][:]
    assert image.shape == (50, 60) and image.dtype == np.uint32
    inside = shapely.area(shapely.intersection(objects.polygons(), shapely.box(0, 0, 60, 50)))
    assert np.array_equal(np.bincount(image.ravel(), minlength=n + 1)[1:], inside)


def test_label_images_have_levels_with_sizes_and_the_later_object_on_top(tmp_path):
    objects = boxes((0, 0, 64, 64), (32, 32, 96, 48))
    path = tmp_path / "a.zarr"
    write_label_image(path, objects, width=130, height=70, mpp=0.5, scale=2, chunk=16)
    group = zarr.open_group(path, mode="r")["labels/nuclei"]
    ome = group.attrs["ome"]
    assert ome["version"] == "0.5" and "image-label" in ome
    (scales,) = ome["multiscales"]
    assert [axis["unit"] for axis in scales["axes"]] == ["micrometer"] * 2
    levels = [group[d["path"]] for d in scales["datasets"]]
    assert [level.shape for level in levels] == [(35, 65), (18, 33), (9, 17), (5, 9)]
    sizes = [d["coordinateTransformations"][0]["scale"] for d in scales["datasets"]]
    assert sizes == [[1, 1], [2, 2], [4, 4], [8, 8]]
    for level, factor in zip(levels, (2, 4, 8, 16), strict=True):
        expected = np.zeros(level.shape, np.uint32)
        expected[: 64 // factor, : 64 // factor] = 1
        expected[32 // factor : 48 // factor, 32 // factor : 96 // factor] = 2
        assert np.array_equal(level[:], expected)


def test_label_images_do_not_depend_on_their_chunks(tmp_path):
    objects = random_objects(8, n=60, extent=200)
    for chunk in (16, 500):
        write_label_image(
            tmp_path / f"{chunk}.zarr",
            objects,
            width=210,
            height=205,
            mpp=1,
            scale=0.5,
            chunk=chunk,
        )
    small, large = (
        zarr.open_group(tmp_path / f"{c}.zarr", mode="r")["labels/nuclei/0"][:] for c in (16, 500)
    )
    assert np.array_equal(small, large) and len(np.unique(small)) > 30


def test_label_images_refuse_existing_folders_and_impossible_sizes(tmp_path):
    path = tmp_path / "a.zarr"
    path.mkdir()
    with pytest.raises(OutputError, match="exists"):
        write_label_image(path, boxes((0, 0, 4, 4)), width=9, height=9, mpp=1)
    for wrong in ({"width": 0}, {"mpp": float("nan")}, {"scale": -1.0}):
        sizes = {"width": 9, "height": 9, "mpp": 1.0} | wrong
        with pytest.raises(UsageError, match=next(iter(wrong))):
            write_label_image(tmp_path / "b.zarr", boxes((0, 0, 4, 4)), **sizes)


def test_a_crash_leaves_no_label_image(tmp_path, monkeypatch):
    def crash(*args, **options):
        raise RuntimeError("crash")

    monkeypatch.setattr("wsi_pipeline.formats.ome_zarr.rasterize", crash)
    with pytest.raises(RuntimeError, match="crash"):
        write_label_image(tmp_path / "a.zarr", boxes((0, 0, 4, 4)), width=9, height=9, mpp=1)
    assert list(tmp_path.iterdir()) == []


# --- COCO ---


def test_coco_loads_in_pycocotools_with_holes_and_without(tmp_path):
    coco_api = pytest.importorskip("pycocotools.coco")
    objects = boxes((0, 0, 20, 10), (30, 5, 50, 25), (290, 190, 310, 210), hole=(4, 2, 9, 6))
    path = tmp_path / "a.json"
    write_coco(path, objects, width=300, height=200, file_name="a.svs", mpp=0.25)
    coco = coco_api.COCO(path)
    assert coco.imgs[1] == {
        "id": 1, "file_name": "a.svs", "width": 300, "height": 200, "mpp": 0.25,
    }  # fmt: skip
    assert coco.cats == {1: {"id": 1, "name": "nucleus"}}
    assert [a["area"] for a in coco.anns.values()] == [180, 400, 400]
    assert coco.anns[2]["bbox"] == [30, 5, 20, 20]
    assert np.float32(coco.anns[2]["score"]) == objects.score[1]
    masks = {k: coco.annToMask(a) for k, a in coco.anns.items()}
    assert [int(mask.sum()) for mask in masks.values()] == [180, 400, 100]
    assert not masks[1][2:6, 4:9].any()


def test_coco_says_when_holes_are_left_out(tmp_path):
    objects = boxes((0, 0, 20, 10), hole=(4, 2, 9, 6))
    path = tmp_path / "a.json.gz"
    write_coco(path, objects, width=2**17, height=2**17, file_name="a.svs")
    document = json.loads(gzip.decompress(path.read_bytes()))
    assert "left out" in document["info"]["holes"]
    (annotation,) = document["annotations"]
    assert len(annotation["segmentation"][0]) == 8 and annotation["area"] == 180


def test_coco_of_no_objects_is_coco(tmp_path):
    path = tmp_path / "a.json"
    write_coco(path, Objects.empty(["a"]), width=9, height=9, file_name="a.svs")
    assert json.loads(path.read_text())["annotations"] == []
