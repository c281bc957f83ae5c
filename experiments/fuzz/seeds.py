"""The undamaged files from which cases are made; all are generated, small, and made once."""

from __future__ import annotations

import atexit
import io
import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import tifffile
import torch
import zarr as zarr_library
from PIL import Image
from pycocotools.mask import encode
from torch import nn
from wsiseg_models.checkpoint import Card, load_checkpoint, weights_path

from wsi_pipeline.benchmark.threshold_model import make_threshold_model
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.records import SCHEMA_VERSION
from wsi_pipeline.formats.convert import export
from wsi_pipeline.pipeline import run_slide
from wsi_pipeline.reports.slide_summary import write_features
from wsi_pipeline.runs import work_plan
from wsi_pipeline.synthetic.svs_writer import plan_slide, write_slide

__all__ = [
    "checkpoint", "coco", "geojson", "resumed", "run_folder", "sheets", "slides", "states",
    "unfinished_run", "zarr",
]  # fmt: skip

REGION_PX = 128
"""Side of the regions of `unfinished_run`, pixels."""


@cache
def _place() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def _svs() -> Path:
    path = _place() / "crowded.svs"
    write_slide(path, plan_slide(500, 400, mpp=0.5, seed=11, tissue=0.8))
    return path


def _picture(height: int = 200, width: int = 300) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (200 + rng.integers(0, 40, (height, width, 3))).astype(np.uint8)


@cache
def slides() -> Mapping[str, bytes]:
    """Return file name → bytes."""
    found = {"a.svs": _svs().read_bytes()}
    rgb, path = _picture(), _place() / "a.tif"
    layouts = {
        "tiles.tif": {"tile": (64, 64), "compression": "zlib"},
        "jpeg.tif": {"tile": (64, 64), "compression": "jpeg"},
        "strips.tif": {"rowsperstrip": 8, "compression": "lzw"},
        "plain.tif": {},
        "big.tif": {"tile": (64, 64), "bigtiff": True},
        "planes.tif": {"tile": (64, 64), "planarconfig": "separate"},
        "j2k.tif": {"tile": (64, 64), "compression": "jpeg2000"},
        "webp.tif": {"tile": (64, 64), "compression": "webp"},
        "zstd.tif": {"tile": (64, 64), "compression": "zstd"},
        "a.ome.tif": {"tile": (64, 64), "ome": True},
        "stack.ome.tif": {"ome": True},
    }
    for name, options in layouts.items():
        more = {k: options[k] for k in ("bigtiff", "ome") if k in options}
        about = {"axes": "YXS"} if more.get("ome") else None
        pixels = rgb
        if name == "stack.ome.tif":
            pixels, about = np.stack([rgb[:64, :64]] * 4), {"axes": "ZYXS"}
        if name == "planes.tif":
            pixels = np.moveaxis(rgb, 2, 0)
        with tifffile.TiffWriter(path, **more) as file:
            rest = {k: v for k, v in options.items() if k not in more}
            file.write(pixels, photometric="rgb", metadata=about, **rest)
            if name == "tiles.tif":
                file.write(rgb[::2, ::2], photometric="rgb", subfiletype=1, **rest)
        found[name] = path.read_bytes()
    deep = (rgb.astype(np.uint16) << 8).astype(np.uint16)
    tifffile.imwrite(path, deep, photometric="rgb", tile=(64, 64))
    found["deep.tif"] = path.read_bytes()
    for kind in ("PNG", "JPEG", "BMP", "WEBP"):
        stream = io.BytesIO()
        Image.fromarray(rgb).save(stream, kind)
        found[f"a.{kind.lower()}"] = stream.getvalue()
    return found


def _elsewhere(make: Callable[[], None]) -> None:
    """Call a function in a forked process: it leaves threads, with which no process may fork."""
    child = get_context("fork").Process(target=make)
    child.start()
    child.join()
    if child.exitcode:
        raise RuntimeError(f"{make} failed")


@cache
def zarr() -> Path:
    """Return an OME-Zarr folder with two levels."""
    path = _place() / "a.ome.zarr"
    _elsewhere(partial(_write_zarr, path))
    return path


def _write_zarr(path: Path) -> None:
    group = zarr_library.open_group(path, mode="w", zarr_format=2)
    planes = np.moveaxis(_picture(), 2, 0)
    for k in range(2):
        part = planes[:, :: 2**k, :: 2**k]
        array = group.create_array(str(k), shape=part.shape, chunks=(3, 64, 64), dtype="u1")
        array[:] = part
    axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "yx"]
    sets = [{"path": str(k), "coordinateTransformations": [
        {"type": "scale", "scale": [1, 0.5 * 2**k, 0.5 * 2**k]}]} for k in range(2)]  # fmt: skip
    about = [{"axes": [{"name": "c", "type": "channel"}, *axes], "datasets": sets}]
    group.attrs["multiscales"] = about


@cache
def run_folder() -> Path:
    """Return the folder of a run with the threshold in place of a network, with its tables."""
    config = RunConfig(out=_place() / "out", quiet=True, workers=1)
    slide = _svs()

    def make() -> None:
        write_features(run_slide(slide, config, model=make_threshold_model("dssnet")).folder)

    _elsewhere(make)
    return config.out / "crowded" / "threshold"


@cache
def unfinished_run() -> tuple[Path, Path, int]:
    """Return a slide, the output folder of a run of it that was stopped, and its objects.

    The output folder has parts, and a record of a region that failed. Regions have `REGION_PX`.
    """
    whole, begun = _place() / "whole", _place() / "begun"
    _elsewhere(partial(_run_and_stop, _svs(), whole, begun))
    record = json.loads((whole / "crowded" / "threshold" / "run.json").read_text("utf-8"))
    return _svs(), begun, record["objects"]


