"""Normalisation of images, the same in training, validation and inference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Normal"]


class Normal:
    """Normalise images: uint8 (n, h, w, 3) to float32 (n, 3, h, w), ``(x − mean) / std``.

    Parameters
    ----------
    mean, std
        one number, or one per channel
    device
        device of the result
    memory_format
        memory format of the result
    """

    def __init__(
        self,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        device: str,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        self.mean, self.std = (
            torch.tensor(v, dtype=torch.float32, device=device).view(-1, 1, 1) for v in (mean, std)
        )
        self.device, self.memory_format = device, memory_format

    def __call__(self, images: Tensor) -> Tensor:
        """Return what the network gets."""
        x = images.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()
        return ((x - self.mean) / self.std).contiguous(memory_format=self.memory_format)
