"""`wsiseg features`, `report` and `cohort`: tables and pages of finished runs."""

from __future__ import annotations

from pathlib import Path

import click

from wsi_pipeline.cli.options import FILE, quiet_option

__all__ = ["cohort", "features", "report"]


@click.command()
@click.argument("folder", metavar="RUN_FOLDER", type=FILE)
@click.option("--out", type=FILE, help="Folder for the files.  [default: RUN_FOLDER]")
@click.option(
    "--qc", type=FILE, help="Output of `wsiseg info --json`; adds the focus score to the summary."
)
@click.option(
    "--preparation",
    type=click.Choice(("liquid", "conventional")),
    default="liquid",
    help="Preparation of the slide. An adequate slide has 5000 cells (liquid) or 8000 "
    "(conventional).",
)
@quiet_option
def features(
    folder: Path, out: Path | None, qc: Path | None, preparation: str, quiet: bool
) -> None:
    """Write the tables of a run.

    SLIDE.objects.csv.gz has one row per object; SLIDE.summary.json is the row of the slide.
    RUN_FOLDER may also be a folder that holds one run.
    """
    from wsi_pipeline.reports.slide_summary import write_features

    files = write_features(folder, out, qc=qc, preparation=preparation)
    if not quiet:
        click.echo("\n".join(map(str, files)))


@click.command()
@click.argument("folder", metavar="RUN_FOLDER", type=FILE)
@click.option("--out", type=FILE, required=True, help="HTML file to write.")
@click.option(
    "--summary", type=FILE, help="SLIDE.summary.json of `wsiseg features`; adds the focus score."
)
@quiet_option
def report(folder: Path, out: Path, summary: Path | None, quiet: bool) -> None:
    """Write one HTML page about a run.

    The page shows the picture, the numbers, the distributions and the provenance of the run, and
    needs no other file. RUN_FOLDER may also be a folder that holds one run.
    """
    from wsi_pipeline.reports.slide_report import write_report

    write_report(folder, out, summary=summary)
    if not quiet:
        click.echo(out)


@click.command()
@click.argument("out", type=FILE)
@click.argument("sources", metavar="[SUMMARIES|RUN_FOLDERS]...", nargs=-1, type=FILE)
@quiet_option
def cohort(out: Path, sources: tuple[Path, ...], quiet: bool) -> None:
    """Write one table and one page about many slides.

    OUT gets cohort.parquet, cohort.csv and cohort.html, with one row per run.

    Sources are run folders, files of `wsiseg features`, JSON files {"slide", "status": "failed",
    "cause"}, or folders of these. Without sources, OUT itself is searched.
    """
    from wsi_pipeline.reports.cohort import write_cohort

    rows = write_cohort(out, sources)
    if not quiet:
        failed = sum(row["status"] == "failed" for row in rows)
        slides = f"{len(rows)} slide{'s' * (len(rows) != 1)}"
        click.echo(f"{out / 'cohort.parquet'}: {slides}, {failed} failed")
