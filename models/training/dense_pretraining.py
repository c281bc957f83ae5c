"""Pretrain trunk and pyramid on maps; they need no proposals, so they are learned fast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .crops import targets_of
from .instance_data import CELL, NUCLEUS_LABEL, InstanceSample
from .normalise import Normal
from .validation import run_padded

__all__ = ["MAPS", "Dense", "dense_maps", "validate_dense"]

MAPS = ("nucleus", "cell", "overlap")


def dense_maps(target: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
    """Return maps, float (3, h, w): nucleus, cell, and two or more cells; `size` is (h, w)."""
    cells, nuclei = (
        (target["masks"][target["labels"] == label] > 0).sum(0)
        if (target["labels"] == label).any()
        else target["masks"].new_zeros(size, dtype=torch.int64)
        for label in (CELL, NUCLEUS_LABEL)
    )
    return torch.stack([nuclei > 0, cells > 0, cells > 1]).float()


def _known(target: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
    """Return 1 where the maps are known, else 0, float (1, h, w)."""
    if "unknown" not in target:
        return target["masks"].new_ones((1, *size), dtype=torch.float32)
    free = target["unknown"] == 0
    return (free | (target["masks"] > 0).any(0))[None].float()


class Dense(nn.Module):
    """The backbone of an instance network with one 1×1 head for all levels up to stride 32.

    Its weights have the same names as in the instance network, which can start from them. In
    training it returns losses by name, otherwise logits (n, 3, h/4, w/4).
    """

    def __init__(self, network: nn.Module, width: int) -> None:
        super().__init__()
        self.backbone = network.backbone
        self.dense = nn.Conv2d(width, len(MAPS), 1)

    def forward(
        self, images: Tensor, targets: Sequence[dict[str, Tensor]] = ()
    ) -> Tensor | dict[str, Tensor]:
        """See the class."""
        assert isinstance(self.backbone, nn.Module)
        levels = list(self.backbone(images).values())[:4]
        if not self.training:
            finest: Tensor = self.dense(levels[0])
            return finest
        size = (images.shape[2], images.shape[3])
        maps = torch.stack([dense_maps(t, size) for t in targets])
        known = torch.stack([_known(t, size) for t in targets])
        terms = []
        for level in levels:
            true = F.adaptive_avg_pool2d(maps, (level.shape[2], level.shape[3]))
            logits = self.dense(level).float()
            loss = F.binary_cross_entropy_with_logits(logits, true, reduction="none")
            weight = F.adaptive_avg_pool2d(known, (level.shape[2], level.shape[3]))
            terms.append((loss * weight).mean((0, 2, 3)))
        return dict(zip(MAPS, torch.stack(terms).mean(0).unbind(), strict=True))


def validate_dense(
    network: Dense, samples: Sequence[InstanceSample], normal: Normal
) -> dict[str, dict[str, float]]:
    """Return IoU of each map at 1/4 scale, per set."""
    counts: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.int64]]] = {}
    for sample in samples:
        logits = run_padded(network, sample.image, normal)[0]
        target = {k: torch.from_numpy(v) for k, v in targets_of(sample).items()}
        h, w = sample.image.shape[:2]
        maps = F.pad(dense_maps(target, (h, w)), (0, -w % 32, 0, -h % 32))
        true = F.avg_pool2d(maps, 4).numpy() >= 0.5
        mine = logits.float().cpu().numpy() > 0
        table = np.array([(true & mine).sum((1, 2)), (true | mine).sum((1, 2))])
        counts[sample.group] = counts.get(sample.group, 0) + table
    return {
        group: dict(zip(MAPS, (both / np.maximum(either, 1)).tolist(), strict=True))
        for group, (both, either) in counts.items()
    }
