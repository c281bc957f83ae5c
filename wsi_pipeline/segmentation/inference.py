"""Inference: read windows of a slide and run the model's network on them.

Many threads read and decode; `Model.at_once` threads run the network. A queue of bounded length
between them makes readers wait for the network, so memory stays bounded.
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
from functools import reduce
from itertools import islice
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.errors import DeviceError, OutOfMemoryError, one_line
from wsi_pipeline.core.geometry import Box, paste, plan_tiles
from wsi_pipeline.core.machine import process_settings
from wsi_pipeline.segmentation.model import Instances, Model
from wsi_pipeline.segmentation.stain_map import StainMap
from wsi_pipeline.slides.foreground import Foreground
from wsi_pipeline.slides.slide import Slide
from wsi_pipeline.slides.window_cache import WindowCache

__all__ = ["Engine", "Stopwatch"]

Images = NDArray[np.uint8]
Infer = Callable[[Images], list[Any]]
"""A method of a model: images (n, h, w, 3) → one answer per image."""
Job = tuple[Infer, Images, "Future[Any]"]
NO_MEMORY = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED")
"""Parts of PyTorch's messages for errors that have no class of their own."""

_log = logging.getLogger(__name__)


class Stopwatch:
    """Seconds spent per stage of the work, summed over threads.

    Examples
    --------
    >>> watch = Stopwatch()
    >>> began = time.perf_counter()
    >>> began = watch.add("read", began)  # books the time since `began`; returns the time now
    >>> list(watch.seconds)
    ['read']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, stage: str, since: float) -> float:
        """Add the time since `since` to a stage; return the time now."""
        now = time.perf_counter()
        with self._lock:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + now - since
        return now


class Engine:
    """Read windows of one slide on the model's pixel grid and run the network on them.

    Thread-safe. A context manager: it starts and ends the threads that run the network. One that
    cannot start is a `DeviceError`, or an `OutOfMemoryError`.

    Parameters
    ----------
    visible
        where the model is run; elsewhere every probability is 0
    scale
        level-0 pixels per model pixel
    tile_px, batch
        width of a tile's core and number of tiles per call of the network; they do not change the
        result. If a batch does not fit into memory, `batch` becomes the number that does
    stain_map
        changes the pixels that the network gets, and no others; None: they stay as they are

    Attributes
    ----------
    missing
        boxes that could not be read, model pixels; only with `tolerant`
    watch
        seconds per stage: read, network, objects
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
        stain_map: StainMap | None = None,
    ) -> None:
        self.slide, self.model, self.visible, self.scale = slide, model, visible, scale
        self.tile_px, self.batch, self.stain_map = tile_px, batch, stain_map
        self.canvas = WindowCache(slide, scale)
        self.missing: list[Box] = []
        self._tolerant = False
        self.watch = Stopwatch()
        self._reducing = threading.Lock()
        self._settings = ExitStack()
        # Two batches that wait are enough to keep a thread busy.
        self._queue: queue.Queue[Job | None] = queue.Queue(2 * model.at_once)
        self._begun = [Future[None]() for _ in range(model.at_once)]
        self._threads = [
            threading.Thread(target=self._serve, args=(begun,), name=f"network {k}", daemon=True)
            for k, begun in enumerate(self._begun)
        ]

    def tolerant(self) -> Engine:
        """Return the same engine for one damaged region.

        Pixels that cannot be read are then blank, and `missing` lists their boxes, which may
        overlap.
        """
        other = copy(self)
        other.missing, other._tolerant = [], True
        return other

    def _read(self, window: Box, border: int = 0) -> Images:
        """Read a window, uint8 (h, w, 3); `border` as in `WindowCache.read`."""
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
        try:
            self._start()
        except BaseException:  # `__exit__` is not called then
            self._end()
            raise
        return self

    def _start(self) -> None:
        """Start the threads, and wait until each of them can call the network."""
        try:
            for thread in self._threads:
                thread.start()
            for begun in self._begun:
                begun.result()
        except Exception as error:
            kind = OutOfMemoryError if _lacks_memory(error) else DeviceError
            raise kind(
                f"{self.model.name}: the network's threads cannot start on {self.model.device} "
                f"({one_line(error)}); end other programs there, or use another --device"
            ) from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        started = [thread for thread in self._threads if thread.ident is not None]
        for _ in started:
            self._queue.put(None)
        for thread in started:
            thread.join()
        self._settings.close()

    def _serve(self, begun: Future[None]) -> None:
        try:
            self.model.share()
        except BaseException as error:
            begun.set_exception(error)
            return
        begun.set_result(None)
        while (job := self._queue.get()) is not None:
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
                raise OutOfMemoryError(self._too_large(piece.shape[1]))
            else:
                size = -(-len(piece) // 2)
        self._reduce(len(images), size)
        return done

    def _attempt(self, infer: Infer, images: Images) -> list[Any] | None:
        """Run the network on a batch; None if the memory is too small for it."""
        try:
            return infer(self._adapted(images))
        except Exception as error:
            if not _lacks_memory(error):
                raise
        # After the except block: the error holds references to the network's tensors.
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        elif torch is not None and self.model.device.startswith("mps"):
            torch.mps.empty_cache()
        return None

    def _adapted(self, images: Images) -> Images:
        """Return what the network gets of images uint8 (n, h, w, 3)."""
        return images if self.stain_map is None else self.stain_map(images)

    def _too_large(self, side_px: int) -> str:
        """Return the message for an image that does not fit into memory."""
        model, stride = self.model, self.model.stride
        smaller = max(64, stride, self.tile_px // 2 // stride * stride)
        return (
            f"{model.name}: not enough memory on {model.device} for one image of {side_px} px; "
            f"give a smaller --tile-px, e.g. --tile-px {smaller}, or fewer --workers"
        )

    def _reduce(self, tried: int, fits: int) -> None:
        """Set `batch` to the number of images that fit, if that is smaller."""
        with self._reducing:
            if fits < min(tried, self.batch):
                self.batch = fits
                _log.warning(
                    "%s on %s: not enough memory for batches of %d; continuing with batches of %d",
                    self.model.name, self.model.device, tried, fits,
                )  # fmt: skip

    def label(self, window: Box) -> tuple[Images, NDArray[np.integer]]:
        """Run a `LabelModel` on a window; return its image (h, w, 3) and label image (h, w).

        Objects outside the visible area are left out.
        """
        began = time.perf_counter()
        image = self._read(window)
        began = self.watch.add("read", began)
        (labels,) = self.model.infer(self._adapted(image[None]))
        self.watch.add("network", began)
        visible = np.unique(labels[self.visible.window(window, self.scale)])
        return image, np.where(np.isin(labels, visible), labels, 0)

    def predict(self, infer_core: Infer, window: Box, overlap: int = 0) -> tuple[Images, Images]:
        """Run a `PixelModel` on the tiles of a window.

        Parameters
        ----------
        infer_core
            the model's method
        window
            model pixels; its corners are multiples of the model's stride
        overlap
            width of the strip that this window shares with the next ones

        Returns
        -------
        image (h, w, 3) and class probabilities (classes, h, w) of the window; both are 0 where
        nothing is visible
        """
        halo = self.model.halo_px
        began = time.perf_counter()
        visible = self.visible.window(window, self.scale)
        tiles = [
            tile
            for tile in plan_tiles(window, self.tile_px, halo)
            if _cut(visible, tile.core.clip(window), window).any()
        ]
        out = np.zeros((self.model.channels, window.height, window.width), np.uint8)
        reach = window if not tiles else _around(tile.window for tile in tiles)
        image = self._read(reach, overlap + 2 * halo if overlap else 0)
        self.watch.add("read", began)
        images = (_cut(image, tile.window, reach) for tile in tiles)
        for tile, scores in zip(tiles, self._answers(infer_core, images), strict=True):
            core = tile.core.clip(window)
            inside = scores[:, : core.height, : core.width]
            _cut(out.transpose(1, 2, 0), core, window)[:] = inside.transpose(1, 2, 0)
        out *= visible
        if reach.clip(window) == window:
            return _cut(image, window, reach), out
        whole = np.zeros((window.height, window.width, 3), np.uint8)
        paste(whole, window, image, reach)
        return whole, out

    def detect(
        self, windows: Sequence[Box], cores: Sequence[Box]
    ) -> dict[int, tuple[Images, Instances]]:
        """Run an `InstanceModel` on the windows whose core is visible.

        Parameters
        ----------
        windows, cores
            n boxes of model pixels each; windows have one shape, a multiple of the stride

        Returns
        -------
        position in `windows`, ascending → image (h, w, 3) of the window and its instances
        """
        visible = [i for i, core in enumerate(cores) if self.visible.window(core, self.scale).any()]
        if not visible:
            return {}
        began = time.perf_counter()
        reach = _around(windows[i] for i in visible)
        image = self._read(reach)
        self.watch.add("read", began)
        images = [_cut(image, windows[i], reach) for i in visible]
        answers = self._answers(self.model.infer, images)
        return {i: (m, a) for i, m, a in zip(visible, images, answers, strict=True)}

    def _answers(self, infer: Infer, images: Iterable[Images]) -> Iterator[Any]:
        """Send images of one shape to the network in batches; yield one answer per image."""
        waiting: list[Future[Any]] = []
        for batch in _batched(images, self.batch):
            answer: Future[Any] = Future()
            self._queue.put((infer, np.stack(batch) if len(batch) > 1 else batch[0][None], answer))
            waiting.append(answer)
        for answer in waiting:
            yield from answer.result()


def _lacks_memory(error: Exception) -> bool:
    """Return whether an error means that memory ran out."""
    # PyTorch's class by its name: a model that is a plain function does not import PyTorch.
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    message = str(error) if isinstance(error, RuntimeError) else ""
    return known or any(text in message for text in NO_MEMORY)


def _batched(items: Iterable[Images], size: int) -> Iterator[list[Images]]:
    """Yield lists of `size` items; the last one may be shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def _around(boxes: Iterable[Box]) -> Box:
    """Return the smallest box around boxes, of which there is at least one."""
    return reduce(Box.around, boxes)


def _cut(array: NDArray[Any], box: Box, window: Box) -> NDArray[Any]:
    """Return a view of the part of an array (h, w, …) over `window` that lies over `box`."""
    x, y = box.x0 - window.x0, box.y0 - window.y0
    return array[y : y + box.height, x : x + box.width]
