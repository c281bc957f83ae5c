"""`wsiseg run`: segment slides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from wsi_pipeline.cli.exit_codes import FAILED
from wsi_pipeline.cli.first_use import announce_compilation
from wsi_pipeline.cli.options import (
    FILE,
    NEW_FOLDER,
    checkpoint_option,
    crop_option,
    device_option,
    images_option,
    model_option,
    mpp_option,
    plane_option,
    quiet_option,
    recursive_option,
    run_option,
    series_option,
    time_option,
)
from wsi_pipeline.cli.output import table
from wsi_pipeline.cli.signals import stop_on_signals
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.machine import keep_freed_memory

if TYPE_CHECKING:
    from wsi_pipeline.batch.run_many import Outcome
    from wsi_pipeline.segmentation.model import Model

__all__ = ["run"]


@click.command()
@click.argument("slides", nargs=-1, required=True)
@model_option
@checkpoint_option
@run_option(
    "--out", type=NEW_FOLDER, help="Folder for the results; each slide gets a folder in it."
)
@device_option
@run_option(
    "--precision",
    type=click.Choice(("auto", "float32", "bfloat16")),
    help="Number format of the network. auto: bfloat16 where the hardware has it and the model "
    "was measured with it.",
)
@mpp_option
@series_option
@plane_option
@time_option
@run_option(
    "--foreground",
    type=click.Choice(("auto", "all")),
    help="Area to segment. auto: where there are cells; all: the whole slide.",
)
@run_option("--roi", type=FILE, help="GeoJSON annotations; keep only the objects inside them.")
@run_option("--tile-px", type=int, help="Side of the network's tiles, px.  [default: the model's]")
@run_option("--batch", type=int, help="Tiles per call of the network.")
@run_option("--workers", type=int, help="Regions to process at the same time.")
@run_option(
    "--scheduler",
    metavar="ADDRESS",
    help="Dask cluster that processes the regions: tcp://host:8786, or a scheduler file.",
)
@run_option(
    "--read-timeout-s",
    type=float,
    help="Seconds to wait for a read before the slide counts as unreadable.",
)
@run_option("--threshold", type=float, help="Pixels at or above this probability are foreground.")
@run_option("--min-area-um2", type=float, help="Discard objects smaller than this, µm².")
@run_option("--min-score", type=float, help="Discard objects with a lower mean probability.")
@run_option(
    "--min-small-score",
    type=float,
    help="Discard objects smaller than 30 µm² with a lower mean probability.",
)
@run_option(
    "--min-cell-score",
    type=float,
    help="Discard whole cells with a lower score.  [default: --min-score if given]",
)
@run_option("--split/--no-split", help="Split touching nuclei.")
@run_option(
    "--kinds/--no-kinds",
    help="Sort nuclei by appearance: normal, abnormal, leukocyte, other. No diagnosis.",
)
@run_option(
    "--kinds-checkpoint",
    type=FILE,
    help="Sort nuclei with the weights of this file, from `wsiseg train nucleus_kinds`.",
)
@run_option(
    "--adapt/--no-adapt",
    help="Estimate the slide's stain, and bring what the network gets to its training's range.",
)
@crop_option
@click.option("--overwrite", is_flag=True, help="Start again where there are results already.")
@recursive_option
@images_option
@quiet_option
def run(slides: tuple[str, ...], recursive: bool, images: bool, **settings: Any) -> None:
    """Segment SLIDES: files, folders, globs, or slide sheets.

    A slide sheet is a CSV file with the column slide and, if needed, mpp, model and roi.

    Each slide gets a folder with objects.geojson.gz for QuPath, objects.parquet, pictures and
    run.json. Run the same command again to resume.
    """
    from wsi_pipeline.batch.run_many import run_slides
    from wsi_pipeline.batch.slide_sheet import find_slides

    config = RunConfig(**settings)
    found = find_slides(slides, recursive=recursive, images=images)

    def keep_memory(model: Model) -> None:
        if model.device == "cpu" and config.scheduler is None:
            keep_freed_memory()

    with announce_compilation(quiet=config.quiet), stop_on_signals(quiet=config.quiet) as stop:
        outcomes = run_slides(found, config, stop, on_load=keep_memory)
    if not config.quiet:
        _print_summary(outcomes)
    if any(outcome.failed for outcome in outcomes):
        click.get_current_context().exit(FAILED)


def _print_summary(outcomes: Sequence[Outcome]) -> None:
    """Print one line per slide; the error of a single slide has been printed already."""
    rows = []
    for one in outcomes:
        if one.result is not None:
            count = f"{one.result.objects} objects"
            rows.append([one.name, count, f"{one.seconds:.1f} s", str(one.result.folder)])
    if rows:
        click.echo(table(rows))
    if len(outcomes) > 1:
        for one in outcomes:
            if one.failed:
                click.echo(f"{one.name}  failed: {one.cause}")
