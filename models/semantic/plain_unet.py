"""U-Net as first published, with padded convolutions: the reference that DSSNet is measured by.

Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
MICCAI 2015, figure 1. Padding keeps the shape, so that tiles of any multiple of 16 px go in.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["UNet", "unet"]


def _block(cin: int, cout: int) -> nn.Sequential:
    """Two 3×3 convolutions, each with ReLU."""
    return nn.Sequential(
        nn.Conv2d(cin, cout, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(cout, cout, 3, padding=1),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """RGB (n, 3, h, w), h and w multiples of 2 ** depth → logits (n, classes, h, w)."""

    def __init__(self, classes: int, width: int, depth: int) -> None:
        super().__init__()
        widths = [width * 2**k for k in range(depth + 1)]
        self.down = nn.ModuleList(map(_block, [3, *widths[:-1]], widths))
        pairs = list(zip(widths[1:], widths[:-1], strict=True))[::-1]
        self.up = nn.ModuleList(nn.ConvTranspose2d(low, high, 2, 2) for low, high in pairs)
        self.merge = nn.ModuleList(_block(low, high) for low, high in pairs)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        kept: list[Tensor] = []
        for level in self.down:
            x = level(F.max_pool2d(x, 2) if kept else x)
            kept.append(x)
        kept.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([kept.pop(), up(x)], 1))
        logits: Tensor = self.head(x)
        return logits


def unet(*, classes: int = 2, width: int = 64, depth: int = 4) -> UNet:
    """Build the plain U-Net; as published it has 31.0 million parameters.

    Parameters
    ----------
    classes
        background included
    width
        channels at full resolution; each halving doubles them, 64 to 1024
    depth
        number of halvings of the image
    """
    if classes < 1 or width < 1 or depth < 1:
        raise ValueError(
            f"classes {classes}, width {width}, depth {depth}: each is at least 1; "
            "the published network has 2, 64 and 4"
        )
    return UNet(classes, width, depth)
