"""The slides that files, folders, globs and slide sheets name."""

from __future__ import annotations

import codecs
import csv
import io
import logging
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from wsi_pipeline.batch.slide_folder import SLIDE_SUFFIXES, Found, is_slide, slides_in
from wsi_pipeline.core.errors import UsageError
from wsi_pipeline.core.named_paths import expand_glob, refuse_missing, why_refused
from wsi_pipeline.core.pixel_size import MPP_RANGE, is_plausible_mpp
from wsi_pipeline.core.request import SlideRequest
from wsi_pipeline.core.safe_names import shown

__all__ = ["SHEET_SUFFIXES", "SLIDE_SUFFIXES", "find_slides", "sheet_row", "sheet_text"]

_log = logging.getLogger(__name__)

SHEET_SUFFIXES = (".csv", ".tsv")
"""A file with one of these suffixes is a slide sheet."""

_COLUMNS = ("slide", "mpp", "model", "roi")
_DELIMITERS = (",", ";", "\t", "|")
_NO_TEXT = {
    False: re.compile(r"[\x01-\x08\x0e-\x1a\x1c-\x1f]"),  # a NUL costs the slide that it names
    True: re.compile(r"\0"),
}
"""What no text has, decoded from single bytes, and decoded from UTF-16."""
_UNIT = re.compile(r"(?:[µμu]m|microns?|micromet(?:er|re)s?)(?:\s*(?:/|per)\s*(?:px|pixel))?", re.I)
"""The unit of a pixel size, which may stand behind it or in brackets behind the column's name."""


def find_slides(
    names: Sequence[str],
    *,
    recursive: bool = False,
    missing_ok: bool = False,
    images: bool = False,
) -> list[SlideRequest]:
    """Return the slides that files, folders, globs and slide sheets (CSV) name, each once.

    A folder gives its slides, sorted; what else lies in it is named in a logged warning, see
    `slides_in`. A slide sheet has the column ``slide`` and may have ``mpp``, ``model`` and ``roi``;
    its paths are relative to the sheet. Slides of a sheet that do not exist are returned, so that
    each fails alone, with a logged warning; a sheet of which no slide exists is refused.

    Parameters
    ----------
    recursive
        search the folders inside a folder too
    missing_ok
        return all slides that do not exist as well, instead of an error
    images
        take photographs in folders as well

    Raises
    ------
    UsageError
        paths do not exist (all are listed), a folder has no slide, a slide sheet has an error or
        only slides that do not exist, or a slide is named twice with different values
    """
    requests: list[SlideRequest] = []
    unmatched, required = [], []
    for name in names:
        paths = expand_glob(name)
        if paths != [Path(name)]:  # a glob gives no folders, but those that are slides
            paths = _matched(name, paths)
        if not paths:
            unmatched.append(name)
        for path in paths:
            if path.suffix.lower() not in SHEET_SUFFIXES or os.path.isdir(path):
                found = _in_path(path, recursive, images)
                required += [] if missing_ok else _searched(r.path for r in found)
            elif os.path.exists(path):
                found = _in_sheet(path)
                required += [] if missing_ok else _required(path, found)
            else:
                found, required = [], [*required, path]
            requests += found
    refuse_missing(required, unmatched)
    return _each_once(requests)


def _searched(slides: Iterable[Path]) -> list[Path]:
    """Leave out slides whose name the system refuses: each fails when it is its turn."""
    return [path for path in slides if not why_refused(path)]


def _required(sheet: Path, rows: Sequence[SlideRequest]) -> list[Path]:
    """Return the files of a sheet without which nothing is begun; warn of slides that will fail."""
    rois = [row.roi for row in rows if row.roi is not None]
    slides = list(dict.fromkeys(row.path for row in rows))
    lost = [path for path in slides if not os.path.exists(path)]
    if len(lost) == len(slides):
        return [*_searched(lost), *rois]
    if lost:
        _log.warning(
            "slide sheet %s: %d of its %d slides do not exist and will fail, the first %s",
            sheet, len(lost), len(slides), shown(lost[0]),
        )  # fmt: skip
    return rois


def _each_once(requests: Iterable[SlideRequest]) -> list[SlideRequest]:
    """Leave out repetitions; a slide may come once for each of several models."""
    by_file: dict[Path, list[SlideRequest]] = {}
    found = []
    for request in requests:
        earlier = by_file.setdefault(_real(request.path), [])
        if different := next(filter(None, (_conflict(e, request) for e in earlier)), None):
            raise UsageError(f"{request.path} is named twice with different {different}")
        if all(e.model != request.model for e in earlier):
            earlier.append(request)
            found.append(request)
    return found


def _real(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError):  # no such name can be, or links in a circle
        return path.absolute()


def _conflict(one: SlideRequest, other: SlideRequest) -> str | None:
    """Return the column in which two requests for the same file contradict each other."""
    if one.mpp != other.mpp:
        return "mpp; give one value"
    if one.model == other.model:
        return "roi; name it once" if one.roi != other.roi else None
    return "model, once without one; name it once" if None in (one.model, other.model) else None


def _matched(name: str, paths: Iterable[Path]) -> list[Path]:
    """Return the files that a glob matches, and name what else it matches."""
    found = Found()
    for path in paths:
        if os.path.exists(path) and (path.is_file() or is_slide(path)):
            found.slides.append(path)
        else:
            reason = (
                "a folder; name it without a pattern"
                if os.path.exists(path)
                else "a link to nothing"
            )
            found.leave_out(path, reason)
    found.log(name)
    return found.slides


