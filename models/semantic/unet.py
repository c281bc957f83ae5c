"""U-Net on an EfficientNet-Lite encoder: the accurate nucleus model.

Skips and decoder as in Ronneberger, Fischer and Brox, "U-Net", MICCAI 2015, with an encoder that
starts from ImageNet weights, which a few hundred annotated images cannot replace. The decoder ends
at half the image's scale; its last layer gives four values per class and position, which become
2×2 pixels (sub-pixel convolution, Shi et al. 2016). A decoder at full scale would cost as much as
all the rest. Network and loss are separate: `UNet`, `UNetLoss`; decoding is `dssnet.decode`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..norms import fold_norms
from ..settings import configure
from .config import UNetConfig
from .efficientnet_lite import STRIDE, EfficientNetLite

__all__ = ["UNet", "UNetLoss", "for_inference", "unchanged", "unet"]

DECODER_PX = 32
"""Context that the decoder needs, rounded up to a multiple of the stride: 16 + 8 + 4 px for the
two convolutions at strides 8, 4 and 2, and 2 px for the last layer."""


class _Merge(nn.Module):
    """Nearest ×2, the skip beside it, and two 3×3 convolutions with batch norm and ReLU."""

    def __init__(self, low: int, skip: int, cout: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(low + skip, cout, 3, padding=1, bias=False),
            nn.BatchNorm2d(cout),
            nn.ReLU(inplace=True),
            nn.Conv2d(cout, cout, 3, padding=1, bias=False),
            nn.BatchNorm2d(cout),
            nn.ReLU(inplace=True),
        )

    def forward(self, low: Tensor, skip: Tensor) -> Tensor:
        up = F.interpolate(low, scale_factor=2.0, mode="nearest")
        out: Tensor = self.layers(torch.cat([up, skip], 1))
        return out


class UNet(nn.Module):
    """RGB (n, 3, h, w), ``(x − 128) / 128``, h and w multiples of 16 → logits (n, classes, h, w).

    With a margin it returns the logits without so many pixels on each side, a multiple of 16. The
    decoder then skips what does not change the rest, which stays the same.

    Attributes
    ----------
    encoder
        the part that starts from ImageNet weights
    context_px
        no pixel farther away changes a result
    """

    stride = STRIDE

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = EfficientNetLite(config.encoder)
        *skips, low = self.encoder.channels
        merges = []
        for skip, cout in zip(reversed(skips), config.widths, strict=True):
            merges.append(_Merge(low, skip, cout))
            low = cout
        self.merges = nn.ModuleList(merges)
        self.head = nn.Conv2d(low, 4 * config.classes, 3, padding=1)
        self.context_px = self.encoder.context_px + DECODER_PX

    def forward(self, x: Tensor, margin: int = 0) -> Tensor:
        """See the class."""
        keep = min(margin, DECODER_PX)
        features = self.encoder(x)
        *skips, x = (
            _inner(feature, (margin - keep) // stride)
            for feature, stride in zip(features, self.encoder.strides, strict=True)
        )
        for merge in self.merges:
            x = merge(x, skips.pop())
        return _inner(F.pixel_shuffle(self.head(x), 2), keep)


def _inner(x: Tensor, margin: int) -> Tensor:
    """Cut so many pixels from each side of a map (n, c, h, w)."""
    return x[:, :, margin:-margin, margin:-margin] if margin else x


def unet(**options: Any) -> UNet:
    """Build U-Net with fresh weights; `options` are fields of `UNetConfig`.

    Raises
    ------
    ValueError
        an option that does not exist or cannot have that value

    Examples
    --------
    >>> network = unet(widths=(16, 8, 8)).eval()
    >>> network(torch.zeros(1, 3, 64, 48)).shape
    torch.Size([1, 2, 64, 48])
    """
    return UNet(configure(UNetConfig(), options))


def for_inference(network: nn.Module) -> nn.Module:
    """Fold batch norms into the convolutions, in place; the function stays the same."""
    fold_norms(network)
    return network.requires_grad_(False)


def unchanged(network: UNet) -> UNet:
    """Return the network: with its norms folded there is nothing left to rewrite."""
    return network


class UNetLoss(nn.Module):
    """Cross entropy + 0.5 · (1 − Dice), the Dice of all pixels that are not background."""

    def forward(
        self,
        logits: Tensor,
        image: Tensor,
        target: Tensor,
        edge_target: Tensor,
        pixel_weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the terms by name; their sum is minimised. Parameters as in `DSSLoss`."""
        logits = logits.float()
        loss = F.cross_entropy(logits, target, reduction="none")
        if pixel_weight is not None:
            loss = loss * pixel_weight
        known = target >= 0
        predicted = (1 - logits.softmax(1)[:, 0]) * known
        true = (target > 0).float()
        shared = (predicted * true).sum()
        dice = (2 * shared + 1) / (predicted.sum() + true.sum() + 1)
        return {
            "segmentation": loss.sum() / known.sum().clamp(min=1),
            "dice": 0.5 * (1 - dice),
        }
