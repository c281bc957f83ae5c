"""Put batch norms into the convolutions before them."""

from __future__ import annotations

from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ["fold_norms"]


def fold_norms(network: nn.Module) -> None:
    """Fold each batch norm that follows a convolution in a `Sequential`, in place.

    The network is put into evaluation mode; it computes the same there.
    """
    network.eval()
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential):
            for (name, layer), (following, norm) in pairwise(list(module.named_children())):
                if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    setattr(module, name, fuse_conv_bn_eval(layer, norm))
                    setattr(module, following, nn.Identity())
