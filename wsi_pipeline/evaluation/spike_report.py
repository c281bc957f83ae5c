"""Write what a spike test measured: JSON, a table in Markdown, and pictures of fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.errors import OutputError
from wsi_pipeline.core.files import as_output_error, write_bytes, write_json, write_text
from wsi_pipeline.core.spike_record import SPIKE_JSON, SPIKE_VERSION, SpikeRecord, SpikeRow
from wsi_pipeline.evaluation.spike import (
    GROUP_KINDS,
    IOU,
    KINDS,
    SpikedField,
    Spiking,
    each_spike,
    wilson,
)
from wsi_pipeline.evaluation.spike_field import FAINT, FAINT_NUCLEUS, GROUP, PLACES, Spike
from wsi_pipeline.segmentation.model import Model
from wsi_pipeline.slides.slide import Slide

__all__ = ["spike_markdown", "spike_record", "spike_rows", "write_spike"]

ALL = "all"
_FOUND, _MISSED, _DRAWN = (0, 170, 70), (230, 0, 0), (120, 120, 120)
_PICTURES, _PICTURE_PX, _QUALITY = 4, 900, 88

_Rated = tuple[int, Spike, float, float]


def spike_rows(spikes: Sequence[_Rated], finds_cells: bool) -> list[SpikeRow]:
    """Return the rows of the table: each kind at each place, then each place, kind and all.

    Faint cells count in their own rows only.
    """
    pairs = [
        (kind, place) for place in PLACES for kind in (GROUP_KINDS if place == GROUP else KINDS)
    ]
    pairs += [(ALL, place) for place in PLACES]
    pairs += [(kind, ALL) for kind in KINDS] + [(ALL, ALL)]
    return [
        _row(kind, place, [s for s in spikes if _counts(s[1], kind, place)], finds_cells)
        for kind, place in pairs
    ]


def _counts(spike: Spike, kind: str, place: str) -> bool:
    """Return whether a cell counts in the row of a kind and a place."""
    at = spike.place != FAINT if place == ALL else spike.place == place
    return at and kind in (ALL, spike.kind)


def _row(kind: str, place: str, spikes: Sequence[_Rated], finds_cells: bool) -> SpikeRow:
    laid = len(spikes)
    found = sum(nucleus >= IOU for _, _, nucleus, _ in spikes)
    cells = sum(cell >= IOU for *_, cell in spikes)
    share, low, high = _shares(found, laid)
    whole = _shares(cells, laid) if finds_cells else (None, None, None)
    return SpikeRow(
        kind=kind, place=place, laid=laid, found=found, share=share, low=low, high=high,
        cells_found=cells if finds_cells else None,
        cells_share=whole[0], cells_low=whole[1], cells_high=whole[2],
    )  # fmt: skip


def _shares(found: int, laid: int) -> tuple[float | None, float | None, float | None]:
    """Return share and limits of its interval, with four digits."""
    if laid == 0:
        return None, None, None
    low, high = wilson(found, laid)
    return round(found / laid, 4), round(low, 4), round(high, 4)


def spike_record(
    result: Spiking, slide: Slide, model: Model, settings: Mapping[str, Any], pictures: list[str]
) -> SpikeRecord:
    """Return the content of spike.json."""
    spikes = list(each_spike(result.fields))
    mpp = slide.require_mpp().value
    listed = []
    for number, spike, nucleus, cell in spikes:
        middle, field = spike.nucleus.centroid, result.fields[number]
        listed.append({
            "kind": spike.kind, "place": spike.place, "field": number,
            "x": round(field.x + middle.x, 2), "y": round(field.y + middle.y, 2),
            "nucleus_area_um2": round(spike.nucleus.area * mpp**2, 2),
            "nucleus_iou": round(nucleus, 4),
            "cell_iou": round(cell, 4) if result.finds_cells else None,
        })  # fmt: skip
    return SpikeRecord(
        schema_version=SPIKE_VERSION,
        wsiseg=version("wsiseg"),
        slide={"id": slide.slide_id, "file": slide.path.name, "mpp": mpp},
        model={"name": model.name, "identity": model.identity, "mpp": model.mpp},
        settings=dict(settings),
        iou=IOU,
        stain=asdict(result.stain),
        fields=len(result.fields),
        results=spike_rows(spikes, result.finds_cells),
        false_objects=sum(field.false for field in result.fields),
        lost_objects=sum(field.lost for field in result.fields),
        objects_before=sum(field.before for field in result.fields),
        spikes=listed,
        pictures=pictures,
    )


def spike_markdown(record: SpikeRecord) -> str:
    """Return the table of a spike test as Markdown."""
    cells = any(row["cells_found"] is not None for row in record["results"])
    head = ["kind", "place", "laid", "nuclei found", "share", "95 % interval"]
    head += ["cells found", "share", "95 % interval"] if cells else []
    lines = [
        f"# Painted cells found in {_plain(record['slide']['file'])} "
        f"by {_plain(record['model']['name'])}",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for row in record["results"]:
        texts = [row["kind"], row["place"], str(row["laid"]), str(row["found"])]
        texts += _texts(row["share"], row["low"], row["high"])
        if cells:
            texts.append(str(row["cells_found"]))
            texts += _texts(row["cells_share"], row["cells_low"], row["cells_high"])
        lines.append("| " + " | ".join(texts) + " |")
    lines += [
        "",
        f"Found: IoU of at least {record['iou']:g}. At the laid cells the model drew "
        f"{record['false_objects']} nuclei that are neither laid nor were drawn before, and of the "
        f"{record['objects_before']} nuclei that it drew before, {record['lost_objects']} were no "
        "longer drawn, most of them under laid cells.",
        "",
        f"Faint cells have nuclei of {FAINT_NUCLEUS:g} times the usual density; the rows of all "
        "are without them. Painted cells are cleaner than real ones: a low share is a warning, a "
        "high share is no proof that real nuclei are found. No diagnosis; research use, not a "
        "medical device.",
    ]
    return "\n".join(lines) + "\n"


def _texts(share: float | None, low: float | None, high: float | None) -> list[str]:
    if share is None or low is None or high is None:
        return ["–", "–"]
    return [f"{share:.1%}", f"{low:.0%} to {high:.0%}"]


def _plain(text: str) -> str:
    """Return text that is no markup in Markdown."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>()#+!|~" else c for c in text.replace("\n", " "))


