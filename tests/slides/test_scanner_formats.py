"""Formats of scanners: our reader gives OpenSlide's pixels, each one, and its scanned area."""

import numpy as np
import openslide
import pytest
from vendor_slides import TILE, halves, noise, write_bif, write_mrxs, write_scn

from wsi_pipeline.core.errors import SlideReadError
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.slides.slide import open_slide

FIRST, SECOND = noise(256, 320, 1), noise(192, 128, 2)
MOSAIC = noise(TILE * 8, TILE * 8, 3)
AREAS = [(0, 0, 3, 2, 0, 0), (3, 2, 2, 2, 260, 300)]
EMPTY = {(0, x, y) for x in range(8) for y in range(8) if x in (0, 1) or y > 5 or (x, y) == (4, 3)}


def scn(folder, **more):
    areas = [(halves(FIRST, 2), (100, 60)), (halves(SECOND, 2), (440, 260))]
    return write_scn(folder / "x.scn", (600, 500), areas, **more)


def bif(folder, **more):
    return write_bif(folder / "x.bif", MOSAIC, AREAS, **more)


def mrxs(folder, **more):
    few = {(1, 0, y) for y in range(0, 8, 2)} | {(2, 0, 4)}
    return write_mrxs(folder / "x.mrxs", MOSAIC, missing=EMPTY | few, **more)


def overlapping(folder):
    return mrxs(folder, overlap=(8, 4))


def places():
    """Where the stage stopped for each image: not quite where it should."""
    stage = np.random.default_rng(4).integers(-3, 4, (8, 8, 2))
    places = [(x * 58 + 5 + dx, y * 60 + 4 + dy) for y in range(8) for x, (dx, dy) in
              enumerate(stage[y].tolist())]  # fmt: skip
    return places


def placed(folder, kind="JPEG"):
    """Images at the places of a file of positions."""
    return mrxs(folder, overlap=(6, 4), kind=kind, places=places())


def assert_equals_openslide(path, crops=(True, False)):
    """Compare every pixel of every level, with and without the crop."""
    with openslide.OpenSlide(path) as theirs:
        colour = theirs.properties.get("openslide.background-color", "FFFFFF")
        background = np.array([int(colour[i : i + 2], 16) for i in (0, 2, 4)])
        for crop in crops:
            with open_slide(path, crop=crop) as ours:
                assert (ours.reader, ours.vendor) == (
                    "openslide", theirs.properties["openslide.vendor"],
                )  # fmt: skip
                for k, level in enumerate(ours.levels):
                    step = theirs.level_downsamples[k]
                    for box in Box(0, 0, level.width, level.height).cut(level.width, 512):
                        corner = [
                            round((round(start / step) + own) * step)
                            for start, own in (
                                (ours.bounds.x0, box.x0), (ours.bounds.y0, box.y0),
                            )
                        ]  # fmt: skip
                        stored = np.asarray(theirs.read_region(corner, k, (box.width, box.height)))
                        found = ours.read_region(box, k)
                        if (stored[..., 3] == 255).all():
                            np.testing.assert_array_equal(found, stored[..., :3])
                            continue
                        alpha = stored[..., 3:] / 255
                        expected = stored[..., :3] * alpha + background * (1 - alpha)
                        solid = np.isin(stored[..., 3], (0, 255))
                        np.testing.assert_array_equal(found[solid], expected[solid])
                        assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("write", [scn, bif, mrxs, overlapping, placed])
def test_pixels_are_those_of_openslide(tmp_path, write):
    assert_equals_openslide(write(tmp_path))


def test_leica_areas_lie_where_they_were_scanned(tmp_path):
    with open_slide(scn(tmp_path)) as slide:
        assert slide.vendor == "leica"
        assert slide.bounds == Box(100, 60, 568, 452)
        assert [level.downsample for level in slide.levels] == [1, 2]
        assert slide.require_mpp().value == pytest.approx(0.25)
        np.testing.assert_array_equal(slide.read_region(Box(0, 0, 320, 256)), FIRST)
        np.testing.assert_array_equal(slide.read_region(Box(340, 200, 468, 392)), SECOND)
        half = slide.read_region(Box(0, 0, 160, 128), 1)
        np.testing.assert_array_equal(half, FIRST[::2, ::2])
        assert (slide.read_region(Box(320, 0, 468, 200)) == 255).all()  # between the areas


def test_ventana_tiles_are_moved_together(tmp_path):
    with open_slide(bif(tmp_path)) as slide:
        assert slide.vendor == "ventana"
        assert slide.require_mpp().value == pytest.approx(0.465)
        assert [level.downsample for level in slide.levels] == [1, 2, 4]
        for (x, y), (left, top) in {(0, 300): (0, 0), (260, 0): (3, 2)}.items():
            found = slide.read_region(Box(x, y, x + 2 * TILE - 4, y + TILE - 6))
            row = MOSAIC[top * TILE :][: TILE - 6]
            np.testing.assert_array_equal(
                found[:, : TILE - 4], row[:, left * TILE :][:, : TILE - 4]
            )
            second = row[:, (left + 1) * TILE :][:, 4 : TILE - 4]
            np.testing.assert_array_equal(found[:, TILE : 2 * TILE - 8], second)
        assert (slide.read_region(Box(0, 0, 100, 100)) == 255).all()  # beside the areas


def test_mirax_images_that_are_missing_have_the_fill_colour(tmp_path):
    with open_slide(mrxs(tmp_path)) as slide:
        assert slide.vendor == "mirax"
        assert slide.background == (0xD0, 0xE0, 0xF0)
        assert slide.bounds == Box(2 * TILE, 0, 8 * TILE, 6 * TILE)
        expected = MOSAIC[: 6 * TILE, 2 * TILE :].copy()
        expected[3 * TILE : 4 * TILE, 2 * TILE : 3 * TILE] = slide.background
        whole = Box(0, 0, slide.width, slide.height)
        np.testing.assert_array_equal(slide.read_region(whole), expected)


def test_mirax_images_lie_where_the_file_of_positions_states(tmp_path):
    with open_slide(placed(tmp_path, "PNG"), crop=False) as slide:
        for column, row in ((2, 0), (5, 2), (7, 4)):
            x, y = places()[row * 8 + column]
            found = slide.read_region(Box(x + 20, y + 20, x + 40, y + 40))
            image = MOSAIC[row * TILE :, column * TILE :]
            np.testing.assert_array_equal(found, image[20:40, 20:40])


@pytest.mark.parametrize("write", [scn, bif])
def test_a_tile_without_data_is_an_error_there_alone(tmp_path, write):
    path = write(tmp_path, missing=(1,))
    with open_slide(path, crop=False) as slide:
        x, y = (100, 60) if write is scn else (0, 300)
        with pytest.raises(SlideReadError, match="cannot be read"):
            slide.read_region(Box(x + TILE + 9, y + 9, x + TILE + 19, y + 19))
        box = Box(x, y, x + 20, y + 20)
        picture = FIRST if write is scn else MOSAIC
        np.testing.assert_array_equal(slide.read_region(box), picture[:20, :20])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["slideio_dapi.ndpi", "slideio_tritc.ndpi"])
def test_real_hamamatsu_slides(shared, name):
    assert_equals_openslide(shared / "slides" / "files" / name, crops=(True,))
