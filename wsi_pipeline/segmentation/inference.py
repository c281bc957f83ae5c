"""Inference: windows of a slide through a model, one network per device.

Many threads read and decode; one thread runs the network. Between them lies a bounded queue, so
that readers wait for the network and memory stays bounded.
"""

from __future__ import annotations

import gc
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from copy import copy
from itertools import islice
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.errors import OutOfMemoryError
from wsi_pipeline.core.geometry import Box, paste, plan_tiles
from wsi_pipeline.core.machine import process_settings
from wsi_pipeline.segmentation.model import Instances, Model
from wsi_pipeline.slides.foreground import Foreground
from wsi_pipeline.slides.slide import Slide
from wsi_pipeline.slides.window_cache import WindowCache

__all__ = ["Engine", "Stopwatch"]

Images = NDArray[np.uint8]
Infer = Callable[[Images], list[Any]]
"""A method of a model: images (n, h, w, 3) → one answer per image."""
Job = tuple[Infer, Images, "Future[Any]"]
NO_MEMORY = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED")
"""What PyTorch says where it has no class of its own for it."""

_log = logging.getLogger(__name__)


class Stopwatch:
    """Seconds spent per stage, summed over threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, stage: str, since: float) -> float:
        """Book the time since `since` on `stage`; the time now."""
        now = time.perf_counter()
        with self._lock:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + now - since
        return now


class Engine:
    """Reads windows of one slide on the model's grid and runs the model on them.

    Thread-safe; a context manager, since it owns the threads that run the network.

    Parameters
    ----------
    visible
        where the model looks; elsewhere every probability is 0
    tile_px, batch
        how the network gets its input; without influence on the result. Where the memory is too
        small for a batch it is halved, and `batch` is then what fits.
    """

    def __init__(
        self,
        slide: Slide,
        model: Model,
        visible: Foreground,
        *,
        scale: float,
        tile_px: int,
        batch: int,
    ) -> None:
        self.slide, self.model, self.visible, self.scale = slide, model, visible, scale
        self.tile_px, self.batch = tile_px, batch
        self.canvas = WindowCache(slide, scale)
        self.missing: list[Box] = []
        self._tolerant = False
        self.watch = Stopwatch()
        self._reducing = threading.Lock()
        self._settings = ExitStack()
        # Two waiting batches are enough to keep a thread busy.
        self._line: queue.Queue[Job | None] = queue.Queue(2 * model.at_once)
        self._threads = [
            threading.Thread(target=self._serve, name=f"network {k}", daemon=True)
            for k in range(model.at_once)
        ]

    def tolerant(self) -> Engine:
        """The same engine for one damaged region: what cannot be read is blank, and `missing`.

        `missing` are boxes of model pixels, and may overlap.
        """
        other = copy(self)
        other.missing, other._tolerant = [], True
        return other

    def _read(self, window: Box, border: int = 0) -> Images:
        """Pixels of a window, uint8 (h, w, 3), of which `border` is for `WindowCache`."""
        if not self._tolerant:
            return self.canvas.read(window, border)
        image, readable = self.slide.read_what_is_there(window, self.scale)
        _, _, boxes, _ = cv2.connectedComponentsWithStats((~readable).astype(np.uint8))
        for x, y, w, h, _ in boxes[1:].tolist():
            self.missing.append(Box(x, y, x + w, y + h).shift(window.x0, window.y0))
        return image

    def __enter__(self) -> Engine:
        # Regions run side by side, so OpenCV needs no threads of its own. Decoding needs Python's
        # lock once a tile; the default interval of 5 ms would make it wait for the others.
        self._settings.enter_context(
            process_settings(
                opencv_threads=1, switch_interval_s=0.0005, torch_threads=self.model.torch_threads
            )
        )
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for _ in self._threads:
            self._line.put(None)
        for thread in self._threads:
            thread.join()
        self._settings.close()

    def _serve(self) -> None:
        self.model.share()
        while (job := self._line.get()) is not None:
            infer, images, answer = job
            began = time.perf_counter()
            try:
                answer.set_result(self._run(infer, images))
            except BaseException as error:
                answer.set_exception(error)
            self.watch.add("network", began)

    def _run(self, infer: Infer, images: Images) -> list[Any]:
        """Run the network on a batch, in pieces that fit into memory; one answer per image."""
        size, done = min(len(images), self.batch), list[Any]()
        while len(done) < len(images):
            piece = images[len(done) : len(done) + size]
            answer = self._attempt(infer, piece)
            if answer is not None:
                done.extend(answer)
            elif len(piece) == 1:
                raise OutOfMemoryError(_too_large(self.model, piece.shape[1]))
            else:
                size = -(-len(piece) // 2)
        self._reduce(len(images), size)
        return done

    def _attempt(self, infer: Infer, images: Images) -> list[Any] | None:
        """Run the network on a batch; None if the memory is too small for it."""
        try:
            return infer(images)
        except Exception as error:
            if not _lacks_memory(error):
                raise
        # Only here, where the error has gone, and with it all that the network had in hand.
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        return None

    def _reduce(self, tried: int, fits: int) -> None:
        """Send smaller batches from now on, if what fits is less than what is sent."""
        with self._reducing:
            if fits < min(tried, self.batch):
                self.batch = fits
                _log.warning(
                    "%s on %s: no memory for batches of %d; going on with batches of %d",
                    self.model.name, self.model.device, tried, fits,
                )  # fmt: skip

    def label(self, window: Box) -> tuple[Images, NDArray[np.integer]]:
        """Image (h, w, 3) and label image (h, w) of a window, from a `LabelModel`.

        Objects that do not reach into the visible area are left out.
        """
        began = time.perf_counter()
        image = self._read(window)
        began = self.watch.add("read", began)
        (labels,) = self.model.infer(image[None])
        self.watch.add("network", began)
        seen = np.unique(labels[self.visible.window(window, self.scale)])
        return image, np.where(np.isin(labels, seen), labels, 0)

    def predict(self, infer_core: Infer, window: Box, overlap: int = 0) -> tuple[Images, Images]:
        """Image (h, w, 3) and class probabilities (classes, h, w) of a window of model pixels.

        The window's corners are multiples of the model's stride. The next windows `overlap` it by
        so many pixels. `infer_core` is that of a `PixelModel`.
        """
        halo = self.model.halo_px
        began = time.perf_counter()
        shown = self.visible.window(window, self.scale)
        wanted = [
            tile
            for tile in plan_tiles(window, self.tile_px, halo)
            if _cut(shown, tile.core.clip(window), window).any()
        ]
        out = np.zeros((len(self.model.classes), window.height, window.width), np.uint8)
        reach = window if not wanted else wanted[0].window
        for tile in wanted:
            reach = reach.around(tile.window)
        image = self._read(reach, overlap + 2 * halo if overlap else 0)
        self.watch.add("read", began)
        images = (_cut(image, tile.window, reach) for tile in wanted)
        for tile, scores in zip(wanted, self._answers(infer_core, images), strict=True):
            kept = tile.core.clip(window)
            core = scores[:, : kept.height, : kept.width]
            _cut(out.transpose(1, 2, 0), kept, window)[:] = core.transpose(1, 2, 0)
        out *= shown
        if reach.clip(window) == window:
            return _cut(image, window, reach), out
        # Nothing is found where nothing was read.
        around = np.zeros((window.height, window.width, 3), np.uint8)
        paste(around, window, image, reach)
        return around, out

    def detect(
        self, windows: Sequence[Box], cores: Sequence[Box]
    ) -> dict[int, tuple[Images, Instances]]:
        """Image and instances of windows of one shape, for those with something in their core.

        The key is the window's position. Its width and height are multiples of the stride.
        """
        shown = [i for i, core in enumerate(cores) if self.visible.window(core, self.scale).any()]
        if not shown:
            return {}
        reach = windows[shown[0]]
        for window in (windows[i] for i in shown):
            reach = reach.around(window)
        began = time.perf_counter()
        image = self._read(reach)
        self.watch.add("read", began)
        images = [_cut(image, windows[i], reach) for i in shown]
        found = self._answers(self.model.infer, images)
        return {i: (m, f) for i, m, f in zip(shown, images, found, strict=True)}

    def _answers(self, infer: Infer, images: Iterable[Images]) -> Iterator[Any]:
        """Answers to images of one shape, in their order; they are sent in batches."""
        waiting: list[Future[Any]] = []
        for some in _batched(images, self.batch):
            answer: Future[Any] = Future()
            self._line.put((infer, np.stack(some) if len(some) > 1 else some[0][None], answer))
            waiting.append(answer)
        for answer in waiting:
            yield from answer.result()


def _lacks_memory(error: Exception) -> bool:
    # By name, since a model of one's own needs no PyTorch.
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    said = isinstance(error, RuntimeError) and any(text in str(error) for text in NO_MEMORY)
    return named or said


def _too_large(model: Model, tile_px: int) -> str:
    smaller = max(64, model.stride, tile_px // 2 // model.stride * model.stride)
    return (
        f"{model.name} finds no memory on {model.device} for one tile of {tile_px} px; "
        f"give a smaller --tile-px, e.g. --tile-px {smaller}, or fewer --workers"
    )


def _batched(items: Iterable[Images], size: int) -> Iterator[list[Images]]:
    """Lists of `size` items in turn, the last may be shorter."""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def _cut(array: NDArray[Any], box: Box, window: Box) -> NDArray[Any]:
    """The part of an array (h, w, …) over `window` that lies over `box`, as a view."""
    x, y = box.x0 - window.x0, box.y0 - window.y0
    return array[y : y + box.height, x : x + box.width]
