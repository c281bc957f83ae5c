"""Make a training set of what a person corrected in QuPath.

Inside the areas every object was checked: what is not outlined there is background. Outside them
nothing is known. An object that crosses the border of an area is neither learned as an object nor
as background: it is not known whether the part outside was checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from wsi_pipeline.corrections.coco_set import SetObject, SetWriter, segmentation
from wsi_pipeline.corrections.compare import Changes, compare, inside
from wsi_pipeline.corrections.fields import CONTEXT_UM, Piece, boxes_of, plan_pieces
from wsi_pipeline.corrections.objects import CELL, NUCLEUS, UNSURE, Corrected, without
from wsi_pipeline.corrections.read import NOT_A_CELL, Checked, id_text, read_checked, read_labels
from wsi_pipeline.corrections.slides import SlideToLearn
from wsi_pipeline.formats.convert import read_objects
from wsi_pipeline.runs.slide_of_run import slide_of_run
from wsi_pipeline.slides.slide import Slide

__all__ = ["CHANGES", "Learned", "dataset_from_qupath"]

CHANGES = "changes.json"
_EDGE_PX = 0.02
"""An outline may lie this far beyond the border of its area: coordinates are rounded."""


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
    labelled
        number of objects of the set with a label
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
            job = _OneSlide(
                slide, (size["x"] + size["y"]) / 2, checked, run, named, writer, mpp,
                Learned(stated["slide"]["id"]),
            )  # fmt: skip
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

    slide: Slide
    slide_mpp: float
    checked: Checked
    run: Objects
    labels: Mapping[str, str]
    writer: SetWriter
    mpp: float | None
    learned: Learned
    crossing: set[int] = field(default_factory=set)
    counted: set[int] = field(default_factory=set)

    def write(self, before: int, *, hold_out: bool, alone: bool, path: Path) -> None:
        """Write all fields, and fill `learned`."""
        whole = Box(0, 0, self.slide.width, self.slide.height)
        pieces = plan_pieces(
            self.checked.area, whole, before=before, hold_out=hold_out, alone=alone
        )
        if not pieces:
            raise DataError(
                f"{path}: its areas do not touch the slide of {whole.width} x {whole.height} "
                "pixels; do they belong to it?"
            )
        dropped = self._not_cells()
        kept = without(self.checked.objects, dropped)
        corrected = Corrected.from_objects(kept, self.run)
        area = shapely.union_all([piece.area for piece in pieces])
        self.learned.changes = compare(self.run, corrected.objects, area)
        for piece in pieces:
            self._write_piece(piece, corrected)
        learned = self.learned
        learned.areas = len({piece.number for piece in pieces})
        roles = corrected.role[sorted(self.counted)]
        learned.nuclei, learned.cells = (int((roles == k).sum()) for k in (NUCLEUS, CELL))
        learned.crossing = len(self.crossing - self.counted)
        here = inside(corrected.objects, area)
        learned.unsure = int((here & (corrected.role == UNSURE)).sum())

    def _not_cells(self) -> NDArray[np.bool_]:
        """Return which objects a person labelled as none, bool (n,)."""
        ids = self.checked.objects.ids
        return np.array([self.labels.get(id_text(own)) == NOT_A_CELL for own in ids], bool)

    def _write_piece(self, piece: Piece, corrected: Corrected) -> None:
        """Write the fields of one piece."""
        out_mpp = self.mpp or self.slide_mpp
        scale = out_mpp / self.slide_mpp
        whole = Box(0, 0, round(self.slide.width / scale), round(self.slide.height / scale))
        context = round(CONTEXT_UM / out_mpp)
        shapes = corrected.objects.polygons()
        near = np.sort(shapely.STRtree(shapes).query(piece.area, predicate="intersects"))
        covered = shapely.covers(shapely.buffer(piece.area, _EDGE_PX), shapes[near])
        rows = {int(row): bool(whole_in) for row, whole_in in zip(near, covered, strict=True)}
        self.crossing |= {row for row, whole_in in rows.items() if not whole_in}
        self.counted |= {row for row, whole_in in rows.items() if whole_in}
        for box in boxes_of(piece, whole, scale=scale, context_px=context):
            shape = box.height, box.width
            area = segmentation(_moved(piece.area, box, scale), shape)
            if area is None:
                continue
            objects = list(self._objects(corrected, shapes, rows, box, scale))
            name = f"{self.slide.slide_id}_{piece.number:03d}_{box.x0}_{box.y0}"
            self.writer.add(
                name, self.slide.read_scaled(box, scale), objects,
                mpp=round(out_mpp, 6), annotated_area=area, held_out=piece.held_out,
                slide=self.slide.slide_id, slide_x=box.x0 * scale, slide_y=box.y0 * scale,
            )  # fmt: skip
            self.learned.fields += 1
            self.learned.held_out += piece.held_out

    def _objects(
        self,
        corrected: Corrected,
        shapes: NDArray[np.object_],
        rows: Mapping[int, bool],
        box: Box,
        scale: float,
    ) -> Iterator[SetObject]:
        """Yield the objects of one field; those that cross the area's border are unknown."""
        names, parent = corrected.names(), corrected.objects.parent
        shape = box.height, box.width
        for row, whole in rows.items():
            moved = _moved(shapes[row], box, scale)
            drawn = segmentation(moved, shape)
            if drawn is None:
                continue
            role = int(corrected.role[row])
            own = id_text(corrected.objects.ids[row])
            cell = row if role == CELL else -1 if parent is None else int(parent[row])
            label = self.labels.get(own)
            if label is None and cell >= 0:
                label = self.labels.get(id_text(corrected.objects.ids[cell]))
            known = whole and role != UNSURE
            self.learned.labelled += label is not None and known
            x0, y0, x1, y1 = shapely.intersection(moved, shapely.box(0, 0, *shape[::-1])).bounds
            yield SetObject(
                drawn,
                NUCLEUS if role == UNSURE else role,
                moved.area,
                (x0, y0, x1 - x0, y1 - y0),
                cell + 1 if known and rows.get(cell) else None,
                not known,
                {"object_id": own, "class": str(names[row])} | ({"label": label} if label else {}),
            )


def _moved(area: shapely.Geometry, box: Box, scale: float) -> shapely.Geometry:
    """Return an area of level 0 in pixels of a field."""
    return shapely.transform(area, lambda xy: xy / scale - (box.x0, box.y0))
