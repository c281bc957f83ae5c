"""Measurements of stain, texture and neighbours: those of scikit-image, the same in any block."""

from dataclasses import replace

import numpy as np
import pytest
import shapely
from families import families, linked
from skimage.color import separate_stains
from skimage.feature import graycomatrix, graycoprops
from small_slides import LOSSLESS, NOISE
from tifffile import imwrite

from wsi_pipeline.core.errors import DataError
from wsi_pipeline.core.objects import is_cell
from wsi_pipeline.segmentation import extended_features as extended
from wsi_pipeline.segmentation import pixel_features as pixels
from wsi_pipeline.slides.slide import open_slide

RNG = np.random.default_rng(4)
IMAGE = RNG.integers(60, 256, (19, 23, 3), dtype=np.uint8)
USED = RNG.random((19, 23)) < 0.7
DENSITY = -np.log10(IMAGE / 255.0)


def measure(image, used, step_px=2):
    table = pixels.density_table((255, 255, 255))
    found = pixels.measure_pixels(image, used, table, pixels.glcm_steps(step_px), pixels.unmixing())
    return dict(zip(pixels.COLUMNS, found, strict=True))


def test_stains_are_those_of_scikit_image():
    amounts = DENSITY.reshape(-1, 3) @ pixels.unmixing()
    # scikit-image divides densities by ln(1e-6), and sets what is below 0 to 0.
    theirs = separate_stains(IMAGE, pixels.unmixing()).reshape(-1, 3)
    ratio = theirs[theirs > 1e-4] / amounts[theirs > 1e-4]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)
    found = measure(IMAGE, USED)
    for k, name in enumerate(pixels.CHANNELS[:3]):
        values = amounts[USED.ravel(), k]
        expected = [values.mean(), values.std(), values.min(), values.max()]
        np.testing.assert_allclose([found[f"{name} {s}"] for s in pixels.STATISTICS], expected)
    assert found["OD mean"] == pytest.approx(DENSITY.mean(2)[USED].mean())


@pytest.mark.parametrize("step", [1, 2, 3])
def test_texture_is_that_of_scikit_image(step):
    level = np.clip(DENSITY.mean(2) * pixels.LEVELS / pixels.OD_RANGE, 0, pixels.LEVELS - 1)
    marked = np.where(USED, level.astype(np.uint8) + 1, 0).astype(np.uint8)
    angles = np.arange(4) * np.pi / 4
    pairs = graycomatrix(marked, [step], angles, levels=pixels.LEVELS + 1, symmetric=True)
    pairs = pairs[1:, 1:].sum(3, keepdims=True)
    theirs = [graycoprops(pairs, p)[0, 0] for p in
              ("ASM", "contrast", "correlation", "homogeneity", "entropy")]  # fmt: skip
    found = measure(IMAGE, USED, step)
    np.testing.assert_allclose([found[name] for name in pixels.TEXTURES], theirs, rtol=1e-9)


def test_what_has_no_pixel_or_no_pair_is_nan():
    assert np.isnan(list(measure(IMAGE, np.zeros_like(USED)).values())).all()
    one = np.zeros_like(USED)
    one[3, 4] = True
    found = measure(IMAGE, one)
    assert found["OD std dev"] == 0 and found["OD min"] == found["OD max"]
    assert np.isnan([found[name] for name in pixels.TEXTURES]).all()


def slide_with(path, image):
    imwrite(path, image, **LOSSLESS)
    return open_slide(path)


@pytest.mark.parametrize("mpp", [0.25, 0.4, 1.0])
def test_the_result_does_not_depend_on_the_blocks(tmp_path, monkeypatch, mpp):
    objects = families(3)
    with slide_with(tmp_path / "a.tif", NOISE[:260, :260]) as slide:
        whole = extended.extended_features(objects, slide, mpp)
        monkeypatch.setattr(extended, "BLOCK_PX", 11)
        parts = extended.extended_features(objects, slide, mpp)
    assert list(whole.features) == [*objects.features, *(n for n in whole.features
                                                         if n in extended.EXTENDED)]  # fmt: skip
    assert set(extended.EXTENDED) <= set(whole.features)
    for name, column in whole.features.items():
        np.testing.assert_array_equal(column, parts.features[name], err_msg=name)


def test_overlapped_pixels_count_as_stated(tmp_path):
    image = np.full((60, 90, 3), 255, np.uint8)
    image[:, 0:30], image[:, 30:40], image[:, 40:70] = 51, 102, 204
    boxes = [(0, 0, 40, 50), (30, 0, 70, 50), (10, 10, 20, 20), (35, 10, 45, 20), (40, 10, 50, 20)]
    kinds = ["cell", "cell", "nucleus", "nucleus", "nucleus"]
    objects = linked([shapely.box(*b) for b in boxes], kinds, [-1, -1, 0, 1, -1])
    with slide_with(tmp_path / "a.tif", image) as slide:
        found = extended.extended_features(objects, slide, 0.5).features
    dark, middle, pale = (-np.log10(v / 255) for v in (51, 102, 204))
    nan = np.nan
    # The nucleus of the second cell covers 5 px of the first one, and 5 px of the last nucleus.
    expected = {
        "Cytoplasm: OD mean": [dark, pale, nan, nan, nan],
        "Cytoplasm: OD max": [dark, pale, nan, nan, nan],
        "Cytoplasm: Measured share": [(1500 - 100) / (2000 - 150), (1500 - 100) / (2000 - 150)],
        "Nucleus: OD min": [nan, nan, dark, middle, pale],
        "Nucleus: OD max": [nan, nan, dark, middle, pale],
        "Nucleus: Covered share": [nan, nan, 0, 0.5, 1],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name][: len(values)], values, atol=1e-6, err_msg=name)


def test_neighbours_are_those_of_a_search_by_hand():
    objects = families(5, 20)
    found = extended.neighbours(objects, 0.5)
    rows = np.flatnonzero(~is_cell(objects))
    middle = shapely.get_coordinates(shapely.centroid(objects.polygons()[rows])) * 0.5
    apart = np.hypot(*(middle[:, None] - middle).transpose(2, 0, 1))
    np.fill_diagonal(apart, np.inf)
    nearest, around = found.values()
    np.testing.assert_allclose(nearest[rows], apart.min(1), rtol=1e-6)
    np.testing.assert_array_equal(around[rows], (apart <= extended.RADIUS_UM).sum(1))
    assert np.isnan(nearest[is_cell(objects)]).all()
    alone = extended.neighbours(objects.take(rows[:1]), 0.5)
    assert np.isnan(alone[extended.NEAREST][0]) and alone[extended.WITHIN][0] == 0


def test_boxes_are_refused(tmp_path):
    objects = families(1)
    objects = replace(objects, features={"Box: Width µm": np.ones(len(objects), np.float32)})
    with (
        slide_with(tmp_path / "a.tif", NOISE[:200, :200]) as slide,
        pytest.raises(DataError, match="outlines"),
    ):
        extended.extended_features(objects, slide, 0.5)
