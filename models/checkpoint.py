"""Checkpoints: safetensors files whose header holds the card (what is needed to use them)."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from .class_names import normal_class
from .files import written_aside
from .pixel_size import MPP_RANGE, is_plausible_mpp

if TYPE_CHECKING:
    import torch

__all__ = [
    "KINDS_END",
    "Card",
    "load_checkpoint",
    "load_torch_file",
    "read_card",
    "save_checkpoint",
    "shipped_models",
    "state_of",
    "weights_path",
]


_MOST_PX = {"halo_px": 1 << 13, "tile_px": 1 << 14, "stride": 1 << 12}
"""Largest values of a card: beyond them one tile would not fit into memory."""
_LEVELS = 1e6
"""Largest distance of mean and std from 0, and of 1 / std."""
KINDS_END = "_kinds"
"""End of the name of weights that sort the objects of another model."""


@dataclass(frozen=True)
class Card:
    """What is needed to use a network, and where it comes from.

    Attributes
    ----------
    name
        architecture, a name of `wsiseg_models.registry.MODELS`
    task
        ``nuclei``: class scores per pixel; ``cells``: instances of cells and nuclei;
        ``boxes``: boxes of any classes; ``kinds``: classes of crops of nuclei
    classes
        object classes, background left out
    mpp
        µm per pixel that the network expects
    halo_px
        context in model pixels; the image farther away does not change a result
    tile_px
        default tile, halo left out
    mean, std
        the network gets ``(image − mean) / std``, image 0 … 255; one number, or one per channel
    rule
        how objects are made of the output: ``threshold``, ``min_score``, ``min_small_score`` and
        ``min_cell_score``, those that differ from the defaults
    options
        keywords of the builder
    stain
        range of the training images' stains, see `wsiseg_models.stain.stain_range`; empty: not
        measured
    data
        training sets with their licences
    licence
        licence of the weights
    training
        settings, steps, time, start weights, device
    metrics
        scores on held-out images
    """

    name: str
    task: str
    classes: tuple[str, ...]
    mpp: float
    halo_px: int
    tile_px: int = 512
    stride: int = 8
    mean: float | tuple[float, ...] = 128.0
    std: float | tuple[float, ...] = 128.0
    rule: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    stain: Mapping[str, Any] = field(default_factory=dict)
    data: tuple[str, ...] = ()
    licence: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    parameters: int = 0
    sha256: str = ""

    def __post_init__(self) -> None:
        self._check_kinds()
        if not is_plausible_mpp(self.mpp):
            raise ValueError(f"mpp must be {MPP_RANGE}, got {self.mpp}")
        if not self.classes:
            raise ValueError("a card without classes; name at least one")
        names = tuple(normal_class(name) for name in self.classes)
        if len(set(names)) < len(names):
            raise ValueError(f"classes {names} have a name twice; rename one")
        object.__setattr__(self, "classes", names)
        if self.halo_px % self.stride or self.halo_px < 0:
            raise ValueError(f"halo_px {self.halo_px} is not a multiple of stride {self.stride}")
        for name, value in (("mean", self.mean), ("std", self.std)):
            if isinstance(value, tuple) and len(value) != 3:
                raise ValueError(
                    f"{name} {value} is neither one number nor three; give one or three"
                )
        if np.min(self.std) < 1 / _LEVELS:
            raise ValueError(f"std {self.std} must be above 0, {1 / _LEVELS:g} at least")

    def _check_kinds(self) -> None:
        """Refuse values of another kind than the card states: a file may hold anything."""
        for name in ("halo_px", "tile_px", "stride"):
            value, least, most = getattr(self, name), int(name != "halo_px"), _MOST_PX[name]
            if type(value) is not int or not least <= value <= most:
                raise ValueError(
                    f"{name} must be a whole number from {least} to {most}, got {value!r}"
                )
        if isinstance(self.mpp, bool) or not isinstance(self.mpp, int | float):
            raise ValueError(f"mpp must be a number, got {self.mpp!r}")
        for name in ("mean", "std"):
            value = getattr(self, name)
            parts = value if isinstance(value, tuple) else (value,)
            numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in parts)
            if not numbers or not all(abs(v) <= _LEVELS for v in parts):
                raise ValueError(
                    f"{name} must be numbers from {-_LEVELS:.0f} to {_LEVELS:.0f}, got {value!r}"
                )
        for name in ("rule", "options", "stain", "training", "metrics"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"{name} must be a mapping, got {getattr(self, name)!r}")
        for name in ("rule", "options"):
            if not _all_finite(getattr(self, name)):
                raise ValueError(f"{name} must have finite numbers, got {getattr(self, name)!r}")
        if not all(isinstance(name, str) for name in (self.name, self.task, *self.classes)):
            raise ValueError("name, task and classes must be texts")
        if not all(isinstance(text, str) for text in (self.licence, *self.data)):
            raise ValueError("licence and data must be texts")
        if type(self.parameters) is not int:
            raise ValueError(f"parameters must be a whole number, got {self.parameters!r}")


def _all_finite(value: Any) -> bool:
    """Return whether no number in a value, in lists and mappings too, is NaN or infinite."""
    if isinstance(value, Mapping):
        return all(_all_finite(v) for v in value.values())
    if isinstance(value, list | tuple):
        return all(_all_finite(v) for v in value)
    return not isinstance(value, float) or math.isfinite(value)


def weights_path(name: str) -> Path:
    """Return the path of the checkpoint that ships for a network."""
    return Path(__file__).parent / "weights" / f"{name}.safetensors"


def shipped_models() -> list[str]:
    """Return the names of the models whose weights ship, sorted; they find objects in images."""
    names = (path.stem for path in weights_path("").parent.glob("*.safetensors"))
    return sorted(name for name in names if not name.endswith(KINDS_END))


def save_checkpoint(
    path: Path, state: Mapping[str, torch.Tensor], card: Card, *, half: bool = False
) -> None:
    """Write weights and card as one safetensors file, aside and then renamed.

    Parameters
    ----------
    half
        write float16, half the size; tensors with values beyond its range stay float32
    """
    from safetensors.torch import save_file

    header = {k: v for k, v in asdict(card).items() if k != "sha256"}
    tensors = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    if half:
        tensors = {k: _half(v) for k, v in tensors.items()}
    with written_aside(path) as aside:
        save_file(tensors, aside, {"card": json.dumps(header)})


def _half(values: torch.Tensor) -> torch.Tensor:
    import torch

    fits = values.is_floating_point() and (values.abs() <= torch.finfo(torch.float16).max).all()
    return values.half() if fits else values


def read_card(path: Path) -> Card:
    """Read the card of a checkpoint file, with the file's SHA-256.

    Raises
    ------
    FileNotFoundError
        no such file
    ValueError
        not safetensors, or a card that is missing or not readable by this version
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such checkpoint; `wsiseg models` lists those that ship"
        )
    try:
        with safe_open(path, "np") as file:
            text = (file.metadata() or {}).get("card")
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a safetensors file ({error}); give a checkpoint that training wrote"
        ) from error
    if text is None:
        raise ValueError(
            f"{path} has no card; save it with wsiseg_models.checkpoint.save_checkpoint"
        )
    try:
        stored = json.loads(text)
        json.dumps(stored, ensure_ascii=False).encode()  # no half of a character: results hold it
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its card is not JSON ({error}); save it again") from error
    if not isinstance(stored, dict):
        raise ValueError(f"{path}: its card is no mapping of names; save it again")
    unknown = set(stored) - {f.name for f in fields(Card)}
    if unknown:
        raise ValueError(f"{path}: card with unknown entries {sorted(unknown)}; update wsiseg")
    for name in ("classes", "data"):
        if not isinstance(stored.setdefault(name, []), list):
            raise ValueError(f"{path}: {name} of its card are no list, but {stored[name]!r}")
        stored[name] = tuple(stored[name])
    for name in ("mean", "std"):
        if isinstance(stored.get(name), list):
            stored[name] = tuple(stored[name])
    try:
        return Card(**stored, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: card cannot be used: {error}") from error


def load_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], Card]:
    """Read weights (float32) and card of a checkpoint file; raises as `read_card`."""
    card = read_card(path)
    with safe_open(path, "pt") as file:
        names = list(file.keys())
        return state_of({k: file.get_tensor(k).float() for k in names}), card


