"""Find where there are cells on the thumbnail of a slide.

The rule is made for cytology, where one faint cell may matter: everything that differs from the
local background is kept, with a margin. Only padding, black borders and the inside of pen strokes
are removed. Where the background is unclear everything is kept, and `Foreground.rule` has the
reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.errors import ConfigError
from wsi_pipeline.slides.foreground import Foreground

__all__ = [
    "BLACK",
    "CLEAR_SHARE",
    "DARK_OD",
    "FOREGROUND_MODES",
    "FULL_SHARE",
    "LIGHT_OD",
    "MARGIN_MASK_PX",
    "MARGIN_PX",
    "PEN_OD",
    "SMALL_SLIDE_PX",
    "SMOOTH",
    "find_foreground",
]


FOREGROUND_MODES = ("all", "auto")

SMALL_SLIDE_PX = 1500
"""Longest side, level 0, below which the whole slide is kept, since it takes little time."""

FULL_SHARE = 0.9
"""Share of the slide above which all of it is kept: the background was probably not found."""

MARGIN_PX = 120.0
"""Margin around the cells, level-0 pixels: 30 µm at 0.25 µm per pixel …"""

MARGIN_MASK_PX = 3.0
"""… but at least this many mask pixels."""

CLEAR_SHARE = 0.1
"""Smallest share of the pixels in the peak of a clear background."""

LIGHT_OD = 0.06
"""Largest variation of the light over a slide, optical density; more than that is cells."""

DARK_OD = 0.4
"""Optical density of the background above which a slide is not bright-field."""

BLACK = 50
"""Largest channel value of a black border."""

SMOOTH = 6.0
"""Largest local deviation of a black border, grey levels, …"""

PEN_OD = 0.04
"""… and of ink, optical density."""

_OD = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)


def find_foreground(
    image: NDArray[np.uint8], downsample: float, width: int, height: int, mode: str = "auto"
) -> Foreground:
    """Find where there are cells on a bright-field slide, from its thumbnail.

    A pixel is kept where its optical density, colour or texture differs from the local background
    by a multiple of the background's noise, which has a low upper limit; with a margin of at
    least 120 level-0 pixels. Padding, black borders and the smooth inside of pen strokes are
    removed. Everything is kept where the slide is small, the background is unclear, or more than
    0.9 of the slide would be kept.

    Parameters
    ----------
    image
        uint8 (rows, columns, 3): thumbnail of the whole slide, RGB
    downsample
        level-0 pixels per thumbnail pixel
    width, height
        size of the slide, level-0 pixels
    mode
        ``"auto"``, or ``"all"`` to keep everything

    Raises
    ------
    ConfigError
        `mode` is unknown
    ValueError
        the thumbnail is not RGB, or does not have the size of the slide
    """
    if mode not in FOREGROUND_MODES:
        raise ConfigError(f"foreground must be {' or '.join(FOREGROUND_MODES)}, got {mode!r}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"a thumbnail must be uint8 (h, w, 3), got {image.dtype} {image.shape}")

    def everything(why: str) -> Foreground:
        mask = np.ones(image.shape[:2], np.bool_)
        return Foreground(mask, downsample, width, height, f"everything: {why}")

    if mode == "all":
        return everything("as asked")
    if max(width, height) < SMALL_SLIDE_PX:
        return everything(f"slide under {SMALL_SLIDE_PX} px")
    nothing, removed = _surely_empty(image)
    try:
        evidence, threshold = _stained(image, ~nothing)
    except _UnclearError as unclear:
        return everything(str(unclear))
    margin = max(MARGIN_PX, MARGIN_MASK_PX * downsample)
    rule = f"optical density {threshold:.3f} above background, margin {margin:.0f} px{removed}"
    kept = Foreground(evidence & ~nothing, downsample, width, height, rule).dilate(margin)
    if not kept.mask.any():
        return everything("nothing differs from the background")
    if kept.share > FULL_SHARE:
        return everything(f"{kept.share:.0%} differs from the background")
    return kept


class _UnclearError(Exception):
    """The reason why background and cells cannot be separated."""


@dataclass(frozen=True)
class _Evidence:
    """Smallest height of cells above a map's background: `sigmas` × noise, in [floor, cap]."""

    sigmas: float
    floor: float
    cap: float

    def threshold(self, values: NDArray[np.float32]) -> float:
        """Return the threshold for the valid pixels of a map.

        The background is the peak of the histogram, and its noise the median absolute deviation
        below the peak, times 1.4826 as for a normal distribution. Raises `_UnclearError` where
        there is no such peak.
        """
        counts, edges = np.histogram(values, bins=600, range=(-0.2, 0.4))
        # Optical densities of 8-bit values leave bins empty, so the histogram is smoothed.
        peak = int(np.argmax(cv2.GaussianBlur(counts.astype(np.float32), (1, 9), 2)))
        mode = float(edges[peak] + edges[peak + 1]) / 2
        # Cells are darker than the background, so only its bright half has none.
        bright = mode - values[values < mode]
        noise = 1.4826 * float(np.median(bright)) if bright.size else 0.0
        spread = max(3 * noise, self.floor)
        if self.sigmas * noise > 2 * self.cap:
            raise _UnclearError(f"background too noisy, ±{noise:.3f} optical density")
        if mode > spread + 0.01 or np.mean(np.abs(values - mode) <= spread) < CLEAR_SHARE:
            raise _UnclearError("no clear background")
        return mode + min(max(self.sigmas * noise, self.floor), self.cap)


