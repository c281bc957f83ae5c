"""Slides: every reader gives the same pixels, and every error is one line."""

import pickle
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wsi_pipeline.core.errors import (
    MppError,
    SlideError,
    SlideFormatError,
    SlideNotFoundError,
    SlideReadError,
)
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.pixel_size import Mpp
from wsi_pipeline.core.request import SlideRequest
from wsi_pipeline.slides import slide as slide_module
from wsi_pipeline.slides.slide import Slide, open_slide

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (533, 701, 3), dtype=np.uint8)
LOSSLESS = {"tile": (64, 64), "compression": "adobe_deflate", "photometric": "rgb"}


def slopes(height, width):
    """Red says x and green says y, a grey for every 8 pixels."""
    y, x = np.mgrid[:height, :width] / 8
    return np.round(np.stack([x, y, 0 * x], axis=2)).astype(np.uint8)


def halve(rgb):
    h, w = rgb.shape[0] // 2, rgb.shape[1] // 2
    return rgb[: 2 * h, : 2 * w].reshape(h, 2, w, 2, 3).mean((1, 3)).round().astype(np.uint8)


def write_pyramid(path, rgb, levels=3, mpp=0.25, **options):
    with tifffile.TiffWriter(path) as tiff:
        for level in range(levels):
            resolution = (1e4 / mpp / 2**level,) * 2
            tiff.write(
                rgb,
                subfiletype=int(level > 0),
                resolution=resolution,
                resolutionunit="CENTIMETER",
                metadata=None,
                **{**LOSSLESS, **options},
            )
            rgb = halve(rgb)
    return path


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


def say(error):
    text = str(error.value)
    assert "\n" not in text
    return text


# ── geometry ──────────────────────────────────────────────────────────────────────────────────


def test_what_a_slide_says_about_itself(pyramid):
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
        # Red and green tell the place in the file's level 0 where a pixel was taken from.
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


def test_bounds_outside_of_the_canvas_are_not_believed(noise, declared):
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
    say(error)


def test_a_resolution_for_print_is_no_pixel_size(tmp_path):
    path = write_pyramid(tmp_path / "print.tiff", NOISE, levels=1, mpp=25400 / 300)
    with open_slide(path) as slide:
        assert slide.mpp is None
        assert "84.6667" in slide.notes[0]
        with pytest.raises(MppError) as error:
            slide.require_mpp()
        assert say(error) == "print.tiff has no pixel size; give --mpp, e.g. --mpp 0.25"


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
        assert "--mpp" in say(error)
    with open_slide(path, mpp=0.25) as slide:
        assert slide.require_mpp().value == 0.25


# ── other formats ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "adobe_deflate", "lzw"])
@pytest.mark.parametrize("layout", [{"tile": (64, 48)}, {"rowsperstrip": 40}, {}])
@pytest.mark.parametrize("planar", [False, True])
def test_tiff_of_any_layout_gives_the_same_pixels(tmp_path, planar, layout, compression, byteorder):
    path = tmp_path / "slide.ome.tif"
    tifffile.imwrite(
        path,
        np.moveaxis(NOISE, 2, 0) if planar else NOISE,
        photometric="rgb",
        planarconfig="separate" if planar else "contig",
        compression=compression,
        byteorder=byteorder,
        predictor=compression == "lzw",
        metadata={"axes": "SYX" if planar else "YXS"},
        **layout,
    )
    with open_slide(path) as slide:
        assert (slide.slide_id, slide.reader) == ("slide", "tifffile")
        assert (slide.width, slide.height) == (701, 533)
        for box in (Box(0, 0, 701, 533), Box(130, 61, 400, 130), Box(695, 525, 701, 533)):
            expected = NOISE[box.y0 : box.y1, box.x0 : box.x1]
            np.testing.assert_array_equal(slide.read_region(box), expected)


