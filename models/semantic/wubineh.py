"""U-Net as in Wubineh et al. 2024, alone or on one of five encoders, with Jaccard-distance loss.

Wubineh, Rusiecki and Halawa, "Segmentation of Cytology Images to Detect Cervical Cancer Using Deep
Learning Techniques", 2024. The plain U-Net is written here; the encoders and the decoder on them
are those of segmentation-models-pytorch, an optional package that is imported when it is used.
Network and loss are separate: `wubineh`, `JaccardLoss`; decoding is `dssnet.decode`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..settings import configure
from .config import WubinehConfig

__all__ = ["EncoderUNet", "JaccardLoss", "PlainUNet", "load_library", "sees_all", "wubineh"]

STRIDE = 32
LIBRARY = {
    "vgg19": "vgg19",
    "resnet50": "resnet50",
    "mobilenet": "mobilenet_v2",
    "efficientnet_b2": "efficientnet-b2",
    "densenet121": "densenet121",
}
"""Our name of an encoder → the library's."""
CONTEXT_PX = {"none": 192, "vgg19": 256, "resnet50": 288, "mobilenet": 320, "densenet121": 1088}
"""No pixel farther away changes a result, rounded up to a multiple of the stride.

`efficientnet_b2` has none: its squeeze-and-excitation takes means over the whole image.
"""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _block(cin: int, cout: int, dropout: float) -> nn.Sequential:
    """Two 3×3 convolutions, each with batch norm and ReLU, then spatial dropout."""
    return nn.Sequential(
        nn.Conv2d(cin, cout, 3, padding=1, bias=False),
        nn.BatchNorm2d(cout),
        nn.ReLU(inplace=True),
        nn.Conv2d(cout, cout, 3, padding=1, bias=False),
        nn.BatchNorm2d(cout),
        nn.ReLU(inplace=True),
        nn.Dropout2d(dropout),
    )


class _Sized(nn.Module):
    """A network whose images have sides that are multiples of 32."""

    stride = STRIDE

    def __init__(self, config: WubinehConfig) -> None:
        super().__init__()
        self.config = config
        self.context_px = CONTEXT_PX.get(config.encoder, 0)

    @staticmethod
    def _check(x: Tensor) -> None:
        h, w = x.shape[-2:]
        if h % STRIDE or w % STRIDE:
            raise ValueError(f"an image of {w} x {h} px; its sides must be multiples of {STRIDE}")


class PlainUNet(_Sized):
    """RGB (n, 3, h, w), ``(x − 128) / 128`` → logits (n, classes, h, w); five levels and a centre.

    Width 64 has 64, 128, 256, 512 and 1024 channels, and 1024 in the centre, as published.
    """

    def __init__(self, config: WubinehConfig) -> None:
        super().__init__(config)
        widths, p = [config.width * 2**k for k in range(5)], config.dropout
        inputs = [3, *widths[:-1]]
        self.down = nn.ModuleList(_block(a, b, p) for a, b in zip(inputs, widths, strict=True))
        self.centre = _block(widths[-1], widths[-1], p)
        pairs = list(zip([*widths[1:], widths[-1]], widths, strict=True))[::-1]
        self.up = nn.ModuleList(nn.ConvTranspose2d(low, high, 2, 2) for low, high in pairs)
        self.merge = nn.ModuleList(_block(2 * high, high, p) for _, high in pairs)
        self.head = nn.Conv2d(widths[0], config.classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        self._check(x)
        kept: list[Tensor] = []
        for level in self.down:
            kept.append(level(x))
            x = F.max_pool2d(kept[-1], 2)
        x = self.centre(x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([kept.pop(), up(x)], 1))
        logits: Tensor = self.head(x)
        return logits


class EncoderUNet(_Sized):
    """RGB (n, 3, h, w), ``(x − 128) / 128`` → logits (n, classes, h, w), on a known encoder.

    Attributes
    ----------
    encoder
        the part that `--pretrained` fills; it gets the images normalised as for ImageNet
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: WubinehConfig) -> None:
        super().__init__(config)
        library = load_library("wubineh")
        unet = library.Unet(
            LIBRARY[config.encoder], encoder_weights=None, classes=config.classes, activation=None
        )
        for block in unet.decoder.blocks:
            block.attention2 = nn.Dropout2d(config.dropout)
        self.encoder, self.decoder, self.head = unet.encoder, unet.decoder, unet.segmentation_head
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        self._check(x)
        x = ((x * 128 + 128) / 255 - self.mean) / self.std
        logits: Tensor = self.head(self.decoder(self.encoder(x)))
        return logits


def load_library(user: str) -> Any:
    """Import segmentation-models-pytorch.

    Raises
    ------
    ValueError
        it is not installed; the message has the remedy
    """
    try:
        import segmentation_models_pytorch
    except ModuleNotFoundError:
        raise ValueError(
            f"the encoders of {user} are in the package segmentation-models-pytorch, which is not "
            "installed; pip install -e '.[train]', or use encoder none"
        ) from None
    return segmentation_models_pytorch


def wubineh(**options: Any) -> PlainUNet | EncoderUNet:
    """Build the network with fresh weights; `options` are fields of `WubinehConfig`.

    Raises
    ------
    ValueError
        an option that does not exist or cannot have that value, or a package that is missing

    Examples
    --------
    >>> wubineh(width=4).eval()(torch.zeros(1, 3, 64, 32)).shape
    torch.Size([1, 2, 64, 32])
    """
    config = configure(WubinehConfig(), options)
    return PlainUNet(config) if config.encoder == "none" else EncoderUNet(config)


def sees_all(**options: Any) -> bool:
    """Return whether each result depends on the whole image, so that tiles would show."""
    return configure(WubinehConfig(), options).encoder not in CONTEXT_PX


class JaccardLoss(nn.Module):
    """Jaccard distance: 1 − soft IoU of each class over the batch, their mean without background.

    With one class the softmax over background and class is the paper's sigmoid.
    """

    def forward(
        self,
        logits: Tensor,
        image: Tensor,
        target: Tensor,
        edge_target: Tensor,
        pixel_weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the term by name. Parameters as in `DSSLoss`; unknown pixels do not count."""
        weight = (target >= 0).float()
        if pixel_weight is not None:
            weight = weight * pixel_weight
        probability = logits.float().softmax(1)[:, 1:]
        classes = torch.arange(1, logits.shape[1], device=target.device).view(1, -1, 1, 1)
        true = (target[:, None] == classes).float()
        weight = weight[:, None]
        shared = (weight * probability * true).sum((0, 2, 3))
        both = (weight * (probability + true)).sum((0, 2, 3))
        # 1 px keeps a class that a batch does not have from dividing 0 by 0.
        return {"jaccard": (1 - (shared + 1) / (both - shared + 1)).mean()}
