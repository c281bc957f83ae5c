"""`wsiseg synth`: make synthetic slides and fields with exact truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wsi_pipeline.cli.first_use import announce_compilation
from wsi_pipeline.cli.options import NewPath, quiet_option
from wsi_pipeline.core.errors import UsageError

__all__ = ["synth"]


def _mpp_range(ctx: Any, param: Any, text: str) -> float | tuple[float, float]:
    """Parse a pixel size, or two with a hyphen between them."""
    try:
        low, *rest = (float(part) for part in text.split("-"))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a pixel size; try 0.25, or 0.2-0.5") from None
    return (low, rest[-1]) if rest else low


@click.command()
@click.argument("destination", type=NewPath(".svs"))
@click.option("--size", type=int, help="Side in pixels.  [default: 4096; with --fields 512]")
@click.option("--width", type=int, help="Width in pixels, instead of --size.")
@click.option("--height", type=int, help="Height in pixels, instead of --size.")
@click.option(
    "--mpp",
    callback=_mpp_range,
    default="0.25",
    help="Pixel size in µm per pixel; LOW-HIGH with --fields.",
)
@click.option("--seed", type=int, default=0, help="Number that determines the slide.")
@click.option("--tissue", type=float, default=0.35, help="Share of the slide under cells, 0 to 1.")
@click.option(
    "--max-overlap",
    type=float,
    help="Largest share of a cell that a larger one covers, 0 to 1.  [default: a mixture]",
)
@click.option(
    "--dysplastic",
    type=float,
    metavar="SHARE",
    help="Share of dysplastic cells outside of dense groups, 0 to 1.  [default: 0.09 plain, 0.15 "
    "real]",
)
@click.option(
    "--fields", type=int, help="Write this many training fields into folder DESTINATION instead."
)
@click.option(
    "--look",
    type=click.Choice(["plain", "real", "mixed"]),
    default="plain",
    show_default=True,
    help="Look of the images: plain is clean, real has the stains, crowds and debris of real "
    "slides, mixed alternates, for fields.",
)
@click.option(
    "--two-classes",
    is_flag=True,
    help="With --fields: nuclei of dysplastic cells are positive_nucleus, the others "
    "negative_nucleus.",
)
@click.option(
    "--workers", type=int, help="With --fields: draw in this many processes.  [default: 1]"
)
@quiet_option
def synth(
    destination: Path, size: int | None, width: int | None, height: int | None,
    mpp: float | tuple[float, float], seed: int, tissue: float, max_overlap: float | None,
    dysplastic: float | None,
    fields: int | None, look: Any, two_classes: bool, workers: int | None, quiet: bool,
) -> None:  # fmt: skip
    """Make a synthetic slide or training fields, with exact truth.

    DESTINATION is the slide, NAME.svs, or with --fields a folder. Beside the slide,
    NAME.truth.geojson.gz has its nuclei and NAME.truth-cells.geojson.gz its cells.
    """
    from wsi_pipeline.synthetic.fields import write_fields
    from wsi_pipeline.synthetic.make_slide import make_slide

    if fields is not None:
        if width is not None or height is not None:
            raise UsageError("fields are square; give --size instead of --width and --height")
        for name, value in (("--max-overlap", max_overlap), ("--dysplastic", dysplastic)):
            if value is not None:
                raise UsageError(f"{name} is for slides only; leave it out with --fields")
        with announce_compilation(quiet=quiet):
            write_fields(
                destination, count=fields, size_px=512 if size is None else size, mpp=mpp,
                seed=seed, look=look,
                per_bank=8 if look == "plain" else 4, two_classes=two_classes,
                workers=1 if workers is None else workers,
            )  # fmt: skip
        files = [destination]
    elif two_classes or workers is not None:
        name = "--two-classes" if two_classes else "--workers"
        raise UsageError(f"{name} is for training fields; give --fields N, or leave it out")
    elif isinstance(mpp, tuple):
        raise UsageError(f"a slide has one pixel size, got {mpp[0]:g} to {mpp[1]:g}; give one")
    else:
        if look == "mixed":
            raise UsageError("a slide has one look; give --look plain or --look real")
        side = 4096 if size is None else size
        width, height = (side if given is None else given for given in (width, height))
        with announce_compilation(quiet=quiet):
            files = make_slide(
                destination, width=width, height=height, mpp=mpp, seed=seed,
                tissue=tissue, max_overlap=max_overlap, look=look, dysplastic=dysplastic,
                quiet=quiet,
            )  # fmt: skip
    if not quiet:
        click.echo("\n".join(str(file) for file in files))
