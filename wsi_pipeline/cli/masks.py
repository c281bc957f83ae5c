"""`wsiseg masks`: make masks from images alone, by Otsu's threshold."""

from __future__ import annotations

from pathlib import Path

import click

from wsi_pipeline.cli.options import FILE, NEW_FOLDER, quiet_option
from wsi_pipeline.core.errors import UsageError
from wsi_pipeline.core.pixel_size import MPP_RANGE, is_plausible_mpp
from wsi_pipeline.core.progress import progress

__all__ = ["masks"]


@click.command()
@click.argument("images", nargs=-1, required=True, type=FILE)
@click.option(
    "--out", required=True, type=NEW_FOLDER, help="Folder for masks, images and COCO file."
)
@click.option("--opening-px", type=int, default=2, help="Radius of the opening in pixels; 0: none.")
@click.option("--closing-px", type=int, default=2, help="Radius of the closing in pixels; 0: none.")
@click.option(
    "--min-area-px", type=int, default=50, help="Leave out parts with fewer pixels than this."
)
@click.option(
    "--mpp", type=float, help="Pixel size of the images in µm per pixel, for the COCO file."
)
@quiet_option
def masks(
    images: tuple[Path, ...], out: Path, opening_px: int, closing_px: int, min_area_px: int,
    mpp: float | None, quiet: bool,
) -> None:  # fmt: skip
    """Make masks from IMAGES alone, by Otsu's thresholds.

    IMAGES are files or folders of photographs or cut-out cells. Thresholds, opening, closing give
    a mask image for each of nucleus and cytoplasm (whole cells), and annotations.json, so that the
    folder can be given to `wsiseg train`. Look at the masks first: nobody drew them.
    """
    from wsi_pipeline.segmentation.otsu_masks import MaskSettings, image_files, write_masks

    if mpp is not None and not is_plausible_mpp(mpp):
        raise UsageError(f"--mpp {mpp:g} is no pixel size of a microscope ({MPP_RANGE})")
    settings = MaskSettings(opening_px, closing_px, min_area_px)
    files = image_files(images)
    bar = progress(len(files), desc="masks", unit="image", quiet=quiet)
    counts = write_masks(files, out, settings, mpp=mpp, done=bar.update)
    bar.close()
    if not quiet:
        listed = ", ".join(f"{n} {name}" for name, n in counts.items())
        click.echo(f"{out / 'annotations.json'}: {listed} of {len(files)} images")
