"""The plan of the work: each model takes a tile size, or the size is refused in words."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from marked_models import marked_models
from wsiseg_models.checkpoint import Card, save_checkpoint, weights_path
from wsiseg_models.instance.config import LIGHT
from wsiseg_models.registry import MODELS

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import ConfigError, DataError
from wsi_pipeline.pipeline import run_slide
from wsi_pipeline.runs.work_plan import plan_work, read_overview, read_roi, tile_size
from wsi_pipeline.segmentation.load_model import open_model
from wsi_pipeline.segmentation.nuclei import PixelModel, model_from_function
from wsi_pipeline.segmentation.ownership import REGION_PX
from wsi_pipeline.slides.slide import open_slide

TINY = {
    **LIGHT, "trunk_width": 16, "fpn_width": 16, "mask_width": 16, "mask_convs": 1,
    "fusion_width": 16, "box_width": 32, "rpn_post_nms": (40, 40), "max_detections": 20,
}  # fmt: skip
TINY_DETECTOR = {
    "backbone": "resnet18", "trunk_width": 8, "norm": "group", "frozen": "none", "fpn_width": 32,
}  # fmt: skip
SMALL = {"dfanet": {}, "pspnet": {"encoder": "mobilenet"}}
SIZES = [64, 65, 72, 96, 100, 104, 128, 136, 250, 256, 264, 512, 520, 960, 1024]


@pytest.fixture(scope="module", params=marked_models())
def registered(request, tmp_path_factory):
    """Each registered model; instance models with few channels and random weights."""
    name = request.param
    if weights_path(name).is_file() and MODELS[name].task == "nuclei":
        return open_model(name, device="cpu", precision="float32")
    torch.manual_seed(0)
    small = {"nuclei": {"width": 4}, "cells": TINY, "boxes": TINY_DETECTOR}[MODELS[name].task]
    tiny = SMALL.get(name, small)
    network = MODELS[name].for_inference(MODELS[name].builder(**tiny))
    options = {k: list(v) if isinstance(v, tuple) else v for k, v in tiny.items()}
    classes = ("cell", "nucleus") if tiny is TINY else ("nucleus",)
    card = Card(name=name, task=MODELS[name].task, classes=classes, mpp=1.0, halo_px=64,
                tile_px=128, stride=32, options=options)  # fmt: skip
    path = tmp_path_factory.mktemp("tiny") / f"{name}.safetensors"
    save_checkpoint(path, network.state_dict(), card, half=True)
    return open_model(name, checkpoint=path, device="cpu", precision="float32")


def test_every_model_starts_with_every_tile_size_or_refuses_it(registered):
    if registered.sees_all:
        with pytest.raises(ConfigError, match="takes means over the whole image"):
            tile_size(registered, RunConfig())
        return
    accepted = []
    for size in SIZES:
        try:
            assert tile_size(registered, RunConfig(tile_px=size)) == size
            accepted.append(size)
        except ConfigError as refusal:
            assert f"tile_px {size} does not fit {registered.name}" in str(refusal)
            for offered in re.findall(r"--tile-px (\d+)", str(refusal)):
                assert tile_size(registered, RunConfig(tile_px=int(offered))) == int(offered)
    assert 64 in accepted and len(accepted) < len(SIZES)
    for size in accepted[:2]:
        side = size + 2 * registered.halo_px
        images = np.full((1, side, side, 3), 255, np.uint8)
        assert len(registered.infer(images)) == 1
        if isinstance(registered, PixelModel):
            assert registered.infer_core(images)[0].shape[1:] == (size, size)
    assert tile_size(registered, RunConfig()) == registered.tile_px


def test_a_tile_size_that_does_not_fit_is_refused_before_anything_is_written(
    registered, slide_path, tmp_path
):
    config = RunConfig(out=tmp_path / "out", tile_px=100, quiet=True)
    words = r"tile_px 100 does not fit .*; give --tile-px 96"
    with pytest.raises(ConfigError, match="whole image" if registered.sees_all else words):
        run_slide(slide_path, config, model=registered)
    assert not (tmp_path / "out").exists()


@given(stride=st.integers(1, 300), halo=st.integers(0, 400), tile=st.integers(64, 8192))
def test_what_is_accepted_is_a_multiple_of_the_stride(stride, halo, tile):
    any_model = model_from_function(lambda image: image[..., 0], name="mine", mpp=0.5)
    model = replace(any_model, stride=stride, halo_px=halo)
    try:
        assert tile_size(model, RunConfig(tile_px=tile)) == tile
    except ConfigError as refusal:
        offered = [int(n) for n in re.findall(r"--tile-px (\d+)", str(refusal))]
        assert str(tile) in str(refusal) or not offered
        assert all(tile_size(model, RunConfig(tile_px=n)) == n for n in offered)
    else:
        assert not any(n % stride for n in (tile, halo, REGION_PX, model.margin_px))


def test_a_function_takes_any_tile_size():
    model = model_from_function(lambda image: image[..., 0], name="mine", mpp=0.5)
    assert [tile_size(model, RunConfig(tile_px=n)) for n in SIZES] == SIZES


def test_regions_and_tiles_cover_the_search_area(slide_path, darkness, monkeypatch):
    monkeypatch.setattr("wsi_pipeline.runs.work_plan.REGION_PX", 264)
    with open_slide(slide_path) as slide:
        plan = plan_work(slide, darkness, RunConfig(tile_px=128))
        area = plan.search_area.window(plan.regions[0].core.around(plan.regions[-1].core), 1.0)
        assert plan.scale == 1.0 and plan.tile_px == 128 and plan.region_px == 264
        assert plan.region_box(plan.regions[0]) == (0, 0, 264, 264)
        covered = np.zeros((1400, 1600), bool)
        for region in plan.regions:
            assert region.core.width <= 264
            for tile in plan.tiles(region):
                core = tile.core.clip(region.core)
                covered[core.y0 : core.y1, core.x0 : core.x1] = True
        inside = np.zeros_like(covered)
        inside[: area.shape[0], : area.shape[1]] = area
        assert not (inside & ~covered).any() and inside.any()
        known = plan_work(slide, darkness, RunConfig(), overview=read_overview(slide))
        assert known.regions == plan.regions


def test_a_file_of_regions_that_is_missing_is_named(tmp_path):
    assert read_roi(None) is None
    with pytest.raises(DataError, match=r"no\.geojson: no such ROI file"):
        read_roi(tmp_path / "no.geojson")


@pytest.mark.parametrize("chosen", [None, 0, 3])
def test_regions_lie_on_the_focal_plane_that_is_read(tmp_path, chosen):
    path, roi = tmp_path / "z.ome.tif", tmp_path / "roi.geojson"
    planes = np.full((4, 64, 64, 3), 220, np.uint8)
    tifffile.imwrite(path, planes, photometric="rgb", metadata={"axes": "ZYXS"})
    square = [[[0, 0], [9, 0], [9, 9], [0, 9], [0, 0]]]
    read = 2 if chosen is None else chosen
    for plane in range(4):
        where = {"type": "Polygon", "coordinates": square, "plane": {"c": -1, "z": plane, "t": 0}}
        roi.write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": where}))
        with open_slide(path, mpp=0.5, plane=chosen) as slide:
            if plane == read:
                assert read_roi(roi, slide) is not None
                continue
            with pytest.raises(DataError, match="focal plane"):
                read_roi(roi, slide)


@pytest.mark.parametrize("chosen", [0, 3])
def test_regions_lie_on_the_time_point_that_is_read(tmp_path, chosen):
    path, roi = tmp_path / "t.ome.tif", tmp_path / "roi.geojson"
    points = np.full((4, 64, 64, 3), 220, np.uint8)
    tifffile.imwrite(path, points, photometric="rgb", metadata={"axes": "TYXS"})
    square = [[[0, 0], [9, 0], [9, 9], [0, 9], [0, 0]]]
    where = {"type": "Polygon", "coordinates": square, "plane": {"c": -1, "z": 0, "t": 3}}
    roi.write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": where}))
    with open_slide(path, mpp=0.5, time=chosen) as slide:
        if chosen == 3:
            assert read_roi(roi, slide) is not None
        else:
            with pytest.raises(DataError, match="time point 3"):
                read_roi(roi, slide)
