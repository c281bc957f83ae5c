"""`wsiseg export`: write objects in another format."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsi_pipeline.cli.first_use import announce_compilation
from wsi_pipeline.cli.options import FILE, NEW_FILE
from wsi_pipeline.core.errors import UsageError
from wsi_pipeline.formats.convert import FORMATS, format_of

if TYPE_CHECKING:
    from wsi_pipeline.core.objects import Objects
    from wsi_pipeline.formats.convert import SlideInfo
    from wsi_pipeline.slides.slide import Slide

__all__ = ["export"]

_WITH_IMAGE = ("labels", "coco", "spatialdata", "dicom")
"""Formats for which --image has a use."""


@click.command()
@click.argument("source", type=FILE)
@click.argument("destination", type=NEW_FILE)
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
@click.option(
    "--run",
    type=FILE,
    help="Run folder of the slide, where SOURCE does not state it: GeoJSON that QuPath wrote.",
)
@click.option("--scale", type=float, default=1.0, help="Level-0 pixels per pixel of a label image.")
@click.option(
    "--image",
    type=FILE,
    metavar="SLIDE",
    help="Slide or field image that the objects belong to: it states size and pixel size where "
    "SOURCE does not, label images and SpatialData get its pixels as a pyramid, DICOM annotations "
    "refer to it, and --measure measures optical density.",
)
@click.option(
    "--measure",
    is_flag=True,
    help="Measure areas and shapes again, after outlines were corrected; with --image optical "
    "density, too.",
)
def export(
    source: Path,
    destination: Path,
    format: str | None,
    classes: tuple[str, ...],
    run: Path | None,
    image: Path | None,
    measure: bool,
    **options: Any,
) -> None:
    """Write the objects of a run or a file in another format.

    SOURCE is a run folder, a folder that holds one run, or a file of objects.
    """
    from wsi_pipeline.formats.convert import SlideInfo, read_provenance
    from wsi_pipeline.formats.convert import export as write
    from wsi_pipeline.runs.slide_of_run import slide_of_run

    if not 0.01 <= options["scale"] <= 10_000:
        raise UsageError(f"--scale must be 0.01 to 10000, got {options['scale']:g}")
    with announce_compilation(), ExitStack() as stack:
        slide = SlideInfo(**options)
        opened = None
        if image is not None:
            wanted = format or format_of(destination)
            if wanted not in _WITH_IMAGE and not measure:
                raise UsageError(
                    "--image is for label images, COCO, SpatialData, DICOM and --measure; end "
                    "DESTINATION in .ome.zarr, .coco.json, .zarr or .dcm"
                )
            stated = read_provenance(run or source)
            opened = stack.enter_context(slide_of_run(run or source, stated, image))
            if not stated.get("slide"):
                slide = _stated_by(slide, opened, destination.parent)
            if wanted in ("labels", "spatialdata"):
                slide = replace(slide, pixels=opened.read_scaled)
            if wanted == "dicom":
                slide = replace(slide, image=opened.path)
        objects = _measured(source, run or source, opened) if measure else source
        taken = write(
            objects, destination, format=format, slide=slide, classes=classes,
            run=run or (source if measure else None),
        )  # fmt: skip
    click.echo(f"{destination} ({taken})")


def _measured(source: Path, run: Path, slide: Slide | None) -> Objects:
    """Return the objects of a file with shapes measured now, and probabilities as they were.

    Optical density is measured where the slide is given.

    Raises
    ------
    UsageError
        `run` does not state a pixel size, or the objects are boxes
    """
    from wsi_pipeline.core.polygons import arranged
    from wsi_pipeline.formats.convert import read_objects, read_provenance
    from wsi_pipeline.formats.geojson import stays
    from wsi_pipeline.segmentation.measure_again import measure_again

    stated = read_provenance(run)
    mpp = (stated.get("slide") or {}).get("mpp")
    if not mpp:
        raise UsageError(f"{run} states no pixel size, so --measure cannot measure; give --run")
    objects = arranged(read_objects(source))
    if any(name.startswith("Box: ") for name in objects.features):
        raise UsageError(f"{source} has boxes of a detector; a box is no outline to --measure")
    size = (mpp["x"] + mpp["y"]) / 2
    objects = replace(objects, features={n: c for n, c in objects.features.items() if stays(n)})
    model_mpp = (stated.get("model") or {}).get("mpp")
    return measure_again(objects, size, slide=slide, model_mpp=model_mpp)


def _stated_by(slide: SlideInfo, opened: Slide, folder: Path) -> SlideInfo:
    """Return size, pixel size and name of an image, seen from the folder of the new file."""
    mpp = opened.mpp.value if opened.mpp is not None and opened.mpp.plausible else None
    try:
        name = Path(os.path.relpath(opened.path, folder)).as_posix()
    except ValueError:  # on Windows, on another drive
        name = opened.path.name
    return replace(slide, width=opened.width, height=opened.height, mpp=mpp, file_name=name)
