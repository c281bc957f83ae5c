"""Slide: windows, levels, crops and pixel sizes are the same whatever is asked for."""

import pickle
from dataclasses import replace

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from small_slides import LOSSLESS, NOISE, one_line, slopes, write_pyramid

from wsi_pipeline.core.errors import (
    MppError,
    SlideReadError,
)
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.pixel_size import Mpp
from wsi_pipeline.core.request import SlideRequest
from wsi_pipeline.slides import slide as slide_module
from wsi_pipeline.slides.slide import Slide, open_slide


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory):
    """Three levels whose sizes are odd, so that downsamples are not whole numbers."""
    return write_pyramid(tmp_path_factory.mktemp("slides") / "pyramid.tiff", slopes(1107, 1301))


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    return write_pyramid(tmp_path_factory.mktemp("slides") / "noise.tiff", NOISE)


@pytest.fixture
def declared(monkeypatch):
    """Lets OpenSlide report more properties than the file has."""
    real = openslide.OpenSlide.properties.fget

    def declare(**properties):
        extra = {f"openslide.{name.replace('_', '-')}": text for name, text in properties.items()}
        monkeypatch.setattr(
            openslide.OpenSlide, "properties", property(lambda self: {**real(self), **extra})
        )

    return declare


# ── geometry ──────────────────────────────────────────────────────────────────────────────────


def test_a_slide_has_the_header_of_its_file(pyramid):
    with open_slide(pyramid) as slide:
        assert (slide.slide_id, slide.reader, slide.vendor) == (
            "pyramid",
            "openslide",
            "generic-tiff",
        )
        assert (slide.width, slide.height) == (1301, 1107)
        assert [(level.width, level.height) for level in slide.levels] == [
            (1301, 1107),
            (650, 553),
            (325, 276),
        ]
        assert slide.levels[1].downsample == pytest.approx(2.0016, abs=1e-3)
        assert slide.require_mpp().value == pytest.approx(0.25)
        assert slide.mpp.source == "metadata"
        assert slide.bounds == Box(0, 0, 1301, 1107)
        assert (slide.background, slide.notes) == ((255, 255, 255), ())


@given(x=st.integers(-80, 720), y=st.integers(-80, 550), w=st.integers(0, 90), h=st.integers(0, 90))
def test_windows_reach_outside_into_background(noise, x, y, w, h):
    padded = np.pad(NOISE, ((100, 200), (100, 200), (0, 0)), constant_values=255)
    with open_slide(noise) as slide:
        pixels = slide.read_region(Box(x, y, x + w, y + h))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, padded[y + 100 :, x + 100 :][:h, :w], strict=True)


def test_a_box_that_ends_before_it_starts_is_refused(noise):
    with open_slide(noise) as slide, pytest.raises(ValueError, match="ends before"):
        slide.read_region(Box(5, 0, 4, 9))


@pytest.mark.parametrize("cropped", [False, True])
@given(
    scale=st.sampled_from([1.0, 2.0, 2.002, 4.0, 3.999, 0.998]) | st.floats(0.4, 9),
    corner=st.tuples(st.integers(-4, 140), st.integers(-4, 140)),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    level=st.integers(0, 2),
)
def test_a_pixel_has_one_value_whatever_the_window(pyramid, cropped, scale, corner, size, level):
    (x, y), (w, h) = corner, size
    with open_slide(pyramid) as slide:
        if cropped:
            slide = crop(slide, Box(37, 21, 1202, 1001))
        big = slide.read_scaled(Box(-4, -4, 180, 180), scale)
        small = slide.read_scaled(Box(x, y, x + w, y + h), scale)
        np.testing.assert_array_equal(small, big[y + 4 :, x + 4 :][:h, :w], strict=True)
        # Around 512, where the chunks of a level meet.
        around, box = Box(480, 480, 700, 700), Box(480 + x, 480 + y, 480 + x + w, 480 + y + h)
        big = slide.read_region(around, level)
        inside = box.clip(around)
        small = slide.read_region(inside, level)
        x0, y0 = inside.x0 - 480, inside.y0 - 480
        np.testing.assert_array_equal(
            small, big[y0 : y0 + inside.height, x0 : x0 + inside.width], strict=True
        )


