"""COCO instances for detection frameworks: one image, one annotation per object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.errors import UsageError
from wsi_pipeline.core.files import open_part
from wsi_pipeline.core.objects import CELL_CLASS, Objects
from wsi_pipeline.core.polygons import as_written, chunks
from wsi_pipeline.formats._compact_json import compact_json
from wsi_pipeline.formats.ome_zarr import rasterize

__all__ = ["write_coco"]

_CHUNK = 10_000
"""Objects that are formatted at once."""
_RLE_LIMIT = 2**32
"""pycocotools counts pixels in uint32."""


def write_coco(
    path: Path | str,
    objects: Objects,
    *,
    width: int,
    height: int,
    file_name: str,
    mpp: float | None = None,
) -> None:
    """Write `objects` as COCO JSON, streamed; gzipped where `path` ends in .gz.

    Segmentations are polygons in level-0 pixels. COCO's polygons have no holes, so an object with
    holes is written as uncompressed RLE. RLE cannot count the pixels of slides of 2**32 pixels or
    more; there only the shell is written. ``info.holes`` states which. Areas always exclude holes.
    Annotation ids are 1 to n in the order of `objects`; category ids are `class_index` + 1.

    Where objects have parents, the file is like the sets that networks are trained on: category 1
    is "nucleus", 2 "cytoplasm" (the whole cell with its nucleus), others follow. A nucleus is
    written right after its cell. The `cell_id` of both is the id of the cell's annotation; an
    object without parent and nuclei has its own id as `cell_id`.

    Parameters
    ----------
    path
        the file to write
    width, height
        size of the slide in level-0 pixels
    file_name
        ``file_name`` of the image
    mpp
        µm per level-0 pixel, stored as ``mpp`` of the image

    Raises
    ------
    UsageError
        the size is not positive
    OutputError
        the file cannot be written
    """
    if width < 1 or height < 1:
        raise UsageError(f"width and height must be positive, got {width} × {height} px")
    rle = width * height < _RLE_LIMIT
    linked = objects.parent is not None
    names = _linked_names(objects.classes) if linked else objects.classes
    category = [names.index(_linked_name(c) if linked else c) + 1 for c in objects.classes]
    with open_part(Path(path)) as file:
        image = {"id": 1, "file_name": file_name, "width": width, "height": height}
        head = {
            "info": {
                "description": "wsiseg objects in level-0 pixels",
                "holes": "RLE" if rle else "left out of segmentations, not of areas",
            },
            "images": [image if mpp is None else {**image, "mpp": mpp}],
            "categories": [{"id": k, "name": name} for k, name in enumerate(names, 1)],
        }
        file.write(compact_json(head)[:-1].encode() + b',"annotations":[\n')
        count = before = 0
        for chunk in chunks(objects, _CHUNK):
            valid = as_written(chunk)
            for i, annotation in enumerate(_annotations(valid, category, (height, width), rle)):
                if valid.parent is not None:
                    cell = int(valid.parent[i])
                    annotation["cell_id"] = before + 1 + (i if cell < 0 else cell)
                file.write(b",\n" if count else b"")
                count += 1
                file.write(compact_json({"id": count, "image_id": 1, **annotation}).encode())
            before = count
        file.write(b"]}\n")


def _linked_name(name: str) -> str:
    return "cytoplasm" if name == CELL_CLASS else name


def _linked_names(classes: Sequence[str]) -> list[str]:
    """Return the categories for cells with nuclei, in the order of their ids."""
    return list(dict.fromkeys(["nucleus", "cytoplasm", *map(_linked_name, classes)]))


def _annotations(
    objects: Objects, category: Sequence[int], shape: tuple[int, int], rle: bool
) -> Iterator[dict[str, Any]]:
    if len(objects) == 0:
        return
    areas = shapely.area(objects.polygons())
    x0, y0, x1, y1 = objects.bounds().T
    boxes = np.round(np.stack([x0, y0, x1 - x0, y1 - y0], axis=1), 2)
    for i in range(len(objects)):
        first, after = objects.object_offsets[i : i + 2]
        shell = objects.coords[objects.ring_offsets[first] : objects.ring_offsets[first + 1] - 1]
        holes = after - first > 1 and rle
        annotation = {
            "category_id": category[objects.class_index[i]],
            "segmentation": _rle(objects, i, shape) if holes else [shell.ravel().tolist()],
            "bbox": boxes[i].tolist(),
            "area": round(float(areas[i]), 4),
            "iscrowd": 0,
        }
        if np.isfinite(objects.score[i]):
            annotation["score"] = float(str(objects.score[i]))
        yield annotation


def _rle(objects: Objects, i: int, shape: tuple[int, int]) -> dict[str, Any]:
    """Return COCO's run lengths of object i: of 0 and 1 in turn, down the columns of the slide."""
    height, width = shape
    box = objects.bounds()[i]
    x0, y0 = np.clip(np.floor(box[:2]), 0, (width, height)).astype(int)
    x1, y1 = np.clip(np.ceil(box[2:]), (x0, y0), (width, height)).astype(int)
    mask = np.zeros((y1 - y0, x1 - x0), np.uint32)
    rasterize(mask, objects, np.array([i]), origin=(float(x0), float(y0)))
    column, row = np.nonzero(mask.T)
    at: NDArray[np.int64] = (column + x0) * height + row + y0
    starts = at[np.diff(at, prepend=-2) != 1]
    ends = at[np.diff(at, append=height * width + 1) != 1] + 1
    edges = np.concatenate([[0], np.stack([starts, ends], axis=1).ravel(), [height * width]])
    return {"size": [height, width], "counts": np.diff(edges).tolist()}
