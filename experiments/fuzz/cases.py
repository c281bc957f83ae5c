"""The kinds of cases: each has seeds, changes one of them, and gives it to wsiseg."""

from __future__ import annotations

import io
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import command_lines
import mutate
import numpy as np
import seeds
import torch
from torch import nn
from wsiseg_models.checkpoint import save_checkpoint
from wsiseg_models.training.coco import read_coco
from wsiseg_models.training.initial_weights import start_from

from wsi_pipeline.batch.slide_sheet import find_slides
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import SlideError
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.evaluation.coco_fields import read_set
from wsi_pipeline.formats.convert import export
from wsi_pipeline.formats.geojson import read_geojson, read_regions
from wsi_pipeline.reports.cohort import write_cohort
from wsi_pipeline.reports.slide_report import write_report
from wsi_pipeline.reports.slide_summary import write_features
from wsi_pipeline.runs import lock
from wsi_pipeline.runs.work_plan import read_overview
from wsi_pipeline.segmentation.load_model import model_for
from wsi_pipeline.slides.slide import Slide, open_slide

__all__ = ["KINDS", "Kind"]

READ_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Kind:
    """One kind of cases.

    Attributes
    ----------
    what
        what is changed, and what reads it
    weight
        share of all cases
    run
        makes a case of random numbers in a folder, and runs it
    prepare
        makes the seeds, once
    refusals
        errors of one line besides `WsisegError`: those of the package of models
    """

    name: str
    what: str
    weight: float
    run: Callable[[random.Random, Path], None]
    prepare: Callable[[], Any]
    refusals: tuple[type[Exception], ...] = ()


def _slide(rng: random.Random, folder: Path) -> None:
    name, data = rng.choice(sorted(seeds.slides().items()))
    path = folder / name
    path.write_bytes(mutate.slide(rng, data))
    _look(path)


def _look(path: Path) -> None:
    with open_slide(path, mpp=0.5, read_timeout_s=READ_TIMEOUT_S) as slide:
        read_overview(slide)
        for x, y in ((0, 0), (slide.width - 40, slide.height - 40)):
            _read(slide, Box(x, y, x + 64, y + 64))


def _read(slide: Slide, box: Box) -> None:
    for level in range(len(slide.levels)):
        try:
            slide.read_region(box, level)
        except SlideError:
            slide.read_what_is_there(box, 1.5)


def _zarr(rng: random.Random, folder: Path) -> None:
    path = shutil.copytree(seeds.zarr(), folder / "a.ome.zarr")
    files = sorted(p for p in path.rglob("*") if p.is_file())
    about = [p for p in files if p.suffix == ".json" or p.name.startswith(".z")]
    chosen = rng.choice(about if rng.random() < 0.9 else files)
    data = chosen.read_bytes()
    chosen.write_bytes(mutate.json_text(rng, data) if chosen in about else mutate.noise(rng, data))
    _look(path)


def _sheet(rng: random.Random, folder: Path) -> None:
    path = folder / rng.choice(("a.csv", "a.tsv"))
    path.write_bytes(mutate.table(rng, rng.choice(seeds.sheets())))
    find_slides([str(path)], missing_ok=True)


def _geojson(rng: random.Random, folder: Path) -> None:
    path = folder / rng.choice(("a.geojson", "a.json"))
    path.write_bytes(mutate.json_text(rng, rng.choice(seeds.geojson())))
    rng.choice((read_geojson, read_regions))(path)


def _coco(rng: random.Random, folder: Path) -> None:
    place = shutil.copytree(seeds.coco(), folder / "set")
    path = place / "annotations.json"
    path.write_bytes(mutate.json_text(rng, path.read_bytes()))
    if rng.random() < 0.5:
        for image in read_coco(path).images:
            image.unknown()
            for annotation in image.annotations:
                annotation.mask(image.shape)
                annotation.box(image.shape)
    else:
        list(read_set(f"{place}@0.5" if rng.random() < 0.7 else str(place), mpp=0.5))


