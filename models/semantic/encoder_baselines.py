"""U-Net++ and PSPNet, on the encoders of segmentation-models-pytorch or, U-Net++, on none.

Zhou et al., "UNet++: A nested U-Net architecture for medical image segmentation", DLMIA 2018; Zhao
et al., "Pyramid scene parsing network", CVPR 2017. U-Net++ without encoder has the channels of the
published U-Net (64 to 1024): 36.63 million parameters, which is the figure that Luo et al. 2022
compare with. The package of the library is optional and imported when it is used. PSPNet pools the
whole image, so each of its results depends on all of it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..settings import configure
from .baseline_config import EncoderConfig
from .layers import Sized, double_conv
from .wubineh import IMAGENET_MEAN, IMAGENET_STD, LIBRARY, load_library

__all__ = [
    "PSPNET",
    "EncoderNetwork",
    "NestedUNet",
    "pspnet",
    "pspnet_sees_all",
    "unetpp",
    "unetpp_sees_all",
]

PSPNET = EncoderConfig(encoder="resnet50")
"""Settings of `pspnet`; those of U-Net++ are the defaults."""
CONTEXT_PX = {"none": 128, "vgg19": 192, "resnet50": 288, "mobilenet": 320, "densenet121": 1088}
"""As `wubineh.CONTEXT_PX`, for U-Net++."""
LEVELS = 5


class NestedUNet(Sized):
    """RGB (n, 3, h, w), ``(x − 128) / 128``, sides multiples of 16 → logits (n, classes, h, w).

    The map at level i and column j gets all maps of its level before it and the map below.
    """

    stride = 16

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config, self.context_px = config, CONTEXT_PX["none"]
        widths = [config.width * 2**k for k in range(LEVELS)]
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                double_conv((widths[i - 1] if i else 3) if j == 0 else j * w + widths[i + 1], w)
                for j in range(LEVELS - i)
            )
            for i, w in enumerate(widths)
        )
        self.head = nn.Conv2d(widths[0], config.classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        self.check(x)
        maps: list[list[Tensor]] = []
        for i, level in enumerate(self.blocks):
            x = level[0](F.max_pool2d(x, 2) if i else x)  # type: ignore[index]
            maps.append([x])
        for j in range(1, LEVELS):
            for i in range(LEVELS - j):
                below = F.interpolate(
                    maps[i + 1][j - 1], scale_factor=2.0, mode="bilinear", align_corners=False
                )
                block = self.blocks[i][j]  # type: ignore[index]
                maps[i].append(block(torch.cat([*maps[i], below], 1)))
        logits: Tensor = self.head(maps[0][-1])
        return logits


class EncoderNetwork(Sized):
    """RGB (n, 3, h, w), ``(x − 128) / 128``, sides multiples of 32 → logits (n, classes, h, w).

    Attributes
    ----------
    encoder
        the part that `--pretrained` fills; it gets the images normalised as for ImageNet
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig, architecture: str, context_px: int) -> None:
        super().__init__()
        self.config, self.context_px = config, context_px
        whole = getattr(load_library("unetpp and pspnet"), architecture)(
            LIBRARY[config.encoder], encoder_weights=None, classes=config.classes, activation=None
        )
        self.encoder, self.decoder = whole.encoder, whole.decoder
        self.head = whole.segmentation_head
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        self.check(x)
        x = ((x * 128 + 128) / 255 - self.mean) / self.std
        logits: Tensor = self.head(self.decoder(self.encoder(x)))
        return logits


def unetpp(**options: Any) -> NestedUNet | EncoderNetwork:
    """Build U-Net++ with fresh weights; `options` are fields of `EncoderConfig`.

    Raises
    ------
    ValueError
        an option that does not exist or cannot have that value, or a package that is missing

    Examples
    --------
    >>> unetpp(width=2).eval()(torch.zeros(1, 3, 64, 32)).shape
    torch.Size([1, 2, 64, 32])
    """
    config = configure(EncoderConfig(), options)
    if config.encoder == "none":
        return NestedUNet(config)
    return EncoderNetwork(config, "UnetPlusPlus", CONTEXT_PX.get(config.encoder, 0))


def unetpp_sees_all(**options: Any) -> bool:
    """Return whether each result depends on the whole image, so that tiles would show."""
    return configure(EncoderConfig(), options).encoder not in CONTEXT_PX


def pspnet(**options: Any) -> EncoderNetwork:
    """Build PSPNet with fresh weights; raises as `unetpp`, and where no encoder is chosen."""
    config = configure(PSPNET, options)
    if config.encoder == "none":
        raise ValueError("pspnet has no form without encoder; give e.g. --encoder resnet50")
    return EncoderNetwork(config, "PSPNet", 0)


def pspnet_sees_all(**options: Any) -> bool:
    """Return True: each result depends on the whole image."""
    return True
