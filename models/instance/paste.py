"""From masks over boxes to masks over images, and the map by which cells weigh a second pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["attention", "paste"]


def paste(masks: Tensor, boxes: Tensor, size: tuple[int, int], stride: int = 1) -> Tensor:
    """Masks (k, m, m) over `boxes` (k, 4) in pixels → (k, rows, cols) of `size`, bilinear.

    `stride` is how many pixels a cell of the result is wide; its centre is what is looked up.
    Outside its box a mask is zero.
    """
    rows, cols = size
    x0, y0, x1, y1 = boxes.float().unbind(1)
    py = (torch.arange(rows, device=masks.device) + 0.5) * stride
    px = (torch.arange(cols, device=masks.device) + 0.5) * stride
    gy = (2 * (py - y0[:, None]) / (y1 - y0)[:, None] - 1)[:, :, None].expand(-1, -1, cols)
    gx = (2 * (px - x0[:, None]) / (x1 - x0)[:, None] - 1)[:, None, :].expand(-1, rows, -1)
    grid = torch.stack([gx, gy], 3)
    return F.grid_sample(masks[:, None].float(), grid, align_corners=False)[:, 0]


def attention(
    logits: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    stride: int,
    *,
    mode: str = "prob",
    floor: float = 0.0,
) -> Tensor:
    """Where cells are: mask logits (k, m, m) of one image → (rows, cols) of `size`.

    ``prob`` is the chance that any of the cells covers the place, 1 − Π(1 − pᵢ), lifted to
    `floor` … 1. ``code`` is what DoNet's code has: sigmoid of the sum of positive logits, 0.5 … 1.
    """
    if mode == "code":
        return paste(logits, boxes, size, stride).clamp(min=0).sum(0).sigmoid()
    p = paste(logits.float().sigmoid(), boxes, size, stride)
    # A sum of logarithms: the gradient of a product takes a slow road where a factor is zero.
    any_cell = 1 - torch.log1p(-p.clamp(max=1 - 1e-6)).sum(0).exp()
    return floor + (1 - floor) * any_cell
