"""Make a training set of what a person corrected in QuPath.

Inside the areas every object was checked: what is not outlined there is background. Outside them
nothing is known. An object that crosses the border of an area is neither learned as an object nor
as background: it is not known whether the part outside was checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.errors import DataError, UsageError
from wsi_pipeline.core.files import write_json
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.core.objects import Objects, is_cell
from wsi_pipeline.core.pixel_size import MPP_RANGE, is_plausible_mpp
from wsi_pipeline.corrections.coco_set import SetWriter
from wsi_pipeline.corrections.compare import Changes, compare, inside
from wsi_pipeline.corrections.fields import Piece, plan_pieces
from wsi_pipeline.corrections.objects import CELL, NUCLEUS, UNSURE, Corrected, with_nuclei
from wsi_pipeline.corrections.read import NOT_A_CELL, Checked, id_text, read_checked, read_labels
from wsi_pipeline.corrections.slide_fields import NoCell, SlideFields
from wsi_pipeline.corrections.slides import SlideToLearn
from wsi_pipeline.formats.convert import read_objects
from wsi_pipeline.runs.slide_of_run import slide_of_run

__all__ = ["CHANGES", "Learned", "dataset_from_qupath"]

CHANGES = "changes.json"


@dataclass
class Learned:
    """What a set has of one slide.

    Attributes
    ----------
    areas, fields
        number of areas and of images
    nuclei, cells
        number of objects inside the areas, in training and held-out ones
    crossing, unsure
        number of objects that are not learned: they cross a border; they are neither nuclei nor
        cells
    labelled, not_cells
        number of objects of the set with a label, and of those that are no cells
    changes
        what was changed in the areas
    """

    slide: str
    areas: int = 0
    fields: int = 0
    held_out: int = 0
    nuclei: int = 0
    cells: int = 0
    crossing: int = 0
    unsure: int = 0
    labelled: int = 0
    not_cells: int = 0
    changes: Changes | None = None

    def record(self) -> dict[str, Any]:
        """Return it as JSON values."""
        own = {k: v for k, v in vars(self).items() if k != "changes"}
        assert self.changes is not None
        return {**own, "changes": self.changes.record()}

    def lines(self) -> list[str]:
        """Return what is printed."""
        assert self.changes is not None
        objects = f"{self.nuclei} nuclei" + (f", {self.cells} cells" if self.cells else "")
        if not self.nuclei + self.cells:
            objects = "no object: all of it is learned as background"
        found = [
            f"{self.slide}: {self.areas} area{'s' * (self.areas != 1)}, {self.fields} "
            f"field{'s' * (self.fields != 1)} ({self.held_out} held out), {objects}"
        ]
        if self.labelled + self.not_cells:
            found.append(f"  labels: {self.labelled} objects, {self.not_cells} that are no cells")
        if self.crossing:
            found.append(f"  not learned: {self.crossing} that cross the border of an area")
        if self.unsure:
            found.append(
                f"  not learned: {self.unsure} of a class that is neither nucleus nor cell"
            )
        return [*found, *(f"  {line}" for line in self.changes.lines())]


def dataset_from_qupath(
    slides: Sequence[SlideToLearn],
    out: Path,
    *,
    area_class: str | None = None,
    labels: Path | None = None,
    mpp: float | None = None,
    hold_out: bool = True,
) -> list[Learned]:
    """Write the corrected objects of slides as a training set, and what was changed beside it.

    Parameters
    ----------
    slides
        slides with their corrected objects, runs and areas
    out
        folder that gets annotations.json, images/ and changes.json
    area_class
        class of the annotations that are the areas, where no slide has a file of them
    labels
        labels by object id, from the review page, of one slide
    mpp
        µm per pixel of the images; None: that of the slide
    hold_out
        whether some areas are held out for validation

    Raises
    ------
    UsageError, DataError, SlideError, OutputError
        a file cannot be used, or `out` holds a set
    """
    if mpp is not None and not is_plausible_mpp(mpp):
        raise UsageError(f"--mpp {mpp:g} is no pixel size, {MPP_RANGE}")
    if labels is not None and len(slides) > 1:
        raise UsageError("--labels are of one slide; give one slide, or make a set for each")
    writer = SetWriter(out)
    found: list[Learned] = []
    with_cells = False
    for one in slides:
        checked = read_checked(one.corrected, one.area, area_class)
        run = read_objects(one.run)
        stated = one.record
        named = read_labels(labels, stated["slide"]["id"]) if labels is not None else {}
        size = stated["slide"]["mpp"]
        with slide_of_run(one.run, stated, one.slide) as slide:
            own_mpp = (size["x"] + size["y"]) / 2
            cut = SlideFields(slide, own_mpp, writer, mpp, named)
            job = _OneSlide(cut, checked, run, Learned(stated["slide"]["id"]))
            before = sum(one.areas for one in found)
            job.write(before, hold_out=hold_out, alone=len(slides) == 1, path=one.corrected)
        with_cells |= bool(is_cell(run).any() or job.learned.cells)
        found.append(job.learned)
    write_json(out / CHANGES, {"schema_version": 1, "slides": [one.record() for one in found]})
    writer.finish(
        cells=with_cells, description="objects that a person corrected, wsiseg",
        slides=[one.slide for one in found],
    )  # fmt: skip
    return found


@dataclass(eq=False)
class _OneSlide:
    """The work on one slide."""

    fields: SlideFields
    checked: Checked
    run: Objects
    learned: Learned

    def write(self, before: int, *, hold_out: bool, alone: bool, path: Path) -> None:
        """Write all fields, and fill `learned`."""
        slide, labels = self.fields.slide, self.fields.labels
        whole = Box(0, 0, slide.width, slide.height)
        pieces = plan_pieces(
            self.checked.area, whole, before=before, hold_out=hold_out, alone=alone
        )
        if not pieces:
            raise DataError(
                f"{path}: its areas do not touch the slide of {whole.width} x {whole.height} "
                "pixels; do they belong to it?"
            )
        objects = self.checked.objects
        texts = [id_text(own) for own in objects.ids]
        dropped = with_nuclei(
            objects, np.array([labels.get(text) == NOT_A_CELL for text in texts], bool)
        )
        none = list(_no_cells(Corrected.from_objects(objects, self.run), dropped, texts))
        corrected = Corrected.from_objects(objects.take(~dropped), self.run)
        area = shapely.union_all([piece.area for piece in pieces])
        self.learned.changes = compare(self.run, corrected.objects, area)
        for piece in pieces:
            self.fields.write(piece, corrected, none)
        self._count(corrected, pieces, area, none)

    def _count(
        self, corrected: Corrected, pieces: Sequence[Piece], area: shapely.Geometry,
        none: Sequence[NoCell],
    ) -> None:  # fmt: skip
        learned, fields = self.learned, self.fields
        learned.areas = len({piece.number for piece in pieces})
        learned.fields, learned.held_out = fields.fields, fields.held_out
        learned.labelled = fields.labelled
        learned.not_cells = sum(bool(shapely.covers(area, one.shape)) for one in none)
        roles = corrected.role[sorted(fields.counted)]
        learned.nuclei, learned.cells = (int((roles == k).sum()) for k in (NUCLEUS, CELL))
        learned.crossing = len(fields.crossing - fields.counted)
        here = inside(corrected.objects, area)
        learned.unsure = int((here & (corrected.role == UNSURE)).sum())


def _no_cells(
    every: Corrected, dropped: NDArray[np.bool_], texts: Sequence[str]
) -> Iterator[NoCell]:
    """Yield the dropped objects but for whole cells, which the network of kinds does not get."""
    names, shapes = every.names(), every.objects.polygons()
    for row in np.flatnonzero(dropped & (every.role != CELL)).tolist():
        yield NoCell(texts[row], str(names[row]), shapes[row])
