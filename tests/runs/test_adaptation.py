"""Laws of --adapt: a changed stain is brought back, and nothing else changes.

The range of a model is here the stain of one slide, so that every other stain lies outside it.
"""

from __future__ import annotations

import dataclasses
import json

import cv2
import numpy as np
import pytest
import shapely
from test_pipeline import objects_of, run, same
from wsiseg_models.stain import measure_stain

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import ConfigError
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.runs import run_folder, work_plan
from wsi_pipeline.runs.messages import SlideTask
from wsi_pipeline.runs.segment_whole import segment_whole
from wsi_pipeline.runs.work_plan import plan_work
from wsi_pipeline.segmentation.morphometry import OD_MEAN
from wsi_pipeline.slides.slide import open_slide

CHANGES = {
    "pale": ((1.0, 1.0, 1.0), 0.5),
    "strong": ((1.0, 1.0, 1.0), 1.6),
    "another lamp": ((0.9, 0.75, 0.6), 1.0),
    "pale under another lamp": ((0.7, 0.8, 0.9), 0.6),
}
"""Name → share of the light per channel, and factor of the densities."""


@pytest.fixture(scope="module")
def pixels(slide_path):
    with open_slide(slide_path) as slide:
        return slide.read_region(Box(0, 0, slide.width, slide.height))


@pytest.fixture(scope="module")
def own(pixels):
    """The stain of the slide."""
    return measure_stain(pixels[::2, ::2].reshape(-1, 3))


def ranged(model, stain, tolerance=0.0):
    """A model that was trained on nothing but this stain."""
    low, high = 1 - tolerance, 1 + tolerance
    density = float(np.mean(stain.density))
    glass = [[low * v for v in stain.glass], [high * v for v in stain.glass]]
    entry = {"glass": glass, "density": [low * density, high * density]}
    return dataclasses.replace(model, card={**model.card, "stain": entry})


@pytest.fixture(scope="module")
def model(darkness, own):
    return ranged(darkness, own)


def written(folder, pixels, name="slide.png"):
    path = folder / name
    cv2.imwrite(str(path), pixels[..., ::-1])
    return path


def changed(pixels, own, light, gain):
    """The slide under another light and with another strength of stain."""
    glass = np.array(own.glass)
    value = np.maximum(pixels.astype(np.float64), 0.5)
    new = glass * light * (value / glass) ** gain
    return np.clip(np.round(new), 0, 255).astype(np.uint8)


def agreement(mine, true):
    """Share of objects of either that have one of IoU 0.7 in the other."""
    mine, true = mine.polygons(), true.polygons()
    a, b = shapely.STRtree(true).query(mine, "intersects")
    shared = shapely.area(shapely.intersection(mine[a], true[b]))
    iou = shared / (shapely.area(mine[a]) + shapely.area(true[b]) - shared)
    return 2 * np.sum(iou > 0.7) / (len(mine) + len(true))


@pytest.fixture(scope="module")
def as_scanned(pixels, own, darkness, tmp_path_factory):
    """The objects of the slide as it is."""
    folder = tmp_path_factory.mktemp("as_scanned")
    return objects_of(run(written(folder, pixels), folder, darkness, mpp=0.5))


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_stain_is_brought_back(pixels, own, model, as_scanned, tmp_path, change):
    path = written(tmp_path, changed(pixels, own, *CHANGES[change]))
    plain = objects_of(run(path, tmp_path / "plain", model, mpp=0.5))
    adapted = run(path, tmp_path / "adapted", model, mpp=0.5, adapt=True)
    assert agreement(objects_of(adapted), as_scanned) > 0.95
    assert agreement(plain, as_scanned) < agreement(objects_of(adapted), as_scanned) - 0.02
    record, (light, gain) = adapted.summary["adaptation"], CHANGES[change]
    assert np.allclose(record["glass"], np.array(own.glass) * light, atol=4)
    assert np.allclose(record["new_glass"], own.glass, atol=0.1)
    assert np.allclose(record["gain"], 1 / gain, rtol=0.15)


def test_a_slide_within_the_range_keeps_its_pixels(
    pixels, own, darkness, as_scanned, tmp_path, monkeypatch
):
    model = ranged(darkness, own, tolerance=0.1)
    result = run(written(tmp_path, pixels), tmp_path, model, mpp=0.5, adapt=True)
    assert same(objects_of(result), as_scanned)
    record = result.summary["adaptation"]
    assert record["new_glass"] is None and record["gain"] is None
    assert "within the range" in record["note"]


