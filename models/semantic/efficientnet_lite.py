"""EfficientNet-Lite without its classifier: encoder of `unet`, trunk of instance networks.

Liu et al., "Higher accuracy on vision models with EfficientNet-Lite", TensorFlow blog, March 2020;
blocks: Tan and Le, "EfficientNet", ICML 2019, table 1, without squeeze-and-excitation and with
ReLU6. Paddings are TensorFlow's, so that weights trained there fit. `unet` leaves the stages at
stride 32 out: they would widen the context of a pixel from 169 to 425 px (lite0), which tiles pay
for. Instance networks need them to find large cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ENCODERS", "STRIDE", "EfficientNetLite", "pretrained_state"]

STRIDE = 16
"""Sides of images are multiples of this many pixels, or of the deepest stride where it is 32."""
EPS = 1e-3

STRIP_BYTES = 4 << 20
"""Size of a block's widened map above which it is computed in strips of rows, each this large."""

_STAGES = ((1, 3, 1), (6, 3, 2), (6, 5, 2), (6, 3, 2), (6, 5, 1), (6, 5, 2), (6, 3, 1))
"""Widening, kernel and stride of each stage."""

_LAST = {16: 5, 32: 7}
"""Number of stages down to a stride."""

ENCODERS: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "lite0": ((16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)),
    "lite1": ((16, 24, 40, 80, 112, 192, 320), (1, 3, 3, 4, 4, 5, 1)),
    "lite2": ((16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1)),
}
"""Name → channels and number of blocks of each stage."""

Norm = Callable[[int], nn.Module]


def _batch_norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, EPS)


class _Conv(nn.Sequential):
    """Convolution with TensorFlow's padding, norm, and ReLU6 if `act`."""

    def __init__(
        self, cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True,
        *, norm: Norm,
    ) -> None:  # fmt: skip
        # Images have even sides: a layer of stride 2 then pads one pixel less before than after.
        before = (kernel - stride) // 2 if stride == 2 else kernel // 2
        pads = before, kernel - stride - before
        pad = nn.ZeroPad2d(pads * 2) if stride == 2 else None
        around = 0 if pad else before
        super().__init__(
            pad or nn.Identity(),
            nn.Conv2d(cin, cout, kernel, stride, around, groups=groups, bias=False),
            norm(cout),
            nn.ReLU6(inplace=True) if act else nn.Identity(),
        )
        self.pads = pads

    def of_rows(self, x: Tensor, above: int, below: int) -> Tensor:
        """Convolve some rows of a map, with so many rows of zeros above and below them."""
        conv: Any = self[1]
        norm, act = self[2], self[3]
        x = F.pad(x, (*self.pads, above, below))
        x = F.conv2d(x, conv.weight, conv.bias, conv.stride, groups=conv.groups)
        out: Tensor = act(norm(x))
        return out


