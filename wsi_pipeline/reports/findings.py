"""What a report says first: the line of findings, warnings, and what was not looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

from wsi_pipeline.core.numbers import grouped, percent
from wsi_pipeline.core.records import RunRecord
from wsi_pipeline.reports.lab import Lab
from wsi_pipeline.reports.robust import OUTLIER_Z
from wsi_pipeline.reports.slide_summary import Row
from wsi_pipeline.reports.templates import cell_text, shown
from wsi_pipeline.segmentation.nucleus_size import LEAST_NUCLEI, NUCLEUS_UM2, fitting_mpp
from wsi_pipeline.slides.focus import BLURRED

__all__ = ["COMPARED", "PixelSize", "finding", "pixel_size", "unseen", "warnings"]

MOST_BLURRED = 0.1
"""Share of blurred fields from which on the report warns."""
COMPARED = (
    "nuclei_per_mm2", "nucleus_area_um2_median", "large_nuclei_share", "nc_ratio_median",
    "cell_area_um2_median", "focus_score",
)  # fmt: skip
"""Columns in which a slide is compared with others."""
_NAMES = {
    "nuclei_per_mm2": "nuclei per mm²",
    "nucleus_area_um2_median": "median nucleus area",
    "large_nuclei_share": "share of large nuclei",
    "nc_ratio_median": "median N/C ratio",
    "cell_area_um2_median": "median cell area",
    "focus_score": "focus",
}


def finding(row: Row, count: int) -> str:
    """Return the line of findings of a run.

    Parameters
    ----------
    row
        see `COLUMNS`
    count
        number of warnings

    Examples
    --------
    >>> from wsi_pipeline.reports.slide_summary import blank_row
    >>> row = {"nuclei": 912, "adequacy": "too few", "adequacy_count": 912, "adequacy_least": 5000}
    >>> finding(blank_row() | row, 1)
    '912 nuclei; adequacy: too few (912 of 5000); focus not measured; 1 warning'
    """
    return "; ".join([", ".join(_found(row)), *_quality(row), _counted(count, "warning")])


def _counted(count: int, what: str) -> str:
    number = "no" if count == 0 else grouped(count)
    return f"{number} {what}{'s' * (count != 1)}"


def _found(row: Row) -> Iterator[str]:
    if row["nuclei"] is None and row["cells"] is None:
        yield _counted(row["objects"] or 0, "object")
    if row["nuclei"] is not None:
        yield f"{grouped(row['nuclei'])} nucle{'us' if row['nuclei'] == 1 else 'i'}"
    if row["abnormal_nuclei"] is not None:
        yield f"{grouped(row['abnormal_nuclei'])} of them look abnormal (no diagnosis)"
    if row["cells_with_nucleus"] is not None:
        yield f"{_counted(row['cells_with_nucleus'], 'cell')} with nucleus"
    elif row["cells"] is not None:
        yield _counted(row["cells"], "cell")


def _quality(row: Row) -> Iterator[str]:
    if row["adequacy"] is not None:
        short = f" ({grouped(row['adequacy_count'])} of {grouped(row['adequacy_least'])})"
        yield f"adequacy: {row['adequacy']}{'' if row['adequacy'] == 'enough' else short}"
    blurred = row["focus_blurred_share"] or 0.0
    if row["focus_score"] is None:
        yield "focus not measured"
    elif row["focus_score"] < BLURRED:
        yield f"focus poor ({shown(row['focus_score'])})"
    elif blurred > MOST_BLURRED:
        yield f"focus: {percent(blurred)} of the fields blurred"
    else:
        yield "focus good"


def warnings(row: Row, run: RunRecord, lab: Lab | None) -> list[str]:
    """Return what a reader must know before the numbers, the run's own warnings first."""
    return [*run.get("warnings", ()), *_further(row, lab)]