def crop(slide, bounds):
    """The same slide as if the file had declared these bounds."""
    reader = slide._reader
    reader.header = replace(reader.header, bounds=bounds)
    return Slide(slide.path, reader, mpp=None, crop=True)


def test_boxes_too_large_to_hold_are_read_in_parts(noise, monkeypatch):
    with open_slide(noise) as slide:
        whole = slide.read_scaled(Box(-3, 0, 120, 90), 5.7)
        monkeypatch.setattr(slide_module, "MAX_WINDOW_PX", 1000)
        np.testing.assert_array_equal(slide.read_scaled(Box(-3, 0, 120, 90), 5.7), whole)
        assert slide.read_scaled(Box(0, 0, 1, 1), 500.0).shape == (1, 1, 3)


@pytest.mark.parametrize("bounds", [None, Box(37, 21, 1202, 1001)])
@pytest.mark.parametrize("scale", [1.0, 1.3, 2.0, 2.1, 4.02, 6.5])
def test_pixels_are_where_they_belong(pyramid, bounds, scale):
    with open_slide(pyramid) as slide:
        if bounds:
            slide = crop(slide, bounds)
        n = int(900 / scale)
        rgb = slide.read_scaled(Box(5, 5, n, n), scale)
        # Red and green give the position in the file's level 0 of each pixel.
        middle = (np.arange(5, n) + 0.5) * scale - 0.5
        slack = 1.01 + slide.levels[-1].downsample / 8
        assert np.abs(rgb[..., 0] - (middle + slide.bounds.x0) / 8).max() < slack
        assert np.abs(rgb[..., 1] - (middle + slide.bounds.y0)[:, None] / 8).max() < slack


def test_scale_one_copies_and_two_takes_the_matching_level(noise):
    with open_slide(noise) as slide:
        box = Box(30, 40, 90, 80)
        np.testing.assert_array_equal(slide.read_scaled(box, 1.0), slide.read_region(box))
    with pytest.raises(ValueError, match="scale"), open_slide(noise) as slide:
        slide.read_scaled(box, 0.0)


def test_outside_is_background_before_the_filter(tmp_path):
    path = write_pyramid(tmp_path / "black.tiff", np.zeros((128, 128, 3), np.uint8), levels=1)
    with open_slide(path) as slide:
        row = slide.read_scaled(Box(-2, 30, 3, 31), 2.0)[0, :, 0]
    # Weights 1 3 3 1 over 8: the pixels at the edge share one source pixel with the other side.
    assert row.tolist() == [255, 223, 32, 0, 0]


def test_thumbnail(pyramid):
    with open_slide(pyramid) as slide:
        rgb, downsample = slide.thumbnail(100)
        assert rgb.shape == (86, 100, 3)
        assert downsample == pytest.approx(13.01)
        assert rgb[40, 50, 0] == pytest.approx(50.5 * 13.01 / 8, abs=1.5)
        assert rgb[40, 50, 1] == pytest.approx(40.5 * 13.01 / 8, abs=1.5)
        rgb, downsample = slide.thumbnail(5000)
        assert (rgb.shape, downsample) == ((1107, 1301, 3), 1.0)


def test_bounds_crop_the_slide(noise, declared):
    declared(bounds_x="101", bounds_y="50", bounds_width="400", bounds_height="300")
    declared_bounds = Box(101, 50, 501, 350)
    with open_slide(noise) as slide:
        assert (slide.width, slide.height, slide.bounds) == (400, 300, declared_bounds)
        assert (slide.levels[1].width, slide.levels[1].height) == (200, 150)
        pixels = slide.read_region(Box(-1, 0, 400, 301))
        assert (pixels[:, 0] == 255).all()
        assert (pixels[-1] == 255).all()
        np.testing.assert_array_equal(pixels[:300, 1:], NOISE[50:350, 101:501])
        level = slide.read_region(Box(0, 0, 200, 150), 1)
    with open_slide(noise, crop=False) as slide:
        assert (slide.width, slide.height, slide.bounds.x0) == (701, 533, 0)
        corner = round(101 / slide.levels[1].downsample), round(50 / slide.levels[1].downsample)
        x, y = corner
        np.testing.assert_array_equal(slide.read_region(Box(x, y, x + 200, y + 150), 1), level)


