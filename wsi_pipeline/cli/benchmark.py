"""`wsiseg benchmark`: measure this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wsi_pipeline.cli.first_use import announce_compilation
from wsi_pipeline.cli.options import (
    NEW_FOLDER,
    checkpoint_option,
    device_option,
    model_option,
    quiet_option,
)

__all__ = ["benchmark"]


def _gigapixels(ctx: Any, param: Any, text: str) -> tuple[float, ...]:
    """Parse sizes with commas between them."""
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not a list of gigapixels; write --sizes after OUT, or --sizes=0.1,1"
        ) from None


@click.command()
@click.argument("out", type=NEW_FOLDER)
@click.option(
    "--size", type=int, help="Side of the slide in pixels.  [default: 10000; with a GPU 40000]"
)
@model_option
@checkpoint_option
@device_option
@click.option("--paper", is_flag=True, help="Also compare DSSNet with U-Net, as published.")
@click.option(
    "--tiles",
    type=int,
    help="Tiles to measure of the 29600 of --paper.  [default: all; without a GPU 64]",
)
@click.option(
    "--sizes",
    is_flag=False,
    flag_value="0.1,0.3,1,3,10",
    default="",
    show_default=False,
    metavar="[LIST]",
    callback=_gigapixels,
    help="Also measure slides of these gigapixels.  [without LIST: 0.1,0.3,1,3,10]",
)
@click.option(
    "--threshold-model/--no-threshold-model",
    default=None,
    help="Use a threshold instead of the network.  [default: only for --sizes]",
)
@quiet_option
def benchmark(out: Path, **settings: Any) -> None:
    """Measure the speed of this machine on a synthetic slide.

    Each stage is measured alone, then whole runs. OUT gets benchmark.md, benchmark.json and, if
    matplotlib is installed, benchmark.png.
    """
    from wsi_pipeline.benchmark.run import BenchmarkConfig
    from wsi_pipeline.benchmark.run import benchmark as measure

    config = BenchmarkConfig(**settings)
    with announce_compilation(quiet=config.quiet):
        text = measure(out, config)
    if not config.quiet:
        click.echo(text, nl=False)
