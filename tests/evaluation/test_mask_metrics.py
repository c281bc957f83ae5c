"""Metrics of overlapping instances: by hand on 8 × 8 images, and against pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
import math

import cv2
import numpy as np
import pytest
import shapely
from click import Context
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from wsi_pipeline.cli.main import cli
from wsi_pipeline.core.errors import DataError, UsageError
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.evaluation.cell_metrics import polygon_ap, score_cells
from wsi_pipeline.evaluation.coco_evaluation import evaluate_model
from wsi_pipeline.evaluation.coco_fields import read_set
from wsi_pipeline.evaluation.find_masks import find_in
from wsi_pipeline.evaluation.mask_metrics import (
    Masks,
    challenge_cells,
    challenge_nuclei,
    coco_ap,
    donet_aji,
    donet_f1,
    mask_overlaps,
    score_class,
    score_instances,
)
from wsi_pipeline.formats.convert import SlideInfo, export
from wsi_pipeline.segmentation import load_model as registry
from wsi_pipeline.segmentation.cells import InstanceModel
from wsi_pipeline.segmentation.model import Instances, paste
from wsi_pipeline.segmentation.nuclei import LabelModel, PixelModel


def masks(*boxes, scores=None, shape=(8, 8)):
    """Instances that are boxes x0, y0, x1, y1."""
    rles = []
    for x0, y0, x1, y1 in boxes:
        mask = np.zeros(shape, np.uint8, order="F")
        mask[y0:y1, x0:x1] = 1
        rles.append(coco.encode(mask))
    return Masks(rles, np.array(np.ones(len(boxes)) if scores is None else scores, float), shape)


# Two true cells of 16 px side by side; found: the first and 4 px of the second (IoU 16/20), the
# upper half of the second (IoU 8/16, Dice 16/24), and 4 px of nothing.
TRUTH = masks((0, 0, 4, 4), (4, 0, 8, 4))
FOUND = masks((0, 0, 5, 4), (4, 0, 8, 2), (0, 6, 2, 8), scores=(0.9, 0.8, 0.7))
NONE = masks()


@st.composite
def crowds(draw, side=40, most=6):
    corner = st.tuples(*[st.integers(0, side - 5)] * 2, *[st.integers(1, 12)] * 2)
    boxes = draw(st.lists(corner, max_size=most))
    scores = draw(st.lists(st.integers(1, 9), min_size=len(boxes), max_size=len(boxes)))
    inside = [(x, y, min(x + w, side), min(y + h, side)) for x, y, w, h in boxes]
    return inside, np.array(scores) / 10


def drawn(crowd, side=40):
    return masks(*crowd[0], scores=crowd[1], shape=(side, side))


def test_overlaps_by_hand():
    table = mask_overlaps(FOUND, TRUTH)
    pairs = zip(table.a.tolist(), table.b.tolist(), table.shared, strict=True)
    assert list(pairs) == [(0, 0, 16), (0, 1, 4), (1, 1, 8)]
    assert table.iou == pytest.approx([16 / 20, 4 / 32, 8 / 16])
    assert table.dice == pytest.approx([32 / 36, 8 / 36, 16 / 24])
    assert (table.area_a.tolist(), table.area_b.tolist()) == ([20, 8, 4], [16, 16])


def test_ap_by_hand():
    """Right, wrong, right: precision 1 up to recall 0.5 (51 of 101 points), then 2/3."""
    found = masks((0, 0, 4, 4), (0, 6, 2, 8), (4, 0, 8, 4), scores=(0.9, 0.8, 0.7))
    scores = coco_ap([found], [TRUTH])
    for name in ("AP", "AP50", "AP75", "APs"):
        assert scores[name] == pytest.approx((51 + 50 * 2 / 3) / 101), name
    assert math.isnan(scores["APl"])


def independent_ap(found, truth):
    """The usual way to call pycocotools, through its result files."""
    images = [{"id": k + 1, "height": t.shape[0], "width": t.shape[1]} for k, t in enumerate(truth)]
    true, results = COCO(), []
    true.dataset = {"images": images, "categories": [{"id": 7, "name": "x"}], "annotations": []}
    for k, (f, t) in enumerate(zip(found, truth, strict=True)):
        for rle in t.rles:
            true.dataset["annotations"].append(
                {"id": len(true.dataset["annotations"]) + 1, "image_id": k + 1, "category_id": 7,
                 "segmentation": rle, "area": float(coco.area(rle)), "iscrowd": 0}
            )  # fmt: skip
        for rle, score in zip(f.rles, f.scores, strict=True):
            results.append(
                {"image_id": k + 1, "category_id": 7, "segmentation": rle, "score": score}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        true.createIndex()
        judge = COCOeval(true, true.loadRes(results), "segm")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return [math.nan if v < 0 else v for v in judge.stats[:6]]


def test_ap_is_that_of_pycocotools():
    rng = np.random.default_rng(5)
    found, truth = [], []
    for _ in range(6):
        low = rng.integers(0, 150, (14, 2))
        boxes = np.hstack([low, low + rng.integers(6, 140, (14, 2))])
        truth.append(masks(*boxes[:11], shape=(300, 300)))
        moved = np.clip(boxes[3:] + rng.integers(-4, 5, (11, 4)), 0, 300)
        found.append(masks(*moved, scores=rng.random(11), shape=(300, 300)))
    expected = independent_ap(found, truth)
    assert 0.1 < expected[0] < 0.9
    assert list(coco_ap(found, truth).values()) == pytest.approx(expected, nan_ok=True)


def test_more_objects_than_coco_counts():
    """Of 120 that are all right, 100 give recall 0.83, which 84 of 101 points do not exceed."""
    boxes = [(x, y, x + 1, y + 1) for x in range(12) for y in range(10)]
    many = masks(*boxes, scores=np.linspace(1, 0.5, 120), shape=(12, 12))
    assert coco_ap([many], [many])["AP"] == pytest.approx(84 / 101)
    assert coco_ap([many], [many], max_dets=None)["AP"] == 1
    assert score_class([many], [many])["beyond AP's limit"] == 20
    assert score_class([many], [many], max_dets=None)["beyond AP's limit"] == 0


def test_donet_f1_by_hand():
    """IoU 0.5 is not over 0.5, so one of the two pairs counts: 2 · 1 / (3 + 2)."""
    table = mask_overlaps(FOUND, TRUTH)
    assert donet_f1([table]) == pytest.approx(0.4)
    assert donet_f1([table, mask_overlaps(TRUTH, TRUTH)]) == pytest.approx(0.7)


def test_who_loses_a_prediction_takes_the_next_best():
    """Both true ones want the first; the one of IoU 1 gets it, the other the second (6/8)."""
    truth, found = masks((0, 0, 8, 1), (1, 0, 8, 1)), masks((1, 0, 8, 1), (2, 0, 8, 1))
    assert donet_f1([mask_overlaps(found, truth)]) == 1


def test_two_kinds_of_aji():
    """One found over both true ones, IoU 0.5 each: DoNet's lets it be taken once, Kumar's twice."""
    both = mask_overlaps(masks((0, 0, 8, 4)), TRUTH)
    assert donet_aji([both]) == pytest.approx(16 / (32 + 16))
    assert score_class([masks((0, 0, 8, 4))], [TRUTH])["AJI"] == pytest.approx(32 / 64)
    # Pairs 16/20 and 8/16, and 4 px that nobody took.
    assert donet_aji([mask_overlaps(FOUND, TRUTH)]) == pytest.approx(24 / (20 + 16 + 4))
    # Under IoU 0.5 (4/16) DoNet's does not pair, Kumar's does.
    corner = masks((0, 0, 2, 2))
    assert donet_aji([mask_overlaps(corner, TRUTH)]) == 0
    assert score_class([corner], [TRUTH])["AJI"] == pytest.approx(4 / 32)


def test_challenge_scores_by_hand():
    """One good pair (Dice 32/36): all of the true cell, and 4 of the 48 px outside it."""
    table = mask_overlaps(FOUND, TRUTH)
    assert challenge_cells([table], [64]) == pytest.approx(
        {"Dice": 32 / 36, "TPp": 1, "FPp": 4 / 48, "FNp": 0, "FNo": 1 / 2}
    )
    blind = mask_overlaps(NONE, TRUTH)
    pooled = challenge_cells([table, blind], [64, 64])
    assert pooled["FNo"] == 3 / 4, "cells of an image without detections are missed"
    assert pooled["Dice"] == pytest.approx(32 / 36)
    # 16/20 and 16/16 are over 0.6; of the second true one only 8/16 is shared.
    assert challenge_nuclei([table]) == pytest.approx(
        {"detection precision": 1 / 3, "detection recall": 1 / 2, "detection Dice": 32 / 36}
    )


def test_counts_and_cut_by_hand():
    scores = score_class([FOUND], [TRUTH])
    assert (scores["true"], scores["found"]) == (2, 3)
    assert [scores[k] for k in ("F1", "precision", "recall", "mean IoU", "PQ")] == pytest.approx(
        [4 / 5, 2 / 3, 1, 0.65, 2 * 1.3 / 5]
    )
    assert scores["pixel IoU"] == pytest.approx(26 / 36)
    sure = score_class([FOUND], [TRUTH], cut=0.9)
    assert (sure["found"], sure["recall"]) == (1, 0.5)
    assert sure["AP50"] == scores["AP50"], "AP ranks what was found, whatever the cut"


def test_nothing_found_or_nothing_there():
    undefined = score_class([NONE], [NONE])
    names = [k for k, v in undefined.items() if not math.isnan(v)]
    assert names == ["images", "true", "found", "beyond AP's limit"]
    blind = score_class([NONE], [TRUTH])
    assert [blind[k] for k in ("AP", "F1", "AJI", "F1 (DoNet)", "FNo")] == [0, 0, 0, 0, 1]
    assert math.isnan(blind["Dice"])
    invented = score_class([TRUTH], [NONE])
    assert [invented[k] for k in ("F1", "AJI", "AJI (DoNet)", "F1 (DoNet)")] == [0] * 4
    assert math.isnan(invented["AP"])
    both = mask_overlaps(NONE, NONE), mask_overlaps(TRUTH, TRUTH)
    assert donet_f1(both) == donet_aji(both) == 1, "an empty image says nothing"


@given(crowds().filter(lambda c: 0 < len(c[0]) == len(set(c[0]))))
@settings(max_examples=25)
def test_a_copy_is_perfect(crowd):
    truth = drawn(crowd)
    scores = score_class([truth], [truth], cut=0)
    for name in ("AP", "AP75", "F1", "PQ", "AJI", "AJI (DoNet)", "F1 (DoNet)", "Dice", "TPp"):
        assert scores[name] == pytest.approx(1), name
    assert scores["FPp"] == scores["FNp"] == scores["FNo"] == 0


@given(crowds(), crowds())
@settings(max_examples=25)
def test_overlaps_are_those_of_pixels(a, b):
    table = mask_overlaps(drawn(a), drawn(b))
    shared = np.zeros((len(a[0]), len(b[0])))
    shared[table.a, table.b] = table.shared
    one, two = ([coco.decode(r) for r in drawn(c).rles] for c in (a, b))
    assert shared.tolist() == [[float((p & q).sum()) for q in two] for p in one]


def test_classes_and_background():
    """What a set has no truth of is left out; background is where no class is."""
    found = [{"cell": FOUND, "nucleus": NONE}, {"cell": TRUTH, "nucleus": TRUTH}]
    truth = [{"cell": TRUTH, "nucleus": NONE}, {"nucleus": TRUTH}]
    scores = score_instances(found, truth, ("cell", "nucleus"))
    assert (scores["cell"]["images"], scores["nucleus"]["images"]) == (1, 2)
    assert scores["cell"]["F1"] == pytest.approx(0.8)
    assert scores["nucleus"]["F1"] == 1
    assert scores["all"]["F1"] == pytest.approx(0.9)
    assert (scores["all"]["true"], scores["all"]["images"]) == (4, 2)
    # 30 px found, 32 true, 26 shared: background shares 28 of 38.
    assert scores["all"]["pixel IoU"] == pytest.approx((26 / 36 + 1) / 2)
    assert scores["all"]["pixel IoU with background"] == pytest.approx((26 / 36 + 1 + 28 / 38) / 3)


def objects_of(boxes, classes, scores=None, parent=None):
    names = tuple(dict.fromkeys(classes)) or ("cell",)
    n = len(boxes)
    return Objects.from_polygons(
        [shapely.box(*b) for b in boxes],
        classes=names,
        ids=np.arange(2 * n, dtype=np.uint64).reshape(n, 2),
        class_index=np.array([names.index(c) for c in classes], np.uint8),
        score=np.array(np.ones(n) if scores is None else scores, np.float32),
        parent=parent,
    )


@given(crowds(), crowds())
@settings(max_examples=40)
def test_ap_of_polygons_is_that_of_their_masks(a, b):
    found, truth = (objects_of(c[0], ["cell"] * len(c[0]), c[1]) for c in (a, b))
    expected = coco_ap([drawn(a)], [drawn(b)])["AP50"]
    ious = mask_overlaps(drawn(a), drawn(b)).iou
    if len(np.unique(ious)) == len(ious):  # two that are as good: COCO takes the later one
        assert polygon_ap(found, truth) == pytest.approx(expected, nan_ok=True)


def test_ap_of_polygons_by_hand():
    truth = objects_of([(0, 0, 4, 4), (4, 0, 8, 4)], ["cell"] * 2)
    found = objects_of([(0, 6, 2, 8), (4, 0, 8, 4), (0, 0, 4, 4)], ["cell"] * 3, (0.8, 0.7, 0.9))
    assert polygon_ap(found, truth) == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert polygon_ap(objects_of([], []), truth) == 0


def linked(parent):
    """Two cells with two nuclei each, nuclei last."""
    boxes = [(0, 0, 20, 20), (30, 0, 50, 20)]
    nuclei = [(1, 1, 4, 4), (10, 1, 14, 4), (31, 1, 34, 4), (40, 1, 44, 4)]
    return objects_of(boxes + nuclei, ["cell"] * 2 + ["nucleus"] * 4, parent=np.array(parent))


def parts(objects):
    cells = objects.class_index == 0
    return objects.take(~cells), objects.take(cells), objects.parent[~cells]


def test_links_by_hand():
    truth = linked([-1, -1, 0, 0, 1, -1])  # three links
    perfect = score_cells(truth, *parts(truth))
    assert (perfect["true links"], perfect["links right"], perfect["links found"]) == (3, 1, 1)
    assert perfect["cell AP"] == perfect["cell F1"] == perfect["nucleus F1"] == 1
    # The second nucleus is given to the wrong cell, the third is not found at all.
    found = linked([-1, -1, 0, 1, 1, 0]).take(np.array([5, 3, 2, 1, 0]))
    scores = score_cells(found, *parts(truth))
    assert scores["links right"] == 1 / 2
    assert scores["links found"] == pytest.approx(1 / 3)
    assert scores["nucleus F1"] == pytest.approx(6 / 7)
    # A cell that is missed takes its links with it, but is no wrong link.
    some = score_cells(truth.take(np.array([0, 2, 3, 4, 5])), *parts(truth))
    assert (some["links right"], some["cell F1"]) == (1, pytest.approx(2 / 3))
    assert some["links found"] == pytest.approx(2 / 3)


def test_links_of_results_without_any():
    truth = linked([-1, -1, 0, 0, 1, -1])
    nuclei, cells, links = parts(truth)
    alone = score_cells(nuclei, nuclei, cells, links)
    assert (alone["cells"], alone["cell AP"], alone["nucleus F1"]) == (0, 0, 1)
    assert math.isnan(alone["links right"])
    assert alone["links found"] == 0
    with pytest.raises(ValueError, match="cell 1 do not fit 4 true nuclei and 0 true cells"):
        score_cells(truth, nuclei, cells.take(np.zeros(0, int)), links)


def instances_of(boxes, scores, classes, grid=255):
    n = len(boxes)
    return Instances(
        np.array(boxes, np.float32).reshape(n, 4), np.array(classes, np.uint8),
        np.array(scores, np.float32), np.full((n, 28, 28), grid, np.uint8),
    )  # fmt: skip


def test_a_full_grid_fills_its_box():
    """Pixels whose centres lie in the box; what lies outside of the image is cut."""
    found = instances_of([(1, 2, 5, 4), (1.6, 0, 3.4, 8), (-3, 6, 2, 11)], [1] * 3, [0] * 3)
    shown = np.zeros((3, 8, 8), int)
    for k, (window, mask) in enumerate(paste(found, (8, 8))):
        shown[k][window] = mask
    expected = np.zeros((3, 8, 8), int)
    expected[0, 2:4, 1:5] = expected[1, :, 2:3] = expected[2, 6:, :2] = 1
    assert np.array_equal(shown, expected)
    ((_, mask),) = paste(instances_of([(0, 0, 9, 9)], [1], [0], 127), (9, 9))
    assert not mask.any()


def test_a_mask_is_read_between_the_centres_of_its_grid():
    """Left half certain: of 28 columns over 56 pixels, the border falls in the middle."""
    found = instances_of([(2, 1, 58, 57)], [1], [0])
    found.masks[:, :, 14:] = 0
    ((window, mask),) = paste(found, (60, 60))
    assert window == (slice(1, 57), slice(2, 58))
    assert mask[:, :28].all()
    assert not mask[:, 28:].any()


def model_of(kind, network, classes=("cell", "nucleus")):
    return kind(
        name="stand-in", classes=classes, mpp=0.5, halo_px=0, stride=32, tile_px=64,
        identity="x", network=network,
    )  # fmt: skip


def dark_boxes(images):
    """Stand-in for a network: cells are grey boxes, nuclei black ones, each of a colour."""
    assert images.shape[1] % 32 == images.shape[2] % 32 == 0
    boxes, classes = [], []
    for value in np.unique(images[..., 0]):
        if value < 200:
            rows, cols = np.nonzero(images[0, ..., 0] == value)
            boxes.append((cols.min(), rows.min(), cols.max() + 1, rows.max() + 1))
            classes.append(int(value < 100))
    return [instances_of(boxes, np.linspace(0.9, 0.3, len(boxes)), classes)]


BOXES = {150: (4, 4, 24, 24), 151: (30, 8, 50, 20), 50: (8, 8, 12, 12), 51: (34, 10, 40, 14)}


@pytest.fixture
def folder(tmp_path):
    """Two images of 52 × 64 with two cells and two nuclei each; run lengths and polygons."""
    annotations = []
    image = np.full((52, 64, 3), 255, np.uint8)
    for value, (x0, y0, x1, y1) in BOXES.items():
        image[y0:y1, x0:x1] = value
        mask = np.zeros((52, 64), np.uint8, order="F")
        mask[y0:y1, x0:x1] = 1
        rle = {**coco.encode(mask), "counts": coco.encode(mask)["counts"].decode()}
        corners = [x0, y0, x1, y0, x1, y1, x0, y1]
        for image_id, shape in ((1, rle), (2, [corners])):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image_id, "segmentation": shape,
                 "category_id": 1 if value < 100 else 2, "area": int(mask.sum()), "iscrowd": 0}
            )  # fmt: skip
    for name in "ab":
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
    document = {
        "images": [{"id": k + 1, "file_name": f"{n}.png"} for k, n in enumerate("ab")],
        "categories": [{"id": 1, "name": "Nucleus"}, {"id": 2, "name": "cytoplasm"}],
        "annotations": annotations,
    }
    (tmp_path / "annotations.json").write_text(json.dumps(document))
    return tmp_path


def change(folder, **entries):
    file = folder / "annotations.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


@pytest.mark.parametrize(("mpp", "scale"), [(0.5, 1), (0.25, 2), (1.0, 0.5)])
def test_a_set_is_read_at_the_models_scale(folder, mpp, scale):
    for field in read_set(f"{folder}@0.5", mpp=mpp):
        assert field.image.shape == (52 * scale, 64 * scale, 3)
        for name, values in (("cell", (150, 151)), ("nucleus", (50, 51))):
            boxes = [[round(v * scale) for v in BOXES[k]] for k in values]
            expected = masks(*boxes, shape=field.image.shape[:2])
            table = mask_overlaps(field.truth[name], expected)
            assert table.iou.tolist() == [1, 1], (field.name, name)


def test_parts_of_a_set(folder):
    assert [f.name for f in read_set(f"{folder}@0.5", mpp=0.5, split="fold:1/2")] == ["b.png"]
    document = json.loads((folder / "annotations.json").read_text())
    document["annotations"][0]["iscrowd"] = 1
    change(folder, annotations=document["annotations"])
    first, second = read_set(f"{folder}@0.5", mpp=0.5)
    assert (len(first.truth["cell"]), len(second.truth["cell"])) == (1, 2)
    # The median nucleus has 20 px, which are 42 µm² at 1.45 µm per pixel.
    assert next(read_set(str(folder), mpp=(42 / 20) ** 0.5)).image.shape[:2] == (52, 64)
    change(folder, info={"mpp": 1.0})
    assert next(read_set(str(folder), mpp=0.5)).image.shape[:2] == (104, 128)


@pytest.mark.parametrize(
    ("spec", "split", "said"),
    [
        ("@0", "all", "'0' is no pixel size"),
        ("@x", "all", "'x' is no pixel size"),
        ("", "odd:1", "unknown split 'odd:1'"),
        ("", "fold:0/0", "unknown split 'fold:0/0'"),
        ("", "none", "none takes"),
        ("/nowhere", "all", "does not exist; give a folder"),
    ],
)
def test_sets_that_cannot_be_used(folder, spec, split, said):
    with pytest.raises((DataError, UsageError), match=said):
        list(read_set(f"{folder}{spec}", mpp=0.5, split=split))


def test_broken_sets(folder):
    (folder / "a.png").write_text("x")
    with pytest.raises(DataError, match=r"a\.png: not an image"):
        list(read_set(f"{folder}@0.5", mpp=0.5))
    change(folder, annotations=[{"image_id": 1}])
    with pytest.raises(DataError, match="annotation number 0 has no category_id"):
        list(read_set(f"{folder}@0.5", mpp=0.5))
    change(folder, annotations=[])
    (folder / "a.png").unlink()
    with pytest.raises(DataError, match="DIR@MPP"):
        list(read_set(str(folder), mpp=0.5))
    with pytest.raises(DataError, match="truth for nothing, not for cell or nucleus"):
        evaluate_model(model_of(InstanceModel, dark_boxes), [f"{folder}@0.5"])
    with pytest.raises(UsageError, match="'component'"):
        evaluate_model(model_of(InstanceModel, dark_boxes, ("component",)), [f"{folder}@0.5"])


def test_a_model_that_sees_everything(folder):
    """The boxes of cells and nuclei are what the stand-in finds; nuclei rank below score 0.5."""
    model = model_of(InstanceModel, dark_boxes)
    scores = evaluate_model(model, [f"{folder}@0.5"], cut=0.2)
    assert list(scores) == ["cell", "nucleus", "all"]
    for name in ("AP", "F1", "AJI", "Dice", "pixel IoU"):
        assert scores["all"][name] == pytest.approx(1), name
    assert (scores["all"]["true"], scores["all"]["images"]) == (8, 2)
    higher = evaluate_model(model, [f"{folder}@0.5"], cut=0.6)
    assert higher["nucleus"]["recall"] == 1, "black boxes come first and so rank highest"
    assert higher["cell"]["recall"] == 0
    assert higher["cell"]["AP"] == 1
    assert evaluate_model(model, [f"{folder}@0.5"], score=0.6)["cell"]["AP"] == 0


def test_networks_of_pixels_and_functions(folder):
    def predict(images):
        return np.where(images[:, None, :, :, 0] < 100, 240, 0).astype(np.uint8)

    def label(image):
        return np.where(image[..., 0] < 100, image[..., 0], 0)

    (field, _) = read_set(f"{folder}@0.5", mpp=0.5)
    for model, score in (
        (model_of(PixelModel, predict, ("odd",)), 240 / 255),
        (model_of(LabelModel, label, ("nucleus",)), 1),
    ):
        found = find_in(model, field.image)
        assert list(found) == ["nucleus"]
        # 16 and 24 px are 4 and 6 µm², which `predict`'s decoding calls debris.
        count = 0 if isinstance(model, PixelModel) else 2
        assert len(found["nucleus"]) == count
        big = find_in(model, np.kron(field.image, np.ones((2, 2, 1), np.uint8)))["nucleus"]
        assert len(big) == 2
        assert big.scores == pytest.approx([score] * len(big))


def test_the_command(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "open_model", lambda *a, **k: model_of(InstanceModel, dark_boxes))
    out = tmp_path / "out"
    args = ["evaluate", "--data", f"{folder}@0.5", "--cut", "0.2", "--out", str(out)]
    shown = CliRunner().invoke(cli, args).stdout.splitlines()
    assert shown[0].startswith("stand-in at 0.5 µm per pixel")
    assert shown[1].split() == ["cell", "nucleus", "all"]
    rows = {line.split("  ")[0]: line.split()[-3:] for line in shown}
    assert rows["AP"] == ["1.0000"] * 3
    assert rows["APl"] == ["–"] * 3
    written = json.loads((out / "results.json").read_text())
    assert (written["mpp"], written["cut"], written["scores"]["cell"]["AP"]) == (0.5, 0.2, 1)
    assert written["scores"]["cell"]["APl"] is None
    table = [line.split(",") for line in (out / "results.csv").read_text().splitlines()]
    assert table[0] == ["score", "cell", "nucleus", "all"]
    assert ["APl", "", "", ""] in table
    assert json.loads(CliRunner().invoke(cli, [*args, "--json"]).stdout) == written
    for option, value in (("--score", "2"), ("--cut", "-1"), ("--max-dets", "-3")):
        result = CliRunner().invoke(cli, [*args, option, value])
        assert result.exit_code == 2
        assert f"{option} {value}" in result.stderr


def test_quiet_commands_leave_a_result_or_refuse(folder, monkeypatch):
    """Each command with --quiet writes a file or folder; `evaluate` alone may not, and refuses."""
    monkeypatch.setattr(registry, "open_model", lambda *a, **k: pytest.fail("it computes"))
    result = CliRunner().invoke(cli, ["evaluate", "--quiet", "--data", f"{folder}@0.5"])
    assert result.exit_code == 2
    assert "add --out" in result.stderr
    for name in cli.list_commands(Context(cli)):
        params = {p.name: p for p in cli.get_command(Context(cli), name).params}
        if "quiet" in params and name != "evaluate":
            writes = params.get("out") or params["destination"]
            always = writes.required or writes.default is not None
            assert always or "RUN_FOLDER" in writes.help, f"{name} --quiet must have a result"


def test_score_of_cells(tmp_path):
    truth = linked([-1, -1, 0, 0, 1, -1])
    nuclei, cells, _ = parts(truth)
    for name, objects in (("run", truth), ("nuclei", nuclei), ("cells", cells)):
        export(objects, tmp_path / f"{name}.geojson.gz", format="geojson.gz", slide=SlideInfo())

    def score(*args):
        paths = [a if a.startswith("-") else str(tmp_path / f"{a}.geojson.gz") for a in args]
        return CliRunner().invoke(cli, ["score", *paths, "--json"])

    scores = json.loads(score("run", "nuclei", "--cells", "cells").stdout)
    assert (scores["cell AP"], scores["nucleus F1"], scores["IoU threshold"]) == (1, 1, 0.5)
    assert (scores["true links"], scores["links right"]) == (0, None)
    whole = json.loads(score("run", "nuclei", "--cells", "run").stdout)
    assert (whole["true links"], whole["links right"], whole["nucleus F1"]) == (3, 1, 1)
    assert "leave --class out" in score("run", "nuclei", "--cells", "run", "--class", "cell").stderr
    wrong = score("run", "nuclei", "--cells", "nuclei")
    assert wrong.exit_code == 2
    assert "has 4 objects and none of class 'cell'" in wrong.stderr
