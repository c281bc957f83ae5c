"""Layouts and statements of files that other programs write: right, noted, or refused in words."""

import struct

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image
from small_slides import LOSSLESS, PALE, halve, one_line, pixels_of, write_ome_zarr
from wsiseg_models.sample_bits import png_bits

from wsi_pipeline.core.errors import SlideFormatError
from wsi_pipeline.slides.slide import open_slide
from wsi_pipeline.slides.tiff_pixel_size import unit_of

SMALL = np.ascontiguousarray(PALE[:150, :200])
GREY = SMALL[..., 0]


def write(path, *pages, ome=None, **options):
    """Write pages, each an array with its own options."""
    with tifffile.TiffWriter(path, **options) as tiff:
        for number, (pixels, more) in enumerate(pages):
            described = {"description": ome.encode()} if ome and not number else {}
            tiff.write(pixels, **{"metadata": None, **LOSSLESS, **described, **more})
    return path


def ome_xml(*images, namespace=' xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'):
    """OME-XML; each image has attributes of Pixels, and the number of its page or None."""
    text = "".join(
        f'<Image ID="Image:{k}"><Pixels ID="Pixels:{k}" DimensionOrder="XYCZT" Type="uint8" '
        f'SizeZ="{1 + (page == "holes") * 2}" SizeT="1" SizeC="3" {attributes}>'
        f'<Channel ID="Channel:{k}:0" SamplesPerPixel="3"/>'
        + ("<MetadataOnly/>" if page is None else
           '<TiffData IFD="0" FirstZ="0" PlaneCount="1"/><TiffData IFD="1" FirstZ="2" '
           'PlaneCount="1"/>' if page == "holes" else
           f'<TiffData IFD="{page}" PlaneCount="1"/>')
        + "</Pixels></Image>"
        for k, (attributes, page) in enumerate(images)
    )  # fmt: skip
    return f'<?xml version="1.0" encoding="UTF-8"?><OME{namespace}>{text}</OME>'


SIZE = 'SizeX="200" SizeY="150"'
RIGHT = f'{SIZE} PhysicalSizeX="0.25" PhysicalSizeY="0.25" SignificantBits="8"'


# ── pixel size ────────────────────────────────────────────────────────────────────────────────


def test_an_image_without_pixels_does_not_give_another_its_size(tmp_path):
    other = 'SizeX="10" SizeY="10" PhysicalSizeX="4" PhysicalSizeY="4"'
    xml = ome_xml((other, None), (RIGHT, 0))
    with open_slide(write(tmp_path / "x.ome.tif", (SMALL, {}), ome=xml)) as slide:
        assert slide.require_mpp().value == 0.25
    doubtful = ome_xml((RIGHT.replace("0.25", "0.5"), None), (RIGHT, 0))
    with open_slide(write(tmp_path / "y.ome.tif", (SMALL, {}), ome=doubtful)) as slide:
        assert slide.mpp is None
        assert "several pixel sizes" in slide.notes[0]


@pytest.mark.parametrize("sizes", [("0.25", "0.5"), ("0.5", "0.25")])
def test_an_image_of_another_file_is_not_read_from_this_one(tmp_path, sizes):
    """OME-TIFF in several files: each states the images of all."""
    ids = [f"urn:uuid:0000000{k}-0000-0000-0000-000000000000" for k in range(2)]
    xml = ome_xml(*((RIGHT.replace("0.25", size), 0) for size in sizes))
    for k, name in enumerate(("a.ome.tif", "b.ome.tif")):
        place = f'PlaneCount="1"><UUID FileName="{name}">{ids[k]}</UUID></TiffData>'
        xml = xml.replace('PlaneCount="1"/>', place, 1)
    for k, name in enumerate(("a.ome.tif", "b.ome.tif")):
        own = xml.replace("<OME ", f'<OME UUID="{ids[k]}" ', 1)
        write(tmp_path / name, (SMALL - 9 * k, {}), ome=own)
    for k, name in enumerate(("a.ome.tif", "b.ome.tif")):
        np.testing.assert_array_equal(pixels_of(tmp_path / name), SMALL - 9 * k)
        with open_slide(tmp_path / name) as slide:
            assert slide.require_mpp().value == float(sizes[k])
            assert f"series {k} of 2 is read" in slide.notes[0]
    with pytest.raises(SlideFormatError, match=r"series 1 lies in b\.ome\.tif; give that file"):
        open_slide(tmp_path / "a.ome.tif", series=1)


