"""What a slide states about its size is bounded by what its file can hold, and by time."""

import struct
import time
import zlib

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wsi_pipeline.core.errors import SlideFormatError, SlideReadError, SlideTimeoutError
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.slides import read_timeout
from wsi_pipeline.slides import slide as slide_module
from wsi_pipeline.slides.byte_counts import largest_byte_count
from wsi_pipeline.slides.openslide_reader import OpenSlideReader
from wsi_pipeline.slides.readers import MAX_AREA_PX, MAX_SIDE_PX, Refusal, check_size
from wsi_pipeline.slides.slide import open_slide
from wsi_pipeline.slides.tiff_claims import check_coded_size
from wsi_pipeline.slides.tiff_reader import TiffReader

GREY = np.full((64, 64, 3), 240, np.uint8)


def changed(path, code, value):
    """Change the value of a tag, or where it is."""
    with tifffile.TiffFile(path) as file:
        tag = file.pages.first.tags[code]
        at = tag.offset + 8 if tag.valueoffset < tag.offset + 12 else tag.valueoffset
    data = bytearray(path.read_bytes())
    struct.pack_into("<I" if tag.dtype == 4 else "<H", data, at, value)
    path.write_bytes(data)
    return path


def refused(path, match):
    """Open a slide in little time, and in little memory: nothing is made of the stated size."""
    start = time.monotonic()
    with pytest.raises(SlideFormatError, match=match) as error:
        open_slide(path, mpp=0.5)
    assert str(error.value).isprintable()
    assert time.monotonic() - start < 5


def unreadable(path):
    """Open a slide with as many strips as it states, each of which is too short."""
    with pytest.raises(SlideReadError), open_slide(path, mpp=0.5) as slide:
        slide.read_region(Box(0, 0, 8, 8))


@pytest.mark.parametrize("tile", [None, (32, 32)], ids=["strips", "tiles"])
@pytest.mark.parametrize("tag", [256, 257])
@pytest.mark.parametrize("size", [0, 1_000_000, 16_777_216, 2**32 - 1])
def test_a_tiff_that_states_another_size_is_refused(tile, tag, size, tmp_path):
    path = tmp_path / "a.tif"
    how = {"tile": tile} if tile else {"rowsperstrip": 4}
    tifffile.imwrite(path, GREY, photometric="rgb", compression="lzma", **how)
    if tag == 256 and tile is None and size == 1_000_000:
        unreadable(changed(path, tag, size))
    else:
        refused(changed(path, tag, size), "pixels|a[.]tif")


