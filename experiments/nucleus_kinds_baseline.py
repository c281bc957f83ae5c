"""Abnormal against normal by logistic regression on shape, density and texture of Herlev cells.

    python experiments/nucleus_kinds_baseline.py work/herlev.npz

prints the AUC on each fold of 5 for numbers alone and with their products; `nucleus_kinds_data.py`
writes the crops. experiments/results/nucleus_kinds.md has what came out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from nucleus_kinds_data import ABNORMAL, load
from numpy.typing import NDArray
from wsiseg_models.kinds.train import middle

from wsi_pipeline.evaluation.suite_measures import rank_auc

_DENSITY = -np.log((np.arange(256) + 1) / 256).astype(np.float32)
_SQUARE = np.ones((3, 3), np.uint8)
STRENGTHS = (0.001, 0.01, 0.1)
"""Factors of the squared weights in the loss."""


def numbers(crop: NDArray[np.uint8]) -> list[float]:
    """Describe a nucleus by its crop: 25 numbers."""
    mask = crop[..., 3] > 127
    if mask.sum() < 4:
        mask = np.zeros(mask.shape, np.bool_)
        mask[30:34, 30:34] = True
    solid = mask.view(np.uint8)
    far, near = (cv2.dilate(solid, _SQUARE, iterations=n) > 0 for n in (8, 2))
    ring = next(zone for zone in (far & ~near, ~mask, mask) if zone.any())
    inner = cv2.erode(solid, _SQUARE) > 0
    inner = inner if inner.any() else mask
    density = _DENSITY[crop[..., :3]]
    grey = density.mean(2)
    fine = grey - cv2.GaussianBlur(grey, (0, 0), 2)
    edges = np.abs(cv2.Laplacian(grey, cv2.CV_32F))
    outlines, _ = cv2.findContours(solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(outlines, key=len)
    around = max(cv2.arcLength(outline, True), 1)
    hull = max(cv2.contourArea(cv2.convexHull(outline)), 1)
    area, axes = mask.sum(), np.linalg.eigvalsh(np.cov(np.nonzero(mask)) + 1e-3 * np.eye(2))
    return [
        np.log(area), np.log(axes[1] / axes[0]), np.log(around**2 / area), area / hull,
        *density[mask].mean(0), *density[ring].mean(0), *density.mean((0, 1)),
        grey[mask].std(), grey[inner].std(), grey[ring].std(),
        grey[mask].mean() - grey[ring].mean(),
        np.quantile(grey[mask], 0.9) - np.quantile(grey[mask], 0.1),
        edges[inner].mean(), fine[inner].std(), np.quantile(grey, 0.1), np.quantile(grey, 0.5),
        area * grey[mask].mean() / 4096,
    ]  # fmt: skip


def with_products(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return numbers (n, f) and the products of all pairs."""
    i, j = np.triu_indices(values.shape[1])
    return np.hstack([values, values[:, i] * values[:, j]])


def fitted(
    values: NDArray[np.float64], positive: NDArray[np.bool_], strength: float
) -> NDArray[np.float32]:
    """Return the weights of a logistic regression; both classes count the same."""
    x, y = torch.tensor(values).float(), torch.tensor(positive).float()
    share = torch.where(y > 0, 0.5 / y.mean(), 0.5 / (1 - y.mean()))
    weights = torch.zeros(x.shape[1] + 1, requires_grad=True)
    fit = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        fit.zero_grad()
        each = F.binary_cross_entropy_with_logits(
            x @ weights[:-1] + weights[-1], y, reduction="none"
        )
        total = (share * each).mean() + strength * (weights[:-1] ** 2).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    fit.step(loss)  # type: ignore[arg-type]
    return np.asarray(weights.detach()[:-1])


def main() -> None:
    """Print the AUC of every fold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("crops", type=Path, help="file with the crops of herlev40")
    cells = load(parser.parse_args().crops)
    values = np.array([numbers(crop) for crop in middle(cells.data.crops)])
    values = np.clip((values - values.mean(0)) / (values.std(0) + 1e-6), -4, 4)
    abnormal = cells.data.kinds == ABNORMAL
    for title, table in (("numbers", values), ("with products", with_products(values))):
        for strength in STRENGTHS:
            found = []
            for fold in range(5):
                learned = cells.group != fold
                weights = fitted(table[learned], abnormal[learned], strength)
                found.append(round(rank_auc(table[~learned] @ weights, abnormal[~learned]), 3))
            print(f"{title}, strength {strength}: AUC of folds 0 to 4 {found}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
