"""Paste masks from their boxes into images; the map with which cells weigh DoNet's second pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Sum", "attention", "paste", "paste_sum", "paste_sum_in_boxes"]

Sum = Callable[[Tensor, Tensor, tuple[int, int], int, Callable[[Tensor], Tensor]], Tensor]


def paste(masks: Tensor, boxes: Tensor, size: tuple[int, int], stride: int = 1) -> Tensor:
    """Paste masks (k, m, m) over `boxes` (k, 4) in pixels: (k, rows, cols), bilinear.

    Parameters
    ----------
    size
        rows and columns of the result
    stride
        width of a cell of the result in pixels; the value is that at its centre

    Returns
    -------
    float32; outside its box a mask is zero
    """
    rows, cols = size
    x0, y0, x1, y1 = boxes.float().unbind(1)
    py = (torch.arange(rows, device=masks.device) + 0.5) * stride
    px = (torch.arange(cols, device=masks.device) + 0.5) * stride
    gy = (2 * (py - y0[:, None]) / (y1 - y0)[:, None] - 1)[:, :, None].expand(-1, -1, cols)
    gx = (2 * (px - x0[:, None]) / (x1 - x0)[:, None] - 1)[:, None, :].expand(-1, rows, -1)
    grid = torch.stack([gx, gy], 3)
    return F.grid_sample(masks[:, None].float(), grid, align_corners=False)[:, 0]


def paste_sum(
    masks: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    stride: int,
    of: Callable[[Tensor], Tensor],
) -> Tensor:
    """Apply `of` to the pasted masks, and sum them: (rows, cols)."""
    return of(paste(masks, boxes, size, stride)).sum(0)


def paste_sum_in_boxes(
    masks: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    stride: int,
    of: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return the same as `paste_sum`, computed only inside the boxes; `of` must keep zero."""
    rows, cols = size
    total = masks.new_zeros(rows * cols)
    if not len(masks):
        return total.view(size)
    low, side = boxes[:, None, :2], masks.shape[1]
    cell = (boxes[:, None, 2:] - low) / side
    # Up to half a cell outside its box a mask falls to zero.
    first = ((low - cell / 2) / stride - 0.5).ceil()
    reach = int(((side + 1) * cell.max() / stride).ceil()) + 1
    place = first + torch.arange(reach, device=boxes.device)[:, None]
    at = ((place + 0.5) * stride - low) / cell - 0.5
    near = at[..., None] - torch.arange(side, device=boxes.device)
    x, y = (1 - near.abs()).clamp(min=0).to(masks.dtype).unbind(2)
    pasted = of(y @ masks @ x.transpose(1, 2))
    limit = place.new_tensor([cols, rows])
    in_x, in_y = ((place >= 0) & (place < limit)).unbind(2)
    column, row = torch.minimum(place.clamp(min=0), limit - 1).long().unbind(2)
    index = row[:, :, None] * cols + column[:, None]
    seen = pasted * (in_y[:, :, None] & in_x[:, None])
    return total.index_add_(0, index.flatten(), seen.flatten()).view(size)


def attention(
    logits: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    stride: int,
    *,
    mode: str = "prob",
    floor: float = 0.0,
    summed: Sum = paste_sum,
) -> Tensor:
    """Return the map of cells, (rows, cols) of `size`, from mask logits (k, m, m) of one image.

    Parameters
    ----------
    mode
        ``prob``: probability that any of the cells covers the place, 1 − Π(1 − pᵢ), scaled to
        `floor` … 1. ``code``: as DoNet's code has it, the sigmoid of the sum of positive logits,
        0.5 … 1.
    floor
        least weight
    summed
        `paste_sum` or `paste_sum_in_boxes`
    """
    if mode == "code":
        return summed(logits, boxes, size, stride, lambda v: v.clamp(min=0)).sigmoid()
    # A sum of logarithms, since the gradient of a product is slow where a factor is zero.
    p = logits.float().sigmoid()
    free = summed(p, boxes, size, stride, lambda v: torch.log1p(-v.clamp(max=1 - 1e-6))).exp()
    return floor + (1 - floor) * (1 - free)
