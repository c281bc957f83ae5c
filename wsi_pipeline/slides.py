"""Many slides in one go: which ones were named, what can be told beforehand, one after another."""

from __future__ import annotations

import csv
import glob
import math
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wsi_pipeline.config import RunConfig
from wsi_pipeline.errors import OutputError, SlideError, UsageError, WsisegError

if TYPE_CHECKING:
    from wsi_pipeline.model import Model
    from wsi_pipeline.pipeline import RunResult

__all__ = ["SLIDE_SUFFIXES", "NamedSlide", "Outcome", "find_slides", "run_slides"]

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
_COLUMNS = ("slide", "mpp")


@dataclass(frozen=True)
class NamedSlide:
    """A slide that was asked for, and its pixel size in µm where a slide sheet gives it."""

    path: Path
    mpp: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one slide: its result, or why there is none."""

    name: str
    seconds: float
    result: RunResult | None = None
    cause: str = ""

    @property
    def failed(self) -> bool:
        """Whether anything of the slide is missing."""
        return self.result is None or bool(self.result.failed)


def find_slides(names: Sequence[str], *, recursive: bool = False) -> list[NamedSlide]:
    """The slides that files, folders, globs and slide sheets (CSV) name, each once.

    A folder stands for the files with one of `SLIDE_SUFFIXES` in it, sorted; a sheet has a column
    `slide`, with paths relative to the sheet, and may have a column `mpp`. A file need not exist.

    Parameters
    ----------
    recursive
        look into folders of folders, too

    Raises
    ------
    UsageError
        a folder or glob without slides, or a sheet with a mistake
    """
    found: dict[Path, NamedSlide] = {}
    for name in names:
        for slide in _named(name, recursive):
            before = found.setdefault(slide.path.resolve(), slide)
            if before.mpp != slide.mpp:
                raise UsageError(f"{slide.path} is named twice with different mpp; name it once")
    return list(found.values())


def _named(name: str, recursive: bool) -> Iterable[NamedSlide]:
    path = Path(name)
    if path.is_dir():
        return map(NamedSlide, _in_folder(path, recursive))
    if path.suffix.lower() == ".csv":
        return _in_sheet(path)
    if path.exists() or not glob.has_magic(name):
        return [NamedSlide(path)]
    matches = sorted(Path(m) for m in glob.glob(name, recursive=True) if Path(m).is_file())
    if not matches:
        raise UsageError(f"no file matches {name!r}; check the path")
    return map(NamedSlide, matches)


def _in_folder(folder: Path, recursive: bool) -> list[Path]:
    paths = folder.rglob("*") if recursive else folder.glob("*")
    slides = sorted(p for p in paths if p.suffix.lower() in SLIDE_SUFFIXES and p.is_file())
    if not slides:
        raise UsageError(
            f"{folder} holds no slide ({' '.join(SLIDE_SUFFIXES)}); "
            f"name other files themselves, e.g. '{folder / '*.png'}', or add --recursive"
        )
    return slides


def _in_sheet(sheet: Path) -> list[NamedSlide]:
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


def _row(sheet: Path, line: int, row: dict[str, str]) -> NamedSlide:
    where = f"slide sheet {sheet}, line {line}"
    name, text = row["slide"], row.get("mpp") or ""
    if not name or None in row:
        raise UsageError(f"{where}: {'too many cells' if name else 'no slide'}; correct the line")
    if not text.strip():
        return NamedSlide(sheet.parent / name)
    try:
        mpp = float(text)
    except ValueError:
        mpp = math.nan
    if not 0.02 <= mpp <= 20:
        raise UsageError(f"{where}: mpp {text!r} is not a number of 0.02 to 20 µm; e.g. 0.25")
    return NamedSlide(sheet.parent / name, mpp)


def run_slides(slides: Sequence[NamedSlide], config: RunConfig) -> list[Outcome]:
    """Segment slides one after another; one that fails does not stop the others.

    What can be checked beforehand is checked before the first tile is read. Failures are written
    to standard error as they come.

    Raises
    ------
    UsageError, CheckpointError, DataError
        nothing was started, since an argument must change
    """
    _check(slides, config)
    outcomes: dict[Path, Outcome] = {}
    ids: dict[str, Path] = {}
    for slide in slides:
        try:
            slide_id = _header(slide, config)
        except SlideError as error:
            outcomes[slide.path] = _failed(slide, _one_line(error))
            continue
        other = ids.setdefault(slide_id, slide.path)
        if other != slide.path:
            raise UsageError(
                f"{other} and {slide.path} are both slide {slide_id!r}, which has one run folder; "
                "give each its own --out"
            )
    if ids:
        model = _ready(config)
        for slide in slides:
            if slide.path not in outcomes:
                outcomes[slide.path] = _run(slide, config, model)
    return [outcomes[s.path] for s in slides]


def _check(slides: Sequence[NamedSlide], config: RunConfig) -> None:
    """Faults of the arguments that need no slide and no network to be seen."""
    if config.mpp is not None and any(s.mpp is not None for s in slides):
        raise UsageError("the slide sheet gives mpp and so does --mpp; use one of them")
    if config.roi is not None:
        from wsi_pipeline.export.geojson import read_regions

        if len(slides) > 1:
            raise UsageError(f"--roi belongs to one slide, not to {len(slides)}; run them singly")
        read_regions(config.roi)


def _header(slide: NamedSlide, config: RunConfig) -> str:
    """The id of a slide that opens and has a pixel size; `SlideError` for one that does not."""
    from wsi_pipeline.slide import open_slide

    mpp, source = _mpp(slide, config)
    with open_slide(slide.path, mpp=mpp, mpp_source=source, crop=config.crop) as opened:
        opened.require_mpp()
        return opened.slide_id


def _mpp(slide: NamedSlide, config: RunConfig) -> tuple[float | None, str]:
    return (config.mpp, "--mpp") if slide.mpp is None else (slide.mpp, "slide sheet")


def _ready(config: RunConfig) -> Model:
    """The model, opened once for all slides, after a look at where results go."""
    from wsi_pipeline.registry import model_for
    from wsi_pipeline.store import check_output

    try:
        check_output(config.out, 0)
    except OutputError as error:
        raise UsageError(str(error)) from error
    return model_for(config)


def _run(slide: NamedSlide, config: RunConfig, model: Model) -> Outcome:
    from wsi_pipeline.pipeline import run_slide

    began = time.perf_counter()
    mpp, source = _mpp(slide, config)
    _log(f"{slide.path.name}: {model.name} on {model.device}", config)
    try:
        result = run_slide(slide.path, replace(config, mpp=mpp), model=model, mpp_source=source)
    except WsisegError as error:
        return _failed(slide, _one_line(error), time.perf_counter() - began)
    except Exception as error:  # a bug or a machine at its limit; the other slides are not harmed
        traceback.print_exc()
        cause = f"{slide.path.name}: {type(error).__name__}: {_one_line(error)}{_advice(error)}"
        return _failed(slide, cause, time.perf_counter() - began)
    seconds = time.perf_counter() - began
    _log(f"{slide.path.name}: {result.objects} objects, {seconds:.1f} s", config)
    outcome = Outcome(slide.path.name, seconds, result, _regions(result))
    if outcome.failed:
        _say(f"{outcome.name}: {outcome.cause}")
    return outcome


def _regions(result: RunResult) -> str:
    """How many regions failed, and the first cause; empty where none did."""
    if not result.failed:
        return ""
    first, count = result.failed[0]["cause"], len(result.failed)
    return f"{count} region{'s' * (count > 1)} failed ({first}); the same command tries again"


def _advice(error: Exception) -> str:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "; give a smaller --tile-px, --batch 1 or fewer --workers"
    return "; please report this bug with the lines above"


def _failed(slide: NamedSlide, cause: str, seconds: float = 0.0) -> Outcome:
    _say(cause)
    return Outcome(slide.path.name, seconds, cause=cause)


def _say(text: str) -> None:
    click.echo(f"wsiseg: {text}", err=True)


def _log(text: str, config: RunConfig) -> None:
    if not config.quiet:
        click.echo(text, err=True)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
