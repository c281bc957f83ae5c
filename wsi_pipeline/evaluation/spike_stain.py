"""Measure the stain of a slide, without a model, so that cells can be painted in it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from wsiseg_models.stain import measure_stain

from wsi_pipeline.core.errors import DataError
from wsi_pipeline.synthetic.stains import Style

__all__ = ["SlideStain", "dark_spots", "grey_density", "measure_slide", "style_of"]

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]
Three = tuple[float, float, float]

LEAST_SPOTS = 5
"""Nuclei that are needed to measure their stain."""
SPOT_UM2 = (20.0, 200.0)
"""Areas of spots that count as nuclei: those of The Bethesda System, and dysplastic ones."""
WIDEST_UM = 18.0
"""Dark places wider than this are no nuclei."""
LEAST_ROUND = 0.75
"""Least area of a spot over that of the ellipse in its bounding box."""
LEAST_PX = 500
"""Pixels of a colour that are needed to measure it."""
USUAL_CHROMATIN, USUAL_THICKNESS = 0.8, 0.25
"""Means of `CellKind.chromatin` and `CellKind.thickness`, to which the densities belong."""


@dataclass(frozen=True)
class SlideStain:
    """Stain and focus of one slide. Densities are −log10(value ÷ glass) of red, green and blue.

    Attributes
    ----------
    glass
        red, green and blue of empty glass
    stained
        least mean density of a pixel that is stained
    green, pink
        one layer of cyanophilic and of eosinophilic cytoplasm
    pink_share
        share of eosinophilic pixels in the cytoplasm
    nucleus
        a nucleus, without the cytoplasm over and under it
    spot_contrast
        least mean density of a dark spot above what is around it
    blur_um
        blur of the nuclei's edges, standard deviation
    spots
        number of nuclei that were measured
    """

    glass: Three
    stained: float
    green: Three
    pink: Three
    pink_share: float
    nucleus: Three
    spot_contrast: float
    blur_um: float
    spots: int


def grey_density(image: Image, glass: Three) -> tuple[Floats, Floats]:
    """Return the optical density of an image (h, w, 3), and its mean over the channels (h, w)."""
    value = np.maximum(image, 1).astype(np.float32)
    density = np.maximum(np.log10(np.asarray(glass, np.float32) / value), 0)
    return density, density.mean(axis=2)


def _contrast(grey: Floats, mpp: float) -> Floats:
    """Return the density above that of the surroundings: of dark places up to `WIDEST_UM` wide."""
    side = max(3, round(WIDEST_UM / mpp)) | 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    smooth = cv2.GaussianBlur(grey, (0, 0), max(0.3, 0.3 / mpp))
    return np.asarray(smooth - cv2.morphologyEx(smooth, cv2.MORPH_OPEN, disc), np.float32)


def dark_spots(grey: Floats, stain: SlideStain, mpp: float) -> NDArray[np.bool_]:
    """Return the pixels of small dark places, nuclei among them, bool (h, w)."""
    return _contrast(grey, mpp) > stain.spot_contrast


def measure_slide(images: Sequence[Image], mpp: float) -> SlideStain:
    """Measure the stain in fields of a slide.

    Nuclei are small, dark, compact spots, found by an opening of the optical density and Otsu's
    threshold, whatever the model under test finds. Their density is that of their inside above that
    of a ring around them, the median of all.

    Parameters
    ----------
    images
        fields uint8 (h, w, 3)
    mpp
        µm per pixel of the fields

    Raises
    ------
    DataError
        the fields show too few nuclei
    """
    pixels = np.concatenate([image.reshape(-1, 3)[:: max(1, len(images))] for image in images])
    found = measure_stain(pixels)
    if found is None or found.density is None:
        raise DataError("too little of the slide is stained to measure its stain; give another one")
    pairs = [grey_density(image, found.glass) for image in images]
    contrasts = [_contrast(grey, mpp) for _, grey in pairs]
    stained = 0.25 * float(np.mean(found.density))
    limit = _otsu(
        np.concatenate([c[g > stained] for c, (_, g) in zip(contrasts, pairs, strict=True)])
    )
    masks = [contrast > limit for contrast in contrasts]
    spots = [s for pair, mask in zip(pairs, masks, strict=True) for s in _spots(*pair, mask, mpp)]
    if len(spots) < LEAST_SPOTS:
        raise DataError(
            f"{len(spots)} nuclei were seen in {len(images)} fields, {LEAST_SPOTS} are needed to "
            "measure their stain; check the pixel size (--mpp), or give a slide with more cells"
        )
    nucleus, blur = (
        np.median([s[0] for s in spots], axis=0),
        float(np.median([s[1] for s in spots])),
    )
    green, pink, share = _cytoplasm(pairs, masks, stained, mpp, nucleus)
    # A pixel blurs an edge by itself; half of its side is left out.
    blur = math.sqrt(max(blur**2 - (0.5 * mpp) ** 2, 0.01))
    return SlideStain(
        found.glass, stained, green, pink, share, _three(nucleus), limit, blur, len(spots)
    )


def _otsu(values: Floats) -> float:
    """Return Otsu's threshold of densities, at least 0.03."""
    scaled = np.clip(values * 255, 0, 255).astype(np.uint8)
    limit, _ = cv2.threshold(scaled[None], 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return max(limit / 255, 0.03)


def _spots(
    density: Floats, grey: Floats, mask: NDArray[np.bool_], mpp: float
) -> Iterator[tuple[NDArray[np.float64], float]]:
    """Yield density (3,) and blur, in µm, of each spot that looks like a nucleus."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    smooth = cv2.GaussianBlur(grey, (0, 0), 0.5)
    slope = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    slope /= 8 * mpp
    out = max(2, round(1.5 / mpp))
    for k in range(1, count):
        x, y, w, h, area = (int(v) for v in stats[k])
        compact = area / (math.pi / 4 * w * h) >= LEAST_ROUND and max(w, h) <= 2 * min(w, h)
        if not (SPOT_UM2[0] <= area * mpp**2 <= SPOT_UM2[1] and compact):
            continue
        rows, columns = (
            slice(max(0, y - 2 * out), y + h + 2 * out),
            slice(max(0, x - 2 * out), x + w + 2 * out),
        )
        own = (labels[rows, columns] == k).astype(np.uint8)
        near = cv2.dilate(own, np.ones((2 * out - 1, 2 * out - 1), np.uint8))
        far = cv2.dilate(own, np.ones((4 * out - 1, 4 * out - 1), np.uint8))
        ring = (far > near) & ~mask[rows, columns]
        inner = cv2.erode(own, np.ones((3, 3), np.uint8)) > 0
        if ring.sum() < 20 or inner.sum() < 5:
            continue
        part = density[rows, columns]
        above = np.median(part[inner], axis=0) - np.median(part[ring], axis=0)
        steepest = float(np.percentile(slope[rows, columns][near > 0], 95))
        if above.mean() > 0 and steepest > 0:
            yield above, float(above.mean()) / (steepest * math.sqrt(2 * math.pi))


def _cytoplasm(
    pairs: Sequence[tuple[Floats, Floats]], masks: Sequence[NDArray[np.bool_]], stained: float,
    mpp: float, nucleus: NDArray[np.float64],
) -> tuple[Three, Three, float]:  # fmt: skip
    """Return density of green and of pink cytoplasm, and the share of pink pixels.

    One layer of cells is the paler half of what is stained outside of nuclei.
    """
    wide = np.ones((max(3, round(3 / mpp)),) * 2, np.uint8)
    seen = []
    for (density, grey), mask in zip(pairs, masks, strict=True):
        beside = cv2.dilate(mask.astype(np.uint8), wide) == 0
        seen.append(density[beside & (grey > stained)])
    values = np.concatenate(seen)
    if len(values) < LEAST_PX:  # bare nuclei
        pale = _three(nucleus * 0.2)
        return pale, pale, 0.5
    mean = values.mean(axis=1)
    layer = values[mean <= np.median(mean)]
    pink = layer[:, 1] > layer[:, 0]
    parts = [layer[chosen] for chosen in (~pink, pink)]
    colours = [_three((p if len(p) >= LEAST_PX else layer).mean(axis=0)) for p in parts]
    return colours[0], colours[1], round(float(pink.mean()), 4)


def _three(values: NDArray[np.floating]) -> Three:
    red, green, blue = (round(max(float(v), 0.0), 4) for v in values)
    return red, green, blue


def style_of(stain: SlideStain) -> Style:
    """Return the style in which the cells of a slide are painted."""
    nucleus, pink, green = (
        np.array(colour) * math.log(10) / usual
        for colour, usual in (
            (stain.nucleus, USUAL_CHROMATIN),
            (stain.pink, USUAL_THICKNESS),
            (stain.green, USUAL_THICKNESS),
        )
    )
    return Style(
        stains=np.stack([nucleus, pink, pink, green]).astype(np.float32),
        white=stain.glass,
        nucleus=1.0,
        cytoplasm=1.0,
        eosin=stain.pink_share / 0.35,  # kinds have about this share of pink cells
        blur_um=stain.blur_um,
        noise=0.0,
        shade=0.0,
    )
