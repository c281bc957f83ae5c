"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from wsi_pipeline.core.config import ObjectRule, RunConfig

__all__ = [
    "FILE",
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
