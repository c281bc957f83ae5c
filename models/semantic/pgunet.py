"""PGU-Net+: a U-Net that grows from its coarsest part, with a residual from scale to scale.

Zhao et al., "PGU-net+: Progressive growing of U-net+ for automated cervical nuclei segmentation",
MMMI 2019. Each scale has its own logits, which are added to those of the coarser scale, brought to
its size: the coarser scale learns the rough shape, the finer one what is missing. Training begins
with the coarsest part on a shrunken image and adds a finer part in each stage.

The channels are those of the authors' program: 64, 128, 256, 512 and 512. That is 14.79 million
parameters without the entries of the earlier stages, which only training needs. Luo et al. 2022
print 14.84 million; neither paper lists the layers that make the difference of 0.3 %. That program
adds only the logits of the last two scales; here, as the text has it, each scale adds to the sum of
the coarser ones. Logits are enlarged with pixels as areas, since with corners in line they would
depend on the size of the image.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..norms import fold_norms
from ..settings import configure
from .baseline_config import PGUNetConfig
from .layers import Sized, double_conv

__all__ = ["PGUNet", "for_inference", "pgunet"]

STAGES = 4


class PGUNet(Sized):
    """RGB (n, 3, h, w), ``(x − 128) / 128``, sides multiples of 16 → logits (n, classes, h, w).

    In stage k of 4 the network shrinks the image by 2 ** (4 − k), takes it in by an entry of this
    stage's own, and enlarges its logits again. All stages share the rest.

    Attributes
    ----------
    stage
        the stage that it works in; training sets it
    """

    stride = 16
    context_px = 112

    def __init__(self, config: PGUNetConfig) -> None:
        super().__init__()
        self.config, self.stage = config, config.stage
        widths = [config.width * 2**k for k in (3, 3, 2, 1, 0)]  # the centre, then 1/8 to 1
        outputs = [*widths[2:], widths[-1]]
        # One of each for a stage; in stage k `down[k]` brings its entry's map to that of k − 1.
        self.entries = nn.ModuleList(double_conv(3, width) for width in widths[1:])
        self.down = nn.ModuleList(double_conv(high, low) for low, high in pairwise(widths))
        incoming = [widths[0], *outputs[:-1]]
        self.up = nn.ModuleList(nn.ConvTranspose2d(c, c, 2, 2) for c in incoming)
        self.merge = nn.ModuleList(
            double_conv(2 * c, out) for c, out in zip(incoming, outputs, strict=True)
        )
        self.heads = nn.ModuleList(nn.Conv2d(out, config.classes, 1) for out in outputs)

    def parts(self) -> list[list[nn.Parameter]]:
        """Return the weights that each stage adds, the coarsest first."""
        groups = (self.entries, self.down, self.up, self.merge, self.heads)
        return [[p for g in groups for p in g[k].parameters()] for k in range(STAGES)]

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        self.check(x)
        shrink = 2 ** (STAGES - self.stage)
        x = self.entries[self.stage - 1](F.avg_pool2d(x, shrink) if shrink > 1 else x)
        kept = [x]
        for k in reversed(range(self.stage)):
            kept.append(self.down[k](F.max_pool2d(kept[-1], 2)))
        x = kept.pop()
        logits: Tensor | None = None
        for k in range(self.stage):
            x = self.merge[k](torch.cat([kept.pop(), self.up[k](x)], 1))
            own: Tensor = self.heads[k](x)
            logits = own if logits is None else own + _enlarged(logits, 2)
        assert logits is not None
        return _enlarged(logits, shrink)


def _enlarged(logits: Tensor, times: int) -> Tensor:
    if times == 1:
        return logits
    return F.interpolate(logits, scale_factor=float(times), mode="bilinear", align_corners=False)


def for_inference(network: PGUNet) -> nn.Module:
    """Drop what other stages need, and fold batch norms, in place; the function stays the same."""
    for k in range(STAGES):
        if k != network.stage - 1:
            network.entries[k] = nn.Identity()
        if k >= network.stage:
            for group in (network.down, network.up, network.merge, network.heads):
                group[k] = nn.Identity()
    fold_norms(network)
    return network.requires_grad_(False)


def pgunet(**options: Any) -> PGUNet:
    """Build PGU-Net+ with fresh weights; `options` are fields of `PGUNetConfig`.

    Raises
    ------
    ValueError
        an option that does not exist or cannot have that value

    Examples
    --------
    >>> pgunet(width=2, stage=2).eval()(torch.zeros(1, 3, 64, 32)).shape
    torch.Size([1, 2, 64, 32])
    """
    return PGUNet(configure(PGUNetConfig(), options))