def _further(row: Row, lab: Lab | None) -> Iterator[str]:
    if row["failed_regions"]:
        yield (
            f"{grouped(row['failed_regions'])} of {grouped(row['regions'])} regions could not be "
            f"read completely ({row['cause']}); their objects are missing. Run the slide again"
        )
    if row["adequacy"] == "too few":
        yield (
            f"{grouped(row['adequacy_count'])} {row['adequacy_by'].split(',')[0]} were found, an "
            f"adequate slide has {grouped(row['adequacy_least'])}"
        )
    if row["focus_score"] is not None and row["focus_score"] < BLURRED:
        yield f"the slide is out of focus (score {shown(row['focus_score'])}, sharp is 1)"
    elif (row["focus_blurred_share"] or 0) > MOST_BLURRED:
        yield f"{percent(row['focus_blurred_share'])} of the measured fields are blurred"
    if row["objects_larger_than_seen"]:
        count = row["objects_larger_than_seen"]
        yield f"{_counted(count, 'object')} cut by the largest window: the outlines are not whole"
    for name in COMPARED:
        usual = lab.usual(name, row[name]) if lab is not None else None
        if usual is not None and usual.z is not None and abs(usual.z) > OUTLIER_Z:
            yield (
                f"{_NAMES[name]} {cell_text(name, row[name])} is unusual for this laboratory: "
                f"{cell_text(name, usual.low)} to {cell_text(name, usual.high)} on the middle "
                f"half of its {len(lab or ())} other slides"
            )


@dataclass(frozen=True)
class PixelSize:
    """Whether the pixel size fits the nuclei: in a word, and in a sentence."""

    verdict: str
    text: str


def pixel_size(row: Row) -> PixelSize:
    """Judge the pixel size by the median area of the nuclei."""
    low, high = NUCLEUS_UM2
    median, mpp = row["nucleus_area_um2_median"], row["mpp_um"]
    stated = f"A pixel has {shown(mpp)} µm ({row['mpp_source']})."
    if not median or (row["nuclei"] or 0) < LEAST_NUCLEI:
        why = f"fewer than {LEAST_NUCLEI} nuclei were measured, too few to judge it"
        return PixelSize("not checked", f"{stated} Not checked: {why}.")
    seen = f"The median nucleus has {shown(median)} µm²; {low:.0f} to {high:.0f} µm² are usual."
    fits = fitting_mpp(median, mpp)
    if fits is None:
        return PixelSize("plausible", f"{stated} {seen}")
    return PixelSize(
        "implausible", f"{stated} {seen} About {fits:.2g} µm would fit: check it, and give --mpp."
    )


def unseen(row: Row, run: RunRecord) -> list[str]:
    """Return sentences about what the numbers do not cover."""
    settings, share = run["settings"], row["foreground_share"]
    said = [
        f"Segmented: {percent(share)} of the slide, {shown(row['foreground_area_mm2'])} of "
        f"{shown(row['slide_area_mm2'])} mm². The rest was taken for empty glass "
        f"({run['foreground']['rule']})."
    ]
    if roi := settings.get("roi"):
        said = [
            f"Only regions of interest were segmented ({PurePath(str(roi)).name}): "
            f"{percent(share)} of the slide, {shown(row['foreground_area_mm2'])} mm²."
        ]
    failed = row["failed_regions"]
    said.append(
        f"{grouped(failed)} of {grouped(row['regions'])} regions could not be read completely."
        if failed
        else f"Every region was read ({grouped(row['regions'])})."
    )
    if settings.get("min_area_um2"):
        said.append(f"Objects below {shown(settings['min_area_um2'])} µm² were left out.")
    if row["doubled_cells"] is not None:
        said.append(
            f"Not counted: {_counted(row['cells_without_nucleus'], 'cell')} without nucleus, "
            f"{_counted(row['cut_cells'], 'cut outline')} and "
            f"{_counted(row['doubled_cells'], 'doubled cell')}."
        )
    if row["cells_on_glass"] is not None:
        said.append(f"Not counted: {_counted(row['cells_on_glass'], 'cell')} on empty glass.")
    if row["focus_score"] is None:
        said.append("Focus was not measured.")
    adapted = run.get("adaptation")
    return [*said, *([f"Stain: {adapted['note']}."] if adapted else ()), *run["slide"]["notes"]]
