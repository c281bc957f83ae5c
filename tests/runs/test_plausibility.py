"""Warnings that slide, pixel size and result do not fit each other."""

import json
import logging

import cv2
import numpy as np
import pytest
from wsiseg_models.training.coco import read_image

from wsi_pipeline import RunConfig, model_from_function, open_slide, run_slide
from wsi_pipeline.runs.plausibility import look_warnings, size_warnings
from wsi_pipeline.runs.work_plan import read_overview
from wsi_pipeline.synthetic.placement import plan_slide
from wsi_pipeline.synthetic.svs_writer import write_slide

ALL = np.ones((512, 512), np.bool_)


def field(path, side=512):
    return cv2.resize(read_image(path), (side, side), interpolation=cv2.INTER_AREA)


def slide_warnings(path):
    with open_slide(path, mpp=0.25) as slide:
        return read_overview(slide).warnings()


@pytest.mark.parametrize("factor", [0.3, 0.5, 0.7, 1.0, 1.3, 2.0, 4.0])
def test_a_wrong_pixel_size_is_named_with_the_one_that_fits(factor):
    areas = np.random.default_rng(0).lognormal(np.log(42), 0.3, 500)
    found = size_warnings(areas * factor**2, 0.25 * factor)
    assert bool(found) == (not 20 < np.median(areas) * factor**2 < 80)
    if found:
        assert "--mpp 0.25" in found[0] or "--mpp 0.26" in found[0] or "--mpp 0.24" in found[0]


def test_few_nuclei_give_no_warning():
    assert size_warnings(np.full(29, 3.0), 0.25) == []
    assert size_warnings(np.zeros(0), 0.25) == []


def test_dark_and_inverted_pictures_are_no_bright_field():
    rng = np.random.default_rng(1)
    bright = np.full((512, 512, 3), 235, np.uint8)
    for x, y in rng.integers(20, 490, (60, 2)):
        cv2.circle(bright, (int(x), int(y)), 15, (140, 190, 200), -1)
        cv2.circle(bright, (int(x), int(y)), 6, (120, 90, 150), -1)
    assert look_warnings(bright, ALL) == []
    for picture in (255 - bright, bright // 4, np.zeros_like(bright)):
        assert "bright field" in look_warnings(picture, ALL)[0]


HEMATOXYLIN_EOSIN = ("nucls_samples",)
CYTOLOGY = ("cric_fields", "bttfa_lbc", "ccagt_samples")


@pytest.mark.parametrize("side", [512, pytest.param(128, marks=pytest.mark.slow)])
def test_stains_of_real_fields(shared, side):
    """Every field in H&E gives the warning, and none of cytology, whatever the size."""
    everywhere = np.ones((side, side), np.bool_)
    for name in HEMATOXYLIN_EOSIN + CYTOLOGY:
        fields = sorted((shared / name / "images").glob("*"))
        found = [bool(look_warnings(field(path, side), everywhere)) for path in fields]
        assert found == [name in HEMATOXYLIN_EOSIN] * len(fields), name


def test_tissue_with_blood_and_grey_fields(shared):
    """Fields that had no part in setting the limits."""
    for start in ("4193474b2f", "8f27ebc741"):
        (path,) = (shared / "dsb2018_subset" / "images").glob(f"{start}*")
        assert "H&E" in look_warnings(field(path), ALL)[0]
    for path in sorted((shared / "isbi2014" / "edf").glob("*"))[:4]:
        assert look_warnings(field(path), ALL) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "TCGA-CR-7395-01A-01-TS1.svs"])
def test_real_slides_of_tissue(shared, name):
    assert "H&E" in slide_warnings(shared / "slides" / "files" / name)[0]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [11, 12])
@pytest.mark.parametrize("look", ["plain", "real"])
def test_generated_smears_look_like_smears(tmp_path, look, seed):
    path = tmp_path / "smear.svs"
    write_slide(path, plan_slide(1536, 1536, seed=seed, look=look))
    assert slide_warnings(path) == []


def test_a_run_records_its_warnings(slide_path, tmp_path, caplog):
    def squares(image):
        labels = np.zeros(image.shape[:2], np.int32)
        for number, (y, x) in enumerate(np.ndindex(*(side // 20 for side in labels.shape))):
            labels[20 * y + 5 : 20 * y + 13, 20 * x + 5 : 20 * x + 13] = number + 1
        return labels

    model = model_from_function(squares, name="squares", mpp=2.0)
    with caplog.at_level(logging.WARNING):
        config = RunConfig(
            out=tmp_path, mpp=2.0, min_area_um2=0, min_score=0, foreground="all", quiet=True
        )
        result = run_slide(slide_path, config, model=model)
    record = json.loads((result.folder / "run.json").read_text("utf-8"))
    assert any("--mpp" in text for text in record["warnings"])
    assert any("--mpp" in text for text in caplog.messages)