@pytest.mark.parametrize(("size", "unit"), [(0.25, "µm"), (250, "nm"), (0.00025, "mm")])
def test_ome_tiff_pyramid_and_pixel_size(tmp_path, size, unit):
    path = tmp_path / "a.slide.ome.tiff"
    metadata = {"axes": "YXS"} | {
        f"PhysicalSize{axis}{end}": value
        for axis in "XY"
        for end, value in (("", size), ("Unit", unit))
    }
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(NOISE, subifds=1, metadata=metadata, **LOSSLESS)
        tiff.write(halve(NOISE), subfiletype=1, **LOSSLESS)
    with open_slide(path) as slide:
        assert (slide.slide_id, slide.reader, slide.vendor) == ("a.slide", "tifffile", "ome")
        assert slide.require_mpp().value == pytest.approx(0.25)
        level = slide.levels[1]
        assert (level.width, level.height) == (350, 266)
        np.testing.assert_array_equal(
            slide.read_region(Box(0, 0, 350, 266), 1),
            halve(NOISE),
        )
        big = slide.read_scaled(Box(0, 0, 200, 150), 3.3)
        np.testing.assert_array_equal(
            slide.read_scaled(Box(33, 20, 90, 80), 3.3), big[20:80, 33:90]
        )


def read_tiff(path, pixels, **options):
    tifffile.imwrite(path, pixels, **options)
    with open_slide(path) as slide:
        assert slide.reader == "tifffile"
        return slide.read_region(Box(0, 0, slide.width, slide.height))


def test_grey_16_bit_alpha_stacks_and_channels(tmp_path):
    path, grey = tmp_path / "x.tif", NOISE[..., 0]
    as_rgb = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(read_tiff(path, grey, photometric="minisblack"), as_rgb)
    np.testing.assert_array_equal(read_tiff(path, 255 - grey, photometric="miniswhite"), as_rgb)
    np.testing.assert_array_equal(read_tiff(path, grey.astype("u2") * 257), as_rgb)
    np.testing.assert_array_equal(
        read_tiff(path, NOISE.astype("u2") * 257, photometric="rgb"), NOISE
    )
    np.testing.assert_array_equal(
        read_tiff(path, grey > 99, photometric="minisblack") > 0, as_rgb > 99
    )
    rgba = np.concatenate([NOISE, NOISE[..., :1]], axis=2)
    alpha = rgba[..., 3:] / 255
    composed = read_tiff(path, rgba, photometric="rgb", extrasamples=["unassalpha"])
    assert np.abs(composed - (NOISE * alpha + 255 * (1 - alpha))).max() <= 0.501
    colours = RNG.integers(0, 65536, (3, 256), dtype=np.uint16)
    palette = read_tiff(path, grey, photometric="palette", colormap=colours)
    np.testing.assert_array_equal(palette, (colours.T >> 8)[grey])

    path = tmp_path / "x.ome.tif"
    stack = np.stack([grey // 4, grey // 2, grey, grey // 3, grey // 5])
    options = {"photometric": "minisblack", "compression": "zlib"}
    np.testing.assert_array_equal(
        read_tiff(path, stack, metadata={"axes": "ZYX"}, **options), as_rgb
    )
    channels = np.moveaxis(NOISE, 2, 0)
    np.testing.assert_array_equal(
        read_tiff(path, channels, metadata={"axes": "CYX"}, **options), NOISE
    )
    path = tmp_path / "imagej.tif"
    fiji = {"imagej": True, "resolution": (4, 4), "metadata": {"axes": "ZYX", "unit": "um"}}
    np.testing.assert_array_equal(read_tiff(path, stack, **fiji), as_rgb)
    with open_slide(path) as slide:
        assert slide.require_mpp().value == pytest.approx(0.25)


def test_tiles_that_were_never_written_are_white(tmp_path):
    path = tmp_path / "sparse.ome.tif"
    tiles = (None if number == 1 else np.full((64, 64, 3), 7, np.uint8) for number in range(4))
    tifffile.imwrite(path, tiles, shape=(100, 128, 3), dtype=np.uint8, **LOSSLESS)
    with open_slide(path) as slide:
        assert slide.reader == "tifffile"
        pixels = slide.read_region(Box(0, 0, 128, 100))
    assert (pixels[:64, 64:] == 255).all()
    assert (pixels[64:] == 7).all()


@pytest.mark.parametrize(
    ("pixels", "axes"),
    [
        (np.zeros((4, 50, 60), np.uint8), "CYX"),
        (np.zeros((3, 50, 60), np.uint16), "CYX"),
        (np.zeros((50, 60), np.float32), "YX"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path, pixels, axes):
    path = tmp_path / "fluorescence.ome.tif"
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata={"axes": axes})
    with pytest.raises(SlideFormatError, match=f"tifffile: .*{pixels.dtype}") as error:
        open_slide(path)
    assert "RGB" in say(error)


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "jpg"])
def test_plain_images(tmp_path, suffix):
    path = tmp_path / f"plain.{suffix}"
    Image.fromarray(slopes(200, 300)).save(path, dpi=(72, 72), lossless=True, quality=100)
    with open_slide(path) as slide:
        assert (slide.reader, slide.width, slide.height, slide.mpp) == ("image", 300, 200, None)
        pixels = slide.read_region(Box(-2, 10, 50, 60)).astype(int)
        glass = np.percentile(slopes(200, 300), 90, axis=(0, 1))
        assert np.abs(slide.background - glass).max() <= 2
        assert (pixels[:, :2] == slide.background).all()
        slack = 4 if suffix == "jpg" else 0
        assert np.abs(pixels[:, 2:] - slopes(200, 300)[10:60, :50]).max() <= slack


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "I;16", "1"])
def test_png_modes(tmp_path, mode):
    path = tmp_path / "x.png"
    if mode == "P":
        image = Image.new("P", (2, 1), 0)
        image.putpalette([9, 8, 7, 1, 2, 3])
        image.putpixel((1, 0), 1)
        image.save(path, transparency=0)
        expected = [[[255, 255, 255], [1, 2, 3]]]
    elif mode == "I;16":
        Image.fromarray(np.array([[0, 257, 65535]], np.uint16)).save(path)
        expected = [[[0] * 3, [1] * 3, [255] * 3]]
    elif mode == "1":
        Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1").save(path)
        expected = [[[0] * 3, [255] * 3]]
    else:
        Image.fromarray(np.array([[[9, 9, 9, 0], [9, 9, 9, 255]]], np.uint8)).convert(mode).save(
            path
        )
        expected = [[[255] * 3, [9] * 3]]
    with open_slide(path) as slide:
        assert slide.read_region(Box(0, 0, slide.width, slide.height)).tolist() == expected