def test_channels_are_put_in_order_by_what_they_state(tmp_path):
    path = tmp_path / "x.ome.tif"
    planes = np.moveaxis(SMALL, 2, 0)
    options = {"photometric": "minisblack", "tile": (64, 64)}
    for order, names, turned in (
        ([0, 1, 2], ["Red", "Green", "Blue"], False), ([2, 1, 0], ["Blue", "Green", "Red"], True),
        ([1, 2, 0], ["g", "b", "r"], True), ([0, 1, 2], ["DAPI", "FITC", "TRITC"], False),
    ):  # fmt: skip
        about = {"axes": "CYX", "Channel": {"Name": names}}
        tifffile.imwrite(path, planes[order], metadata=about, **options)
        np.testing.assert_array_equal(pixels_of(path), SMALL)
        with open_slide(path) as slide:
            assert bool(slide.notes) == turned
    colours = [{"color": c} for c in ("0000FF", "00FF00", "FF0000")]
    path = zarr_with(tmp_path / "x.zarr", lambda a, _: a.update(omero={"channels": colours}),
                     planes[::-1])  # fmt: skip
    np.testing.assert_array_equal(pixels_of(path), SMALL)


def test_ome_without_a_namespace_has_a_pixel_size(tmp_path):
    xml = ome_xml((RIGHT, 0), namespace="")
    with open_slide(write(tmp_path / "x.ome.tif", (SMALL, {}), ome=xml)) as slide:
        assert slide.require_mpp().value == 0.25


@pytest.mark.parametrize(
    ("name", "um"),
    [("nanometre", 1e-3), ("Millimeters", 1e3), ("picometer", 1e-6), ("MICROMETER", 1.0),
     ("micrometre", 1.0), ("foot", 304800.0), ("inches", 25400.0), ("angstroms", 1e-4),
     ("pixels", None), ("parameter", None), ("", None)],
)  # fmt: skip
def test_units_that_are_written_out(name, um):
    assert unit_of(name) == (None if um is None else pytest.approx(um))


