"""Put batch norms into the convolutions before them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ["fold_norms", "folded_pairs"]


def folded_pairs(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the full names of each convolution in a `Sequential` and the norm that follows it."""
    for outer, module in network.named_modules():
        prefix = f"{outer}." if outer else ""
        if isinstance(module, nn.Sequential):
            for (name, layer), (following, norm) in pairwise(list(module.named_children())):
                if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    yield prefix + name, prefix + following


def fold_norms(network: nn.Module) -> None:
    """Fold each batch norm that follows a convolution in a `Sequential`, in place.

    The network is put into evaluation mode; it computes the same there.
    """
    network.eval()
    for conv, norm in list(folded_pairs(network)):
        outer, _, name = conv.rpartition(".")
        following = norm.rpartition(".")[2]
        module = network.get_submodule(outer)
        layer, after = module.get_submodule(name), module.get_submodule(following)
        assert isinstance(layer, nn.Conv2d) and isinstance(after, nn.BatchNorm2d)
        setattr(module, name, fuse_conv_bn_eval(layer, after))
        setattr(module, following, nn.Identity())