def write_png_header(path, width, height):
    chunks = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
            (b"IDAT", b""),
        )
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


def test_absurd_images_are_refused_before_memory_is_taken(tmp_path):
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(SlideFormatError, match="60000 x 60000") as error:
        open_slide(write_png_header(tmp_path / "absurd.png", 60000, 60000))
    assert "pyramidal" in say(error)
    with pytest.raises(SlideFormatError, match="is damaged"):
        open_slide(write_png_header(tmp_path / "cut.png", 12000, 16000))  # above Pillow's limit
    assert limit == Image.MAX_IMAGE_PIXELS


# ── damage ────────────────────────────────────────────────────────────────────────────────────


def test_missing_directory_empty_text(tmp_path):
    with pytest.raises(SlideNotFoundError, match=r"gone\.svs does not exist") as error:
        open_slide(tmp_path / "gone.svs")
    say(error)
    with pytest.raises(SlideFormatError, match="directory") as error:
        open_slide(tmp_path)
    say(error)
    path = tmp_path / "x.svs"
    path.touch()
    with pytest.raises(SlideFormatError, match="empty") as error:
        open_slide(path)
    say(error)
    path.write_text("not\na\nslide\n" * 99)
    with pytest.raises(SlideFormatError, match=r"openslide: .*tifffile: .*image: ") as error:
        open_slide(path)
    say(error)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("kind", ["tiff", "ome.tif", "png", "jpg"])
def test_truncated_files_fail_in_one_line(tmp_path, noise, kind, share):
    path = tmp_path / f"cut.{kind}"
    if kind == "tiff":
        path.write_bytes(noise.read_bytes())
    elif kind == "ome.tif":
        tifffile.imwrite(path, NOISE, compression="zlib", rowsperstrip=50, metadata={"axes": "YXS"})
    else:
        Image.fromarray(NOISE).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises((SlideFormatError, SlideReadError)) as error, open_slide(path) as slide:
        slide.read_region(Box(0, 0, slide.width, slide.height))
    assert "cut" in say(error)


