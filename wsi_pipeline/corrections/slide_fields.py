"""Cut fields out of a slide and write them, with their objects, into a training set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.geometry import Box
from wsi_pipeline.corrections.coco_set import SetObject, SetWriter, segmentation
from wsi_pipeline.corrections.fields import CONTEXT_UM, Piece, boxes_of
from wsi_pipeline.corrections.objects import CELL, NUCLEUS, UNSURE, Corrected
from wsi_pipeline.corrections.read import NOT_A_CELL, id_text
from wsi_pipeline.slides.slide import Slide

__all__ = ["NoCell", "SlideFields"]

_EDGE_PX = 0.02
"""An outline may lie this far beyond the border of its area: coordinates are rounded."""


@dataclass(frozen=True)
class NoCell:
    """An object that a reader labelled as none: learned by the network of kinds alone.

    Attributes
    ----------
    id, name
        id as text, and class
    shape
        outline, level-0 pixels
    """

    id: str
    name: str
    shape: shapely.Geometry


@dataclass(eq=False)
class SlideFields:
    """Fields of one slide, as they are written.

    Attributes
    ----------
    mpp
        µm per pixel of the fields; None: that of the slide
    labels
        labels by id
    checked
        whether every object in the pieces is drawn; otherwise the rest of a field is unknown
    fields, held_out, labelled
        number of fields, of those held out, and of objects with a label, so far
    crossing, counted
        rows of the objects that cross the border of a piece, and of those inside
    """

    slide: Slide
    slide_mpp: float
    writer: SetWriter
    mpp: float | None
    labels: Mapping[str, str]
    checked: bool = True
    fields: int = 0
    held_out: int = 0
    labelled: int = 0
    crossing: set[int] = field(default_factory=set)
    counted: set[int] = field(default_factory=set)

    def write(self, piece: Piece, corrected: Corrected, none: Sequence[NoCell] = ()) -> None:
        """Write the fields of one piece.

        Parameters
        ----------
        none
            objects that were labelled as no cell; those inside the piece are stored apart
        """
        out_mpp = self.mpp or self.slide_mpp
        scale = out_mpp / self.slide_mpp
        whole = Box(0, 0, round(self.slide.width / scale), round(self.slide.height / scale))
        context = round(CONTEXT_UM / out_mpp)
        shapes = corrected.objects.polygons()
        near = np.sort(shapely.STRtree(shapes).query(piece.area, predicate="intersects"))
        around = shapely.buffer(piece.area, _EDGE_PX)
        covered = shapely.covers(around, shapes[near])
        rows = {int(row): bool(whole_in) for row, whole_in in zip(near, covered, strict=True)}
        self.crossing |= {row for row, whole_in in rows.items() if not whole_in}
        self.counted |= {row for row, whole_in in rows.items() if whole_in}
        none = [one for one in none if shapely.covers(around, one.shape)]
        for box in boxes_of(piece, whole, scale=scale, context_px=context):
            shape = box.height, box.width
            area = segmentation(_moved(piece.area, box, scale), shape)
            if area is None:
                continue
            objects = list(self._objects(corrected, shapes, rows, box, scale))
            known = {"annotated_area": area} if self.checked else {"exhaustive": False}
            self.writer.add(
                f"{self.slide.slide_id}_{piece.number:03d}_{box.x0}_{box.y0}",
                self.slide.read_scaled(box, scale), objects, list(_none(none, box, scale)),
                mpp=round(out_mpp, 6), **known, held_out=piece.held_out,
                slide=self.slide.slide_id, slide_x=box.x0 * scale, slide_y=box.y0 * scale,
            )  # fmt: skip
            self.fields += 1
            self.held_out += piece.held_out

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
        for row, whole in rows.items():
            role = int(corrected.role[row])
            own = id_text(corrected.objects.ids[row])
            cell = row if role == CELL else -1 if parent is None else int(parent[row])
            label = self.labels.get(own)
            if label is None and cell >= 0:
                label = self.labels.get(id_text(corrected.objects.ids[cell]))
            known = whole and role != UNSURE
            label = label if known else None
            more = {"object_id": own, "class": str(names[row])}
            made = _drawn(
                shapes[row], box, scale, role=NUCLEUS if role == UNSURE else role,
                cell_id=cell + 1 if known and rows.get(cell) else None, unknown=not known,
                more=more | ({"label": label} if label else {}),
            )  # fmt: skip
            if made is not None:
                self.labelled += label is not None
                yield made


def _none(none: Sequence[NoCell], box: Box, scale: float) -> Iterator[SetObject]:
    """Yield the objects of one field that are no cells."""
    for one in none:
        more = {"object_id": one.id, "class": one.name, "label": NOT_A_CELL}
        made = _drawn(one.shape, box, scale, role=NUCLEUS, cell_id=None, unknown=True, more=more)
        if made is not None:
            yield made


def _drawn(
    outline: shapely.Geometry, box: Box, scale: float, *, role: int, cell_id: int | None,
    unknown: bool, more: Mapping[str, str],
) -> SetObject | None:  # fmt: skip
    """Return an object of a field, or None where the field does not show it."""
    moved, shape = _moved(outline, box, scale), (box.height, box.width)
    drawn = segmentation(moved, shape)
    if drawn is None:
        return None
    x0, y0, x1, y1 = shapely.intersection(moved, shapely.box(0, 0, *shape[::-1])).bounds
    place = (x0, y0, x1 - x0, y1 - y0)
    return SetObject(drawn, role, moved.area, place, cell_id, unknown, more)


def _moved(area: shapely.Geometry, box: Box, scale: float) -> shapely.Geometry:
    """Return an area of level 0 in pixels of a field."""
    return shapely.transform(area, lambda xy: xy / scale - (box.x0, box.y0))
