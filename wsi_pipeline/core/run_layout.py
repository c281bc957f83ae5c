"""Where a run lies and what its files are called.

::

    out/<slide_id>/<model>/
      plan.json                what decides the result; written first
      parts/000123.npz         objects of one finished region
      parts/000123.failed.json a region that could not be read completely, with the cause
      thumbnail.png  overlay.png  objects.parquet  objects.geojson.gz
      foreground.geojson       where was looked, and what could not be read
      import_into_qupath.groovy
      run.json                 written last: a run with it is finished
      lock.json                the process that writes here, while it does
"""

from __future__ import annotations

import re
from pathlib import Path

from wsi_pipeline.core.errors import DataError, one_line
from wsi_pipeline.core.json_files import mismatch, read_json
from wsi_pipeline.core.records import SCHEMA_VERSION, RunRecord
from wsi_pipeline.core.safe_names import check_name, folder_name

__all__ = [
    "FOREGROUND",
    "GEOJSON",
    "IMPORT_SCRIPT",
    "LOCK_JSON",
    "OVERLAY",
    "PARQUET",
    "PARTS",
    "PLAN_JSON",
    "RUN_FILES",
    "RUN_JSON",
    "THUMBNAIL",
    "find_runs",
    "one_run",
    "read_run",
    "remove_parts",
    "remove_run",
    "remove_unfinished",
    "run_folder_path",
    "runs_of_slide",
]

GEOJSON = "objects.geojson.gz"
PARQUET = "objects.parquet"
FOREGROUND = "foreground.geojson"
IMPORT_SCRIPT = "import_into_qupath.groovy"
OVERLAY = "overlay.png"
THUMBNAIL = "thumbnail.png"
PLAN_JSON = "plan.json"
RUN_JSON = "run.json"
LOCK_JSON = "lock.json"
PARTS = "parts"
RUN_FILES = (
    RUN_JSON, GEOJSON, PARQUET, FOREGROUND, IMPORT_SCRIPT, OVERLAY, THUMBNAIL, PLAN_JSON,
)  # fmt: skip
"""The files of a finished run. A run changes no other file of its folder."""

_ASIDE = r"\.[0-9a-f]{8}\.part"
"""End of the name of a file that is being written."""
LARGEST_MPP = 1000.0
"""Pixel sizes in a record are below this, µm; none that a microscope has is larger than 20."""
_PART = r"[0-9]{6,}\.(?:npz|failed\.json)"
"""Name of a file in the folder of parts."""


def run_folder_path(out: Path, slide_id: str, model: str) -> Path:
    """Return the folder of one run: ``out/<slide_id>/<model>``.

    Parameters
    ----------
    model
        name of the model; characters that no folder name may have are replaced

    Raises
    ------
    NameRefused
        `slide_id` cannot name a folder

    Examples
    --------
    >>> run_folder_path(Path("out"), "slide-7", "dssnet").as_posix()
    'out/slide-7/dssnet'
    """
    return out / check_name(slide_id) / folder_name(model)


def find_runs(path: Path, *, unfinished: bool = False) -> list[Path]:
    """Return the folders of all runs at or below `path`, sorted.

    Parameters
    ----------
    path
        a run folder, a slide's folder, or an output folder with many slides
    unfinished
        include runs that have a plan.json and no run.json yet
    """
    names = (RUN_JSON, PLAN_JSON) if unfinished else (RUN_JSON,)
    if any((path / name).is_file() for name in names):
        return [path]
    return sorted(
        {
            file.parent
            for name in names
            for below in ("*", "*/*")
            for file in path.glob(f"{below}/{name}")
        }
    )


def one_run(path: Path) -> Path:
    """Return the folder of the only finished run at or below `path`.

    Raises
    ------
    DataError
        there is none, or there are several; the message lists them
    """
    runs = find_runs(path)
    if len(runs) == 1:
        return runs[0]
    if runs:
        names = ", ".join(str(run.relative_to(path)) for run in runs[:10])
        more = f" and {len(runs) - 10} more" if len(runs) > 10 else ""
        raise DataError(f"{path} holds {len(runs)} runs: {names}{more}; give the folder of one")
    if not path.exists():
        raise DataError(f"{path} does not exist; give the folder of a run, e.g. out/slide/dssnet")
    if begun := find_runs(path, unfinished=True):
        raise DataError(
            f"{begun[0]} has no {RUN_JSON}, the run is not finished; run the slide again to resume"
        )
    raise DataError(
        f"{path} holds no run: no {RUN_JSON} in it, nor in folders two levels below; "
        "give the folder that `wsiseg run` wrote"
    )


