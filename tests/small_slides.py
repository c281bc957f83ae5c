"""Small slides for the tests of readers, as arrays and as TIFF files."""

import numpy as np
import tifffile

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (533, 701, 3), dtype=np.uint8)
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
