"""A model as the pipeline sees it, whatever stands behind it; without PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from wsiseg_models.checkpoint import Card, read_card, weights_path
from wsiseg_models.predictions import Instances, Window, paste

__all__ = [
    "Card",
    "Images",
    "Instances",
    "Model",
    "Window",
    "model_from_function",
    "paste",
    "shipped_cards",
]

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Model:
    """What the pipeline needs of a model; exactly one of `predict`, `label`, `detect` is set.

    Attributes
    ----------
    predict
        images uint8 (n, h, w, 3) → class probabilities uint8 (n, classes, h, w), 255 = certain
    core
        where that is cheaper, the same without `halo_px` on each side
    label
        image uint8 (h, w, 3) → label image (h, w), 0 background and one number per object
    detect
        images uint8 (n, h, w, 3) → `Instances` of each image, which may overlap
    mpp
        µm per pixel of the images
    halo_px, stride, tile_px
        context that decides a pixel; multiple that windows start on; default tile
    identity
        tells weights apart: SHA-256 of the checkpoint, or a name
    precision
        of the network's arithmetic, ``float32`` or ``bfloat16``
    at_once, share
        calls of the network that go on at a time; what each thread that makes them does first, to
        keep to its share of the processor
    """

    name: str
    classes: tuple[str, ...]
    mpp: float
    halo_px: int
    stride: int
    tile_px: int
    identity: str
    predict: Callable[[Images], NDArray[np.uint8]] | None = None
    core: Callable[[Images], NDArray[np.uint8]] | None = None
    label: Callable[[Images], NDArray[np.integer]] | None = None
    detect: Callable[[Images], list[Instances]] | None = None
    device: str = "cpu"
    precision: str = "float32"
    at_once: int = 1
    share: Callable[[], None] = lambda: None
    card: Mapping[str, Any] = field(default_factory=dict)


def model_from_function(
    function: Callable[[Images], NDArray[np.integer]],
    *,
    name: str,
    mpp: float,
    classes: Sequence[str] = ("nucleus",),
    halo_px: int = 64,
    tile_px: int = 1024,
) -> Model:
    """A model from a plain function image (h, w, 3) → label image (h, w).

    All objects get the first class. `halo_px` is the context that the function needs, in pixels of
    `mpp`.
    """
    return Model(
        name=name,
        classes=tuple(classes),
        mpp=mpp,
        halo_px=halo_px,
        stride=1,
        tile_px=tile_px,
        identity=name,
        label=function,
    )


def shipped_cards() -> dict[str, Card]:
    """The card of each network that has weights here."""
    return {
        path.stem: read_card(path) for path in sorted(weights_path("").parent.glob("*.safetensors"))
    }
