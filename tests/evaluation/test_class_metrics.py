"""Laws of precision and recall of each class of nuclei; generated sets with two classes."""

import json

import numpy as np
import pytest
from drawn_masks import masks

from wsi_pipeline.core.errors import DataError
from wsi_pipeline.evaluation.class_metrics import class_rows, score_classes, truth_of_classes
from wsi_pipeline.evaluation.coco_evaluation import evaluate_model
from wsi_pipeline.evaluation.coco_fields import read_set
from wsi_pipeline.segmentation.nuclei import PixelModel
from wsi_pipeline.synthetic.fields import POSITIVE_KINDS, write_fields

CLASSES = ("negative", "positive")
CATEGORIES = ("negative_nucleus", "positive_nucleus")


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """Generated fields with two classes of nuclei, and the same with one."""
    folder = tmp_path_factory.mktemp("fields")
    for name, two in (("two", True), ("one", False)):
        write_fields(folder / name, count=2, size_px=192, mpp=0.5, seed=4, two_classes=two)
    return folder


def squares(*corners):
    return masks(*((x, y, x + 4, y + 4) for x, y in corners), shape=(32, 32))


def test_a_hand_made_case():
    """Three true negative and two positive nuclei; one positive is called negative, one is lost."""
    truth = {
        "negative": squares((1, 1), (9, 1), (17, 1)), "positive": squares((1, 20), (9, 20)),
    }  # fmt: skip
    found = {
        "negative": squares((1, 1), (9, 1), (1, 20)), "positive": squares((9, 20), (25, 25)),
    }  # fmt: skip
    scores = score_classes([found], [truth], CLASSES, cut=0.5)
    assert (scores["negative"]["precision"], scores["negative"]["recall"]) == (2 / 3, 2 / 3)
    assert (scores["positive"]["precision"], scores["positive"]["recall"]) == (0.5, 0.5)
    assert [scores["positive"][k] for k in ("right", "found", "true")] == [1, 2, 2]
    rows = class_rows(scores, "dssnet")
    assert rows[0][1:] == [*CLASSES, "published, other images: positive"]
    assert ["precision", "0.6667", "0.5000", "0.9663"] in rows
    assert len(class_rows(scores, "other")[0]) == 3


def test_a_set_without_these_categories_is_refused():
    some = squares((1, 1))
    with pytest.raises(DataError, match="has nuclei of nucleus, not of negative or positive"):
        truth_of_classes({"nucleus": some}, CLASSES, (), "set")
    own = truth_of_classes({"positive_nucleus": some}, CLASSES, CATEGORIES, "set")
    assert [len(own[name]) for name in CLASSES] == [0, 1]


def test_generated_fields_have_a_category_for_each_class_and_the_same_images(fields):
    documents = [json.loads((fields / n / "annotations.json").read_text()) for n in ("two", "one")]
    two, one = documents
    assert [c["name"] for c in two["categories"]] == [CATEGORIES[0], "cytoplasm", CATEGORIES[1]]
    names = {c["id"]: c["name"] for c in two["categories"]}
    for a, b in zip(two["annotations"], one["annotations"], strict=True):
        positive = b["category_id"] == 1 and b["kind"] in POSITIVE_KINDS
        assert names[a["category_id"]] == CATEGORIES[1] if positive else a == b
    for name in ("field_0000.png", "field_0001.png"):
        images = [(fields / n / "images" / name).read_bytes() for n in ("two", "one")]
        assert images[0] == images[1]
    kinds = {a["category_id"] for a in two["annotations"]}
    assert kinds == {1, 2, 4}


def test_a_network_that_returns_the_truth_is_right_in_each_class(fields):
    spec = f"{fields / 'two'}@0.5"
    truth = iter(list(read_set(spec, mpp=0.5, nuclei=CATEGORIES)))

    def network(images):
        from pycocotools import mask as coco

        field = next(truth)
        h, w = images.shape[1:3]
        planes = np.zeros((1, 2, h, w), np.uint8)
        for k, name in enumerate(CATEGORIES):
            inside = coco.decode(field.nuclei[name].union)
            planes[0, k, : inside.shape[0], : inside.shape[1]] = 250 * inside
        planes[0, 0][planes[0, 1] > 0] = 0
        return planes

    model = PixelModel(
        name="dssnet", classes=CLASSES, mpp=0.5, halo_px=0, stride=8, tile_px=256, identity="x",
        network=network,
    )  # fmt: skip
    kinds, pixels = {}, {}
    scores, _ = evaluate_model(
        model, [spec], kinds=kinds, pixels=pixels, categories=CATEGORIES, max_dets=None
    )
    assert set(scores) == {"nucleus", "all"} and set(kinds) == set(CLASSES) == set(pixels)
    assert kinds["positive"]["true"] > 0 and kinds["negative"]["true"] > 0
    assert kinds["positive"]["recall"] > 0.7 and kinds["negative"]["precision"] > 0.6
    assert pixels["positive"].scores()["sensitivity"] > 0.9
