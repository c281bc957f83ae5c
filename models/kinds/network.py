"""KindNet: crops of nuclei → normal, abnormal, leukocyte or other.

This is no diagnosis. It sorts nuclei by appearance, so that a reader can find the ones to look at.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint import Card, load_checkpoint
from ..norms import fold_norms

__all__ = ["KINDS", "TASK", "KindNet", "kindnet", "load_kinds", "network_input", "without_norms"]

KINDS = ("normal", "abnormal", "leukocyte", "other")
"""Classes in the order of the network's output; "other" is what is no nucleus of a cell."""
TASK = "kinds"
"""Task in the card of such a network, see `Card`."""


def _conv(cin: int, cout: int, stride: int = 1) -> list[nn.Module]:
    """Return a 3×3 convolution and its batch norm."""
    return [nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout)]


class _Residual(nn.Module):
    """Two 3×3 convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_conv(width, width), nn.ReLU(True), *_conv(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


class KindNet(nn.Module):
    """Crops (n, 4, s, s), normalised colours and the nucleus's own mask 0 … 1 → logits (n, kinds).

    The mask is what tells the nucleus from its neighbours. The head gets the mean of the last
    features over the crop, the mean of earlier ones over the nucleus alone, and the nucleus's area.
    """

    def __init__(self, kinds: int, width: int) -> None:
        super().__init__()
        w1, w2, w3, w4 = width, 2 * width, 4 * width, 6 * width
        relu = nn.ReLU(True)
        self.early = nn.Sequential(
            *_conv(4, w1, 2), relu, *_conv(w1, w2, 2), relu, _Residual(w2),
            *_conv(w2, w3, 2), relu, _Residual(w3),
        )  # fmt: skip
        self.late = nn.Sequential(*_conv(w3, w4, 2), relu)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(w3 + w4 + 1, kinds))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        early = self.early(x)
        mask = F.interpolate(x[:, 3:], size=early.shape[2:], mode="area")
        share = mask.mean((2, 3))
        nucleus = (early * mask).mean((2, 3)) / (share + 1e-3)
        whole = self.late(early).mean((2, 3))
        logits: Tensor = self.head(torch.cat([whole, nucleus, torch.log(share + 1e-3)], 1))
        return logits


def kindnet(*, kinds: int = len(KINDS), width: int = 16) -> KindNet:
    """Build a KindNet with fresh weights.

    Parameters
    ----------
    kinds
        number of classes
    width
        channels of the first convolution; the others are multiples of it

    Raises
    ------
    ValueError
        fewer than 2 kinds, or a width below 1

    Examples
    --------
    >>> kindnet()(torch.zeros(2, 4, 64, 64)).shape
    torch.Size([2, 4])
    """
    if kinds < 2 or width < 1:
        raise ValueError(f"kinds {kinds} and width {width}: at least 2 and 1")
    return KindNet(kinds, width)


def network_input(crops: Tensor, card: Card) -> Tensor:
    """Return the network's input (n, 4, s, s) of crops uint8 (n, s, s, 4), see `nucleus_crops`."""
    mean, std = (torch.tensor([v] * 3 if isinstance(v, float | int) else v)
                 for v in (card.mean, card.std))  # fmt: skip
    shift, scale = F.pad(mean, (0, 1)), F.pad(1 / std, (0, 1), value=1 / 255)
    n, h, w, c = crops.shape
    rows = crops.reshape(n, h, w * c).float()  # whole rows at once: four numbers a time take long
    rows.sub_(shift.repeat(w).to(crops.device)).mul_(scale.repeat(w).to(crops.device))
    return rows.view(n, h, w, c).permute(0, 3, 1, 2)  # channels last, as they were


def without_norms(network: KindNet) -> KindNet:
    """Return a network that computes the same with its batch norms in the convolutions."""
    faster = copy.deepcopy(network)
    fold_norms(faster)
    return faster.to(memory_format=torch.channels_last)


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
    return network.eval(), card


def _options(options: Mapping[str, int]) -> dict[str, int]:
    return {name: int(options[name]) for name in ("kinds", "width") if name in options}
