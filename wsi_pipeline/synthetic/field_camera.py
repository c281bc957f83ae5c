"""Effects of microscope and camera on a field: light, focus, contrast, colour, JPEG."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.synthetic.stains import Style

__all__ = ["photograph", "photograph_as_real"]

Image = NDArray[np.float32]


def photograph(
    rng: np.random.Generator, pixels: NDArray[np.uint8], style: Style
) -> NDArray[np.uint8]:
    """Add the effects of microscope and camera: vignette, focus, contrast, tint, JPEG."""
    h, w = pixels.shape[:2]
    fy, fx = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    tilt = rng.normal(0, 0.03, 2)
    light = 1 + tilt[0] * fx + tilt[1] * fy
    light -= rng.choice([0, 0.06, 0.18], p=[0.5, 0.35, 0.15]) * (fx**2 + fy**2) / 2
    image = pixels.astype(np.float32) * light[..., None].astype(np.float32)
    sigma = rng.choice([0.0, rng.uniform(0.4, 1.0), rng.uniform(1.0, 2.0)], p=[0.5, 0.35, 0.15])
    if sigma > 0:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
        image += rng.normal(0, style.noise * 0.7, image.shape)
    gamma, gain = rng.lognormal(0, 0.12), rng.uniform(0.88, 1.05)
    image = 255 * gain * np.clip(image / 255, 0, None) ** gamma
    if style.monochrome:
        image = np.repeat(image.mean(2, keepdims=True), 3, 2)
    else:
        image *= rng.normal(1, 0.015, 3)
    result = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        quality = int(rng.integers(55, 95))
        _, code = cv2.imencode(".jpg", result, [cv2.IMWRITE_JPEG_QUALITY, quality])
        result = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8)
    return result


def photograph_as_real(
    rng: np.random.Generator, pixels: NDArray[np.uint8], style: Style, mpp: float
) -> NDArray[np.uint8]:
    """Add what real fields have besides: clipped light, sharpening, coarse pixels, strong JPEG."""
    image = _uneven_light(rng, pixels.astype(np.float32))
    image = _focus(rng, image, mpp)
    if rng.random() < 0.25:  # a smaller image, enlarged
        h, w = image.shape[:2]
        k = rng.uniform(0.45, 0.9)
        small = cv2.resize(image, (round(w * k), round(h * k)), interpolation=cv2.INTER_AREA)
        image = np.asarray(cv2.resize(small, (w, h), interpolation=cv2.INTER_CUBIC))
    if rng.random() < 0.35:  # sharpened by the camera
        soft = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.8, 1.6))
        image = image + (image - soft) * np.float32(rng.uniform(0.2, 1.2))
    image += rng.normal(0, style.noise * rng.uniform(0.2, 0.9), image.shape).astype(np.float32)
    low = rng.choice([0.0, rng.uniform(0, 35)], p=[0.6, 0.4])  # black that is not black
    gain = rng.uniform(0.93, 1.12)
    image = low + (255 * gain - low) * np.clip(image / 255, 0, 1) ** rng.lognormal(0, 0.13)
    if style.monochrome:
        image = np.repeat(image.mean(2, keepdims=True), 3, 2)
    else:
        image = _colour(rng, image)
    result = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    if rng.random() < 0.6:
        quality = int(rng.integers(40, 95))
        _, code = cv2.imencode(".jpg", result, [cv2.IMWRITE_JPEG_QUALITY, quality])
        result = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8)
    return result


def _uneven_light(rng: np.random.Generator, image: Image) -> Image:
    """Darken towards one side and the corners, sometimes more in one colour."""
    h, w = image.shape[:2]
    fy, fx = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    tilt = rng.normal(0, 0.04, 2)
    light = 1 + tilt[0] * fx + tilt[1] * fy
    light -= rng.choice([0, 0.06, 0.22], p=[0.5, 0.35, 0.15]) * (fx**2 + fy**2) / 2
    tint = rng.normal(0, rng.choice([0.0, 0.03]), 3) * (fx * rng.normal() + fy)[..., None]
    return np.asarray(image * (light[..., None] + tint), np.float32)


def _focus(rng: np.random.Generator, image: Image, mpp: float) -> Image:
    """Blur the whole field, or one side of it where the glass is tilted."""
    if rng.random() < 0.4:
        return image
    sigma = rng.choice([rng.uniform(0.1, 0.35), rng.uniform(0.35, 1.0)], p=[0.7, 0.3]) / mpp
    soft = cv2.GaussianBlur(image, (0, 0), max(sigma, 0.3))
    if rng.random() < 0.7:
        return np.asarray(soft, np.float32)
    h, w = image.shape[:2]
    fy, fx = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    turn = rng.uniform(0, 2 * np.pi)
    side = 1 / (1 + np.exp(-4 * (fx * np.cos(turn) + fy * np.sin(turn))))
    return np.asarray(image + (soft - image) * side[..., None], np.float32)


def _colour(rng: np.random.Generator, image: Image) -> Image:
    """Change white balance and saturation a little."""
    grey = image.mean(2, keepdims=True)
    return np.asarray(
        (grey + (image - grey) * rng.uniform(0.75, 1.2)) * rng.normal(1, 0.02, 3), np.float32
    )
