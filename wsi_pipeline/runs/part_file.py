"""The file of one finished region: its objects as NumPy arrays."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.records import SCHEMA_VERSION

__all__ = ["PartHeader", "part_bytes", "read_part"]


class PartHeader(TypedDict):
    """What a part holds besides its arrays.

    `oversized` is the number of objects that were larger than the largest window, so that their
    outlines are incomplete. `features` names the arrays ``feature_0``, ``feature_1`` and so on.
    `valid` is `Objects.valid`.
    """

    schema_version: int
    classes: list[str]
    features: list[str]
    valid: bool
    oversized: int


def part_bytes(objects: Objects, oversized: int) -> bytes:
    """Return the content of a part: an uncompressed npz archive without pickled objects."""
    header: PartHeader = {
        "schema_version": SCHEMA_VERSION,
        "classes": list(objects.classes),
        "features": list(objects.features),
        "valid": objects.valid,
        "oversized": oversized,
    }
    further: dict[str, Any] = {f"feature_{k}": v for k, v in enumerate(objects.features.values())}
    if objects.parent is not None:
        further["parent"] = objects.parent
    file = io.BytesIO()
    np.savez(
        file,
        header=np.array(json.dumps(header)),
        ids=objects.ids,
        class_index=objects.class_index,
        score=objects.score,
        coords=objects.coords,
        ring_offsets=objects.ring_offsets,
        object_offsets=objects.object_offsets,
        **further,
    )
    return file.getvalue()


def read_part(path: Path) -> tuple[Objects, int]:
    """Read the objects of a part, and how many of them are oversized."""
    with np.load(path, allow_pickle=False) as stored:  # noqa: TID251
        header: PartHeader = json.loads(str(stored["header"]))
        objects = Objects(
            classes=tuple(header["classes"]),
            ids=stored["ids"],
            class_index=stored["class_index"],
            score=stored["score"],
            coords=stored["coords"],
            ring_offsets=stored["ring_offsets"],
            object_offsets=stored["object_offsets"],
            features={name: stored[f"feature_{k}"] for k, name in enumerate(header["features"])},
            parent=stored.get("parent"),
            valid=header["valid"],
        )
        return objects, header["oversized"]
