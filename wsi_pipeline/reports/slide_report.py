"""The report of one slide: findings, map, numbers, cells, and their origin on one page."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.errors import DataError, UsageError
from wsi_pipeline.core.files import write_text
from wsi_pipeline.core.numbers import grouped
from wsi_pipeline.core.objects import CELL_CLASS, CYTOPLASM, Objects
from wsi_pipeline.core.records import RunRecord
from wsi_pipeline.core.run_layout import OVERLAY, PARQUET, read_run, runs_of_slide
from wsi_pipeline.formats.geoparquet import read_metadata
from wsi_pipeline.formats.parquet_rows import read_boxes
from wsi_pipeline.reports.cell_check import check_cells
from wsi_pipeline.reports.density_map import DensityMap, density_map, ramp
from wsi_pipeline.reports.findings import PixelSize, finding, pixel_size, unseen, warnings
from wsi_pipeline.reports.lab import Lab, read_lab
from wsi_pipeline.reports.measured import measured
from wsi_pipeline.reports.plot import Plot
from wsi_pipeline.reports.population import default_axes, measurement, population
from wsi_pipeline.reports.report_gallery import ReportGallery, report_gallery
from wsi_pipeline.reports.report_spike import SPIKE_HEAD, ReportSpike, report_spike
from wsi_pipeline.reports.slide_summary import SPREAD, Row, lacking, read_row, row_of_run
from wsi_pipeline.reports.templates import (
    Histogram,
    cell_text,
    histogram,
    render,
    round_up,
    shown,
)
from wsi_pipeline.reports.terms import FACTS, MEASURED, ORIGIN, TERMS, Term
from wsi_pipeline.segmentation.kinds import NOT_CELLS
from wsi_pipeline.segmentation.morphometry import NUCLEUS_AREA
from wsi_pipeline.slides.detect_foreground import find_foreground
from wsi_pipeline.slides.focus import measure_focus
from wsi_pipeline.slides.slide import Slide

__all__ = ["write_report"]

_MOST_BINS, _LEAST_BINS = 50, 10
_JPEG_QUALITY = 85


@dataclass(frozen=True)
class Fact:
    """A number in large letters, and the words below it."""

    name: str
    value: str
    label: str
    usual: str


@dataclass(frozen=True)
class Number:
    """A row of the table of numbers: a value for each run, and what is usual."""

    name: str
    term: Term
    values: tuple[str, ...]
    usual: str


@dataclass(frozen=True)
class RunSection:
    """What html/slide_report.html shows of one run."""

    model: str
    finding: str
    warnings: Sequence[str]
    facts: Sequence[Fact]
    map: DensityMap
    jpeg: str
    spread: Sequence[Sequence[Any]]
    figures: Sequence[Histogram]
    plot: Plot | None
    gallery: ReportGallery | None
    unseen: Sequence[str]
    failures: Sequence[Sequence[Any]]
    pixel_size: PixelSize
    spike: ReportSpike | None
    lab_size: int | None
    origin: Sequence[Sequence[Any]]


def write_report(
    source: Path,
    out: Path,
    *,
    summaries: Sequence[Path] = (),
    slide: Slide | None = None,
    cohort: Path | None = None,
    axes: tuple[str, str] | None = None,
) -> Path:
    """Write one self-contained HTML page about a slide, with all its runs; return `out`.

    With several runs, one per model, the table of numbers has a column for each, and all else
    follows model by model.

    Parameters
    ----------
    source
        a run folder, or the folder of a slide with runs of one or more models
    out
        the HTML file
    summaries
        files of `wsiseg features`, which may have the focus score, for some of the runs; by
        default those in the run folders, else the rows are computed
    slide
        the slide, open: focus is measured where a row has none, and the most atypical cells are
        shown where the run folder has no gallery
    cohort
        cohort.parquet with the laboratory's other slides, which are shown behind this one
    axes
        measurements of the population plot; by default nuclear area and N/C ratio, or optical
        density

    Raises
    ------
    DataError
        there is no finished run, there are runs of several slides, a summary belongs to none
        of the runs, or a file cannot be used
    UsageError
        `slide` has another size than the runs, or `axes` names no measurement
    OutputError
        `out` cannot be written
    """
    folders = runs_of_slide(source)
    runs = [read_run(folder) for folder in folders]
    slide_id = runs[0]["slide"]["id"]
    given = _given_rows(summaries, runs, source)
    rows = [given.get(r["model"]["name"]) or row_of_run(f)
            for f, r in zip(folders, runs, strict=True)]  # fmt: skip
    if slide is not None:
        _check_size(slide, runs)
        rows = _with_focus(slide, rows)
    labs = [None if cohort is None else read_lab(cohort, slide=slide_id, model=row["model"])
            for row in rows]  # fmt: skip
    text = render(
        "slide_report.html",
        title=slide_id,
        ramp=ramp(16),
        models=[row["model"] for row in rows],
        numbers=_numbers(rows, labs[0] if len(rows) == 1 else None),
        spike_head=SPIKE_HEAD,
        spread_head=("measurement", *SPREAD),
        runs=[
            _section(folder, run, row, lab, slide, axes)
            for folder, run, row, lab in zip(folders, runs, rows, labs, strict=True)
        ],
    )
    write_text(out, text)
    return out


def _check_size(slide: Slide, runs: Sequence[RunRecord]) -> None:
    size = slide.width, slide.height
    for run in runs:
        stated = run["slide"]["width"], run["slide"]["height"]
        if size != stated:
            raise UsageError(
                f"{slide.path} has {size[0]} x {size[1]} pixels, the run of "
                f"{run['model']['name']} {stated[0]} x {stated[1]}; give the slide file of the runs"
            )


def _with_focus(slide: Slide, rows: Sequence[Row]) -> list[Row]:
    """Return the rows with the focus of the slide, where they have none."""
    if all(row["focus_score"] is not None for row in rows):
        return list(rows)
    thumbnail, downsample = slide.thumbnail()
    focus = measure_focus(slide, find_foreground(thumbnail, downsample, slide.width, slide.height))
    found = {
        "focus_score": focus.score,
        "focus_blurred_share": focus.blurred_share,
        "focus_fields": focus.fields,
    }
    return [row if row["focus_score"] is not None else row | found for row in rows]


def _given_rows(
    summaries: Sequence[Path], runs: Sequence[RunRecord], source: Path
) -> dict[str, Row]:
    """Return the rows of `summaries` by model; each must belong to one of the runs."""
    slide_id = runs[0]["slide"]["id"]
    models = [run["model"]["name"] for run in runs]
    rows = {}
    for path in summaries:
        row = read_row(path)
        if row["slide"] != slide_id:
            raise DataError(f"{path} is about slide {row['slide']!r}, not {slide_id!r}")
        if row["model"] not in models:
            raise DataError(
                f"{path} is about model {row['model']!r}, and {source} has runs of "
                f"{', '.join(models)}; give the summary of one of them"
            )
        if name := lacking(row, runs[models.index(row["model"])]):
            raise DataError(f"{path} has no {name}; write it again with `wsiseg features`")
        rows[row["model"]] = row
    return rows


def _numbers(rows: Sequence[Row], lab: Lab | None) -> list[Number]:
    """Return the rows of the table of numbers that have a value."""
    return [
        Number(name, term, tuple(cell_text(name, row[name]) for row in rows),
               _usual(lab, name, rows[0][name]))
        for name, term in TERMS.items()
        if any(row[name] is not None for row in rows)
    ]  # fmt: skip


def _usual(lab: Lab | None, name: str, value: Any) -> str:
    """Return what is usual for a measured column of the laboratory, with the z-score."""
    if lab is None or not isinstance(value, float):
        return ""
    usual = lab.usual(name, value)
    if usual is None:
        return ""
    z = "" if usual.z is None else f" (z = {usual.z:+.1f})"
    return f"{cell_text(name, usual.low)} to {cell_text(name, usual.high)}{z}"


def _section(
    folder: Path,
    run: RunRecord,
    row: Row,
    lab: Lab | None,
    slide: Slide | None,
    axes: tuple[str, str] | None,
) -> RunSection:
    found = {name: values for name, values in measured(folder).items() if len(values)}
    said = warnings(row, run, lab)
    names = _axes(folder, axes)
    wanted = {NUCLEUS_AREA, *(names or ())}
    objects = read_boxes(folder / PARQUET, sorted(wanted))
    faults = check_cells(folder)
    faulty = None if faults is None else faults.faulty
    return RunSection(
        model=row["model"],
        finding=finding(row, len(said)),
        warnings=said,
        facts=list(_facts(row, lab)),
        map=density_map(folder, run, *_middles(objects)),
        jpeg=_jpeg(folder / OVERLAY),
        spread=[(MEASURED[n], *(row[f"{n}_{part}"] for part in SPREAD)) for n in found],
        figures=[_figure(name, values, row, lab) for name, values in found.items()],
        plot=population(objects, names, faulty).plot() if names and len(objects) else None,
        gallery=report_gallery(folder, slide),
        unseen=unseen(row, run),
        failures=[
            (f["region"], ", ".join(map(str, f["level0_box"])), f["cause"])
            for f in run["failed_regions"]
        ],
        pixel_size=pixel_size(row),
        spike=report_spike(folder),
        lab_size=None if lab is None else len(lab),
        origin=[(name, _exact(row[name])) for name in ORIGIN],
    )


def _axes(folder: Path, given: tuple[str, str] | None) -> tuple[str, str] | None:
    names: Sequence[str] = read_metadata(folder / PARQUET)["measurements"]
    if given is None:
        return default_axes(names)
    return measurement(given[0], names), measurement(given[1], names)


def _facts(row: Row, lab: Lab | None) -> Iterator[Fact]:
    for name, label in FACTS.items():
        if row[name] is not None:
            usual = _usual(lab, name, row[name]).split(" (")[0]
            yield Fact(name, cell_text(name, row[name]), label, usual)


def _middles(objects: Objects) -> tuple[NDArray[np.float64], str]:
    """Return the middles of the nuclei (n, 2), and what they are; of all objects without nuclei."""
    corners = objects.coords.reshape(-1, 5, 2)
    middles = (corners[:, 0] + corners[:, 2]) / 2
    others = {CELL_CLASS, CYTOPLASM, *NOT_CELLS}
    nuclei = np.array([name not in others for name in objects.classes], np.bool_)
    boxes = NUCLEUS_AREA not in objects.features
    if boxes or not nuclei.any():
        return middles, "cells" if set(objects.classes) == {CELL_CLASS} else "objects"
    return middles[nuclei[objects.class_index]], "nuclei"


def _exact(value: Any) -> str:
    return shown(value) if value is None or isinstance(value, str) else str(value)


def _jpeg(path: Path) -> str:
    """Return the overlay as JPEG in base64: a fifth of the PNG's size."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{path} cannot be read; run the slide again with --overwrite")
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert done
    return base64.b64encode(data.tobytes()).decode()


def _figure(
    name: str, values: NDArray[np.floating], row: Mapping[str, Any], lab: Lab | None
) -> Histogram:
    """Return the histogram of one measurement, from 0 to 1 for a ratio, else to percentile 99."""
    high = 1.0 if name == "nc_ratio" else round_up(float(np.quantile(values, 0.99)))
    mark = row["large_nucleus_um2"] if name == "nucleus_area_um2" else None
    bins = int(np.clip(2.5 * np.sqrt(len(values)), _LEAST_BINS, _MOST_BINS))
    usual = None if lab is None else lab.shape(name, np.linspace(0, high, bins + 1))
    caption = f"n = {grouped(len(values))}"
    if mark is not None:
        caption += f"; dashed: large from {mark:g}"
    if usual is not None and lab is not None:
        caption += f"; pale: {len(lab)} other slides, from p10 to p90"
    return histogram(
        values, MEASURED[name], high=high, bins=bins, mark=mark, usual=usual, caption=caption
    )
