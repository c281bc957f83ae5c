"""What annotation files in use have wrong: the right target for every reader, or an error.

The readers are those of both trainings, of `evaluate` and of its suite.
"""

import unicodedata
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from drawn_cells import change
from PIL import Image
from set_readers import every_reader, outside, suite, twice
from wsiseg_models.training.coco import read_coco, read_image, resize_image

from wsi_pipeline.core.errors import DataError
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.evaluation.coco_fields import read_set
from wsi_pipeline.evaluation.suite_sets import find_sets
from wsi_pipeline.slides.slide import open_slide

FAR = [9e15, 1, 9e15, 5, 3, 5]
ZIGZAG = [value for i in range(50) for value in ((-1) ** i * 1e5, i)]
UNTURNED = {1: lambda a: a, 3: lambda a: a[::-1, ::-1], 6: lambda a: np.rot90(a, 1),
            8: lambda a: np.rot90(a, -1), 2: lambda a: a[:, ::-1], 4: lambda a: a[::-1],
            5: lambda a: a.transpose(1, 0, 2),
            7: lambda a: a[::-1, ::-1].transpose(1, 0, 2)}  # fmt: skip
"""Orientation → how an upright image is stored."""


def everywhere(document, edit):
    for part in ("images", "annotations", "categories"):
        for entry in document[part]:
            edit(entry)


def as_text(document):
    everywhere(document, lambda e: e.update({k: str(e[k]) for k in e if k.endswith("id")}))


def text_and_numbers(document):
    for entry in document["images"] + document["categories"]:
        entry["id"] = f" {entry['id']} "
    for entry in document["annotations"]:
        entry["category_id"] = float(entry["category_id"])


def windows_names(document):
    for entry in document["images"]:
        entry["file_name"] = entry["file_name"].replace("/", "\\")


def stated(document):
    everywhere(document, lambda e: e.update(iscrowd=0, area=0, bbox=None, width=None, height=0))


def points(document):
    for entry in document["annotations"]:
        if isinstance(entry["segmentation"], list):
            entry["segmentation"] = [np.reshape(entry["segmentation"][0], (-1, 2)).tolist()]


RIGHT = {
    "ids as text": as_text,
    "ids as text and as numbers": text_and_numbers,
    "backslashes": windows_names,
    "nothing stated, area 0": stated,
    "polygons as points": points,
    "each annotation twice": twice,
    "outlines outside the image or of no area": outside,
    "spaces and capitals in names": lambda d: d["categories"][0].update(name=" Nucleus "),
}


def same(mine, true):
    assert len(mine) == len(true) == 5
    for one, other in zip(mine, true, strict=True):
        for a, b in zip(one, other, strict=True):
            assert np.array_equal(a, b)


@every_reader
@pytest.mark.parametrize("edit", RIGHT.values(), ids=RIGHT)
def test_files_in_use_give_the_right_target(data, read, edit):
    true = read(data)
    change(data, edit)
    same(read(data), true)


@every_reader
def test_every_encoding_of_json_is_read(data, read):
    file = data / "annotations.json"
    true, text = read(data), file.read_text()
    for encoding in ("utf-8-sig", "utf-16", "utf-16-be", "utf-32"):
        file.write_bytes(text.encode(encoding))
        same(read(data), true)


