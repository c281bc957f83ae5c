"""Laws of `wsiseg gallery`: pictures, numbers and the list for QuPath say the same."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import shapely
import strict_geojson
from command_line import complaint, succeed, wsiseg
from run_folders import put_objects

from wsi_pipeline.core.errors import DataError, UsageError
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.formats._geojson_render import uuid_text
from wsi_pipeline.formats.geoparquet import read_parquet
from wsi_pipeline.reports.atypia import rank_atypical
from wsi_pipeline.reports.crops import WINDOW_UM
from wsi_pipeline.reports.gallery import gallery_cells, read_gallery, write_gallery
from wsi_pipeline.slides.slide import open_slide


def decoded(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def test_the_gallery_shows_the_ranking_of_the_run(folder, slide_path):
    objects = read_parquet(folder / "objects.parquet")
    with open_slide(slide_path) as slide:
        cells = gallery_cells(folder, slide, 7)
    assert [cell.rank for cell in cells] == list(range(1, 8))
    assert [c.score for c in cells] == sorted((c.score for c in cells), reverse=True)
    middle = shapely.centroid(objects.polygons())
    ids = [uuid_text(objects.ids[[i]]).tobytes().decode() for i in range(len(objects))]
    assert {c.id for c in cells} <= {ids[i] for i in rank_atypical(objects, 35).order}
    for cell, i in zip(cells, [ids.index(cell.id) for cell in cells], strict=True):
        assert (cell.x, cell.y) == (round(middle[i].x, 2), round(middle[i].y, 2))
        assert cell.polygon.equals(objects.polygons()[i])
        assert cell.measurements["Nucleus: Area µm^2"] == objects.features["Nucleus: Area µm^2"][i]
        plain, outlined, cut = (decoded(d) for d in (cell.plain, cell.outlined, cell.cut_out))
        assert plain.shape == outlined.shape == (cell.height_px, cell.width_px, 3)
        assert cell.width_px * cell.mpp == pytest.approx(WINDOW_UM, rel=0.02)
        assert np.abs(plain.astype(int) - outlined).max() > 60
        assert set(np.unique(cut[..., 3])) >= {0, 255}
        inside = (cut[..., 3] > 127).sum() * cell.mpp**2
        assert inside > cell.measurements["Nucleus: Area µm^2"]
        (kind, ring), = cell.outlines  # fmt: skip
        assert kind == "nucleus"
        area = shapely.Polygon(ring).area * cell.mpp**2
        assert area == pytest.approx(cell.measurements["Nucleus: Area µm^2"], rel=0.02)


def test_the_files_belong_together(folder, slide_path):
    succeed("gallery", folder, slide_path, "--count", "3")
    out = folder / "gallery"
    about = read_gallery(folder)
    assert about == read_gallery(out)
    assert len(about["cells"]) == 3
    named = {name for cell in about["cells"] for name in cell["files"].values()}
    others = {"gallery.json", "review.geojson", "review.html"}
    assert named | others == {path.name for path in out.iterdir()}
    text = (out / "review.geojson").read_text("utf-8")
    strict_geojson.check(text)
    features = json.loads(text)["features"]
    for feature, cell in zip(features, about["cells"], strict=True):
        assert feature["properties"]["name"] == f"{cell['rank']:03} z={cell['score']:.1f}"
        assert shapely.geometry.shape(feature["geometry"]).contains(
            shapely.Point(cell["x"], cell["y"])
        )
    (out / "notes.txt").write_text("mine", "utf-8")
    succeed("gallery", folder, slide_path, "--count", "2")
    left = {path.name for path in out.iterdir()} - others
    assert left == {n for c in read_gallery(out)["cells"] for n in c["files"].values()} | {
        "notes.txt"
    }


def test_the_same_run_gives_the_same_bytes(folder, slide_path, tmp_path):
    for name in "ab":
        with open_slide(slide_path) as slide:
            write_gallery(folder, slide, 4, out=tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert all(
        (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        for name in files
    )


def test_a_gallery_that_is_not_there_or_damaged_is_refused(folder, slide_path):
    with pytest.raises(DataError, match="wsiseg gallery"):
        read_gallery(folder)
    (folder / "gallery").mkdir()
    (folder / "gallery" / "gallery.json").write_text('{"schema_version": 99}', "utf-8")
    with pytest.raises(DataError, match="schema_version"):
        read_gallery(folder)
    with open_slide(slide_path) as slide, pytest.raises(UsageError, match="1 or more"):
        gallery_cells(folder, slide, 0)
    assert "--count" in complaint(wsiseg("gallery", folder, slide_path, "--count", "0"), 2)


def test_a_run_without_objects_has_an_empty_gallery(folder, slide_path):
    objects = read_parquet(folder / "objects.parquet")
    for n in (0, 1, 3):
        put_objects(folder, objects.take(np.arange(n)))
        with open_slide(slide_path) as slide:
            assert len(write_gallery(folder, slide)) == n
        assert len(read_gallery(folder)["cells"]) == n


def test_a_nucleus_at_the_border_of_the_slide_is_left_out(folder, slide_path):
    objects = read_parquet(folder / "objects.parquet")
    with open_slide(slide_path) as slide:
        first = gallery_cells(folder, slide, 1)[0]
        moved = shapely.transform(objects.polygons(), lambda xy: xy)
        i = [uuid_text(objects.ids[[k]]).tobytes().decode() for k in range(len(objects))]
        k = i.index(first.id)
        x0 = moved[k].bounds[0]
        moved[k] = shapely.transform(moved[k], lambda xy: xy - [x0, 0])
        put_objects(
            folder,
            Objects.from_polygons(
                moved, classes=objects.classes, ids=objects.ids, class_index=objects.class_index,
                score=objects.score, features=objects.features,
            ),
        )  # fmt: skip
        assert first.id not in {cell.id for cell in gallery_cells(folder, slide, 3)}
