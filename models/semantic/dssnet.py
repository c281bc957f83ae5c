"""DSSNet: real-time nucleus segmentation at 1/8 scale, with two training-only heads.

Luo et al., "Dual supervised sampling networks for real-time segmentation of cervical cell
nucleus", Computational and Structural Biotechnology Journal 2022.
Network, loss and decoding are separate: `DSSNet`, `DSSLoss`, `decode`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from ..settings import configure
from .config import DSSNetConfig

__all__ = ["DSSLoss", "DSSNet", "WNeck", "decode", "dssnet", "for_inference", "ssim"]

STRIDE = 8
"""Sides of images are multiples of this many pixels."""


def _conv(cin: int, cout: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    return weight_norm(nn.Conv2d(cin, cout, kernel, stride, kernel // 2))


class _Down(nn.Module):
    """1 → 1/8: max-pooling plus a learned path, three times (paper, section 2.2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.entry = _conv(3, width)
        self.steps = nn.ModuleList(
            nn.Sequential(_conv(width, width, 3, 2), _conv(width, width, 1)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        for step in self.steps:
            x = F.max_pool2d(x, 2) + step(x)
        return x


class WNeck(nn.Module):
    """W-NECK: 1×1 and 3×3 side by side, widened, PReLU, narrowed twice; residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide, narrow = 3 * width, int(0.75 * width)
        self.point, self.area = _conv(width, wide, 1), _conv(width, wide)
        self.act = nn.PReLU()
        self.narrow, self.out = _conv(2 * wide, narrow), _conv(narrow, width)

    def forward(self, x: Tensor) -> Tensor:
        """Features (n, width, h, w) → the same shape."""
        wide = self.act(torch.cat([self.point(x), self.area(x)], 1))
        return x + self.out(self.narrow(wide))


class _WDSRB(nn.Module):
    """WDSR-B: widened by 1×1 before the activation, low-rank 1×1, then 3×3; residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide, narrow = 6 * width, int(0.8 * width)
        self.body = nn.Sequential(
            _conv(width, wide, 1), nn.PReLU(), _conv(wide, narrow, 1), _conv(narrow, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class _Bottleneck(nn.Module):
    """ResNet's bottleneck without batch norm: 1×1 down, 3×3, 1×1 up; residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        narrow = width // 4
        self.body = nn.Sequential(
            _conv(width, narrow, 1),
            nn.PReLU(),
            _conv(narrow, narrow),
            nn.PReLU(),
            _conv(narrow, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class _Basic(nn.Module):
    """ResNet's basic block without batch norm: two 3×3; residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(width, width), nn.PReLU(), _conv(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


BLOCKS: dict[str, type[nn.Module]] = {
    "wneck": WNeck,
    "wdsr-b": _WDSRB,
    "bottleneck": _Bottleneck,
    "basic": _Basic,
}


class _Fusion(nn.Module):
    """Feature fusion, 1/8 → 1/2.

    Nearest ×4 can be swapped with a 1×1 convolution and with PReLU, which work pixel by pixel.
    Both therefore run before it, at 16 times fewer positions; the result is that of the published
    layer.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix, self.act = _conv(width, width, 1), nn.PReLU()
        self.smooth, self.out = _conv(width, width), nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(self.act(self.mix(x)), scale_factor=4.0, mode="nearest")
        return self.out(self.smooth(x))


class _Segmentation(nn.Module):
    """Segmentation head, 1/2 → 1."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.coarse = nn.Sequential(
            _conv(width, 32), nn.PReLU(), nn.Conv2d(32, 20, 3, padding=1), nn.PReLU()
        )
        self.fine = nn.Sequential(_conv(20, 20), _conv(20, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(self.coarse(x), scale_factor=2.0, mode="nearest")
        logits: Tensor = self.fine(x)
        return logits


class DSSNet(nn.Module):
    """RGB (n, 3, h, w), ``(x − 128) / 128``, h and w multiples of 8 → logits (n, classes, h, w).

    In training mode it returns three things: the logits, the edge map (n, 1, h/2, w/2) and the
    reconstruction (n, 3, h, w); the last two are None where their head is off.

    Attributes
    ----------
    context_px
        end of the receptive field: no pixel farther away changes a result
    contiguous_on_cpu
        on a CPU a training step costs 2.2 s with contiguous tensors, 3.4 s with channels last
    """

    stride = STRIDE
    context_px = 288
    contiguous_on_cpu = True

    def __init__(self, config: DSSNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        trunk = int(1.4 * width)
        self.down = _Down(width)
        self.entry = _conv(width, trunk)
        self.trunk = nn.Sequential(*(BLOCKS[config.block](trunk) for _ in range(config.depth)))
        self.fusion = _Fusion(2 * trunk)
        self.segmentation = _Segmentation(2 * trunk, config.classes)
        self.edge: nn.Module | None = _edge_head(2 * trunk) if config.edge_head else None
        self.sr: nn.Module | None = _sr_head(width) if config.sr_head else None

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return down-sampled input (n, width, h/8, w/8) and fused features (n, 84, h/2, w/2)."""
        down = self.down(x)
        start = self.entry(down)
        return down, self.fusion(torch.cat([start, self.trunk(start)], 1))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor | None, Tensor | None]:
        """See the class."""
        down, fused = self.features(x)
        logits: Tensor = self.segmentation(fused)
        if not self.training:
            return logits
        edge = None if self.edge is None else self.edge(fused)
        return logits, edge, None if self.sr is None else self.sr(down)


def _edge_head(width: int) -> nn.Module:
    """Build the edge head, which only training needs (paper, section 2.4)."""
    return nn.Sequential(
        _conv(width, width),
        nn.PReLU(),
        _conv(width, width),
        _conv(width, 1),
        nn.Conv2d(1, 1, 3, padding=1),
    )


def _sr_head(width: int) -> nn.Module:
    """Build the super-resolution head, which only training needs."""
    return nn.Sequential(
        _conv(width, 42),
        nn.PReLU(),
        _conv(42, 64),
        nn.PReLU(),
        *(WNeck(64) for _ in range(5)),
        _conv(64, 192),
        nn.PReLU(),
        _conv(192, 192),
        nn.PixelShuffle(STRIDE),
    )


def dssnet(**options: Any) -> DSSNet:
    """Build DSSNet with fresh weights; `options` are fields of `DSSNetConfig`.

    Raises
    ------
    ValueError
        an option that does not exist or cannot have that value

    Examples
    --------
    >>> network = dssnet(width=12, depth=2).eval()
    >>> network(torch.zeros(1, 3, 64, 40)).shape
    torch.Size([1, 2, 64, 40])
    """
    return DSSNet(configure(DSSNetConfig(), options))


def for_inference(network: DSSNet) -> DSSNet:
    """Fold weight norm and drop the training heads, in place; the function stays the same."""
    network.edge = network.sr = None
    for module in network.modules():
        if is_parametrized(module, "weight"):
            remove_parametrizations(module, "weight", leave_parametrized=True)
    return network.eval().requires_grad_(False)


def decode(logits: Tensor) -> Tensor:
    """Turn logits (n, 1 + k, h, w) into probabilities, uint8 (n, k, h, w), 255 = certain."""
    probability = logits.float().softmax(1)[:, 1:]
    return (probability * 255).round().to(torch.uint8)


def ssim(
    a: Tensor, b: Tensor, *, data_range: float, window: int = 11, sigma: float = 1.5
) -> Tensor:
    """Return the mean structural similarity of images (n, c, h, w).

    Source: Wang et al. 2004, "Image quality assessment", Eq. 13, with a Gaussian window.
    """
    x = torch.arange(window, dtype=a.dtype, device=a.device) - window // 2
    line = torch.exp(-(x**2) / (2 * sigma**2))
    line = line / line.sum()
    channels = a.shape[1]

    def blur(image: Tensor) -> Tensor:
        rows = line.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
        cols = line.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
        return F.conv2d(F.conv2d(image, rows, groups=channels), cols, groups=channels)

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    cov = blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    top = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    return (top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean()


class DSSLoss(nn.Module):
    """Cross entropy + 0.25 · (1 − SSIM) + 0.4 · L1 of the edge map (paper, section 2.5)."""

    def __init__(
        self, sr_weight: float = 0.25, edge_weight: float = 0.4, class_weight: Sequence[float] = ()
    ) -> None:
        super().__init__()
        self.sr_weight, self.edge_weight = sr_weight, edge_weight
        self.class_weight: Tensor | None
        weights = torch.tensor(class_weight) if class_weight else None
        self.register_buffer("class_weight", weights, persistent=False)

    def forward(
        self,
        output: tuple[Tensor, Tensor | None, Tensor | None],
        image: Tensor,
        target: Tensor,
        edge_target: Tensor,
        pixel_weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the terms by name; their sum is minimised.

        Parameters
        ----------
        output
            as the network returns it in training mode
        image
            float (n, 3, h, w), the normalised input
        target
            int64 (n, h, w), −100 where the class is unknown
        edge_target
            float (n, 1, h/2, w/2), 0 or 1; below 0 where it is unknown
        pixel_weight
            float (n, h, w), weight of each pixel of the segmentation; 1 by default
        """
        logits, edge, reconstruction = output
        loss = F.cross_entropy(logits.float(), target, weight=self.class_weight, reduction="none")
        if pixel_weight is not None:
            loss = loss * pixel_weight
        terms = {"segmentation": loss.sum() / (target >= 0).sum().clamp(min=1)}
        if edge is not None:
            known = edge_target >= 0
            apart = (edge.float() - edge_target).abs() * known
            terms["edge"] = self.edge_weight * apart.sum() / known.sum().clamp(min=1)
        if reconstruction is not None:
            similarity = ssim(reconstruction.float(), image.float(), data_range=2.0)
            terms["sr"] = self.sr_weight * (1 - similarity)
        return terms
