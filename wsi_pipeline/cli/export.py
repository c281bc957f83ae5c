"""`wsiseg export`: write objects in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wsi_pipeline.cli.first_use import announce_compilation
from wsi_pipeline.cli.options import FILE
from wsi_pipeline.formats.convert import FORMATS

__all__ = ["export"]


@click.command()
@click.argument("source", type=FILE)
@click.argument("destination", type=FILE)
@click.option(
    "--format",
    type=click.Choice(tuple(FORMATS)),
    help="Format to write.  [default: from the ending of DESTINATION]",
)
@click.option(
    "--object-type",
    type=click.Choice(("detection", "annotation", "cell", "tile")),
    default="detection",
    help="QuPath object type, for GeoJSON.",
)
@click.option(
    "--class",
    "classes",
    multiple=True,
    metavar="NAME",
    help="Write only objects of this class, e.g. leukocyte; repeatable.",
)
@click.option("--scale", type=float, default=1.0, help="Level-0 pixels per pixel of a label image.")
def export(
    source: Path, destination: Path, format: str | None, classes: tuple[str, ...], **options: Any
) -> None:  # fmt: skip
    """Write the objects of a run or a file in another format.

    SOURCE is a run folder, a folder that holds one run, or a file of objects.
    """
    from wsi_pipeline.formats.convert import SlideInfo
    from wsi_pipeline.formats.convert import export as write

    with announce_compilation():
        taken = write(
            source, destination, format=format, slide=SlideInfo(**options), classes=classes
        )
    click.echo(f"{destination} ({taken})")
