"""Small slides for the tests of readers, as arrays and as TIFF files."""

import numpy as np
import tifffile
import zarr

from wsi_pipeline.core.geometry import Box
from wsi_pipeline.slides.slide import open_slide

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (533, 701, 3), dtype=np.uint8)
PALE = (200 + NOISE // 8).astype(np.uint8)
"""A bright picture, as glass is."""
LOSSLESS = {"tile": (64, 64), "compression": "adobe_deflate", "photometric": "rgb"}


def slopes(height, width):
    """Red rises with x and green with y, one grey level for every 8 pixels."""
    y, x = np.mgrid[:height, :width] / 8
    return np.round(np.stack([x, y, 0 * x], axis=2)).astype(np.uint8)


def halve(rgb):
    h, w = rgb.shape[0] // 2, rgb.shape[1] // 2
    return rgb[: 2 * h, : 2 * w].reshape(h, 2, w, 2, 3).mean((1, 3)).round().astype(np.uint8)


def write_pyramid(path, rgb, levels=3, mpp=0.25, **options):
    with tifffile.TiffWriter(path) as tiff:
        for level in range(levels):
            resolution = (1e4 / mpp / 2**level,) * 2
            tiff.write(
                rgb,
                subfiletype=int(level > 0),
                resolution=resolution,
                resolutionunit="CENTIMETER",
                metadata=None,
                **{**LOSSLESS, **options},
            )
            rgb = halve(rgb)
    return path


def one_line(error):
    """The message of a caught error, which has one line."""
    text = str(error.value)
    assert "\n" not in text
    return text


def pixels_of(path, **options):
    with open_slide(path, **options) as slide:
        return slide.read_region(Box(0, 0, slide.width, slide.height))


def write_ome_zarr(path, planes, axes, version, *, unit="micrometer", nested=False):
    """Write an image with a level of half its size; `planes` has the given axes."""
    top = zarr.open_group(path, mode="w", zarr_format=version)
    group = top.create_group("0") if nested else top
    datasets = []
    for k in range(2):
        step = tuple(slice(None, None, 2**k if a in "xy" else 1) for a in axes)
        part = planes[step]
        chunks = tuple(64 if a in "xy" else n for a, n in zip(axes, part.shape, strict=True))
        group.create_array(str(k), shape=part.shape, chunks=chunks, dtype=part.dtype)[:] = part
        scale = [0.25 * 2**k if a in "xy" else 1 for a in axes]
        placed = [{"type": "scale", "scale": scale}]
        datasets.append({"path": str(k), "coordinateTransformations": placed})
    kind = {"c": "channel", "t": "time"}
    about = [{
        "axes": [{"name": a, "type": kind.get(a, "space"),
                  **({"unit": unit} if a in "xy" and unit else {})} for a in axes],
        "datasets": datasets,
    }]  # fmt: skip
    entry = {"multiscales": about, "version": "0.5"}
    group.attrs.update({"multiscales": about} if version == 2 else {"ome": entry})
    return path