@pytest.mark.parametrize("tag", [256, 257])
@pytest.mark.parametrize("size", [0, 1_000_000, 16_777_216, 2**32 - 1])
@pytest.mark.parametrize("rows", [64, 4], ids=["one strip", "strips"])
def test_plain_pixels_that_the_file_cannot_hold_are_refused(rows, tag, size, tmp_path):
    """Such an image is read from the file directly, whatever its strips say."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY, photometric="rgb", rowsperstrip=rows)
    if tag == 256 and rows == 4 and size == 1_000_000:
        unreadable(changed(path, tag, size))
    else:
        refused(changed(path, tag, size), "pixels|a[.]tif")


def test_plain_pixels_that_were_cut_off_are_read_as_far_as_they_go(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.full((640, 64, 3), 240, np.uint8), photometric="rgb")
    path.write_bytes(path.read_bytes()[: 64 * 64 * 3])
    with open_slide(path, mpp=0.5) as slide:
        assert (slide.read_region(Box(0, 0, 8, 8)) == 240).all()
        with pytest.raises(SlideReadError):
            slide.read_region(Box(0, 600, 8, 608))


@pytest.mark.parametrize("tag", [278, 322, 323])
def test_tiles_and_strips_without_a_size_are_refused(tag, tmp_path):
    path = tmp_path / "a.tif"
    how = {"rowsperstrip": 4} if tag == 278 else {"tile": (32, 32)}
    tifffile.imwrite(path, GREY, photometric="rgb", compression="lzma", **how)
    refused(changed(path, tag, 0), r"a\.tif")


@pytest.mark.parametrize("where", ["first tile", "last tile", "place of the list"])
def test_openslide_is_not_asked_for_tiles_of_more_bytes_than_the_file_has(
    slide_path, where, tmp_path
):
    """It takes that memory, and ends the process where there is none."""
    path, data = tmp_path / "a.svs", bytearray(slide_path.read_bytes())
    with tifffile.TiffFile(slide_path) as file:
        tag = file.pages.first.tags["TileByteCounts"]
        most = max(max(page.databytecounts) for page in file.pages)
    assert largest_byte_count(slide_path) == most
    assert tag.count > 1
    size = 8 if file.is_bigtiff else 4
    if where == "place of the list":  # bytes of something else are the counts
        struct.pack_into("<I", data, tag.offset + 4 + size, 3)
    else:
        at = tag.valueoffset + (0 if where == "first tile" else (tag.count - 1) * 4)
        struct.pack_into("<I", data, at, 2**32 - 9)
    path.write_bytes(data)
    assert largest_byte_count(path) > len(data)
    with pytest.raises(Refusal, match=r"a tile states [0-9]+ bytes, and the file has [0-9]+"):
        OpenSlideReader(path)


@given(st.binary(max_size=60), st.booleans(), st.sampled_from([b"II", b"MM"]))
def test_any_bytes_state_byte_counts_or_none(tmp_path_factory, rest, big, order):
    path = tmp_path_factory.getbasetemp() / "counts.tif"
    number = (43 if big else 42).to_bytes(2, "little" if order == b"II" else "big")
    path.write_bytes(order + number + rest)
    assert 0 <= largest_byte_count(path) < 2**64


@pytest.mark.parametrize("axis", ["C", "Z", "T"])
def test_planes_that_no_file_has_are_refused(axis, tmp_path):
    path = tmp_path / "a.ome.tif"
    text = tifffile.OmeXml()
    text.addimage("uint8", (64, 64, 3), (1, 1, 1, 64, 64, 3), axes="YXS")
    stated = text.tostring().replace(
        f'Size{axis}="{3 if axis == "C" else 1}"', f'Size{axis}="{10**9}"'
    )
    assert str(10**9) in stated
    tifffile.imwrite(
        path, GREY, photometric="rgb", tile=(32, 32), description=stated, metadata=None
    )
    refused(path, "OME-XML states [0-9]+ planes")


@pytest.mark.parametrize("sizes", [(10**9, 64), (64, 10**9), (2**20, 2**20)])
def test_an_ome_zarr_of_absurd_size_is_refused(sizes, tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.create_array("0", shape=(3, *sizes), chunks=(3, 64, 64), dtype="u1")
    axes = [{"name": a, "type": "space"} for a in "cyx"]
    group.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0"}]}]
    refused(tmp_path / "a.zarr", "no slide is so large|chunks, more than")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "JPEG"])
def test_an_image_with_more_pixels_than_its_bytes_hold_is_refused(kind, tmp_path):
    path = tmp_path / f"a.{kind.lower()}"
    Image.fromarray(GREY).save(path)
    data = bytearray(path.read_bytes())
    if kind == "PNG":
        struct.pack_into(">II", data, 16, 20_000, 20_000)
        struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    elif kind == "BMP":
        struct.pack_into("<ii", data, 18, 20_000, 20_000)
    else:
        at = data.index(b"\xff\xc0")
        struct.pack_into(">HH", data, at + 5, 20_000, 20_000)
    path.write_bytes(data)
    refused(path, "states 20000 x 20000 pixels, which its [0-9]+ bytes cannot hold")


def test_an_image_of_one_colour_is_read(tmp_path):
    path = tmp_path / "a.png"
    Image.new("1", (1500, 1500)).save(path, compress_level=9)
    with open_slide(path, mpp=0.5) as slide:
        assert (slide.width, slide.height) == (1500, 1500)


def test_sizes_of_real_slides_are_possible():
    for size in ((1, 1), (300_000, 100_000), (MAX_SIDE_PX, MAX_AREA_PX // MAX_SIDE_PX)):
        check_size(*size)
    for size in ((0, 5), (5, -1), (MAX_SIDE_PX + 1, 1), (2**20, 2**20)):
        with pytest.raises(Refusal):
            check_size(*size)


@pytest.mark.parametrize("compression", [7, 33005])
def test_a_tile_that_states_more_than_a_tile_has_is_not_decoded(compression):
    jpeg = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00\x11\x08" + b"\xff\xff\xff\xff" + bytes(20)
    j2k = b"\xff\x4f\xff\x51" + bytes(4) + struct.pack(">II", 2**20, 2**20) + bytes(20)
    with pytest.raises(Refusal, match="too many to decode at once"):
        check_coded_size(jpeg if compression == 7 else j2k, compression)
    check_coded_size(None, compression)
    check_coded_size(b"\xff\xd8", compression)


def test_a_thumbnail_is_bounded_by_time(tmp_path, monkeypatch):
    """As of a file with a strip for each of many rows: each read is short, all take far longer."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY, photometric="rgb", tile=(16, 16), compression="lzma")
    read = TiffReader.read
    monkeypatch.setattr(TiffReader, "read", lambda *given: time.sleep(0.02) or read(*given))
    monkeypatch.setattr(slide_module, "MAX_WINDOW_PX", 16)
    monkeypatch.setattr(read_timeout, "SLOWEST_BYTES", 1e12)
    start = time.monotonic()
    with open_slide(path, mpp=0.5) as slide:
        slide._timeout.seconds = 0.2
        with pytest.raises(SlideTimeoutError, match=r"longer than its size explains|no answer"):
            slide.thumbnail()
    assert time.monotonic() - start < 3


def test_calls_together_have_one_limit():
    timeout = read_timeout.ReadTimeout("a", 0.05)
    with timeout.together(0.0):
        timeout.call(int)
        time.sleep(0.06)
        with pytest.raises(SlideTimeoutError, match="longer than its size explains"):
            timeout.call(int)
    timeout.call(int)  # outside of it only each call is limited