@every_reader
@pytest.mark.parametrize(("on_disk", "listed"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_with_accents_of_other_systems_are_found(data, read, on_disk, listed):
    true = read(data)
    stored, named = (unicodedata.normalize(form, "0é.png") for form in (on_disk, listed))
    (data / "images/0.png").rename(data / "images" / stored)
    change(data, lambda d: d["images"][0].update(file_name=f"images\\{named}"))
    same(read(data), true)


@every_reader
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bits_are_brought_to_8(data, read, ending):
    true = read(data)
    for path in sorted((data / "images").glob("*.png")):
        wide = tifffile if ending == "tif" else cv2
        wide.imwrite(str(path.with_suffix(f".{ending}")), cv2.imread(str(path)) * np.uint16(257))
    change(data, lambda d: [
        e.update(file_name=e["file_name"].replace("png", ending)) for e in d["images"]
    ])  # fmt: skip
    same(read(data), true)


@every_reader
@pytest.mark.parametrize("orientation", UNTURNED)
def test_a_turned_photograph_is_read_upright(data, read, orientation):
    true = read(data)
    for path in (data / "images").glob("*.png"):
        exif = Image.Exif()
        exif[274] = orientation
        stored = np.ascontiguousarray(UNTURNED[orientation](read_image(path)))
        Image.fromarray(stored).save(path, exif=exif)
    same(read(data), true)


OUTLINES = {
    "none": (None, "neither polygons nor RLE"),
    "empty": ([], "three or more points"),
    "one that is empty": ([[]], "three or more points"),
    "one point": ([[5, 5]], "three or more points"),
    "one point beside a polygon": ([[5, 5, 9, 5, 9, 9], [5, 5]], "three or more points"),
    "points as polygons": ([[5, 5], [9, 5], [9, 9]], "three or more points"),
    "no list of lists": ([5, 5, 9, 5, 9, 9], "three or more points"),
    "NaN": ([[5, 5, 9, 5, 9, float("nan")]], "all of them numbers"),
    "null": ([[5, 5, 9, 5, 9, None]], "all of them numbers"),
    "infinite": ([[5, 5, 9, 5, 9, float("inf")]], "all of them numbers"),
    "odd": ([[5, 5, 9, 5, 9, 9, 1]], "has 7 numbers"),
    "far": ([FAR], "9e.15 pixels away"),
    "far on the other side": ([[-9e15, 1, 9, 5, 3, 5]], "9e.15 pixels away"),
    "huge": ([[0, 0, 1e9, 0, 1e9, 1e9]], "1e.09 pixels away"),
    "a zigzag that is too long to draw": ([ZIGZAG], "1e.07 pixels long"),
    "many outlines that are": ([ZIGZAG[:6]] * 10_000, "pixels long"),
    "too large for a number": ([[10**400, 1, 9, 5, 3, 5]], "cannot be read"),
    "a mapping": ({"points": []}, "neither polygons nor RLE"),
    "text": ("garbage", "neither polygons nor RLE"),
    "RLE of another size": ({"size": [48, 96], "counts": [4608]}, "rows and columns"),
    "RLE of huge size": ({"size": [10**9, 10**9], "counts": [10**18]}, "rows and columns"),
    "RLE without size": ({"size": None, "counts": [9216]}, "cannot be read"),
    "fractions of pixels": ({"size": [96, 96], "counts": [9000.5, 215.5]}, "whole numbers"),
    "an RLE in a list": ([{"size": [96, 96], "counts": [9216]}], "lies in a list"),
    "shares of the image": ([[0.1, 0.1, 0.6, 0.1, 0.6, 0.9]], "between 0 and 1; give them in pix"),
    "text for pixels": ({"size": [96, 96], "counts": ["9216"]}, "whole numbers"),
    "too many": ({"size": [96, 96], "counts": [2**62] * 4 + [9216]}, "runs cover"),
    "no counts": ({"size": [96, 96], "counts": None}, "cannot be read"),
    "counts of counts": ({"size": [96, 96], "counts": {"0": 9216}}, "cannot be read"),
}


@every_reader
@pytest.mark.parametrize("more", [{}, {"area": None}, {"iscrowd": 1}], ids=["", "no area", "crowd"])
def test_a_broken_outline_is_refused_with_file_and_id(data, read, more):
    """In little memory, also where its area has to be counted."""
    for outline, match in OUTLINES.values():
        change(data, lambda d, o=outline: d["annotations"][3].update(segmentation=o, **more))
        with pytest.raises(ValueError, match=match) as error:
            read(data)
        assert "annotations.json: annotation 3" in str(error.value)


@every_reader
@pytest.mark.parametrize("kept", [0, 1, 3, 8])
def test_a_run_length_text_that_is_cut_short_is_refused(data, read, kept):
    def cut(document):
        entry = document["annotations"][3]
        entry["segmentation"]["counts"] = entry["segmentation"]["counts"][:kept]

    change(data, cut)
    with pytest.raises(ValueError, match=r"annotation 3 .*(runs cover|ends within a number)"):
        read(data)


ENTRIES = {
    "crowd": (lambda d: d["annotations"][3].update(iscrowd="yes"), "3 has iscrowd 'yes'"),
    "no such image": (lambda d: d["annotations"][3].update(image_id=99), "3 has the image_id 99"),
    "a list for an id": (lambda d: d["annotations"][3].update(image_id=[0]), r"3: .* id \[0\]"),
    "true for an id": (lambda d: d["annotations"][3].update(category_id=True), "3: .* id True"),
    "two images, one id": (lambda d: d["images"][1].update(id=0), "another image has its id 0"),
    "an image twice": (
        lambda d: d["images"].append({**d["images"][1], "id": 9}), "1.png is listed twice"
    ),
    "two categories, one id": (
        lambda d: d["categories"][1].update(id=1), "another category has its id 1"
    ),
    "a number for a name": (lambda d: d["images"][1].update(file_name=1), "file_name 1"),
    "a name that no system takes": (
        lambda d: [image.update(file_name="é" * 300) for image in d["images"]], "annotations.json"
    ),
    "another width": (lambda d: d["images"][1].update(width=97), "96 x 96 .* states 97 x 96"),
    "text for a height": (lambda d: d["images"][1].update(height="tall"), "height 'tall'"),
    "infinite area": (lambda d: d["annotations"][3].update(area=float("inf")), "area inf"),
    "images are no list": (lambda d: d.update(images={}), "images is no list"),
    "annotations are null": (lambda d: d.update(annotations=None), "annotations is no list"),
    "exhaustive": (lambda d: d.update(exhaustive="no"), "exhaustive 'no'; it must be true or"),
    "area beside the image": (
        lambda d: d["images"][1].update(annotated_area=[200, 200, 300, 200, 300, 300]),
        "1.png: annotated_area cannot be read: it covers no pixel",
    ),
    "broken area": (
        lambda d: d["images"][1].update(annotated_area=[[1, 2]]), "annotated_area cannot be read"
    ),
}  # fmt: skip


@every_reader
@pytest.mark.parametrize(("edit", "match"), ENTRIES.values(), ids=ENTRIES)
def test_a_broken_entry_is_refused_with_file_and_entry(data, read, edit, match):
    change(data, lambda d: d.update(info={"mpp": 0.5}))
    change(data, edit)
    with pytest.raises(ValueError, match=match) as error:
        find_sets(data.parent, "all") if read is suite else read(data)
    assert "annotations.json" in str(error.value)


@pytest.mark.parametrize("mark", [[9e15, 1], [1, -9e15, 3, 3], [0, 0, 1e300, 1e300]])
def test_a_mark_far_outside_is_refused(data, mark):
    change(data, lambda d: d["annotations"][3].update(point=mark))
    entry = next(a for i in read_coco(data / "annotations.json").images for a in i.annotations
                 if a.where.endswith("annotation 3"))  # fmt: skip
    with pytest.raises(ValueError, match=r"annotation 3 .*far outside the image"):
        assert entry.point


@pytest.mark.parametrize("area", [1e-9, 1e300])
def test_areas_that_make_no_pixel_size_are_refused(data, area):
    change(data, lambda d: [a.update(area=area) for a in d["annotations"]])
    with pytest.raises(DataError, match=r"areas of its nuclei would make it .* µm, not"):
        list(read_set(str(data), mpp=0.5))


def test_an_image_is_not_made_absurdly_large():
    with pytest.raises(ValueError, match="times as large; check its pixel size"):
        resize_image(np.zeros((1000, 1000, 3), np.uint8), 80.0)


@pytest.mark.parametrize(
    ("values", "ending", "match"),
    [
        (lambda a: a * np.uint16(16), "png", "reach only 3680 of 65535.*convert"),
        (lambda a: a.astype(np.uint16), "tif", "reach only 230 of 65535.*convert"),
        (lambda a: a.astype(np.float32), "tif", "float32 values; convert it to 8 bits"),
    ],
)
def test_values_of_unknown_range_are_refused(tmp_path, values, ending, match):
    path = tmp_path / f"a.{ending}"
    cv2.imwrite(str(path), values(np.full((8, 8, 3), 230, np.uint8)))
    with pytest.raises(ValueError, match=match):
        read_image(path)


@pytest.mark.parametrize("bits", [9, 12, 14, 15, 16])
@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif", "a.png"])
def test_stated_bits_decide_the_range_as_in_slides(tmp_path, bits, name):
    path, top = tmp_path / name, 2**bits - 1
    picture = np.arange(96 * 96 * 3, dtype=np.uint32).reshape(96, 96, 3) * 37 % 231
    stored = np.round(picture / 255 * top).astype(np.uint16)
    if name == "a.png":
        data = cv2.imencode(".png", stored[..., ::-1])[1].tobytes()
        chunk = b"sBIT" + bytes([bits] * 3)
        chunk = (3).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        path.write_bytes(data[:33] + chunk + data[33:])
    elif name == "a.tif":
        tifffile.imwrite(path, stored, photometric="rgb", extratags=[(281, 3, 1, top, True)])
    else:
        stated = {"axes": "YXS", "SignificantBits": bits}
        tifffile.imwrite(path, stored, photometric="rgb", metadata=stated)
    found = read_image(path)
    np.testing.assert_array_equal(found, picture)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_region(Box(0, 0, 96, 96)), found)


@pytest.mark.parametrize("premultiplied", [False, True])
@pytest.mark.parametrize("name", ["a.tif", "deep.tif", "grey.tif", "a.png", "deep.png", "a.webp"])
def test_what_is_transparent_is_white_as_in_slides(tmp_path, name, premultiplied):
    path, picture = tmp_path / name, np.full((40, 50, 4), 210, np.uint8)
    picture[:9, :, 3], picture[9:20, :, 3], picture[20:, :, 3] = 0, 51, 255
    picture[:9, :, :3] = 0
    if premultiplied:
        picture[9:20, :, :3] = 42
    if name.startswith("grey"):
        picture = picture[..., [0, 3]]
    pixels = picture.astype(np.uint16) * 257 if name.startswith("deep") else picture
    if name.endswith("tif"):
        grey = {"photometric": "minisblack", "planarconfig": "contig"}
        options = grey if name.startswith("grey") else {"photometric": "rgb"}
        alpha = "assocalpha" if premultiplied else "unassalpha"
        tifffile.imwrite(path, pixels, metadata=None, extrasamples=[alpha], **options)
    elif premultiplied:
        return  # PNG and WebP have no such alpha
    elif name == "deep.png":
        cv2.imwrite(str(path), pixels)
    else:
        Image.fromarray(pixels).save(path, lossless=True)
    found = read_image(path)
    assert [found[y, 0, 0] for y in (0, 10, 30)] == [255, 246, 210]
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_region(Box(0, 0, 50, 40)), found)


