"""The gallery of a run in its report."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from wsi_pipeline.core.errors import DataError, one_line
from wsi_pipeline.core.run_layout import PARQUET
from wsi_pipeline.reports.atypia import RANKING
from wsi_pipeline.reports.gallery import GALLERY, GALLERY_JSON, gallery_cells, read_gallery
from wsi_pipeline.reports.object_table import holds_boxes
from wsi_pipeline.reports.templates import shown
from wsi_pipeline.segmentation.cell_features import NUCLEUS_RATIO
from wsi_pipeline.segmentation.morphometry import NUCLEUS_AREA
from wsi_pipeline.slides.slide import Slide

__all__ = ["ReportGallery", "Shot", "report_gallery"]

COUNT = 24
"""Cells in a report."""
_MOST_PX, _QUALITY = 220, 82


@dataclass(frozen=True)
class Shot:
    """One cell: its pictures as JPEG in base64, and its numbers."""

    rank: int
    plain: str
    outlined: str
    facts: str
    reason: str
    place: str


@dataclass(frozen=True)
class ReportGallery:
    """The cells that a report shows, and by which rule they were ranked."""

    shots: tuple[Shot, ...]
    rule: str


def report_gallery(folder: Path, slide: Slide | None) -> ReportGallery | None:
    """Return the gallery in the run folder, or one that is made of `slide`, or None.

    Raises
    ------
    DataError
        the gallery in the run folder cannot be used
    """
    if (folder / GALLERY / GALLERY_JSON).is_file():
        about = read_gallery(folder)
        return ReportGallery(tuple(_stored(folder / GALLERY, about)), str(about.get("ranking", "")))
    if slide is None or holds_boxes(folder / PARQUET):
        return None
    shots = (
        _shot(c.rank, c.plain, c.outlined, c.measurements, c.reasons, (c.x, c.y))
        for c in gallery_cells(folder, slide, COUNT)
    )
    return ReportGallery(tuple(shots), RANKING)


def _stored(folder: Path, about: Mapping[str, Any]) -> Iterator[Shot]:
    """Yield the cells of gallery.json; its pictures lie beside it and nowhere else."""
    try:
        for cell in about["cells"][:COUNT]:
            names = [str(cell["files"][kind]) for kind in ("plain", "outlined")]
            if any(Path(name).name != name for name in names):
                raise ValueError(f"{names} are not beside it")
            plain, outlined = ((folder / name).read_bytes() for name in names)
            place = float(cell["x"]), float(cell["y"])
            numbers, reasons = (
                {str(k): float(v) for k, v in cell[key].items()}
                for key in ("measurements", "reasons")
            )
            if not all(map(math.isfinite, (*place, *numbers.values(), *reasons.values()))):
                raise ValueError("a number is not finite")
            yield _shot(int(cell["rank"]), plain, outlined, numbers, reasons, place)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{folder / GALLERY_JSON} cannot be used ({one_line(error)}); write it again with "
            "`wsiseg gallery`"
        ) from error


def _shot(
    rank: int,
    plain: bytes,
    outlined: bytes,
    numbers: Mapping[str, float],
    reasons: Mapping[str, float],
    place: Sequence[float],
) -> Shot:
    facts = []
    if NUCLEUS_AREA in numbers:
        facts.append(f"{shown(numbers[NUCLEUS_AREA])} µm²")
    if NUCLEUS_RATIO in numbers:
        facts.append(f"N/C {shown(numbers[NUCLEUS_RATIO])}")
    most = next(iter(reasons.items()), None)
    return Shot(
        rank=rank,
        plain=_small(plain),
        outlined=_small(outlined),
        facts=", ".join(facts),
        reason="" if most is None else f"{most[0]}: z = {most[1]:.1f}",
        place=f"x {place[0]:.0f}, y {place[1]:.0f}",
    )


def _small(picture: bytes) -> str:
    """Return a picture as a small JPEG in base64; whatever else the file holds is left out."""
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError("a picture cannot be read")
    if (shrink := _MOST_PX / max(image.shape[:2])) < 1:
        image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert done
    return base64.b64encode(data.tobytes()).decode()
