"""Estimate optical densities of stains from real fields: `MEASURED` in synthetic/stains.py.

    python experiments/stain_table.py ../shared/data

Prints the numbers of experiments/results/stain_table.md.

Sets: bttfa_lbc (CC BY 4.0, Jianwei Zhang, doi 10.17632/jks43dkjj7.1), colour, and isbi2014 (no
licence stated), grey. Every fifth image, from the first in order of names, is held out of training
and is not used here either. Only means and deviations leave the sets.

The light of an image is the median of its brightest 3 % that have little colour. Optical density
is −ln(pixel ÷ light). Cytoplasm are pixels outside all nuclei with a density of 0.12 and more; the
40 % quantile stands for one layer, since cells overlap. It is eosinophilic where green is absorbed
more than red, cyanophilic where red is absorbed more. A nucleus is the median of its mask without
the outermost pixel, less the median of a ring of 3 pixels around it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from wsiseg_models.training.coco import CocoImage, Split, read_coco, read_image

PARTS = ("cyanophilic", "eosinophilic", "nucleus")


def main() -> None:
    """Print one row per group of images: how many, light, and each part's density and spread."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with bttfa_lbc and isbi2014")
    data = parser.parse_args().data
    colour = [_measure(image) for image in _images(data / "bttfa_lbc/annotations.json")]
    grey = [_measure(image) for image in _images(data / "isbi2014/annotations_train45.json")]
    ratio = [m[2, 2] / m[2, 1] if m[2, 1] > 0 else 0.0 for m in colour]
    _print("rose", [m for m, r in zip(colour, ratio, strict=True) if r > 0.3])
    _print("magenta", [m for m, r in zip(colour, ratio, strict=True) if r <= 0.3])
    _print("grey", grey)


def _images(file: Path) -> list[CocoImage]:
    """Return the images of a set that training may use."""
    split, images = Split("fold:0/5"), read_coco(file).images
    return [im for i, im in enumerate(images) if not split.holds_out(i, len(images))]


def _measure(entry: CocoImage) -> NDArray[np.float64]:
    """Return light, then optical density of each of `PARTS`, and share of pink: (5, 3)."""
    image = read_image(entry.path).astype(np.float32)
    valid = _without_letterbox(image)
    labels = np.zeros(image.shape[:2], np.int32)
    for k, annotation in enumerate(entry.annotations):
        if annotation.category == "nucleus":
            (x0, y0, x1, y1), inside = annotation.mask(labels.shape)
            labels[y0:y1, x0:x1][inside] = k + 1
    luminance = image.mean(2)
    bright = valid & (luminance > np.quantile(luminance[valid], 0.97) - 12)
    light = np.median(image[bright & (cv2.blur(np.ptp(image, axis=2), (9, 9)) < 40)], 0)
    od = -np.log(np.clip(image, 2, None) / light)
    near = cv2.dilate((labels > 0).astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    pixels = od[valid & ~near & (od.max(2) > 0.12)]
    lean = (pixels[:, 0] - pixels[:, 1]) / pixels.sum(1)
    cyan, pink = pixels[lean > 0.05], pixels[lean < -0.15]
    if len(cyan) + len(pink) == 0:  # grey
        cyan = pink = pixels
    parts = [np.quantile(p, 0.4, 0) if len(p) > 500 else np.zeros(3) for p in (cyan, pink)]
    share = len(pink) / (len(cyan) + len(pink))
    return np.stack([light, *parts, _nuclei(od, labels), np.full(3, share)])


def _without_letterbox(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Mark the pixels (h, w) that are not in a band of one colour at the border."""
    rows, columns = (np.flatnonzero(image.std(axis=(axis, 2)) > 6) for axis in (1, 0))
    valid = np.zeros(image.shape[:2], bool)
    valid[rows[0] + 6 : rows[-1] - 5, columns[0] + 6 : columns[-1] - 5] = True
    return valid


def _nuclei(od: NDArray[np.float32], labels: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the median density (3,) of the nuclei, less that of what surrounds each."""
    kernel = {n: np.ones((n, n), np.uint8) for n in (3, 5, 11)}
    nuclei = cv2.dilate((labels > 0).astype(np.uint8), kernel[5]) > 0
    found = []
    for k in np.unique(labels)[1:]:
        rows, columns = np.nonzero(labels == k)
        y, x = max(rows.min() - 8, 0), max(columns.min() - 8, 0)
        window = np.s_[y : rows.max() + 9, x : columns.max() + 9]
        mask = (labels[window] == k).astype(np.uint8)
        ring = (cv2.dilate(mask, kernel[11]) > 0) & ~nuclei[window]
        core = cv2.erode(mask, kernel[3]) > 0
        if core.sum() >= 6 and ring.sum() >= 10:
            found.append(np.median(od[window][core], 0) - np.median(od[window][ring], 0))
    return np.median(found, 0)


def _print(name: str, rows: list[NDArray[np.float64]]) -> None:
    """Print the row of one group: mean density, and deviation of ln of strength and of hue."""
    values = np.stack(rows)
    light = values[:, 0]
    share = values[:, 4, 0]
    print(f"{name}: {len(rows)} images, light {light.mean(0).round(1)} ± {light.std(0).round(1)}")
    print(
        f"    pink share {share.mean():.2f}, quartiles {np.quantile(share, [0.25, 0.75]).round(2)}"
    )
    for k, part in enumerate(PARTS, 1):
        seen = values[:, k][(values[:, k].max(1) > 0)]
        strength = np.log(seen.mean(1))
        hue = np.log(np.clip(seen, 0.02, None) / seen.mean(1, keepdims=True))
        print(
            f"    {part}: od {seen.mean(0).round(2)}, strength ± {strength.std():.2f}, "
            f"hue ± {hue.std(0).mean():.2f} ({len(seen)} images)"
        )


if __name__ == "__main__":
    main()
