"""Readers: every format gives the same pixels, and every fault of a file is one line."""

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
from PIL import Image
from small_slides import LOSSLESS, NOISE, RNG, halve, one_line, slopes, write_pyramid

from wsi_pipeline.core.errors import (
    MppError,
    SlideError,
    SlideFormatError,
    SlideNotFoundError,
    SlideReadError,
)
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.pixel_size import Mpp
from wsi_pipeline.slides.slide import open_slide


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    return write_pyramid(tmp_path_factory.mktemp("slides") / "noise.tiff", NOISE)


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
def test_files_without_an_rgb_image_are_refused(tmp_path, pixels, axes):
    path = tmp_path / "fluorescence.ome.tif"
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata={"axes": axes})
    with pytest.raises(SlideFormatError, match=f"tifffile: .*{pixels.dtype}") as error:
        open_slide(path)
    assert "RGB" in one_line(error)


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
    assert "pyramidal" in one_line(error)
    with pytest.raises(SlideFormatError, match="cannot hold"):
        open_slide(write_png_header(tmp_path / "cut.png", 12000, 16000))  # above Pillow's limit
    assert limit == Image.MAX_IMAGE_PIXELS


# ── damage ────────────────────────────────────────────────────────────────────────────────────


def test_a_missing_file_a_folder_an_empty_file_and_text_are_refused(tmp_path):
    with pytest.raises(SlideNotFoundError, match=r"gone\.svs does not exist") as error:
        open_slide(tmp_path / "gone.svs")
    one_line(error)
    with pytest.raises(SlideFormatError, match="is a folder") as error:
        open_slide(tmp_path)
    one_line(error)
    path = tmp_path / "x.svs"
    path.touch()
    with pytest.raises(SlideFormatError, match="empty") as error:
        open_slide(path)
    one_line(error)
    path.write_text("not\na\nslide\n" * 99)
    with pytest.raises(SlideFormatError, match=r"openslide: .*tifffile: .*image: ") as error:
        open_slide(path)
    one_line(error)


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
    assert "cut" in one_line(error)


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
            one_line(error)
            np.testing.assert_array_equal(slide.read_region(Box(0, 0, 300, 64)), good)

        def read(number):
            if number % 3:
                return (slide.read_region(Box(0, 0, 300, 64)) == good).all()
            with pytest.raises(SlideReadError):
                slide.read_region(Box(390, 60, 410, 80))
            return True

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(read, range(40)))


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
    one_line(error)
