"""Classify what happens to true nuclei on the seams of a pipeline's tiles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.objects import Objects
from wsi_pipeline.evaluation.matching import object_overlaps

FATES = ("whole", "chipped", "cut", "doubled", "merged", "lost")
"""README.md in this folder explains them."""
IOU = 0.5
NEAR_PX = 2.0
"""A nucleus at most this far from a seam, level-0 pixels, lies on it."""
MIN_AREA_PX = 128.0
"""Smaller objects, level-0 pixels, are removed from every result: 8 µm² at 0.25 µm."""
PIECE = 0.1
"""A piece is at least this share of its nucleus."""

Lines = NDArray[np.float64]


def fates(found: Objects, truth: Objects) -> NDArray[np.int64]:
    """Return what happened to each true nucleus (n,), as positions in `FATES`."""
    table = object_overlaps(found, truth, 0.0)
    n = len(truth)
    best, covered = np.zeros(n), np.zeros(n)
    np.maximum.at(best, table.b, table.iou)
    np.add.at(covered, table.b, table.shared / table.area_b[table.b])
    piece = (table.shared >= table.area_a[table.a] / 2) & (
        table.shared >= PIECE * table.area_b[table.b]
    )
    pieces = np.bincount(table.b[piece], minlength=n)
    out = np.where(best >= IOU, 0, np.where(covered >= 0.5, 4, 5))
    polygons = shapely.make_valid(found.polygons())
    for k in np.flatnonzero(pieces > 1):
        mine = polygons[table.a[piece & (table.b == k)]]
        if _twice(mine):
            out[k] = 3
        elif out[k] != 5:
            out[k] = 1 if best[k] >= IOU else 2
    return out


def _twice(pieces: NDArray[np.object_]) -> bool:
    """Return whether any two pieces share half of the smaller one."""
    i, j = np.triu_indices(len(pieces), 1)
    area = shapely.area(pieces)
    shared = shapely.area(shapely.intersection(pieces[i], pieces[j]))
    return bool((shared >= np.minimum(area[i], area[j]) / 2).any())


def on_lines(truth: Objects, lines: Lines) -> NDArray[np.bool_]:
    """Return which nuclei (n,) lie at most `NEAR_PX` from a line x = l or y = l."""
    box = truth.bounds()
    out = np.zeros(len(truth), np.bool_)
    for axis in (0, 1):
        low, high = box[:, axis] - NEAR_PX, box[:, axis + 2] + NEAR_PX
        out |= np.searchsorted(lines, low) < np.searchsorted(lines, high, side="right")
    return out


def away(truth: Objects, lines: Lines, period: float) -> NDArray[np.bool_]:
    """Return which nuclei (n,) lie on the lines moved by quarters of their period, on no seam.

    Large nuclei meet a line more often than small ones, so all nuclei are no fair comparison.
    """
    moved = [on_lines(truth, lines + period * k / 4) for k in (1, 2, 3)]
    return np.asarray(np.any(moved, axis=0) & ~on_lines(truth, lines))


def square(side: int, step: float) -> Lines:
    """Return the seams of tiles that lie side by side."""
    return np.arange(step, side, step)


def instanseg_lines(side: int, scale: float, detection_px: int) -> Lines:
    """Return the ends of what InstanSeg's windows keep, and of the windows of its export.

    `side` in level-0 pixels; windows of 512 px overlap by 2 · (80 + detection size) and keep all
    but 80 px at each end; those of the export overlap by the detection size.
    """
    ends = []
    for margin, overlap in ((80, 2 * (80 + detection_px)), (0, detection_px)):
        size = round(side / scale)
        step = 512 - overlap
        starts = np.unique([*range(0, size - 511, step), size - 512])
        ends += [starts[1:] + margin, starts[:-1] + 512 - margin]
    return np.unique(np.concatenate(ends)) * scale


def read_outlines(path: Path, widen_px: float) -> Objects:
    """Read the polygons of a GeoJSON file, a collection or a list of features, as objects.

    OpenCV's outlines run through the middle of pixels; `widen_px`, half a pixel in level-0
    pixels, brings them to the edges, as those of the others are.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    features = content if isinstance(content, list) else content["features"]
    shapes = shapely.from_geojson([json.dumps(f["geometry"]) for f in features])
    if widen_px:
        shapes = shapely.transform(shapes, lambda xy: xy + widen_px)
        shapes = shapely.buffer(shapes, widen_px, join_style="mitre")
    # An outline that crosses itself has several parts; the largest one counts.
    parts = (shapely.get_parts(s) for s in shapely.make_valid(shapes))
    largest = [max(p, key=shapely.area) for p in parts if shapely.area(p).max() > 0]
    n = len(largest)
    return Objects.from_polygons(
        largest,
        classes=("nucleus",),
        ids=np.zeros((n, 2), np.uint64),
        class_index=np.zeros(n, np.uint8),
        score=np.ones(n, np.float32),
    )