def test_a_tiled_file_states_its_pixel_size_as_a_striped_one(tmp_path):
    for layout in ({}, {"tile": None, "rowsperstrip": 50}):
        described = {"description": "Some scanner|MPP = 0.25|Left = 3", **layout}
        in_mm = {"resolution": (4000, 4000), "resolutionunit": 4, **layout}
        both = {**described, "resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
        for options in (described, in_mm, both):
            with open_slide(write(tmp_path / "x.tif", (SMALL, options))) as slide:
                assert slide.require_mpp().value == pytest.approx(0.25)


@pytest.mark.parametrize("layout", [{}, {"tile": None, "rowsperstrip": 50}])
def test_a_broken_resolution_tag_does_not_refuse_the_slide(tmp_path, layout):
    options = {"resolution": (40000, 40000), "resolutionunit": "CENTIMETER", **layout}
    path = write(tmp_path / "x.tif", (SMALL, options))
    with tifffile.TiffFile(path) as tiff:
        place, order = tiff.pages[0].tags["ResolutionUnit"].offset, tiff.byteorder
    data = bytearray(path.read_bytes())
    struct.pack_into(order + "H", data, place + 2, 1)  # a byte, where a short number belongs
    path.write_bytes(data)
    with open_slide(path) as slide:
        assert slide.mpp is None or slide.mpp.value == pytest.approx(0.25)
        assert (slide.mpp is None) == bool(slide.notes)


# ── samples ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("layout", [{}, {"tile": None}])
def test_a_sample_of_no_stated_meaning_is_not_alpha(tmp_path, layout):
    nothing = np.zeros_like(GREY)
    for more in (1, 2):
        pixels = np.dstack([SMALL, *[nothing] * more])
        options = {"extrasamples": ["unspecified"] * more, "planarconfig": "contig", **layout}
        path = write(tmp_path / "x.tif", (pixels, options))
        np.testing.assert_array_equal(pixels_of(path), SMALL)
    pixels, glass = np.dstack([GREY, np.where(GREY > 220, 255, 0)]), GREY.copy()
    glass[GREY <= 220] = 255
    options = {"photometric": "minisblack", "extrasamples": ["unassalpha"], **layout}
    path = write(
        tmp_path / "x.tif", (pixels.astype(np.uint8), {"planarconfig": "contig", **options})
    )
    np.testing.assert_array_equal(pixels_of(path), np.repeat(glass[..., None], 3, 2))


@pytest.mark.parametrize("layout", [{}, {"tile": None}])
def test_channels_that_are_called_grey_are_no_colours(tmp_path, layout):
    options = {"photometric": "minisblack", "planarconfig": "contig", **layout}
    path = write(tmp_path / "x.tif", (SMALL, options))
    with pytest.raises(SlideFormatError, match="calls only one a colour") as error:
        open_slide(path)
    one_line(error)


def test_all_bits_are_no_statement_of_significant_ones(tmp_path):
    narrow = (SMALL.astype(np.uint16) * 4095 + 127) // 255
    xml = ome_xml((f'{SIZE} SignificantBits="16"', 0)).replace("uint8", "uint16")
    ome = write(tmp_path / "x.ome.tif", (narrow, {}), ome=xml)
    tagged = write(tmp_path / "x.tif", (narrow, {"extratags": [(281, 3, 1, 65535, True)]}))
    folder = write_ome_zarr(tmp_path / "x.zarr", np.moveaxis(narrow, 2, 0), "cyx", 2)
    channel = {"window": {"min": 0, "max": 65535, "start": 0, "end": 4095}}
    zarr.open_group(folder).attrs["omero"] = {"channels": [channel] * 3}
    for path in (ome, tagged, folder):
        with pytest.raises(SlideFormatError, match="significant"):
            open_slide(path)
    Image.fromarray(narrow[..., 0]).save(tmp_path / "x.png")
    assert png_bits(tmp_path / "x.png") == 0


# ── pages ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (1, 0, 3, 2), (0, 3, 2, 1), (0, 3), (1, 0)])
def test_a_mask_is_neither_slide_nor_level(tmp_path, order):
    mask = GREY > 220
    bits = {"photometric": "minisblack"}
    pages = [(SMALL, {}), (mask, {**bits, "subfiletype": 4}), (halve(SMALL), {"subfiletype": 1}),
             (mask[::2, ::2], {**bits, "subfiletype": 5})]  # fmt: skip
    path = write(tmp_path / "x.tif", *(pages[k] for k in order))
    np.testing.assert_array_equal(pixels_of(path), SMALL)
    with open_slide(path, mpp=0.25) as slide:
        assert [level.downsample for level in slide.levels] == ([1, 2] if 2 in order else [1])


@pytest.mark.parametrize("kind", ["grey", "12 bits", "turned"])
def test_a_reduced_image_of_other_samples_is_no_level(tmp_path, kind):
    small = halve(SMALL)
    level = {"grey": small[..., 0], "12 bits": small.astype(np.uint16) * 16}.get(kind, small)
    more = {"grey": {"photometric": "minisblack"}, "turned": {"extratags": [(274, 3, 1, 3, True)]}}
    path = write(tmp_path / "x.tif", (SMALL, {}), (level, {"subfiletype": 1, **more.get(kind, {})}))
    with open_slide(path) as slide:
        assert len(slide.levels) == 1
        assert slide.decoder == "tifffile"
    np.testing.assert_array_equal(pixels_of(path), SMALL)


@pytest.mark.parametrize("tile", [(16, 16), (48, 80), (64, 64)])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_uncompressed_tiles_of_any_size_are_read(tmp_path, tile, planar):
    pixels = SMALL if planar == "contig" else np.moveaxis(SMALL, 2, 0)
    options = {"tile": tile, "compression": None, "planarconfig": planar}
    path = write(tmp_path / "x.tif", (pixels, options))
    np.testing.assert_array_equal(pixels_of(path), SMALL)


def test_planes_behind_a_single_page_are_refused_but_the_first(tmp_path):
    stack = np.stack([SMALL, SMALL - 5, SMALL - 9])
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, stack, photometric="rgb", truncate=True)
    np.testing.assert_array_equal(pixels_of(path), SMALL)
    with pytest.raises(SlideFormatError, match=r"behind a single page.*--plane 0"):
        open_slide(path, time=2)
    deep = {"photometric": "rgb", "volumetric": True, "tile": (3, 64, 64)}
    tifffile.imwrite(path, stack, **deep)
    with pytest.raises(SlideFormatError, match="are not those of images"):
        open_slide(path)


