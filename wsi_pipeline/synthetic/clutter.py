"""Densities that belong to no sprite: films, haze from other planes, long strands and smears."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.synthetic.cell_painter import OD_STEPS
from wsi_pipeline.synthetic.looks import Scene
from wsi_pipeline.synthetic.stains import Style

__all__ = ["add_clutter"]

Array = NDArray[np.float32]


def add_clutter(
    rng: np.random.Generator, canvas: NDArray[np.uint16], style: Style, scene: Scene, mpp: float
) -> NDArray[np.uint16]:
    """Return a field's summed densities × `OD_STEPS` (h, w, 3) with clutter; none is in the truth.

    Parameters
    ----------
    rng
        random generator
    canvas
        densities of cells and debris
    style, scene
        stain and preparation; direction of smears
    mpp
        µm per pixel
    """
    od: Array = np.asarray(canvas / np.float32(OD_STEPS), np.float32)
    rough = style.preparation != "liquid"
    if rng.random() < (0.45 if rough else 0.15):
        od = od + _other_plane(rng, od, mpp)
    if rng.random() < (0.7 if rough else 0.15):
        od = od + _film(rng, od.shape[:2], style, mpp)
    if rng.random() < (0.35 if rough else 0.08):
        od = od + _strands(rng, od.shape[:2], style, scene, mpp)
    return np.clip(np.rint(od * OD_STEPS), 0, 65535).astype(np.uint16)


def _noise(rng: np.random.Generator, shape: tuple[int, int], length: float) -> Array:
    """Return smooth noise (h, w), mean 0 and deviation 1, with grains of `length` pixels."""
    k = max(length / 4, 1.0)
    small = (max(4, math.ceil(shape[1] / k) + 4), max(4, math.ceil(shape[0] / k) + 4))
    field = rng.standard_normal(small[::-1], np.float32)
    field = cv2.GaussianBlur(field, (0, 0), 2.0 if k > 1 else max(length / 2, 0.4))
    field = (field - field.mean()) / max(float(field.std()), 1e-6)
    return np.asarray(cv2.resize(field, shape[::-1], interpolation=cv2.INTER_CUBIC), np.float32)


def _other_plane(rng: np.random.Generator, od: Array, mpp: float) -> Array:
    """Return cells far out of focus: the field itself, turned round and blurred."""
    turned = od[::-1, ::-1] if rng.random() < 0.5 else od[:, ::-1]
    sigma = rng.uniform(3, 9) / mpp
    k = max(1, int(sigma / 3))
    size = (math.ceil(od.shape[1] / k), math.ceil(od.shape[0] / k))
    small = cv2.resize(turned, size, interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(small, (0, 0), sigma / k)
    large = cv2.resize(soft, od.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(large * np.float32(rng.uniform(0.08, 0.38)), np.float32)


def _film(rng: np.random.Generator, shape: tuple[int, int], style: Style, mpp: float) -> Array:
    """Return dried protein and mucus, with fine grains and bacteria in it."""
    cover = np.clip(_noise(rng, shape, rng.uniform(25, 80) / mpp) + rng.uniform(-0.6, 1.5), 0, 2)
    fine = 1 + rng.uniform(0, 0.5) * _noise(rng, shape, rng.uniform(0.8, 3) / mpp)
    amount = cover * np.clip(fine, 0, 3) * rng.uniform(0.02, 0.1)
    weights = rng.dirichlet([0.4, 1.0, 0.5, 1.0])
    colour = (weights[:, None] * style.stains * [[0.12], [1], [0.5], [1]]).sum(0)
    od = amount[..., None] * colour * 1.5
    if rng.random() < 0.35:
        spots = np.clip(_noise(rng, shape, max(0.9 / mpp, 1.2)) - rng.uniform(1.3, 2.2), 0, 1)
        od = od + (spots * cover * rng.uniform(0.1, 0.4))[..., None] * style.stains[0]
    return np.asarray(od, np.float32)


def _strands(
    rng: np.random.Generator, shape: tuple[int, int], style: Style, scene: Scene, mpp: float
) -> Array:
    """Return long strands of mucus, or of crushed nuclei, along the direction of the smear."""
    h, w = shape
    crushed = rng.random() < 0.5
    canvas = np.zeros(shape, np.uint8)
    t = np.linspace(-1, 1, 60)
    reach = math.hypot(h, w) / 2
    c, s = math.cos(scene.direction), math.sin(scene.direction)
    middle = rng.uniform(0, 1, 2) * [w, h]
    for _ in range(int(rng.integers(3, 30))):
        length = reach * rng.uniform(0.1, 1.2)
        bow = rng.normal(0, 12 / mpp) * t**2 + rng.normal(0, 3 / mpp) * np.sin(4 * t)
        x = t * length + rng.normal(0, reach / 3)
        y = bow + rng.normal(0, 14 / mpp)
        path = np.stack([c * x - s * y, s * x + c * y], 1) + middle
        thick = max(1, round(rng.uniform(0.4, 3.0 if crushed else 1.5) / mpp))
        cv2.polylines(
            canvas, [path.astype(np.int32)], False, int(rng.integers(60, 255)), thick, cv2.LINE_AA
        )
    soft = cv2.GaussianBlur(canvas.astype(np.float32) / 255, (0, 0), rng.uniform(0.3, 1.2) / mpp)
    soft *= np.clip(1 + 0.5 * _noise(rng, shape, 8 / mpp), 0, 2)
    if crushed:
        od = soft[..., None] * style.stains[0] * style.nucleus * rng.uniform(0.2, 0.8)
    else:
        od = soft[..., None] * style.stains[rng.choice([1, 3])] * rng.uniform(0.05, 0.25)
    return np.asarray(od, np.float32)
