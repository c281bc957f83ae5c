"""Cells with their nuclei as QuPath cells: the names and the measurements that each has there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.objects import Objects, is_cell
from wsi_pipeline.formats._compact_json import compact_json
from wsi_pipeline.formats._geojson_grammar import (
    NUCLEUS,
    detection_name,
    nucleus_name,
    nucleus_of,
)
from wsi_pipeline.formats._geojson_render import Families

__all__ = ["alone_names", "families", "together"]

AREA, LENGTH, SOLIDITY, MAX_DIAMETER, MIN_DIAMETER = (
    f"{NUCLEUS}{name}"
    for name in ("Area µm^2", "Length µm", "Solidity", "Max diameter µm", "Min diameter µm")
)
_SHARED = (AREA, LENGTH, SOLIDITY, MAX_DIAMETER, MIN_DIAMETER)
"""What QuPath measures of several nuclei together; it has no circularity of several parts."""


def alone_names(names: Sequence[str], object_type: str) -> list[str]:
    """Return the names of measurements of objects that no cell holds, as QuPath has them."""
    if object_type == "cell":
        return list(names)
    return [detection_name(name, names) for name in names]


def families(objects: Objects, names: Sequence[str], object_type: str) -> Families:
    """Return the rows of each feature, and the names of their measurements in it."""
    assert objects.parent is not None
    alone = objects.parent < 0
    head = np.flatnonzero(alone)
    if (objects.parent[~alone] != head[np.cumsum(alone) - 1][~alone]).any():
        raise ValueError("a nucleus does not follow its cell; order the objects by family")
    start = np.append(head, len(objects))
    kind = objects.class_index + len(objects.classes) * is_cell(objects).astype(np.int64)
    # A cell's own row has under such names only what `together` puts there.
    own = [name if name in _SHARED or not nucleus_of(name) else "" for name in names]
    blocks = [alone_names(names, object_type), own]
    most = int(np.diff(start).max(initial=1)) - 1
    for k in range(most + 1 if most > 1 else most):
        blocks.append([nucleus_name(name, k, names) for name in names])
    return Families(
        start=start,
        kind=kind[head],
        nucleus_texts=[f'","class":{compact_json(name)}}}'.encode() for name in objects.classes],
        name_blocks=[
            f"{compact_json(m)}:".encode() if m else b"" for block in blocks for m in block
        ],
    )


def together(objects: Objects) -> dict[str, NDArray[np.float32]]:
    """Return the measurements, with those of all nuclei together in the rows of their cells.

    QuPath measures a cell's nuclei as one outline of several parts: area and perimeter are sums,
    solidity and diameters are those of all parts together. Rows of cells with fewer than two
    nuclei have NaN.
    """
    features = dict(objects.features)
    if objects.parent is None:
        return features
    held = np.flatnonzero(objects.parent >= 0)
    held = held[np.argsort(objects.parent[held], kind="stable")]
    cells, first, count = np.unique(objects.parent[held], return_index=True, return_counts=True)
    for name in _SHARED:
        if name in features:
            features[name] = features[name].copy()
            features[name][cells] = np.nan
    several = count > 1 if AREA in features else np.zeros(len(cells), bool)
    for cell, start, n in zip(cells[several], first[several], count[several], strict=True):
        for name, value in _measured(objects.take(held[start : start + n])).items():
            if name in features:
                features[name][cell] = value
    return features


def _measured(nuclei: Objects) -> dict[str, float]:
    """Measure the nuclei of a cell as one shape; their measured area states the pixel size."""
    area = float(shapely.area(nuclei.polygons()).sum())
    hull = shapely.convex_hull(shapely.multipoints(nuclei.coords))
    area_um2, length = (
        float(nuclei.features.get(name, np.zeros(1)).astype(np.float64).sum())
        for name in (AREA, LENGTH)
    )
    mpp = math.sqrt(area_um2 / area) if area_um2 > 0 else math.nan
    return {
        AREA: area_um2,
        LENGTH: length,
        SOLIDITY: area / hull.area,
        MAX_DIAMETER: 2 * mpp * float(shapely.minimum_bounding_radius(hull)),
        MIN_DIAMETER: mpp * _width(hull),
    }


def _width(hull: shapely.Polygon) -> float:
    """Return the least distance of two parallel lines that enclose a convex polygon.

    One of the lines lies on an edge (Houle and Toussaint, IEEE PAMI 10, 1988).
    """
    points = shapely.get_coordinates(hull)
    edge = np.diff(points, axis=0)
    normal = np.stack([-edge[:, 1], edge[:, 0]], axis=1) / np.hypot(*edge.T)[:, None]
    away = normal @ points.T
    return float((away.max(axis=1) - away.min(axis=1)).min())
