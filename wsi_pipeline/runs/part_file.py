"""The file of one finished region: its objects as NumPy arrays, and a checksum.

The checksum is that of the plan, the region's number and the arrays: a part that is damaged, or
that belongs to another region or another plan, is noticed before anything of it is used.
"""

from __future__ import annotations

import hashlib
import io
import json
import stat
import zipfile
from pathlib import Path
from typing import IO, Any, TypedDict

import numpy as np

from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.records import SCHEMA_VERSION

__all__ = ["PartHeader", "part_bytes", "read_part", "read_sealed", "sealed"]

MOST_BYTES = 1 << 30
"""Largest part; one of the most crowded region has a hundredth of this."""


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


def sealed(content: bytes, key: bytes) -> bytes:
    """Return what is written of a part: its content and the checksum, 32 bytes.

    Parameters
    ----------
    key
        what the part belongs to: its plan and region
    """
    return content + _checksum(content, key)


def read_sealed(path: Path, key: bytes) -> bytes:
    """Read the content of a part that was written as `sealed` gives it.

    Raises
    ------
    ValueError
        the file is not that part as it was written
    OSError
        the file cannot be read
    """
    about = path.lstat()
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("it is no file")
    if not 32 < about.st_size <= MOST_BYTES:
        raise ValueError(f"it has {about.st_size} bytes")
    with path.open("rb") as file:
        content = file.read(about.st_size)  # as much memory is taken as may be read
    if _checksum(content[:-32], key) != content[-32:]:
        raise ValueError("its checksum is wrong")
    return content[:-32]


def _checksum(content: bytes, key: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(key).digest() + content).digest()


def read_part(source: Path | IO[bytes]) -> tuple[Objects, int]:
    """Read the objects of a part without its checksum, and how many of them are oversized.

    Raises
    ------
    ValueError
        its arrays are compressed, as no part's are: they could fill the memory
    """
    with zipfile.ZipFile(source) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("its arrays are compressed")
    if not isinstance(source, Path):
        source.seek(0)
    with np.load(source, allow_pickle=False) as stored:  # noqa: TID251
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
