"""The review page: the cells of a gallery in one HTML file, to give each a class by a key."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from wsi_pipeline.reports.atypia import RANKING
from wsi_pipeline.reports.templates import render
from wsi_pipeline.segmentation.kinds import LABELS, NOT_A_CELL

if TYPE_CHECKING:
    from wsi_pipeline.reports.gallery import GalleryCell

__all__ = ["LABELS", "NOT_A_CELL", "review_page"]


def review_page(cells: Sequence[GalleryCell], *, slide: str, model: str, run: str) -> str:
    """Return the page, HTML that needs no other file.

    The labels are kept in the browser under the slide and the run, and saved as JSON:
    ``{"schema_version": 1, "slide", "model", "labels": {id of the nucleus: label}}``.

    Parameters
    ----------
    run
        SHA-256 of run.json: the labels of another run of the slide are others
    """
    folder = files("wsi_pipeline.reports") / "html"
    script = (folder / "review.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = {
        "slide": slide,
        "model": model,
        "run": run[:16],
        "classes": [{"name": name, "means": means} for name, means in LABELS.items()],
        "cells": [_shown(cell) for cell in cells],
    }
    return render(
        "review.html",
        slide=slide,
        model=model,
        count=len(cells),
        ranking=RANKING,
        style=Markup((folder / "review.css").read_text("utf-8")),
        script=Markup(script),
        script_hash=Markup(f"sha256-{digest}"),
        data=Markup(_inline(data)),
    )


def _inline(data: Mapping[str, Any]) -> str:
    """Return JSON that can stand in a page: nothing in it ends or begins an element."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _shown(cell: GalleryCell) -> dict[str, Any]:
    """Return what the page shows of a cell."""
    return {
        "rank": cell.rank,
        "id": cell.id,
        "class": cell.class_name,
        "x": round(cell.x),
        "y": round(cell.y),
        "score": f"{cell.score:.1f}",
        "reasons": [[name, f"{z:.1f}"] for name, z in cell.reasons.items()],
        "measurements": [[name, f"{value:.4g}"] for name, value in cell.measurements.items()],
        "image": "data:image/jpeg;base64," + base64.b64encode(cell.plain).decode(),
        "width": cell.width_px,
        "height": cell.height_px,
        "outlines": [[kind, _path(ring.round(1).tolist())] for kind, ring in cell.outlines],
    }


def _path(ring: Sequence[Sequence[float]]) -> str:
    """Return a closed path of SVG."""
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in ring) + "Z"
