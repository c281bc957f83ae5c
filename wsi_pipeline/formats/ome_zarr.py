"""Write label images: OME-Zarr 0.5 (Zarr v3), one uint32 per pixel, 0 where there is no object.

Value k is object k − 1 of the exported list. Where objects overlap, a pixel has the later one.
Objects with parents make two images in one group, ``cells`` and ``nuclei``; there a pixel has the
object of the higher score, and the attributes state how much that hides.

A pixel belongs to an object when its centre lies inside. The vertices of outlines lie on pixel
corners, so the outline of whole pixels gives the same pixels back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import zarr
from numpy.typing import NDArray

from wsi_pipeline.core.errors import OutputError, UsageError
from wsi_pipeline.core.files import part_path
from wsi_pipeline.core.objects import Objects, is_cell

__all__ = ["rasterize", "write_label_image"]


@dataclass(frozen=True)
class _Level:
    """One level of the pyramid: a label pixel covers `factor` × `factor` level-0 pixels."""

    path: str
    factor: float
    width: int
    height: int


def write_label_image(
    path: Path | str,
    objects: Objects,
    *,
    width: int,
    height: int,
    mpp: float,
    scale: float = 1.0,
    chunk: int = 1024,
) -> None:
    """Write `objects` as a label image with a pyramid; it needs the memory of one chunk.

    Objects with parents make two images, ``cells`` and ``nuclei``, in a labels group of OME-NGFF.
    Attribute ``wsiseg`` of each states what overlaps hide at the finest level: `hidden_pixels`,
    the pixels of objects that show another object; `hidden_share`, their share of all object
    pixels; `hidden_objects`, the objects without a visible pixel.

    Parameters
    ----------
    path
        the folder to write, usually named .ome.zarr; it must not exist
    width, height
        size of the slide in level-0 pixels
    mpp
        µm per level-0 pixel
    scale
        level-0 pixels per label pixel at the finest level
    chunk
        side of the chunks, in label pixels

    Raises
    ------
    UsageError
        a size is not positive
    OutputError
        `path` exists or cannot be written
    """
    path = Path(path)
    for name, value in {"width": width, "height": height, "mpp": mpp, "scale": scale}.items():
        if not 0 < value < math.inf:
            raise UsageError(f"{name} of a label image must be positive, got {value}")
    if path.exists():
        raise OutputError(f"{path} exists; remove it or choose another name")
    levels = list(_plan(width, height, scale, chunk))
    attributes = _attributes(objects, levels, mpp)
    with part_path(path) as part:
        if objects.parent is None:
            group = zarr.create_group(part, zarr_format=3, attributes=attributes)
            for level in levels:
                _write_level(group, objects, np.arange(len(objects)), level, chunk)
            return
        labels: dict[str, Any] = {"ome": {"version": "0.5", "labels": ["cells", "nuclei"]}}
        root = zarr.create_group(part, zarr_format=3, attributes=labels)
        order = np.argsort(objects.score, kind="stable")
        cells = is_cell(objects)[order]
        for name, mine in (("cells", order[cells]), ("nuclei", order[~cells])):
            group = root.create_group(name, attributes=attributes)
            losses = [_write_level(group, objects, mine, level, chunk) for level in levels]
            group.attrs["wsiseg"] = attributes["wsiseg"] | {"count": len(mine)} | losses[0]


def _write_level(
    group: zarr.Group, objects: Objects, order: NDArray[np.int64], level: _Level, chunk: int
) -> dict[str, float]:
    """Paint the objects `order`, the last on top; return the numbers of what they hide."""
    array = group.create_array(
        level.path,
        shape=(level.height, level.width),
        chunks=(chunk, chunk),
        dtype="uint32",
        fill_value=0,
        dimension_names=("y", "x"),
    )
    painted = seen = 0
    visible = np.zeros(len(objects) + 1, bool)
    for row, column, which in _chunks(objects, order, level, chunk):
        y, x = row * chunk, column * chunk
        block = np.zeros((min(chunk, level.height - y), min(chunk, level.width - x)), "u4")
        painted += rasterize(block, objects, which, origin=(x, y), factor=level.factor)
        seen += int(np.count_nonzero(block))
        visible[block] = True
        array[y : y + block.shape[0], x : x + block.shape[1]] = block
    return {
        "hidden_pixels": painted - seen,
        "hidden_share": round((painted - seen) / max(painted, 1), 6),
        "hidden_objects": len(order) - int(visible[order + 1].sum()),
    }


def rasterize(
    out: NDArray[np.uint32],
    objects: Objects,
    which: NDArray[np.int64],
    *,
    origin: tuple[float, float] = (0, 0),
    factor: float = 1.0,
) -> int:
    """Paint position + 1 of the objects `which`, in that order, into `out` (rows, cols).

    Pixel (row, col) covers `factor` × `factor` level-0 pixels from ``(origin + (col, row)) *
    factor``; it is painted when its centre lies inside an object.

    Returns
    -------
    int
        number of painted pixels; a pixel in two objects counts twice
    """
    rings, vertices = objects.object_offsets, objects.ring_offsets
    return int(_paint(out, objects.coords, vertices, rings, which, origin[0], origin[1], factor))


def _plan(width: int, height: int, scale: float, chunk: int) -> Iterator[_Level]:
    """Yield the levels, from the finest to the first that fits into one chunk."""
    for k in range(64):
        factor = scale * 2**k
        level = _Level(str(k), factor, math.ceil(width / factor), math.ceil(height / factor))
        yield level
        if max(level.width, level.height) <= chunk:
            return


def _chunks(
    objects: Objects, order: NDArray[np.int64], level: _Level, chunk: int
) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
    """Yield row, column and objects of each chunk with objects; these keep their order."""
    rows, columns = -(-level.height // chunk), -(-level.width // chunk)
    box = np.floor(objects.bounds()[order] / (level.factor * chunk)).astype(np.int64)
    x0, x1 = np.clip(box[:, 0], 0, None), np.clip(box[:, 2], None, columns - 1)
    y0, y1 = np.clip(box[:, 1], 0, None), np.clip(box[:, 3], None, rows - 1)
    wide, high = np.maximum(0, x1 - x0 + 1), np.maximum(0, y1 - y0 + 1)
    owner = np.repeat(np.arange(len(order)), wide * high)
    nth = np.arange(len(owner)) - np.repeat(np.cumsum(wide * high) - wide * high, wide * high)
    place = (y0[owner] + nth // wide[owner]) * columns + x0[owner] + nth % wide[owner]
    by_place = np.argsort(place, kind="stable")
    places, starts = np.unique(place[by_place], return_index=True)
    for one, which in zip(places, np.split(order[owner[by_place]], starts[1:]), strict=False):
        yield int(one) // columns, int(one) % columns, which


def _attributes(objects: Objects, levels: list[_Level], mpp: float) -> dict[str, Any]:
    datasets = []
    for level in levels:
        size = level.factor * mpp
        # Coordinates refer to pixel centres: the centre of a coarse pixel is not that of its first
        # fine pixel.
        centre = (level.factor - 1) / 2 * mpp
        datasets.append(
            {
                "path": level.path,
                "coordinateTransformations": [
                    {"type": "scale", "scale": [size, size]},
                    {"type": "translation", "translation": [centre, centre]},
                ],
            }
        )
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    return {
        "ome": {
            "version": "0.5",
            "multiscales": [{"name": "objects", "axes": axes, "datasets": datasets}],
            "image-label": {},
        },
        "wsiseg": {"classes": list(objects.classes), "count": len(objects)},
    }


@numba.njit(nogil=True, cache=True)
def _paint(
    out: NDArray[np.uint32],
    coords: NDArray[np.float64],
    ring_offsets: NDArray[np.int64],
    object_offsets: NDArray[np.int64],
    which: NDArray[np.int64],
    x0: float,
    y0: float,
    factor: float,
) -> int:
    """Fill objects by scan lines through pixel centres, with the even-odd rule.

    Foley et al., Computer Graphics: Principles and Practice, 2nd ed. (1990), section 3.6. A point
    is inside where a ray from it crosses the rings an odd number of times; shell and holes of an
    object are treated alike. An edge belongs to a line at y where ``min(ya, yb) <= y <
    max(ya, yb)``, so a vertex on the line counts once. Hand-written because the value of a pixel
    is decided by its centre; cv2.fillPoly also paints pixels that an edge only touches.
    """
    rows, columns = out.shape
    crossings = np.empty(64)
    painted = 0
    for i in which:
        start, stop = ring_offsets[object_offsets[i]], ring_offsets[object_offsets[i + 1]]
        if stop - start > len(crossings):
            crossings = np.empty(stop - start)
        low, high = coords[start:stop, 1].min(), coords[start:stop, 1].max()
        first = max(0, math.ceil(low / factor - y0 - 0.5))
        last = min(rows - 1, math.floor(high / factor - y0 - 0.5))
        for row in range(first, last + 1):
            y = (row + y0 + 0.5) * factor
            count = 0
            for ring in range(object_offsets[i], object_offsets[i + 1]):
                for v in range(ring_offsets[ring], ring_offsets[ring + 1] - 1):
                    ya, yb = coords[v, 1], coords[v + 1, 1]
                    if (ya <= y) != (yb <= y):
                        along = (y - ya) / (yb - ya)
                        crossings[count] = coords[v, 0] + along * (coords[v + 1, 0] - coords[v, 0])
                        count += 1
            xs = np.sort(crossings[:count])
            for pair in range(0, count - 1, 2):
                left = max(0, math.ceil(xs[pair] / factor - x0 - 0.5))
                right = min(columns, math.ceil(xs[pair + 1] / factor - x0 - 0.5))
                for column in range(left, right):
                    out[row, column] = i + 1
                painted += max(0, right - left)
    return painted
