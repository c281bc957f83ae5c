"""Warnings that slide, pixel size and result do not fit each other."""

import json
import logging

import cv2
import numpy as np
import pytest
from wsiseg_models.training.coco import read_image

from wsi_pipeline import RunConfig, model_from_function, run_slide
from wsi_pipeline.runs.plausibility import look_warnings, size_warnings

ALL = np.ones((512, 512), np.bool_)


def field(path):
    image = read_image(path)
    return cv2.resize(image, (512, 512), interpolation=cv2.INTER_AREA)


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
        cv2.circle(bright, (int(x), int(y)), 9, (120, 90, 150), -1)
    assert look_warnings(bright, ALL) == []
    for picture in (255 - bright, bright // 4, np.zeros_like(bright)):
        assert "bright field" in look_warnings(picture, ALL)[0]


def test_stains_of_real_fields(shared):
    """Pap fields give no warning, but for the few that are as pink and as dense; H&E all do."""
    for name, least, most in (
        ("cric_fields", 0, 0), ("bttfa_lbc", 0, 0.03), ("nucls_samples", 1, 1),
    ):  # fmt: skip
        fields = sorted((shared / name / "images").glob("*"))
        share = np.mean([bool(look_warnings(field(path), ALL)) for path in fields])
        assert least <= share <= most, (name, share)


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
