"""`wsiseg features`, `report` and `cohort`: tables and pages of finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wsi_pipeline.cli.options import FILE, NEW_FILE, NEW_FOLDER, quiet_option

if TYPE_CHECKING:
    from wsi_pipeline.slides.slide import Slide

__all__ = ["cohort", "features", "report"]


_SOURCE = "RUN_FOLDER|SLIDE_FOLDER"


@click.command()
@click.argument("source", metavar=_SOURCE, type=FILE)
@click.option(
    "--out", type=NEW_FOLDER, help="Folder for all files; their names then hold the model too.  "
    "[default: each run folder]",
)  # fmt: skip
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
@click.option(
    "--extended",
    type=FILE,
    metavar="SLIDE",
    help="Slide of the run: measure stain, texture and neighbours of each object, and count cells "
    "on empty glass, too. Adds columns to the table and writes SLIDE.extended.parquet.",
)
@quiet_option
def features(
    source: Path, out: Path | None, qc: Path | None, preparation: str, extended: Path | None,
    quiet: bool,
) -> None:  # fmt: skip
    """Write the tables of a run, or of every run of a slide.

    SLIDE.objects.csv.gz has one row per object; SLIDE.summary.json is the row of the run for
    `wsiseg cohort`. Both go into the run folder.
    """
    from wsi_pipeline.core.run_layout import read_run
    from wsi_pipeline.reports.slide_summary import write_features
    from wsi_pipeline.runs.slide_of_run import slide_of_run

    def slide_of(folder: Path) -> Slide:
        assert extended is not None
        return slide_of_run(folder, read_run(folder), extended)

    files = write_features(
        source, out, qc=qc, preparation=preparation, slide_of=slide_of if extended else None
    )
    if extended is not None:
        files = _write_extended(source, out, extended) + [
            file for file in files if not file.name.endswith(".csv.gz")
        ]
    if not quiet:
        click.echo("\n".join(map(str, files)))


def _write_extended(source: Path, out: Path | None, file: Path) -> list[Path]:
    """Write the tables of each run with more measurements; see `write_extended`."""
    from wsi_pipeline.cli.first_use import announce_compilation
    from wsi_pipeline.core.run_layout import read_run, runs_of_slide
    from wsi_pipeline.reports.extended_table import write_extended
    from wsi_pipeline.runs.slide_of_run import slide_of_run

    files = []
    with announce_compilation():
        for folder in runs_of_slide(source):
            with slide_of_run(folder, read_run(folder), file) as slide:
                files += write_extended(folder, slide, out)
    return files


@click.command()
@click.argument("source", metavar=_SOURCE, type=FILE)
@click.option("--out", type=NEW_FILE, required=True, help="HTML file to write.")
@click.option(
    "--image",
    type=FILE,
    metavar="SLIDE",
    help="Slide file: measures the focus, and shows the most atypical cells where the run has no "
    "gallery.",
)
@click.option(
    "--cohort",
    type=FILE,
    metavar="PARQUET",
    help="Table of your other slides (cohort.parquet), shown behind this one.",
)
@click.option(
    "--plot",
    "axes",
    type=(str, str),
    metavar="X Y",
    help="Two measurements to plot against each other.  [default: nucleus area and N/C]",
)
@click.option(
    "--summary",
    "summaries",
    type=FILE,
    multiple=True,
    help="File of `wsiseg features`, with the focus score. Repeatable, for several runs.  "
    "[default: the files in the run folders]",
)
@quiet_option
def report(
    source: Path,
    out: Path,
    image: Path | None,
    cohort: Path | None,
    axes: tuple[str, str] | None,
    summaries: tuple[Path, ...],
    quiet: bool,
) -> None:
    """Write one HTML page about a slide.

    The page shows findings and warnings, where the nuclei are, distributions, the most atypical
    cells and provenance. It needs no other file, runs no script and prints on two pages. A slide
    with runs of several models gets one page, too: the models side by side in the table of numbers,
    then one after the other.
    """
    from contextlib import nullcontext

    from wsi_pipeline.core.run_layout import read_run, runs_of_slide
    from wsi_pipeline.reports.slide_report import write_report
    from wsi_pipeline.runs.slide_of_run import slide_of_run

    opened = None
    if image is not None:
        folder = runs_of_slide(source)[0]
        run = read_run(folder)
        mpp = run["slide"]["mpp"]
        opened = slide_of_run(folder, run, image, mpp=(mpp["x"] + mpp["y"]) / 2)
    with opened or nullcontext() as slide:
        write_report(source, out, summaries=summaries, slide=slide, cohort=cohort, axes=axes)
    if not quiet:
        click.echo(out)


@click.command()
@click.argument("out", type=NEW_FOLDER)
@click.argument("sources", metavar="[SOURCES]...", nargs=-1, type=FILE)
@click.option(
    "--dates",
    type=FILE,
    metavar="CSV",
    help="Columns slide and date (2026-03-31), for the order of the charts.  [default: by name]",
)
@quiet_option
def cohort(out: Path, sources: tuple[Path, ...], dates: Path | None, quiet: bool) -> None:
    """Write one table and one page about many slides.

    OUT gets cohort.parquet, cohort.csv and cohort.html, with one row per slide and model.

    SOURCES are run folders, slide folders, folders of these, files of `wsiseg features`, JSON files
    {"slide", "status": "failed", "cause"}, or globs. Without SOURCES, OUT itself is searched.
    """
    from wsi_pipeline.reports.cohort import write_cohort

    rows = write_cohort(out, sources, dates=dates)
    if not quiet:
        failed = sum(row["status"] == "failed" for row in rows)
        slides = len({row["slide"] for row in rows})
        count = f"{slides} slide{'s' * (slides != 1)}"
        if len(rows) != slides:
            count += f", {len(rows)} runs"
        click.echo(f"{out / 'cohort.parquet'}: {count}, {failed} failed")
