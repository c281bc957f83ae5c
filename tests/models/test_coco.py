"""Laws of reading COCO sets, the same for both trainings and for evaluation."""

import math

import numpy as np
import pytest
from drawn_cells import RADIUS, centres, change, disc
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco
from wsiseg_models.training.coco import Split, read_coco
from wsiseg_models.training.coco_masks import decode_mask
from wsiseg_models.training.crops import targets_of
from wsiseg_models.training.instance_data import load_instance_set
from wsiseg_models.training.semantic_data import load_set

from wsi_pipeline.evaluation.coco_fields import read_set

READERS = {
    "pixels": lambda spec: load_set(spec, mpp=0.5, split=Split("none"), categories=("nucleus",)),
    "instances": lambda spec: load_instance_set(spec, mpp=0.5, split=Split("none")),
    "evaluation": lambda spec: list(read_set(spec, mpp=0.5)),
}
every_reader = pytest.mark.parametrize("read", READERS.values(), ids=READERS)


def load(folder, mpp=0.5):
    return load_instance_set(f"{folder}@0.5", mpp=mpp, split=Split("none"))


def test_a_set_is_read_as_it_was_drawn(data):
    found = load_instance_set(f"{data}@0.5", mpp=0.5, split=Split("fold:1/5"))
    assert [s.name for s in found.held] == ["images/1.png"]
    assert len(found.train) == 4
    assert found.skipped == {}
    assert "stated" in found.train[0].origin
    samples = load(data).train
    for sample, places in zip(samples, centres(), strict=False):
        drawn = [disc(96, *xy, RADIUS[category]) for xy in places for category in (2, 1)]
        assert sample.labels.tolist() == [1, 2] * 3
        assert sample.cell_id.tolist() == [0, 0, 1, 1, 2, 2]
        masks = targets_of(sample)["masks"].astype(bool)
        assert (masks[2:] == drawn[2:]).all()  # RLE is exact, polygons nearly
        for mine, true in zip(masks[:2], drawn[:2], strict=True):
            assert (mine ^ true).sum() < 0.15 * true.sum()
    assert len(samples[4]) == 0


def test_masks_shrink_with_their_image(data):
    whole, half = load(data).train[0], load(data, mpp=1.0).train[0]
    assert half.image.shape == (48, 48, 3)
    mine = targets_of(half)["masks"].astype(bool)
    share = targets_of(whole)["masks"].reshape(len(whole), 48, 2, 48, 2).mean((2, 4))
    assert mine[share == 1].all()
    assert not mine[share == 0].any()
    assert mine.sum() == pytest.approx(share.sum(), rel=0.05)  # halves count


def test_what_cannot_be_learned_from_is_skipped_and_counted(data):
    def edit(document):
        document["images"].append({"id": 9, "file_name": "images/lost.png"})
        document["categories"].append({"id": 3, "name": "Leukocyte_Nucleus"})
        document["categories"].append({"id": 4, "name": "never used"})
        shapes = [{"iscrowd": 1}, {"category_id": 3}, {"image_id": 9}]
        shapes.append({"segmentation": [[10, 10, 11, 10, 11, 11, 10, 11]]})  # one pixel
        shapes.append({"segmentation": [[-30, -30, 20, -30, 20, 20, -30, 20]]})
        base = document["annotations"][0]
        document["annotations"] = [base | {"image_id": 4} | s for s in shapes]

    change(data, edit)
    found = load(data)
    assert found.skipped == {
        "image not there": 1, "crowd": 1, "leukocyte_nucleus": 1, "under 4 px": 1
    }  # fmt: skip
    assert [len(s) for s in found.train] == [0, 0, 0, 0, 1]
    assert found.train[4].windows.tolist() == [[0, 0, 20, 20]]
    assert found.train[4].masks[0].all()


BROKEN = [
    ({"category_id": 7}, "has the category_id 7; the file has 1 nucleus"),
    ({"segmentation": {"size": [96, 96], "counts": "garbage"}}, "cannot be read"),
    ({"segmentation": {"size": [96, 96], "counts": "SW_25"}}, "runs cover"),
    ({"segmentation": {"size": [96, 96], "counts": "h"}}, "ends within a number"),
    ({"segmentation": {"size": [96, 96], "counts": "é"}}, "no digit of a compressed RLE"),
    ({"segmentation": {"size": [96, 96], "counts": [10, 20]}}, "runs cover 30 of 9216"),
    ({"segmentation": {"size": [96, 96], "counts": [-1, 9217]}}, "runs cover 9216 of 9216"),
    ({"segmentation": {"size": [9, 9], "counts": [81]}}, r"has \(9, 9\) and its image \(96, 96\)"),
    ({"segmentation": {"size": [96, 96]}}, "neither polygons nor RLE"),
    ({"segmentation": [[1, 2, 3, 4]]}, "three or more points"),
    ({"segmentation": []}, "three or more points"),
    ({"segmentation": [[1, 2, 3, 4, 5, math.nan]]}, "all of them numbers"),
    ({"segmentation": [[1, 2, 3, 4, 5]]}, "cannot be read"),
    ({"segmentation": [["a", "b", "c", "d", "e", "f"]]}, "cannot be read"),
    ({"segmentation": None}, "neither polygons nor RLE"),
    ({"cell_id": "first"}, "cannot be read"),
    ({"area": "large"}, "cannot be read"),
    ({"area": -1}, "area -1"),
]