def test_bounds_outside_of_the_canvas_are_ignored(noise, declared):
    declared(bounds_x="900", bounds_y="0", bounds_width="10", bounds_height="nonsense")
    with open_slide(noise) as slide:
        assert slide.bounds == Box(0, 0, 701, 533)


def test_background_colour(noise, declared):
    declared(background_color="0A141E")
    with open_slide(noise) as slide:
        assert slide.background == (10, 20, 30)
        assert slide.read_region(Box(-5, -5, -4, -4)).tolist() == [[[10, 20, 30]]]


def test_dask_reads_the_same(noise):
    with open_slide(noise) as slide:
        for level in (0, 1):
            lazy = slide.to_dask(level, chunk_px=200)
            size = slide.levels[level]
            assert lazy.shape == (size.height, size.width, 3)
            assert lazy.dtype == np.uint8
            whole = slide.read_region(Box(0, 0, size.width, size.height), level)
            np.testing.assert_array_equal(lazy.compute(scheduler="threads"), whole)
            np.testing.assert_array_equal(lazy[17:300:3, 190, 1].compute(), whole[17:300:3, 190, 1])
        assert slide.to_dask().name == slide.to_dask().name != slide.to_dask(1).name


def test_a_slide_pickles_as_its_path_and_options(noise, declared):
    declared(bounds_x="1", bounds_y="2", bounds_width="30", bounds_height="40")
    with open_slide(SlideRequest(noise, 0.3, "slide sheet"), crop=False) as slide:
        copy = pickle.loads(pickle.dumps(slide))
        with copy:
            assert (copy.mpp, copy.bounds, copy.notes) == (slide.mpp, slide.bounds, slide.notes)
            box = Box(0, 0, 50, 60)
            np.testing.assert_array_equal(copy.read_region(box), slide.read_region(box))


# ── pixel size ────────────────────────────────────────────────────────────────────────────────


def test_a_given_pixel_size_wins_and_leaves_a_note(noise):
    of_sheet = SlideRequest(noise, 0.5, "slide sheet")
    for request, mpp, source in ((noise, 0.5, "--mpp"), (of_sheet, 0.7, "slide sheet")):
        with open_slide(request, mpp=mpp) as slide:
            assert slide.require_mpp() == Mpp(0.5, 0.5, source)
            assert slide.notes == (f"{source} 0.5 used instead of the file's 0.25",)
    with pytest.raises(MppError, match="250 µm") as error:
        open_slide(noise, mpp=250)
    one_line(error)


def test_a_resolution_for_print_is_no_pixel_size(tmp_path):
    path = write_pyramid(tmp_path / "print.tiff", NOISE, levels=1, mpp=25400 / 300)
    with open_slide(path) as slide:
        assert slide.mpp is None
        assert "84.6667" in slide.notes[0]
        with pytest.raises(MppError) as error:
            slide.require_mpp()
        assert one_line(error) == "print.tiff has no pixel size; give --mpp, e.g. --mpp 0.25"


@pytest.mark.parametrize(
    ("x", "y", "word"),
    [
        ("0", "0", "not 0.02 to 20"),
        ("499", "499", "not 0.02 to 20"),
        ("nan", "1", "not 0.02 to 20"),
        ("0.25", "0.3", "sq"),
    ],
)
def test_absurd_pixel_sizes_open_but_are_refused_when_needed(tmp_path, declared, x, y, word):
    path = tmp_path / "aperio.svs"
    tifffile.imwrite(path, NOISE, description="Aperio x\r\n|AppMag = 40", metadata=None, **LOSSLESS)
    declared(mpp_x=x, mpp_y=y)
    with open_slide(path) as slide:
        assert slide.vendor == "aperio"
        with pytest.raises(MppError, match=word) as error:
            slide.require_mpp()
        assert "--mpp" in one_line(error)
    with open_slide(path, mpp=0.25) as slide:
        assert slide.require_mpp().value == 0.25


def test_a_read_after_close_is_an_error(noise):
    with open_slide(noise) as slide:
        pass
    with pytest.raises(SlideReadError, match="closed"):
        slide.read_region(Box(0, 0, 1, 1))
