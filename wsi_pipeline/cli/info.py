"""`wsiseg info`: describe a slide and the work of a run."""

from __future__ import annotations

from pathlib import Path

import click

from wsi_pipeline.cli.first_use import announce_compilation
from wsi_pipeline.cli.options import (
    FILE,
    crop_option,
    json_option,
    model_option,
    mpp_option,
    plane_option,
    series_option,
    time_option,
)
from wsi_pipeline.cli.output import as_json as to_json
from wsi_pipeline.cli.output import table

__all__ = ["info"]


@click.command()
@click.argument("slide", type=FILE)
@mpp_option
@series_option
@plane_option
@time_option
@crop_option
@model_option
@click.option(
    "--plan/--no-plan", default=True, help="Show the work of a run too; this opens the model."
)
@json_option
def info(
    slide: Path,
    mpp: float | None,
    series: int | None,
    plane: int | None,
    time: int | None,
    crop: bool,
    model: str,
    plan: bool,
    as_json: bool,
) -> None:
    """Describe SLIDE and the work of a run.

    Shows size, pixel size, foreground and focus, and the number of regions and tiles of a run.
    """
    from wsi_pipeline.cli.describe import describe_slide, slide_rows

    with announce_compilation():
        about = describe_slide(
            slide,
            mpp=mpp,
            crop=crop,
            series=series,
            plane=plane,
            time=time,
            model=model if plan else None,
        )
    click.echo(to_json(about) if as_json else table(slide_rows(about)))
