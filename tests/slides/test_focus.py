"""Laws of the focus score: blur lowers it; light, stain and glass do not count."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from wsi_pipeline.slides.detect_foreground import find_foreground
from wsi_pipeline.slides.focus import BLURRED, measure_focus, sharpness
from wsi_pipeline.slides.slide import open_slide


@pytest.fixture(scope="module")
def pixels(slide_path):
    with open_slide(slide_path) as slide:
        return slide.read_region(slide.bounds)


def focus_of(pixels, path):
    cv2.imwrite(str(path), pixels[..., ::-1])
    with open_slide(path, mpp=0.5) as slide:
        thumbnail, downsample = slide.thumbnail()
        kept = find_foreground(thumbnail, downsample, slide.width, slide.height)
        return measure_focus(slide, kept)


def test_blur_lowers_focus_and_light_does_not(pixels, tmp_path):
    path = tmp_path / "slide.png"
    blurred = [focus_of(cv2.GaussianBlur(pixels, (0, 0), s), path) for s in (0.5, 1, 1.5, 2, 3, 5)]
    sharp = focus_of(pixels, path)
    scores = [focus.score for focus in (sharp, *blurred)]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(scores)
    assert sharp.fields == 9
    assert sharp.blurred_share == 0
    assert blurred[-1].blurred_share == 1
    assert scores[0] > 0.8 > BLURRED > scores[-1] > 0.25
    for light in (0.6, 0.8, 1.05):
        dimmed = np.clip(np.round(pixels * light), 0, 255).astype(np.uint8)
        assert focus_of(dimmed, path).score == pytest.approx(sharp.score, rel=0.03)


def test_contrast_does_not_count_as_focus(pixels):
    field = pixels[:256, :256]
    density = np.log((field.astype(float) + 1) / 256)
    for strength in (0.5, 0.75):  # a weaker stain
        faint = np.round(np.exp(density * strength) * 256 - 1).astype(np.uint8)
        assert sharpness(faint) == pytest.approx(sharpness(field), rel=0.1)


def test_a_step_is_sharp_and_glass_is_nothing():
    step = np.full((256, 256, 3), 230, np.uint8)
    step[:, 128:] = 60
    assert sharpness(step) == pytest.approx(1, abs=0.05)
    noise = np.random.default_rng(0).normal(230, 2, (256, 256, 3)).round().astype(np.uint8)
    assert sharpness(noise) is None
    assert sharpness(step[:20]) is None


def test_coarse_pixels_have_no_focus(slide_path):
    with open_slide(slide_path, mpp=1.0) as slide:
        kept = find_foreground(*slide.thumbnail(), slide.width, slide.height, mode="all")
        focus = measure_focus(slide, kept)
    assert (focus.score, focus.fields) == (None, 0)
    assert "coarser" in focus.note
