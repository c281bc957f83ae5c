"""Files that other programs write: right pixels at the right place, or refused in words."""

import zlib

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image, ImageOps
from small_slides import (
    LOSSLESS,
    NOISE,
    PALE,
    halve,
    one_line,
    pixels_of,
    slopes,
    write_ome_zarr,
)
from wsiseg_models.training.coco import read_image

from wsi_pipeline.core.errors import SlideFormatError
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.slides.levels import fit_levels
from wsi_pipeline.slides.slide import open_slide
from wsi_pipeline.slides.tiff_colour import jpeg_is_ycbcr


def ceil_half(rgb):
    """Halve with the last row and column repeated, as scanners do."""
    return halve(np.pad(rgb, ((0, rgb.shape[0] % 2), (0, rgb.shape[1] % 2), (0, 0)), mode="edge"))


def padded(rgb, tile):
    h, w = (-(-side // tile) * tile - side for side in rgb.shape[:2])
    return np.pad(rgb, ((0, h), (0, w), (0, 0)), constant_values=255)


def write_levels(path, levels, **options):
    ome = ".ome." in path.name
    options = {**LOSSLESS, **options}
    with tifffile.TiffWriter(path, ome=ome) as tiff:
        size = {"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
        first = {"subifds": len(levels) - 1, "metadata": {"axes": "YXS", **size}} if ome else {}
        for number, level in enumerate(levels):
            more = first if number == 0 else {"subfiletype": 1}
            tiff.write(level, **{"metadata": None, **options, **more})
    return path


# ── levels ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["x.tif", "x.ome.tif"])
@pytest.mark.parametrize("compression", ["adobe_deflate", "jpeg"])
@pytest.mark.parametrize("size", [(533, 701), (500, 640), (257, 255)])
def test_levels_padded_to_whole_tiles_have_the_true_downsample(tmp_path, name, compression, size):
    picture = cv2.resize(slopes(600, 800), size[::-1])
    levels = [picture, ceil_half(picture), ceil_half(ceil_half(picture))]
    path = write_levels(
        tmp_path / name, [levels[0], *(padded(x, 64) for x in levels[1:])], compression=compression
    )
    with open_slide(path, mpp=0.25) as slide:
        assert [level.downsample for level in slide.levels] == [1, 2, 4]
        for number, level in enumerate(levels):
            found = slide.levels[number]
            assert (found.height, found.width) == level.shape[:2]
            read = slide.read_region(Box(0, 0, found.width, found.height), number).astype(int)
            apart = np.abs(read - level)  # JPEG mixes colours with those of the padding
            assert apart.mean() < 3 if compression == "jpeg" else apart.max() == 0
        thumbnail = slide.read_scaled(Box(0, 0, size[1] // 4, size[0] // 4), 4.0).astype(int)
        expected = levels[2][: size[0] // 4, : size[1] // 4]
        assert np.abs(thumbnail - expected).mean() < 3


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("reduced", [0, 1])
def test_a_picture_of_something_else_is_no_level(tmp_path, first, reduced):
    macro, path = NOISE[:200, :100], tmp_path / "x.tif"
    pages = [(PALE, 0), (macro, reduced)]
    with tifffile.TiffWriter(path) as tiff:
        for pixels, kind in pages[::-1] if first else pages:
            tiff.write(pixels, subfiletype=kind, metadata=None, **LOSSLESS)
    with open_slide(path, mpp=0.25) as slide:
        assert [(level.width, level.height) for level in slide.levels] == [(701, 533)]
        np.testing.assert_array_equal(slide.read_region(Box(0, 0, 701, 533)), PALE)
        # OpenSlide takes a later image for a level only where it is marked as a reduced one.
        assert slide.notes or not (first or reduced)


def test_levels_of_other_proportions_are_left_out_and_their_neighbours_stay():
    sizes = [(4000, 3000), (2000, 1500), (640, 640), (1000, 750), (300, 2), (500, 375)]
    found = fit_levels(sizes)
    assert [level.downsample for level in found.levels] == [1, 2, 4, 8]
    assert found.kept == (0, 1, 3, 5)
    assert len(found.notes) == 2


@pytest.mark.parametrize("seed", range(20))
def test_any_rounding_of_levels_gives_the_whole_number(seed):
    rng = np.random.default_rng(seed)
    size = tuple(int(side) for side in rng.integers(1000, 90_000, 2))
    factors = np.cumprod(rng.choice([2, 4], 4))
    roundings = [np.floor, np.ceil, np.round]
    sizes = [tuple(int(roundings[rng.integers(3)](s / f)) for s in size) for f in factors]
    found = fit_levels([size, *sizes])
    assert [level.downsample for level in found.levels[1:]] == factors.tolist()[: len(found.kept)]


# ── orientation ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("layout", [{"tile": (64, 64)}, {"rowsperstrip": 40}, {}])
def test_a_turned_tiff_is_refused(tmp_path, turn, layout):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, PALE, photometric="rgb", extratags=[(274, 3, 1, turn, True)], **layout)
    if turn == 1:
        np.testing.assert_array_equal(pixels_of(path), PALE)
        return
    with pytest.raises(SlideFormatError, match=f"Orientation is {turn}.*write it upright") as error:
        open_slide(path)
    one_line(error)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_photograph_is_turned_upright_everywhere(tmp_path, turn, suffix):
    path = tmp_path / f"x.{suffix}"
    exif = Image.Exif()
    exif[274] = turn
    picture = np.full((40, 60, 3), 240, np.uint8)
    picture[:10, :20], picture[30:, :20, 1] = 0, 0
    Image.fromarray(picture).save(path, exif=exif, quality=100, lossless=True)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB")).astype(int)
    assert np.abs(pixels_of(path).astype(int) - expected).max() <= 2
    with open_slide(path) as slide:
        assert len(slide.notes) == (turn != 1)
    if suffix == "jpg":  # OpenCV turns JPEG; training reads photographs in this way
        assert np.abs(read_image(path).astype(int) - expected).max() <= 4


# ── samples ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("bits", [9, 10, 12, 14, 15])
@pytest.mark.parametrize("grey", [False, True])
def test_declared_bits_decide_the_range(tmp_path, bits, grey):
    picture = PALE[..., 0] if grey else PALE
    top = 2**bits - 1
    stored = np.round(picture.astype(float) / 255 * top).astype(np.uint16)
    photometric = "minisblack" if grey else "rgb"
    expected = np.repeat(picture[..., None], 3, 2) if grey else picture
    tagged = tmp_path / "tagged.tif"
    tifffile.imwrite(tagged, stored, photometric=photometric, tile=(64, 64),
                     extratags=[(281, 3, 1, top, True)])  # fmt: skip
    ome = tmp_path / "x.ome.tif"
    stated = {"axes": "YX" if grey else "YXS", "SignificantBits": bits}
    tifffile.imwrite(ome, stored, photometric=photometric, tile=(64, 64), metadata=stated)
    for path in (tagged, ome):
        assert np.abs(pixels_of(path).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 15])
@pytest.mark.parametrize("name", ["x.tif", "striped.tif", "x.ome.tif", "x.png"])
def test_an_undeclared_range_is_refused(tmp_path, bits, name):
    path = tmp_path / name
    stored = np.round(PALE.astype(float) / 255 * (2**bits - 1)).astype(np.uint16)
    if name.endswith("png"):
        cv2.imwrite(str(path), stored[..., ::-1])
    else:
        layout = {} if name.startswith("striped") else {"tile": (64, 64)}
        tifffile.imwrite(path, stored, photometric="rgb", **layout)
    with pytest.raises(SlideFormatError, match=r"significant.*convert it to 8 bits") as error:
        open_slide(path)
    one_line(error)


def test_png_with_16_bits(tmp_path):
    full, narrow = tmp_path / "full.png", tmp_path / "narrow.png"
    cv2.imwrite(str(full), PALE[..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(pixels_of(full), PALE)
    stored = np.round(PALE.astype(float) / 255 * 4095).astype(np.uint16)
    data = cv2.imencode(".png", stored[..., ::-1])[1].tobytes()
    chunk = b"sBIT" + bytes([12, 12, 12])
    chunk = (3).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    narrow.write_bytes(data[:33] + chunk + data[33:])
    np.testing.assert_array_equal(pixels_of(narrow), PALE)


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i1", "i2", "i4", "u4", "c8"])
@pytest.mark.parametrize("layout", [{"tile": (64, 64)}, {}])
def test_samples_without_a_known_range_are_refused_with_a_remedy(tmp_path, kind, layout):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, (PALE / 255 * 100).astype(kind), photometric="rgb", **layout)
    with pytest.raises(SlideFormatError, match="convert the image to RGB with 8 bits") as error:
        open_slide(path)
    one_line(error)


@pytest.mark.parametrize(
    "compression",
    ["jpeg2000", 33003, 33004, 33005, "webp", "jpegxl", "png", "lzma", "zstd", "jpegxr", "lzw"],
)
@pytest.mark.parametrize("name", ["x.tif", "x.ome.tif"])
def test_every_compression_of_tifffile_is_read(tmp_path, compression, name):
    path = write_levels(tmp_path / name, [PALE, halve(PALE)], compression=compression)
    np.testing.assert_array_equal(pixels_of(path), tifffile.imread(path, series=0, level=0))


@pytest.mark.parametrize("name", ["x.tif", "x.ome.tif"])
@pytest.mark.parametrize("ycbcr", [False, True])
@pytest.mark.parametrize("tag", ["rgb", "ycbcr"])
def test_jpeg_tiles_keep_the_colours_that_they_state(tmp_path, name, ycbcr, tag):
    picture = cv2.resize(slopes(200, 200), (128, 128))
    picture[..., 2] = 200
    data = imagecodecs.jpeg8_encode(
        picture, level=98, colorspace="RGB", outcolorspace="YCBCR" if ycbcr else "RGB"
    )
    if jpeg_is_ycbcr(data) is None:  # libjpeg wrote no marker
        data = data[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([ycbcr]) + data[2:]
    assert jpeg_is_ycbcr(data) == ycbcr
    path = tmp_path / name
    tifffile.imwrite(path, iter([data]), shape=picture.shape, dtype=np.uint8, tile=(128, 128),
                     photometric=tag, compression="jpeg",
                     compressionargs={"outcolorspace": tag})  # fmt: skip
    assert np.abs(pixels_of(path).astype(int) - picture).max() <= 12
    with open_slide(path) as slide:
        assert bool(slide.notes) == (ycbcr != (tag == "ycbcr"))


# ── pixel size ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("size", "unit"),
    [
        ("0.25", "µm"), ("0.25", "μm"), ("2.5e-7", "m"), ("250000", "pm"), ("2500", "Å"),
        ("0.000025", "cm"), ("0.0000025", "dm"), ("2.5E-10", "km"), ("0,25", "µm"),
        ("9.84251968503937e-06", "in"), ("0.00984251968503937", "thou"), ("0.25", None),
        ("7.086614173228346e-4", "pt"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("axes", ["XY", "X", "Y"])
def test_every_unit_of_ome(tmp_path, size, unit, axes):
    entries = " ".join(
        f'PhysicalSize{axis}="{size}"' + (f' PhysicalSize{axis}Unit="{unit}"' if unit else "")
        for axis in axes
    )
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?><OME '
        'xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels '
        'ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="701" SizeY="533" SizeC="3" '
        f'SizeZ="1" SizeT="1" {entries}><Channel ID="Channel:0:0" SamplesPerPixel="3"/>'
        '<TiffData IFD="0" PlaneCount="1"/></Pixels></Image></OME>'
    )
    path = tmp_path / "x.ome.tif"
    tifffile.imwrite(path, PALE, description=xml.encode(), metadata=None, **LOSSLESS)
    with open_slide(path) as slide:
        found = slide.require_mpp()
        assert (found.x, found.y) == (pytest.approx(0.25), pytest.approx(0.25))
        assert bool(slide.notes) == (len(axes) == 1)


@pytest.mark.parametrize("unit", ["um", "micron", "microns", "µm", "\\u00B5m", "nm", "mm", "inch"])
def test_units_of_imagej(tmp_path, unit):
    per = {"nm": 0.004, "mm": 4000, "inch": 101600}.get(unit, 4)
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, PALE[..., 0], imagej=True, resolution=(per, per), metadata={"unit": "u"})
    with tifffile.TiffFile(path) as tiff:
        old = tiff.pages[0].description
    tifffile.tiffcomment(path, f"{old.removesuffix('u')}{unit}\n".encode("latin-1"))
    with open_slide(path) as slide:
        assert slide.require_mpp().value == pytest.approx(0.25)


@pytest.mark.parametrize("text", ["0.25", "2.5e-1", "2.5E-01", "0,25", "25e-2"])
def test_numbers_in_a_description(tmp_path, text):
    path = tmp_path / "x.tif"
    description = f"Some scanner |AppMag = 40|MPP = {text}|Left = 3"
    tifffile.imwrite(path, PALE, description=description, metadata=None, photometric="rgb")
    with open_slide(path) as slide:
        assert slide.require_mpp().value == pytest.approx(0.25)
    with open_slide(path, mpp=0.5) as slide:
        assert slide.require_mpp().value == 0.5


def test_a_unit_that_is_no_length_is_ignored_in_words(tmp_path):
    path = tmp_path / "x.ome.tif"
    size = {f"PhysicalSize{a}{e}": v for a in "XY" for e, v in (("", 1), ("Unit", "pixel"))}
    tifffile.imwrite(path, PALE, metadata={"axes": "YXS", **size}, **LOSSLESS)
    with open_slide(path) as slide:
        assert slide.mpp is None
        assert "pixel is no length" in slide.notes[0]


# ── several images ────────────────────────────────────────────────────────────────────────────


def test_series_and_focal_planes_are_named_and_chosen(tmp_path):
    path = tmp_path / "x.ome.tif"
    small, large = PALE[:300, :400], PALE
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(small, metadata={"axes": "YXS"}, **LOSSLESS)
        tiff.write(large, metadata={"axes": "YXS"}, **LOSSLESS)
    with open_slide(path) as slide:
        assert "series 1 of 2 is read" in slide.notes[0]
    np.testing.assert_array_equal(pixels_of(path), large)
    np.testing.assert_array_equal(pixels_of(path, series=0), small)
    with pytest.raises(SlideFormatError, match=r"series 2 does not exist.*0 to 1"):
        open_slide(path, series=2)
    stack = tmp_path / "z.ome.tif"
    planes = np.stack([PALE - 3 * k for k in range(4)])
    tifffile.imwrite(stack, planes, metadata={"axes": "ZYXS"}, **LOSSLESS)
    for plane in (None, 0, 3):
        where = 2 if plane is None else plane
        np.testing.assert_array_equal(pixels_of(stack, plane=plane), planes[where])
        with open_slide(stack, plane=plane) as slide:
            assert f"focal plane {where} of 4 is read" in slide.notes[0]
            assert slide.plane == where
    with pytest.raises(SlideFormatError, match="focal plane 4 does not exist"):
        open_slide(stack, plane=4)


@pytest.mark.parametrize("axes", ["TYXS", "TZYXS", "ZTYXS", "zarr"])
@pytest.mark.parametrize("time", [None, 0, 3])
def test_a_time_point_is_named_and_chosen(tmp_path, axes, time):
    planes = np.stack([PALE - 3 * k for k in range(8)])[: 4 if axes == "TYXS" else 8]
    shape = [{"T": 4, "Z": 2}[axis] for axis in axes if axis in "TZ"] or [4, 2]
    planes = planes.reshape(*shape, *PALE.shape)
    if axes == "zarr":
        path = write_ome_zarr(tmp_path / "t.zarr", np.moveaxis(planes, -1, 2), "tzcyx", 3)
    else:
        path = tmp_path / "t.ome.tif"
        tifffile.imwrite(path, planes, metadata={"axes": axes}, **LOSSLESS)
    for plane in (None, 0) if "Z" in axes else (None,):
        index = {"T": time or 0, "Z": 1 if plane is None else plane}
        where = tuple(index[axis] for axis in axes if axis in "TZ") or (time or 0, 1)
        np.testing.assert_array_equal(pixels_of(path, plane=plane, time=time), planes[where])
        with open_slide(path, plane=plane, time=time) as slide:
            assert any(f"time point {time or 0} of 4 is read" in note for note in slide.notes)
            assert (slide.plane, slide.time) == (index["Z"] if len(shape) > 1 else 0, time or 0)
    with pytest.raises(SlideFormatError, match=r"time point 4 does not exist.* 4, from 0"):
        open_slide(path, time=4)


def test_a_slide_without_time_has_time_0_alone(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", PALE, tile=(128, 128))
    cv2.imwrite(str(tmp_path / "x.png"), PALE)
    for name in ("x.tif", "x.png"):
        assert pixels_of(tmp_path / name, time=0).shape == PALE.shape
        with pytest.raises(SlideFormatError, match="time point"):
            open_slide(tmp_path / name, time=1)


def test_plain_pages_of_one_size_are_several_images(tmp_path):
    path = tmp_path / "x.tif"
    with tifffile.TiffWriter(path) as tiff:
        for pixels in (PALE, PALE - 9):
            tiff.write(pixels, metadata=None, **LOSSLESS)
    with open_slide(path) as slide:
        assert any("of 2" in note for note in slide.notes)
    for page in (0, 1):
        np.testing.assert_array_equal(pixels_of(path, time=page), PALE - 9 * page)


# ── OME-Zarr ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("axes", ["cyx", "tczyx", "yxc", "zyxc"])
@pytest.mark.parametrize("nested", [False, True])
def test_ome_zarr_of_any_axes(tmp_path, version, axes, nested):
    shape = tuple({"c": 3, "y": 533, "x": 701, "z": 3, "t": 1}[a] for a in axes)
    order = [a for a in axes if a in "yxc"]
    colours = PALE.transpose(["yxc".index(a) for a in order])
    planes = np.broadcast_to(
        colours.reshape([n if a in "yxc" else 1 for a, n in zip(axes, shape, strict=True)]), shape
    )
    path = write_ome_zarr(tmp_path / "a.ome.zarr", planes, axes, version, nested=nested)
    with open_slide(path) as slide:
        assert (slide.slide_id, slide.reader) == ("a", "ome-zarr")
        assert slide.require_mpp().value == pytest.approx(0.25)
        assert [level.downsample for level in slide.levels] == [1, 2]
        np.testing.assert_array_equal(slide.read_region(Box(0, 0, 701, 533)), PALE)
        level = slide.levels[1]
        np.testing.assert_array_equal(
            slide.read_region(Box(0, 0, level.width, level.height), 1), PALE[::2, ::2]
        )
        assert bool(slide.notes) == ("z" in axes)


@pytest.mark.parametrize(
    ("planes", "axes", "why"),
    [
        (np.zeros((5, 99, 99), np.uint8), "cyx", "5 channels"),
        (np.zeros((3, 99, 99), np.float32), "cyx", "8 bits per sample"),
        (np.full((3, 99, 99), 4000, np.uint16), "cyx", "significant"),
    ],
)
def test_ome_zarr_that_is_no_rgb_image_is_refused(tmp_path, planes, axes, why):
    path = write_ome_zarr(tmp_path / "a.zarr", planes, axes, 3)
    with pytest.raises(SlideFormatError, match=why) as error:
        open_slide(path)
    one_line(error)


def test_other_folders_and_paths_outside_are_refused(tmp_path):
    with pytest.raises(SlideFormatError, match=r"folder.*give a slide file"):
        open_slide(tmp_path)
    path = write_ome_zarr(tmp_path / "a.zarr", np.moveaxis(PALE, 2, 0), "cyx", 2)
    group = zarr.open_group(path)
    about = group.attrs["multiscales"]
    about[0]["datasets"][0]["path"] = "../b"
    group.attrs["multiscales"] = about
    with pytest.raises(SlideFormatError, match="lies outside the folder"):
        open_slide(path)
