"""DFANet A: three light Xception trunks in a row, each fed with the features of the one before.

Li, Xiong, Fan and Sun, "DFANet: Deep feature aggregation for real-time semantic segmentation", CVPR
2019, sections 3 and 4.1. Attention takes the mean of the whole map, so each result depends on the
whole image.

It has 1.82 million parameters here, 1.16 million of them in the fully connected layers of the three
attentions. Luo et al. 2022 print 2.02 million, and its own paper 7.8 million for DFANet A; neither
lists the layers that make the difference. What the paper leaves open is chosen here: batch norm
after each 1×1 convolution, a ReLU after each sum, 32 channels in the decoder.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..settings import configure
from .baseline_config import BaselineConfig
from .layers import Sized

__all__ = ["DFANET", "DFANet", "dfanet", "sees_all"]

DFANET = BaselineConfig(width=8)
"""The published channels (Xception A): 8, then 48, 96 and 192."""
BLOCKS = (4, 6, 4)
"""Number of blocks of each stage of a trunk."""
ATTENTION = 1000
"""Outputs of the fully connected layer of the attention, which are ImageNet's classes."""


def _separable(cin: int, cout: int, stride: int = 1) -> nn.Sequential:
    """Build a 3×3 convolution per channel, a 1×1 convolution, and batch norm."""
    return nn.Sequential(
        nn.Conv2d(cin, cin, 3, stride, 1, groups=cin, bias=False),
        nn.Conv2d(cin, cout, 1, bias=False),
        nn.BatchNorm2d(cout),
    )


def _point(cin: int, cout: int, stride: int = 1) -> nn.Sequential:
    """Build a 1×1 convolution with batch norm."""
    return nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))


class _Block(nn.Module):
    """Xception block: three separable convolutions, narrow, narrow and wide; residual."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        narrow = cout // 4
        self.layers = nn.Sequential(
            _separable(cin, narrow, stride),
            nn.ReLU(),
            _separable(narrow, narrow),
            nn.ReLU(),
            _separable(narrow, cout),
        )
        self.skip = nn.Identity() if stride == 1 else _point(cin, cout, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.skip(x) + self.layers(x))


def _stage(cin: int, cout: int, blocks: int) -> nn.Sequential:
    """Build one stage, whose first block halves the map."""
    return nn.Sequential(_Block(cin, cout, 2), *(_Block(cout, cout, 1) for _ in range(blocks - 1)))


class _Attention(nn.Module):
    """Weigh channels by the mean of their map, through a fully connected layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, ATTENTION), nn.Linear(ATTENTION, width))

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.layers(x.mean((2, 3)))
        return x * weight[:, :, None, None]


class _Trunk(nn.Module):
    """Three stages and attention; each stage also gets `more` channels of the trunk before."""

    def __init__(self, cin: int, widths: tuple[int, int, int], *, first: bool) -> None:
        super().__init__()
        more = (0, 0) if first else widths[1:]
        low, middle, high = widths
        inputs = (cin, low + more[0], middle + more[1])
        self.stages = nn.ModuleList(map(_stage, inputs, widths, BLOCKS))
        self.attention = _Attention(high)

    def forward(self, x: Tensor, before: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Return the outputs of the stages, and the last one weighed.

        Parameters
        ----------
        before
            outputs of the trunk before; each stage but the first gets the next one; or nothing
        """
        outputs: list[Tensor] = []
        for k, stage in enumerate(self.stages):
            x = stage(torch.cat([x, before[k]], 1) if before and k else x)
            outputs.append(x)
        return outputs, self.attention(x)


class DFANet(Sized):
    """RGB (n, 3, h, w), ``(x − 128) / 128``, sides multiples of 32 → logits (n, classes, h, w)."""

    contiguous_on_cpu = True

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        low, high = 6 * width, 24 * width
        widths = (low, 2 * low, high)
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.trunks = nn.ModuleList(
            _Trunk(cin, widths, first=k == 0)
            for k, cin in enumerate((width, high + low, high + low))
        )
        out = 4 * width
        self.fine = nn.ModuleList(_point(low, out) for _ in range(3))
        self.fused = _point(out, out)
        self.coarse = nn.ModuleList(_point(high, out) for _ in range(3))
        self.head = nn.Conv2d(out, config.classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        self.check(x)
        size = x.shape[-2:]
        x = self.stem(x)
        before: list[Tensor] = []
        fine: list[Tensor] = []
        coarse: list[Tensor] = []
        for trunk in self.trunks:
            before, weighed = trunk(x, before)
            fine.append(before[0])
            coarse.append(weighed)
            x = torch.cat([_resized(weighed, before[0].shape[-2:]), before[0]], 1)
        at = fine[0].shape[-2:]
        sums: list[Tensor] = []
        for points, maps in ((self.fine, fine), (self.coarse, coarse)):
            reduced = [F.relu(p(m)) for p, m in zip(points, maps, strict=True)]
            sums.append(torch.stack([_resized(r, at) for r in reduced]).sum(0))
        logits: Tensor = self.head(F.relu(self.fused(sums[0])) + sums[1])
        return _resized(logits, size)


def _resized(x: Tensor, size: torch.Size) -> Tensor:
    """Resize a map (n, c, h, w) to `size`, bilinear."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def sees_all(**options: Any) -> bool:
    """Return True: each result depends on the whole image."""
    return True


def dfanet(**options: Any) -> DFANet:
    """Build DFANet with fresh weights; `options` are fields of `BaselineConfig`.

    Raises
    ------
    ValueError
        an option that does not exist or cannot have that value

    Examples
    --------
    >>> dfanet().eval()(torch.zeros(1, 3, 64, 32)).shape
    torch.Size([1, 2, 64, 32])
    """
    config = configure(DFANET, options)
    if config.width < 8:
        # With fewer than 12 channels PyTorch 2.15 crashed in training on a CPU (channels last).
        raise ValueError(f"width {config.width} is below 8, the published one")
    return DFANet(config)
