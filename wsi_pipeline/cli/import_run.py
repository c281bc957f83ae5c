"""`wsiseg import`: bring corrected objects back as a run folder."""

from __future__ import annotations

from pathlib import Path

import click

from wsi_pipeline.cli.first_use import announce_compilation
from wsi_pipeline.cli.options import FILE, NEW_FOLDER, quiet_option

__all__ = ["import_"]


@click.command("import")
@click.argument("slide", type=FILE)
@click.argument("corrected", type=FILE)
@click.option(
    "--run", type=FILE, required=True,
    help="Run folder whose objects were corrected; for several slides the output folder.",
)  # fmt: skip
@click.option(
    "--area-class", metavar="NAME",
    help="Class of annotations in CORRECTED that are no objects: the areas that were checked.",
)  # fmt: skip
@click.option("--out", type=NEW_FOLDER, required=True, help="Output folder of the new run folder.")
@click.option("--overwrite", is_flag=True, help="Replace the files of an earlier import.")
@quiet_option
def import_(
    slide: Path, corrected: Path, run: Path, area_class: str | None, out: Path, overwrite: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Bring corrected objects back as a run folder.

    OUT/SLIDE/MODEL-corrected gets the objects of CORRECTED with fresh measurements, so that
    `wsiseg features`, `report`, `cohort` and `export` show what was corrected. run.json tells where
    they come from. What CORRECTED does not have is gone: export all objects, not only some areas.
    """
    from wsi_pipeline.corrections.import_run import import_corrected
    from wsi_pipeline.corrections.slides import pair_slides

    with announce_compilation(quiet=quiet):
        for one in pair_slides(slide, corrected, run, None):
            folder, changes = import_corrected(one, out, ignored=area_class, overwrite=overwrite)
            if not quiet:
                click.echo(folder)
                click.echo("\n".join(f"  {line}" for line in changes.lines()))