def runs_of_slide(path: Path) -> list[Path]:
    """Return the folders of all finished runs of one slide, one per model, sorted.

    Parameters
    ----------
    path
        a run folder, a slide's folder, or an output folder with one slide

    Raises
    ------
    DataError
        there is no finished run, or there are runs of several slides; the message lists them
    """
    runs = find_runs(path)
    if not runs:
        return [one_run(path)]
    if len(slides := sorted({run.parent for run in runs})) > 1:
        names = ", ".join(str(run.relative_to(path)) for run in runs[:10])
        more = f" and {len(runs) - 10} more" if len(runs) > 10 else ""
        raise DataError(
            f"{path} holds runs of {len(slides)} slides: {names}{more}; "
            f"give the folder of one slide, e.g. {slides[0]}"
        )
    return runs


def read_run(folder: Path) -> RunRecord:
    """Read run.json of a finished run. The slide's id in it is a safe file name.

    Raises
    ------
    DataError
        there is no run.json, it is damaged, or another version of wsiseg wrote it
    """
    path = folder / RUN_JSON
    if not path.is_file():
        raise DataError(f"{path} does not exist, the run is not finished; run the slide again")
    try:
        run: RunRecord = read_json(path)
        if not isinstance(run["slide"]["id"], str):
            raise ValueError("its slide has no name")
        check_name(run["slide"]["id"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be used ({one_line(error)}); run the slide again"
        ) from error
    if run.get("schema_version") != SCHEMA_VERSION:
        raise DataError(
            f"{path} has schema_version {run.get('schema_version')}, this wsiseg reads "
            f"{SCHEMA_VERSION}; run the slide again with --overwrite"
        )
    if fault := mismatch(run, RunRecord) or _out_of_range(run):
        raise DataError(
            f"{path} is no record of this version ({fault}); run the slide again with --overwrite"
        )
    return run


def _out_of_range(run: RunRecord) -> str:
    """Return which number of a run.json no run has; empty where all are possible."""
    slide, counts = run["slide"], (run["objects"], run["objects_larger_than_seen"], run["regions"])
    if min(slide["width"], slide["height"]) < 1:
        return f"a slide of {slide['width']} x {slide['height']} pixels"
    sizes = slide["mpp"]["x"], slide["mpp"]["y"], run["model"]["mpp"]
    if not all(0 < size < LARGEST_MPP for size in sizes):
        return f"pixel sizes of {', '.join(f'{size:g}' for size in sizes)} µm"
    if not 0 <= run["foreground"]["share"] <= 1:
        return f"a foreground share of {run['foreground']['share']:g}"
    return f"counts of {counts}" if min(counts) < 0 else ""


def remove_parts(folder: Path) -> None:
    """Remove the parts of a run, and their folder if it holds nothing else.

    Other files stay, and nothing is removed where the folder is a link.
    """
    parts = folder / PARTS
    if parts.is_symlink() or not parts.is_dir():
        return
    for path in list(parts.iterdir()):
        if re.fullmatch(f"{_PART}({_ASIDE})?", path.name):
            path.unlink()
    if not any(parts.iterdir()):
        parts.rmdir()


def remove_unfinished(folder: Path) -> None:
    """Remove what a run that was killed was just writing, under another name."""
    final = "|".join(map(re.escape, RUN_FILES))
    for place, names in ((folder, final), (folder / PARTS, _PART)):
        for path in list(place.iterdir()):
            if re.fullmatch(f"({names}){_ASIDE}", path.name):
                path.unlink()


def remove_run(folder: Path) -> None:
    """Remove the files of a run and nothing else.

    plan.json goes last: a removal that is interrupted leaves no parts without their plan, which a
    run with other settings would take for its own.
    """
    remove_parts(folder)
    for name in RUN_FILES:
        (folder / name).unlink(missing_ok=True)