def _stained(image: NDArray[np.uint8], valid: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], float]:
    """Return the pixels that differ from the background (h, w), and the threshold of density."""
    if np.mean(valid) < CLEAR_SHARE:
        raise _UnclearError("too little of the thumbnail is usable")
    density = _OD[image]
    background = _background(density, valid)
    if float(np.median(background[valid].min(axis=1))) > DARK_OD:
        raise _UnclearError("background is not bright")
    density -= background
    smooth = cv2.blur(density, (3, 3))
    darkest = _most(smooth)
    threshold = _Evidence(5, 0.008, 0.05).threshold(darkest[valid])
    found = darkest > threshold
    for values, evidence in (
        (_most(density), _Evidence(6, 0.015, 0.06)),
        (darkest + _most(-smooth), _Evidence(6, 0.012, 0.05)),
        (_deviation(_grey(density)), _Evidence(8, 0.008, 0.04)),
    ):
        found |= values > evidence.threshold(values[valid])
    return found, threshold


def _background(density: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the optical density of the empty slide, smooth, per channel (h, w, 3).

    Each block gives a bright percentile of its valid pixels. A block that is darker than the
    brightest blocks by more than `LIGHT_OD` has no background and takes its neighbours' value.
    """
    rows, columns = valid.shape
    step = max(1, max(rows, columns) // 1024)
    thin = np.where(valid[::step, ::step, None], density[::step, ::step], np.inf)
    side = max(8, -(-max(thin.shape[:2]) // 32))
    down, across = (-(-n // side) for n in thin.shape[:2])
    pad = (down * side - thin.shape[0], across * side - thin.shape[1])
    thin = np.pad(thin, ((0, pad[0]), (0, pad[1]), (0, 0)), constant_values=np.inf)
    blocks = thin.reshape(down, side, across, side, 3).transpose(0, 2, 4, 1, 3)
    ordered = np.sort(blocks.reshape(down, across, 3, -1), axis=-1)
    counts = np.isfinite(ordered).sum(axis=-1, keepdims=True)
    level = np.take_along_axis(ordered, counts // 10, axis=-1)[..., 0]
    enough = counts[..., 0].min(axis=-1) >= min(side * side // 20, int(counts.max()))
    brightest = np.quantile(level[enough], 0.1, axis=0)
    open_ = enough & (level - brightest <= LIGHT_OD).all(axis=-1)
    level = np.where(open_[..., None], level, np.inf).astype(np.float32)
    level = cv2.erode(level, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_REPLICATE)
    known = np.isfinite(level).all(axis=-1).astype(np.float32)
    level = np.where(known[..., None] > 0, level, 0).astype(np.float32)
    total, weight = np.zeros_like(level), np.zeros_like(known)
    # The wider kernels have small weights: they only count far from any block with background.
    for sigma, share in ((1.0, 1.0), (8.0, 1e-4), (64.0, 1e-8)):
        total += share * cv2.GaussianBlur(level, (0, 0), sigma)
        weight += share * cv2.GaussianBlur(known, (0, 0), sigma)
    smooth = cv2.resize(
        total / weight[..., None], (across * side, down * side), interpolation=cv2.INTER_LINEAR
    )[: -(-rows // step), : -(-columns // step)]
    return np.asarray(cv2.resize(smooth, (columns, rows), interpolation=cv2.INTER_LINEAR))


def _surely_empty(image: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], str]:
    """Return the pixels that cannot be cells, whatever their colour (h, w), and their kinds."""
    found = {"padding": _padding(image), "border": _border(image), "pen": _pen(image)}
    words = [f"{name} {np.mean(mask):.1%}" for name, mask in found.items() if mask.any()]
    nothing = np.logical_or.reduce(list(found.values()))
    return nothing, ", without " + ", ".join(words) if words else ""


def _padding(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the pure white that a reader fills in where nothing was scanned; not bright glass."""
    least = 255 - _most(255 - image)
    white = least == 255
    side = max(3, max(white.shape) // 64)
    blocks = _open(white, side)
    scanned = ~white
    near = (least >= 252) & scanned
    # Overexposed glass has nearly white pixels beside it and shows between cells; padding does not.
    if (
        scanned.mean() < CLEAR_SHARE
        or near.sum() > 0.005 * scanned.sum()
        or (white & ~blocks).sum() > 0.005 * white.sum()
    ):
        return np.zeros_like(white)
    return blocks


def _border(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return smooth, nearly black areas along the edge of the image."""
    value = _most(image).astype(np.float32)
    deviation = _deviation(value)
    black = value <= BLACK
    _, labels, stats, _ = cv2.connectedComponentsWithStats(black.astype(np.uint8), connectivity=8)
    rows, columns = black.shape
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    along = np.bincount(edge, minlength=len(stats)) >= 0.05 * min(rows, columns)
    inner = cv2.erode(black.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    size = np.bincount(labels[inner], minlength=len(stats))
    rough = np.bincount(labels[inner & (deviation > SMOOTH)], minlength=len(stats))
    keep = along & (size >= 0.0005 * rows * columns) & (rough <= 0.05 * size)
    keep[0] = False
    return np.asarray(keep[labels])


def _pen(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the smooth inside of pen strokes, green or blue as no stain; spots in it are kept."""
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    green, blue = (hue >= 35) & (hue <= 80), (hue >= 100) & (hue <= 128)
    ink = _open((green | blue) & (saturation >= 153) & (value > BLACK), 5)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(ink.astype(np.uint8), connectivity=8)
    long = stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1) >= 0.03 * max(ink.shape)
    stroke = long & (stats[:, cv2.CC_STAT_AREA] >= 0.0005 * ink.size)
    stroke[0] = False
    grey = _grey(_OD[image])
    smooth = _deviation(grey) < PEN_OD
    usual = cv2.medianBlur((np.clip(grey, 0, 2.5) * 100).astype(np.uint8), 31) / 100
    return np.asarray(stroke[labels] & smooth & (np.abs(grey - usual) < 2 * PEN_OD))


def _open(mask: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """Return the part of `mask` that squares of `side` pixels inside it cover.

    The mask is continued beyond the edge of the image.
    """
    padded = np.pad(mask.astype(np.uint8), side, mode="edge")
    opened = cv2.morphologyEx(padded, cv2.MORPH_OPEN, np.ones((side, side), np.uint8))
    return np.asarray(opened[side:-side, side:-side] > 0)


def _most(channels: NDArray[Any]) -> NDArray[Any]:
    """Return the largest channel of each pixel (h, w); NumPy reduces an axis of three slowly."""
    return np.maximum(np.maximum(channels[..., 0], channels[..., 1]), channels[..., 2])


def _grey(channels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of the channels of each pixel (h, w)."""
    return np.asarray(cv2.transform(channels, np.full((1, 3), 1 / 3, np.float32)))


def _deviation(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the standard deviation of the 5 × 5 px around each pixel (h, w)."""
    variance = cv2.blur(values * values, (5, 5)) - cv2.blur(values, (5, 5)) ** 2
    return np.asarray(np.sqrt(np.maximum(variance, 0)))
