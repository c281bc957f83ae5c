"""Random changes of geometry, stain, light and focus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..settings import setting
from .semantic_data import Sample

__all__ = ["Augmentation"]


@dataclass(frozen=True)
class Augmentation:
    """Change geometry, stain, light and focus at random; strongly, since laboratories differ."""

    scale: float = setting(
        1.3,
        "Zoom crops in or out at random by up to this factor; 1: not at all.",
        flags=("--zoom",),
    )
    stain: float = setting(1.0, "Set the strength of random changes of stain; 0: none.")
    grey: float = setting(0.15, "Show this share of the crops in grey.")
    blur: float = setting(0.3, "Blur this share of the crops.")

    def __post_init__(self) -> None:
        if self.scale < 1 or self.stain < 0 or not 0 <= self.grey <= 1 or not 0 <= self.blur <= 1:
            raise ValueError(
                f"augmentation with zoom {self.scale:g}, stain {self.stain:g}, grey {self.grey:g} "
                f"and blur {self.blur:g}: zoom must be 1 or more, stain 0 or more, grey and blur "
                "within 0 and 1"
            )

    def place(
        self,
        h: int,
        w: int,
        size: int,
        rng: np.random.Generator,
        inside: Callable[[], NDArray[np.integer]],
        *,
        zoom: float = 1.0,
    ) -> NDArray[np.float64]:
        """Draw where a crop lies in an image: the matrix (2, 3) from crop to image pixels.

        Parameters
        ----------
        h, w
            size of the image
        size
            side of the crop
        inside
            gives points (row, col); half of the crops lie near one of them
        zoom
            factor by which the crop is enlarged besides the random zoom
        """
        zoom *= self.scale ** rng.uniform(-1, 1)
        angle = rng.uniform(0, 2 * np.pi)
        flip = 1 if rng.random() < 0.5 else -1
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
        turn[:, 0] *= flip
        centre = np.array([rng.uniform(0, w), rng.uniform(0, h)])
        points = inside() if rng.random() < 0.5 else np.zeros((0, 2))
        if len(points):
            centre = points[rng.integers(len(points)), ::-1] + rng.uniform(-0.35, 0.35, 2) * size
        if size / zoom < min(h, w):  # keep the crop on the image where it fits
            reach = size / zoom / 2
            centre = np.clip(centre, reach, np.array([w, h]) - reach)
        return np.hstack([turn, (centre - turn @ np.full(2, size / 2)).reshape(2, 1)])

    def crop(
        self, sample: Sample, size: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.uint8] | None]:
        """Return a turned, scaled, mirrored crop (size, size): image, labels, teacher's map."""
        h, w = sample.labels.shape
        matrix = self.place(h, w, size, rng, lambda: np.argwhere(sample.nuclei()))

        def warped(pixels: NDArray[Any], way: int) -> NDArray[Any]:
            return cv2.warpAffine(
                pixels, matrix, (size, size), flags=way | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REFLECT_101,
            )  # fmt: skip

        image = warped(sample.image, cv2.INTER_LINEAR).astype(np.uint8)
        labels = warped(sample.labels, cv2.INTER_NEAREST).astype(np.int32)
        if sample.teacher is None:
            return image, labels, None
        planes = np.stack([warped(plane, cv2.INTER_LINEAR) for plane in sample.teacher])
        return image, labels, planes.astype(np.uint8)

    def colour(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Imitate another stain and camera: mix and scale densities, change light, focus, noise.

        Densities are −log of the transmitted light (Beer–Lambert), in which stains add up.
        """
        density = -np.log((image.astype(np.float32) + 1) / 256)
        if rng.random() < self.grey:
            density[:] = density @ rng.dirichlet(np.ones(3)).astype(np.float32)[:, None]
        else:
            mix = np.eye(3) + self.stain * rng.normal(0, 0.12, (3, 3))
            if rng.random() < 0.15:  # another dye altogether
                mix = mix[rng.permutation(3)]
            density = np.maximum(density @ mix.astype(np.float32), 0)
        density *= float(np.exp(self.stain * rng.normal(0, 0.25)))
        density += rng.uniform(-0.05, 0.25, 3).astype(np.float32) * (rng.random() < 0.5)
        out = 256 * np.exp(-np.maximum(density, 0)) - 1
        out = 255 * (np.clip(out, 0, 255) / 255) ** float(np.exp(rng.normal(0, 0.15)))
        if rng.random() < self.blur:
            out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.4, 1.3))
        out += rng.uniform(0, 6) * rng.standard_normal(out.shape, np.float32)
        out8 = np.clip(out, 0, 255).astype(np.uint8)
        if rng.random() < 0.3:
            _, data = cv2.imencode(
                ".jpg", out8, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 95))]
            )
            out8 = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
        return out8
