"""The published comparison: every tile of a slide, none skipped, through DSSNet and through U-Net.

Luo et al. 2022 took windows of 700 px at steps of 640, brought to 512² for the network; a slide
had about 29 600 of them, and took DSSNet about 190 s and U-Net about 900 s on a GTX 1080 Ti.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from wsiseg_models.semantic.plain_unet import unet

from wsi_pipeline.benchmark.machine import Busy, forget_gpu_memory, gpu_memory_mb, synchronise
from wsi_pipeline.core.errors import UsageError
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.segmentation.load_model import device_named, model_from_module, open_model
from wsi_pipeline.segmentation.model import Card, Model
from wsi_pipeline.slides.slide import Slide, open_slide

__all__ = ["PUBLISHED", "TILES", "compare_networks"]

TILES = 29_600
TILE_PX, WINDOW_PX, STEP_PX = 512, 700, 640
PUBLISHED = {
    "dssnet": {"seconds": 190, "tiles_per_s": 156},
    "unet": {"seconds": 900, "tiles_per_s": 31},
}
"""Seconds for a slide and tiles/s of 512² on a GTX 1080 Ti."""
BATCH = {"cpu": 1, "cuda": 16}
WARM_UP = 2

Images = NDArray[np.uint8]


def compare_networks(path: Path, *, device: str, threads: int, tiles: int) -> dict[str, Any]:
    """Both networks over the same tiles, read from a slide while the network computes.

    Parameters
    ----------
    path
        a slide; where it has fewer windows than `tiles`, they are read again
    threads
        how many read
    tiles
        how many are timed, in whole batches; with fewer than `TILES` the time for all is
        extrapolated, and ``extrapolated`` says so

    Raises
    ------
    UsageError
        the slide is smaller than a window
    """
    where = device_named(device)
    size = min(BATCH[where.partition(":")[0]], tiles)
    batches = -(-tiles // size)
    networks: dict[str, Any] = {}
    with open_slide(path) as slide:
        boxes = _windows(slide)
        for name in PUBLISHED:
            model, note = _network(name, where)
            row = _timed(model, slide, boxes, batches=batches, size=size, threads=threads)
            networks[name] = row | note
            del model
    return {
        "tiles": TILES,
        "tiles_measured": batches * size,
        "extrapolated": batches * size < TILES,
        "distinct_tiles": min(len(boxes), batches * size),
        "tile_px": TILE_PX,
        "batch": size,
        "reading_threads": threads,
        "networks": networks,
        "faster": networks["dssnet"]["tiles_per_s"] / networks["unet"]["tiles_per_s"],
        "faster_published": PUBLISHED["dssnet"]["tiles_per_s"] / PUBLISHED["unet"]["tiles_per_s"],
        "published": PUBLISHED,
    }


def _windows(slide: Slide) -> list[Box]:
    """The published windows, on a grid whose pixel is 700/512 of the slide's."""
    scale = WINDOW_PX / TILE_PX
    step = int(STEP_PX / scale)
    columns, rows = (int(n / scale - TILE_PX) // step + 1 for n in (slide.width, slide.height))
    if columns < 1 or rows < 1:
        raise UsageError(
            f"a slide of {slide.width} x {slide.height} px holds no window of {WINDOW_PX} px; "
            f"give a larger --size, e.g. {10 * WINDOW_PX}"
        )
    return [
        Box(x, y, x + TILE_PX, y + TILE_PX)
        for y in range(0, rows * step, step)
        for x in range(0, columns * step, step)
    ]


def _network(name: str, device: str) -> tuple[Model, dict[str, Any]]:
    """A network as a model, and what is to be said of it."""
    if name == "dssnet":
        model = open_model(name, device=device)
        how = f"wsiseg run does, {model.precision}"
        return model, {"parameters": model.card["parameters"], "as": how}
    torch.manual_seed(0)  # untrained: speed does not depend on weights
    network = unet().eval().requires_grad_(False)
    card = Card(name=name, task="nuclei", classes=("nucleus",), mpp=0.35, halo_px=96)
    tried = {
        kind: model_from_module(_In(network, dtype), card, device=device)
        for kind, dtype in (("float32", None), ("bfloat16", torch.bfloat16))
    }
    kind = min(tried, key=lambda k: _seconds_per_tile(tried[k]))
    count = sum(p.numel() for p in network.parameters())
    return tried[kind], {"parameters": count, "as": f"plain PyTorch, {kind}, the faster of two"}


class _In(torch.nn.Module):
    """A network that computes in another type where PyTorch thinks that safe."""

    def __init__(self, network: torch.nn.Module, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype is not None):
            answer: torch.Tensor = self.network(x)
        return answer


def _seconds_per_tile(model: Model) -> float:
    tile = np.zeros((1, TILE_PX, TILE_PX, 3), np.uint8)
    model.infer(tile)
    began = time.perf_counter()
    model.infer(tile)
    synchronise(model.device)
    return time.perf_counter() - began


def _timed(
    model: Model, slide: Slide, boxes: list[Box], *, batches: int, size: int, threads: int
) -> dict[str, Any]:
    """Seconds in all and within the network, for so many batches; those for all tiles."""
    forget_gpu_memory(model.device)
    for images in _read(slide, boxes, batches=WARM_UP, size=size, threads=threads):
        model.infer(images)
    synchronise(model.device)
    inside = 0.0
    with Busy(model.device) as busy:
        began = time.perf_counter()
        for images in _read(slide, boxes, batches=batches, size=size, threads=threads):
            sent = time.perf_counter()
            with busy.call():
                model.infer(images)
            synchronise(model.device)
            inside += time.perf_counter() - sent
        seconds = time.perf_counter() - began
    tiles = batches * size
    return {
        "seconds_measured": seconds,
        "network_seconds_measured": inside,
        "seconds_for_all": seconds * TILES / tiles,
        "network_seconds_for_all": inside * TILES / tiles,
        "tiles_per_s": tiles / inside,
        **busy.result(),
        **gpu_memory_mb(model.device),
    }


def _read(
    slide: Slide, boxes: list[Box], *, batches: int, size: int, threads: int
) -> Iterator[Images]:
    """Batches (size, 512, 512, 3) in turn, a few of them read ahead."""

    def read(some: tuple[Box, ...]) -> Images:
        return np.stack([slide.read_scaled(box, WINDOW_PX / TILE_PX) for box in some])

    endless = itertools.cycle(boxes)
    waiting: deque[Future[Images]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(batches):
            waiting.append(pool.submit(read, tuple(itertools.islice(endless, size))))
            if len(waiting) > threads + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