def resumed(slide: Path, out: Path) -> int:
    """Run the slide of `unfinished_run` again in `out`; return the number of objects."""
    work_plan.REGION_PX = REGION_PX
    config = RunConfig(out=out, quiet=True, workers=1)
    return run_slide(slide, config, model=make_threshold_model("dssnet")).objects


def _run_and_stop(slide: Path, whole: Path, begun: Path) -> None:
    work_plan.REGION_PX = REGION_PX
    model, stop = make_threshold_model("dssnet"), threading.Event()
    run_slide(slide, RunConfig(out=whole, quiet=True, workers=1), model=model)
    calls = []

    def network(images: np.ndarray) -> np.ndarray:
        calls.append(1)
        if len(calls) == 6:
            stop.set()
        return model.network(images)

    with suppress(KeyboardInterrupt):
        config = RunConfig(out=begun, quiet=True, workers=1)
        run_slide(slide, config, model=replace(model, network=network), stop=stop)
    parts = sorted((begun / "crowded" / "threshold" / "parts").glob("*.npz"))
    if not 2 < len(parts) < 12:
        raise RuntimeError(f"{len(parts)} parts")
    number = int(parts[0].stem)
    failure = {"schema_version": SCHEMA_VERSION, "region": number, "level0_box": [0, 0, 9, 9],
               "cause": "tile 0 cannot be read"}  # fmt: skip
    parts[0].with_suffix(".failed.json").write_text(json.dumps(failure), encoding="utf-8")


@cache
def geojson() -> list[bytes]:
    """Return GeoJSON texts: objects of a run, annotations, and regions of interest."""
    path = _place() / "a.geojson"
    export(run_folder(), path)
    whole = json.loads(path.read_bytes())
    whole["features"] = whole["features"][:5]
    ring = [[0, 0], [90, 0], [90, 70], [0, 70], [0, 0]]
    properties = {
        "objectType": "annotation",
        "classification": {"name": "Region", "color": [1, 2, 3]},
    }
    region = {
        "type": "Feature", "id": "a", "properties": properties,
        "geometry": {"type": "Polygon", "coordinates": [ring], "plane": {"z": 0, "t": 0}},
    }  # fmt: skip
    many = {**region, "geometry": {"type": "MultiPolygon", "coordinates": [[ring], [ring]]}}
    nested = {"type": "GeometryCollection", "geometries": [region["geometry"]]}
    documents = [whole, region, {"type": "FeatureCollection", "features": [region, many]},
                 [region], {**region, "geometry": nested},
                 {**region, "properties": {**properties, "childObjects": [region]}}]  # fmt: skip
    return [json.dumps(d).encode() for d in documents]


@cache
def coco() -> Path:
    """Return a folder of two images with polygons, run lengths, a crowd and a cell."""
    folder = _place() / "set"
    folder.mkdir()
    for name in ("0.png", "1.png"):
        cv2.imwrite(str(folder / name), _picture(96, 96))
    square = [10, 10, 40, 10, 40, 40, 10, 40]
    runs = {"size": [96, 96], "counts": [960, 20, 76, 20, 8140]}
    mask = np.zeros((96, 96), np.uint8, order="F")
    mask[20:40, 30:60] = 1
    packed = {"size": [96, 96], "counts": encode(mask)["counts"].decode()}
    parts = [[square], runs, [square, [50, 50, 70, 50, 70, 70]], packed, [square]]
    document = {
        "info": {"mpp": 0.5, "exhaustive": True},
        "images": [{"id": k, "file_name": f"{k}.png", "width": 96, "height": 96} for k in (0, 1)],
        "categories": [{"id": 1, "name": "nucleus"}, {"id": 2, "name": "cytoplasm"}],
        "annotations": [
            {"id": k, "image_id": k % 2, "category_id": 1 + k % 2, "segmentation": part,
             "iscrowd": int(k == 4), "area": 900, "bbox": [10, 10, 30, 30], "cell_id": k // 2}
            for k, part in enumerate(parts)
        ],
    }  # fmt: skip
    (folder / "annotations.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


@cache
def sheets() -> list[bytes]:
    """Return slide sheets of several dialects."""
    return [
        b"slide,mpp,model,roi\na.svs,0.25,unet,\nb.svs,,,r.geojson\n",
        b"slide;mpp (\xc2\xb5m)\na.svs;0,25\nsub/b.svs;0,5\n",
        b'"slide"\t"note"\r\n"a b.svs"\t"x ""y"""\r\n',
        b"slide\na.svs\nb.svs\nhttp://x/y.svs\n",
    ]


@cache
def checkpoint() -> tuple[dict[str, torch.Tensor], Card]:
    """Return weights and card of a network that ships."""
    return load_checkpoint(weights_path("dssnet"))


@cache
def states() -> list[bytes]:
    """Return the bytes of a training's state, of a state dict, and of one in the old format."""
    network = nn.Conv2d(3, 2, 1)
    state = network.state_dict()
    whole = {"network": state, "ema": state, "step": 1, "minutes": 1.0, "config": "{}"}
    found = []
    for content, new in ((whole, True), (state, True), ({"model": state}, True), (state, False)):
        stream = io.BytesIO()
        torch.save(content, stream, _use_new_zipfile_serialization=new)
        found.append(stream.getvalue())
    return found
