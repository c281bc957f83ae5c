"""Exported OME-Zarr follows OME-NGFF 0.5: images, labels, their colours and properties."""

import json
import re
from itertools import pairwise

import numpy as np
import pytest
import shapely
import zarr
from families import families, linked

from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.objects import Objects, is_cell
from wsi_pipeline.formats import _ngff
from wsi_pipeline.formats.geojson import class_color
from wsi_pipeline.formats.ome_zarr import write_label_image
from wsi_pipeline.slides.slide import open_slide

SIZE = {"width": 261, "height": 250, "mpp": 0.5}


def texture(box: Box, factor: float) -> np.ndarray:
    """Pixels that differ everywhere, in place of a slide's."""
    y, x = np.mgrid[box.y0 : box.y1, box.x0 : box.x1]
    return np.stack([x % 251, y % 241, np.full(x.shape, round(factor))], 2).astype(np.uint8)


def check_multiscale(group: zarr.Group) -> list[zarr.Array]:
    """The rules for `multiscales`, and for the arrays it names."""
    assert group.metadata.zarr_format == 3
    ome = group.attrs["ome"]
    assert ome["version"] == "0.5"
    (scales,) = ome["multiscales"]
    axes = [a["name"] for a in scales["axes"]]
    kinds = [a["type"] for a in scales["axes"]]
    assert (
        axes in (["y", "x"], ["c", "y", "x"])
        and kinds == ["channel", "space", "space"][-len(axes) :]
    )
    assert all(a["unit"] == "micrometer" for a in scales["axes"] if a["type"] == "space")
    arrays, sizes = [], []
    for dataset in scales["datasets"]:
        scale, shift = dataset["coordinateTransformations"]
        assert (scale["type"], shift["type"]) == ("scale", "translation")
        assert len(scale["scale"]) == len(shift["translation"]) == len(axes)
        array = group[dataset["path"]]
        assert list(array.metadata.dimension_names) == axes
        arrays.append(array)
        sizes.append(scale["scale"])
        # The edge of the first pixel is the corner of the slide, at every level.
        corner = np.subtract(shift["translation"][-2:], np.divide(scale["scale"][-2:], 2))
        assert np.allclose(corner, -SIZE["mpp"] / 2)
    assert len({a.dtype for a in arrays}) == 1
    assert sizes == sorted(sizes), "from the finest level to the coarsest"
    for finer, coarser in pairwise(arrays):
        assert coarser.shape[-2:] == tuple(-(-n // 2) for n in finer.shape[-2:])
    return arrays


def check_labels(root: zarr.Group, objects: Objects, image: bool) -> None:
    """The rules for the group `labels` and each label image in it."""
    labels = root["labels"]
    names = labels.attrs["ome"]["labels"]
    assert labels.attrs["ome"]["version"] == "0.5" and set(names) == {k for k, _ in labels.groups()}
    for name in names:
        group = labels[name]
        arrays = check_multiscale(group)
        assert all(a.dtype == np.uint32 for a in arrays)
        about = group.attrs["ome"]["image-label"]
        assert about.get("source") == ({"image": "../../"} if image else None)
        values = [c["label-value"] for c in about["colors"]]
        assert len(set(values)) == len(values) and values == [
            p["label-value"] for p in about["properties"]
        ]
        assert all(
            len(c["rgba"]) == 4 and all(type(v) is int and 0 <= v <= 255 for v in c["rgba"])
            for c in about["colors"]
        )
        for array in arrays:
            assert set(np.unique(array[:])) - {0} <= set(values)
        mine = is_cell(objects) == (name == "cells")
        assert values == (np.flatnonzero(mine) + 1).tolist()
        for color, entry in zip(about["colors"], about["properties"], strict=True):
            kind = objects.classes[objects.class_index[entry["label-value"] - 1]]
            assert entry["class"] == kind and color["rgba"] == [*class_color(kind), 255]
            assert type(entry["id"]) is str and 0 <= entry["score"] <= 1


@pytest.mark.parametrize("image", [False, True])
def test_the_metadata_follow_the_specification(tmp_path, image):
    objects = families(11)
    path = tmp_path / "a.ome.zarr"
    pixels = texture if image else None
    write_label_image(path, objects, **SIZE, chunk=64, pixels=pixels)
    json.loads((path / "labels/nuclei/zarr.json").read_text("utf-8"), parse_constant=pytest.fail)
    root = zarr.open_group(path, mode="r")
    check_labels(root, objects, image)
    assert ("ome" in root.attrs) == image
    if image:
        arrays = check_multiscale(root)
        assert [a.shape for a in arrays] == [
            (3, *a.shape) for _, a in sorted(root["labels/cells"].arrays())
        ]
        channels = root.attrs["ome"]["omero"]["channels"]
        assert [c["label"] for c in channels] == ["red", "green", "blue"]
        for channel in channels:
            assert re.fullmatch("[0-9A-F]{6}", channel["color"])
            assert set(channel["window"]) == {"min", "max", "start", "end"}


def test_the_image_is_read_back_as_a_slide(tmp_path):
    path = tmp_path / "a.ome.zarr"
    write_label_image(path, families(2), **SIZE, chunk=64, pixels=texture)
    with open_slide(path) as slide:
        assert (slide.width, slide.height) == (SIZE["width"], SIZE["height"])
        assert slide.require_mpp().value == SIZE["mpp"]
        assert [level.downsample for level in slide.levels] == [1, 2, 4, 8]
        whole = Box(0, 0, slide.width, slide.height)
        assert np.array_equal(slide.read_region(whole), texture(whole, 1))


def test_label_images_are_named_after_what_they_hold(tmp_path):
    both = families(3)
    cells = is_cell(both)
    alone = both.take(~cells)
    for name, objects, found in [
        ("linked", both, ["cells", "nuclei"]),
        (
            "nuclei",
            Objects(**{**vars(alone), "parent": None, "classes": ("a", "b", "c")}),
            ["nuclei"],
        ),
    ]:
        write_label_image(tmp_path / name, objects, **SIZE)
        root = zarr.open_group(tmp_path / name, mode="r")
        assert root["labels"].attrs["ome"]["labels"] == found


def test_a_long_list_of_objects_is_left_out_and_that_is_stated(tmp_path, monkeypatch):
    monkeypatch.setattr(_ngff, "LISTED", 5)
    write_label_image(tmp_path / "a.zarr", families(3), **SIZE)
    nuclei = zarr.open_group(tmp_path / "a.zarr", mode="r")["labels/nuclei"]
    assert nuclei.attrs["ome"]["image-label"] == {}
    assert nuclei.attrs["wsiseg"]["listed"] is False


def test_objects_without_a_pixel_are_a_warning(tmp_path, caplog):
    apart = linked(
        [shapely.box(0, 0, 40, 40), shapely.box(5, 5, 9, 9)], ["cell", "nucleus"], [-1, 0]
    )
    write_label_image(tmp_path / "a.zarr", apart, **SIZE)
    assert caplog.messages == []
    write_label_image(tmp_path / "b.zarr", apart, **SIZE, scale=20)
    assert len(caplog.messages) == 1
    assert "1 of 1 nuclei show in no pixel" in caplog.messages[0]
