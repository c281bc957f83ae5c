"""Batches of augmented crops: with classes per pixel, and with one mask per instance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from .augment import Augmentation
from .cell_pasting import Clusters, add_cell, cut, free_cells
from .instance_data import InstanceSample, warp
from .semantic_data import IGNORE, Sample, contacts, edge_target

__all__ = [
    "Crops",
    "InstanceBatch",
    "InstanceCrops",
    "targets_of",
]

Batch = tuple[
    NDArray[np.uint8],
    NDArray[np.int64],
    NDArray[np.float32],
    NDArray[np.float32],
    NDArray[np.float32],
]
"""Images (n, h, w, 3), targets (n, h, w), edges (n, 1, h/2, w/2), pixel weights (n, h, w), and the
teacher's part (n, 1 + k, h, w): weight, then the probability of each class; (n, 0, h, w) without a
teacher."""

InstanceBatch = tuple[NDArray[np.uint8], list[dict[str, NDArray[np.generic]]]]
"""Images (n, h, w, 3); for each boxes (k, 4), labels (k,), masks (k, h, w), and perhaps unknown
(h, w)."""

STRIDE = 32

GAP_PX = 2
"""Depth, in model pixels, to which a nucleus that touches another is learned as background."""
GAP_WEIGHT = 5.0
"""Weight of the pixels around such a gap."""


def targets_of(sample: InstanceSample) -> dict[str, NDArray[np.generic]]:
    """Return the target of an image: boxes float32 xyxy, labels int64, masks uint8.

    With ``unknown`` uint8 (h, w) where the sample has it.
    """
    masks = np.zeros((len(sample), *sample.image.shape[:2]), np.uint8)
    for i, mask in enumerate(sample.masks):
        sample.view(masks[i], i)[:] = mask
    target: dict[str, NDArray[np.generic]] = {
        "boxes": sample.windows.astype(np.float32),
        "labels": sample.labels.astype(np.int64),
        "masks": masks,
    }
    if sample.unknown is not None:
        target["unknown"] = sample.unknown.astype(np.uint8)
    return target


class InstanceCrops(Dataset[InstanceBatch]):
    """Batches of augmented crops, one per step.

    Step s draws from its own generator, so a resumed run gets the crops of an uninterrupted one.

    Parameters
    ----------
    scales
        factors, of which each step draws one; crops and content of that step are enlarged by it
        (multi-scale training)
    """

    def __init__(
        self,
        samples: Sequence[InstanceSample],
        chances: NDArray[np.float64],
        *,
        size: int,
        batch: int,
        seed: int,
        augmentation: Augmentation,
        clusters: Clusters | None = None,
        scales: Sequence[float] = (1.0,),
    ) -> None:
        self.samples, self.chances = samples, chances
        self.size, self.batch, self.seed = size, batch, seed
        self.augmentation, self.clusters = augmentation, clusters or Clusters()
        self.scales = scales
        self.donors: list[tuple[int, int]] = []
        if self.clusters.chance > 0:
            self.donors = [(k, int(i)) for k, s in enumerate(samples) for i in free_cells(s)]

    def __getitem__(self, step: int) -> InstanceBatch:
        rng = np.random.default_rng((self.seed, step))
        scale = float(rng.choice(self.scales))
        size = max(STRIDE, round(self.size * scale / STRIDE) * STRIDE)
        images = np.empty((self.batch, size, size, 3), np.uint8)
        targets = []
        for i, k in enumerate(rng.choice(len(self.samples), self.batch, p=self.chances)):
            scene = self.scene(self.samples[k], size, scale, rng)
            images[i] = self.augmentation.colour(scene.image, rng)
            targets.append(targets_of(scene))
        return images, targets

    def scene(
        self, sample: InstanceSample, size: int, scale: float, rng: np.random.Generator
    ) -> InstanceSample:
        """Return a turned, zoomed crop of `sample`, at random with cells of others pasted on it."""
        h, w = sample.image.shape[:2]
        x0, y0, x1, y1 = sample.windows.T
        centres = np.stack([y0 + y1, x0 + x1], 1) // 2
        scene = warp(
            sample, self.augmentation.place(h, w, size, rng, lambda: centres, zoom=scale), size
        )
        if not self.donors or rng.random() >= self.clusters.chance:
            return scene
        for _ in range(rng.integers(1, self.clusters.most + 1)):
            donor, cell = self.donors[rng.integers(len(self.donors))]
            cut_out = cut(self.samples[donor], cell, rng, self.clusters)
            if cut_out is not None:
                scene = add_cell(scene, cut_out, rng, self.clusters)
        return scene


class Crops(Dataset[Batch]):
    """Batches of augmented crops, one per step.

    Where nuclei touch, a gap of depth `GAP_PX` is learned as background, and the pixels around it
    have weight `GAP_WEIGHT`, so that the network separates the nuclei; not without `gaps`.
    Step s draws from its own generator, so a resumed run gets the crops of an uninterrupted one.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        chances: NDArray[np.float64],
        *,
        size: int,
        batch: int,
        seed: int,
        augmentation: Augmentation,
        gaps: bool = True,
    ) -> None:
        self.samples, self.chances = samples, chances
        self.size, self.batch, self.seed = size, batch, seed
        self.augmentation, self.gaps = augmentation, gaps
        self.planes = max((len(s.teacher) for s in samples if s.teacher is not None), default=0)

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, step))
        n, size = self.batch, self.size
        images = np.empty((n, size, size, 3), np.uint8)
        targets = np.empty((n, size, size), np.int64)
        edges = np.empty((n, 1, size // 2, size // 2), np.float32)
        weights = np.empty((n, size, size), np.float32)
        soft = np.zeros((n, self.planes, size, size), np.float32)
        for i, k in enumerate(rng.choice(len(self.samples), n, p=self.chances)):
            sample = self.samples[k]
            image, labels, planes = self.augmentation.crop(sample, size, rng)
            images[i] = self.augmentation.colour(image, rng)
            known = sample.classes[np.maximum(labels, 0)].astype(np.int64)
            targets[i] = np.where(labels < 0, IGNORE, known)
            weights[i] = 1
            if self.gaps:
                targets[i][contacts(labels, GAP_PX) & (labels >= 0)] = 0
                weights[i][contacts(labels, GAP_PX + 1)] = GAP_WEIGHT
            edges[i, 0] = edge_target(labels)
            if planes is not None:
                soft[i, 0] = sample.teacher_weight * (planes[0] == 255)
                soft[i, 1:] = planes[1:] / np.float32(255)
        return images, targets, edges, weights, soft
