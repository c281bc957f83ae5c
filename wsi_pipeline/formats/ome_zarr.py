"""Write label images: OME-Zarr 0.5 (Zarr v3), one uint32 per pixel, 0 where there is no object.

The group ``labels`` holds ``nuclei`` and ``cells``, those that the objects have. Value k is object
k − 1 of the exported list, in both. Where objects overlap, a pixel has the later one; where they
have parents, that of the higher score, and the attributes state how much that hides. The slide's
pixels can be written beside them.

A pixel belongs to an object when its centre lies inside. The vertices of outlines lie on pixel
corners, so the outline of whole pixels gives the same pixels back.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numba
import numpy as np
import zarr
from numpy.typing import NDArray

from wsi_pipeline.core.errors import OutputError, UsageError
from wsi_pipeline.core.files import part_path
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.objects import CELL_CLASS, Objects, is_cell
from wsi_pipeline.core.polygons import arranged
from wsi_pipeline.formats._ngff import Level, image_metadata, label_metadata, plan_levels

__all__ = ["Pixels", "rasterize", "write_label_image", "write_pixels"]


_log = logging.getLogger(__name__)

Pixels = Callable[[Box, float], NDArray[np.uint8]]
"""Reads pixels, uint8 (h, w, 3), of a box of the grid whose pixels are so many level-0 pixels."""


def write_label_image(
    path: Path | str,
    objects: Objects,
    *,
    width: int,
    height: int,
    mpp: float,
    scale: float = 1.0,
    chunk: int = 1024,
    pixels: Pixels | None = None,
    colors: Mapping[str, tuple[int, int, int]] | None = None,
) -> None:
    """Write `objects` as label images with pyramids; it needs the memory of one chunk.

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
    pixels
        reads the slide, whose pixels are then written as an image with the same pyramid
    colors
        class name → red, green, blue; other classes have the colours of GeoJSON

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
    levels = list(plan_levels(width, height, scale, chunk))
    objects = arranged(objects)
    groups = _groups(objects)
    with part_path(path) as part:
        about = image_metadata(path.name.split(".")[0], levels, mpp) if pixels else {}
        root = zarr.create_group(part, zarr_format=3, attributes=about)
        for level in levels if pixels else ():
            assert pixels is not None
            write_pixels(root, pixels, level, chunk)
        names: dict[str, Any] = {"ome": {"version": "0.5", "labels": list(groups)}}
        labels = root.create_group("labels", attributes=names)
        for name, rows in groups.items():
            attributes = label_metadata(
                name, objects, np.sort(rows), levels, mpp, colors=colors or {}, image=bool(pixels)
            )
            group = labels.create_group(name, attributes=attributes)
            losses = [_write_level(group, objects, rows, level, chunk) for level in levels]
            group.attrs["wsiseg"] = attributes["wsiseg"] | losses[0]
            if hidden := losses[0]["hidden_objects"]:
                _log.warning(
                    "%s: %d of %d %s show in no pixel: others lie over them, they are smaller than "
                    "a pixel (--scale), or they lie beside the slide",
                    path, hidden, len(rows), name,
                )  # fmt: skip


def _groups(objects: Objects) -> dict[str, NDArray[np.int64]]:
    """Return name of each label image → its objects, the last on top."""
    order = np.arange(len(objects))
    if objects.parent is not None:
        order = np.argsort(objects.score, kind="stable")
    cells = is_cell(objects)[order]
    if any(name.startswith("Box: ") for name in objects.features):
        return {"objects": order}
    groups = {}
    if objects.parent is not None or CELL_CLASS in objects.classes:
        groups["cells"] = order[cells]
    if objects.parent is not None or set(objects.classes) != {CELL_CLASS}:
        groups["nuclei"] = order[~cells]
    return groups


def write_pixels(group: zarr.Group, pixels: Pixels, level: Level, chunk: int) -> None:
    """Write one level of the slide's pixels, chunk by chunk."""
    array = group.create_array(
        level.path,
        shape=(3, level.height, level.width),
        chunks=(3, chunk, chunk),
        dtype="uint8",
        fill_value=0,
        dimension_names=("c", "y", "x"),
    )
    for y in range(0, level.height, chunk):
        for x in range(0, level.width, chunk):
            box = Box(x, y, min(x + chunk, level.width), min(y + chunk, level.height))
            block = pixels(box, level.factor).transpose(2, 0, 1)
            array[:, box.y0 : box.y1, box.x0 : box.x1] = np.ascontiguousarray(block)


def _write_level(
    group: zarr.Group, objects: Objects, order: NDArray[np.int64], level: Level, chunk: int
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


def _chunks(
    objects: Objects, order: NDArray[np.int64], level: Level, chunk: int
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
