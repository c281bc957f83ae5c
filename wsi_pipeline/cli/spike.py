"""`wsiseg spike`: lay painted cells into a slide and count how many of them a model finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wsi_pipeline.cli.first_use import announce_compilation
from wsi_pipeline.cli.options import (
    FILE,
    NEW_FOLDER,
    checkpoint_option,
    crop_option,
    device_option,
    json_option,
    model_option,
    mpp_option,
    plane_option,
    quiet_option,
    run_option,
    series_option,
    time_option,
)
from wsi_pipeline.cli.output import as_json as to_json
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.machine import keep_freed_memory
from wsi_pipeline.core.progress import announce, progress

__all__ = ["spike"]


@click.command()
@click.argument("slide", type=FILE)
@model_option
@checkpoint_option
@click.option("--count", type=int, default=240, help="Number of cells to lay, about.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of all random numbers.")
@click.option(
    "--out",
    type=NEW_FOLDER,
    help="Folder for spike.json, spike.md and pictures.  [default: spike/ in the folder of the "
    "slide's run, out/SLIDE/MODEL]",
)
@mpp_option
@series_option
@plane_option
@time_option
@crop_option
@run_option("--threshold", type=float, help="Use this value, as in `wsiseg run`.")
@run_option("--min-score", type=float, help="Use this value, as in `wsiseg run`.")
@run_option("--min-small-score", type=float, help="Use this value, as in `wsiseg run`.")
@run_option("--min-cell-score", type=float, help="Use this value, as in `wsiseg run`.")
@device_option
@json_option
@quiet_option
def spike(
    slide: Path, count: int, seed: int, out: Path | None, as_json: bool, quiet: bool,
    **settings: Any,
) -> None:  # fmt: skip
    """Warn where a model fails on a stain, without annotation.

    Painted cells of known outline, normal, dysplastic and in groups, get the stain and the blur of
    the slide and are laid into its pixels, on glass and among its cells. The share of their nuclei
    (and cells) that the model finds is shown per kind and place, with 95 % intervals. Painted cells
    are cleaner than real ones: a low share is a warning, a high share is no proof.
    """
    silent = quiet or as_json
    with announce("loading PyTorch", quiet=silent):
        from wsi_pipeline.evaluation.spike import spike_slide
        from wsi_pipeline.evaluation.spike_report import spike_markdown, write_spike
        from wsi_pipeline.runs.segment_whole import segment_whole
        from wsi_pipeline.segmentation.load_model import device_named, model_for
        from wsi_pipeline.slides.slide import open_slide
    if device_named(settings["device"]) == "cpu":
        keep_freed_memory()
    from wsi_pipeline.core.run_layout import run_folder_path
    from wsi_pipeline.core.spike_record import SPIKE_FOLDER

    config = RunConfig(quiet=True, **settings)
    names = ("crop", "mpp", "series", "plane", "time")
    with announce_compilation(quiet=silent):
        model = model_for(config)
        with open_slide(slide, **{name: settings[name] for name in names}) as opened:
            bar = progress(count, desc=opened.slide_id, unit="cell", quiet=silent)
            result = spike_slide(
                opened, model, config, segment_whole, count=count, seed=seed, done=bar.update
            )
            bar.close()
            folder = out or run_folder_path(config.out, opened.slide_id, model.name) / SPIKE_FOLDER
            noted = {"count": count, "seed": seed, **{n: settings[n] for n in _NOTED}}
            record = write_spike(folder, result, opened, model, noted)
    if as_json:
        click.echo(to_json(record))
    elif not quiet:
        click.echo(spike_markdown(record))
        click.echo(folder / "spike.json")


_NOTED = ("threshold", "min_score", "min_small_score", "min_cell_score")
