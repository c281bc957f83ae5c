"""Laws of a run: how the work is cut up, interrupted or resumed never shows in the result."""

import dataclasses
import json
import signal
import subprocess
import sys
import textwrap
import time

import cv2
import numpy as np
import pytest
import shapely
import tifffile
from wsiseg_models.precision import has_bfloat16

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import ConfigError, OutputError
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.run_layout import RUN_FILES
from wsi_pipeline.formats.geojson import read_geojson, read_regions
from wsi_pipeline.formats.geoparquet import read_parquet
from wsi_pipeline.pipeline import run_slide
from wsi_pipeline.runs import final_files as results
from wsi_pipeline.runs import part_file, work_plan
from wsi_pipeline.runs import run_folder as store
from wsi_pipeline.segmentation import inference
from wsi_pipeline.segmentation.load_model import open_model
from wsi_pipeline.segmentation.nuclei import model_from_function
from wsi_pipeline.slides import window_cache as canvas
from wsi_pipeline.slides.slide import open_slide


def run(path, out, model, **changes):
    config = RunConfig(
        **{"out": out, "foreground": "all", "quiet": True, "tile_px": 384, **changes}
    )
    return run_slide(path, config, model=model)


def objects_of(result):
    return read_parquet(result.folder / "objects.parquet")


def same(a, b):
    """Objects equal to the last bit, in whatever order."""
    a, b = (o.take(np.lexsort(o.ids.T)) for o in (a, b))
    arrays = ("ids", "class_index", "score", "coords", "ring_offsets", "object_offsets")
    equal = all(np.array_equal(getattr(a, k), getattr(b, k)) for k in arrays)
    return equal and all(
        np.array_equal(a.features[k], b.features[k], equal_nan=True) for k in a.features
    )


