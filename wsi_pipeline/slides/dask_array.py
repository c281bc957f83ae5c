"""A level of a slide as a lazy Dask array."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.geometry import Box

if TYPE_CHECKING:
    import dask.array

    from wsi_pipeline.slides.slide import Slide

__all__ = ["lazy_array"]


def lazy_array(slide: Slide, level: int, chunk_px: int) -> dask.array.Array:
    """Return one level as a Dask array, uint8 (h, w, 3), that reads a chunk when it is computed.

    Parameters
    ----------
    chunk_px
        side of a chunk, pixels of the level
    """
    import dask.array
    from dask.base import tokenize

    size = slide.levels[level]
    chunks = dask.array.core.normalize_chunks(
        (chunk_px, chunk_px, 3), (size.height, size.width, 3), dtype=np.uint8
    )
    file = slide.path.stat()
    identity = (slide.path.absolute(), file.st_mtime_ns, file.st_size, slide.bounds)
    return dask.array.map_blocks(
        _read_block,
        slide=slide,
        level=level,
        chunks=chunks,
        dtype=np.uint8,
        meta=np.empty((0, 0, 0), np.uint8),
        name=f"slide-{tokenize(*identity, level, chunk_px)}",
    )


def _read_block(*, slide: Slide, level: int, block_info: Any = None) -> NDArray[np.uint8]:
    (y0, y1), (x0, x1), _ = block_info[None]["array-location"]
    return slide.read_region(Box(x0, y0, x1, y1), level)
