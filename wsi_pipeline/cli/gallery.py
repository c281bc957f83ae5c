"""`wsiseg gallery`: show the most atypical cells of a run."""

from __future__ import annotations

from pathlib import Path

import click

from wsi_pipeline.cli.options import FILE, NEW_FOLDER, quiet_option

__all__ = ["gallery"]


@click.command()
@click.argument("run", type=FILE)
@click.argument("slide", type=FILE)
@click.option("--count", type=click.IntRange(1, 2000), default=40, help="Cells to show.")
@click.option("--out", type=NEW_FOLDER, help="Folder to write.  [default: RUN/gallery]")
@quiet_option
def gallery(run: Path, slide: Path, count: int, out: Path | None, quiet: bool) -> None:
    """Show the most atypical cells of a slide: look at these first. No diagnosis.

    The folder gets pictures of each cell, gallery.json with its numbers and the rule of the
    ranking, review.html, a page to give each cell a class by a key, and review.geojson, a list to
    click through in QuPath.
    """
    from wsi_pipeline.core.run_layout import one_run, read_run
    from wsi_pipeline.reports.gallery import GALLERY, write_gallery
    from wsi_pipeline.runs.slide_of_run import slide_of_run

    folder = one_run(run)
    with slide_of_run(folder, read_run(folder), slide) as opened:
        cells = write_gallery(folder, opened, count, out=out)
    if not quiet:
        click.echo(f"{out or folder / GALLERY}: {len(cells)} cell{'s' * (len(cells) != 1)}")