def break_tile(path, x, y):
    """Overwrite the first page's tile or strip at a pixel."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        if page.is_tiled:
            index = y // page.tilelength * -(-page.imagewidth // page.tilewidth)
            index += x // page.tilewidth
        else:
            index = y // page.rowsperstrip
        start, size = page.dataoffsets[index], page.databytecounts[index]
    with path.open("r+b") as file:
        file.seek(start)
        file.write(bytes(size))


@pytest.mark.parametrize(
    ("name", "options", "reader"),
    [
        ("jpeg.tiff", {"compression": "jpeg"}, "openslide"),
        ("jpeg.ome.tif", {"compression": "jpeg"}, "tifffile"),
        ("strips.tif", {"tile": None, "rowsperstrip": 64, "compression": "lzw"}, "tifffile"),
    ],
)
def test_a_broken_tile_costs_only_its_own_read(tmp_path, name, options, reader):
    path = tmp_path / name
    metadata = {"axes": "YXS"} if ".ome." in name else None
    tifffile.imwrite(path, NOISE, **{**LOSSLESS, **options}, metadata=metadata)
    with open_slide(path) as slide:
        good = slide.read_region(Box(0, 0, 300, 64))
    break_tile(path, 400, 70)
    with open_slide(path) as slide:
        assert slide.reader == reader
        for _ in range(2):
            with pytest.raises(SlideReadError, match=f"{name}: x 390–410, y 60–80 of lev") as error:
                slide.read_region(Box(390, 60, 410, 80))
            say(error)
            np.testing.assert_array_equal(slide.read_region(Box(0, 0, 300, 64)), good)

        def read(number):
            if number % 3:
                return (slide.read_region(Box(0, 0, 300, 64)) == good).all()
            with pytest.raises(SlideReadError):
                slide.read_region(Box(390, 60, 410, 80))
            return True

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(read, range(40)))


def test_a_closed_slide_says_so(noise):
    with open_slide(noise) as slide:
        pass
    with pytest.raises(SlideReadError, match="closed"):
        slide.read_region(Box(0, 0, 1, 1))


# ── real files ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def real(shared):
    """The folder of the real slides."""
    return shared / "slides" / "files"


def test_real_files_are_read_or_refused_in_one_line(real):
    files = sorted(real.iterdir())
    assert files
    for path in files:
        try:
            with open_slide(path) as slide:
                rgb, downsample = slide.thumbnail(256)
                longest = max(slide.width, slide.height)
                assert max(rgb.shape[:2]) == round(longest / downsample) <= 256, path.name
                corner = slide.read_region(Box(-1, -1, 9, 9))
                assert corner.shape == (10, 10, 3)
                assert (corner[0] == slide.background).all(), path.name
                slide.require_mpp()
        except SlideError as error:
            assert "\n" not in str(error)
            assert path.name in str(error)
            assert path.name != "CMU-1-Small-Region.svs"


def test_real_aperio_slides(real):
    with open_slide(real / "CMU-1-Small-Region.svs") as slide:
        assert (slide.width, slide.height, slide.vendor) == (2220, 2967, "aperio")
        assert slide.require_mpp() == Mpp(0.499, 0.499, "metadata")
        box = Box(1000, 900, 1200, 1000)
        expected = tifffile.imread(slide.path, series=0)[900:1000, 1000:1200].astype(int)
        # Two JPEG decoders differ a little.
        assert np.abs(slide.read_region(box) - expected).mean() < 2
    with open_slide(real / "TCGA-CR-7395-01A-01-TS1.svs") as slide:
        assert len(slide.levels) == 2
        with pytest.raises(MppError, match=r"TS1\.svs has no pixel size; give --mpp"):
            slide.require_mpp()
        # Level 1 is used from a scale of 1.9985 on; below it the same picture comes from level 0.
        fine = slide.read_scaled(Box(900, 700, 1100, 900), 1.9984).astype(float)
        coarse = slide.read_scaled(Box(898, 698, 1102, 902), 1.9986)
        misfit = {
            (x, y): np.abs(fine - coarse[y : y + 200, x : x + 200]).mean()
            for x in range(5)
            for y in range(5)
        }
        assert min(misfit, key=misfit.__getitem__) == (2, 2)


def test_real_damaged_slide(real):
    with (
        open_slide(real / "openslide_unreadable.svs") as slide,
        pytest.raises(SlideReadError, match="x 0–16, y 0–16") as error,
    ):
        slide.read_region(Box(0, 0, 16, 16))
    say(error)