@pytest.mark.parametrize("compression", ["jpeg2000", "jpegxl", "webp", "zstd", "lzma", "lzw"])
def test_every_compression_of_a_tiff_is_read_as_in_slides(tmp_path, compression):
    path = tmp_path / "a.tif"
    picture = np.arange(40 * 50 * 3).reshape(40, 50, 3).astype(np.uint8) // 2 + 100
    tifffile.imwrite(path, picture, photometric="rgb", compression=compression)
    found = read_image(path)
    assert found.min() >= 90, "OpenCV gives black where it lacks the compression"
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_region(Box(0, 0, 50, 40)), found)


@pytest.mark.parametrize(
    ("axes", "what"),
    [("ZYXS", "focal planes"), ("CYX", "channels"), ("TYXS", "time points"), ("", "pages")],
)
def test_a_tiff_of_several_planes_is_refused(tmp_path, axes, what):
    path = tmp_path / ("a.ome.tif" if axes else "a.tif")
    planes = np.full((3, 40, 50, 3)[: len(axes) or 3], 230, np.uint8)
    options = {"photometric": "rgb" if axes[-1:] == "S" else "minisblack"}
    tifffile.imwrite(path, planes, metadata={"axes": axes} if axes else None, **options)
    with pytest.raises(ValueError, match=f"several {what}; save one image"):
        read_image(path)


def test_a_tiff_whose_first_image_is_small_is_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for side in (20, 40):
            file.write(np.full((side, side, 3), 230, np.uint8), photometric="rgb", metadata=None)
    with pytest.raises(ValueError, match="first image is not its largest"):
        read_image(tmp_path / "a.tif")


def test_a_turned_tiff_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    Image.new("RGB", (8, 9)).save(path, tiffinfo={274: 6})
    with pytest.raises(ValueError, match="stored turned"):
        read_image(path)
