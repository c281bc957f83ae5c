"""The slides that files, folders, globs and slide sheets name."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from wsi_pipeline.core.errors import UsageError
from wsi_pipeline.core.named_paths import expand_glob, refuse_missing
from wsi_pipeline.core.pixel_size import MPP_RANGE, is_plausible_mpp
from wsi_pipeline.core.request import SlideRequest

__all__ = ["SLIDE_SUFFIXES", "find_slides", "sheet_row", "sheet_text"]

SLIDE_SUFFIXES = (
    ".bif", ".czi", ".mrxs", ".ndpi", ".scn", ".svs", ".svslide", ".tif", ".tiff", ".vms", ".vmu",
)  # fmt: skip
"""A file with one of these suffixes counts as a slide when its folder is named."""

_COLUMNS = ("slide", "mpp", "model", "roi")


def find_slides(
    names: Sequence[str], *, recursive: bool = False, missing_ok: bool = False
) -> list[SlideRequest]:
    """Return the slides that files, folders, globs and slide sheets (CSV) name, each once.

    A folder gives its files with one of `SLIDE_SUFFIXES`, sorted. A slide sheet has the column
    ``slide`` and may have ``mpp``, ``model`` and ``roi``; its paths are relative to the sheet.

    Parameters
    ----------
    recursive
        search the folders inside a folder too
    missing_ok
        return slides that do not exist as well, instead of an error

    Raises
    ------
    UsageError
        paths do not exist (all are listed), a folder has no slide, a slide sheet has an error, or
        a slide is named twice with different values
    """
    requests, unmatched, sheets = [], [], []
    for name in names:
        paths = expand_glob(name)
        if paths != [Path(name)]:  # a glob gives files only
            paths = [path for path in paths if path.is_file()]
        if not paths:
            unmatched.append(name)
        for path in paths:
            if path.suffix.lower() != ".csv" or path.is_dir():
                requests += _in_path(path, recursive)
            elif path.exists():
                requests += _in_sheet(path)
            else:
                sheets.append(path)
    slides = [] if missing_ok else [p for r in requests for p in (r.path, r.roi) if p is not None]
    refuse_missing([*sheets, *slides], unmatched)
    return _each_once(requests)


def _each_once(requests: Iterable[SlideRequest]) -> list[SlideRequest]:
    """Leave out repetitions; a slide may come once for each of several models."""
    by_file: dict[Path, list[SlideRequest]] = {}
    found = []
    for request in requests:
        earlier = by_file.setdefault(request.path.resolve(), [])
        if different := next(filter(None, (_conflict(e, request) for e in earlier)), None):
            raise UsageError(f"{request.path} is named twice with different {different}")
        if all(e.model != request.model for e in earlier):
            earlier.append(request)
            found.append(request)
    return found


def _conflict(one: SlideRequest, other: SlideRequest) -> str | None:
    """Return the column in which two requests for the same file contradict each other."""
    if one.mpp != other.mpp:
        return "mpp; give one value"
    if one.model == other.model:
        return "roi; name it once" if one.roi != other.roi else None
    return "model, once without one; name it once" if None in (one.model, other.model) else None


def _in_path(path: Path, recursive: bool) -> list[SlideRequest]:
    """Return the slide, or the slides in a folder."""
    if not path.is_dir():
        return [SlideRequest(path)]
    paths = path.rglob("*") if recursive else path.glob("*")
    slides = sorted(p for p in paths if p.suffix.lower() in SLIDE_SUFFIXES and p.is_file())
    if not slides:
        raise UsageError(
            f"{path} has no slide in it ({' '.join(SLIDE_SUFFIXES)}); name files of other kinds, "
            f"e.g. '{path / '*.png'}', or add --recursive"
        )
    return [SlideRequest(slide) for slide in slides]


def sheet_row(request: SlideRequest) -> dict[str, str | float | None]:
    """Return a slide as a row of a slide sheet, with absolute paths."""
    return {
        "slide": str(request.path.absolute()),
        "mpp": request.mpp,
        "model": request.model,
        "roi": None if request.roi is None else str(request.roi.absolute()),
    }


def sheet_text(rows: Iterable[Mapping[str, str | float | None]]) -> str:
    """Return rows as the text of a slide sheet.

    Examples
    --------
    >>> print(sheet_text([{"slide": "a.svs", "mpp": 0.25}]), end="")
    slide,mpp,model,roi
    a.svs,0.25,,
    """
    text = io.StringIO(newline="")
    sheet = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    sheet.writeheader()
    sheet.writerows(rows)
    return text.getvalue()


def _in_sheet(sheet: Path) -> list[SlideRequest]:
    try:
        with sheet.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"slide sheet {sheet} cannot be read ({error}); give a CSV file") from None
    unknown = [c for c in columns if c not in _COLUMNS]
    if unknown or "slide" not in columns:
        what = f"unknown columns {unknown}" if unknown else "no column 'slide'"
        raise UsageError(f"slide sheet {sheet} has {what}; known: {', '.join(_COLUMNS)}")
    if not rows:
        raise UsageError(f"slide sheet {sheet} names no slide; add a line for each")
    return [_row(sheet, line, row) for line, row in enumerate(rows, 2)]


def _row(sheet: Path, line: int, row: dict[str, str]) -> SlideRequest:
    where = f"slide sheet {sheet}, line {line}"
    if None in row:
        raise UsageError(f"{where}: too many cells; correct the line")
    cells = {k: (v or "").strip() for k, v in row.items()}
    if not cells["slide"]:
        raise UsageError(f"{where}: no slide; correct the line")
    roi = cells.get("roi")
    return SlideRequest(
        sheet.parent / cells["slide"],
        mpp=_mpp(where, cells.get("mpp", "")),
        mpp_source="slide sheet" if cells.get("mpp") else SlideRequest.mpp_source,
        model=cells.get("model") or None,
        roi=sheet.parent / roi if roi else None,
    )


def _mpp(where: str, text: str) -> float | None:
    """Return the pixel size of a cell in µm; an empty cell gives None."""
    try:
        mpp = float(text) if text else None
    except ValueError:
        mpp = math.nan
    if mpp is not None and not is_plausible_mpp(mpp):
        raise UsageError(f"{where}: mpp {text!r} is not a number of {MPP_RANGE}; e.g. 0.25")
    return mpp