def load_torch_file(path: Path, *, device: str = "cpu") -> Any:
    """Read a file of `torch.save` that holds weights and plain values; nothing in it is run.

    Raises
    ------
    ValueError
        not such a file; the message names it
    """
    from pickle import UnpicklingError

    import torch

    if not path.is_file():
        raise ValueError(f"{path} is no file; give a file of weights")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # on other versions of pickle
            return torch.load(path, map_location=device, weights_only=True)  # noqa: TID251
    except UnpicklingError as error:
        raise ValueError(
            f"{path}: it holds more than weights, for example a whole model; nothing of it was "
            "run; save model.state_dict() alone"
        ) from error
    except MemoryError as error:
        raise ValueError(
            f"{path}: it asks for more memory than there is; is it damaged?"
        ) from error
    except Exception as error:  # damaged pickles raise anything, from IndexError to struct.error
        reason = str(error).splitlines()[0] if str(error) else "it is empty"
        reason = reason if reason.isprintable() else ascii(reason)
        raise ValueError(f"{path}: not a file of weights alone ({reason})") from error


def state_of(content: Any) -> Any:
    """Return the state dict in what a file of weights holds, without the prefixes of wrappers.

    Training programs store it alone or under ``state_dict`` or ``model``; DataParallel puts
    ``module.`` before each name and `torch.compile` ``_orig_mod.``.

    Examples
    --------
    >>> state_of({"state_dict": {"module._orig_mod.conv.weight": 1}})
    {'conv.weight': 1}
    """
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        return content
    for prefix in ("module.", "_orig_mod.") * 2:
        if content and all(name.startswith(prefix) for name in content):
            content = {name.removeprefix(prefix): value for name, value in content.items()}
    return content
