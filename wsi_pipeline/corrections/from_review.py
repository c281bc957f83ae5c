"""Make a training set of the labels that a reader gave on the review page, without any area.

Only labelled nuclei are in it, each with its label, and what is no cell apart; everything else is
unknown. It is for the network of kinds; one that draws outlines does not take it, since without
background it would learn that all is a nucleus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.core.errors import DataError, UsageError
from wsi_pipeline.core.objects import Objects, is_cell
from wsi_pipeline.core.pixel_size import MPP_RANGE, is_plausible_mpp
from wsi_pipeline.core.polygons import polygon_parts
from wsi_pipeline.corrections.coco_set import SetWriter
from wsi_pipeline.corrections.fields import Piece
from wsi_pipeline.corrections.objects import NUCLEUS, Corrected
from wsi_pipeline.corrections.read import NOT_A_CELL, id_text, read_labels
from wsi_pipeline.corrections.slide_fields import NoCell, SlideFields
from wsi_pipeline.corrections.slides import SlideToLearn
from wsi_pipeline.formats.convert import read_objects
from wsi_pipeline.runs.slide_of_run import slide_of_run
from wsi_pipeline.segmentation.kinds import KINDS_NAME, KINDS_OF_LABEL, label_named

__all__ = ["NEAR_UM", "Reviewed", "dataset_from_review"]

NEAR_UM = 40.0
"""Nuclei whose outlines are nearer than this belong to one neighbourhood.