def write_spike(
    folder: Path, result: Spiking, slide: Slide, model: Model, settings: Mapping[str, Any]
) -> SpikeRecord:
    """Write spike.json, spike.md and pictures of the fields with most misses; return the record.

    Raises
    ------
    OutputError
        a file cannot be written
    """
    with as_output_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
    order = sorted(result.fields, key=lambda f: (-int((f.nucleus_iou < IOU).sum()), f.y, f.x))
    names = []
    for number, field in enumerate(order[:_PICTURES], 1):
        done, data = cv2.imencode(
            ".jpg", _draw(field)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
        )
        if not done:
            raise OutputError(f"a picture for {folder} cannot be encoded; give another --out")
        names.append(f"spike_{number}.jpg")
        write_bytes(folder / names[-1], bytes(data))
    record = spike_record(result, slide, model, settings, names)
    write_text(folder / "spike.md", spike_markdown(record))
    write_json(folder / SPIKE_JSON, record)
    return record


def _draw(field: SpikedField) -> NDArray[np.uint8]:
    """Draw a field: laid nuclei found and missed, their cells, and what the model drew."""
    zoom = max(1.0, _PICTURE_PX / max(field.image.shape[:2]))
    image = cv2.resize(field.image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    image = np.ascontiguousarray(image, np.uint8)
    _outline(image, field.nuclei, _DRAWN, zoom, 1)
    for spike, iou in zip(field.spikes, field.nucleus_iou, strict=True):
        colour = _FOUND if iou >= IOU else _MISSED
        _outline(image, np.array([spike.cell], object), colour, zoom, 1)
        _outline(image, np.array([spike.nucleus], object), colour, zoom, 2)
    strip = np.full((34, image.shape[1], 3), 255, np.uint8)
    font, x = cv2.FONT_HERSHEY_SIMPLEX, 8
    named = (("laid, found", _FOUND), ("laid, missed", _MISSED), ("drawn by the model", _DRAWN))
    for text, colour in named:
        cv2.line(strip, (x, 17), (x + 24, 17), colour, 3)
        cv2.putText(strip, text, (x + 30, 22), font, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        x += 50 + cv2.getTextSize(text, font, 0.5, 1)[0][0]
    return np.vstack([strip, image])


def _outline(
    image: NDArray[np.uint8], areas: NDArray[np.object_], colour: tuple[int, int, int],
    zoom: float, width: int,
) -> None:  # fmt: skip
    """Draw the outlines of areas, in place."""
    rings = shapely.get_parts(shapely.boundary(areas))
    points = [np.round(shapely.get_coordinates(r) * zoom * 16).astype(np.int32) for r in rings]
    cv2.polylines(image, points, True, colour, width, cv2.LINE_AA, shift=4)