def _checkpoint(rng: random.Random, folder: Path) -> None:
    path = folder / "own.safetensors"
    state, card = seeds.checkpoint()
    save_checkpoint(path, state, card)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + size])
    if rng.random() < 0.8:
        about = mutate.json_text(rng, head["__metadata__"]["card"].encode())
        head["__metadata__"]["card"] = about.decode("utf-8", "replace")
        text = json.dumps(head).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    else:
        path.write_bytes(mutate.noise(rng, data))
    model_for(RunConfig(checkpoint=path, out=folder / "out", device="cpu"))


def _state(rng: random.Random, folder: Path) -> None:
    path = folder / "state.pt"
    path.write_bytes(mutate.noise(rng, rng.choice(seeds.states())))
    start_from(nn.Conv2d(3, 2, 1), path)


def _parts(rng: random.Random, folder: Path) -> None:
    """Damage a run that was stopped, and resume it: it is refused, or has the same objects."""
    lock.POLL_S, lock.CONFIRM_S, lock.SILENT_S = 0.01, 0.02, 0.05  # rubbish is waited for
    slide, begun, objects = seeds.unfinished_run()
    run = shutil.copytree(begun, folder / "out") / "crowded" / "threshold"
    for _ in range(rng.choice((1, 1, 3))):
        path = rng.choice(sorted(p for p in (run / "parts").iterdir()))
        if rng.random() < 0.2:
            path = run / rng.choice(("plan.json", "lock.json", "run.json", "objects.parquet"))
        data = path.read_bytes() if path.is_file() else b'{"pid": 1, "failed_regions": []}'
        text = path.suffix == ".json"
        try:
            path.write_bytes(mutate.json_text(rng, data) if text else mutate.noise(rng, data))
        except ValueError:  # what was changed twice may be no JSON any more
            path.write_bytes(mutate.noise(rng, data))
    found = seeds.resumed(slide, folder / "out")
    if found != objects:
        raise AssertionError(f"{found} objects, not {objects}")


RUN_TEXTS = ("run.json", "run.json", "crowded.summary.json")
RUN_FILES = ("objects.parquet", "objects.geojson.gz", "overlay.png", "plan.json")


def _run_folder(rng: random.Random, folder: Path) -> None:
    run = shutil.copytree(seeds.run_folder(), folder / "out" / "crowded" / "threshold")
    if rng.random() < 0.7:
        path = run / rng.choice(RUN_TEXTS)
        path.write_bytes(mutate.json_text(rng, path.read_bytes()))
    else:
        path = run / rng.choice(RUN_FILES)
        path.write_bytes(mutate.noise(rng, path.read_bytes()))
    place = folder / "made"
    place.mkdir()
    readers: list[Callable[[], Any]] = [
        lambda: write_cohort(place, [folder / "out"]),
        lambda: write_features(run, place),
        lambda: write_report(run, place / "report.html"),
        lambda: export(run, place.with_suffix(".geojson")),
        lambda: export(run, place.with_suffix(".parquet")),
    ]
    rng.choice(readers)()


@cache
def _nothing() -> None:
    torch.set_num_threads(1)
    np.zeros(1)
    io.BytesIO()
    tempfile.gettempdir()


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind("slides", "tags, offsets, tiles and texts of TIFF, SVS, OME-TIFF, PNG, JPEG, BMP "
                 "and WebP; opened, looked through and read", 8, _slide, seeds.slides),
            Kind("zarr", "metadata and chunks of an OME-Zarr image", 1, _zarr, seeds.zarr),
            Kind("sheets", "slide sheets", 3, _sheet, seeds.sheets),
            Kind("geojson", "objects and regions of interest in GeoJSON", 4, _geojson,
                 seeds.geojson),
            Kind("coco", "annotations, read for training and evaluation", 4, _coco, seeds.coco,
                 (ValueError,)),
            Kind("checkpoints", "cards and weights of a checkpoint", 2, _checkpoint,
                 seeds.checkpoint),
            Kind("states", "states of a training, and weights to start from", 2, _state,
                 seeds.states, (ValueError,)),
            Kind("runs", "the files of a run folder, read by cohort, features, report and export",
                 3, _run_folder, seeds.run_folder),
            Kind("parts", "the parts and records of a run that was stopped, which is then resumed",
                 0.5, _parts, seeds.unfinished_run),
            Kind("commands", "options and values of every command", 3, command_lines.run,
                 command_lines.prepare),
        )
    }
)  # fmt: skip
