"""Direct decoding gives OpenSlide's pixels and OpenSlide's errors, whatever is in the file."""

import io
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from wsi_pipeline.core.errors import SlideReadError
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.slides.fast_tiff import FastTiffReader
from wsi_pipeline.slides.openslide_reader import OpenSlideReader
from wsi_pipeline.slides.readers import Refusal
from wsi_pipeline.slides.slide import open_slide

RNG = np.random.default_rng(5)
APERIO = "Aperio x\r\n|MPP = 0.5"
END = b"\xff\xd9"


def mottled(height, width):
    """Stains of all sizes, so that tiles differ in bytes and hold codes of all lengths."""
    rgb = np.zeros((height, width, 3))
    for step in (1, 5, 40):
        coarse = RNG.normal(0, 30, (height // step + 1, width // step + 1, 3))
        rgb += coarse.repeat(step, 0).repeat(step, 1)[:height, :width]
    rgb[: height // 3, : width // 2] = 60  # glass
    return np.clip(170 + rgb, 0, 255).astype(np.uint8)


PICTURE = mottled(520, 700)


def encode(pixels, quality=75, **options):
    options = {"subsampling": "4:2:0", **options}
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, **options)
    return file.getvalue()


def cut(pixels, tile):
    """Tiles row by row; the last ones are filled up."""
    h, w = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -h % tile), (0, -w % tile), (0, 0)), "edge")
    return [
        padded[y : y + tile, x : x + tile] for y in range(0, h, tile) for x in range(0, w, tile)
    ]


def split(jpeg):
    """Quantisation and Huffman tables as a stream of their own, and the JPEG without them."""
    at, tables, rest = 2, b"", b""
    while jpeg[at + 1] != 0xDA:
        size = 2 + int.from_bytes(jpeg[at + 2 : at + 4])
        if jpeg[at + 1] in (0xDB, 0xC4):
            tables += jpeg[at : at + size]
        else:
            rest += jpeg[at : at + size]
        at += size
    return jpeg[:2] + tables + END, jpeg[:2] + rest + jpeg[at:]


def write(path, *levels, tile=64, encode=encode, description=APERIO, shared=False, rgb=False):
    """Tiled JPEG, one page per level; `rgb` sets the tag only."""
    with tifffile.TiffWriter(path) as tiff:
        for number, pixels in enumerate(levels):
            tiles, tables = [encode(p) for p in cut(pixels, tile)], None
            if shared:
                tables, tiles = split(tiles[0])[0], [split(t)[1] for t in tiles]
            tiff.write(
                iter(tiles),
                shape=pixels.shape,
                dtype=np.uint8,
                tile=(tile, tile),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"outcolorspace": "rgb"} if rgb else None,
                jpegtables=tables,
                subfiletype=int(number > 0),
                description=description,
                metadata=None,
            )
    return path


