"""WindowCache: windows of the model grid that overlap, each pixel decoded once.

A window is a region with its halo, which together have half as many pixels again as the region.
The edges that the next windows need are kept, up to a limit of memory. The pixels are the same
with and without the cache.
"""

from __future__ import annotations

import threading
from collections import deque

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.geometry import Box, paste
from wsi_pipeline.slides.slide import Slide

__all__ = ["WindowCache"]

KEPT_BYTES = 2**27
"""Memory for the kept edges: a row of regions across a wide slide needs about 100 MB."""

Image = NDArray[np.uint8]


class WindowCache:
    """Reads windows of one slide at one scale. Any thread may read.

    Parameters
    ----------
    scale
        level-0 pixels per pixel of the grid
    """

    def __init__(self, slide: Slide, scale: float) -> None:
        self.slide, self.scale = slide, scale
        self._lock = threading.Lock()
        self._kept: deque[tuple[Box, Image]] = deque()
        self._bytes = 0

    def read(self, window: Box, border: int = 0) -> Image:
        """Return the pixels of a window, uint8 (h, w, 3), as `Slide.read_scaled` does.

        The pixels within `border` of the left, right and bottom edge are kept for other windows.
        """
        with self._lock:
            known = [(box, image) for box, image in self._kept if _meet(box, window)]
        rest = _uncovered(window, [box for box, _ in known])
        fresh = self.slide.read_scaled(rest, self.scale)
        if rest == window:
            image = fresh
        else:
            image = np.empty((window.height, window.width, 3), np.uint8)
            for box, pixels in (*known, (rest, fresh)):
                paste(image, window, pixels, box)
        if border:
            self._keep(image, window, rest, border)
        return image

    def _keep(self, image: Image, window: Box, rest: Box, border: int) -> None:
        """Keep copies of the new pixels along three edges."""
        x0, y0, x1, y1 = window.x0, window.y0, window.x1, window.y1
        edges = (
            Box(x0, y0, x0 + border, y1 - border),
            Box(x1 - border, y0, x1, y1 - border),
            Box(x0, y1 - border, x1, y1),
        )
        strips = [edge.clip(rest) for edge in edges]
        with self._lock:
            for box in strips:
                if box.width and box.height:
                    part = image[box.y0 - y0 : box.y1 - y0, box.x0 - x0 : box.x1 - x0].copy()
                    self._kept.append((box, part))
                    self._bytes += part.nbytes
            while self._bytes > KEPT_BYTES:
                self._bytes -= self._kept.popleft()[1].nbytes


def _meet(a: Box, b: Box) -> bool:
    shared = a.clip(b)
    return shared.width > 0 and shared.height > 0


def _uncovered(window: Box, boxes: list[Box]) -> Box:
    """Return the smallest box around the part of a window outside all `boxes`, maybe empty."""
    clipped = [box.clip(window) for box in boxes]
    xs = np.unique([v for box in (window, *clipped) for v in (box.x0, box.x1)])
    ys = np.unique([v for box in (window, *clipped) for v in (box.y0, box.y1)])
    left = np.ones((len(ys) - 1, len(xs) - 1), np.bool_)
    for box in clipped:
        top, bottom = np.searchsorted(ys, (box.y0, box.y1))
        start, stop = np.searchsorted(xs, (box.x0, box.x1))
        left[top:bottom, start:stop] = False
    rows, columns = (np.flatnonzero(left.any(axis)) for axis in (1, 0))
    if len(rows) == 0:
        return Box(window.x0, window.y0, window.x0, window.y0)
    return Box(
        int(xs[columns[0]]), int(ys[rows[0]]), int(xs[columns[-1] + 1]), int(ys[rows[-1] + 1])
    )