@every_reader
@pytest.mark.parametrize(("change_to", "match"), BROKEN)
def test_every_reader_names_the_broken_annotation(data, read, change_to, match):
    change(data, lambda document: document["annotations"][3].update(change_to))
    with pytest.raises(ValueError, match=match) as error:
        read(f"{data}@0.5")
    assert "annotations.json: annotation 3 " in str(error.value)


@every_reader
def test_every_reader_names_the_broken_file(data, tmp_path, read):
    file = data / "annotations.json"
    text = file.read_text()
    for broken, match in (
        (text[:500], "annotations.json is not JSON"),
        ("[]", "no images, annotations, categories"),
        (text.replace('"images"', '"pictures"', 1), "has no images; it must be a COCO file"),
        (text.replace('"image_id"', '"image"', 1), "annotation 0 has no image_id"),
        (text.replace('"file_name"', '"file"', 1), "image number 0 has no file_name"),
        (text.replace('"name": "nuc', '"title": "nuc', 1), "category number 0 has no name"),
    ):
        file.write_text(broken)
        with pytest.raises(ValueError, match=match):
            read(f"{data}@0.5")
    with pytest.raises(ValueError, match="does not exist; give a folder"):
        read(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="'x' is no pixel size"):
        read(f"{data}@x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no annotations"):
        read(str(tmp_path / "empty"))
    file.write_text(text)
    (data / "images" / "0.png").write_text("no image")
    with pytest.raises(ValueError, match=r"0.png: not an image"):
        read(f"{data}@0.5")


@every_reader
def test_every_reader_needs_a_pixel_size(data, read):
    change(data, lambda document: document["annotations"].clear())
    with pytest.raises(ValueError, match=r"no pixel size for images/0.png .* give DIR@MPP"):
        read(str(data))
    change(data, lambda document: document.update(info={"mpp": "fine"}))
    with pytest.raises(ValueError, match="states mpp 'fine'"):
        read(str(data))


@every_reader
def test_entries_may_be_null(data, read):
    """As files in use have them: nuclei of no cell, areas that are not known."""
    nothing = {"cell_id": None, "area": None, "iscrowd": None}
    change(data, lambda document: document["annotations"][3].update(nothing))
    read(f"{data}@0.5")
    assert load(data).train[0].cell_id.tolist() == [0, 0, 1, -1, 2, 2]


def test_categories_of_no_use_are_refused_with_those_there_are(data):
    change(data, lambda document: document["categories"][1].update(name="spindle"))
    with pytest.raises(ValueError, match="'spindle'; known: cytoplasm, cell, nucleus"):
        READERS["instances"](f"{data}@0.5")
    with pytest.raises(ValueError, match=r"categories nucleus, spindle, and none of wall"):
        load_set(f"{data}@0.5", mpp=0.5, split=Split("none"), categories=("wall",))


def test_a_set_of_nuclei_alone_does_not_teach_that_there_are_no_cells(data):
    change(data, lambda document: document["categories"][1].update(name="overlapped_nuclei"))
    with pytest.raises(ValueError, match="24 nuclei and no cell"):
        load(data)


def test_an_area_that_is_not_stated_is_counted(data):
    stated = [
        [a.area for a in image.annotations] for image in read_coco(data / "annotations.json").images
    ]
    change(data, lambda document: [a.pop("area") for a in document["annotations"]])
    counted = [
        [a.area for a in image.annotations] for image in read_coco(data / "annotations.json").images
    ]
    for mine, true in zip(counted, stated, strict=True):
        assert mine == pytest.approx(true, rel=0.2)
        assert mine[2:] == true[2:]  # RLE


@given(st.data(), st.integers(1, 12), st.integers(1, 12))
def test_run_lengths_decode_as_pycocotools_decodes_them(draw, height, width):
    pixels = draw.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    whole = np.array(pixels, np.uint8).reshape(height, width)
    rle = coco.encode(np.asfortranarray(whole))
    long_runs = np.diff(np.flatnonzero(np.diff(whole.T.ravel(), prepend=2, append=2)))
    counts = [0, *long_runs.tolist()] if whole.T.ravel()[0] else long_runs.tolist()
    for counted in (rle["counts"], rle["counts"].decode(), counts):
        segmentation = {"size": [height, width], "counts": counted}
        (x0, y0, x1, y1), mask = decode_mask(segmentation, (height, width))
        mine = np.zeros_like(whole)
        mine[y0:y1, x0:x1] = mask
        assert np.array_equal(mine, whole)
        if mask.size:  # no window is larger than its mask
            assert mask[0].any() and mask[-1].any() and mask[:, 0].any() and mask[:, -1].any()


@pytest.mark.parametrize(
    "text", ["thirds", "fold:5/5", "fold:-1/5", "fold:0/0", "time:2", "none:1"]
)
def test_splits_that_make_no_sense_are_refused(text):
    with pytest.raises(ValueError, match=f"unknown split '{text}'; use fold:0/5"):
        Split(text)
