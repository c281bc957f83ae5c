"""What the networks of this package share: sizes that they take, blocks, and a plain loss."""

from __future__ import annotations

from torch import Tensor, nn

from .dssnet import DSSLoss

__all__ = ["CrossEntropy", "Sized", "double_conv"]


class Sized(nn.Module):
    """A network whose images have sides that are multiples of its stride.

    Attributes
    ----------
    stride
        sides of images are multiples of this
    context_px
        no pixel farther away changes a result; 0 where every pixel does
    """

    stride = 32
    context_px = 0

    def check(self, x: Tensor) -> None:
        """Refuse images (n, 3, h, w) of other sizes.

        Raises
        ------
        ValueError
            a side is no multiple of the stride
        """
        h, w = x.shape[-2:]
        if h % self.stride or w % self.stride:
            raise ValueError(
                f"an image of {w} x {h} px; its sides must be multiples of {self.stride}"
            )


def double_conv(cin: int, cout: int) -> nn.Sequential:
    """Build two 3×3 convolutions, each with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for width in (cin, cout):
        layers += [nn.Conv2d(width, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ReLU()]
    return nn.Sequential(*layers)


class CrossEntropy(nn.Module):
    """Cross entropy of the pixels alone, weighed as in `DSSLoss`."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = DSSLoss()

    def forward(
        self,
        logits: Tensor,
        image: Tensor,
        target: Tensor,
        edge_target: Tensor,
        pixel_weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the term by name. Parameters as in `DSSLoss`."""
        output = (logits, None, None)
        terms: dict[str, Tensor] = self.loss(output, image, target, edge_target, pixel_weight)
        return terms
