"""The tables of a suite: scores of models on real sets, beside those of an earlier suite."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wsi_pipeline.core.errors import DataError, one_line
from wsi_pipeline.core.json_files import read_json
from wsi_pipeline.evaluation.hidden_parts import GROUPS
from wsi_pipeline.evaluation.suite_measures import SAME_NUCLEUS_IOU, SIZE_IOU
from wsi_pipeline.segmentation.ghost_cells import GLASS_MARGIN, STAINED

__all__ = ["SCHEMA_VERSION", "read_earlier", "suite_markdown", "suite_tables", "without_nan"]

SCHEMA_VERSION = 1
"""Version of suite.json; it rises when a name or a meaning changes."""

Column = tuple[str, str, str]
"""Head of the column, name of the score, and how it is written: a count, a ratio, % or µm²."""

COLUMNS: Mapping[str, Sequence[Column]] = {
    "nuclei": (
        ("images", "images", "count"),
        ("true", "true", "count"),
        ("drawn", "drawn", "count"),
        ("F1", "F1", "ratio"),
        ("AP50", "AP50", "ratio"),
        ("PQ", "PQ", "ratio"),
        ("foreground IoU", "foreground IoU", "ratio"),
        ("recall", "recall", "ratio"),
        ("count bias", "count bias", "percent"),
        ("area bias", "area bias", "percent"),
        ("palest", "area bias, palest quarter", "percent"),
        ("largest", "area bias, largest quarter", "percent"),
    ),
    "marks": (
        ("images", "images", "count"),
        ("marks", "marks", "count"),
        ("found", "recall", "ratio"),
        ("drawn per mark", "drawn per mark", "per"),
        ("nuclei per mark", "called nuclei per mark", "per"),
        ("LSIL µm²", "median area LSIL", "area"),
        ("NILM µm²", "median area NILM", "area"),
        ("AUC of area", "AUC of area", "ratio"),
        ("AUC of class", "AUC of class", "ratio"),
        ("ASC-US", "AUC of class ASC-US", "ratio"),
        ("LSIL", "AUC of class LSIL", "ratio"),
    ),
    "cells": (
        ("images", "images", "count"),
        ("true", "true", "count"),
        ("drawn", "drawn", "count"),
        ("F1", "F1", "ratio"),
        ("AP50", "AP50", "ratio"),
        ("PQ", "PQ", "ratio"),
        ("area bias", "area bias", "percent"),
        ("ghosts", "ghosts", "count"),
        ("ghosts per field", "ghosts per field", "per"),
    ),
}
"""Kind of truth → columns of its table."""

OVERLAP_COLUMNS: Sequence[Column] = (
    ("true", "true", "count"),
    ("recall", "recall 0.5", "ratio"),
    ("recall 0.7", "recall 0.7", "ratio"),
    ("IoU", "IoU", "ratio"),
    ("visible IoU", "visible IoU", "ratio"),
    ("overlapped IoU", "overlapped IoU", "ratio"),
    ("overlapped IoU (missed 0)", "overlapped IoU (missed 0)", "ratio"),
    ("area in overlap", "area in overlap", "ratio"),
    ("error in overlap", "error in overlap", "ratio"),
)
"""Columns of the table of cells by the share of them that other cells overlap."""

TITLES = {
    "nuclei": "Nuclei, against traced outlines",
    "marks": "Nuclei, against marked points",
    "cells": "Whole cells",
    "overlap": "Visible and overlapped parts of whole cells",
}

RULES = f"""\
- Each field is segmented as `wsiseg run` does it: foreground, network, splitting, least scores.
- Kept back: no training and no choice has used the set; all its images count. \
Other sets: the images that `--split` holds out.
- A drawn and a true object are the same from IoU {SAME_NUCLEUS_IOU:g} on, one to one. \
AP50 as COCO computes it. Foreground IoU is over all pixels of the set.
- True objects below the run's least area, and doubtful ones, count as unknown: \
drawn objects mostly in them are ignored.
- Count bias: drawn ÷ true − 1. Area bias: median of drawn ÷ true area − 1, over pairs of IoU \
{SIZE_IOU:g} or more, so that a wrong size stays in the sum; palest and largest: the same for the \
quarter of the set's true nuclei with the lowest mean optical density, and with the largest area.
- A mark is found if a drawn nucleus contains it; several marks may lie in one nucleus. Marks are \
not exhaustive, so drawn nuclei without a mark are no errors. Areas are medians over the found \
marks of a class. AUC: abnormal (all but NILM) against normal, over the found marks, by nuclear \
area (the baseline) and by the measurement `Abnormal: probability`; ASC-US and LSIL: the same for \
this class alone. Nuclei per mark: drawn objects that are called neither leukocyte nor other.
- Ghost: a drawn cell without stain under it. The median optical density of its cytoplasm is below \
{STAINED:g}, and below that of the glass around it (10th percentile in its bounding box, grown \
by a quarter) + {GLASS_MARGIN:g}.
- The overlapped part of a true cell is what other true cells cover, the visible part the rest; \
the truth does not state which cell lies on top. A drawn cell is divided by the same true cells. \
Groups by the overlapped share of the true cell: none, light (up to \
{100 * GROUPS["light"][1]:.0f} %), medium (up to {100 * GROUPS["medium"][1]:.0f} %), heavy. \
IoU: means over found cells that have the part; missed 0: with 0 for those not found. Area and \
error in overlap: share of the true area and of the wrong area of found cells that lies in other \
true cells.
"""


def suite_tables(
    suite: Mapping[str, Any], earlier: Mapping[str, Any] | None = None
) -> list[tuple[str, list[list[str]]]]:
    """Return a title and the rows of text for each kind of truth that a suite has.

    A row is a set and a model. Columns without any value are left out. With an `earlier` suite, a
    value that it also has is written ``earlier → now``.
    """
    before = _scores(earlier) if earlier else {}
    out = []
    for kind, columns in COLUMNS.items():
        now = {key: value for key, value in _scores(suite).items() if key[2] == kind}
        if not now:
            continue
        used = [c for c in columns if any(v.get(c[1]) is not None for v in now.values())]
        rows = [["set", "model", *(head for head, _, _ in used)]]
        for key, values in sorted(now.items(), key=lambda item: _order(suite, item[0])):
            old = before.get(key, {})
            cells = [_cell(values.get(n), old.get(n), how) for _, n, how in used]
            rows.append([key[0], key[1], *cells])
        out.append((TITLES[kind], rows))
    overlap = _overlap_rows(suite, before)
    return [*out, (TITLES["overlap"], overlap)] if len(overlap) > 1 else out


def _overlap_rows(
    suite: Mapping[str, Any], before: Mapping[tuple[str, str, str], Mapping[str, Any]]
) -> list[list[str]]:
    """Return one row per set, model and group that has true cells, below a head."""
    rows = [["set", "model", "group", *(head for head, _, _ in OVERLAP_COLUMNS)]]
    now = {key: value for key, value in _scores(suite).items() if key[2] == "overlap"}
    for key, groups in sorted(now.items(), key=lambda item: _order(suite, item[0])):
        for group, values in groups.items():
            if values["true"]:
                old = before.get(key, {}).get(group, {})
                cells = [_cell(values.get(n), old.get(n), how) for _, n, how in OVERLAP_COLUMNS]
                rows.append([key[0], key[1], group, *cells])
    return rows


def _scores(suite: Mapping[str, Any]) -> dict[tuple[str, str, str], Mapping[str, Any]]:
    """Return the scores by set, model and kind of truth."""
    return {
        (name, model["name"], kind): scores
        for model in suite["models"]
        for name, kinds in model["sets"].items()
        for kind, scores in kinds.items()
    }


def _order(suite: Mapping[str, Any], key: tuple[str, str, str]) -> tuple[int, int]:
    names = [one["name"] for one in suite["sets"]]
    models = [one["name"] for one in suite["models"]]
    return names.index(key[0]), models.index(key[1])


def _cell(now: float | None, before: float | None, how: str) -> str:
    """Return one value as text, with the earlier one before it where it differs in kind or value.

    Examples
    --------
    >>> _cell(0.5, None, "ratio"), _cell(0.5, 0.25, "ratio"), _cell(-0.07, None, "percent")
    ('0.500', '0.250 → 0.500', '−7.0 %')
    """
    text = _text(now, how)
    if before is None or now is None or (how == "count" and before == now):
        return text
    return f"{_text(before, how)} → {text}"


def _text(value: float | None, how: str) -> str:
    if value is None:
        return "–"
    if how == "count":
        return f"{value:.0f}"
    if how == "percent":
        return f"{100 * value:+.1f} %".replace("-", "−")
    return f"{value:.{ {'ratio': 3, 'per': 2, 'area': 1}[how] }f}"


def suite_markdown(suite: Mapping[str, Any], earlier: Mapping[str, Any] | None = None) -> str:
    """Return the tables of a suite as a Markdown document, with its rules and what is left out."""
    lines = ["# Models on real fields", "", *_settings(suite), ""]
    if earlier is not None:
        lines += ["Values are earlier → now. " + " ".join(_settings(earlier)), ""]
    for title, rows in suite_tables(suite, earlier):
        lines += [f"## {title}", "", *_markdown_rows(rows), ""]
    lines += ["## Sets", "", *_markdown_rows(_set_rows(suite)), "", "Left out:", ""]
    lines += [f"- {one['name']}: {one['reason']}" for one in suite["left_out"]]
    lines += ["", "## How it is measured", "", RULES]
    lines += [f"- {note}" for model in suite["models"] for note in model["notes"]]
    return "\n".join(lines).rstrip() + "\n"


def _settings(suite: Mapping[str, Any]) -> Iterator[str]:
    chosen = suite["settings"]
    words = (("threshold", "threshold"), ("min_score", "least score"),
             ("min_small_score", "least score under 30 µm²"),
             ("min_cell_score", "least score of a cell"))  # fmt: skip
    given = [f"{word} {chosen[n]:g}" for n, word in words if chosen.get(n) is not None]
    rule = ", ".join(given) or "threshold and least scores of each model's card"
    adapted = ", each field with --adapt" * bool(chosen.get("adapt"))
    yield f"wsiseg {suite['version']}, images {chosen['split']}, {rule}{adapted}."


def _set_rows(suite: Mapping[str, Any]) -> list[list[str]]:
    rows = [["set", "images", "of", "µm per px", "kept back", "what", "licence"]]
    for one in suite["sets"]:
        low, high = one["mpp"]
        size = f"{low:.3g}" if math.isclose(low, high) else f"{low:.3g}–{high:.3g}"
        kept_back = "yes" if one["kept_back"] else "no"
        counts = [str(one["images"]), str(one["images_of_set"])]
        rows.append([one["name"], *counts, size, kept_back, one["note"], one["licence"]])
    return rows


def _markdown_rows(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for number, row in enumerate(rows):
        yield f"| {' | '.join(row)} |"
        if number == 0:
            yield f"|{'---|' * len(row)}"


def read_earlier(path: Path) -> dict[str, Any]:
    """Read the suite.json of an earlier suite.

    Raises
    ------
    DataError
        no such file, or not a suite of this schema
    """
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); give the suite.json of an earlier "
            "`wsiseg evaluate --suite … --out DIR`"
        ) from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    parts = ("models", "sets", "settings", "version")
    if version != SCHEMA_VERSION or any(part not in content for part in parts):
        raise DataError(
            f"{path} is no suite of schema {SCHEMA_VERSION} (its schema_version is {version}); "
            "measure the earlier models again"
        )
    try:
        suite_tables(content)
        list(_settings(content))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path} is no suite of this version ({one_line(error)}); measure the earlier "
            "models again"
        ) from error
    return dict(content)


def without_nan(value: Any) -> Any:
    """Return nested dictionaries and lists with None in place of NaN, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
