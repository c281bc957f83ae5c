"""Laws of sorted nuclei: a kind depends on the nucleus and what is around it, and on nothing else.

Nobody else's result changes: without kinds, objects are those of the same run.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from cheap_models import make_darkness
from wsiseg_models.kinds.crops import CROP_PX, nucleus_crops

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import OutputError
from wsi_pipeline.formats.geoparquet import read_parquet
from wsi_pipeline.pipeline import run_slide
from wsi_pipeline.reports.slide_summary import summarise
from wsi_pipeline.runs import work_plan
from wsi_pipeline.segmentation.kinds import (
    ABNORMAL,
    KIND_CLASSES,
    NOT_CELLS,
    KindSorter,
    decide,
    reach_of_kinds,
)


def exact_kinds(crops):
    """Probabilities from whole numbers: every pixel of a crop counts, and none is rounded."""
    weight = np.arange(1, crops[0].size + 1).reshape(crops.shape[1:]) % 251
    total = (crops.astype(np.int64) * weight).sum((1, 2, 3))
    parts = np.stack([total // d % 97 + 1 for d in (1, 97, 9409, 912673)], 1).astype(np.float32)
    return parts / parts.sum(1, keepdims=True)


@pytest.fixture(scope="module")
def sorting():
    """The cheap model with enough context, which also sorts its nuclei."""
    plain = dataclasses.replace(make_darkness(), halo_px=reach_of_kinds(0.5))
    return dataclasses.replace(
        plain, classes=KIND_CLASSES, sorter=KindSorter(exact_kinds, plain.mpp)
    )


def run(path, out, model, **changes):
    settings = {"out": out, "foreground": "all", "quiet": True, "tile_px": 384, "kinds": True}
    return run_slide(path, RunConfig(**settings | changes), model=model)


def sorted_objects(result):
    objects = read_parquet(result.folder / "objects.parquet")
    return objects.take(np.lexsort(objects.ids.T))


@pytest.fixture(scope="module")
def reference(slide_path, sorting, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work_plan, "REGION_PX", 4096)
        return run(slide_path, tmp_path_factory.mktemp("whole"), sorting, workers=1)


@pytest.mark.parametrize("region", [128, 264, 640])
def test_how_the_work_is_cut_up_does_not_show(
    slide_path, sorting, reference, tmp_path, monkeypatch, region
):
    whole = sorted_objects(reference)
    assert {KIND_CLASSES[k] for k in whole.class_index} == set(KIND_CLASSES)
    monkeypatch.setattr(work_plan, "REGION_PX", region)
    cut = sorted_objects(run(slide_path, tmp_path, sorting, tile_px=256))
    for name in ("ids", "class_index", "score", "coords"):
        assert np.array_equal(getattr(cut, name), getattr(whole, name)), name
    assert np.array_equal(cut.features[ABNORMAL], whole.features[ABNORMAL])


def test_sorting_changes_nothing_but_classes(slide_path, darkness, reference, tmp_path):
    plain, whole = sorted_objects(run(slide_path, tmp_path, darkness)), sorted_objects(reference)
    for name in ("ids", "score", "coords"):
        assert np.array_equal(getattr(plain, name), getattr(whole, name))
    assert ABNORMAL not in plain.features
    assert all(np.array_equal(v, whole.features[k], equal_nan=True) for k, v in
               plain.features.items())  # fmt: skip


def test_sorted_and_plain_results_are_not_mixed(slide_path, sorting, darkness, tmp_path):
    run(slide_path, tmp_path, darkness)
    with pytest.raises(OutputError, match="another kinds"):
        run(slide_path, tmp_path, sorting)


def test_leukocytes_and_debris_are_no_nuclei_of_cells(reference):
    objects = sorted_objects(reference)
    kinds = np.array(objects.classes)[objects.class_index]
    row = summarise(reference.folder)
    cells = ~np.isin(kinds, list(NOT_CELLS))
    assert 0 < cells.sum() < len(kinds)
    assert row["objects"] == len(kinds) and row["nuclei"] == row["adequacy_count"] == cells.sum()
    assert row["leukocytes"] == (kinds == "leukocyte").sum()
    assert row["abnormal_nuclei"] == (kinds == "abnormal nucleus").sum()
    assert row["other_objects"] == (kinds == "other").sum()
    density = cells.sum() / row["foreground_area_mm2"]
    assert row["nuclei_per_mm2"] == pytest.approx(density, rel=1e-5)


def test_a_nucleus_is_normal_unless_another_class_reaches_its_limit():
    rng = np.random.default_rng(0)
    probability = rng.dirichlet(np.ones(4), 2000).astype(np.float32)
    limits = (0.0, 0.3, 0.6, 0.45)
    called = decide(probability, limits)
    assert set(called) == {0, 1, 2, 3}
    for p, k in zip(probability, called, strict=True):
        reached = [j for j in (1, 2, 3) if p[j] >= np.float32(limits[j])]
        assert k == max(reached, key=lambda j: p[j], default=0)
    strict = decide(probability, (0.0, 0.3, 0.6, 0.9))
    assert (strict == 3).sum() < (called == 3).sum()
    assert np.array_equal(strict[called != 3], called[called != 3])


@pytest.mark.parametrize("mpp", [0.25, 0.4, 0.5, 0.7])
def test_a_crop_moves_with_its_nucleus(mpp):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (400, 400, 3), np.uint8)
    labels = np.zeros((400, 400), np.int32)
    labels[190:203, 197:215], labels[203:206, 200:210] = 3, 9
    centre = np.array([[206, 197]])
    crop = nucleus_crops(image, labels, np.array([3]), centre, mpp=mpp)
    assert crop.shape == (1, CROP_PX, CROP_PX, 4)
    moved = nucleus_crops(
        np.roll(image, (5, -7), (0, 1)), np.roll(labels, (5, -7), (0, 1)), np.array([3]),
        centre + np.array([-7, 5]), mpp=mpp,
    )  # fmt: skip
    assert np.array_equal(crop, moved)
    um2 = (crop[..., 3] / 255).sum() * 0.5**2
    assert um2 == pytest.approx((labels == 3).sum() * mpp**2, rel=0.1)  # its own mask alone


def test_beyond_the_border_the_image_is_mirrored():
    image = np.random.default_rng(0).integers(0, 256, (70, 70, 3), np.uint8)
    labels = np.zeros((70, 70), np.int32)
    labels[0:5, 0:5] = 1
    (crop,) = nucleus_crops(image, labels, np.array([1]), np.array([[2, 2]]), mpp=0.5)
    half = CROP_PX // 2
    assert np.array_equal(crop[half - 2 :, half - 2 :, :3], image[: half + 2, : half + 2])
    assert np.array_equal(crop[half - 2 - 7, half - 2 :, :3], image[7, : half + 2])
    assert (crop[..., 3] > 0).sum() == 25
