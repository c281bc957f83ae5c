"""ERFNet: an encoder of factorised, dilated residual blocks and a small decoder.

Romera, Álvarez, Bergasa and Arroyo, "ERFNet: Efficient residual factorized ConvNet for real-time
semantic segmentation", IEEE T-ITS 2018, table I. As published it has 2.06 million parameters with
the 20 classes of Cityscapes; with 2 classes it has 2.06 million too, for the last layer is small.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..settings import configure
from .baseline_config import BaselineConfig
from .layers import Sized

__all__ = ["ERFNET", "ERFNet", "erfnet"]

ERFNET = BaselineConfig(width=16)
"""The published channels: 16, 64 and 128."""
DILATIONS = (2, 4, 8, 16)
"""Dilation of the second half of each block at 1/8 scale; the blocks come twice."""


class _Down(nn.Module):
    """Halve a map: a convolution of stride 2 beside max-pooling, then batch norm and ReLU."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout - cin, 3, 2, 1)
        self.norm = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(torch.cat([self.conv(x), F.max_pool2d(x, 2)], 1)))


class _Factorised(nn.Module):
    """Residual block of two 3×3 convolutions, each as 3×1 and 1×3 (non-bottleneck-1D)."""

    def __init__(self, width: int, dropout: float = 0.0, dilation: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for d in (1, dilation):
            layers += [
                nn.Conv2d(width, width, (3, 1), padding=(d, 0), dilation=(d, 1)),
                nn.ReLU(),
                nn.Conv2d(width, width, (1, 3), padding=(0, d), dilation=(1, d)),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers[:-1], nn.Dropout2d(dropout))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.layers(x))


def _up(cin: int, cout: int) -> nn.Sequential:
    """Build what doubles a map, and two blocks after it."""
    return nn.Sequential(
        nn.ConvTranspose2d(cin, cout, 3, 2, 1, output_padding=1),
        nn.BatchNorm2d(cout),
        nn.ReLU(),
        _Factorised(cout),
        _Factorised(cout),
    )


class ERFNet(Sized):
    """RGB (n, 3, h, w), ``(x − 128) / 128``, h and w multiples of 8 → logits (n, classes, h, w)."""

    stride = 8
    context_px = 624

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.config = config
        low, middle, high = config.width, 4 * config.width, 8 * config.width
        self.encoder = nn.Sequential(
            _Down(3, low),
            _Down(low, middle),
            *(_Factorised(middle, 0.03) for _ in range(5)),
            _Down(middle, high),
            *(_Factorised(high, 0.3, d) for d in DILATIONS * 2),
        )
        self.decoder = nn.Sequential(
            _up(high, middle), _up(middle, low), nn.ConvTranspose2d(low, config.classes, 2, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        self.check(x)
        logits: Tensor = self.decoder(self.encoder(x))
        return logits


def erfnet(**options: Any) -> ERFNet:
    """Build ERFNet with fresh weights; `options` are fields of `BaselineConfig`.

    Raises
    ------
    ValueError
        an option that does not exist or cannot have that value

    Examples
    --------
    >>> erfnet(width=4).eval()(torch.zeros(1, 3, 64, 40)).shape
    torch.Size([1, 2, 64, 40])
    """
    config = configure(ERFNET, options)
    if config.width < 4:
        raise ValueError(f"width {config.width} is below 4, for three channels are the image's")
    return ERFNet(config)
