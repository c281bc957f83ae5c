"""Images with label images become a training set; cells and nuclei are joined by their place."""

import json

import cv2
import numpy as np
import pytest
import tifffile
from command_line import complaint, succeed, wsiseg
from drawn_cells import disc
from wsiseg_models.training.coco import Split
from wsiseg_models.training.instance_data import load_instance_set
from wsiseg_models.training.semantic_data import load_set

from wsi_pipeline.corrections.from_labels import LABELS

SIDE = 128
CELLS = ((40, 40, 30, 9), (80, 70, 34, 10), (20, 110, 12, 5))


def draw():
    """Image, nuclei and whole cells; the second cell covers part of the first."""
    image = np.full((SIDE, SIDE, 3), 230, np.uint8)
    nuclei, cells = (np.zeros((SIDE, SIDE), np.uint16) for _ in range(2))
    for k, (x, y, radius, _) in enumerate(CELLS, 1):
        cells[disc(SIDE, x, y, radius)] = 7 * k
    for k, (x, y, _, nucleus) in enumerate(CELLS, 1):
        nuclei[disc(SIDE, x, y, nucleus)] = 1000 * k
    image[cells > 0] -= 30
    image[nuclei > 0] //= 2
    return image, nuclei, cells


@pytest.fixture
def labelled(tmp_path):
    """Folders images/, nuclei/ and cells/ of two images."""
    image, nuclei, cells = draw()
    for name in ("images", "nuclei", "cells"):
        (tmp_path / name).mkdir()
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), image[..., ::-1])
        cv2.imwrite(str(tmp_path / "nuclei" / f"{name}_labels.png"), nuclei)
        tifffile.imwrite(tmp_path / "cells" / f"{name}.tif", cells.astype(np.uint32))
    return tmp_path


def make(folder, *options, out="set"):
    return succeed("dataset", "from-labels", folder / "images", "--nuclei", folder / "nuclei",
                   "--mpp", 0.5, "--out", folder / out, *options)  # fmt: skip


def test_labels_are_what_training_reads(labelled):
    shown = make(labelled, "--cells", labelled / "cells")
    assert "2 images, 6 nuclei, 6 cells" in shown and ".tif" in LABELS
    image, nuclei, cells = draw()
    train, _ = load_set(str(labelled / "set"), mpp=0.5, split=Split("none"))
    for sample in train:
        assert np.array_equal(sample.image, image)
        assert np.array_equal(sample.labels > 0, nuclei > 0)
        assert len(np.unique(sample.labels)) == len(np.unique(nuclei))
    both = load_instance_set(str(labelled / "set"), mpp=0.5, split=Split("none")).train[0]
    drawn = {1: set(), 2: set()}
    for i in range(len(both)):
        mask = np.zeros((SIDE, SIDE), bool)
        both.view(mask, i)[:] = both.masks[i]
        drawn[int(both.labels[i])].add((int(both.cell_id[i]), mask.tobytes()))
    for k in (1, 2, 3):
        assert (k, (nuclei == 1000 * k).tobytes()) in drawn[2]
        own = (cells == 7 * k) | (nuclei == 1000 * k)  # a cell includes its nucleus
        assert (k, own.tobytes()) in drawn[1]


def test_masks_and_partial_labels(labelled):
    _, nuclei, _ = draw()
    for file in (labelled / "nuclei").iterdir():
        cv2.imwrite(str(file), (nuclei > 0).astype(np.uint8) * 255)
    call = ("dataset", "from-labels", labelled / "images", "--nuclei", labelled / "nuclei",
            "--mpp", 0.5, "--out", labelled / "set")  # fmt: skip
    assert "--components" in complaint(wsiseg(*call), 2)
    succeed(*call, "--components", "--partial")
    train, _ = load_set(str(labelled / "set"), mpp=0.5, split=Split("none"))
    assert all(np.array_equal(s.labels > 0, nuclei > 0) for s in train)
    assert all((s.labels[nuclei == 0] == -1).all() and s.labels.max() == 3 for s in train)


def test_what_is_no_label_image_is_refused(labelled):
    call = ("dataset", "from-labels", labelled / "images", "--mpp", 0.5, "--out", labelled / "set")
    image, nuclei, _ = draw()
    file = labelled / "nuclei" / "a_labels.png"
    for wrong, told in (
        (image, "without colours"),
        (nuclei[:64], "give the labels of that image"),
    ):
        cv2.imwrite(str(file), wrong)
        assert told in complaint(wsiseg(*call, "--nuclei", labelled / "nuclei"), 2)
    file.unlink()
    assert "0 label images of a.png" in complaint(wsiseg(*call, "--nuclei", labelled / "nuclei"), 2)
    assert "--mpp 90" in complaint(wsiseg(*call, "--nuclei", file, "--mpp", 90), 2)
    assert not (labelled / "set" / "annotations.json").exists()


def test_an_image_without_objects_is_background(labelled):
    for file in (labelled / "nuclei").iterdir():
        cv2.imwrite(str(file), np.zeros((SIDE, SIDE), np.uint8))
    make(labelled)
    document = json.loads((labelled / "set" / "annotations.json").read_text("utf-8"))
    assert document["annotations"] == [] and len(document["images"]) == 2
    train, _ = load_set(str(labelled / "set"), mpp=0.5, split=Split("none"))
    assert not any(s.labels.any() for s in train)
