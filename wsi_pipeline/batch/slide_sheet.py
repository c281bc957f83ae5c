"""Which slides are meant by files, folders, globs and slide sheets."""

from __future__ import annotations

import csv
import glob
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from wsi_pipeline.core.errors import UsageError
from wsi_pipeline.core.pixel_size import MPP_RANGE, is_plausible_mpp
from wsi_pipeline.core.request import SlideRequest

__all__ = ["SLIDE_SUFFIXES", "find_slides"]


SLIDE_SUFFIXES = (
    ".bif",
    ".czi",
    ".mrxs",
    ".ndpi",
    ".scn",
    ".svs",
    ".svslide",
    ".tif",
    ".tiff",
    ".vms",
    ".vmu",
)
"""What is taken for a slide in a folder; anything else is read when it is named itself."""

_COLUMNS = ("slide", "mpp", "model", "roi")


def find_slides(names: Sequence[str], *, recursive: bool = False) -> list[SlideRequest]:
    """The slides that files, folders, globs and slide sheets (CSV) name, each once.

    A folder stands for the files with one of `SLIDE_SUFFIXES` in it, sorted; a sheet has a column
    `slide` and may have `mpp`, `model` and `roi`, with paths relative to the sheet. A slide need
    not exist.

    Parameters
    ----------
    recursive
        look into folders of folders, too

    Raises
    ------
    UsageError
        a folder or glob without slides, or a sheet with a mistake
    """
    found: dict[Path, SlideRequest] = {}
    for name in names:
        for slide in _named(name, recursive):
            before = found.setdefault(slide.path.resolve(), slide)
            for what in _COLUMNS[1:]:
                if getattr(before, what) != getattr(slide, what):
                    raise UsageError(
                        f"{slide.path} is named twice with different {what}; name it once"
                    )
    return list(found.values())


def _named(name: str, recursive: bool) -> Iterable[SlideRequest]:
    path = Path(name)
    if path.is_dir():
        return map(SlideRequest, _in_folder(path, recursive))
    if path.suffix.lower() == ".csv":
        return _in_sheet(path)
    if path.exists() or not glob.has_magic(name):
        return [SlideRequest(path)]
    matches = sorted(Path(m) for m in glob.glob(name, recursive=True) if Path(m).is_file())
    if not matches:
        raise UsageError(f"no file matches {name!r}; check the path")
    return map(SlideRequest, matches)


def _in_folder(folder: Path, recursive: bool) -> list[Path]:
    paths = folder.rglob("*") if recursive else folder.glob("*")
    slides = sorted(p for p in paths if p.suffix.lower() in SLIDE_SUFFIXES and p.is_file())
    if not slides:
        raise UsageError(
            f"{folder} holds no slide ({' '.join(SLIDE_SUFFIXES)}); "
            f"name other files themselves, e.g. '{folder / '*.png'}', or add --recursive"
        )
    return slides


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
    mpp = _pixel_size(where, cells.get("mpp", ""))
    return SlideRequest(
        sheet.parent / cells["slide"],
        mpp=mpp,
        mpp_source=SlideRequest.mpp_source if mpp is None else "slide sheet",
        model=cells.get("model") or None,
        roi=sheet.parent / roi if roi else None,
    )


def _pixel_size(where: str, text: str) -> float | None:
    try:
        mpp = float(text) if text else None
    except ValueError:
        mpp = math.nan
    if mpp is not None and not is_plausible_mpp(mpp):
        raise UsageError(f"{where}: mpp {text!r} is not a number of {MPP_RANGE}; e.g. 0.25")
    return mpp
