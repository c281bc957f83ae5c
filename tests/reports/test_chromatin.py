"""Laws of what is measured in the pixels of a nucleus, on painted nuclei."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import shapely

from wsi_pipeline.reports.chromatin import chromatin
from wsi_pipeline.reports.crops import Crop

GLASS = SimpleNamespace(background=(240, 240, 240))
DISC = shapely.Point(40, 40).buffer(16)


def painted(*, nucleus=90, cell=200, blur=0.5, grain=0.0, hole=0):
    image = np.full((80, 80), cell, np.float32)
    cv2.circle(image, (40, 40), 16, nucleus, -1)
    noise = cv2.GaussianBlur(
        np.random.default_rng(0).normal(size=(80, 80)).astype(np.float32), (0, 0), 1.5
    )
    image += grain * noise
    cv2.circle(image, (40, 40), hole, cell, -1) if hole else None
    image = cv2.GaussianBlur(image, (0, 0), blur)
    pixels = np.dstack([np.clip(image, 1, 255).astype(np.uint8)] * 3)
    return Crop(pixels, 0, 0, 1.0, 0.25)


def measured(**how):
    return chromatin(painted(**how), DISC, GLASS)


def test_a_darker_nucleus_has_more_contrast():
    found = [measured(nucleus=value).contrast for value in (180, 130, 80)]
    assert found == sorted(found)
    assert abs(found[1] - np.log10(200 / 130)) < 0.02


def test_coarser_chromatin_has_more_texture():
    found = [measured(grain=value).texture for value in (0, 30, 90)]
    assert found == sorted(found)
    assert found[2] > 3 * found[0]


def test_a_blurred_nucleus_has_a_wider_edge():
    found = [measured(blur=value).edge_um for value in (0.5, 2, 4)]
    assert found == sorted(found)
    assert found[2] > 1.5 * found[0]


def test_light_parts_show():
    assert measured(hole=8).lightest < 0.3
    assert measured().lightest > 0.9


def test_a_nucleus_of_few_pixels_is_unknown():
    small = chromatin(painted(), shapely.Point(40, 40).buffer(2), GLASS)
    assert np.isnan(small).all()
