"""Measurements that are made again: those of a run, and optical density of what is inside."""

import numpy as np
import pytest
import shapely
from families import linked
from small_slides import LOSSLESS
from tifffile import imwrite

from wsi_pipeline.segmentation import measure_again as again
from wsi_pipeline.slides.slide import open_slide


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize("block", [7, 1024])
def test_optical_density_is_that_of_the_pixels_inside(tmp_path, monkeypatch, scale, block):
    monkeypatch.setattr(again, "BLOCK_PX", block)
    image = np.full((60, 80, 3), 255, np.uint8)
    image[10:20, 20:40], image[30:50, 60:80] = 51, 102
    imwrite(tmp_path / "a.tif", image, **LOSSLESS)
    boxes = [(4, 4, 70, 58), (20, 10, 40, 20), (20, 4, 40, 16), (60, 30, 80, 50), (70, 30, 90, 50),
             (0.2, 0.2, 0.4, 0.4)]  # fmt: skip
    objects = linked([shapely.box(*b) for b in boxes], ["cell"] + ["nucleus"] * 5, [-1] + [0] * 5)
    with open_slide(tmp_path / "a.tif") as slide:
        found = again.optical_density(objects, slide, scale)
        dark, pale = np.log10(255 / 51), np.log10(255 / 102)
        expected = [np.nan, dark, dark / 2, pale, pale / 2, np.nan]
        blurred = 1e-5 if scale == 1 else 0.15  # the filter mixes pixels at the borders
        np.testing.assert_allclose(found, expected, rtol=blurred)
        measured = again.measure_again(objects, 0.5, slide=slide, model_mpp=scale / 2)
    np.testing.assert_array_equal(measured.features[again.OD_MEAN], found)
    assert measured.features["Nucleus: Area µm^2"][1] == 50
    assert measured.features["Cell: Nuclei"][0] == 5
