"""Trunks and the feature pyramid P2 to P6, strides 4 to 64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d, deform_conv2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from ..semantic.efficientnet_lite import EPS, EfficientNetLite
from .config import LITE, InstanceConfig

__all__ = ["Backbone", "ModulatedDeformConv2d", "build_backbone"]

LEVELS = ("0", "1", "2", "3")
"""P2 to P5, the levels that regions are pooled from; P6 is "pool"."""


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(channels // 8, channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "frozen": FrozenBatchNorm2d,
    "group": _group_norm,
    "batch": nn.BatchNorm2d,
}


class ModulatedDeformConv2d(nn.Module):
    """3×3 convolution with moved and weighted taps (Zhu et al. 2019, DCNv2, section 3.2).

    One convolution, zero at the start, computes 18 offsets (dy, dx per tap) and 9 weights per
    position. `implementation` is ``op`` (torchvision's operator) or ``grid`` (one `grid_sample`,
    then a grouped 1×1). Both give the same numbers; ``grid`` is faster on a GPU with many groups.
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        stride: int = 1,
        groups: int = 1,
        *,
        mask_scale: float = 1.0,
        implementation: str = "op",
    ) -> None:
        super().__init__()
        self.stride, self.groups = stride, groups
        self.mask_scale, self.implementation = mask_scale, implementation
        self.weight = nn.Parameter(torch.empty(cout, cin // groups, 3, 3))
        self.bias: nn.Parameter | None = None
        self.offset = nn.Conv2d(cin, 27, 3, stride, 1)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(n, cin, h, w) → (n, cout, h/stride, w/stride), computed in float32."""
        moves = self.offset(x).float()
        offset, weight = moves[:, :18], moves[:, 18:].sigmoid() * self.mask_scale
        with torch.autocast(x.device.type, enabled=False):
            x, kernel = x.float(), self.weight.float()
            bias = None if self.bias is None else self.bias.float()
            if self.implementation == "grid":
                y = self._by_grid(x, offset, weight, kernel, bias)
            else:
                stride = (self.stride, self.stride)
                y = deform_conv2d(x, offset, kernel, bias, stride, (1, 1), mask=weight)
        return y.to(self.weight.dtype)

    def _by_grid(
        self, x: Tensor, offset: Tensor, weight: Tensor, kernel: Tensor, bias: Tensor | None
    ) -> Tensor:
        n, c, h, w = x.shape
        rows, cols = offset.shape[-2:]
        tap = torch.arange(9, device=x.device)
        y0 = torch.arange(rows, device=x.device) * self.stride - 1
        x0 = torch.arange(cols, device=x.device) * self.stride - 1
        shift = offset.view(n, 9, 2, rows, cols)
        py = shift[:, :, 0] + y0.view(-1, 1) + (tap // 3).view(-1, 1, 1)
        px = shift[:, :, 1] + x0.view(1, -1) + (tap % 3).view(-1, 1, 1)
        grid = torch.stack([(2 * px + 1) / w - 1, (2 * py + 1) / h - 1], -1)
        taps = F.grid_sample(x, grid.view(n, 9 * rows, cols, 2), align_corners=False)
        taps = taps.view(n, c, 9, rows, cols) * weight[:, None]
        return F.conv2d(
            taps.view(n, c * 9, rows, cols),
            kernel.view(len(kernel), -1, 1, 1),
            bias,
            groups=self.groups,
        )


class Res2Bottleneck(nn.Module):
    """Res2Net's bottleneck, 26 channels × 4 scales (Gao et al. 2019, section 3.1).

    3×3 convolutions run over the quarters of the channels in turn; each adds the result of the
    quarter before. The first block of a stage, which changes the size, adds nothing.
    """

    expansion = 4
    scales = 4

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        *,
        norm_layer: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        width = planes * 26 // 64
        self.conv1 = nn.Conv2d(inplanes, width * self.scales, 1, bias=False)
        self.bn1 = norm_layer(width * self.scales)
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, stride, 1, bias=False), norm_layer(width), nn.ReLU()
            )
            for _ in range(self.scales - 1)
        )
        self.pool = None if downsample is None else nn.AvgPool2d(3, stride, 1)
        self.conv3 = nn.Conv2d(width * self.scales, planes * self.expansion, 1, bias=False)
        self.bn3 = norm_layer(planes * self.expansion)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """(n, inplanes, h, w) → (n, 4 · planes, h/stride, w/stride)."""
        *parts, last = F.relu(self.bn1(self.conv1(x))).chunk(self.scales, 1)
        out: list[Tensor] = []
        for part, branch in zip(parts, self.branches, strict=True):
            out.append(branch(part + out[-1] if out and self.pool is None else part))
        out.append(last if self.pool is None else self.pool(last))
        y = self.bn3(self.conv3(torch.cat(out, 1)))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Shape(NamedTuple):
    """Shape of a trunk: its block, blocks per stage, further keywords of the block."""

    block: Any
    blocks: tuple[int, int, int, int]
    keywords: dict[str, int]


SHAPES: dict[str, Shape] = {
    "resnet18": Shape(BasicBlock, (2, 2, 2, 2), {}),
    "resnet50": Shape(Bottleneck, (3, 4, 6, 3), {}),
    "resnet101": Shape(Bottleneck, (3, 4, 23, 3), {}),
    "resnext101_32x4d": Shape(Bottleneck, (3, 4, 23, 3), {"groups": 32, "base_width": 4}),
    "resnext101_64x4d": Shape(Bottleneck, (3, 4, 23, 3), {"groups": 64, "base_width": 4}),
    "res2net101": Shape(Res2Bottleneck, (3, 4, 23, 3), {}),
}


class Trunk(nn.Module):
    """Stem and four stages, named as torchvision's ResNet names them, of any width."""

    def __init__(self, shape: Shape, width: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = norm(width)
        cin = width
        self.channels: list[int] = []
        for i, count in enumerate(shape.blocks):
            planes = width * 2**i
            cout = planes * shape.block.expansion
            blocks = []
            for j in range(count):
                stride = 2 if i and not j else 1
                down = None
                if stride != 1 or cin != cout:
                    down = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), norm(cout))
                blocks.append(
                    shape.block(cin, planes, stride, down, **shape.keywords, norm_layer=norm)
                )
                cin = cout
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            self.channels.append(cout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(n, 3, h, w) → C2 to C5 by name, strides 4 to 32."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        out = {}
        for i, name in enumerate(LEVELS):
            x = out[name] = self.get_submodule(f"layer{i + 1}")(x)
        return out


_LITE_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "frozen": lambda channels: FrozenBatchNorm2d(channels, EPS),
    "group": _group_norm,
    "batch": lambda channels: nn.BatchNorm2d(channels, EPS),
}


class LiteTrunk(EfficientNetLite):
    """EfficientNet-Lite down to stride 32, with the levels of a `Trunk`."""

    def __init__(self, name: str, norm: str) -> None:
        super().__init__(name, 32, _LITE_NORMS[norm])
        self.channels = self.channels[1:]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(n, 3, h, w) → C2 to C5 by name, strides 4 to 32."""
        return dict(zip(LEVELS, self.features(x)[1:], strict=True))


class Backbone(nn.Module):
    """Trunk and pyramid: (n, 3, h, w) → P2 to P6 by name, float32, `fpn_width` channels."""

    def __init__(
        self, body: Trunk | LiteTrunk, width: int, norm: Callable[[int], nn.Module] | None
    ) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(list(body.channels), width, LastLevelMaxPool(), norm)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """See the class."""
        # Anchors take the features' type, and half precision cannot hold their coordinates.
        return {name: level.float() for name, level in self.fpn(self.body(x)).items()}


def _deform(body: Trunk, config: InstanceConfig) -> None:
    """Replace the 3×3 convolutions of the configured stages by deformable ones."""
    for stage in config.dcn_stages:
        for block in body.get_submodule(f"layer{stage - 1}").children():
            conv: Any = block.conv2
            block.conv2 = ModulatedDeformConv2d(
                conv.in_channels,
                conv.out_channels,
                conv.stride[0],
                conv.groups,
                mask_scale=config.mask_scale,
                implementation=config.dcn,
            )


def build_backbone(config: InstanceConfig) -> Backbone:
    """Build the backbone that `config` describes, with fresh weights and frozen first stages."""
    lite = config.backbone.removeprefix(LITE) if config.backbone.startswith(LITE) else ""
    body: Trunk | LiteTrunk
    if lite:
        body = LiteTrunk(lite, config.norm)
        stages = [("stages.4",), ("stages.3",), ("stages.2",), ("stages.1",), ("stem", "stages.0")]
    else:
        body = Trunk(SHAPES[config.backbone], config.trunk_width, NORMS[config.norm])
        _deform(body, config)
        stages = [("layer4",), ("layer3",), ("layer2",), ("layer1",), ("conv1", "bn1")]
    learns = tuple(name for stage in stages[: config.trainable_layers] for name in stage)
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(name.startswith(learns) if learns else False)
    # Only a pyramid that is trained from scratch needs norms of its own.
    fresh = config.norm == "group" or bool(lite)
    return Backbone(body, config.fpn_width, _group_norm if fresh else None)
