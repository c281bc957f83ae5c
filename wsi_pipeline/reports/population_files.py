"""Files of `wsiseg population`: the plot, and the objects inside the gate."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from wsi_pipeline.core.drawn_text import Anchor, draw_text
from wsi_pipeline.core.errors import UsageError
from wsi_pipeline.core.files import write_bytes
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.run_layout import PARQUET
from wsi_pipeline.formats.convert import read_provenance
from wsi_pipeline.formats.geojson import GeoJsonWriter
from wsi_pipeline.formats.geoparquet import read_metadata
from wsi_pipeline.formats.parquet_rows import read_boxes, read_rows
from wsi_pipeline.reports.cell_check import check_cells
from wsi_pipeline.reports.gallery import COUNT, write_gallery
from wsi_pipeline.reports.plot import PLOT_HEIGHT, PLOT_WIDTH, Plot, Points
from wsi_pipeline.reports.population import (
    Gate,
    Population,
    default_axes,
    measurement,
    population,
)
from wsi_pipeline.reports.templates import render
from wsi_pipeline.segmentation.morphometry import NUCLEUS_AREA
from wsi_pipeline.slides.slide import Slide

__all__ = ["PLOTS", "Gated", "gate_run", "write_gated", "write_plot"]

_LEFT, _TOP, _WIDTH, _HEIGHT = 62, 14, 494, 362
"""Frame of the plot in pixels, as in html/parts.html."""
_SCALE = 3
"""Pixels of a PNG per pixel of the plot."""
_INK, _DIM, _RED = (27, 31, 36), (87, 96, 106), (179, 38, 30)
Writer = Callable[[Plot], bytes]


@dataclass(frozen=True, eq=False)
class Gated:
    """Two measurements of a run, and the objects inside the gate.

    Attributes
    ----------
    objects
        of the run, with their bounding boxes as outlines
    inside
        positions of the objects inside the gate, None without a gate
    """

    folder: Path
    population: Population
    objects: Objects
    gate: Gate | None
    inside: NDArray[np.int64] | None


def gate_run(folder: Path, x: str | None, y: str | None, gate: Gate | None) -> Gated:
    """Return two measurements of a run, and which objects lie inside the gate.

    Parameters
    ----------
    x, y
        measurements; by default those of the gate's file, else nuclear area and N/C ratio, or
        optical density where there are no cells

    Raises
    ------
    DataError
        the run cannot be read
    UsageError
        a measurement is unknown, the run has none of the default ones, or the gate is for others
    """
    path = folder / PARQUET
    names: list[str] = list(read_metadata(path)["measurements"])
    axes = _axes(names, x, y, gate)
    objects = read_boxes(path, sorted({NUCLEUS_AREA, *axes}))
    faults = check_cells(folder)
    found = population(objects, axes, None if faults is None else faults.faulty)
    return Gated(folder, found, objects, gate, None if gate is None else found.inside(gate))


def _axes(names: list[str], x: str | None, y: str | None, gate: Gate | None) -> tuple[str, str]:
    stated = (gate.x, gate.y) if gate is not None else (None, None)
    usual = default_axes(names) or (None, None)
    chosen = []
    for axis, given, of_gate, default in zip("xy", (x, y), stated, usual, strict=True):
        text = given or of_gate or default
        if text is None:
            raise UsageError(
                f"give --{axis}; this run has the measurements {', '.join(names) or 'none'}"
            )
        chosen.append(measurement(text, names))
        if given and of_gate and measurement(of_gate, names) != chosen[-1]:
            raise UsageError(f"the gate is for {of_gate!r}, not {given!r}; leave out --{axis}")
    return chosen[0], chosen[1]


def write_plot(gated: Gated, out: Path) -> None:
    """Write the plot with its gate as SVG or PNG.

    Raises
    ------
    UsageError
        another ending
    OutputError
        `out` cannot be written
    """
    writer = PLOTS.get(out.suffix.lower())
    if writer is None:
        raise UsageError(f"{out} is no {' or '.join(PLOTS)} file; give another --out")
    write_bytes(out, writer(gated.population.plot(gated.gate)))


def write_gated(gated: Gated, out: Path, slide: Slide | None = None, count: int = COUNT) -> None:
    """Write the objects inside the gate: GeoJSON for QuPath, or a folder with a gallery.

    Cells come with their nuclei.

    Parameters
    ----------
    out
        a .geojson or .geojson.gz file, else a folder
    slide
        the slide, open; needed for a gallery

    Raises
    ------
    UsageError
        there is no gate, or no slide for a gallery
    """
    if gated.inside is None:
        raise UsageError(f"{out} is for the objects inside a gate; give --gate")
    if not _is_geojson(out):
        if slide is None:
            raise UsageError(f"{out} is for pictures; give the slide file with --image")
        among = np.zeros(len(gated.objects), np.bool_)
        among[_with_nuclei(gated)] = True
        write_gallery(gated.folder, slide, count, out=out, among=among)
        return
    rows = _with_nuclei(gated)
    objects = read_rows(gated.folder / PARQUET, rows, gated.objects.parent)
    with GeoJsonWriter(out, provenance=read_provenance(gated.folder)) as writer:
        writer.write(objects)


def _is_geojson(path: Path) -> bool:
    return path.name.lower().endswith((".geojson", ".json", ".geojson.gz", ".json.gz"))


def _with_nuclei(gated: Gated) -> NDArray[np.int64]:
    """Return the objects inside the gate, and the nuclei of the cells among them."""
    assert gated.inside is not None
    parent = gated.objects.parent
    if parent is None:
        return gated.inside
    nuclei = np.flatnonzero((parent >= 0) & np.isin(parent, gated.inside))
    return np.union1d(gated.inside, nuclei)


def _svg(plot: Plot) -> bytes:
    return render("population.svg", plot=plot).strip().encode() + b"\n"


def _png(plot: Plot) -> bytes:
    """Return the plot as PNG, three pixels for each of the SVG."""
    canvas = Image.new("RGB", (_WIDTH * _SCALE, _HEIGHT * _SCALE), (255, 255, 255))
    draw = ImageDraw.Draw(canvas)

    def pixels(points: Points) -> list[tuple[float, float]]:
        moved = (points + np.array([_LEFT, _TOP])) * _SCALE
        return [(float(x), float(y)) for x, y in moved]

    for mark in plot.marks:
        for polygon in mark.polygons:
            draw.polygon(pixels(polygon), fill=mark.color)
    corner = np.array([(0, 0), (0, PLOT_HEIGHT), (PLOT_WIDTH, PLOT_HEIGHT)], np.float64)
    draw.line(pixels(corner), _DIM, _SCALE)
    if plot.gate is not None:
        draw.line(pixels(np.concatenate([plot.gate, plot.gate[:2]])), _RED, 2 * _SCALE, "curve")
    _write_axes(draw, plot)
    _write_upwards(canvas, plot.y.label)
    file = io.BytesIO()
    canvas.save(file, "PNG")
    return file.getvalue()


def _write_axes(draw: ImageDraw.ImageDraw, plot: Plot) -> None:
    def write(x: float, y: float, text: str, size: int, anchor: Anchor) -> None:
        at = ((x + _LEFT) * _SCALE, (y + _TOP) * _SCALE)
        draw_text(draw, at, text, size * _SCALE, _INK, anchor=anchor)

    sides: Mapping[str, Anchor] = {"start": "left", "middle": "middle", "end": "right"}
    for tick in plot.x.ticks:
        write(tick.x, PLOT_HEIGHT + 13, tick.text, 11, sides[tick.anchor])
    for tick in plot.y.ticks:
        write(-6, PLOT_HEIGHT - tick.x, tick.text, 11, "right")
    write(PLOT_WIDTH / 2, PLOT_HEIGHT + 34, plot.x.label, 12, "middle")


def _write_upwards(canvas: Image.Image, text: str) -> None:
    """Write the name of y along its axis, from below."""
    strip = Image.new("RGB", (PLOT_HEIGHT * _SCALE, 16 * _SCALE), (255, 255, 255))
    middle = strip.width / 2, strip.height / 2
    draw_text(ImageDraw.Draw(strip), middle, text, 12 * _SCALE, _INK, anchor="middle")
    canvas.paste(strip.transpose(Image.Transpose.ROTATE_90), (4 * _SCALE, _TOP * _SCALE))


PLOTS: Mapping[str, Writer] = MappingProxyType({".svg": _svg, ".png": _png})