Training looks at most 34 µm far from the middle of a nucleus, so no crop shows a held-out one.
"""


@dataclass
class Reviewed:
    """What a set has of one slide.

    Attributes
    ----------
    counts
        label → number of nuclei
    held_out
        number of nuclei that are held out
    fields
        number of images
    lost
        number of labels of objects that the run does not have, or that are cells without nuclei
    """

    slide: str
    counts: dict[str, int] = field(default_factory=dict)
    held_out: int = 0
    fields: int = 0
    lost: int = 0

    def lines(self) -> list[str]:
        """Return what is printed."""
        total = sum(self.counts.values())
        named = ", ".join(f"{n} {name}" for name, n in self.counts.items())
        found = [
            f"{self.slide}: {total} labelled ({self.held_out} held out): {named}; "
            f"{self.fields} field{'s' * (self.fields != 1)}"
        ]
        if not self.held_out:
            found.append("  nothing is held out, so that no training can be judged on it")
        if self.lost:
            found.append(f"  left out: {self.lost} labels of no nucleus of this run")
        return found


def dataset_from_review(
    slide: Path, labels: Path, run: Path, out: Path, *, mpp: float | None = None,
    hold_out: bool = True,
) -> Reviewed:  # fmt: skip
    """Write the labelled nuclei of a slide as a training set for `nucleus_kinds`.

    Parameters
    ----------
    slide, labels, run
        slide file, labels by object id from the review page, and the run folder that was reviewed
    out
        folder that gets annotations.json and images/
    mpp
        µm per pixel of the images; None: that of the slide
    hold_out
        whether some neighbourhoods are held out for validation

    Raises
    ------
    UsageError, DataError, SlideError, OutputError
        a file cannot be used, a label is unknown, or `out` holds a set
    """
    if mpp is not None and not is_plausible_mpp(mpp):
        raise UsageError(f"--mpp {mpp:g} is no pixel size, {MPP_RANGE}")
    stated = SlideToLearn(slide, labels, run, None).record
    slide_id = stated["slide"]["id"]
    named = _checked(read_labels(labels, slide_id), labels)
    objects = read_objects(run)
    texts, lost = _of_nuclei(objects, named)
    if not texts:
        raise DataError(
            f"{labels} has {len(named)} labels, and none is of a nucleus of {run}; give the run "
            "whose gallery was reviewed"
        )
    rows = np.array(sorted(texts), np.int64)
    nuclei, given = objects.take(rows), [texts[row] for row in rows]
    size = stated["slide"]["mpp"]
    slide_mpp = (size["x"] + size["y"]) / 2
    with slide_of_run(run, stated, slide) as opened:
        writer = SetWriter(out)
        cut = SlideFields(opened, slide_mpp, writer, mpp, {}, checked=False)
        pieces = plan_neighbourhoods(nuclei, given, NEAR_UM / slide_mpp, hold_out=hold_out)
        _write(cut, nuclei, given, pieces)
    writer.finish(
        cells=False, description="nuclei that a person labelled, wsiseg", slides=[slide_id],
        **{"for": KINDS_NAME},
    )  # fmt: skip
    held = sum(len(members) for piece, members in pieces if piece.held_out)
    order = Counter(given)
    counts = {name: order[name] for name in KINDS_OF_LABEL if order[name]}
    return Reviewed(slide_id, counts, held, cut.fields, lost)


def _checked(labels: Mapping[str, str], path: Path) -> dict[str, str]:
    """Return the labels as the review page writes them; unknown ones are refused."""
    try:
        return {key: label_named(label) for key, label in labels.items()}
    except ValueError as error:
        raise DataError(f"{path}: {error}; correct it, or label the cell again") from error


def _of_nuclei(objects: Objects, labels: Mapping[str, str]) -> tuple[dict[int, str], int]:
    """Return row → label of the labelled nuclei, and how many labels are of none.

    The label of a cell is that of its nuclei, but for those with their own.
    """
    cells = is_cell(objects)
    parent = np.full(len(objects), -1) if objects.parent is None else objects.parent
    row_of = {id_text(own): row for row, own in enumerate(objects.ids)}
    own = {row_of[text]: label for text, label in labels.items() if text in row_of}
    found: dict[int, str] = {}
    used: set[int] = set()
    for row, label in own.items():
        nuclei = np.flatnonzero(parent == row) if cells[row] else [row]
        for nucleus in map(int, nuclei):
            found[nucleus] = own.get(nucleus, label)
            used.add(row)
    return found, len(labels) - len(used)


def plan_neighbourhoods(
    nuclei: Objects, labels: Sequence[str], near_px: float, *, hold_out: bool = True
) -> list[tuple[Piece, NDArray[np.int64]]]:
    """Return the neighbourhoods with the rows of their nuclei, from top to bottom.

    Those whose first nucleus is normal, abnormal or no cell are numbered each for themselves, and
    every fourth is held out, from the second on.

    Parameters
    ----------
    nuclei
        labelled nuclei, level-0 pixels
    labels
        label of each
    near_px
        outlines that are nearer than this belong together
    """
    shapes = nuclei.polygons()
    parts = polygon_parts(shapely.union_all(shapely.buffer(shapes, near_px / 2)))
    parts.sort(key=lambda part: (part.bounds[1], part.bounds[0]))
    part, member = shapely.STRtree(shapes).query(parts, predicate="intersects")
    seen: Counter[Any] = Counter()
    found = []
    for number in range(len(parts)):
        rows = np.sort(member[part == number])
        group = labels[rows[0]] if labels[rows[0]] in ("NILM", NOT_A_CELL) else "abnormal"
        held = hold_out and seen[group] % 4 == 1
        seen[group] += 1
        found.append((Piece(number + 1, shapely.union_all(shapes[rows]), held), rows))
    return found


def _write(
    cut: SlideFields, nuclei: Objects, labels: Sequence[str],
    pieces: Sequence[tuple[Piece, NDArray[np.int64]]],
) -> None:  # fmt: skip
    """Write the fields of all neighbourhoods."""
    names, shapes = np.array(nuclei.classes, object)[nuclei.class_index], nuclei.polygons()
    texts = [id_text(own) for own in nuclei.ids]
    cut.labels = dict(zip(texts, labels, strict=True))
    none = np.array([label == NOT_A_CELL for label in labels], bool)
    for piece, rows in pieces:
        cells = nuclei.take(rows[~none[rows]])
        role = np.full(len(cells), NUCLEUS, np.int8)
        apart = [NoCell(texts[k], str(names[k]), shapes[k]) for k in rows[none[rows]]]
        cut.write(piece, Corrected(cells, role), apart)
