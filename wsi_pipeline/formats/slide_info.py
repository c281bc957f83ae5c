"""The slide that objects belong to, for the writers of all formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsi_pipeline.formats.ome_zarr import Pixels

__all__ = ["SlideInfo"]


@dataclass(frozen=True)
class SlideInfo:
    """The slide that objects belong to, and how to write them.

    Attributes
    ----------
    width, height
        size of the slide in level-0 pixels; COCO and label images need it
    mpp
        µm per level-0 pixel; label images need it
    file_name
        the slide's file, for COCO
    provenance
        JSON values that are stored in GeoJSON and GeoParquet
    object_type
        QuPath's object type: detection, cell, annotation or tile
    colors
        class name → red, green, blue, for GeoJSON and label images
    scale
        level-0 pixels per pixel of a label image
    pixels
        reads the slide, to write its pixels beside label images or shapes
    image
        the slide's file, for DICOM annotations
    """

    width: int | None = None
    height: int | None = None
    mpp: float | None = None
    file_name: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    object_type: str = "detection"
    colors: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    scale: float = 1.0
    pixels: Pixels | None = None
    image: Path | None = None