def test_images_of_one_bit_are_read(tmp_path):
    path = write(tmp_path / "x.tif", (GREY > 220, {"photometric": "minisblack"}))
    white = np.where(GREY > 220, 255, 0).astype(np.uint8)
    np.testing.assert_array_equal(pixels_of(path), np.repeat(white[..., None], 3, 2))


def test_a_plane_that_is_missing_is_refused_and_others_are_read(tmp_path):
    xml = ome_xml((RIGHT, "holes"))
    path = write(tmp_path / "x.ome.tif", (SMALL, {}), (SMALL - 5, {}), ome=xml)
    with pytest.raises(SlideFormatError, match=r"not in the file; choose another by --plane"):
        open_slide(path)
    np.testing.assert_array_equal(pixels_of(path, plane=2), SMALL - 5)


@pytest.mark.parametrize(
    "options", [{}, {"photometric": "minisblack"}, {"photometric": "miniswhite"}]
)
@pytest.mark.parametrize("name", ["x.tif", "x.ome.tif"])
def test_a_tile_without_bytes_is_glass(tmp_path, name, options):
    stored = GREY if options else SMALL
    stored = 255 - stored if options.get("photometric") == "miniswhite" else stored
    path = write(tmp_path / name, (stored, options))
    with tifffile.TiffFile(path) as tiff:
        tag, order = tiff.pages[0].tags["TileByteCounts"], tiff.byteorder
        kind = {3: "H", 4: "I"}[int(tag.dtype)]
    data = bytearray(path.read_bytes())
    struct.pack_into(order + kind, data, tag.valueoffset + struct.calcsize(kind), 0)
    path.write_bytes(data)
    expected = np.repeat(GREY[..., None], 3, 2) if options else SMALL.copy()
    expected[:64, 64:128] = 255
    np.testing.assert_array_equal(pixels_of(path), expected)


def test_a_photograph_of_several_images_says_so(tmp_path):
    first, second = Image.fromarray(SMALL), Image.fromarray(SMALL - 9)
    first.save(tmp_path / "x.webp", save_all=True, append_images=[second], lossless=True)
    with open_slide(tmp_path / "x.webp") as slide:
        assert slide.notes == ("image 0 of 2 is read",)


# ── OME-Zarr ──────────────────────────────────────────────────────────────────────────────────


