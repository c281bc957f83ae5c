"""The real slides of other projects: each is read right, or refused in words."""

import numpy as np
import openslide
import pytest
import tifffile

from wsi_pipeline.core.errors import SlideError
from wsi_pipeline.core.geometry import Box
from wsi_pipeline.slides.slide import open_slide

REFUSED = {
    "highdicom_sm_image_jpegls.dcm": "Unsupported transfer syntax",
    "libvips_multi-channel-z-series.ome.tif": "3 int8 planes along axis C are not an RGB image",
    "pathml_small_dicom.dcm": "Couldn't get image flavor",
    "slideio_4d.ome.tiff": "int8 samples .* convert the image to RGB with 8 bits",
}
DAMAGED = "openslide_unreadable.svs"
"""It opens, and its damaged tile is reported; see test_readers.py."""


def by_tifffile(path, plane):
    """The whole image in colours, as tifffile has it."""
    with tifffile.TiffFile(path) as file:
        axes, whole = file.series[0].axes, file.series[0].asarray(level=0)
        colours = file.pages.first.colormap
    if axes[0] == "Z":
        whole = whole[plane]
    if axes[0] in "CS":
        whole = np.moveaxis(whole, 0, 2)
    if colours is not None:
        whole = (colours >> 8).astype(np.uint8).T[whole]
    if whole.ndim == 2:
        whole = np.repeat(whole[..., None], 3, 2)
    if whole.dtype == np.uint16:
        whole = (whole / 257).round()
    if whole.shape[2] == 4:  # colours that are multiplied by alpha, on white
        wide = whole.astype(int)
        whole = np.minimum(wide[..., :3] + 255 - wide[..., 3:], 255)
    return whole


def by_openslide(path, box):
    with openslide.OpenSlide(path) as slide:
        rgba = slide.read_region((box.x0, box.y0), 0, (box.width, box.height))
        return np.asarray(rgba.convert("RGB"))


@pytest.mark.slow
def test_each_real_file_is_read_right_or_refused_in_words(shared):
    """Windows at the corners and in the middle, compared to OpenSlide or tifffile."""
    for path in sorted((shared / "slides" / "files").iterdir()):
        if path.name in REFUSED:
            with pytest.raises(SlideError, match=REFUSED[path.name]):
                open_slide(path)
            continue
        if path.name == DAMAGED:
            continue
        with open_slide(path, crop=False) as slide:
            theirs = by_tifffile(path, slide.plane) if slide.reader == "tifffile" else None
            right, below = max(0, slide.width - 90), max(0, slide.height - 70)
            for x, y in ((0, 0), (right, 0), (0, below), (right, below), (right // 2, below // 2)):
                box = Box(x, y, min(x + 90, slide.width), min(y + 70, slide.height))
                expected = (
                    by_openslide(path, box)
                    if theirs is None
                    else theirs[box.y0 : box.y1, box.x0 : box.x1]
                )
                np.testing.assert_array_equal(slide.read_region(box), expected, path.name)
