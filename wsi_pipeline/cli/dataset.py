"""`wsiseg dataset`: make training sets of corrected slides and of label images."""

from __future__ import annotations

from pathlib import Path

import click

from wsi_pipeline.cli.first_use import announce_compilation
from wsi_pipeline.cli.options import FILE, NEW_FOLDER, quiet_option

__all__ = ["dataset"]

_out = click.option("--out", type=NEW_FOLDER, required=True, help="Folder of the new set.")


@click.group(
    subcommand_metavar="from-qupath|from-review|from-labels [OPTIONS]...", options_metavar=""
)
def dataset() -> None:
    """Make a training set, for `wsiseg train` and `wsiseg evaluate`."""


@dataset.command("from-qupath")
@click.argument("slide", type=FILE)
@click.argument("corrected", type=FILE)
@click.option(
    "--run", type=FILE, required=True,
    help="Run folder whose objects were corrected; for several slides the output folder.",
)  # fmt: skip
@click.option(
    "--area", type=FILE,
    help="GeoJSON with annotations around what was checked; for several slides a folder or a zip "
    "archive of them.",
)  # fmt: skip
@click.option(
    "--area-class", metavar="NAME",
    help="Class of the annotations in CORRECTED that are these areas, instead of --area.",
)  # fmt: skip
@click.option(
    "--labels", type=FILE, metavar="FILE.json",
    help="Classes by object id, from the review page. What is not a cell is background, and is "
    "learned by nucleus_kinds alone.",
)  # fmt: skip
@click.option("--mpp", type=float, help="µm per pixel of the images.  [default: of the slide]")
@click.option(
    "--held-out/--no-held-out", default=True,
    help="Keep some areas for validation: every fourth from the second on, or the last quarter of "
    "the only one.",
)  # fmt: skip
@_out
@quiet_option
def from_qupath(
    slide: Path, corrected: Path, run: Path, area: Path | None, area_class: str | None,
    labels: Path | None, mpp: float | None, held_out: bool, out: Path, quiet: bool,
) -> None:  # fmt: skip
    """Make a training set of objects that were corrected in QuPath.

    CORRECTED is GeoJSON from QuPath (.geojson, .geojson.gz or zipped), or a folder or zip archive
    with one such file for each slide of the folder SLIDE. Inside the areas all that is not
    outlined is background; outside them nothing is learned. What was added, removed, reshaped or
    got another class is printed, and written to changes.json.
    """
    from wsi_pipeline.corrections.from_qupath import dataset_from_qupath
    from wsi_pipeline.corrections.slides import pair_slides, unpacked

    with (
        announce_compilation(quiet=quiet),
        unpacked(corrected, slide) as files,
        unpacked(area, slide) as areas,
    ):
        assert files is not None
        found = dataset_from_qupath(
            pair_slides(slide, files, run, areas), out,
            area_class=area_class, labels=labels, mpp=mpp, hold_out=held_out,
        )  # fmt: skip
    if not quiet:
        for one in found:
            click.echo("\n".join(one.lines()))
        click.echo(out)


@dataset.command("from-review")
@click.argument("slide", type=FILE)
@click.argument("labels", type=FILE, metavar="LABELS.json")
@click.option("--run", type=FILE, required=True, help="Run folder whose gallery was reviewed.")
@click.option("--mpp", type=float, help="µm per pixel of the images.  [default: of the slide]")
@click.option(
    "--held-out/--no-held-out", default=True,
    help="Keep some labels for validation: of the neighbourhoods of labelled nuclei every fourth "
    "from the second on.",
)  # fmt: skip
@_out
@quiet_option
def from_review(
    slide: Path, labels: Path, run: Path, mpp: float | None, held_out: bool, out: Path, quiet: bool
) -> None:
    """Make a training set of the labels of the review page.

    No area has to be checked: only the labelled nuclei are in the set, for `wsiseg train
    nucleus_kinds`; everything else is unknown.
    """
    from wsi_pipeline.core.run_layout import one_run
    from wsi_pipeline.corrections.from_review import dataset_from_review

    with announce_compilation(quiet=quiet):
        found = dataset_from_review(slide, labels, one_run(run), out, mpp=mpp, hold_out=held_out)
    if not quiet:
        click.echo("\n".join(found.lines()))
        click.echo(out)


@dataset.command("from-labels")
@click.argument("images", type=FILE)
@click.option(
    "--nuclei", type=FILE, required=True,
    help="Label image, or a folder with one for each image, named after it: 0 is background, each "
    "nucleus has a number of its own. PNG or TIFF.",
)  # fmt: skip
@click.option("--cells", type=FILE, help="The same of whole cells, nucleus included.")
@click.option("--mpp", type=float, required=True, help="Pixel size in µm per pixel.")
@click.option(
    "--components", is_flag=True,
    help="Take each connected part as an object: for masks, in which all have one number.",
)  # fmt: skip
@click.option(
    "--partial", is_flag=True,
    help="Only some objects are drawn: the rest is unknown, not background.",
)  # fmt: skip
@_out
@quiet_option
def from_labels(
    images: Path, nuclei: Path, cells: Path | None, mpp: float, components: bool, partial: bool,
    out: Path, quiet: bool,
) -> None:  # fmt: skip
    """Make a training set of images with label images.

    IMAGES is an image or a folder of them. Nuclei are joined to the cell that they lie in.
    """
    from wsi_pipeline.corrections.from_labels import dataset_from_labels

    counts = dataset_from_labels(
        images, nuclei, out, mpp=mpp, cells=cells, components=components, partial=partial
    )
    if not quiet:
        click.echo(", ".join(f"{n} {what}" for what, n in counts.items() if n))
        click.echo(out)