def _in_path(path: Path, recursive: bool, images: bool) -> list[SlideRequest]:
    """Return the slide, or the slides in a folder."""
    if not os.path.isdir(path) or is_slide(path):
        return [SlideRequest(path)]
    found = slides_in(path, recursive=recursive, images=images)
    if not found.slides:
        raise UsageError(
            f"{path} has no slide in it ({' '.join(SLIDE_SUFFIXES)} .zarr); name files of other "
            f"kinds, e.g. '{path / '*.btf'}', add --images for photographs, or --recursive"
        )
    found.log(str(path))
    return [SlideRequest(slide) for slide in found.slides]


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
    text = _decoded(sheet)
    delimiter, stated = _delimiter(text)
    try:
        table = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise UsageError(f"slide sheet {sheet} cannot be read ({error}); give a CSV file") from None
    lines = [(n, [cell.strip() for cell in row]) for n, row in enumerate(table, 1)]
    lines = [(n, row) for n, row in lines if any(row)][stated:]
    while lines and lines[0][1][0].startswith("#"):  # remarks above the header
        del lines[0]
    columns = [_column(name) for name in lines[0][1]] if lines else []
    repeated = sorted(c for c in _COLUMNS if columns.count(c) > 1)
    if "slide" not in columns or repeated:
        what = f"the column {repeated[0]!r} twice" if repeated else "no column 'slide'"
        raise UsageError(f"slide sheet {sheet} has {what}; known: {', '.join(_COLUMNS)}")
    doubtful = next((c for c in columns if c.startswith("mpp") and "mpp" not in columns), None)
    if doubtful is not None:
        raise UsageError(
            f"slide sheet {sheet} has a column {doubtful!r}; name it 'mpp', with µm per pixel"
        )
    further = [name or "one without a name" for name in columns if name not in _COLUMNS]
    if further:
        _log.warning("slide sheet %s: not used: the columns %s", sheet, ", ".join(further))
    if not lines[1:]:
        raise UsageError(f"slide sheet {sheet} names no slide; add a line for each")
    return [_row(sheet, line, columns, row) for line, row in lines[1:]]


def _decoded(sheet: Path) -> str:
    """Return the text of a sheet: UTF-8 or UTF-16, otherwise as Excel on Windows writes it."""
    try:
        raw = sheet.read_bytes()
    except OSError as error:
        raise UsageError(f"slide sheet {sheet} cannot be read ({error}); give a CSV file") from None
    if raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        encodings = ["utf-16"]
    elif raw[:200].count(0) > min(len(raw), 200) // 4:
        encodings = ["utf-16-le" if raw[1:2] == b"\0" else "utf-16-be"]
    else:
        encodings = ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if not _NO_TEXT[encoding.startswith("utf-16")].search(text):
            return text
    raise UsageError(f"slide sheet {sheet} is no text; save it as CSV, UTF-8")


def _delimiter(text: str) -> tuple[str, bool]:
    """Return what separates the columns, and whether the first line states it, as for Excel.

    It is that which divides the header most.
    """
    header = next((line for line in text.splitlines() if line.strip()), "")
    if stated := re.fullmatch(r'"?sep=(.)"?', header.strip("\r\n "), re.IGNORECASE):
        return stated[1], True
    bare = re.sub(r'"[^"]*"', "", header)
    return max(_DELIMITERS, key=bare.count), False


def _column(title: str) -> str:
    """Return the name of a column: lower case, without µm in brackets.

    Examples
    --------
    >>> _column("MPP [µm/px]"), _column("mpp (nm)")
    ('mpp', 'mpp (nm)')
    """
    name = title.lower()
    unit = re.fullmatch(r"(.*?)\s*[(\[](.*)[)\]]", name)
    return unit[1] if unit and _UNIT.fullmatch(unit[2].strip()) else name


def _row(sheet: Path, line: int, columns: Sequence[str], row: Sequence[str]) -> SlideRequest:
    where = f"slide sheet {sheet}, line {line}"
    if any(row[len(columns) :]):
        raise UsageError(f"{where}: too many cells; correct the line")
    cells = dict(zip(columns, row, strict=False))
    if not cells.get("slide"):
        raise UsageError(f"{where}: no slide; correct the line")
    roi = cells.get("roi")
    mpp = cells.get("mpp", "")
    return SlideRequest(
        _beside(sheet, cells["slide"]),
        mpp=_mpp(where, mpp),
        mpp_source="slide sheet" if mpp else SlideRequest.mpp_source,
        model=cells.get("model") or None,
        roi=_beside(sheet, roi) if roi else None,
    )


def _beside(sheet: Path, name: str) -> Path:
    """Return the file that a sheet names; a sheet made on Windows may have backslashes."""
    path = sheet.parent / name
    other = sheet.parent / name.replace("\\", "/")
    return other if os.path.exists(other) and not os.path.exists(path) else path


def _mpp(where: str, text: str) -> float | None:
    """Return the pixel size of a cell in µm; an empty cell gives None."""
    unit = _UNIT.search(text)
    number = text[: unit.start()].strip() if unit and unit.end() == len(text) else text
    try:
        mpp = float(number.replace(",", ".")) if text else None
    except ValueError:
        mpp = math.nan
    if mpp is not None and not is_plausible_mpp(mpp):
        raise UsageError(f"{where}: mpp {text!r} is not a number of {MPP_RANGE}; e.g. 0.25")
    return mpp