def halve(rgb):
    h, w = rgb.shape[:2]
    return rgb.reshape(h // 2, 2, w // 2, 2, 3).mean((1, 3)).astype(np.uint8)


def pyramid(path, **options):
    return write(path, PICTURE, halve(PICTURE), **options)


def change_tag(path, name, change):
    """Overwrite the offsets or byte counts of the first page's tiles."""
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tag = tiff.pages[0].tags[name]
        tag.overwrite(tuple(change(tag.value)))


def random_boxes(level, count):
    """Boxes of a level: a single pixel, a large one, and others of all places and sizes."""
    w, h = level.width, level.height
    yield Box(w - 1, h - 1, w, h)
    yield Box(max(0, w - 800), max(0, h - 700), w, h)
    for _ in range(count):
        x, y = RNG.integers(w), RNG.integers(h)
        yield Box(x, y, min(w, x + RNG.integers(1, 400)), min(h, y + RNG.integers(1, 400)))


def outcome(reader, level, box):
    """The pixels, or the message of the error."""
    try:
        return reader.read(level, box)
    except openslide.OpenSlideError as error:
        return str(error)


def assert_as_openslide(path, direct, count=25):
    """All boxes equal those of OpenSlide; `direct`: which levels were read without it."""
    behind, alone = OpenSlideReader(path), OpenSlideReader(path)
    reader = FastTiffReader(path, behind)
    asked = []
    behind.read = lambda level, box: asked.append(level) or alone.read(level, box)
    for level, entry in enumerate(reader.header.levels):
        for box in random_boxes(entry, count):
            expected = outcome(alone, level, box)
            np.testing.assert_array_equal(outcome(reader, level, box), expected, strict=True)
    assert set(range(len(direct))) - set(asked) == {n for n, own in enumerate(direct) if own}
    assert len(direct) == len(reader.header.levels)
    reader.close()
    alone.close()


# ── equality ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("tile", [64, 240, 256])
@pytest.mark.parametrize("sampling", ["4:2:0", "4:2:2", "4:4:4"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("description", [APERIO, None])
def test_tiles_equal_those_of_openslide(tmp_path, tile, sampling, shared, description):
    part = PICTURE[:262, :350]  # of the glass and of the stains
    path = write(
        tmp_path / "x.tiff",
        part,
        halve(part),
        tile=tile,
        shared=shared,
        description=description,
        encode=lambda pixels: encode(pixels, subsampling=sampling),
    )
    assert_as_openslide(path, [True, True], count=6)


@pytest.mark.parametrize("tag", ["rgb", "ycbcr"])
@pytest.mark.parametrize("stored", ["rgb", "ycbcr"])
def test_colours_follow_the_tag_as_in_openslide(tmp_path, tag, stored):
    """OpenSlide follows the tag; it reads the file where the marker of the JPEG differs."""
    path = pyramid(
        tmp_path / "x.tiff",
        rgb=tag == "rgb",
        encode=lambda pixels: encode(pixels, subsampling=0, keep_rgb=stored == "rgb"),
    )
    if tag == stored:
        assert_as_openslide(path, [True, True])
    with open_slide(path) as slide:
        assert slide.decoder == ("direct" if tag == stored else "openslide")
        error = slide.read_region(Box(0, 0, 700, 520)).astype(int) - PICTURE
        assert (np.abs(error).mean() < 30) == (tag == stored)


@pytest.mark.parametrize("layout", [{"tile": 64}, {"tile": 256, "shared": True}])
def test_levels_of_fractional_downsample_are_read_by_openslide(tmp_path, layout):
    path = write(tmp_path / "x.tiff", PICTURE, PICTURE[:260, :349], PICTURE[:65, :87], **layout)
    assert_as_openslide(path, [True, False, False])


def test_generated_slides_are_decoded_directly(slide_path):
    with open_slide(slide_path) as slide:
        assert (slide.reader, slide.decoder) == ("openslide", "direct")
        direct = [level.downsample.is_integer() for level in slide.levels]
    assert_as_openslide(slide_path, direct)


def test_real_slides(shared):
    files = shared / "slides/files"
    assert_as_openslide(files / "CMU-1-Small-Region.svs", [True])
    assert_as_openslide(files / "TCGA-CR-7395-01A-01-TS1.svs", [True, False], count=5)


@pytest.mark.parametrize("pread", [True, False], ids=["pread", "no pread"])
def test_a_slide_pickles_and_reads_from_many_threads(tmp_path, monkeypatch, pread):
    if not pread:  # as on Windows
        monkeypatch.delattr(os, "pread")
    path = pyramid(tmp_path / "x.svs")
    boxes = list(random_boxes(Box(0, 0, 700, 520), 30))
    with open_slide(path) as slide, pickle.loads(pickle.dumps(slide)) as copy:
        assert copy.decoder == "direct"
        alone = [slide.read_region(box) for box in boxes]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(copy.read_region, boxes))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


# ── what is left to OpenSlide ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "options", [{"progressive": True}, {"optimize": True}, {"restart_marker_blocks": 3}]
)
def test_other_kinds_of_jpeg_equal_those_of_openslide(tmp_path, options):
    path = pyramid(tmp_path / "x.tiff", encode=lambda pixels: encode(pixels, **options))
    assert_as_openslide(path, [True, True])


def test_files_without_jpeg_are_left_to_openslide(tmp_path):
    path = tmp_path / "x.tiff"
    tifffile.imwrite(path, PICTURE, tile=(64, 64), compression="zlib", metadata=None)
    grey = tmp_path / "grey.tiff"
    tifffile.imwrite(grey, PICTURE[..., 0], tile=(64, 64), compression="jpeg", metadata=None)
    for file in (path, grey):
        with open_slide(file) as slide:
            assert (slide.reader, slide.decoder) == ("openslide", "openslide")


@pytest.mark.parametrize("vendor", ["philips", "leica", "ventana", "trestle", "hamamatsu"])
def test_vendors_with_a_geometry_of_their_own_are_left_to_openslide(tmp_path, vendor):
    behind = OpenSlideReader(pyramid(tmp_path / "x.svs"))
    behind.header = replace(behind.header, vendor=vendor)
    with pytest.raises(Refusal, match=vendor):
        FastTiffReader(tmp_path / "x.svs", behind)


@pytest.mark.parametrize("wrong", [0, 1])
def test_one_wrong_bit_in_a_sampled_tile_leaves_the_level_to_openslide(tmp_path, wrong):
    path = pyramid(tmp_path / "x.svs")
    behind, alone = OpenSlideReader(path), OpenSlideReader(path)

    def read(level, box):
        pixels = alone.read(level, box)
        pixels[-1, -1, 2] ^= level == wrong
        return pixels

    behind.read = read
    if wrong == 0:
        with pytest.raises(Refusal, match="level 0"):
            FastTiffReader(path, behind)
        return
    reader = FastTiffReader(path, behind)
    box = Box(0, 0, 70, 70)
    for level in (0, 1):
        np.testing.assert_array_equal(reader.read(level, box), read(level, box))
        assert (reader.read(level, box) != alone.read(level, box)).sum() == level
    reader.close()


def test_a_tile_may_have_tables_of_its_own(tmp_path):
    number = iter(range(1000))
    path = pyramid(
        tmp_path / "x.svs", encode=lambda pixels: encode(pixels, optimize=next(number) == 0)
    )
    assert_as_openslide(path, [True, True])


def test_a_tile_with_a_marker_of_its_own_is_read_by_openslide(tmp_path):
    number = iter(range(1000))
    path = pyramid(
        tmp_path / "x.svs",
        encode=lambda pixels: encode(pixels, subsampling=0, keep_rgb=next(number) == 0),
    )
    assert_as_openslide(path, [False, True])  # level 0 is read directly but for that tile
    with open_slide(path) as slide:
        assert slide.decoder == "direct"


def test_pages_of_one_size_are_told_apart(tmp_path):
    """Planes of a z-stack are levels to OpenSlide in Aperio's format; tifffile reads others."""
    path = write(tmp_path / "x.tiff", PICTURE, PICTURE[::-1], PICTURE[:, ::-1], description=APERIO)
    assert len(OpenSlideReader(path).header.levels) == 3
    assert_as_openslide(path, [True] * 3)
    path = write(tmp_path / "y.tiff", PICTURE, PICTURE[::-1], description=None)
    with pytest.raises(Refusal, match="as large"):
        OpenSlideReader(path)


def test_associated_images_are_no_levels(tmp_path):
    path = tmp_path / "x.svs"
    with tifffile.TiffWriter(path) as tiff:
        options = {"photometric": "rgb", "compression": "jpeg", "metadata": None}
        tile = {"tile": (64, 64), **options}
        tiff.write(PICTURE, description=APERIO, **tile)
        tiff.write(halve(PICTURE), description="Aperio x\r\nthumbnail", rowsperstrip=64, **options)
        tiff.write(halve(PICTURE), subfiletype=1, description=APERIO, **tile)
        tiff.write(PICTURE, subfiletype=9, description="Aperio\r\nmacro", **options)
    assert_as_openslide(path, [True, True])


# ── gaps and damage ───────────────────────────────────────────────────────────────────────────


def test_gaps_are_filled_by_openslide(tmp_path):
    path = pyramid(tmp_path / "x.svs")
    with open_slide(path) as slide:
        own = slide.read_region(Box(0, 0, 64, 64), 1)
    change_tag(path, "TileByteCounts", lambda old: [0, *old[1:]])
    assert_as_openslide(path, [False, False])
    with open_slide(path) as slide:
        assert slide.decoder == "direct"
        assert (slide.read_region(Box(0, 0, 64, 64)) == 255).all()
        # OpenSlide leaves out the tile of level 1 that covers the gap.
        assert (slide.read_region(Box(0, 0, 64, 64), 1) != own).any()
        np.testing.assert_array_equal(
            slide.read_region(Box(64, 0, 128, 64)),
            slide._reader._behind.read(0, Box(64, 0, 128, 64)),
        )


def test_a_file_of_nothing_but_gaps(tmp_path):
    path = write(tmp_path / "x.svs", PICTURE)
    change_tag(path, "TileByteCounts", lambda old: [0] * len(old))
    with open_slide(path) as slide:
        assert slide.decoder == "openslide"
        assert (slide.read_region(Box(0, 0, 99, 99)) == 255).all()


@pytest.mark.parametrize("shared", [False, True])
def test_a_damaged_tile_gives_the_pixels_or_the_error_of_openslide(tmp_path, shared):
    """Bits, bytes and ends of a tile that change: the same pixels, or the same error."""
    path = write(tmp_path / "x.svs", PICTURE, tile=128, shared=shared)
    with tifffile.TiffFile(path) as tiff:
        start, size = (tiff.pages[0].tags[name].value[-2] for name in (324, 325))
    reader = FastTiffReader(path, OpenSlideReader(path))
    good = path.read_bytes()[start : start + size]
    box = Box(500, 500, 520, 519)
    seen = {True: 0, False: 0}
    with path.open("r+b") as file:
        for _ in range(200):
            bad = bytearray(good)
            at, width = RNG.integers(2, size), RNG.choice([1, 1, 8, size])
            bad[at : at + width] = RNG.bytes(len(bad[at : at + width])) if width < size else END
            if width == 1:
                bad[at] = good[at] ^ 1 << RNG.integers(8)
            file.seek(start)
            file.write(bad.ljust(size, b"\0")[:size])
            file.flush()
            alone = OpenSlideReader(path)
            reader._behind, behind = alone, reader._behind
            behind.close()
            expected = outcome(alone, 0, box)
            np.testing.assert_array_equal(outcome(reader, 0, box), expected, strict=True)
            seen[isinstance(expected, str)] += 1
    reader.close()
    assert min(seen.values()) > 20


@pytest.mark.parametrize("change", ["shorter", "longer", "file"])
def test_cut_tiles_give_the_same_errors_and_the_same_rest(tmp_path, change, monkeypatch):
    path = pyramid(tmp_path / "x.svs", tile=128)
    if change == "file":
        change_tag(path, "TileOffsets", lambda old: [old[0], path.stat().st_size - 9, *old[2:]])
    else:
        share = {"shorter": 0.5, "longer": 1.5}[change]
        change_tag(path, "TileByteCounts", lambda old: [old[0], int(old[1] * share), *old[2:]])
    whole = Box(0, 0, 700, 520)
    seen = []
    for direct in (True, False):
        with open_slide(path) as slide:
            assert slide.decoder == ("direct" if direct else "openslide")
            try:
                said = slide.read_region(Box(100, 50, 300, 150)).tobytes()
            except SlideReadError as error:
                said = str(error)
            pixels, readable = slide.read_what_is_there(whole, 1.0)
            seen.append((said, pixels.tobytes(), readable.tobytes()))
        monkeypatch.setattr(
            "wsi_pipeline.slides.open_reader.fast_reader", lambda path, reader: reader
        )
    assert seen[0] == seen[1]
    assert isinstance(seen[0][0], str) == (change != "longer")


def test_a_read_after_close_is_an_error(tmp_path):
    with open_slide(pyramid(tmp_path / "x.svs")) as slide:
        pass
    with pytest.raises(SlideReadError, match="closed"):
        slide.read_region(Box(0, 0, 1, 1))