@pytest.fixture(scope="module")
def reference(slide_path, darkness, tmp_path_factory):
    """The run that all others must equal: one region, one worker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work_plan, "REGION_PX", 4096)
        result = run(slide_path, tmp_path_factory.mktemp("whole"), darkness, workers=1)
    assert result.summary["regions"] == 1 and result.objects > 300
    return objects_of(result)


@pytest.mark.parametrize(
    ("region", "changes"),
    [
        (1920, {}),
        (128, {"tile_px": 128, "workers": 3}),
        (200, {"tile_px": 256, "batch": 5}),
        (640, {"tile_px": 1024, "workers": 1, "batch": 2}),
    ],
)
def test_how_the_work_is_cut_up_does_not_show(
    slide_path, darkness, reference, tmp_path, monkeypatch, region, changes
):
    monkeypatch.setattr(work_plan, "REGION_PX", region)
    assert same(objects_of(run(slide_path, tmp_path, darkness, **changes)), reference)


@pytest.mark.parametrize("kept_bytes", [0, 2**20, 2**27])
def test_a_canvas_gives_what_the_slide_gives(slide_path, monkeypatch, kept_bytes):
    monkeypatch.setattr(canvas, "KEPT_BYTES", kept_bytes)
    windows = [Box(x, y, x + 300, y + 300) for y in (-50, 150, 350) for x in (-50, 350, 150, 550)]
    windows += [Box(10, 10, 700, 900), Box(200, 200, 210, 210)]
    with open_slide(slide_path) as slide:
        seen = canvas.WindowCache(slide, 1.3)
        read = slide.read_scaled
        pixels = []
        monkeypatch.setattr(
            slide, "read_scaled",
            lambda box, scale: pixels.append(box.width * box.height) or read(box, scale),
        )  # fmt: skip
        for window in windows:
            assert np.array_equal(seen.read(window, 100), read(window, 1.3))
    whole = sum(w.width * w.height for w in windows)
    assert sum(pixels) < 0.8 * whole if kept_bytes else sum(pixels) == whole


def test_final_files_are_written_while_regions_come_in(
    slide_path, darkness, reference, tmp_path, monkeypatch
):
    monkeypatch.setattr(work_plan, "REGION_PX", 200)
    waited = []
    write = results.ParquetWriter.write

    def noticed(self, objects, **how):
        waited.append(len(objects))
        return write(self, objects, **how)

    parts = store.RunFolder.write_part

    def last(self, region, *rest):
        if region == 29:  # the last of 6 x 5
            while len(waited) < 5:
                time.sleep(0.01)
        parts(self, region, *rest)

    monkeypatch.setattr(results.ParquetWriter, "write", noticed)
    monkeypatch.setattr(store.RunFolder, "write_part", last)
    assert same(objects_of(run(slide_path, tmp_path, darkness)), reference)


def test_regions_are_done_from_top_to_bottom(slide_path, darkness, tmp_path, monkeypatch):
    monkeypatch.setattr(work_plan, "REGION_PX", 200)
    write, done = store.RunFolder.write_part, []
    monkeypatch.setattr(
        store.RunFolder, "write_part", lambda *given: done.append(given[1]) or write(*given)
    )
    run(slide_path, tmp_path, darkness, workers=1)
    # Six regions a row; the writer of the final files, which goes by rows, need not wait.
    assert sorted(done) == list(range(30)) and [n // 6 for n in done] == sorted(
        n // 6 for n in done
    )


def test_a_writer_that_fails_loses_no_region(slide_path, darkness, tmp_path, monkeypatch):
    def full(self, objects, **how):
        raise OutputError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(work_plan, "REGION_PX", 200)
        patch.setattr(results.ParquetWriter, "write", full)
        with pytest.raises(OutputError, match="no space"):
            run(slide_path, tmp_path, darkness)
    left = sorted(p.name for p in (tmp_path / "crowded/darkness").iterdir())
    assert left == ["parts", "plan.json"]
    assert len(list((tmp_path / "crowded/darkness" / "parts").glob("*.npz"))) == 30


def test_every_file_holds_the_same_valid_objects(slide_path, darkness, reference, tmp_path):
    result = run(slide_path, tmp_path, darkness)
    geojson = read_geojson(result.folder / "objects.geojson.gz")
    assert same(geojson, reference) and same(objects_of(result), reference)
    polygons = geojson.polygons()
    assert shapely.is_valid(polygons).all()
    assert shapely.is_valid(shapely.set_precision(polygons, 0.01, mode="pointwise")).all()
    assert {p.name for p in result.folder.iterdir()} == set(RUN_FILES)
    stored = json.loads((result.folder / "run.json").read_text())
    assert stored["objects"] == len(reference) and stored["slide"]["mpp"]["source"] == "metadata"
    looked = read_regions(result.folder / "foreground.geojson").area
    assert looked.area / (1003 * 811) == pytest.approx(stored["foreground"]["share"], abs=1e-4)
    for name in ("overlay.png", "thumbnail.png"):
        assert cv2.imread(str(result.folder / name)) is not None


def test_foreground_costs_no_nucleus(slide_path, darkness, reference, tmp_path):
    assert same(objects_of(run(slide_path, tmp_path, darkness, foreground="auto")), reference)


def test_least_score_leaves_out_what_is_below_it(slide_path, darkness, reference, tmp_path):
    bound = float(np.median(reference.score))
    scores = {"min_score": bound, "min_small_score": bound}
    certain = objects_of(run(slide_path, tmp_path, darkness, **scores))
    assert 0 < len(certain) < len(reference)
    assert same(certain, reference.take(reference.score >= np.float32(bound)))


def test_a_finished_run_does_nothing_and_other_settings_are_refused(
    slide_path, darkness, tmp_path, monkeypatch
):
    first = run(slide_path, tmp_path, darkness)
    before = {p: p.stat().st_mtime_ns for p in first.folder.iterdir()}
    mine = first.folder / "notes.txt"
    mine.write_text("keep me")
    monkeypatch.setattr(inference.Engine, "predict", None)
    again = run(slide_path, tmp_path, darkness, tile_px=1024, batch=3)
    assert again.summary == json.loads(json.dumps(first.summary))
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    with pytest.raises(OutputError, match="another threshold; use --overwrite"):
        run(slide_path, tmp_path, darkness, threshold=0.7)
    monkeypatch.undo()
    stricter = run(slide_path, tmp_path, darkness, threshold=0.7, overwrite=True)
    assert mine.read_text() == "keep me" and stricter.objects != first.objects


class Stop(Exception):
    """Stands for whatever ends a run."""


def test_a_run_that_stopped_continues_where_it_was(
    slide_path, darkness, reference, tmp_path, monkeypatch
):
    monkeypatch.setattr(work_plan, "REGION_PX", 200)
    write, seen = store.RunFolder.write_part, []

    def write_some(self, region, *rest):
        if len(seen) >= 5:
            raise Stop
        write(self, region, *rest)
        seen.append(region)

    monkeypatch.setattr(store.RunFolder, "write_part", write_some)
    with pytest.raises(Stop):
        run(slide_path, tmp_path, darkness)
    left = tmp_path / "crowded/darkness" / "parts" / "000999.npz.0a1b2c3d.part"
    left.write_bytes(b"half a part")
    half = tmp_path / "crowded/darkness" / "objects.geojson.gz.0a1b2c3d.part"
    half.write_bytes(b"half a file")
    resumed = []

    def write_rest(self, region, *rest):
        resumed.append(region)
        write(self, region, *rest)

    monkeypatch.setattr(store.RunFolder, "write_part", write_rest)
    result = run(slide_path, tmp_path, darkness)
    assert same(objects_of(result), reference)
    assert sorted(seen + resumed) == list(range(result.summary["regions"]))
    assert not left.exists() and not half.exists()


def test_a_full_disk_keeps_what_was_done(slide_path, darkness, reference, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(part_file.np, "savez", full)
        with pytest.raises(OutputError, match=r"No space left.*run the same command again"):
            run(slide_path, tmp_path, darkness)
    assert same(objects_of(run(slide_path, tmp_path, darkness)), reference)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match="MB are needed"):
        run(slide_path, tmp_path / "new", darkness)


@pytest.mark.parametrize("region_px", [pytest.param(200, marks=pytest.mark.slow), 1920])
def test_a_damaged_tile_costs_what_touches_it_and_is_tried_again(
    slide_path, darkness, reference, tmp_path, monkeypatch, region_px
):
    monkeypatch.setattr(work_plan, "REGION_PX", region_px)
    path = tmp_path / slide_path.name
    whole = slide_path.read_bytes()
    with tifffile.TiffFile(slide_path) as tiff:
        page = tiff.pages[0]
        at, size = page.dataoffsets[8], page.databytecounts[8]
        width, height = page.tilewidth, page.tilelength
        y, x = divmod(8, -(-page.imagewidth // width))
    tile = shapely.box(x * width, y * height, (x + 1) * width, (y + 1) * height)
    path.write_bytes(whole[:at] + b"\0" * size + whole[at + size :])
    for foreground in ("auto", "all"):
        out = tmp_path / foreground
        broken = run(path, out, darkness, foreground=foreground)
        assert 0 < len(broken.failed) < max(2, broken.summary["regions"] / 2)
        for failure in broken.failed:
            assert "cannot be read" in failure["cause"]
            assert "the rest is kept" in failure["cause"]
            lost = shapely.union_all([shapely.box(*box) for box in failure["missing"]])
            assert shapely.box(*failure["level0_box"]).equals(shapely.envelope(lost))
            assert lost.area <= tile.area == lost.union(tile).area
        found = objects_of(broken)
        there = {tuple(row) for row in found.ids.tolist()}
        near = shapely.distance(reference.polygons(), tile) <= 1
        boxes = shapely.box(*reference.bounds().T)
        away = shapely.distance(boxes, tile) > 3
        ids = [tuple(row) for row in reference.ids.tolist()]
        assert near.any()
        assert {i for i, k in zip(ids, away, strict=True) if k} <= there
        assert not {i for i, k in zip(ids, near, strict=True) if k} & there
        assert there <= set(ids)
        assert (broken.folder / "overlay.png").is_file()
    path.write_bytes(whole)
    repaired = run(path, tmp_path / "all", darkness)
    assert not repaired.failed and same(objects_of(repaired), reference)


KILLED = """
    import os, signal, sys, time
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from cheap_models import make_darkness
    from wsi_pipeline import pipeline
    from wsi_pipeline.runs import work_plan
    work_plan.REGION_PX = 256
    config = pipeline.RunConfig(out=Path({out!r}), foreground="all", quiet=True, tile_px=384)
    model = make_darkness()
    for delay in {delays!r}:  # a process each, which has imported everything
        process = os.fork()
        if not process:
            pipeline.run_slide({slide!r}, config, model=model)
            os._exit(0)
        if delay is not None:
            time.sleep(delay)
            os.kill(process, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
"""


@pytest.mark.slow
def test_killed_at_random_moments_and_rerun(slide_path, reference, tmp_path, request):
    rng = np.random.default_rng(2)
    script = textwrap.dedent(KILLED).format(
        tests=str(request.config.rootpath / "tests"), out=str(tmp_path), slide=str(slide_path),
        delays=[*rng.uniform(0.1, 1.5, 3).tolist(), None],
    )  # fmt: skip
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    *killed, last = map(int, ended.stdout.split())
    assert last == 0 and -signal.SIGKILL in killed and set(killed) <= {0, -signal.SIGKILL}
    assert same(read_parquet(tmp_path / "crowded/darkness" / "objects.parquet"), reference)


def test_an_object_far_larger_than_the_halo_is_kept_whole(darkness, tmp_path, monkeypatch):
    monkeypatch.setattr(work_plan, "REGION_PX", 128)
    image = np.full((700, 900, 3), 240, np.uint8)
    cv2.ellipse(image, (450, 350), (300, 20), 30, 0, 360, (60, 30, 90), -1)
    cv2.circle(image, (100, 600), 9, (60, 30, 90), -1)
    path = tmp_path / "field.png"
    cv2.imwrite(str(path), image)
    result = run(path, tmp_path / "out", darkness, mpp=0.5, split=False)
    assert result.objects == 2 and result.summary["objects_larger_than_seen"] == 0
    areas = sorted(shapely.area(objects_of(result).polygons()))
    assert areas[1] == pytest.approx(np.pi * 300 * 20, rel=0.05)


def test_regions_of_interest_keep_what_is_centred_in_them(
    slide_path, darkness, reference, tmp_path
):
    ring = [[140, 130], [790, 200], [500, 700], [140, 130]]
    roi = tmp_path / "roi.geojson"
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
    roi.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    found = objects_of(run(slide_path, tmp_path, darkness, roi=roi))
    middle = shapely.centroid(reference.polygons())
    inside = shapely.contains(shapely.Polygon(ring), middle)
    assert inside.any() and same(found, reference.take(inside))
    hole = [[400, 200], [600, 200], [500, 500], [400, 200]]
    ignored = {
        "type": "Feature", "geometry": {"type": "Polygon", "coordinates": [hole]},
        "properties": {"classification": {"name": "Ignore*", "color": [180, 180, 180]}},
    }  # fmt: skip
    roi.write_text(json.dumps({"type": "FeatureCollection", "features": [feature, ignored]}))
    found = objects_of(run(slide_path, tmp_path / "b", darkness, roi=roi))
    kept = inside & ~shapely.contains(shapely.Polygon(hole), middle)
    assert kept.sum() < inside.sum() and same(found, reference.take(kept))


def test_a_region_beside_the_slide_is_a_warning(slide_path, darkness, tmp_path, caplog):
    roi = tmp_path / "roi.geojson"
    ring = [[9000, 0], [9900, 0], [9900, 900], [9000, 0]]
    roi.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    result = run(slide_path, tmp_path, darkness, roi=roi)
    assert (result.objects, result.failed) == (0, ())
    said = "roi.geojson: 1 of 1 regions do not touch the slide"
    assert said in json.loads((result.folder / "run.json").read_text())["warnings"][0]
    assert said in caplog.text


def label_dark(image):
    """A model as a plain function: components of dark pixels."""
    dark = cv2.GaussianBlur(image, (5, 5), 0).mean(2) < 128
    return cv2.connectedComponents(dark.astype(np.uint8), connectivity=4)[1]


def test_a_plain_function_is_a_model(slide_path, tmp_path, monkeypatch):
    model = model_from_function(label_dark, name="dark", mpp=0.5)
    monkeypatch.setattr(work_plan, "REGION_PX", 4096)
    whole = objects_of(run(slide_path, tmp_path / "a", model, min_area_um2=20))
    monkeypatch.setattr(work_plan, "REGION_PX", 300)
    parts = objects_of(run(slide_path, tmp_path / "b", model, min_area_um2=20))
    assert len(whole) > 200 and same(whole, parts)
    bad = model_from_function(lambda image: image, name="bad", mpp=0.5)
    with pytest.raises(TypeError, match="label image of the same size"):
        run(slide_path, tmp_path / "c", bad)


def test_an_empty_field_gives_empty_files(darkness, tmp_path):
    path = tmp_path / "empty.png"
    cv2.imwrite(str(path), np.full((300, 200, 3), 250, np.uint8))
    result = run(path, tmp_path / "out", darkness, mpp=0.5)
    assert result.objects == 0 and len(objects_of(result)) == 0
    assert len(read_geojson(result.folder / "objects.geojson.gz")) == 0


def test_settings_are_checked_where_they_come_in():
    assert RunConfig.from_mapping({"mpp": 0.3, "out": "x"}).mpp == 0.3
    for wrong in ({"mpp": 99}, {"tile_px": 10}, {"foreground": "some"}, {"workers": 0},
                  {"precision": "half"}):  # fmt: skip
        with pytest.raises(ConfigError):
            RunConfig(**wrong)
    with pytest.raises(ConfigError, match="unknown settings"):
        RunConfig.from_mapping({"tile": 512})
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().mpp = 1  # type: ignore[misc]


@pytest.mark.slow
def test_bfloat16_costs_no_accuracy(slide_path):
    with open_slide(slide_path) as slide:
        image = slide.read_scaled(Box(96, 96, 96 + 512, 96 + 512), 1.0)[None]
    full, half = (
        open_model("dssnet", device="cpu", precision=p).infer(image)[0] >= 128
        for p in ("float32", "bfloat16")
    )
    assert 0.02 < full.mean() < 0.5
    assert 2 * (full & half).sum() / (full.sum() + half.sum()) >= 0.999
    assert open_model("dssnet", device="cpu", precision="float32").precision == "float32"
    native = "bfloat16" if has_bfloat16("cpu") else "float32"
    assert open_model("dssnet", device="cpu").precision == native
    assert open_model("donet", device="cpu").precision == native