class _Block(nn.Module):
    """Widening 1×1, depthwise, narrowing 1×1; with a shortcut where the shape stays.

    On a CPU, a large map is computed in strips, without gradients: the widened map, six times the
    size of the others, then stays in the processor's cache. The values are the same.
    """

    def __init__(
        self, cin: int, cout: int, widening: int, kernel: int, stride: int, norm: Norm
    ) -> None:
        super().__init__()
        wide = cin * widening
        layers = [] if widening == 1 else [_Conv(cin, wide, 1, norm=norm)]
        layers += [
            _Conv(wide, wide, kernel, stride, wide, norm=norm),
            _Conv(wide, cout, 1, act=False, norm=norm),
        ]
        self.layers = nn.Sequential(*layers)
        self.wide, self.step = wide, stride
        # A group norm needs the whole map.
        self.by_rows = not any(isinstance(module, nn.GroupNorm) for module in self.modules())
        self.shortcut = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        """Features (n, cin, h, w) → (n, cout, h / stride, w / stride)."""
        n, _, h, w = x.shape
        row_bytes = n * self.wide * w * self.step * x.element_size()
        whole = torch.is_grad_enabled() or self.training or x.device.type != "cpu"
        whole = whole or not self.by_rows or len(self.layers) < 3
        if whole or row_bytes * h <= 2 * self.step * STRIP_BYTES:
            out: Tensor = self.layers(x)
        else:
            rows = max(1, STRIP_BYTES // row_bytes)
            out = torch.cat([self._rows(x, r, rows) for r in range(0, h // self.step, rows)], 2)
        return out + x if self.shortcut else out

    def _rows(self, x: Tensor, first: int, count: int) -> Tensor:
        """Return `count` rows, from `first` on, of what the layers make of x; fewer at the end."""
        widen, narrow = self.layers[0], self.layers[2]
        depthwise: Any = self.layers[1]
        before, after = depthwise.pads
        h = x.shape[2]
        last = min(first + count, h // self.step)
        top, bottom = first * self.step - before, last * self.step + after
        low, high = max(top, 0), min(bottom, h)
        wide = widen(x[:, :, low:high])
        out: Tensor = narrow(depthwise.of_rows(wide, low - top, bottom - high))
        return out


class EfficientNetLite(nn.Module):
    """RGB (n, 3, h, w), ``(x − 128) / 128``, h and w multiples of 16 or 32 → features by scale.

    Parameters
    ----------
    name
        one of `ENCODERS`
    deepest
        stride of the last features: 16 or 32; h and w are multiples of it
    norm
        channels → norm; by default batch norm

    Attributes
    ----------
    channels, strides
        of the features
    context_px
        no pixel farther away changes a feature
    """

    def __init__(self, name: str, deepest: int = STRIDE, norm: Norm = _batch_norm) -> None:
        super().__init__()
        widths, depths = (numbers[: _LAST[deepest]] for numbers in ENCODERS[name])
        self.context_px = _context_px(depths, deepest)
        # Two stages have stride 16, and two 32; only the last one's features are used.
        self.channels = (*widths[:3], *widths[4::2])
        self.strides = tuple(2 ** (i + 1) for i in range(len(self.channels)))
        self.stem = _Conv(3, 32, 3, 2, norm=norm)
        stages, cin = [], 32
        for cout, depth, (widening, kernel, stride) in zip(widths, depths, _STAGES, strict=False):
            blocks = []
            for i in range(depth):
                blocks.append(_Block(cin, cout, widening, kernel, stride if i == 0 else 1, norm))
                cin = cout
            stages.append(nn.Sequential(*blocks))
        pairs = [nn.Sequential(*stages[i : i + 2]) for i in range(3, len(stages), 2)]
        self.stages = nn.ModuleList([*stages[:3], *pairs])

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the features at strides 2, 4, 8, 16 …, (n, channels, h / stride, w / stride)."""
        x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features

    def forward(self, x: Tensor) -> Any:
        """Return `features`."""
        return self.features(x)


def _context_px(depths: Sequence[int], deepest: int) -> int:
    """Return the reach of all kernels in pixels of the image, as a multiple of `deepest`."""
    reach, stride = 1, 2  # the stem
    for depth, (_, kernel, first) in zip(depths, _STAGES, strict=False):
        reach += kernel // 2 * stride
        stride *= first
        reach += kernel // 2 * stride * (depth - 1)
    return math.ceil(reach / deepest) * deepest


def pretrained_state(
    encoder: EfficientNetLite, weights: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """Return an encoder's state from ImageNet weights, and the names that were not used.

    Files of the EfficientNet-Lite family name their tensors differently, but keep them in the order
    of the layers. They are matched in order, each shape checked.

    Raises
    ------
    ValueError
        the file has another order, other shapes or too few tensors
    """
    mine, counter = encoder.state_dict(), "num_batches_tracked"
    counts = any(name.endswith(counter) for name in mine)  # frozen norms do not
    theirs = [(k, v) for k, v in weights.items() if counts or not k.endswith(counter)]
    if len(theirs) < len(mine):
        raise ValueError(f"{len(theirs)} tensors, where the encoder has {len(mine)}")
    state = {}
    for (name, value), (other, given) in zip(mine.items(), theirs, strict=False):
        same_part = name.rpartition(".")[2] == other.rpartition(".")[2]
        if not same_part or value.shape != given.shape:
            raise ValueError(
                f"{other} has the shape {tuple(given.shape)}, {name} {tuple(value.shape)}; is it "
                "another encoder?"
            )
        state[name] = given.to(value.dtype)
    return state, [name for name, _ in theirs[len(mine) :]]