def zarr_with(path, change, planes=None, axes="cyx"):
    """Write an OME-Zarr image and change its attributes."""
    write_ome_zarr(path, np.moveaxis(SMALL, 2, 0) if planes is None else planes, axes, 2)
    group = zarr.open_group(path)
    attributes = dict(group.attrs)
    change(attributes, attributes["multiscales"][0])
    group.attrs.put(attributes)
    return path


@pytest.mark.parametrize(
    ("placed", "size"),
    [
        (None, None), ([{"type": "identity"}], None), ([{"type": "scale", "path": "s"}], None),
        ([{"type": "scale", "scale": [0.25, 0.25]}], None),
        ([{"type": "scale", "scale": [1, 0.25, 0.25]},
          {"type": "translation", "translation": [0, 5, 5]}], 0.25),
    ],
)  # fmt: skip
def test_a_scale_that_is_not_stated_is_not_1(tmp_path, placed, size):
    def change(_, about):
        for dataset in about["datasets"]:
            dataset["coordinateTransformations"] = placed

    with open_slide(zarr_with(tmp_path / "x.zarr", change)) as slide:
        assert (slide.mpp.value if slide.mpp else None) == size
        assert bool(slide.notes) == (size is None)


def test_ome_zarr_metadata_of_other_programs(tmp_path):
    changes = {
        "order": lambda _, about: about["datasets"].reverse(),
        "window": lambda a, _: a.update(omero={"channels": [{"window": None}] * 3}),
        "omero": lambda a, _: a.update(omero=None),
    }
    for name, change in changes.items():
        path = zarr_with(tmp_path / f"{name}.zarr", change)
        np.testing.assert_array_equal(pixels_of(path), SMALL)
        with open_slide(path) as slide:
            assert [level.downsample for level in slide.levels] == [1, 2]
            assert slide.require_mpp().value == 0.25
    old = np.moveaxis(SMALL, 2, 0)[None, :, None]
    path = zarr_with(tmp_path / "old.zarr", lambda _, about: about.pop("axes"), old, "tczyx")
    np.testing.assert_array_equal(pixels_of(path), SMALL)


def test_parts_of_ome_zarr_that_are_not_there_are_named(tmp_path):
    def keep(*_):
        pass

    path = zarr_with(tmp_path / "chunk.zarr", keep)
    (path / "0" / "0.0.1").unlink()
    for version in (2, 3):
        if version == 3:
            path = write_ome_zarr(tmp_path / "chunk3.zarr", np.moveaxis(SMALL, 2, 0), "cyx", 3)
            (path / "0" / "c" / "0" / "0" / "1").unlink()
        with open_slide(path) as slide:
            assert slide.notes == ("1 of 12 chunks are not there, and taken as empty glass",)
        expected = SMALL.copy()
        expected[:64, 64:128] = 255
        np.testing.assert_array_equal(pixels_of(path), expected)
    path = zarr_with(
        tmp_path / "level.zarr", lambda _, about: about["datasets"].append({"path": "7"})
    )
    with open_slide(path) as slide:
        assert slide.notes == ("level '7' of its metadata is not in the folder",)
    path = zarr_with(
        tmp_path / "largest.zarr", lambda _, about: about["datasets"].insert(0, {"path": "7"})
    )
    with pytest.raises(SlideFormatError, match="'7' is not in the folder; copy it again"):
        open_slide(path)
    twice = zarr_with(
        tmp_path / "two.zarr", lambda a, _: a["multiscales"].append(a["multiscales"][0])
    )
    with open_slide(twice) as slide:
        assert "series 0 of 2 is read" in slide.notes[0]
    with pytest.raises(SlideFormatError, match="series -1 does not exist"):
        open_slide(twice, series=-1)
    plate = zarr.open_group(tmp_path / "p.zarr", mode="w", zarr_format=2)
    plate.attrs["plate"] = {"wells": []}
    with pytest.raises(SlideFormatError, match="plate, give the folder of a well"):
        open_slide(tmp_path / "p.zarr")