@pytest.fixture(scope="module")
def pale(pixels, own, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pale")
    return written(folder, changed(pixels, own, *CHANGES["pale"]), "pale.png")


@pytest.fixture(scope="module")
def adapted(pale, model, tmp_path_factory):
    """The pale slide in one region."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work_plan, "REGION_PX", 4096)
        result = run(pale, tmp_path_factory.mktemp("whole"), model, mpp=0.5, adapt=True, workers=1)
    assert result.summary["regions"] == 1 and result.objects > 300
    return result


@pytest.mark.parametrize("region", [128, 640])
def test_how_the_work_is_cut_up_does_not_show(pale, model, adapted, tmp_path, monkeypatch, region):
    monkeypatch.setattr(work_plan, "REGION_PX", region)
    cut = run(pale, tmp_path, model, mpp=0.5, adapt=True, tile_px=128, batch=3)
    assert same(objects_of(cut), objects_of(adapted))
    assert cut.summary["adaptation"] == adapted.summary["adaptation"]


def test_a_small_slide_without_a_run_gives_the_same(pale, model, adapted):
    with open_slide(pale, mpp=0.5) as slide:
        config = RunConfig(adapt=True, foreground="all", quiet=True)
        assert same(segment_whole(slide, model, config), objects_of(adapted))


def test_a_run_that_stopped_continues_as_it_was(pale, model, adapted, tmp_path, monkeypatch):
    monkeypatch.setattr(work_plan, "REGION_PX", 200)
    write, seen = run_folder.RunFolder.write_part, []

    def write_some(self, *part):
        if len(seen) >= 5:
            raise KeyError("stopped")
        write(self, *part)
        seen.append(part)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder.RunFolder, "write_part", write_some)
        with pytest.raises(KeyError):
            run(pale, tmp_path, model, mpp=0.5, adapt=True)
    plan = json.loads((tmp_path / "pale/darkness/plan.json").read_text())
    assert plan["adapt"] is True
    result = run(pale, tmp_path, model, mpp=0.5, adapt=True)
    assert same(objects_of(result), objects_of(adapted))
    assert result.summary["adaptation"] == adapted.summary["adaptation"]


def test_a_worker_gets_the_map_of_the_run(pale, model):
    with open_slide(pale, mpp=0.5) as slide:
        plan = plan_work(slide, model, RunConfig(adapt=True, quiet=True))
    task = SlideTask(
        pale, 0, RunConfig(), (), plan.scale, plan.tile_px, plan.search_area, plan.object_filter,
        plan.stain_map,
    )  # fmt: skip
    there = SlideTask.unpack(task.pack()).stain_map
    assert there == plan.stain_map and np.array_equal(there.table, plan.stain_map.table)


def test_a_slide_has_one_estimate_whatever_area_is_segmented(pale, model, tmp_path):
    roi = tmp_path / "roi.geojson"
    ring = [[0, 0], [120, 0], [120, 120], [0, 120], [0, 0]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    roi.write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": geometry}))
    with open_slide(pale, mpp=0.5) as slide:
        records = [
            plan_work(slide, model, config, work_plan.read_roi(config.roi)).adaptation.record()
            for config in (
                RunConfig(adapt=True, quiet=True),
                RunConfig(adapt=True, quiet=True, foreground="all", tile_px=64),
                RunConfig(adapt=True, quiet=True, roi=roi),
            )
        ]
    assert records[0] == records[1] == records[2]


def test_measurements_are_those_of_the_slide(pixels, own, darkness, tmp_path):
    """A network that undoes the map finds what it finds without; so does all that is measured."""
    dim = changed(pixels, own, (0.7, 0.7, 0.7), 1)
    path = written(tmp_path, dim)
    entry = {"glass": [own.glass] * 2, "density": [0.01, 2]}  # the light alone changes
    model = dataclasses.replace(darkness, card={"stain": entry})
    with open_slide(path, mpp=0.5) as slide:
        table = plan_work(slide, model, RunConfig(adapt=True, quiet=True)).stain_map.table[0]
    back = np.zeros_like(table)
    for c in range(3):
        assert len(np.unique(table[: dim.max() + 1, c])) == dim.max() + 1  # it can be undone
        back[table[: dim.max() + 1, c], c] = np.arange(dim.max() + 1)

    def undone(images):
        return darkness.network(np.stack([back[images[..., c], c] for c in range(3)], -1))

    plain = objects_of(run(path, tmp_path / "plain", darkness, mpp=0.5))
    blind = dataclasses.replace(model, network=undone)
    adapted = run(path, tmp_path / "adapted", blind, mpp=0.5, adapt=True)
    assert adapted.summary["adaptation"]["gain"] is not None
    assert same(objects_of(adapted), plain) and np.isfinite(plain.features[OD_MEAN]).all()


@pytest.mark.parametrize("value", [30, 128, 250])
def test_an_empty_slide_keeps_its_pixels(model, tmp_path, value, caplog):
    path = written(tmp_path, np.full((400, 300, 3), value, np.uint8))
    result = run(path, tmp_path, model, mpp=0.5, adapt=True, quiet=False)
    record = result.summary["adaptation"]
    assert record["density"] is None and record["new_glass"] is None and record["gain"] is None
    assert "slide.png: too little stain to estimate" in caplog.text


BROKEN = (
    {},
    {"glass": [[1, 2, 3], [4, 5, 6]]},
    {"glass": [[9] * 3, [8] * 3], "density": [1, 2]},
    {"glass": [[7] * 3, [8] * 3], "density": [0, 1]},
    {"glass": [[7] * 3, [8] * 3], "density": [[1] * 3, [2] * 3]},
)


@pytest.mark.parametrize("entry", [None, *BROKEN])
def test_a_model_without_a_range_is_refused_before_anything_is_written(
    darkness, pale, tmp_path, entry
):
    card = {"stain": entry} if entry is not None else {}
    with pytest.raises(ConfigError, match=r"the card of darkness has .*leave out --adapt"):
        bad = dataclasses.replace(darkness, card=card)
        run(pale, tmp_path / "out", bad, mpp=0.5, adapt=True)
    assert not (tmp_path / "out").exists()
