"""`wsiseg evaluate`: measure a model on images with truth."""

from __future__ import annotations

from typing import Any

import click

from wsi_pipeline.cli.first_use import announce_compilation
from wsi_pipeline.cli.options import (
    FILE,
    checkpoint_option,
    device_option,
    json_option,
    model_option,
    quiet_option,
)
from wsi_pipeline.cli.output import as_json as to_json
from wsi_pipeline.cli.output import table
from wsi_pipeline.core.errors import UsageError
from wsi_pipeline.core.machine import keep_freed_memory
from wsi_pipeline.core.progress import announce

__all__ = ["evaluate"]


@click.command()
@model_option
@checkpoint_option
@click.option(
    "--data",
    multiple=True,
    required=True,
    metavar="DIR[@MPP]",
    help="COCO folder with truth, and its µm per pixel. Repeatable.",
)
@click.option(
    "--split",
    default="all",
    help="Images to use: all, or the held-out ones of training, fold:K/N or time:SHARE.",
)
@click.option("--score", type=float, default=0.05, help="Ignore predictions below this score.")
@click.option("--cut", type=float, default=0.5, help="Score cut of every measure except AP.")
@click.option(
    "--max-dets", type=int, default=100, help="Best objects per image that AP uses; 0: all."
)
@click.option("--out", type=FILE, help="Folder for results.json and results.csv.")
@device_option
@json_option
@quiet_option
def evaluate(as_json: bool, quiet: bool, **settings: Any) -> None:
    """Measure a model on images with truth: AP, AJI, F1, Dice, PQ.

    Images and truth are resampled to the model's µm per pixel; areas are in its pixels.
    """
    if quiet and not as_json and settings["out"] is None:
        raise UsageError("--quiet without --out or --json gives no result; add --out DIR")
    with announce("loading PyTorch", quiet=quiet):
        from wsi_pipeline.evaluation.coco_evaluation import evaluate_run, score_rows
        from wsi_pipeline.segmentation.load_model import device_named
    if device_named(settings["device"]) == "cpu":
        keep_freed_memory()
    with announce_compilation(quiet=quiet):
        result = evaluate_run(**settings, quiet=quiet or as_json)
    if as_json:
        click.echo(to_json(result))
    elif not quiet:
        click.echo(
            f"{result['model']} at {result['mpp']:g} µm per pixel; AP from score "
            f"{result['score']:g}, the rest from {result['cut']:g}"
        )
        click.echo(table(score_rows(result["scores"])))
