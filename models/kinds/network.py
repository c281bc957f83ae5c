"""KindNet: crops of nuclei → normal, abnormal, leukocyte or other.

Frozen features of a segmentation network's encoder, averaged over the nucleus, the ring around it
and the crop, and a small network on these numbers. A few thousand nuclei are too few to train the
filters of an encoder.

This is no diagnosis. It sorts nuclei by appearance, so that a reader can find the ones to look at.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint import Card, load_checkpoint
from ..norms import fold_norms
from ..semantic.efficientnet_lite import ENCODERS, EfficientNetLite

__all__ = ["KINDS", "SIZES", "TASK", "KindNet", "kindnet", "load_kinds", "network_input"]

KINDS = ("normal", "abnormal", "leukocyte", "other")
"""Classes in the order of the network's output; "other" is what is no nucleus of a cell."""
TASK = "kinds"
"""Task in the card of such a network, see `Card`."""
RING_PX = 6
"""Width of the ring around the nucleus: 3 µm."""
SIZES = 2
"""How many of the features, the last ones, depend on the nucleus's size and shape alone."""


class KindNet(nn.Module):
    """Crops (n, 4, s, s), normalised colours and the nucleus's own mask 0 … 1 → logits (n, kinds).

    s is a multiple of 16. The mask is what tells the nucleus from its neighbours. For each scale of
    the encoder there are the mean and the standard deviation of its features in the nucleus, their
    mean in the ring around it, and their mean over the crop.

    Attributes
    ----------
    encoder
        without batch norms; training leaves it as it is
    shift, scale
        bring features to mean 0 and deviation 1
    head
        features → logits
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, kinds: int, encoder: str, hidden: int) -> None:
        super().__init__()
        self.encoder = EfficientNetLite(encoder)
        fold_norms(self.encoder)
        self.encoder.requires_grad_(False)
        count = 4 * sum(self.encoder.channels) + SIZES
        self.register_buffer("shift", torch.zeros(count))
        self.register_buffer("scale", torch.ones(count))
        self.head = nn.Sequential(
            nn.Dropout(0.3), nn.Linear(count, hidden), nn.ReLU(), nn.Dropout(0.3),
            nn.Linear(hidden, kinds),
        )  # fmt: skip

    def features(self, x: Tensor) -> Tensor:
        """Return the numbers (n, features) that the head gets."""
        colours, mask = x[:, :3].contiguous(memory_format=torch.channels_last), x[:, 3].contiguous()
        own = F.avg_pool2d(mask[:, None], 2)
        wide = F.max_pool2d(own, (RING_PX + 1, 1), 1, (RING_PX // 2, 0))
        wide = F.max_pool2d(wide, (1, RING_PX + 1), 1, (0, RING_PX // 2))
        areas = torch.cat([own, wide - own, torch.ones_like(own)], 1)
        numbers = []
        for maps, stride in zip(self.encoder(colours), self.encoder.strides, strict=True):
            weights = F.avg_pool2d(areas, stride // 2).flatten(2)
            weights = weights / (weights.sum(2, keepdim=True) + 1e-3)
            pixels = maps.permute(0, 2, 3, 1).flatten(1, 2)
            means = weights @ pixels
            square = (weights[:, :1] @ pixels.square())[:, 0]
            spread = (square - means[:, 0].square()).clamp(min=0).sqrt()
            numbers += [means.flatten(1), spread]
        area = mask.sum((1, 2)) + 1
        edges = mask.diff(dim=1).abs().sum((1, 2)) + mask.diff(dim=2).abs().sum((1, 2))
        return torch.cat([*numbers, torch.stack([area.log(), edges / area.sqrt()], 1)], 1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        logits: Tensor = self.head((self.features(x) - self.shift) * self.scale)
        return logits


def kindnet(*, kinds: int = len(KINDS), encoder: str = "lite0", hidden: int = 64) -> KindNet:
    """Build a KindNet with fresh weights.

    Parameters
    ----------
    kinds
        number of classes
    encoder
        one of `ENCODERS`
    hidden
        width of the layer between features and logits

    Raises
    ------
    ValueError
        an encoder that does not exist, fewer than 2 kinds, or a width below 1

    Examples
    --------
    >>> kindnet()(torch.zeros(2, 4, 48, 48)).shape
    torch.Size([2, 4])
    """
    if kinds < 2 or hidden < 1:
        raise ValueError(f"kinds {kinds} and hidden {hidden}: at least 2 and 1")
    if encoder not in ENCODERS:
        raise ValueError(f"encoder {encoder!r}: one of {', '.join(ENCODERS)}")
    return KindNet(kinds, encoder, hidden)


def network_input(crops: Tensor, card: Card) -> Tensor:
    """Return the network's input (n, 4, s, s) of crops uint8 (n, s, s, 4), see `nucleus_crops`."""
    mean, std = (torch.tensor([v] * 3 if isinstance(v, float | int) else v)
                 for v in (card.mean, card.std))  # fmt: skip
    shift, scale = F.pad(mean, (0, 1)), F.pad(1 / std, (0, 1), value=1 / 255)
    n, h, w, c = crops.shape
    rows = crops.reshape(n, h, w * c).float()  # whole rows at once: four numbers a time take long
    rows.sub_(shift.repeat(w).to(crops.device)).mul_(scale.repeat(w).to(crops.device))
    return rows.view(n, h, w, c).permute(0, 3, 1, 2)  # channels last, as they were


def load_kinds(path: Path) -> tuple[KindNet, Card]:
    """Load a checkpoint of a KindNet, ready for inference, with its card.

    Raises
    ------
    FileNotFoundError, ValueError
        as `read_card`; or the file holds another kind of network
    """
    state, card = load_checkpoint(path)
    if card.task != TASK:
        raise ValueError(
            f"{path} is a network for {card.task}, not for kinds of nuclei; "
            "give one that experiments/nucleus_kinds.py wrote"
        )
    network = kindnet(**_options(card.options))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{path}: weights do not fit {card.name}: {reason}") from error
    return network.eval().to(memory_format=torch.channels_last), card


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("kinds", "encoder", "hidden") if name in options}
