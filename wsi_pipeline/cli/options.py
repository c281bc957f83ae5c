"""Options that several commands have."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from wsi_pipeline.core.config import ObjectRule, RunConfig
from wsi_pipeline.core.safe_names import shown

__all__ = [
    "FILE",
    "NEW_FILE",
    "NEW_FOLDER",
    "NewPath",
    "checkpoint_option",
    "crop_option",
    "device_option",
    "images_option",
    "json_option",
    "model_option",
    "mpp_option",
    "plane_option",
    "quiet_option",
    "recursive_option",
    "run_option",
    "series_option",
    "time_option",
]

FILE = click.Path(path_type=Path)


class NewPath(click.Path):
    """A file or a folder to write, which is checked before any work is done.

    A folder of results is made with the folders above it. A file is not: a folder above it that
    does not exist is more often a wrong name than a wish.

    Parameters
    ----------
    endings
        what ends so, in lower case, is a file; all else is a folder
    """

    def __init__(self, *endings: str) -> None:
        super().__init__(path_type=Path)
        self.endings = endings

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path; a usage error where the command could not write it."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if fault := self._fault(path):
            self.fail(fault, param, ctx)
        return path

    def _fault(self, path: Path) -> str:
        is_file = path.name.lower().endswith(self.endings)
        folder = path.parent if is_file else path
        there = next((p for p in (folder, *folder.parents) if os.path.lexists(p)), folder)
        if os.path.isfile(there):
            return f"{shown(there)} is a file; give another folder."
        if not is_file:
            return ""
        if not os.path.isdir(folder):
            command = f"mkdir -p {shlex.quote(str(folder))}"
            remedy = f"create it: `{command}`." if command.isprintable() else "create it first."
            return f"folder {shown(folder)} does not exist; {remedy}"
        if os.path.isdir(path) and path.suffix.lower() != ".zarr":
            return f"{shown(path)} is a folder; give the name of a file."
        return ""


NEW_FILE, NEW_FOLDER = NewPath(""), NewPath()

_DEFAULTS = {field.name: field.default for field in fields(RunConfig)}
_OF_MODEL = {field.name for field in fields(ObjectRule)}


def run_option(*names: str, **options: Any) -> Callable[[Any], Any]:
    """Return a decorator for a setting of `RunConfig`, with the default of `RunConfig`."""
    name = names[0].removeprefix("--").split("/")[0].replace("-", "_")
    if name in _OF_MODEL:
        options["show_default"] = "that of the model"
    return click.option(*names, default=_DEFAULTS[name], **options)


model_option = run_option("--model", metavar="NAME", help="Name of the model; see `wsiseg models`.")
checkpoint_option = run_option(
    "--checkpoint", type=FILE, help="Use weights from this file; they decide the model."
)
device_option = click.option(
    "--device", default="auto", metavar="auto|cpu|cuda|cuda:N|mps",
    help="Device that the network runs on.",
)  # fmt: skip
series_option = click.option(
    "--series", type=click.IntRange(min=0), help="Number of the image in a file with several, "
    "from 0.  [default: the largest]",
)  # fmt: skip
plane_option = click.option(
    "--plane", type=click.IntRange(min=0), help="Number of the focal plane, from 0.  "
    "[default: the middle one]",
)  # fmt: skip
time_option = click.option(
    "--time", type=click.IntRange(min=0), help="Number of the time point, or of the page of a "
    "plain TIFF with several, from 0.  [default: the first]",
)  # fmt: skip
mpp_option = click.option(
    "--mpp", type=float, help="Pixel size in µm per pixel. It replaces the one in the file."
)
crop_option = click.option(
    "--crop/--no-crop", default=True,
    help="Use only the scanned area that the file declares, as QuPath does.",
)  # fmt: skip
images_option = click.option(
    "--images", is_flag=True, help="Take the photographs in folders as slides too; give --mpp."
)
recursive_option = click.option(
    "--recursive", is_flag=True, help="Search folders inside folders for slides too."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
quiet_option = click.option("--quiet", is_flag=True, help="Print errors only.")
