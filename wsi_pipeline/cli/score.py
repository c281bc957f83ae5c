"""`wsiseg score`: compare objects with the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wsi_pipeline.cli.first_use import announce_compilation
from wsi_pipeline.cli.options import FILE, json_option
from wsi_pipeline.cli.output import as_json as to_json
from wsi_pipeline.cli.output import table

__all__ = ["score"]


@click.command()
@click.argument("source", type=FILE)
@click.argument("truth", type=FILE)
@click.option("--iou", type=float, default=0.5, help="Objects match at or above this IoU.")
@click.option("--class", "class_name", metavar="NAME", help="Compare only objects of this class.")
@click.option(
    "--cells",
    type=FILE,
    help="File of true cells. Compare cells too, and cell-nucleus links where the file has them.",
)
@json_option
def score(source: Path, truth: Path, as_json: bool, **options: Any) -> None:
    """Compare the objects of a run or a file with the truth.

    SOURCE is a run folder, a folder that holds one run, or a file of objects; TRUTH is a file of
    objects.
    """
    from wsi_pipeline.evaluation.score_objects import score_run

    with announce_compilation():
        result = score_run(source, truth, **options)
    rows = [[name, "–" if value is None else str(value)] for name, value in result.items()]
    click.echo(to_json(result) if as_json else table(rows))
