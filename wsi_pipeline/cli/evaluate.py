"""`wsiseg evaluate`: measure models on images with truth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from wsi_pipeline.cli.first_use import announce_compilation
from wsi_pipeline.cli.options import (
    FILE,
    NEW_FOLDER,
    device_option,
    json_option,
    quiet_option,
    run_option,
)
from wsi_pipeline.cli.output import as_json as to_json
from wsi_pipeline.cli.output import table
from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import UsageError
from wsi_pipeline.core.machine import keep_freed_memory
from wsi_pipeline.core.progress import announce

__all__ = ["evaluate"]

SUITE_SPLIT = "fold:0/5"
"""Default of --split for a suite: the shipped weights were trained without these images."""

_ONLY_DATA = ("score", "cut", "max_dets", "partial")
_ONLY_SUITE = ("before", "threshold", "min_score", "min_small_score", "min_cell_score", "adapt")


@click.command()
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    help="Name of the model; see `wsiseg models`. With --suite repeatable; all: every model that "
    f"ships.  [default: {RunConfig.model}]",
)
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    type=FILE,
    help="Use weights from this file; they decide the model. With --suite repeatable.",
)
@click.option(
    "--data",
    multiple=True,
    metavar="DIR[@MPP]",
    help="COCO folder with truth, and its µm per pixel. Repeatable.",
)
@click.option(
    "--suite",
    type=FILE,
    metavar="DIR",
    help="Folder of sets: measure all of them, segmented as `wsiseg run` does it.",
)
@click.option(
    "--split",
    help="Images to use: all, or the held-out ones of training, fold:K/N or time:SHARE.  "
    f"[default: all; with --suite {SUITE_SPLIT}]",
)
@click.option("--score", type=float, default=0.05, help="Ignore predictions below this score.")
@click.option("--cut", type=float, default=0.5, help="Score cut of every measure except AP.")
@click.option(
    "--max-dets", type=int, default=100, help="Best objects per image that AP uses; 0: all."
)
@click.option(
    "--partial",
    is_flag=True,
    help="Only some objects are marked: ignore the boxes that a detector finds elsewhere.",
)
@run_option("--threshold", type=float, help="With --suite: as in `wsiseg run`.")
@run_option("--min-score", type=float, help="With --suite: as in `wsiseg run`.")
@run_option("--min-small-score", type=float, help="With --suite: as in `wsiseg run`.")
@run_option("--min-cell-score", type=float, help="With --suite: as in `wsiseg run`.")
@run_option("--adapt/--no-adapt", help="With --suite: as in `wsiseg run`, for each field.")
@click.option("--before", type=FILE, help="With --suite: suite.json to compare with.")
@click.option(
    "--out",
    type=NEW_FOLDER,
    help="Folder for results.json, results.csv and, for cells, overlap.csv; of a suite suite.json, "
    "suite.md and worst/.",
)
@device_option
@json_option
@quiet_option
def evaluate(as_json: bool, quiet: bool, **settings: Any) -> None:
    """Measure models on images with truth.

    With --data one model: AP, AJI, F1, Dice, PQ; of whole cells also IoU and Dice of the visible
    and the overlapped part, by the share that other cells overlap; of a network that classifies
    pixels also their accuracy, sensitivity, precision, IoU, IoU with background, and Dice; of one
    with several classes of nuclei also precision and recall of each class; of a detector AP and AR
    of boxes, as COCO computes them. Images and truth are resampled to the model's µm per pixel;
    areas are in its pixels.

    With --suite a report card: every set below DIR, segmented as a run does it, in one table per
    kind of truth, and pictures of the ten worst fields.
    """
    if quiet and not as_json and settings["out"] is None:
        raise UsageError("--quiet without --out or --json gives no result; add --out DIR")
    suite = settings.pop("suite")
    if (suite is None) == (not settings["data"]):
        raise UsageError("give either --data DIR, repeatable, or --suite DIR")
    _refuse(_ONLY_SUITE if suite is None else _ONLY_DATA, suite is None)
    with announce("loading PyTorch", quiet=quiet):
        from wsi_pipeline.segmentation.load_model import device_named
    if device_named(settings["device"]) == "cpu":
        keep_freed_memory()
    with announce_compilation(quiet=quiet):
        if suite is None:
            _evaluate_data(settings, as_json, quiet)
        else:
            _evaluate_suite(suite, settings, as_json, quiet)


def _refuse(names: tuple[str, ...], data: bool) -> None:
    """Raise a UsageError for options that the other way of measuring has."""
    ctx = click.get_current_context()
    for name in names:
        if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} is for --{'suite' if data else 'data'}; leave it out")


def _evaluate_data(settings: Mapping[str, Any], as_json: bool, quiet: bool) -> None:
    """Measure one model on COCO folders and print the scores."""
    from wsiseg_models.training.coco_document import left_out_text

    from wsi_pipeline.evaluation.coco_evaluation import evaluate_run, score_rows
    from wsi_pipeline.evaluation.hidden_parts import describe_groups

    models, checkpoints = settings["models"], settings["checkpoints"]
    if len(models) > 1 or len(checkpoints) > 1:
        raise UsageError("--data measures one model; give one --model or --checkpoint, or --suite")
    names = ("data", "device", "score", "cut", "max_dets", "out", "partial")
    result = evaluate_run(
        model=models[0] if models else RunConfig.model,
        checkpoint=checkpoints[0] if checkpoints else None,
        split=settings["split"] or "all",
        quiet=quiet or as_json,
        **{name: settings[name] for name in names},
    )
    if as_json:
        click.echo(to_json(result))
    elif not quiet:
        for spec, counts in result["left_out"].items():
            if text := left_out_text(spec, counts):
                click.echo(text, err=True)
        click.echo(
            f"{result['model']} at {result['mpp']:g} µm per pixel; AP from score "
            f"{result['score']:g}, the rest from {result['cut']:g}"
        )
        click.echo(table(score_rows(result["scores"])))
        if result["overlap"]:
            click.echo(f"\n{describe_groups()}\n{table(score_rows(result['overlap']))}")
        if "classes" in result:
            from wsi_pipeline.evaluation.class_metrics import class_rows

            click.echo("\n" + table(class_rows(result["classes"], result["model"])))
        if "pixels" in result:
            from wsi_pipeline.evaluation.pixel_metrics import pixel_table

            click.echo("\n" + table(pixel_table(result["pixels"], result["published"])))


def _evaluate_suite(folder: Path, settings: Mapping[str, Any], as_json: bool, quiet: bool) -> None:
    """Measure models on all sets of a folder and print the tables."""
    from wsiseg_models.training.coco_document import left_out_text

    from wsi_pipeline.evaluation.suite import run_suite
    from wsi_pipeline.evaluation.suite_report import suite_tables
    from wsi_pipeline.runs.segment_whole import segment_whole

    names = ("device", "threshold", "min_score", "min_small_score", "min_cell_score", "adapt")
    config = RunConfig(quiet=quiet or as_json, **{name: settings[name] for name in names})
    models, checkpoints = settings["models"], settings["checkpoints"]
    suite, earlier = run_suite(
        folder, models or (() if checkpoints else (config.model,)), checkpoints,
        config, segment_whole,
        split=settings["split"] or SUITE_SPLIT, out=settings["out"], before=settings["before"],
    )  # fmt: skip
    if as_json:
        click.echo(to_json(suite))
    elif not quiet:
        for one in suite["sets"]:
            if text := left_out_text(one["name"], one["left_out"]):
                click.echo(text, err=True)
        for title, rows in suite_tables(suite, earlier):
            click.echo(f"{title}\n{table(rows)}\n")
        for note in (note for model in suite["models"] for note in model["notes"]):
            click.echo(note)
