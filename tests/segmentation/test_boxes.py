"""Boxes on slides: each exactly once, whole, with its class, whatever the tiles.

The slide's pixels encode their own position, so the model can compute the true boxes of each
window, cut at the window's edge.
"""

import gzip
import json

import cv2
import numpy as np
import pytest
import torch
from wsiseg_models.checkpoint import Card, save_checkpoint
from wsiseg_models.registry import MODELS

from wsi_pipeline import RunConfig, run_slide
from wsi_pipeline.formats.geoparquet import read_parquet
from wsi_pipeline.reports.slide_summary import summarise
from wsi_pipeline.segmentation.boxes import BOX_HEIGHT, BOX_WIDTH, BoxModel
from wsi_pipeline.segmentation.model import Instances

WIDTH, HEIGHT = 1400, 1100
CLASSES = ("nucleus", "cell", "clump")


def slide(folder):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    image = np.stack([x % 256, y % 256, x // 256 + 16 * (y // 256)], 2).astype(np.uint8)
    path = folder / "where.tif"
    cv2.imwrite(str(path), image[..., ::-1])
    return path


def scene(large=()):
    """Boxes x0, y0, x1, y1, class and score; some lie in others, of another class."""
    rng = np.random.default_rng(4)
    rows = []
    for k in range(160):
        x, y = 40 + 90 * (k % 15) + rng.uniform(-20, 20), 40 + 95 * (k // 15) + rng.uniform(-20, 20)
        w, h = rng.uniform(14, 40, 2)
        rows.append((x, y, x + w, y + h, 0, 0.6 + 0.39 * rng.random()))
        if k % 3 == 0:  # nearly the same box, of another class
            rows.append((x - 2, y - 2, x + w + 2, y + h + 2, 1 + k % 2, 0.6 + 0.39 * rng.random()))
    return np.array([*rows, *((*box, 2, 0.9) for box in large)])


def oracle(rows, halo=128, jitter=0.0):
    def find(image):
        h, w = image.shape[:2]
        row, column = np.argwhere(image[..., 2] < 96)[0]  # beyond the slide it is white
        r, g, b = (int(v) for v in image[row, column])
        ox, oy = (b % 16) * 256 + r - column, (b // 16) * 256 + g - row
        moved = rows[:, :4] - (ox, oy, ox, oy)
        moved += jitter * np.sin(ox + 2 * oy + np.arange(4 * len(rows)).reshape(-1, 4))
        boxes = np.clip(moved, 0, (w, h, w, h))
        kept = ((boxes[:, 2:] - boxes[:, :2]) > 3).all(1)
        order = np.argsort(-rows[kept, 5], kind="stable")
        return Instances(
            boxes[kept][order].astype(np.float32), rows[kept, 4][order].astype(np.uint8),
            rows[kept, 5][order].astype(np.float32), np.zeros((kept.sum(), 0, 0), np.uint8),
        )  # fmt: skip

    return BoxModel(
        name="oracle", classes=CLASSES, mpp=0.5, halo_px=halo, stride=64, tile_px=512,
        identity="oracle", by_class=True, network=lambda images: [find(i) for i in images],
    )  # fmt: skip


def found(tmp_path, name, model, **settings):
    settings = {"min_score": 0.5, "foreground": "all"} | settings
    config = RunConfig(out=tmp_path / name, mpp=0.5, quiet=True, overwrite=True, **settings)
    result = run_slide(slide(tmp_path), config, model=model)
    assert not result.failed
    return read_parquet(result.folder / "objects.parquet"), result


def check_all_there(objects, rows, off=0.02):
    """Each true box on the slide exactly once, with its class and score."""
    true = np.clip(rows[:, :4], 0, (WIDTH, HEIGHT, WIDTH, HEIGHT))
    kept = ((true[:, 2:] - true[:, :2]) > 3).all(1)
    true, rows, bounds = true[kept], rows[kept], objects.bounds()
    assert len(objects) == len(true)
    away = np.abs(bounds[None] - true[:, None]).max(2)
    away[objects.class_index[None] != rows[:, 4, None]] = np.inf
    match = away.argmin(1)
    assert len(set(match)) == len(match) and away.min(1).max() <= off
    assert np.allclose(objects.score[match], rows[:, 5], atol=1e-4)
    sides = bounds[:, 2:] - bounds[:, :2]
    assert np.allclose(objects.features[BOX_WIDTH], sides[:, 0] * 0.5, atol=0.02)
    assert np.allclose(objects.features[BOX_HEIGHT], sides[:, 1] * 0.5, atol=0.02)


@pytest.mark.parametrize(("tile_px", "jitter"), [(2048, 0.0), (256, 0.0), (384, 0.4)])
def test_every_box_is_there_once_also_on_seams_and_of_two_classes(tmp_path, tile_px, jitter):
    rows = scene()
    objects, _ = found(tmp_path, "a", oracle(rows, jitter=jitter), tile_px=tile_px)
    check_all_there(objects, rows, 0.02 + jitter)
    assert len(np.unique(objects.ids, axis=0)) == len(objects)


@pytest.mark.slow
def test_a_box_wider_than_the_halo_is_whole(tmp_path):
    rows = scene([(250, 300, 800, 560), (120, 700, 330, 1080)])
    objects, result = found(tmp_path, "a", oracle(rows, halo=64), tile_px=256)
    check_all_there(objects, rows)
    assert result.summary["objects_larger_than_seen"] == 0


def test_boxes_become_detections_of_qupath_and_carry_nothing_that_is_not_known(tmp_path):
    """No area, shape or stain of a nucleus; not counted as nuclei or cells; a cell is no cell."""
    rows = scene()
    _, result = found(tmp_path, "a", oracle(rows), tile_px=512)
    with gzip.open(result.folder / "objects.geojson.gz") as file:
        features = json.load(file)["features"]
    assert len(features) == result.objects
    for feature in features:
        about, (ring,) = feature["properties"], feature["geometry"]["coordinates"]
        assert about["objectType"] == "detection" and "nucleusGeometry" not in feature
        assert set(about["measurements"]) == {"Detection probability", BOX_WIDTH, BOX_HEIGHT}
        assert len(ring) == 5 and len({x for x, _ in ring}) == len({y for _, y in ring}) == 2
    assert {f["properties"]["classification"]["name"] for f in features} == set(CLASSES)
    row = summarise(result.folder)
    assert row["objects"] == result.objects
    unknown = ("nuclei", "cells", "large_nuclei", "nucleus_area_um2_median", "adequacy")
    assert all(row[name] is None for name in unknown)


def test_boxes_below_the_score_or_the_size_are_left_out(tmp_path):
    rows = scene()
    objects, _ = found(tmp_path, "a", oracle(rows), min_score=0.8, min_area_um2=150.0)
    area = (rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1]) * 0.25
    check_all_there(objects, rows[(rows[:, 5] >= 0.8) & (area >= 150)])


@pytest.mark.slow
def test_the_result_does_not_depend_on_batch_and_workers(tmp_path):
    model = oracle(scene(), jitter=0.4)
    one, _ = found(tmp_path, "a", model, tile_px=256, workers=1, batch=1)
    other, _ = found(tmp_path, "b", model, tile_px=256, workers=2, batch=8)
    for column in ("ids", "coords", "score", "class_index", "ring_offsets"):
        assert np.array_equal(getattr(one, column), getattr(other, column))


@pytest.mark.slow
def test_a_checkpoint_of_boxes_gives_the_same_boxes_for_every_tile_size(tmp_path):
    """Through the real network, untrained, with a halo that is wider than what its boxes see.

    Tiles stand on the grid of the coarsest level, and frozen norms see no mean of the window. Only
    anchors above the glass count, so that no limit on their number depends on the window.
    """
    torch.manual_seed(0)
    options = {
        "classes": 2, "backbone": "resnet18", "trunk_width": 8, "frozen": "none", "fpn_width": 16,
        "head_convs": 1,
    }  # fmt: skip
    rng = np.random.default_rng(0)
    image = np.full((512, 512, 3), 255, np.uint8)
    noise = cv2.GaussianBlur(rng.normal(0, 1, (256, 256, 3)), (0, 0), 5)
    image[128:384, 128:384] = cv2.normalize(noise, None, 20, 250, cv2.NORM_MINMAX)
    cv2.imwrite(str(tmp_path / "field.png"), image[..., ::-1])
    entry = MODELS["retinanet"]
    network = entry.builder(**options).eval()
    with torch.no_grad():
        x = (torch.from_numpy(image).permute(2, 0, 1)[None].float() - 128) / 128
        logits = network.head(list(network.backbone(x).values()))["cls_logits"]
    options["score"] = float(logits.sigmoid().flatten().quantile(0.998))
    card = Card(
        name="retinanet", task="boxes", classes=("a", "b"), mpp=1.0, halo_px=512, stride=128,
        options=options,
    )  # fmt: skip
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, entry.for_inference(network).state_dict(), card)
    parts = []
    for tile_px in (512, 256):
        config = RunConfig(checkpoint=path, out=tmp_path / str(tile_px), quiet=True, mpp=1.0,
                           foreground="all", min_score=0.0, tile_px=tile_px)  # fmt: skip
        result = run_slide(tmp_path / "field.png", config)
        parts.append(read_parquet(result.folder / "objects.parquet"))
    for one, other in (parts, parts[::-1]):
        bounds = one.bounds()
        away = np.abs(bounds[:, None] - other.bounds()[None]).max(2)
        away[one.class_index[:, None] != other.class_index[None]] = np.inf
        # Large anchors on flat glass have one and the same score, so that rounding decides which
        # of them stays; they reach the border of the slide.
        inside = ((bounds > 0) & (bounds < 512)).all(1)
        inside &= (bounds[:, 2:] - bounds[:, :2] < 128).all(1)
        assert inside.sum() > 20
        assert (away.min(1)[inside] < 0.1).all()
