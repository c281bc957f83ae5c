"""Metadata of OME-NGFF 0.5: images, label images and the groups that hold them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.objects import Objects
from wsi_pipeline.formats._geojson_render import uuid_text
from wsi_pipeline.formats.geojson import class_color

__all__ = ["LISTED", "Level", "image_metadata", "label_metadata", "plan_levels"]

VERSION = "0.5"
LISTED = 200_000
"""Label images of more objects have no list of them: it would be read at every opening."""
_CHANNELS = (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))


@dataclass(frozen=True)
class Level:
    """One level of a pyramid: a pixel covers `factor` × `factor` level-0 pixels of the slide."""

    path: str
    factor: float
    width: int
    height: int


def plan_levels(width: int, height: int, scale: float, chunk: int) -> Iterator[Level]:
    """Yield the levels, from the finest to the first that fits into one chunk."""
    for k in range(64):
        factor = scale * 2**k
        level = Level(str(k), factor, math.ceil(width / factor), math.ceil(height / factor))
        yield level
        if max(level.width, level.height) <= chunk:
            return


def _multiscale(name: str, levels: Sequence[Level], mpp: float, channels: bool) -> dict[str, Any]:
    more = [1.0] if channels else []
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
                    {"type": "scale", "scale": [*more, size, size]},
                    {
                        "type": "translation",
                        "translation": [*(0 * m for m in more), centre, centre],
                    },
                ],
            }
        )
    axes: list[dict[str, str]] = [{"name": "c", "type": "channel"}] if channels else []
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    return {"name": name, "axes": axes, "datasets": datasets}


def image_metadata(name: str, levels: Sequence[Level], mpp: float) -> dict[str, Any]:
    """Return the attributes of an RGB image of 8 bits."""
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    channels = [
        {"label": label, "color": color, "active": True, "window": window}
        for label, color in _CHANNELS
    ]
    return {
        "ome": {
            "version": VERSION,
            "multiscales": [_multiscale(name, levels, mpp, channels=True)],
            "omero": {"channels": channels, "rdefs": {"model": "color"}},
        }
    }


def label_metadata(
    name: str,
    objects: Objects,
    rows: NDArray[np.int64],
    levels: Sequence[Level],
    mpp: float,
    *,
    colors: Mapping[str, tuple[int, int, int]],
    image: bool,
) -> dict[str, Any]:
    """Return the attributes of a label image of the objects `rows`, whose labels are row + 1.

    Each has its class, id and score as properties, a nucleus also the label of its cell.

    Parameters
    ----------
    image
        whether the group that holds the labels is the image that they belong to
    """
    about: dict[str, Any] = {"source": {"image": "../../"}} if image else {}
    listed = len(rows) <= LISTED
    if listed:
        paint = [[*(colors.get(c) or class_color(c)), 255] for c in objects.classes]
        kinds = objects.class_index[rows].tolist()
        ids = [bytes(row).decode() for row in uuid_text(objects.ids[rows])]
        parent = np.full(len(objects), -1) if objects.parent is None else objects.parent
        about["colors"] = [
            {"label-value": label, "rgba": [int(c) for c in paint[kind]]}
            for label, kind in zip((rows + 1).tolist(), kinds, strict=True)
        ]
        about["properties"] = [
            {"label-value": label, "class": objects.classes[kind], "id": key}
            | ({"score": float(str(score))} if np.isfinite(score) else {})
            | ({"cell": cell + 1} if cell >= 0 else {})
            for label, kind, key, score, cell in zip(
                (rows + 1).tolist(), kinds, ids, objects.score[rows], parent[rows].tolist(),
                strict=True,
            )
        ]  # fmt: skip
    return {
        "ome": {
            "version": VERSION,
            "multiscales": [_multiscale(name, levels, mpp, channels=False)],
            "image-label": about,
        },
        "wsiseg": {"classes": list(objects.classes), "count": len(rows), "listed": listed},
    }
