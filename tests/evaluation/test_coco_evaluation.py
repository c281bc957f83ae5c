"""A model against COCO sets: what is read, found and stored, and `wsiseg evaluate` with it."""

from __future__ import annotations

import json
import sys

import cv2
import numpy as np
import pytest
from click import Context
from click.testing import CliRunner
from drawn_masks import instances_of, masks
from pycocotools import mask as coco

from wsi_pipeline.cli.main import cli
from wsi_pipeline.core.errors import DataError, UsageError
from wsi_pipeline.evaluation.coco_evaluation import evaluate_model
from wsi_pipeline.evaluation.coco_fields import read_set
from wsi_pipeline.evaluation.find_masks import find_in
from wsi_pipeline.evaluation.mask_metrics import mask_overlaps
from wsi_pipeline.segmentation import load_model as registry
from wsi_pipeline.segmentation.cells import InstanceModel
from wsi_pipeline.segmentation.nuclei import LabelModel, PixelModel


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
    change(folder, annotations=[{"image_id": 1}])
    with pytest.raises(DataError, match="annotation number 0 has no category_id"):
        list(read_set(f"{folder}@0.5", mpp=0.5))
    (folder / "a.png").write_text("x")
    with pytest.raises(DataError, match=r"a\.png: not an image"):
        list(read_set(f"{folder}@0.5", mpp=0.5))
    change(folder, annotations=[])
    (folder / "a.png").unlink()
    with pytest.raises(DataError, match="DIR@MPP"):
        list(read_set(str(folder), mpp=0.5))
    with pytest.raises(DataError, match="truth for nothing, not for cell or nucleus"):
        evaluate_model(model_of(InstanceModel, dark_boxes), [f"{folder}@0.5"])
    with pytest.raises(UsageError, match="'component'"):
        evaluate_model(model_of(InstanceModel, dark_boxes, ("component",)), [f"{folder}@0.5"])


def test_a_model_that_finds_everything(folder):
    """The boxes of cells and nuclei are what the stand-in finds; nuclei rank below score 0.5."""
    model = model_of(InstanceModel, dark_boxes)
    scores, parts = evaluate_model(model, [f"{folder}@0.5"], cut=0.2)
    assert (parts["none"]["true"], parts["none"]["recall 0.7"], parts["all"]["true"]) == (4, 1, 4)
    assert list(scores) == ["cell", "nucleus", "all"]
    for name in ("AP", "F1", "AJI", "Dice", "pixel IoU"):
        assert scores["all"][name] == pytest.approx(1), name
    assert (scores["all"]["true"], scores["all"]["images"]) == (8, 2)
    higher, parts = evaluate_model(model, [f"{folder}@0.5"], cut=0.6)
    assert parts["all"]["recall 0.5"] == 0
    assert higher["nucleus"]["recall"] == 1, "black boxes come first and so rank highest"
    assert higher["cell"]["recall"] == 0
    assert higher["cell"]["AP"] == 1
    assert evaluate_model(model, [f"{folder}@0.5"], score=0.6)[0]["cell"]["AP"] == 0


@pytest.mark.parametrize("how", ["crowd", "not exhaustive", "area"])
def test_what_is_unknown_counts_nowhere(folder, how):
    """The model finds everything; one nucleus is a crowd, or outside of what was annotated."""
    document = json.loads((folder / "annotations.json").read_text())
    if how == "crowd":
        for entry in document["annotations"][4:6]:
            entry["iscrowd"] = 1
    else:
        del document["annotations"][4:6]
        document["exhaustive"] = False
    if how == "area":
        document["annotated_area"] = [28, 0, 64, 0, 64, 52, 28, 52]
    change(folder, **document)
    model = model_of(InstanceModel, dark_boxes)
    scores, _ = evaluate_model(model, [f"{folder}@0.5"], cut=0.2)
    assert (scores["nucleus"]["true"], scores["nucleus"]["found"]) == (2, 2)
    for name in ("AP", "F1", "precision", "recall", "pixel IoU"):
        assert scores["nucleus"][name] == pytest.approx(1), name
    left = [a for a in document["annotations"] if not a["iscrowd"]]
    change(folder, exhaustive=True, annotated_area=None, annotations=left)
    scores, _ = evaluate_model(model, [f"{folder}@0.5"], cut=0.2)
    assert scores["nucleus"]["precision"] == 0.5


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
    heads = [number for number, line in enumerate(shown) if line.startswith("Whole cells by")]
    assert shown[heads[0] + 1].split() == ["all", "none", "light", "medium", "heavy"]
    assert [line.split() for line in shown if line.startswith("visible IoU  ")] == [
        ["visible", "IoU", "1.0000", "1.0000", "–", "–", "–"]
    ]
    assert written["overlap"]["light"]["visible IoU"] is None
    table = [line.split(",") for line in (out / "overlap.csv").read_text().splitlines()]
    assert table[0] == ["score", "all", "none", "light", "medium", "heavy"]
    assert ["visible IoU", "1.0", "1.0", "", "", ""] in table
    for option, value in (("--score", "2"), ("--cut", "-1"), ("--max-dets", "-3")):
        result = CliRunner().invoke(cli, [*args, option, value])
        assert result.exit_code == 2
        assert f"{option} {value}" in result.stderr


def test_models_without_cells_have_no_parts(folder, tmp_path, monkeypatch):
    model = model_of(LabelModel, lambda image: np.zeros(image.shape[:2], int), ("nucleus",))
    monkeypatch.setattr(registry, "open_model", lambda *a, **k: model)
    args = ["evaluate", "--data", f"{folder}@0.5", "--out", str(tmp_path / "out")]
    assert "Whole cells" not in CliRunner().invoke(cli, args).stdout
    assert json.loads((tmp_path / "out/results.json").read_text())["overlap"] == {}
    assert not (tmp_path / "out/overlap.csv").exists()


def test_without_pycocotools_the_error_names_the_remedy(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    result = CliRunner().invoke(cli, ["evaluate", "--data", str(folder)])
    assert result.exit_code == 2
    assert "pip install" in result.stderr


def test_quiet_commands_leave_a_result_or_refuse(folder, monkeypatch):
    """Each command with --quiet writes a file, or refuses: `evaluate` and `population`."""
    monkeypatch.setattr(registry, "open_model", lambda *a, **k: pytest.fail("it computes"))
    result = CliRunner().invoke(cli, ["evaluate", "--quiet", "--data", f"{folder}@0.5"])
    assert result.exit_code == 2
    assert "add --out" in result.stderr
    for name in cli.list_commands(Context(cli)):
        params = {p.name: p for p in cli.get_command(Context(cli), name).params}
        if "quiet" in params and name not in ("evaluate", "population", "view"):
            writes = params.get("out") or params["destination"]
            always = writes.required or writes.default is not None
            assert always or "[default:" in writes.help, f"{name} --quiet must have a result"
